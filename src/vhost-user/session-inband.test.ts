/** What a session does besides the plain protocol: in-band notifications, the device status, rings of other layouts. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import {
  EVENT_IDX_BIT,
  INBAND_BIT,
  memoryTable,
  PROTOCOL_FEATURES,
  PROTOCOL_FEATURES_BIT,
  SessionRig,
  vringAddr,
  vringState,
} from '../../test/support/session-rig.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { MessageReader, type RawMessage } from '../initiator/message-reader.ts';
import { OwnedMemory } from '../initiator/owned-memory.ts';
import { closeFd, createEventFd, readEventFd, signalEventFd } from '../sys/events.ts';
import { socketPair } from '../sys/socket.ts';
import { VirtioFeature } from '../virtio/features.ts';
import { NO_FD } from './device.ts';
import { encodeU64, maskOf, ProtocolFeature, VRING_NO_FD, VringState } from './messages.ts';

const PAGE = 4096;
const INBAND = PROTOCOL_FEATURES | INBAND_BIT;

let rig: SessionRig;
let memory: OwnedMemory;
let fdsBefore = 0;

beforeEach(async () => {
  await turns();
  fdsBefore = openFdCount();
  memory = OwnedMemory.single(64 * PAGE, 0);
});

afterEach(async () => {
  await rig.close();
  memory.close();
  await until(() => openFdCount() === fdsBefore, 'end without a descriptor left over');
});

/** Ring 0 as a front-end sets it up that gives no descriptors. */
async function startRing(size = 128): Promise<void> {
  await rig.accept('SET_MEM_TABLE', memoryTable(memory), [memory.regions[0]?.fd as number]);
  await rig.accept('SET_VRING_NUM', vringState(0, size));
  await rig.accept('SET_VRING_ADDR', vringAddr(memory, 0));
  await rig.accept('SET_VRING_ERR', encodeU64(0 | VRING_NO_FD));
  await rig.accept('SET_VRING_CALL', encodeU64(0 | VRING_NO_FD));
  await rig.accept('SET_VRING_KICK', encodeU64(0 | VRING_NO_FD));
  await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
}

function started() {
  const vring = rig.device.running.get(0);
  assert.ok(vring !== undefined, 'ring 0 runs');
  return vring;
}

describe('in-band notifications', () => {
  it.each(['BACKEND_REQ', 'REPLY_ACK'] as const)('are refused without %s', async (missing) => {
    rig = new SessionRig();
    rig.send('SET_PROTOCOL_FEATURES', encodeU64(INBAND & ~maskOf(ProtocolFeature[missing])));
    expect(await rig.disconnection()).toContain('INBAND_NOTIFICATIONS needs BACKEND_REQ and REPLY_ACK');
  });

  it('are not meant by a missing descriptor unless they were negotiated', async () => {
    rig = await SessionRig.negotiated();
    await startRing();
    expect([started().kickFd, started().callFd, started().errFd]).toEqual([NO_FD, NO_FD, NO_FD]);
  });

  it('kick a ring as its descriptor would, and no other', async () => {
    rig = await SessionRig.negotiated(EVENT_IDX_BIT | PROTOCOL_FEATURES_BIT, INBAND);
    await startRing();
    const { kickFd } = started();
    await rig.accept('VRING_KICK', vringState(1, 0));
    expect(readEventFd(kickFd)).toBeLessThan(0);
    await rig.accept('VRING_KICK', vringState(0, 0));
    await rig.accept('VRING_KICK', vringState(0, 0));
    expect(readEventFd(kickFd)).toBe(2);
    expect(await rig.refusal('VRING_KICK', vringState(4, 0))).toContain('there is no queue 4');
  });

  it('call the driver, and tell it of a broken ring, by messages', async () => {
    rig = await SessionRig.negotiated(EVENT_IDX_BIT | PROTOCOL_FEATURES_BIT, INBAND);
    const [own, peer] = socketPair();
    await rig.accept('SET_BACKEND_REQ_FD', undefined, [peer]);
    closeFd(peer);
    const reader = new MessageReader(own);
    const received: RawMessage[] = [];
    const receive = async (count: number): Promise<unknown[]> => {
      await until(() => {
        for (let next = reader.read(); next.kind === 'message'; next = reader.read()) received.push(next.message);
        return received.length >= count;
      }, 'message of the back-end');
      return received.splice(0).map(({ request, flags, payload }) => [request, flags, VringState.decode(payload)]);
    };
    await startRing();
    // It looks again when its ring starts.
    expect(await receive(1)).toEqual([[4, 1, { index: 0, num: 0 }]]);
    signalEventFd(started().callFd);
    expect(await receive(1)).toEqual([[4, 1, { index: 0, num: 0 }]]);
    signalEventFd(started().errFd);
    expect(await receive(1)).toEqual([[5, 1, { index: 0, num: 0 }]]);
    closeFd(own);
  });

  it('give way to a descriptor that comes, and come back when it goes', async () => {
    rig = await SessionRig.negotiated(EVENT_IDX_BIT | PROTOCOL_FEATURES_BIT, INBAND);
    await startRing();
    const before = started().kickFd;
    const fd = createEventFd();
    await rig.accept('SET_VRING_KICK', encodeU64(0), [fd]);
    closeFd(fd);
    expect(started().kickFd).not.toBe(before);
    await rig.accept('SET_VRING_KICK', encodeU64(0 | VRING_NO_FD));
    expect(started().kickFd).toBe(before);
    await rig.accept('RESET_DEVICE');
    expect(rig.device.running.size).toBe(0);
  });
});

describe('the device status', () => {
  it('is what the front-end said last', async () => {
    rig = await SessionRig.negotiated();
    expect(await rig.askU64('GET_STATUS')).toBe(0n);
    for (const status of [1, 3, 11, 15, 0x80]) {
      await rig.accept('SET_STATUS', encodeU64(status));
      expect(await rig.askU64('GET_STATUS')).toBe(BigInt(status));
    }
    await rig.accept('RESET_DEVICE');
    expect(await rig.askU64('GET_STATUS')).toBe(0n);
  });

  it('of 0 stops the rings, which begin anew, and resets the device', async () => {
    rig = await SessionRig.negotiated();
    await startRing();
    rig.device.base.set(0, 77);
    await rig.accept('SET_STATUS', encodeU64(15));
    expect(rig.device.running.size).toBe(1);
    await rig.accept('SET_STATUS', encodeU64(0));
    expect(rig.device.running.size).toBe(0);
    expect(rig.device.events.at(-1)).toBe('reset');
    await rig.accept('SET_FEATURES', encodeU64(PROTOCOL_FEATURES_BIT));
    await rig.accept('SET_VRING_KICK', encodeU64(0 | VRING_NO_FD));
    await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
    expect(started()).toMatchObject({ base: 0, size: 128, hasEventIdx: false });
  });

  it.each([0n, maskOf(VirtioFeature.RING_PACKED)])(
    'of 0 does not hide where a ring stood: QEMU asks for it afterwards, with ring features %i',
    async (features) => {
      rig = await SessionRig.negotiated(features | PROTOCOL_FEATURES_BIT);
      await startRing();
      rig.device.base.set(0, 0x8011_8011 & (features === 0n ? 0xffff : -1));
      const stood = rig.device.base.get(0) as number;
      for (let i = 0; i < 2; i++) await rig.accept('SET_STATUS', encodeU64(0));
      expect(VringState.decode(await rig.ask('GET_VRING_BASE', vringState(0, 0))).num).toBe(stood >>> 0);
    },
  );
});

describe('a packed ring', () => {
  const PACKED = maskOf(VirtioFeature.RING_PACKED, VirtioFeature.IN_ORDER) | PROTOCOL_FEATURES_BIT;

  it('has any number of entries, begins with both wrap counters 1, and goes on where it is told', async () => {
    rig = await SessionRig.negotiated(PACKED);
    await startRing(100);
    expect(started()).toMatchObject({ isPacked: true, isInOrder: true, size: 100, base: 0x8000_8000 });
    rig.device.base.set(0, 0x8011_8011);
    expect(VringState.decode(await rig.ask('GET_VRING_BASE', vringState(0, 0))).num).toBe(0x8011_8011);
    await rig.accept('SET_VRING_BASE', vringState(0, 0x0007_0007));
    await rig.accept('SET_VRING_KICK', encodeU64(0 | VRING_NO_FD));
    expect(started().base).toBe(0x0007_0007);
  });

  it.each([0x8064_8064, 0x8000_8064, 0x8005_8003])('does not go on outside of itself, at 0x%s', async (base) => {
    rig = await SessionRig.negotiated(PACKED);
    await rig.accept('SET_VRING_NUM', vringState(0, 100));
    expect(await rig.refusal('SET_VRING_BASE', vringState(0, base))).toContain('cannot go on at');
  });

  it('does not become a split one by other features alone', async () => {
    rig = await SessionRig.negotiated(PACKED);
    await rig.accept('SET_VRING_NUM', vringState(0, 100));
    await rig.accept('SET_FEATURES', encodeU64(PROTOCOL_FEATURES_BIT));
    await rig.accept('SET_MEM_TABLE', memoryTable(memory), [memory.regions[0]?.fd as number]);
    await rig.accept('SET_VRING_ADDR', vringAddr(memory, 0));
    await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
    expect(await rig.refusal('SET_VRING_KICK', encodeU64(0 | VRING_NO_FD))).toContain('queue 0 of 100 entries');
  });

  it('has its events aligned to 4 bytes', async () => {
    rig = await SessionRig.negotiated(PACKED);
    const address = vringAddr(memory, 0);
    const view = new DataView(address.buffer, address.byteOffset);
    view.setBigUint64(24, view.getBigUint64(24, true) + 2n, true);
    expect(await rig.refusal('SET_VRING_ADDR', address)).toContain('not aligned');
  });
});
