/** A front-end that sends anything in any order harms nobody but itself. */
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import {
  memoryTable,
  PROTOCOL_FEATURES,
  PROTOCOL_FEATURES_BIT,
  SessionRig,
  singleRegion,
  vringAddr,
  vringState,
} from '../../test/support/session-rig.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { OwnedMemory } from '../initiator/owned-memory.ts';
import { closeFd, createEventFd } from '../sys/events.ts';
import { encodeU64, REQUESTS, type RequestName } from './messages.ts';

const NO_FD_BIT = 0x100;

interface Step {
  readonly code: number;
  readonly payload: (memory: OwnedMemory) => Uint8Array;
  readonly fds: 'none' | 'event' | 'two events' | 'memory';
  readonly needReply: boolean;
}

const ring = fc.oneof({ weight: 8, arbitrary: fc.nat(1) }, { weight: 1, arbitrary: fc.integer({ min: 2, max: 300 }) });
const fdBit = fc.constantFrom(0, 0, NO_FD_BIT);

/** Requests that are right more often than not, so that the session gets somewhere. */
const SENSIBLE: Partial<Record<RequestName, fc.Arbitrary<Pick<Step, 'payload' | 'fds'>>>> = {
  SET_FEATURES: fc
    .constantFrom(0n, PROTOCOL_FEATURES_BIT)
    .map((value) => ({ payload: () => encodeU64(value), fds: 'none' })),
  SET_PROTOCOL_FEATURES: fc.constant({ payload: () => encodeU64(PROTOCOL_FEATURES), fds: 'none' }),
  SET_MEM_TABLE: fc.constant({ payload: memoryTable, fds: 'memory' }),
  ADD_MEM_REG: fc.nat(1).map((at) => ({
    payload: (memory) =>
      singleRegion({ ...(memory.regions[0] as OwnedMemory['regions'][number]), guestAddress: at << 30 }),
    fds: 'memory',
  })),
  REM_MEM_REG: fc.nat(1).map((at) => ({
    payload: (memory) =>
      singleRegion({ ...(memory.regions[0] as OwnedMemory['regions'][number]), guestAddress: at << 30 }),
    fds: 'none',
  })),
  SET_VRING_NUM: ring.map((index) => ({ payload: () => vringState(index, 128), fds: 'none' })),
  SET_VRING_BASE: fc
    .tuple(ring, fc.nat(0xffff))
    .map(([index, base]) => ({ payload: () => vringState(index, base), fds: 'none' })),
  SET_VRING_ADDR: fc
    .tuple(ring, fc.nat(40))
    .map(([index, page]) => ({ payload: (memory) => vringAddr(memory, index, page), fds: 'none' })),
  SET_VRING_ENABLE: fc
    .tuple(ring, fc.nat(2))
    .map(([index, num]) => ({ payload: () => vringState(index, num), fds: 'none' })),
  GET_VRING_BASE: ring.map((index) => ({ payload: () => vringState(index, 0), fds: 'none' })),
  SET_VRING_KICK: fc
    .tuple(ring, fdBit)
    .map(([index, bit]) => ({ payload: () => encodeU64(index | bit), fds: bit === 0 ? 'event' : 'none' })),
  SET_VRING_CALL: fc
    .tuple(ring, fdBit)
    .map(([index, bit]) => ({ payload: () => encodeU64(index | bit), fds: bit === 0 ? 'event' : 'none' })),
  SET_VRING_ERR: fc
    .tuple(ring, fdBit)
    .map(([index, bit]) => ({ payload: () => encodeU64(index | bit), fds: bit === 0 ? 'event' : 'none' })),
  RESET_OWNER: fc.constant({ payload: () => new Uint8Array(0), fds: 'none' }),
  RESET_DEVICE: fc.constant({ payload: () => new Uint8Array(0), fds: 'none' }),
};

const sensible = fc.oneof(
  ...Object.entries(SENSIBLE).map(([name, body]) =>
    body.map((rest) => ({ code: REQUESTS[name as RequestName].code, ...rest })),
  ),
);
const odd = fc.record({
  code: fc.nat(45),
  payload: fc.uint8Array({ maxLength: 80 }).map((bytes) => () => bytes),
  fds: fc.constantFrom('none', 'event', 'two events', 'memory'),
});
const step: fc.Arbitrary<Step> = fc
  .tuple(fc.oneof({ weight: 12, arbitrary: sensible }, { weight: 1, arbitrary: odd }), fc.integer({ min: 0, max: 19 }))
  .map(([one, die]) => ({ ...one, needReply: die !== 0 }) as Step);

function sendStep(rig: SessionRig, memory: OwnedMemory, { code, payload, fds, needReply }: Step): void {
  const events = fds === 'event' || fds === 'two events' ? [createEventFd()] : [];
  const [event] = events;
  const sent = { none: [], event: [event], 'two events': [event, event], memory: [memory.regions[0]?.fd] }[fds];
  rig.sendRaw(code, payload(memory), { fds: sent as number[], needReply });
  for (const fd of events) closeFd(fd);
}

it('ends with every ring stopped and every descriptor closed, whatever a front-end sent', async () => {
  const memory = OwnedMemory.single(512 << 10, 0);
  await turns();
  const before = openFdCount();
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.boolean(), async (steps, isNegotiated) => {
      const rig = isNegotiated ? await SessionRig.negotiated() : new SessionRig();
      for (const one of steps) {
        // It may have ended the connection: what is sent then is lost.
        sendStep(rig, memory, one);
        await turns(1);
        const running = rig.session.runningVrings.map(({ index }) => index);
        expect(running.every((index) => rig.device.running.has(index))).toBe(true);
      }
      await turns(3);
      await rig.close();
      // An `error` is a failure of ours; what a front-end does wrong is a warning.
      expect(rig.lines.filter((line) => line.startsWith('error'))).toEqual([]);
      expect([rig.device.running.size, rig.device.endCount, rig.endings, rig.session.memory.count]).toEqual([
        0, 1, 1, 0,
      ]);
      await until(() => openFdCount() === before, 'end without a descriptor left over');
    }),
    { numRuns: 120 },
  );
  memory.close();
});
