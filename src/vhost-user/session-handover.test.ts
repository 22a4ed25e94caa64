/** A session that is frozen, goes on, or is taken over by another one on the same socket. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import { FakeDevice, SessionRig } from '../../test/support/session-rig.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { TargetError } from '../base/errors.ts';
import { FdList } from '../base/fd-list.ts';
import { LimitedLog, SILENT } from '../base/log.ts';
import { OwnedMemory } from '../initiator/owned-memory.ts';
import { closeFd, FdSet } from '../sys/events.ts';
import { createFdBuffer, receiveMessage, sendMessage, socketPair } from '../sys/socket.ts';
import { encodeMessage, encodeU64, REQUESTS, U64, VringAddr, VringState } from './messages.ts';
import { Session } from './session.ts';
import type { SessionRecord } from './session-record.ts';

let rig: SessionRig;
let memory: OwnedMemory;
let fdsBefore = 0;

beforeEach(async () => {
  await turns();
  fdsBefore = openFdCount();
  memory = new OwnedMemory([{ guestAddress: 0, sizeBytes: 1 << 16 }]);
  rig = await SessionRig.negotiated();
  await rig.shareMemory(memory);
  await startRing(1, 7);
});
afterEach(async () => {
  await rig.close();
  memory.close();
  await until(() => openFdCount() === fdsBefore, 'end without a descriptor left over');
});

async function startRing(index: number, base: number): Promise<void> {
  const user = memory.userAddressOf(0);
  await rig.accept('SET_VRING_NUM', VringState.encode({ index, num: 16 }));
  await rig.accept('SET_VRING_BASE', VringState.encode({ index, num: base }));
  const addresses = { descriptor: user, used: user + 4096, available: user + 2048, log: 0 };
  await rig.accept('SET_VRING_ADDR', VringAddr.encode({ index, flags: 0, ...addresses }));
  await rig.sendEvent('SET_VRING_CALL', index);
  await rig.sendEvent('SET_VRING_KICK', index);
  await rig.accept('SET_VRING_ENABLE', VringState.encode({ index, num: 1 }));
  expect(rig.device.running.get(index)?.base).toBe(base);
}

/** What another process would receive. */
function passed(list: FdList): FdList {
  const [from, to] = socketPair();
  sendMessage(from, Uint8Array.of(0), 0, list.fds);
  const buffer = createFdBuffer();
  receiveMessage(to, new Uint8Array(1), 0, 1, buffer);
  closeFd(from);
  closeFd(to);
  return new FdList([...buffer.subarray(1, 1 + (buffer[0] as number))]);
}

interface Heir {
  readonly session: Session;
  readonly device: FakeDevice;
  close(): Promise<void>;
}

/** Another session takes over, and the first one is gone like its process. */
async function takeOver(): Promise<Heir> {
  const list = new FdList();
  const record = JSON.parse(JSON.stringify(rig.session.save(list))) as SessionRecord;
  const fds = passed(list);
  await rig.session.close();
  const device = new FakeDevice(4);
  device.features |= rig.device.features;
  const fdSet = new FdSet();
  const options = { device, log: SILENT, faults: new LimitedLog(SILENT), onEnd: () => {} };
  const session = new Session(fds.take(record.connection.fd), fdSet, { ...options, peerPid: record.peerPid });
  await session.load(record, fds);
  const close = async (): Promise<void> => {
    await session.close();
    fdSet.close();
  };
  return { session, device, close };
}

describe('a frozen session', () => {
  it('runs no ring and handles no message until it goes on', async () => {
    rig.device.base.set(1, 9);
    await rig.session.freeze(1000);
    expect(rig.device.running.size).toBe(0);
    rig.send('GET_QUEUE_NUM');
    await turns();
    await rig.session.thaw();
    expect(rig.device.running.get(1)?.base).toBe(9);
    expect(U64.decode((await rig.receive()).payload).value).toBe(4n);
  });

  it('goes on with what it has stopped when a ring cannot be stopped in time', async () => {
    await startRing(2, 3);
    rig.device.gate = async (what) => {
      if (what === 'stop 2') throw new TargetError('ETIMEDOUT', 'it is busy');
    };
    await expect(rig.session.freeze(10)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    expect([...rig.device.running.keys()]).toEqual([2]);
    rig.device.gate = async () => {};
    await rig.session.thaw();
    expect([...rig.device.running.keys()].toSorted()).toEqual([1, 2]);
    await rig.settled();
  });

  it('ends when its front-end goes', async () => {
    await rig.session.freeze(1000);
    rig.closePeer();
    await turns();
    expect(rig.endings).toBe(0);
    await rig.session.thaw();
    await until(() => rig.endings === 1, 'end of the session');
  });
});

describe('a session that is taken over', () => {
  it('goes on with its rings, its memory and what was negotiated', async () => {
    rig.device.base.set(1, 9);
    await rig.session.freeze(1000);
    const heir = await takeOver();
    const vring = heir.device.running.get(1);
    expect(vring).toMatchObject({ index: 1, size: 16, base: 9, hasEventIdx: true });
    expect(vring?.regions).toMatchObject([
      { guestAddress: 0, sizeBytes: 1 << 16, userAddress: memory.userAddressOf(0) },
    ]);
    rig.send('GET_QUEUE_NUM');
    await turns();
    await heir.session.thaw();
    // MQ was negotiated.
    expect(U64.decode((await rig.receive()).payload).value).toBe(4n);
    await rig.accept('SET_VRING_ENABLE', VringState.encode({ index: 1, num: 0 }));
    expect(heir.device.running.size).toBe(0);
    await heir.close();
  });

  it('reads the rest of a message, in the head and in the payload, with its descriptors', async () => {
    const message = encodeMessage(REQUESTS.SET_VRING_ERR.code, 8, encodeU64(1));
    for (const cut of [1, 11, 12, 15, 19]) {
      const [a, b] = socketPair();
      rig.sendBytes(message.subarray(0, cut), [a]);
      closeFd(a);
      await turns();
      await rig.session.freeze(1000);
      const heir = await takeOver();
      await heir.session.thaw();
      rig.sendBytes(message.subarray(cut));
      expect(U64.decode((await rig.receive()).payload).value, `cut at ${cut}`).toBe(0n);
      expect(heir.device.running.get(1)?.errFd).toBeGreaterThanOrEqual(0);
      closeFd(b);
      await heir.close();
      await rig.close();
      rig = await SessionRig.negotiated();
      await rig.shareMemory(memory);
      await startRing(1, 7);
    }
  });

  it('sends what its front-end had not read', async () => {
    for (let i = 0; i < 3000; i++) rig.send('GET_QUEUE_NUM');
    await turns();
    await rig.session.freeze(1000);
    const heir = await takeOver();
    await heir.session.thaw();
    for (let i = 0; i < 100; i++) expect(U64.decode((await rig.receive()).payload).value).toBe(4n);
    await heir.close();
  });
});
