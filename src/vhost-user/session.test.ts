/**
 * What a session answers to each message, and what it ends its connection for. Rings and memory have tests of their
 * own.
 */
import assert from 'node:assert/strict';
import { fstatSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import {
  INBAND_BIT,
  LEAVING_BIT,
  memoryTable,
  PROTOCOL_FEATURES,
  PROTOCOL_FEATURES_BIT,
  SessionRig,
  singleRegion,
  vringAddr,
  vringState,
} from '../../test/support/session-rig.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { TargetError } from '../base/errors.ts';
import { MessageReader } from '../initiator/message-reader.ts';
import { OwnedMemory } from '../initiator/owned-memory.ts';
import { closeFd, createEventFd } from '../sys/events.ts';
import { createMemoryFile, MappingViews, truncateFile } from '../sys/mapping.ts';
import { socketPair } from '../sys/socket.ts';
import { VirtioFeature } from '../virtio/features.ts';
import {
  ConfigHead,
  encodeU64,
  InflightDescription,
  LogDescription,
  maskOf,
  ProtocolFeature,
  REQUESTS,
  type RequestName,
  type RequestSpec,
  requestName,
  U64,
  VHOST_F_LOG_ALL,
  VringState,
} from './messages.ts';

const PAGE = 4096;
const PACKED = PROTOCOL_FEATURES_BIT | maskOf(VirtioFeature.RING_PACKED);
const rows = Object.entries(REQUESTS) as [RequestName, RequestSpec][];
/** Request codes of the specification and some that nobody knows. */
const UNKNOWN_CODES = [...Array(64).keys(), 255, 256, 0x7fff_ffff, 0xffff_ffff].filter(
  (code) => requestName(code) === undefined,
);

let rig: SessionRig;
let memory: OwnedMemory;
let fdsBefore = 0;

beforeEach(async () => {
  await turns();
  fdsBefore = openFdCount();
  memory = OwnedMemory.single(64 * PAGE, 0);
  rig = await SessionRig.negotiated();
});

afterEach(async () => {
  await rig.close();
  memory.close();
  await until(() => openFdCount() === fdsBefore, 'end without a descriptor left over');
  assert.deepEqual([rig.device.endCount, rig.endings, rig.device.running.size], [1, 1, 0]);
});

/** Replaces the session of the test by another. */
async function useRig(next: SessionRig): Promise<void> {
  await rig.close();
  rig = next;
}

function config(offset: number, bytes: Uint8Array, flags = 0): Uint8Array {
  return Buffer.concat([ConfigHead.encode({ offset, size: bytes.length, flags }), bytes]);
}

/** For one queue of 128 entries. */
function inflight(parts: Partial<InflightDescription> = {}): Uint8Array {
  return InflightDescription.encode({ mmapSize: 0, mmapOffset: 0, queueCount: 1, queueSize: 128, ...parts });
}

/** A payload that the request accepts at this point, and how many descriptors go along. */
function validPayload(name: RequestName): { payload: Uint8Array; fds: 'none' | 'memory' | 'event' | 'socket' } {
  const region = memory.regions[0] as OwnedMemory['regions'][number];
  const unshared = { ...region, guestAddress: 1 << 30, userAddress: 1 << 30 };
  switch (name) {
    case 'SET_FEATURES':
      return { payload: encodeU64(PROTOCOL_FEATURES_BIT), fds: 'none' };
    case 'SET_PROTOCOL_FEATURES':
      return { payload: encodeU64(PROTOCOL_FEATURES), fds: 'none' };
    case 'SET_MEM_TABLE':
      return { payload: memoryTable(memory), fds: 'memory' };
    case 'ADD_MEM_REG':
      return { payload: singleRegion(unshared), fds: 'memory' };
    case 'REM_MEM_REG':
      return { payload: singleRegion(region), fds: 'none' };
    case 'SET_VRING_NUM':
      return { payload: vringState(0, 128), fds: 'none' };
    case 'SET_VRING_ADDR':
      return { payload: vringAddr(memory, 0), fds: 'none' };
    case 'SET_VRING_KICK':
    case 'SET_VRING_CALL':
    case 'SET_VRING_ERR':
      return { payload: encodeU64(0), fds: 'event' };
    case 'SET_LOG_FD':
      return { payload: new Uint8Array(0), fds: 'event' };
    case 'SET_LOG_BASE':
      return { payload: LogDescription.encode({ sizeBytes: PAGE, offset: 0 }), fds: 'memory' };
    case 'SET_BACKEND_REQ_FD':
      return { payload: new Uint8Array(0), fds: 'socket' };
    case 'GET_CONFIG':
    case 'SET_CONFIG':
      return { payload: config(32, Uint8Array.of(1)), fds: 'none' };
    case 'GET_INFLIGHT_FD':
      return { payload: inflight(), fds: 'none' };
    case 'SET_INFLIGHT_FD':
      return { payload: inflight({ mmapSize: 4096 }), fds: 'memory' };
    default: {
      const { payload } = REQUESTS[name];
      return { payload: new Uint8Array(payload?.size ?? 0), fds: 'none' };
    }
  }
}

/** The descriptors, and a function that closes this side's. */
function openFds(kind: 'none' | 'memory' | 'event' | 'socket'): { fds: number[]; close: () => void } {
  if (kind === 'none') return { fds: [], close: () => {} };
  if (kind === 'memory') return { fds: [memory.regions[0]?.fd as number], close: () => {} };
  const own = kind === 'event' ? [createEventFd()] : socketPair();
  return { fds: own.slice(0, 1), close: () => own.forEach(closeFd) };
}

describe('features', () => {
  it('are told at any time, with the bit of the protocol', async () => {
    await useRig(new SessionRig());
    const offered = await rig.askU64('GET_FEATURES');
    expect(offered).toBe(rig.device.features | PROTOCOL_FEATURES_BIT | maskOf(VHOST_F_LOG_ALL));
    expect(await rig.askU64('GET_PROTOCOL_FEATURES')).toBe(PROTOCOL_FEATURES | INBAND_BIT | LEAVING_BIT);
    rig.send('SET_OWNER');
    expect(await rig.askU64('GET_FEATURES')).toBe(offered);
  });

  it('leave out what needs a configuration space when the device has none', async () => {
    await useRig(new SessionRig({ hasConfig: false }));
    const { CONFIG, BACKEND_REQ, MQ } = ProtocolFeature;
    const offered = await rig.askU64('GET_PROTOCOL_FEATURES');
    expect(offered & maskOf(CONFIG, BACKEND_REQ, MQ)).toBe(maskOf(BACKEND_REQ, MQ));
  });

  it('reach the device without those that the machine added', async () => {
    // A front-end acks CHANGE (bit 2) and others below 24 that its machine has.
    await rig.accept('SET_FEATURES', encodeU64(PROTOCOL_FEATURES_BIT | maskOf(2, 3, 6, 23, 32)));
    const expected = PROTOCOL_FEATURES_BIT | maskOf(6, 32);
    expect(rig.device.events).toEqual([`features 0x${expected.toString(16)}`]);
  });

  it.each([24, 28, 33, 34, 63])('that were never offered, such as bit %i, are refused', async (bit) => {
    expect(await rig.refusal('SET_FEATURES', encodeU64(maskOf(bit)))).toContain('never offered');
    expect(rig.device.events).toEqual([]);
  });

  it.each([1, 2, 12, 19, 63])('of the protocol that were never offered, such as bit %i, are refused', async (bit) => {
    const offered = await rig.askU64('GET_PROTOCOL_FEATURES');
    const extra = maskOf(bit) & ~offered;
    const isAccepted = await rig.isAccepted('SET_PROTOCOL_FEATURES', encodeU64(PROTOCOL_FEATURES | maskOf(bit)));
    expect(isAccepted).toBe(extra === 0n);
  });
});

describe('a request', () => {
  it.each(rows.filter(([, { hasReply }]) => !hasReply))(
    '%s is acknowledged when it asks for it',
    async (name, { needs }) => {
      if (needs === 'INBAND_NOTIFICATIONS') {
        await useRig(await SessionRig.negotiated(PROTOCOL_FEATURES_BIT, PROTOCOL_FEATURES | INBAND_BIT));
      }
      await rig.shareMemory(memory);
      const { payload, fds } = validPayload(name);
      const { fds: open, close } = openFds(fds);
      expect([rig.lines.at(-1), await rig.isAccepted(name, payload, open)]).toEqual([undefined, true]);
      close();
      // And only once: the next message is the next reply.
      await rig.settled();
    },
  );

  it.each(rows.filter(([, { hasReply }]) => hasReply))('%s has one reply, asked for or not', async (name) => {
    const { payload, fds } = validPayload(name);
    for (const needReply of [false, true]) {
      const { fds: open, close } = openFds(fds);
      rig.send(name, payload, { needReply, fds: open });
      const reply = await rig.receive();
      close();
      expect([reply.request, reply.payload.length > 0]).toEqual([REQUESTS[name].code, true]);
      for (const fd of reply.fds) closeFd(fd);
      await rig.settled();
    }
  });

  it('has a reply with its own code and the flags of a reply', async () => {
    rig.send('GET_QUEUE_NUM', undefined, { needReply: true });
    const { request, flags, payload, fds } = await rig.receive();
    expect([request, flags, U64.decode(payload).value, fds.length]).toEqual([17, 0x5, 4n, 0]);
  });

  it('has no acknowledgement when it does not ask, or when REPLY_ACK was not negotiated', async () => {
    rig.send('SET_OWNER');
    rig.send('GET_FEATURES');
    expect((await rig.receive()).request).toBe(REQUESTS.GET_FEATURES.code);
    await useRig(new SessionRig());
    rig.send('SET_OWNER', undefined, { needReply: true });
    rig.send('GET_FEATURES');
    expect((await rig.receive()).request).toBe(REQUESTS.GET_FEATURES.code);
  });

  it.each(UNKNOWN_CODES)('%i, which nobody knows, is refused where a refusal can be said', async (code) => {
    rig.sendRaw(code, new Uint8Array(8), { needReply: true });
    const { request, payload } = await rig.receive();
    expect([request, U64.decode(payload).value === 0n]).toEqual([code, false]);
    await rig.settled();
  });

  it.each(UNKNOWN_CODES.slice(0, 4))(
    '%i, which nobody knows, ends a connection that asked for no answer',
    async (code) => {
      rig.sendRaw(code, new Uint8Array(8));
      expect(await rig.disconnection()).toContain(`request ${code} is not supported`);
    },
  );
});

describe('a request with the wrong form', () => {
  it.each(rows)(
    '%s with a payload that is too short or too long is refused',
    async (name, { payload, payloadMax, hasReply }) => {
      const fewest = payload?.size ?? 0;
      const sizes = [fewest - 1, (payloadMax ?? fewest) + 1].filter((size) => size >= 0);
      for (const size of sizes) {
        await useRig(await SessionRig.negotiated());
        rig.send(name, new Uint8Array(size), { needReply: true });
        if (hasReply) expect(await rig.disconnection()).toContain('bytes of payload');
        else expect(U64.decode((await rig.receive()).payload).value).not.toBe(0n);
      }
    },
  );

  it.each(rows)(
    '%s with too many descriptors is refused, and none is kept',
    async (name, { fds: [, most], hasReply }) => {
      const { payload } = validPayload(name);
      const event = createEventFd();
      rig.send(name, payload, { needReply: true, fds: Array.from({ length: most + 1 }, () => event) });
      closeFd(event);
      if (hasReply) expect(await rig.disconnection()).toContain('descriptors, expected');
      else expect(U64.decode((await rig.receive()).payload).value).not.toBe(0n);
    },
  );

  it.each(
    rows.filter(
      ([
        ,
        {
          fds: [fewest],
        },
      ]) => fewest > 0,
    ),
  )('%s without its descriptor is refused', async (name, { hasReply }) => {
    const { payload } = validPayload(name);
    rig.send(name, payload, { needReply: true });
    if (hasReply) expect(await rig.disconnection()).toContain('0 descriptors, expected 1');
    else expect(U64.decode((await rig.receive()).payload).value).not.toBe(0n);
  });

  it.each(rows.filter(([, { needs }]) => needs !== undefined))(
    '%s is refused without its feature',
    async (name, spec) => {
      await useRig(new SessionRig());
      const without = PROTOCOL_FEATURES & ~maskOf(ProtocolFeature[spec.needs as keyof typeof ProtocolFeature]);
      rig.send('SET_PROTOCOL_FEATURES', encodeU64(without));
      const { payload, fds } = validPayload(name);
      const { fds: open, close } = openFds(fds);
      rig.send(name, payload, { fds: open });
      close();
      expect(await rig.disconnection()).toContain(`${name} needs protocol feature ${spec.needs}`);
    },
  );
});

describe('the in-flight region', () => {
  /** The reply to GET_INFLIGHT_FD. The descriptor is the caller's. */
  async function get(parts: Partial<InflightDescription> = {}) {
    rig.send('GET_INFLIGHT_FD', inflight(parts));
    const { payload, fds } = await rig.receive();
    return { ...InflightDescription.decode(payload), bytes: payload.length, fds };
  }

  async function startRings(...indexes: number[]): Promise<void> {
    await rig.shareMemory(memory);
    for (const index of indexes) {
      await rig.accept('SET_VRING_NUM', vringState(index, 128));
      await rig.accept('SET_VRING_ADDR', vringAddr(memory, index));
      await rig.sendEvent('SET_VRING_KICK', index);
      await rig.accept('SET_VRING_ENABLE', vringState(index, 1));
    }
  }

  const areas = (...indexes: number[]) => indexes.map((index) => rig.device.running.get(index)?.inflight);

  it('has a part for every queue, on cache lines of its own, and is made as often as it is asked for', async () => {
    for (let i = 0; i < 3; i++) {
      // The queue's header and 128 entries of 16 bytes each: 2064 bytes, which 64 does not divide.
      const { mmapSize, mmapOffset, queueCount, queueSize, bytes, fds } = await get({ queueCount: 3 });
      expect([mmapSize, mmapOffset, queueCount, queueSize, bytes]).toEqual([3 * 2112, 0, 3, 128, 24]);
      expect(fds.map((fd) => fstatSync(fd).size)).toEqual([3 * 2112]);
      for (const fd of fds) closeFd(fd);
    }
  });

  it('is given to each queue that it has a part for, and taken away with the device', async () => {
    const { mmapSize, fds } = await get({ queueCount: 2 });
    const message = inflight({ queueCount: 2, mmapSize });
    // With the padding that C gives it, and again: the rings go on in the new mapping.
    await startRings(0, 2);
    expect(areas(0, 2)).toEqual([null, null]);
    for (let i = 0; i < 2; i++) {
      await rig.accept('SET_INFLIGHT_FD', Buffer.concat([message, Buffer.alloc(4)]), fds);
      expect(areas(0, 2)).toEqual([{ address: expect.any(Number), entries: 128 }, null]);
    }
    for (const fd of fds) closeFd(fd);
    await rig.accept('RESET_DEVICE');
    await rig.accept('SET_VRING_NUM', vringState(0, 128));
    await rig.accept('SET_VRING_ADDR', vringAddr(memory, 0));
    await rig.accept('SET_FEATURES', encodeU64(0n));
    await rig.sendEvent('SET_VRING_KICK', 0);
    expect(areas(0)).toEqual([null]);
  });

  it.each([
    { queueCount: 0 },
    { queueCount: 5 },
    { queueSize: 0 },
    { queueSize: 32_769 },
    { mmapSize: 2063 },
    { mmapOffset: 4 },
    { mmapOffset: 62 * PAGE + 2048 },
    { mmapOffset: 2 ** 63 },
  ])('is refused when it cannot be what it says: %j (CVE-2021-3839)', async (parts) => {
    const fd = createMemoryFile('test', 62 * PAGE);
    expect(await rig.refusal('SET_INFLIGHT_FD', inflight({ mmapSize: 2 ** 62, ...parts }), [fd])).toContain(
      'in-flight',
    );
    closeFd(fd);
  });

  it('has what a ring holds left in it where both have agreed, and only by who stops the ring for good', async () => {
    const { mmapSize, fds } = await get({ queueCount: 2 });
    const message = inflight({ queueCount: 2, mmapSize });
    const stopped: string[] = [];
    for (const features of [PROTOCOL_FEATURES, PROTOCOL_FEATURES | LEAVING_BIT]) {
      await rig.accept('SET_PROTOCOL_FEATURES', encodeU64(features));
      await startRings(0, 2);
      // Queue 2 has no part of the region.
      await rig.accept('SET_INFLIGHT_FD', message, fds);
      rig.device.events.length = 0;
      await rig.shareMemory(memory);
      await rig.accept('SET_VRING_ENABLE', vringState(0, 0));
      await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
      for (const index of [0, 2]) await rig.ask('GET_VRING_BASE', vringState(index, 0));
      stopped.push(...rig.device.events.filter((event) => event.startsWith('stop')));
    }
    for (const fd of fds) closeFd(fd);
    const drained = ['stop 0', 'stop 2', 'stop 0', 'stop 0', 'stop 2'];
    const left = ['stop 0', 'stop 2', 'stop 0, leaving requests', 'stop 0, leaving requests', 'stop 2'];
    expect(stopped).toEqual([...drained, ...left]);
  });

  it('must have been agreed on by who wants requests left in it', async () => {
    await useRig(new SessionRig());
    rig.send('SET_PROTOCOL_FEATURES', encodeU64(LEAVING_BIT));
    expect(await rig.disconnection()).toContain('GET_VRING_BASE_INFLIGHT needs INFLIGHT_SHMFD');
  });

  it('keeps nothing of a ring that is longer than it allows for: it runs all the same', async () => {
    const { mmapSize, fds } = await get({ queueSize: 64 });
    await rig.accept('SET_INFLIGHT_FD', inflight({ queueSize: 64, mmapSize }), fds);
    for (const fd of fds) closeFd(fd);
    await startRings(0);
    expect(areas(0)).toEqual([null]);
  });

  it('has longer parts for packed rings, and is refused when they are not there', async () => {
    await useRig(await SessionRig.negotiated(PACKED));
    const { mmapSize, fds } = await get({ queueCount: 2 });
    // 32 bytes for the queue and for each of 128 entries.
    expect(mmapSize).toBe(2 * 4160);
    await rig.accept('SET_INFLIGHT_FD', inflight({ queueCount: 2, mmapSize }), fds);
    await startRings(0, 1);
    const [first, second] = areas(0, 1);
    expect((second?.address ?? 0) - (first?.address ?? 0)).toBe(4160);
    expect(await rig.refusal('SET_INFLIGHT_FD', inflight({ queueCount: 2, mmapSize: 8319 }), fds)).toContain(
      'in-flight',
    );
    for (const fd of fds) closeFd(fd);
  });

  it('may come before packed rings are acked: a queue that it has no room for runs all the same', async () => {
    await useRig(await SessionRig.negotiated(PACKED));
    await rig.accept('SET_FEATURES', encodeU64(PROTOCOL_FEATURES_BIT));
    const fd = createMemoryFile('test', 2 * PAGE);
    await rig.accept('SET_INFLIGHT_FD', inflight({ queueCount: 2, mmapSize: 2 * PAGE }), [fd]);
    await rig.accept('SET_FEATURES', encodeU64(PACKED));
    await startRings(0, 1);
    expect(areas(0, 1)).toEqual([{ address: expect.any(Number), entries: 128 }, null]);
    closeFd(fd);
  });

  it('is noticed when it is cut off', async () => {
    const fd = createMemoryFile('test', PAGE);
    await rig.accept('SET_INFLIGHT_FD', inflight({ mmapSize: PAGE }), [fd]);
    expect(rig.session.wasMemoryTruncated).toBe(false);
    await startRings(0);
    truncateFile(fd, 0);
    const area = rig.device.running.get(0)?.inflight as { address: number };
    const views = new MappingViews();
    const view = new Uint8Array(views.view({ address: area.address, lengthBytes: 16 }, 0, 16));
    expect([view[0], rig.session.wasMemoryTruncated]).toEqual([0, true]);
    views.close();
    closeFd(fd);
  });
});

describe('an error', () => {
  it('ends the connection when no answer was asked for', async () => {
    rig.send('SET_VRING_NUM', vringState(0, 3));
    expect(await rig.disconnection()).toContain('SET_VRING_NUM');
  });

  it('ends the connection when the request has a reply of its own, which could not say so', async () => {
    rig.send('GET_VRING_BASE', vringState(4, 0), { needReply: true });
    expect(await rig.disconnection()).toContain('there is no queue 4');
  });

  it('of one session does not touch another', async () => {
    const other = new SessionRig({ fdSet: rig.fdSet });
    other.send('SET_VRING_NUM', vringState(9999, 3));
    expect(await other.disconnection()).toContain('there is no queue 9999');
    await rig.settled();
    await other.close();
  });

  it('of our own is logged with its place and answered as a failure', async () => {
    rig.device.config = { read: () => new Uint8Array(0), write: () => Promise.reject(new TypeError('our mistake')) };
    await rig.refusal('SET_CONFIG', config(32, Uint8Array.of(1)));
    expect(rig.lines.some((line) => line.startsWith('error: SET_CONFIG') && line.includes('our mistake'))).toBe(true);
    await rig.settled();
  });
});

describe('the configuration space', () => {
  const bytes = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i + 1);

  it.each([
    ['all of it', 0, 60, bytes(0, 60)],
    ['a part', 20, 4, bytes(20, 4)],
    ['one byte', 59, 1, [60]],
    ['more than there is, the rest as zeroes', 0, 96, [...bytes(0, 60), ...Array(36).fill(0)]],
    ['a part that reaches over the end', 56, 8, [57, 58, 59, 60, 0, 0, 0, 0]],
    ['only what is not there', 60, 4, [0, 0, 0, 0]],
    ['as much as a message may hold', 0, 256, [...bytes(0, 60), ...Array(196).fill(0)]],
    ['nothing', 0, 0, []],
    ['all of it at 0x100, as some front-ends count', 0x100, 60, bytes(0, 60)],
    ['a part at 0x100 and more', 0x100 + 32, 1, [33]],
    ['what is far outside', 0xffff_ffff, 4, [0, 0, 0, 0]],
  ])('is read: %s', async (_, offset, size, expected) => {
    const reply = await rig.ask('GET_CONFIG', config(offset, new Uint8Array(size), 1));
    expect(ConfigHead.decode(reply)).toEqual({ offset, size, flags: 1 });
    expect([...reply.subarray(12)]).toEqual(expected);
  });

  it('is read by a request that leaves its bytes out', async () => {
    const reply = await rig.ask('GET_CONFIG', ConfigHead.encode({ offset: 0, size: 60, flags: 0 }));
    expect(reply).toHaveLength(12 + 60);
  });

  it('is not read when more is asked for than a message may hold', async () => {
    rig.send('GET_CONFIG', ConfigHead.encode({ offset: 0, size: 257, flags: 0 }));
    expect(await rig.disconnection()).toContain('257 bytes of configuration');
  });

  it('is written where and what the front-end says', async () => {
    await rig.accept('SET_CONFIG', config(32, Uint8Array.of(1)));
    await rig.accept('SET_CONFIG', config(7, Uint8Array.of(4, 5, 6)));
    // Bytes after those that the message announces are not its own.
    await rig.accept('SET_CONFIG', Buffer.concat([config(8, Uint8Array.of(9)), Uint8Array.of(1, 2, 3)]));
    expect(rig.device.events).toEqual(['write 32: 1', 'write 7: 4,5,6', 'write 8: 9']);
  });

  it('is not written when bytes are missing, or when the device refuses', async () => {
    const short = ConfigHead.encode({ offset: 0, size: 2, flags: 0 });
    expect(await rig.refusal('SET_CONFIG', Buffer.concat([short, Uint8Array.of(1)]))).toContain('1 bytes of config');
    rig.device.config = {
      read: () => new Uint8Array(0),
      write: () => Promise.reject(new TargetError('VHOST_CONFIG', 'not this field')),
    };
    expect(await rig.refusal('SET_CONFIG', config(0, Uint8Array.of(1)))).toContain('not this field');
    expect(rig.device.events).toEqual([]);
  });
});

describe('a change of the configuration', () => {
  it('is told on the socket that the front-end sent', async () => {
    expect(rig.session.notifyConfigChange()).toBe(false);
    const [ours, theirs] = socketPair();
    await rig.accept('SET_BACKEND_REQ_FD', undefined, [theirs]);
    closeFd(theirs);
    expect(rig.session.notifyConfigChange()).toBe(true);
    const result = new MessageReader(ours).read();
    expect(result).toMatchObject({ kind: 'message', message: { request: 2, flags: 1, payload: new Uint8Array(0) } });
    closeFd(ours);
  });

  it('is told on the newest socket, and the older one is closed', async () => {
    const [firstOurs, firstTheirs] = socketPair();
    const [secondOurs, secondTheirs] = socketPair();
    await rig.accept('SET_BACKEND_REQ_FD', undefined, [firstTheirs]);
    await rig.accept('SET_BACKEND_REQ_FD', undefined, [secondTheirs]);
    closeFd(firstTheirs);
    closeFd(secondTheirs);
    expect(rig.session.notifyConfigChange()).toBe(true);
    expect(new MessageReader(firstOurs).read()).toEqual({ kind: 'end', errno: 0 });
    expect(new MessageReader(secondOurs).read().kind).toBe('message');
    closeFd(firstOurs);
    closeFd(secondOurs);
  });

  it('cannot be told to a front-end that is gone, reads nothing or gave no socket, and that is all', async () => {
    const [ours, theirs] = socketPair();
    await rig.accept('SET_BACKEND_REQ_FD', undefined, [theirs]);
    closeFd(theirs);
    let told = 0;
    while (rig.session.notifyConfigChange() && told < 1e6) told++;
    expect(told).toBeLessThan(1e6);
    closeFd(ours);
    expect(rig.session.notifyConfigChange()).toBe(false);
    const event = createEventFd();
    await rig.accept('SET_BACKEND_REQ_FD', undefined, [event]);
    closeFd(event);
    expect(rig.session.notifyConfigChange()).toBe(false);
    await rig.settled();
  });
});

describe('ownership', () => {
  it('may be taken twice', async () => {
    expect([await rig.isAccepted('SET_OWNER'), await rig.isAccepted('SET_OWNER')]).toEqual([true, true]);
  });

  it('may be given up: the session goes on', async () => {
    await rig.accept('RESET_OWNER');
    expect(await rig.askU64('GET_QUEUE_NUM')).toBe(4n);
  });
});

describe('a device reset', () => {
  it('puts the device and its rings back to the start, and keeps connection and memory', async () => {
    await rig.shareMemory(memory);
    await rig.accept('SET_VRING_NUM', vringState(1, 16));
    await rig.accept('SET_VRING_BASE', vringState(1, 77));
    await rig.accept('RESET_DEVICE');
    expect(rig.device.events).toEqual(['reset']);
    expect(VringState.decode(await rig.ask('GET_VRING_BASE', vringState(1, 0)))).toEqual({ index: 1, num: 0 });
    expect(rig.session.memory.count).toBe(1);
  });
});
