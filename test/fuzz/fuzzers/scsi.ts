/**
 * virtio-scsi: commands, task management and event buffers of any content in any framing, over a target with two LUNs,
 * some of them changed by another thread while they are carried out.
 */
import { ok } from 'node:assert/strict';
import * as fc from 'fast-check';
import { BdevChannel } from '../../../src/bdev/channel.ts';
import { MallocChannel } from '../../../src/bdev/modules/malloc/malloc-channel.ts';
import { BouncePool } from '../../../src/scsi/bounce-pool.ts';
import { IovArena } from '../../../src/sys/iov-arena.ts';
import { Mapping } from '../../../src/sys/mapping.ts';
import type { QueueOptions, RequestQueue } from '../../../src/vhost/request-queue.ts';
import { ScsiControlQueue } from '../../../src/vhost/scsi-control-queue.ts';
import { ScsiDevice } from '../../../src/vhost/scsi-device.ts';
import { ScsiEventQueue } from '../../../src/vhost/scsi-event-queue.ts';
import { ScsiQueue } from '../../../src/vhost/scsi-queue.ts';
import {
  encodeLun,
  SCSI_AN_BYTES,
  SCSI_REQUEST_BYTES,
  SCSI_RESPONSE_BYTES,
  SCSI_TMF_BYTES,
  ScsiControlType,
  ScsiRequestOffset,
  ScsiTmfOffset,
} from '../../../src/virtio/scsi.ts';
import { ALL_IO_TYPES, describeBdev } from '../../support/bdev-rig.ts';
import { QueueRig } from '../../support/queue-rig.ts';
import { RIG_GUEST_ADDRESS } from '../../support/ring-rig.ts';
import { type CdbRequest, cdbRequests } from '../cdb-case.ts';
import { defineFuzzer, type FuzzTarget } from '../fuzzer.ts';
import { CHANGED_BYTES, REGIONS } from '../hostile-ring.ts';
import { type ChainShape, chainShapes, QueueCase, REQUESTS_MAX } from '../queue-case.ts';
import { RingMutator } from '../ring-mutator.ts';

const BLOCKS = 300;
const BLOCK_BYTES = 512;
const DATA_BYTES_MAX = 3500;
const ROUNDS = 40;
const TARGET = 4;
const IDENTITY = {
  vendor: 'FUZZ',
  productName: 'Fuzz disk',
  serial: 'F1',
  uuid: '12345678-9abc-4def-8123-456789abcdef',
  physicalBlockSizeBytes: BLOCK_BYTES,
  isReadonly: false,
  isRemovable: true,
};

interface Command {
  readonly request: CdbRequest;
  readonly target: number;
  readonly lun: number;
  readonly tag: number;
  readonly attribute: number;
  readonly shape: ChainShape;
}

interface Control {
  readonly type: number;
  readonly subtype: number;
  readonly target: number;
  readonly lun: number;
  readonly tag: number;
  readonly room: number;
  readonly shape: ChainShape;
}

type Case = { readonly changes: number } & (
  | { readonly queue: 'request'; readonly commands: readonly Command[] }
  | { readonly queue: 'control'; readonly controls: readonly Control[] }
  | { readonly queue: 'event'; readonly rooms: readonly (readonly [room: number, shape: ChainShape])[] }
);

const target = fc.oneof({ weight: 8, arbitrary: fc.constant(TARGET) }, { weight: 1, arbitrary: fc.nat(255) });
const lun = fc.constantFrom(0, 0, 0, 1, 5, 16_383);
const tag = fc.nat(3);
const changes = fc.oneof(
  { weight: 7, arbitrary: fc.constant(0) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 2 ** 31 - 1 }) },
);
const listOf = <T>(one: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(one, { minLength: 1, maxLength: REQUESTS_MAX });

const requestCase = fc.record({
  queue: fc.constant('request' as const),
  changes,
  commands: listOf(
    fc.record({
      request: cdbRequests,
      target,
      lun,
      tag,
      attribute: fc.constantFrom(0, 0, 0, 1, 2, 3, 255),
      shape: chainShapes,
    }),
  ),
});
const controlCase = fc.record({
  queue: fc.constant('control' as const),
  changes,
  controls: listOf(
    fc.record({
      type: fc.oneof(fc.nat(3), fc.nat(0xffff_ffff)),
      subtype: fc.oneof(fc.nat(9), fc.nat(0xffff_ffff)),
      target,
      lun,
      tag,
      room: fc.nat(8),
      shape: chainShapes,
    }),
  ),
});
const eventCase = fc.record({
  queue: fc.constant('event' as const),
  changes,
  rooms: listOf(fc.tuple(fc.nat(40), chainShapes)),
});

class ScsiFuzzTarget implements FuzzTarget<Case> {
  readonly counts: Record<string, number> = { requests: 0 };
  readonly #mutator = new RingMutator();
  readonly #disk = Mapping.anonymous(BLOCKS * BLOCK_BYTES);

  attempt(one: Case): void {
    const arena = new IovArena(64, 4);
    const bounce = new BouncePool(arena, 2, 128 << 10);
    const description = describeBdev({
      blockCount: BLOCKS,
      hasWriteCache: true,
      params: { address: this.#disk.address },
      ioTypes: ALL_IO_TYPES,
    });
    const factory = (bdev: typeof description) => new MallocChannel(bdev, { arena });
    const channel = new BdevChannel(description, factory, { arena }, 0);
    const device = new ScsiDevice({ channels: { take: () => channel, release: () => {} }, bounce });
    device.newSession();
    device.hasHotplug = true;
    device.addLun(TARGET, 0, description, IDENTITY);
    device.addLun(TARGET, 1, description, IDENTITY);
    const rig = new QueueRig<RequestQueue>((options) => createQueue(one.queue, options, device), {
      size: 64,
      regions: REGIONS,
      arena,
    });
    const round = (): void => {
      rig.queue.take();
      channel.poll();
      rig.queue.publish();
    };
    try {
      this.#carryOut(one, rig, round);
      channel.close();
    } finally {
      bounce.close();
      rig.close();
    }
  }

  async close(): Promise<void> {
    this.counts['changes from another thread'] = this.#mutator.changes;
    await this.#mutator.close();
    this.#disk.close();
  }

  #carryOut(one: Case, rig: QueueRig<RequestQueue>, round: () => void): void {
    const sent = new QueueCase(rig.ring);
    rig.ring.driver.reset();
    const chains = chainsOf(one);
    for (const [out, room, shape] of chains) sent.submit(out, room, shape);
    this.counts['requests'] = (this.counts['requests'] ?? 0) + chains.length;
    const rounds = (): void => {
      for (let i = 0; i < ROUNDS; i++) round();
    };
    if (one.changes === 0) {
      sent.checkUntouched(rounds);
      const left = sent.collect();
      // Buffers for events stay until there is one.
      ok(left === 0 || rig.ring.device.fault !== 0 || one.queue === 'event', 'every request is answered');
    } else {
      this.#mutator.start(one.changes, rig.ring.memory.userAddressOf(RIG_GUEST_ADDRESS), CHANGED_BYTES);
      try {
        rounds();
      } finally {
        this.#mutator.stop();
      }
    }
    rounds();
    ok(rig.ring.device.inFlightCount === 0, 'nothing stays in flight');
  }
}

function createQueue(kind: Case['queue'], options: QueueOptions, device: ScsiDevice): RequestQueue {
  if (kind === 'control') return new ScsiControlQueue({ ...options, device });
  if (kind === 'event') return new ScsiEventQueue({ ...options, events: device.events });
  const queue = new ScsiQueue({ ...options, device });
  device.queues.add(queue);
  return queue;
}

/** What the device reads, how much room it has, and how both are cut. */
function chainsOf(one: Case): readonly (readonly [Uint8Array, number, ChainShape])[] {
  if (one.queue === 'event') return one.rooms.map(([room, shape]) => [new Uint8Array(0), room, shape]);
  if (one.queue === 'control')
    return one.controls.map((control) => [controlBytes(control), control.room, control.shape]);
  return one.commands.map(({ request, shape, ...address }) => {
    const header = new Uint8Array(SCSI_REQUEST_BYTES);
    encodeLun(header, ScsiRequestOffset.lun, address.target, address.lun);
    header[ScsiRequestOffset.tag] = address.tag;
    header[ScsiRequestOffset.attribute] = address.attribute;
    header.set(request.cdb, ScsiRequestOffset.cdb);
    const { dataOut } = request;
    const out = new Uint8Array(Math.min(dataOut?.size ?? 0, DATA_BYTES_MAX)).fill(dataOut?.fill ?? 0);
    out.set((dataOut?.head ?? []).slice(0, out.length));
    const room = SCSI_RESPONSE_BYTES + (dataOut === null ? Math.min(request.dataIn, DATA_BYTES_MAX) : 0);
    return [Buffer.concat([header, out]), room, shape];
  });
}

function controlBytes({ type, subtype, target: number, lun: unit, tag: id }: Control): Uint8Array {
  const bytes = new Uint8Array(type === ScsiControlType.TMF ? SCSI_TMF_BYTES : SCSI_AN_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(ScsiTmfOffset.type, type, true);
  view.setUint32(ScsiTmfOffset.subtype, subtype, true);
  if (type !== ScsiControlType.TMF) return bytes;
  encodeLun(bytes, ScsiTmfOffset.lun, number, unit);
  bytes[ScsiTmfOffset.tag] = id;
  return bytes;
}

export const scsi = defineFuzzer<Case>({
  name: 'scsi',
  purpose: 'virtio-scsi commands, task management and event buffers of any content, cut anywhere',
  cases: fc.oneof({ weight: 6, arbitrary: requestCase }, { weight: 2, arbitrary: controlCase }, eventCase),
  open: () => new ScsiFuzzTarget(),
});
