import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { describeBdev, HeldChannel } from '../../test/support/bdev-rig.ts';
import { QueueRig } from '../../test/support/queue-rig.ts';
import { turns } from '../../test/support/waiting.ts';
import { REMOVAL_DRAIN_MS_MAX, REMOVAL_MS_MAX } from '../base/limits.ts';
import { IoStatus } from '../bdev/bdev-io.ts';
import { BdevChannel } from '../bdev/channel.ts';
import { encodeTmf } from '../initiator/scsi-request.ts';
import { BouncePool } from '../scsi/bounce-pool.ts';
import { Sense } from '../scsi/sense.ts';
import { IovArena } from '../sys/iov-arena.ts';
import {
  encodeLun,
  SCSI_REQUEST_BYTES,
  SCSI_RESPONSE_BYTES,
  ScsiEventType,
  ScsiRequestOffset,
  ScsiResetReason,
  ScsiResponse,
  ScsiTmf,
} from '../virtio/scsi.ts';
import { ScsiControlQueue } from './scsi-control-queue.ts';
import { ScsiDevice } from './scsi-device.ts';
import { ScsiQueue } from './scsi-queue.ts';

const BLOCK_BYTES = 512;
const IDENTITY = {
  vendor: 'ACME',
  productName: 'Disk',
  serial: '1',
  uuid: '00112233-4455-4677-8899-aabbccddeeff',
  physicalBlockSizeBytes: BLOCK_BYTES,
  isReadonly: false,
  isRemovable: false,
};

const closing: { close(): void }[] = [];
afterEach(() => {
  for (const one of closing.splice(0)) one.close();
});

/** A controller with a disk whose requests the test completes, as target 1. */
function createRig() {
  const arena = new IovArena(64, 2);
  const held = new HeldChannel();
  const bdev = describeBdev();
  const channel = new BdevChannel(bdev, () => held, { arena }, 0);
  const released: string[] = [];
  const channels = { take: () => channel, release: ({ name }: BdevChannel) => void released.push(name) };
  const device = new ScsiDevice({ channels, bounce: new BouncePool(arena) });
  device.hasHotplug = true;
  device.hasChange = true;
  const requests = new QueueRig((options) => new ScsiQueue({ ...options, device }), { arena });
  const control = new QueueRig((options) => new ScsiControlQueue({ ...options, device }));
  device.queues.add(requests.queue);
  closing.push(requests, control);
  device.addLun(1, 0, bdev, IDENTITY);
  const rig = { device, held, released, requests, control };
  // POWER ON
  send(rig, [0], 0);
  requests.receive();
  return rig;
}

type Rig = ReturnType<typeof createRig>;

function send(
  { requests }: Pick<Rig, 'requests'>,
  cdb: number[],
  inBytes: number,
  tag = 1,
  attribute = 0,
  target = 1,
): void {
  const request = new Uint8Array(SCSI_REQUEST_BYTES);
  encodeLun(request, 0, target, 0);
  request[ScsiRequestOffset.tag] = tag;
  request[ScsiRequestOffset.attribute] = attribute;
  request.set(cdb, ScsiRequestOffset.cdb);
  requests.send(request, [SCSI_REQUEST_BYTES], [SCSI_RESPONSE_BYTES + inBytes]);
  requests.poll();
}

const read = (rig: Rig, tag = 1): void => send(rig, [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], BLOCK_BYTES, tag);

function manage({ control }: Rig, subtype: number, tag = 1n): void {
  control.send(encodeTmf(subtype, { target: 1 }, tag), [24], [1]);
  control.poll();
}

/** Response of the next command that ended, or null. */
function ended({ requests }: Rig): number | null {
  requests.queue.publish();
  return requests.receive()?.writable[11] ?? null;
}

/** Response of the next task management function that ended, or null. */
function managed({ control }: Rig): number | null {
  control.queue.publish();
  return control.receive()?.writable[0] ?? null;
}

describe('task management of a device', () => {
  test.each([
    ['ABORT TASK', ScsiTmf.ABORT_TASK, ScsiResponse.ABORTED],
    ['ABORT TASK SET', ScsiTmf.ABORT_TASK_SET, ScsiResponse.ABORTED],
    ['CLEAR TASK SET', ScsiTmf.CLEAR_TASK_SET, ScsiResponse.ABORTED],
    ['LOGICAL UNIT RESET', ScsiTmf.LOGICAL_UNIT_RESET, ScsiResponse.RESET],
    ['I_T NEXUS RESET', ScsiTmf.I_T_NEXUS_RESET, ScsiResponse.RESET],
  ])('%s is answered after the command that it ends', (_name, subtype, response) => {
    const rig = createRig();
    read(rig);
    manage(rig, subtype);
    expect([ended(rig), managed(rig)]).toEqual([null, null]);
    rig.held.complete();
    expect([ended(rig), managed(rig)]).toEqual([response, ScsiResponse.OK]);
  });

  test('ABORT TASK leaves other tasks alone', () => {
    const rig = createRig();
    read(rig, 1);
    read(rig, 2);
    manage(rig, ScsiTmf.ABORT_TASK, 2n);
    rig.held.complete(IoStatus.success, 1);
    expect([ended(rig), managed(rig)]).toEqual([ScsiResponse.ABORTED, ScsiResponse.OK]);
    rig.held.complete();
    expect(ended(rig)).toBe(ScsiResponse.OK);
  });

  test('queries say whether the task is there', () => {
    const rig = createRig();
    read(rig, 5);
    manage(rig, ScsiTmf.QUERY_TASK, 5n);
    expect(managed(rig)).toBe(ScsiResponse.FUNCTION_SUCCEEDED);
    manage(rig, ScsiTmf.QUERY_TASK, 6n);
    expect(managed(rig)).toBe(ScsiResponse.OK);
    manage(rig, ScsiTmf.QUERY_TASK_SET);
    expect(managed(rig)).toBe(ScsiResponse.FUNCTION_SUCCEEDED);
    rig.held.complete();
    expect(ended(rig)).toBe(ScsiResponse.OK);
  });

  test('a task that waits behind an ordered one is ended at once', () => {
    const rig = createRig();
    send(rig, [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], BLOCK_BYTES, 1, 1);
    read(rig, 2);
    expect(rig.held.held).toHaveLength(1);
    manage(rig, ScsiTmf.ABORT_TASK, 2n);
    expect([ended(rig), managed(rig)]).toEqual([ScsiResponse.ABORTED, ScsiResponse.OK]);
    rig.held.complete();
    expect(ended(rig)).toBe(ScsiResponse.OK);
  });
});

describe('a LUN that goes', () => {
  test('refuses new commands, finishes those in flight, and only then gives its channel back', async () => {
    const rig = createRig();
    rig.device.events.clear();
    read(rig);
    let isGone = false;
    void rig.device.removeLun(1, 0).then(() => (isGone = true));
    read(rig, 2);
    expect(ended(rig)).toBe(ScsiResponse.BAD_TARGET);
    const event = new Uint8Array(16);
    expect(rig.device.events.count).toBe(1);
    rig.device.events.take(event);
    expect([event[0], event[5], event[12]]).toEqual([ScsiEventType.TRANSPORT_RESET, 1, ScsiResetReason.REMOVED]);
    await turns();
    expect([isGone, rig.released]).toEqual([false, []]);
    rig.held.complete();
    expect(ended(rig)).toBe(ScsiResponse.OK);
    await turns();
    expect([isGone, rig.released]).toEqual([true, ['Test0']]);
  });

  test('answers task management when its commands have ended', async () => {
    const rig = createRig();
    read(rig);
    const gone = rig.device.removeLun(1, 0);
    manage(rig, ScsiTmf.ABORT_TASK);
    manage(rig, ScsiTmf.LOGICAL_UNIT_RESET);
    await turns();
    expect([ended(rig), managed(rig)]).toEqual([null, null]);
    manage(rig, ScsiTmf.QUERY_TASK);
    expect(managed(rig)).toBe(ScsiResponse.BAD_TARGET);
    rig.held.complete();
    await gone;
    await turns();
    expect([ended(rig), managed(rig), managed(rig)]).toEqual([
      ScsiResponse.OK,
      ScsiResponse.BAD_TARGET,
      ScsiResponse.BAD_TARGET,
    ]);
  });

  describe('with a bdev that hangs', () => {
    beforeEach(() => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    });
    afterEach(() => {
      vi.useRealTimers();
    });

    test('lets commands end by themselves for a while, and then aborts them', async () => {
      const rig = createRig();
      read(rig);
      read(rig, 2);
      const gone = rig.device.removeLun(1, 0);
      rig.held.complete(IoStatus.success, 0);
      expect(ended(rig)).toBe(ScsiResponse.OK);
      await vi.advanceTimersByTimeAsync(REMOVAL_DRAIN_MS_MAX);
      expect([ended(rig), rig.released]).toEqual([null, []]);
      rig.held.complete();
      await gone;
      expect([ended(rig), rig.released]).toEqual([ScsiResponse.ABORTED, ['Test0']]);
    });

    test('keeps the buffers of a command, and its place in the ring, until the bdev is done with them', async () => {
      const rig = createRig();
      read(rig);
      const [io] = rig.held.held;
      const [list, count] = [io?.iovFirst, io?.iovCount];
      const gone = rig.device.removeLun(1, 0);
      await vi.advanceTimersByTimeAsync(100 * REMOVAL_MS_MAX);
      let isStopped = false;
      void rig.requests.queue.stop().then(() => (isStopped = true));
      await turns();
      expect([ended(rig), isStopped, rig.released, rig.held.closes]).toEqual([null, false, [], 0]);
      expect([io?.iovFirst, io?.iovCount, rig.requests.ring.device.inFlightCount]).toEqual([list, count, 1]);
      rig.held.complete();
      await gone;
      expect(ended(rig)).toBe(ScsiResponse.ABORTED);
      await turns();
      expect([isStopped, rig.released]).toEqual([true, ['Test0']]);
    });

    test('does not hold up another LUN', async () => {
      const rig = createRig();
      rig.device.addLun(2, 0, describeBdev(), IDENTITY);
      read(rig);
      void rig.device.removeLun(1, 0);
      await vi.advanceTimersByTimeAsync(REMOVAL_MS_MAX);
      send(rig, [0], 0, 3, 0, 2);
      expect(ended(rig)).toBe(ScsiResponse.OK);
      rig.held.complete();
    });
  });

  test('can be added again while its last command is still in flight', async () => {
    const rig = createRig();
    read(rig);
    const gone = rig.device.removeLun(1, 0);
    rig.device.addLun(1, 0, describeBdev(), IDENTITY);
    rig.held.complete();
    await gone;
    expect(ended(rig)).toBe(ScsiResponse.OK);
    expect(rig.device.target(1)?.hasLun(0)).toBe(true);
  });
});

describe('a device', () => {
  test('knows what the one before it knew, and nothing else', () => {
    const before = createRig();
    const unit = before.device.target(1)?.lun(0);
    unit?.reservations.register(0, 0x0102_0304, 0x0506_0708);
    unit?.modes.find(0x0a)?.current.set([0x04], 2);
    unit?.raise(Sense.capacityChanged);
    if (unit !== undefined) unit.isEjected = true;
    before.device.events.clear();
    before.device.lunChanged(1, 0);
    const record = JSON.parse(JSON.stringify(before.device.save())) as ReturnType<typeof before.device.save>;
    const after = createRig();
    after.device.load(record);
    expect(after.device.save()).toEqual(record);
    const same = after.device.target(1)?.lun(0);
    expect(same?.reservations.find(0)).toMatchObject({ keyHigh: 0x0102_0304, keyLow: 0x0506_0708 });
    expect([same?.modes.isDescriptorSense, same?.isEjected]).toEqual([true, true]);
    // Not its own power-on.
    expect([same?.attentions.take(0), same?.attentions.take(0)]).toEqual([Sense.capacityChanged, Sense.none]);
    expect(after.device.events.count).toBe(1);
  });

  test('tells nothing that its driver does not understand', () => {
    const { device } = createRig();
    device.newSession();
    device.lunChanged(1, 0);
    device.addLun(1, 1, describeBdev(), IDENTITY);
    expect(device.events.count).toBe(0);
  });
});
