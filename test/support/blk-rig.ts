/** A virtio-blk queue with a driver's ring in front of it and a channel of the test's choice behind it. */
import { LimitedLog, SILENT } from '../../src/base/log.ts';
import type { BdevDescription, ChannelFactory } from '../../src/bdev/bdev.ts';
import { BdevChannel } from '../../src/bdev/channel.ts';
import { NO_HEAD, type Segment } from '../../src/initiator/driver-ring.ts';
import type { OwnedRegionOptions } from '../../src/initiator/owned-memory.ts';
import { closeFd, createEventFd, readEventFd } from '../../src/sys/events.ts';
import { IovArena } from '../../src/sys/iov-arena.ts';
import type { BlkDeviceParams } from '../../src/vhost/blk-device.ts';
import { BlkQueue } from '../../src/vhost/blk-queue.ts';
import { QUEUE_COUNTERS } from '../../src/vhost/queue-counters.ts';
import { describeBdev, HeldChannel } from './bdev-rig.ts';
import { RingRig } from './split-ring-rig.ts';

const MIB = 1 << 20;
/** What guest memory holds before the device writes it. */
export const UNTOUCHED = 0xcc;

export const RIG_REGIONS: readonly OwnedRegionOptions[] = [
  { guestAddress: 0, sizeBytes: MIB },
  // Adjacent to the first and to each other, at unrelated host addresses.
  { guestAddress: MIB, sizeBytes: MIB },
  { guestAddress: 2 * MIB, sizeBytes: 4 * MIB },
];
/** Guest memory that nobody uses, with a region border in its middle. */
export const DATA = MIB + (MIB >> 1);

export interface BlkRigOptions {
  readonly size?: number;
  readonly hasEventIdx?: boolean;
  readonly base?: number;
  readonly bdev?: Partial<BdevDescription>;
  readonly device?: Partial<BlkDeviceParams>;
  /** Default: a module that holds every request until the test completes it, `rig.module`. */
  readonly factory?: ChannelFactory;
  readonly arena?: IovArena;
  readonly canSleep?: boolean;
  readonly regions?: readonly OwnedRegionOptions[];
}

export interface Completion {
  readonly head: number;
  readonly length: number;
}

export class BlkRig {
  readonly ring: RingRig;
  readonly module = new HeldChannel();
  readonly arena: IovArena;
  readonly channel: BdevChannel;
  readonly queue: BlkQueue;
  readonly device: { -readonly [K in keyof BlkDeviceParams]: BlkDeviceParams[K] };
  readonly counters = new Float64Array(QUEUE_COUNTERS);
  readonly faults: string[] = [];
  readonly callFd = createEventFd();
  readonly errFd = createEventFd();

  constructor(options: BlkRigOptions = {}) {
    const { size = 128, hasEventIdx = false, base = 0 } = options;
    this.ring = new RingRig({ size, hasEventIdx, base, regions: options.regions ?? RIG_REGIONS });
    this.arena = options.arena ?? new IovArena(256, 4);
    const factory = options.factory ?? (() => this.module);
    this.channel = new BdevChannel(describeBdev(options.bdev), factory, { arena: this.arena }, 0);
    this.device = { isReadonly: false, hasRanges: true, isWriteThrough: false, serial: 'SERIAL', ...options.device };
    this.queue = new BlkQueue({
      index: 3,
      ring: this.ring.device,
      memory: this.ring.guest,
      arena: this.arena,
      channel: this.channel,
      device: this.device,
      callFd: this.callFd,
      errFd: this.errFd,
      log: null,
      canSleep: options.canSleep ?? true,
      counters: this.counters,
      faults: new LimitedLog({ ...SILENT, warn: (message) => this.faults.push(message) }, 1000),
    });
  }

  bytes(gpa: number, length: number): Uint8Array {
    return this.ring.memory.read(gpa, length);
  }

  /** Makes a chain available. Returns its head. */
  submit(segments: readonly Segment[]): number {
    const head = this.ring.submit(segments);
    if (head === NO_HEAD) throw new Error('the test has filled its ring');
    return head;
  }

  /** Makes a request in the plain framing: header and data, data and status. Returns its head. */
  request(
    type: number,
    sector: number | bigint,
    parts: { out?: Uint8Array; inBytes?: number; at?: number } = {},
  ): number {
    const { out = new Uint8Array(0), inBytes = 0, at = DATA } = parts;
    const { memory } = this.ring;
    memory.write(at, blkHeader(type, sector));
    memory.write(at + 16, out);
    const data = at + 16 + out.length;
    memory.write(data, new Uint8Array(inBytes + 1).fill(UNTOUCHED));
    const segments: Segment[] = [{ gpa: at, lengthBytes: 16, isWritable: false }];
    if (out.length > 0) segments.push({ gpa: at + 16, lengthBytes: out.length, isWritable: false });
    if (inBytes > 0) segments.push({ gpa: data, lengthBytes: inBytes, isWritable: true });
    segments.push({ gpa: data + inBytes, lengthBytes: 1, isWritable: true });
    return this.submit(segments);
  }

  /** One round of a reactor, without its clock. Returns how many requests were taken. */
  round(): number {
    const taken = this.queue.take();
    this.channel.poll();
    this.queue.publish();
    return taken;
  }

  /** What the driver finds completed, in order. */
  completions(): Completion[] {
    const { driver } = this.ring;
    const found: Completion[] = [];
    for (let head = driver.popUsed(); head !== NO_HEAD; head = driver.popUsed()) {
      found.push({ head, length: driver.usedLen });
      driver.freeChain(head);
    }
    return found;
  }

  /** Carries out one request in the plain framing. Returns status, used length, and what the device wrote as data. */
  perform(type: number, sector: number | bigint, parts: { out?: Uint8Array; inBytes?: number } = {}) {
    this.request(type, sector, parts);
    this.round();
    while (this.module.held.length > 0) this.module.complete();
    this.queue.publish();
    const [completion] = this.completions();
    const data = DATA + 16 + (parts.out?.length ?? 0);
    const inBytes = parts.inBytes ?? 0;
    return {
      status: this.bytes(data + inBytes, 1)[0] as number,
      length: completion?.length ?? -1,
      data: this.bytes(data, inBytes),
    };
  }

  calls(): number {
    return Math.max(0, readEventFd(this.callFd));
  }

  close(): void {
    this.ring.close();
    this.arena.close();
    closeFd(this.callFd);
    closeFd(this.errFd);
  }
}

export function blkHeader(type: number, sector: number | bigint): Uint8Array {
  const header = new Uint8Array(16);
  const view = new DataView(header.buffer);
  view.setUint32(0, type, true);
  view.setBigUint64(8, BigInt(sector), true);
  return header;
}

/** One range of DISCARD or WRITE_ZEROES. */
export function blkRange(sector: number | bigint, sectors: number, flags = 0): Uint8Array {
  const range = new Uint8Array(16);
  const view = new DataView(range.buffer);
  view.setBigUint64(0, BigInt(sector), true);
  view.setUint32(8, sectors, true);
  view.setUint32(12, flags, true);
  return range;
}
