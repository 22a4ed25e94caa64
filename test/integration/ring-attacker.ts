/**
 * A driver that misbehaves on its first queue, over a split or a packed ring, and the descriptor chains that it makes:
 * they loop, lie about lengths and point to where no memory is.
 */
import { deepEqual } from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { DescriptorFlag, type DriverRing, encodeDescriptor } from '../../src/initiator/driver-ring.ts';
import { SplitDriverRing } from '../../src/initiator/split-driver-ring.ts';
import { BlkRequestType } from '../../src/virtio/blk.ts';
import { MIB, pattern, SECTOR, writeAndReadBack } from './blk-case-helpers.ts';
import { type HostileBench, waitUntil } from './hostile-helpers.ts';

const { next, write, indirect } = DescriptorFlag;
const { IN } = BlkRequestType;
/** How long the device may take to react, or not. */
export const REACTION_MS = 60;
export const RING_SIZE = 64;
/** Of the device status. */
export const DRIVER_RUNS = 0x0f;
export const NEEDS_RESET = 0x40;
/** Two regions that touch, and nothing behind the second. */
export const REGIONS = [
  { guestAddress: 0, sizeBytes: 16 * MIB, isGuarded: true },
  { guestAddress: 16 * MIB, sizeBytes: 4 * MIB, isGuarded: true },
];
const MEMORY_END = 20 * MIB;
const NOWHERE = 1024 * MIB;

/** A driver with two queues, and the pieces of a request in its memory. */
export class RingAttacker<R extends DriverRing = DriverRing> {
  readonly disk: BlkInitiator;
  readonly ring: R;
  readonly header: number;
  readonly data: number;
  readonly status: number;
  readonly table: number;

  constructor(disk: BlkInitiator) {
    this.disk = disk;
    this.ring = disk.queue(0).ring as unknown as R;
    // The attacker's completions are nobody's.
    disk.queue(0).pause();
    this.header = disk.memory.allocate(16);
    this.data = disk.memory.allocate(64 * SECTOR, { alignment: 4096 });
    this.status = disk.memory.allocate(1);
    this.table = disk.memory.allocate(16 * 2048);
    this.setHeader(IN, 0n);
  }

  setHeader(type: number, sector: bigint): void {
    const words = this.disk.memory.uint32s(this.header, 4);
    words[0] = type;
    words[2] = Number(sector & 0xffff_ffffn);
    words[3] = Number(sector >> 32n);
  }

  descriptor(index: number, gpa: number, lengthBytes: number, flags: number, link = 0): void {
    this.ring.writeDescriptor(index, gpa, lengthBytes, flags, link);
  }

  /** Descriptors 0, 1, 2: a read of one sector. */
  goodRead(first = 0): void {
    this.descriptor(first, this.header, 16, next, first + 1);
    this.descriptor(first + 1, this.data, SECTOR, next | write, first + 2);
    this.descriptor(first + 2, this.status, 1, write);
  }

  /** Entry of the indirect table. */
  entry(index: number, gpa: number, lengthBytes: number, flags: number, link = 0): void {
    encodeDescriptor(this.disk.memory.uint32s(this.table, 4 * 2048), index, gpa, lengthBytes, flags, link);
  }

  /** Descriptor 0 refers to `lengthBytes` of the table. */
  useTable(lengthBytes: number, flags: number = indirect): void {
    this.descriptor(0, this.table, lengthBytes, flags);
  }

  /** Publishes heads, kicks, and waits until the device answered or had its time. */
  async fire(...heads: number[]): Promise<void> {
    for (const head of heads) this.ring.expose(head);
    await this.publish();
  }

  fireGoodReads(...heads: number[]): Promise<void> {
    this.goodRead();
    return this.fire(...heads);
  }

  async publish(): Promise<void> {
    const { frontend } = this.disk;
    this.ring.publish();
    this.disk.queue(0).kick();
    const deadlineMs = Date.now() + REACTION_MS;
    while (Date.now() < deadlineMs && !frontend.isClosed && !this.#isAnswered()) await sleep(2);
  }

  #isAnswered(): boolean {
    const { ring } = this;
    return ring instanceof SplitDriverRing ? ring.usedIdx() === ring.nextAvail : ring.hasUsed();
  }

  /** The session goes on, and its other queue is served. */
  async othersServed(): Promise<boolean> {
    await writeAndReadBack(this.disk, 64, pattern(4096, 77), 1);
    return !this.disk.frontend.isClosed;
  }

  /**
   * Does what breaks the first queue: it is broken and logged once, and the device needs a reset until it is stopped.
   * Returns the faults of the queues.
   */
  async breakFirstQueue(bench: HostileBench, act: () => unknown): Promise<number[]> {
    const { frontend } = this.disk;
    const logStart = bench.daemon.log.length;
    await frontend.setStatus(DRIVER_RUNS);
    await act();
    let status = 0;
    while (status !== (DRIVER_RUNS | NEEDS_RESET)) {
      // The reactor's word takes its time; a device that never says so is caught by the time limit of the test.
      status = await frontend.getStatus();
      await sleep(5);
    }
    await this.othersServed();
    const [victim] = await bench.daemon.rpc.call('vhost_get_controllers');
    const lines = () => bench.daemon.log.slice(logStart).match(/is broken until it is set up again/g) ?? [];
    await waitUntil('the log says so', () => lines().length > 0);
    deepEqual(lines().length, 1);
    // What is set up again works again, and the device needs no reset any more.
    await frontend.getVringBase(0);
    deepEqual(await frontend.getStatus(), DRIVER_RUNS);
    return victim?.sessions[0]?.queues.map(({ faults }) => faults) ?? [];
  }
}

/** Chains that no driver would make: what each does to an attacker's ring, to be exposed as head 0. */
export const HOSTILE_CHAINS: readonly [string, (attack: RingAttacker) => unknown][] = [
  ['that loops to itself', (a) => a.descriptor(0, a.data, SECTOR, next | write, 0)],
  ['that loops in the middle', (a) => [a.goodRead(), a.descriptor(2, a.status, 1, next | write, 1)]],
  ['of zero-length descriptors that loops', (a) => a.descriptor(0, a.data, 0, next, 0)],
  ['that goes on past the table', (a) => a.descriptor(0, a.header, 16, next, RING_SIZE)],
  ['that goes on at 65535', (a) => a.descriptor(0, a.header, 16, next, 0xffff)],
  ['of one empty descriptor', (a) => a.descriptor(0, a.data, 0, 0)],
  ['of one empty writable descriptor', (a) => a.descriptor(0, a.data, 0, write)],
  ['of an empty descriptor outside the memory', (a) => a.descriptor(0, NOWHERE, 0, write)],
  ['with readable parts behind writable ones', (a) => [a.goodRead(), a.descriptor(2, a.header, 16, 0)]],
  ['that is only writable', (a) => a.descriptor(0, a.data, SECTOR, write)],
  ['that is only readable', (a) => a.descriptor(0, a.header, 16, 0)],
  [
    'with its status in the readable part',
    (a) => [a.goodRead(), a.descriptor(1, a.data, SECTOR, next, 2), a.descriptor(2, a.status, 1, 0)],
  ],
  ['with a header of 15 bytes', (a) => [a.goodRead(), a.descriptor(0, a.header, 15, next, 1)]],
  ['with a header of no bytes', (a) => [a.goodRead(), a.descriptor(0, a.header, 0, next, 1)]],
  ['with its header outside the memory', (a) => [a.goodRead(), a.descriptor(0, NOWHERE, 16, next, 1)]],
  ['with its data outside the memory', (a) => [a.goodRead(), a.descriptor(1, NOWHERE, SECTOR, next | write, 2)]],
  ['with its status outside the memory', (a) => [a.goodRead(), a.descriptor(2, NOWHERE, 1, write)]],
  [
    'with data that runs past the end of the memory',
    (a) => [a.goodRead(), a.descriptor(1, MEMORY_END - 100, SECTOR, next | write, 2)],
  ],
  [
    'with data that ends one byte past the memory',
    (a) => [a.goodRead(), a.descriptor(1, MEMORY_END - SECTOR + 1, SECTOR, next | write, 2)],
  ],
  ['with data of 4 GiB', (a) => [a.goodRead(), a.descriptor(1, a.data, 0xffff_fe00, next | write, 2)]],
  ['with data that runs past 2^64', (a) => [a.goodRead(), a.descriptor(1, 2 ** 64 - 4096, 8192, next | write, 2)]],
  [
    'with data at the top of the address space',
    (a) => [a.goodRead(), a.descriptor(1, 2 ** 64 - 4096, SECTOR, next | write, 2)],
  ],
  ['with data at 2^53 and beyond', (a) => [a.goodRead(), a.descriptor(1, 2 ** 53 + 4096, SECTOR, next | write, 2)]],
  ['with unknown descriptor flags', (a) => [a.goodRead(), a.descriptor(1, a.data, SECTOR, 0xfff8 | next | write, 2)]],
  ['with an indirect table of no bytes', (a) => a.useTable(0)],
  ['with an indirect table of 1 byte', (a) => a.useTable(1)],
  ['with an indirect table that is no multiple of 16 bytes', (a) => a.useTable(40)],
  ['with an indirect table of 4 GiB', (a) => a.useTable(0xffff_fff0)],
  ['with an indirect table outside the memory', (a) => a.descriptor(0, NOWHERE, 48, indirect)],
  [
    'with an indirect table that runs past the end of the memory',
    (a) => a.descriptor(0, MEMORY_END - 16, 48, indirect),
  ],
  ['with an indirect table that runs past 2^64', (a) => a.descriptor(0, 2 ** 64 - 4096, 8192, indirect)],
  [
    'whose table loops',
    (a) => [a.entry(0, a.header, 16, next, 1), a.entry(1, a.data, 512, next | write, 1), a.useTable(48)],
  ],
  ['whose table goes on past its end', (a) => [a.entry(0, a.header, 16, next, 3), a.useTable(48)]],
  ['whose table goes on at 65535', (a) => [a.entry(0, a.header, 16, next, 0xffff), a.useTable(48)]],
  [
    'whose table holds a table',
    (a) => [a.entry(0, a.header, 16, next, 1), a.entry(1, a.table, 48, indirect), a.useTable(48)],
  ],
  ['whose table is itself', (a) => [a.entry(0, a.table, 16, indirect), a.useTable(16)]],
  [
    'with an indirect table that has a next',
    (a) => [a.goodRead(1), a.useTable(48, indirect | next), a.descriptor(0, a.table, 48, indirect | next, 1)],
  ],
  [
    'of 2048 table entries without a byte',
    (a) => {
      for (let i = 0; i < 2048; i++) a.entry(i, a.data, 0, i < 2047 ? next : 0, i + 1);
      a.useTable(16 * 2048);
    },
  ],
  [
    'of 2048 table entries of 4 GiB',
    (a) => {
      for (let i = 0; i < 2048; i++) a.entry(i, 0, 0xffff_ffff, (i < 2047 ? next : 0) | write, i + 1);
      a.useTable(16 * 2048);
    },
  ],
  [
    'whose data is the rings themselves',
    (a) => {
      a.setHeader(IN, 0n);
      a.goodRead();
      a.descriptor(1, a.ring.descriptorAddress, SECTOR, next | write, 2);
    },
  ],
  ['whose data is the used ring', (a) => [a.goodRead(), a.descriptor(1, a.ring.usedAddress, SECTOR, next | write, 2)]],
  ['whose status is the header', (a) => [a.goodRead(), a.descriptor(2, a.header, 1, write)]],
];
