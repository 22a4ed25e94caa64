/** Kicks and calls of the device's split ring: when it wants one, when it gives one (virtio 1.3 §2.7.7, §2.7.10). */
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { RIG_GUEST_ADDRESS, type RingRigOptions } from '../../test/support/ring-rig.ts';
import { RingRig } from '../../test/support/split-ring-rig.ts';
import { Chain } from './chain.ts';

const SPACE = RIG_GUEST_ADDRESS + (2 << 20);
const rigs: RingRig[] = [];
afterEach(() => {
  for (const rig of rigs.splice(0)) rig.close();
});

function rigOf(options: RingRigOptions = {}): RingRig {
  const rig = new RingRig(options);
  rigs.push(rig);
  return rig;
}

const CHAIN = new Chain();
const BUFFER = [{ gpa: SPACE, lengthBytes: 16, isWritable: true }];

/** Carries `count` requests through, up to where their used elements wait to be published. */
function complete(rig: RingRig, count = 1): void {
  for (let i = 0; i < count; i++) {
    const head = rig.submit(BUFFER);
    rig.device.pop(CHAIN);
    rig.device.push(head, 1);
    rig.driver.freeChain(head);
  }
}

describe('calls without EVENT_IDX', () => {
  it('are given for every publish that shows something, and only then', () => {
    const rig = rigOf();
    expect(rig.device.publish()).toBe(false);
    complete(rig);
    expect(rig.device.publish()).toBe(true);
    expect(rig.device.publish()).toBe(false);
    complete(rig, 3);
    expect(rig.device.publish()).toBe(true);
  });

  it('are not given while the driver asks for none', () => {
    const rig = rigOf();
    rig.driver.refuseCalls();
    complete(rig);
    expect(rig.device.publish()).toBe(false);
    expect(rig.driver.usedIdx()).toBe(1);
    rig.driver.wantCalls();
    complete(rig);
    expect(rig.device.publish()).toBe(true);
  });

  it('take only the first flag for a request for none', () => {
    const rig = rigOf();
    rig.driver.available[0] = 0xfffe;
    complete(rig);
    expect(rig.device.publish()).toBe(true);
  });

  it('do not look at used_event', () => {
    const rig = rigOf({ size: 4 });
    rig.driver.available[2 + 4] = 0x7fff;
    complete(rig);
    expect(rig.device.publish()).toBe(true);
  });
});

describe('calls with EVENT_IDX', () => {
  it('are given for the first publish after a start, whatever used_event says', () => {
    const rig = rigOf({ hasEventIdx: true });
    rig.driver.wantCallAt(1000);
    complete(rig);
    expect(rig.device.publish()).toBe(true);
    complete(rig);
    expect(rig.device.publish()).toBe(false);
    rig.device.close();
    rig.device = rig.startDevice(2);
    complete(rig);
    expect(rig.device.publish()).toBe(true);
  });

  it('do not look at the flag that asks for none', () => {
    const rig = rigOf({ hasEventIdx: true });
    complete(rig);
    rig.device.publish();
    rig.driver.available[0] = 1;
    rig.driver.wantCallAt(1);
    complete(rig);
    expect(rig.device.publish()).toBe(true);
  });

  it('follow the formula of the specification, from any index and for any batch', () => {
    const index = fc.oneof(
      fc.integer({ min: 0, max: 0xffff }),
      fc.integer({ min: 0xfff8, max: 0x10008 }).map((i) => i & 0xffff),
    );
    const batch = fc.record({
      count: fc.integer({ min: 1, max: 16 }),
      event: index,
      isNear: fc.boolean(),
      delta: fc.integer({ min: -3, max: 18 }),
    });
    fc.assert(
      fc.property(index, fc.array(batch, { minLength: 1, maxLength: 6 }), (base, batches) => {
        const rig = new RingRig({ size: 16, hasEventIdx: true, base });
        complete(rig);
        rig.device.publish();
        let old = (base + 1) & 0xffff;
        for (const { count, event, isNear, delta } of batches) {
          const usedEvent = isNear ? (old + delta) & 0xffff : event;
          rig.driver.wantCallAt(usedEvent);
          complete(rig, count);
          const now = (old + count) & 0xffff;
          // In words: the element that the driver waits for is among those that were just shown.
          const shown = Array.from({ length: count }, (_, i) => (old + i) & 0xffff);
          expect(rig.device.publish()).toBe(shown.includes(usedEvent));
          old = now;
        }
        rig.close();
      }),
      { numRuns: 300 },
    );
  });
});

describe.each([{ hasEventIdx: false }, { hasEventIdx: true }])('kicks with %o', ({ hasEventIdx }) => {
  it('are not asked for while the queue is polled', () => {
    const rig = rigOf({ hasEventIdx, size: 256, base: 5 });
    rig.device.disarmKick();
    // With EVENT_IDX the first publish may ask: avail_event holds whatever was there.
    rig.submit(BUFFER);
    rig.device.pop(CHAIN);
    for (let i = 0; i < 100; i++) {
      rig.driver.expose(rig.driver.addChain(BUFFER));
      expect(rig.driver.publish()).toBe(false);
      expect(rig.device.pop(CHAIN)).toBe(true);
    }
  });

  it('are asked for once the device is about to sleep, from any index', () => {
    for (const base of [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff]) {
      const rig = rigOf({ hasEventIdx, base });
      rig.device.disarmKick();
      expect(rig.device.armKick()).toBe(false);
      rig.driver.expose(rig.driver.addChain(BUFFER));
      expect(rig.driver.publish()).toBe(true);
      expect(rig.device.hasAvailable()).toBe(true);
    }
  });

  it('are asked for again after each sleep', () => {
    const rig = rigOf({ hasEventIdx, base: 0xfffc });
    for (let i = 0; i < 10; i++) {
      expect(rig.device.armKick()).toBe(false);
      const head = rig.driver.addChain(BUFFER);
      rig.driver.expose(head);
      expect(rig.driver.publish()).toBe(true);
      rig.device.disarmKick();
      rig.device.pop(CHAIN);
      rig.device.push(head, 1);
      rig.device.publish();
      rig.driver.freeChain(head);
    }
  });

  it('are not needed for what came before the device asked: it says so', () => {
    const rig = rigOf({ hasEventIdx });
    rig.device.disarmKick();
    rig.submit(BUFFER);
    expect(rig.device.armKick()).toBe(true);
    rig.device.pop(CHAIN);
    expect(rig.device.armKick()).toBe(false);
  });

  it('are never lost: whatever comes is either seen when arming or kicked for afterwards', () => {
    const step = fc.constantFrom('publish', 'publish', 'take', 'arm', 'disarm');
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 40, size: 'max' }),
        fc.integer({ min: 0, max: 0xffff }),
        (steps, base) => {
          const rig = new RingRig({ hasEventIdx, base, size: 64 });
          rig.device.disarmKick();
          let isSleeping = false;
          for (const one of steps) {
            if (one === 'publish') {
              const head = rig.driver.addChain(BUFFER);
              rig.driver.expose(head);
              const isKicked = rig.driver.publish();
              // A kick wakes the device; a sleeping device that is not kicked would sleep for ever.
              expect(isSleeping && !isKicked).toBe(false);
              isSleeping &&= !isKicked;
            } else if (one === 'take' && !isSleeping) {
              while (rig.device.pop(CHAIN)) rig.device.push(CHAIN.head, 0);
              rig.device.publish();
              for (let head = rig.driver.popUsed(); head >= 0; head = rig.driver.popUsed()) rig.driver.freeChain(head);
            } else if (one === 'arm') {
              isSleeping = !rig.device.armKick();
            } else if (one === 'disarm' && !isSleeping) {
              rig.device.disarmKick();
            }
          }
          rig.close();
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('kicks without EVENT_IDX', () => {
  it('are refused and asked for by the flag of the used ring', () => {
    const rig = rigOf();
    rig.device.disarmKick();
    expect(rig.driver.used16[0]).toBe(1);
    rig.device.armKick();
    expect(rig.driver.used16[0]).toBe(0);
  });
});

describe('kicks with EVENT_IDX', () => {
  it('are asked for by avail_event alone: the flags stay 0', () => {
    const rig = rigOf({ hasEventIdx: true, size: 4, base: 0xfffe });
    rig.device.disarmKick();
    rig.device.armKick();
    expect([rig.driver.used16[0], rig.driver.used16[2 + 4 * 4]]).toEqual([0, 0xfffe]);
    rig.submit(BUFFER);
    rig.device.pop(CHAIN);
    rig.device.disarmKick();
    expect([rig.driver.used16[0], rig.driver.used16[2 + 4 * 4]]).toEqual([0, 0xfffe]);
    rig.device.armKick();
    expect(rig.driver.used16[2 + 4 * 4]).toBe(0xffff);
  });
});
