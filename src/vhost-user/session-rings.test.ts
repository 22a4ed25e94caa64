/** When a ring runs, and what a session does around it: the state rules of vhost-user. */
import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import {
  EVENT_IDX_BIT,
  memoryTable,
  PROTOCOL_FEATURES_BIT,
  SessionRig,
  singleRegion,
  vringAddr,
  vringState,
} from '../../test/support/session-rig.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { TargetError } from '../base/errors.ts';
import { OwnedMemory } from '../initiator/owned-memory.ts';
import { closeFd, createEventFd, readEventFd } from '../sys/events.ts';
import { NO_FD } from './device.ts';
import { encodeU64, type RequestName, VringAddr, VringState } from './messages.ts';

const PAGE = 4096;
const NO_FD_BIT = 0x100;

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
}, 30_000);

async function useRig(next: SessionRig): Promise<void> {
  await rig.close();
  rig = next;
}

/** Everything but kick and enable. */
async function configure(index: number, base = 0, page = index): Promise<void> {
  await rig.accept('SET_VRING_NUM', vringState(index, 128));
  await rig.accept('SET_VRING_BASE', vringState(index, base));
  await rig.accept('SET_VRING_ADDR', vringAddr(memory, index, page));
}

async function start(index: number, base = 0): Promise<void> {
  await configure(index, base);
  await rig.sendEvent('SET_VRING_KICK', index);
  await rig.accept('SET_VRING_ENABLE', vringState(index, 1));
  expect(rig.device.running.has(index)).toBe(true);
}

async function baseOf(index: number): Promise<number> {
  const reply = VringState.decode(await rig.ask('GET_VRING_BASE', vringState(index, 0)));
  expect(reply.index).toBe(index);
  return reply.num;
}

const isRunning = (index: number): boolean => rig.device.running.has(index);
const forgetEvents = (): void => {
  rig.device.events.length = 0;
};

describe('a ring starts', () => {
  it('with the last of all that it needs, in whatever order they come', async () => {
    const steps: readonly (readonly [string, (index: number) => Promise<void>])[] = [
      ['memory', () => rig.shareMemory(memory)],
      ['addresses', (index) => rig.accept('SET_VRING_ADDR', vringAddr(memory, index))],
      ['kick', (index) => rig.sendEvent('SET_VRING_KICK', index)],
      ['enable', (index) => rig.accept('SET_VRING_ENABLE', vringState(index, 1))],
    ];
    await fc.assert(
      fc.asyncProperty(fc.shuffledSubarray([0, 1, 2, 3], { minLength: 4 }), fc.nat(3), async (order, index) => {
        await useRig(await SessionRig.negotiated());
        await rig.accept('SET_VRING_NUM', vringState(index, 128));
        await rig.accept('SET_VRING_BASE', vringState(index, 5));
        for (const [position, which] of order.entries()) {
          expect(isRunning(index)).toBe(false);
          const step = steps[which] as (typeof steps)[number];
          // A ring that is started without memory is an error of the front-end, said once its addresses count.
          const isEarly = step[0] !== 'memory' && !order.slice(0, position).includes(0);
          await step[1](index).catch((error: Error) => {
            if (!isEarly) throw error;
          });
        }
        expect(rig.device.events.filter((event) => event.startsWith('start'))).toEqual([`start ${index} at 5`]);
      }),
      { numRuns: 40 },
    );
  });

  it('at its kick alone when the protocol features were not negotiated', async () => {
    await useRig(await SessionRig.negotiated(EVENT_IDX_BIT));
    await rig.shareMemory(memory);
    await configure(0);
    expect(isRunning(0)).toBe(false);
    await rig.sendEvent('SET_VRING_KICK', 0);
    expect(isRunning(0)).toBe(true);
  });

  it('with what the front-end said of it', async () => {
    await rig.shareMemory(memory);
    await rig.sendEvent('SET_VRING_CALL', 2);
    await rig.sendEvent('SET_VRING_ERR', 2);
    await start(2, 0xfffe);
    const vring = rig.device.running.get(2);
    const mapped = rig.session.memory.regions[0]?.hostAddress as number;
    expect(vring).toMatchObject({
      index: 2,
      size: 128,
      base: 0xfffe,
      hasEventIdx: true,
      descriptorAddress: mapped + 2 * 8192,
      availableAddress: mapped + 2 * 8192 + 2048,
      usedAddress: mapped + 2 * 8192 + 4096,
      regions: rig.session.memory.regions,
    });
    expect([vring?.kickFd, vring?.callFd, vring?.errFd].every((fd) => fd !== undefined && fd > 2)).toBe(true);
  });

  it('without EVENT_IDX when it was not acked', async () => {
    await useRig(await SessionRig.negotiated(PROTOCOL_FEATURES_BIT));
    await rig.shareMemory(memory);
    await start(0);
    expect(rig.device.running.get(0)?.hasEventIdx).toBe(false);
  });

  it('without descriptors when the front-end says that there are none', async () => {
    await rig.shareMemory(memory);
    await configure(1);
    await rig.accept('SET_VRING_CALL', encodeU64(1 | NO_FD_BIT));
    await rig.accept('SET_VRING_ERR', encodeU64(1 | NO_FD_BIT));
    await rig.accept('SET_VRING_KICK', encodeU64(1 | NO_FD_BIT));
    await rig.accept('SET_VRING_ENABLE', vringState(1, 1));
    expect(rig.device.running.get(1)).toMatchObject({ kickFd: NO_FD, callFd: NO_FD, errFd: NO_FD });
  });

  it('by itself: the others stay as they are', async () => {
    await rig.shareMemory(memory);
    await start(0);
    await start(3);
    expect([...rig.device.running.keys()]).toEqual([0, 3]);
    await rig.accept('SET_VRING_ENABLE', vringState(0, 0));
    expect([...rig.device.running.keys()]).toEqual([3]);
  });

  it('with one signal of its call descriptor, for a driver that missed the last one', async () => {
    await rig.shareMemory(memory);
    const call = createEventFd();
    await rig.accept('SET_VRING_CALL', encodeU64(0), [call]);
    expect(readEventFd(call)).toBe(-11);
    await start(0);
    expect(readEventFd(call)).toBe(1);
    closeFd(call);
  });

  it('not at all when the device cannot start it: the front-end hears of it and may try again', async () => {
    await rig.shareMemory(memory);
    await configure(0);
    await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
    rig.device.gate = () => Promise.reject(new TargetError('ENOMEM', 'no room'));
    const kick = createEventFd();
    expect(await rig.refusal('SET_VRING_KICK', encodeU64(0), [kick])).toContain('no room');
    closeFd(kick);
    expect(rig.session.runningVrings).toEqual([]);
    rig.device.gate = async () => {};
    await rig.sendEvent('SET_VRING_KICK', 0);
    expect(isRunning(0)).toBe(true);
  });
});

describe('a running ring', () => {
  beforeEach(async () => {
    await rig.shareMemory(memory);
    await start(0);
    forgetEvents();
  });

  it('stops when it is disabled, and goes on where it was when it is enabled', async () => {
    rig.device.base.set(0, 4711);
    await rig.accept('SET_VRING_ENABLE', vringState(0, 0));
    await rig.accept('SET_VRING_ENABLE', vringState(0, 0));
    await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
    await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
    expect(rig.device.events).toEqual(['stop 0', 'start 0 at 4711']);
  });

  it('stops for good when its base is asked for: only a new kick starts it', async () => {
    rig.device.base.set(0, 12);
    expect(await baseOf(0)).toBe(12);
    expect(await baseOf(0)).toBe(12);
    await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
    expect(rig.device.events).toEqual(['stop 0']);
    await rig.sendEvent('SET_VRING_KICK', 0);
    expect(rig.device.events).toEqual(['stop 0', 'start 0 at 12']);
  });

  it('is stopped before its base is told, however long that takes', async () => {
    let release = () => {};
    rig.device.gate = () => new Promise((resolve) => (release = resolve));
    rig.send('GET_VRING_BASE', vringState(0, 0));
    await turns(20);
    expect(isRunning(0)).toBe(true);
    rig.device.gate = async () => {};
    release();
    const { payload } = await rig.receive();
    expect([isRunning(0), VringState.decode(payload).num]).toEqual([false, 0]);
  });

  it('gives up its kick descriptor with its base', async () => {
    const before = openFdCount();
    await baseOf(0);
    expect(openFdCount()).toBe(before - 1);
  });

  it('takes a new kick descriptor by a stop and a start, and the old one is closed', async () => {
    const before = openFdCount();
    await rig.sendEvent('SET_VRING_KICK', 0);
    expect(rig.device.events).toEqual(['stop 0', 'start 0 at 0']);
    expect(openFdCount()).toBe(before);
  });

  it('takes a new call descriptor while it runs, and signals it once', async () => {
    const before = openFdCount();
    const call = createEventFd();
    await rig.accept('SET_VRING_CALL', encodeU64(0), [call]);
    expect(rig.device.events).toEqual(['call 0: one']);
    expect(readEventFd(call)).toBe(1);
    await rig.accept('SET_VRING_CALL', encodeU64(0 | NO_FD_BIT));
    expect(rig.device.events).toEqual(['call 0: one', 'call 0: none']);
    expect(readEventFd(call)).toBe(-11);
    closeFd(call);
    expect(openFdCount()).toBe(before);
  });

  it('takes a new error descriptor by a stop and a start', async () => {
    await rig.sendEvent('SET_VRING_ERR', 0);
    expect(rig.device.events).toEqual(['stop 0', 'start 0 at 0']);
    expect(rig.device.running.get(0)?.errFd).not.toBe(NO_FD);
  });

  it('does not mind the addresses it has, and moves to others', async () => {
    await rig.accept('SET_VRING_ADDR', vringAddr(memory, 0));
    // Only the flag that asks for logging differs, as at the start of a migration.
    const logged = vringAddr(memory, 0);
    logged[4] = 1;
    await rig.accept('SET_VRING_ADDR', logged);
    expect(rig.device.events).toEqual([]);
    await rig.accept('SET_VRING_ADDR', vringAddr(memory, 0, 5));
    expect(rig.device.events).toEqual(['stop 0', 'start 0 at 0']);
    const mapped = rig.session.memory.regions[0]?.hostAddress as number;
    expect(rig.device.running.get(0)?.descriptorAddress).toBe(mapped + 5 * 8192);
  });

  it.each<readonly [RequestName, Uint8Array]>([
    ['SET_VRING_NUM', vringState(0, 64)],
    ['SET_VRING_BASE', vringState(0, 3)],
  ])('refuses %s while it runs', async (name, payload) => {
    expect(await rig.refusal(name, payload)).toContain('queue 0 is running');
    expect(isRunning(0)).toBe(true);
  });

  it('is set up again after a device reset from the very start', async () => {
    rig.device.base.set(0, 99);
    await rig.accept('RESET_DEVICE');
    expect(rig.device.events).toEqual(['stop 0', 'reset']);
    rig.device.base.clear();
    await rig.accept('SET_FEATURES', encodeU64(PROTOCOL_FEATURES_BIT));
    await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
    await rig.sendEvent('SET_VRING_KICK', 0);
    expect(isRunning(0)).toBe(false);
    await start(0, 7);
    expect(rig.device.events.at(-1)).toBe('start 0 at 7');
  });

  it('stops when the owner goes, and the session goes on', async () => {
    await rig.accept('RESET_OWNER');
    expect(rig.device.events).toEqual(['stop 0']);
    await start(0);
    expect(isRunning(0)).toBe(true);
  });
});

describe('around a change of what rings stand on', () => {
  beforeEach(async () => {
    await rig.shareMemory(memory);
    await start(0);
    await start(2);
    rig.device.base.set(0, 10).set(2, 20);
    forgetEvents();
  });

  const STARTS = ['start 0 at 10', 'start 2 at 20'];

  it('such as features, they are stopped first and started afterwards', async () => {
    await rig.accept('SET_FEATURES', encodeU64(PROTOCOL_FEATURES_BIT));
    const features = `features 0x${PROTOCOL_FEATURES_BIT.toString(16)}`;
    expect(rig.device.events).toEqual(['stop 0', 'stop 2', features, ...STARTS]);
    expect(rig.device.running.get(0)?.hasEventIdx).toBe(false);
  });

  it('such as a whole new memory table, the old memory is there until they stand', async () => {
    const before = rig.session.memory.regions;
    const seen: unknown[] = [];
    rig.device.gate = async (what) => {
      if (what.startsWith('stop')) seen.push(rig.session.memory.regions);
    };
    memory.add({ guestAddress: 1 << 30, sizeBytes: PAGE });
    await rig.shareMemory(memory);
    expect(seen).toEqual([before, before]);
    expect(rig.device.events).toEqual(['stop 0', 'stop 2', ...STARTS]);
    expect(rig.device.running.get(2)?.regions).toEqual(rig.session.memory.regions);
    expect(rig.session.memory.count).toBe(2);
  });

  it('such as one region more or less, they see it', async () => {
    const added = memory.add({ guestAddress: 1 << 30, sizeBytes: PAGE });
    await rig.accept('ADD_MEM_REG', singleRegion(added), [added.fd]);
    expect(rig.device.events).toEqual(['stop 0', 'stop 2', ...STARTS]);
    expect(rig.device.running.get(0)?.regions).toHaveLength(2);
    forgetEvents();
    await rig.accept('REM_MEM_REG', singleRegion(added));
    expect(rig.device.events).toEqual(['stop 0', 'stop 2', ...STARTS]);
    expect(rig.device.running.get(0)?.regions).toHaveLength(1);
  });

  it('that is refused, they run on', async () => {
    const [region] = memory.regions;
    assert(region !== undefined);
    // It overlaps what is there.
    expect(await rig.refusal('ADD_MEM_REG', singleRegion(region), [region.fd])).toContain('overlaps');
    expect([isRunning(0), isRunning(2)]).toEqual([true, true]);
    const unknown = singleRegion({ ...region, guestAddress: 1 << 30 });
    expect(await rig.refusal('REM_MEM_REG', unknown)).toContain('does not exist');
    expect(await rig.refusal('SET_FEATURES', encodeU64(1n << 63n))).toContain('never offered');
    expect([isRunning(0), isRunning(2)]).toEqual([true, true]);
  });

  it('such as a memory table that is refused half way, they stand until a good one comes', async () => {
    const bad = memoryTable(memory);
    // A size that the file does not have.
    new DataView(bad.buffer, bad.byteOffset).setBigUint64(8 + 8, 1n << 40n, true);
    expect(await rig.refusal('SET_MEM_TABLE', bad, [memory.regions[0]?.fd as number])).toContain('of a file of');
    expect([isRunning(0), isRunning(2)]).toEqual([false, false]);
    await rig.shareMemory(memory);
    expect([isRunning(0), isRunning(2)]).toEqual([true, true]);
  });
});

describe('a setting of a ring', () => {
  it.each([0, 3, 5, 1023, 1025, 32767, 65536, 0xffff_ffff])('that says %i entries is refused', async (size) => {
    expect(await rig.refusal('SET_VRING_NUM', vringState(0, size))).toContain('is not a power of two');
  });

  it.each([1, 2, 128, 1024, 2048, 32768])('that says %i entries is accepted', async (size) => {
    expect(await rig.isAccepted('SET_VRING_NUM', vringState(0, size))).toBe(true);
  });

  it('that says a base is given back by it', async () => {
    for (const base of [0, 1, 0xffff]) {
      await rig.accept('SET_VRING_BASE', vringState(3, base));
      expect(await baseOf(3)).toBe(base);
    }
    expect(await rig.refusal('SET_VRING_BASE', vringState(3, 0x10000))).toContain('cannot go on at 0x10000');
  });

  it('that is neither enabled nor disabled is refused', async () => {
    expect(await rig.refusal('SET_VRING_ENABLE', vringState(0, 2))).toContain('neither 0 nor 1');
  });

  it.each<readonly [RequestName, (index: number) => Uint8Array]>([
    ['SET_VRING_NUM', (index) => vringState(index, 128)],
    ['SET_VRING_BASE', (index) => vringState(index, 0)],
    ['SET_VRING_ENABLE', (index) => vringState(index, 1)],
    ['SET_VRING_ADDR', (index) => vringAddr(memory, index)],
    ['SET_VRING_KICK', (index) => encodeU64(index | NO_FD_BIT)],
    ['SET_VRING_CALL', (index) => encodeU64(index | NO_FD_BIT)],
    ['SET_VRING_ERR', (index) => encodeU64(index | NO_FD_BIT)],
  ])('by %s of a ring that the device does not have is refused', async (name, payload) => {
    for (const index of [4, 255]) expect(await rig.refusal(name, payload(index))).toContain(`no queue ${index}`);
  });

  it.each<RequestName>(['SET_VRING_KICK', 'SET_VRING_CALL', 'SET_VRING_ERR'])(
    'by %s with a descriptor that is missing, or came unannounced, is refused',
    async (name) => {
      expect(await rig.refusal(name, encodeU64(0))).toContain('missing');
      const event = createEventFd();
      expect(await rig.refusal(name, encodeU64(NO_FD_BIT), [event])).toContain('unannounced');
      closeFd(event);
    },
  );

  it('with bits above the ring and the flag is understood without them', async () => {
    await rig.accept('SET_VRING_CALL', encodeU64(0xabcd_ef00_0000_0000n | BigInt(NO_FD_BIT | 3)));
    expect(await rig.refusal('SET_VRING_CALL', encodeU64(0xabcd_ef00_0000_0000n | 5n))).toContain('no queue 5');
  });
});

describe('addresses of a ring', () => {
  const addresses = (parts: Partial<Record<'descriptor' | 'used' | 'available', number>>): Uint8Array => {
    const base = memory.regions[0]?.userAddress as number;
    const whole = { descriptor: base, used: base + 4096, available: base + 2048, ...parts };
    return VringAddr.encode({ index: 0, flags: 0, log: 0, ...whole });
  };

  it.each(['descriptor', 'used', 'available'] as const)('are refused when the %s part is not aligned', async (part) => {
    const base = memory.regions[0]?.userAddress as number;
    const wrong = { descriptor: 8, used: 2, available: 1 }[part];
    expect(await rig.refusal('SET_VRING_ADDR', addresses({ [part]: base + wrong }))).toContain('not aligned');
  });

  it.each(['descriptor', 'used', 'available'] as const)(
    'are refused when the %s part is not in the memory',
    async (part) => {
      await rig.shareMemory(memory);
      await rig.accept('SET_VRING_NUM', vringState(0, 128));
      const { userAddress, sizeBytes } = memory.regions[0] as OwnedMemory['regions'][number];
      for (const at of [userAddress - 4096, userAddress + sizeBytes - 16, userAddress + sizeBytes, 2 ** 52, 2 ** 63]) {
        expect(await rig.refusal('SET_VRING_ADDR', addresses({ [part]: at }))).toContain('does not lie in the guest');
      }
    },
  );

  it('that are aligned only on the front-end side are refused', async () => {
    await useRig(await SessionRig.negotiated());
    const odd = new OwnedMemory([{ guestAddress: 0, sizeBytes: 64 * PAGE, userAddress: 0x10_0001 }]);
    await rig.shareMemory(odd);
    await rig.accept('SET_VRING_NUM', vringState(0, 128));
    const parts = { descriptor: 0x10_1000, available: 0x10_2000, used: 0x10_3000 };
    const payload = VringAddr.encode({ index: 0, flags: 0, log: 0, ...parts });
    expect(await rig.refusal('SET_VRING_ADDR', payload)).toContain('not aligned');
    odd.close();
  });

  it('may come before the memory, and are looked at when the ring would start', async () => {
    await configure(0);
    await rig.accept('SET_VRING_ENABLE', vringState(0, 1));
    const kick = createEventFd();
    expect(await rig.refusal('SET_VRING_KICK', encodeU64(0), [kick])).toContain('does not lie in the guest memory');
    closeFd(kick);
    expect(rig.lines.some((line) => line.includes('share=on'))).toBe(true);
    await rig.shareMemory(memory);
    expect(isRunning(0)).toBe(true);
  });
});

describe('the end of a session', () => {
  beforeEach(async () => {
    await rig.shareMemory(memory);
    await start(0);
    await start(1);
    await rig.sendEvent('SET_VRING_CALL', 0);
    forgetEvents();
  });

  it('stops every ring, then unmaps the memory and tells, once', async () => {
    const regions: number[] = [];
    rig.device.gate = async () => void regions.push(rig.session.memory.count);
    rig.closePeer();
    await until(() => rig.endings > 0, 'end of the session');
    expect(rig.device.events).toEqual(['stop 0', 'stop 1']);
    expect([regions, rig.session.memory.count, rig.device.endCount]).toEqual([[1, 1], 0, 1]);
    await rig.session.close();
    expect([rig.device.endCount, rig.endings]).toEqual([1, 1]);
  });

  it('waits for the message that is being handled', async () => {
    let release = () => {};
    rig.device.gate = () => new Promise((resolve) => (release = resolve));
    rig.send('GET_VRING_BASE', vringState(0, 0));
    await turns(20);
    const closing = rig.session.close();
    await turns(20);
    expect([rig.endings, rig.session.memory.count]).toEqual([0, 1]);
    rig.device.gate = async () => {};
    release();
    await closing;
    expect(rig.device.events).toEqual(['stop 0', 'stop 1']);
  });

  it('by us says why in the log, and ends the front-end’s connection', async () => {
    await rig.session.close(new TargetError('VHOST_MEM_TRUNCATED', 'memory is gone'));
    expect(await rig.disconnection()).toContain('memory is gone');
  });
});
