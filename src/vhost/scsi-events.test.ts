import { afterEach, describe, expect, test } from 'vitest';
import { QueueRig } from '../../test/support/queue-rig.ts';
import { SCSI_EVENT_BYTES, SCSI_EVENTS_MISSED, ScsiEventType, ScsiResetReason } from '../virtio/scsi.ts';
import { ScsiEventQueue } from './scsi-event-queue.ts';
import { EVENTS_PENDING_MAX, ScsiEvents } from './scsi-events.ts';

const rigs: { close(): void }[] = [];
afterEach(() => {
  for (const rig of rigs.splice(0)) rig.close();
});

function createRig(): { rig: QueueRig<ScsiEventQueue>; events: ScsiEvents } {
  const events = new ScsiEvents();
  const rig = new QueueRig((options) => new ScsiEventQueue({ ...options, events }), { size: 32 });
  rigs.push(rig);
  return { rig, events };
}

const rescan = (target: number) => ({
  type: ScsiEventType.TRANSPORT_RESET,
  target,
  lun: 0,
  reason: ScsiResetReason.RESCAN,
});

const NOTHING = new Uint8Array(0);

describe('the event queue', () => {
  test('leaves buffers in the ring until there is an event', () => {
    const { rig, events } = createRig();
    rig.send(NOTHING, [], [SCSI_EVENT_BYTES]);
    rig.poll();
    expect([rig.receive(), rig.ring.device.inFlightCount, rig.queue.isBusy]).toEqual([null, 0, false]);
    expect(rig.queue.arm()).toBe(false);
    events.add(rescan(3));
    rig.poll();
    const answer = rig.receive();
    expect(answer?.usedLen).toBe(SCSI_EVENT_BYTES);
    expect([...(answer?.writable ?? [])]).toEqual([1, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
  });

  test('keeps events in their order until buffers come, and says so when it is woken', () => {
    const { rig, events } = createRig();
    let wakes = 0;
    events.onPending = () => wakes++;
    events.add(rescan(1));
    events.add(rescan(2));
    rig.poll();
    expect(rig.receive()).toBe(null);
    rig.send(NOTHING, [], [7, 9, 4]);
    rig.send(NOTHING, [], [SCSI_EVENT_BYTES]);
    expect(rig.queue.arm()).toBe(true);
    rig.poll();
    expect([rig.receive()?.writable[5], rig.receive()?.writable[5], wakes]).toEqual([1, 2, 2]);
  });

  test('says in the next event that others were lost', () => {
    const { rig, events } = createRig();
    for (let i = 0; i < EVENTS_PENDING_MAX + 2; i++) events.add(rescan(i));
    expect(events.count).toBe(EVENTS_PENDING_MAX);
    for (let i = 0; i < 2; i++) rig.send(NOTHING, [], [SCSI_EVENT_BYTES]);
    rig.poll();
    const typeOf = (bytes: Uint8Array): number => new DataView(bytes.buffer).getUint32(0, true);
    expect(typeOf(rig.receive()?.writable ?? NOTHING)).toBe(SCSI_EVENTS_MISSED + ScsiEventType.TRANSPORT_RESET);
    expect(typeOf(rig.receive()?.writable ?? NOTHING)).toBe(ScsiEventType.TRANSPORT_RESET);
  });

  test('gives back a buffer that is too short, and keeps the event', () => {
    const { rig, events } = createRig();
    events.add(rescan(1));
    rig.send(NOTHING, [], [SCSI_EVENT_BYTES - 1]);
    rig.send(NOTHING, [], [SCSI_EVENT_BYTES]);
    rig.poll();
    expect([rig.receive()?.usedLen, rig.receive()?.usedLen]).toEqual([0, SCSI_EVENT_BYTES]);
  });

  test('forgets what an older driver was to be told', () => {
    const { rig, events } = createRig();
    events.add(rescan(1));
    events.clear();
    rig.send(NOTHING, [], [SCSI_EVENT_BYTES]);
    rig.poll();
    expect(rig.receive()).toBe(null);
  });
});
