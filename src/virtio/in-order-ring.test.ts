/** Chains that complete in any order go back in the order in which they came, on rings of both layouts. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PackedRingRig } from '../../test/support/packed-ring-rig.ts';
import { RIG_GUEST_ADDRESS } from '../../test/support/ring-rig.ts';
import { RingRig } from '../../test/support/split-ring-rig.ts';
import { AssertionError } from '../base/assert.ts';
import { Chain } from './chain.ts';
import { InOrderRing } from './in-order-ring.ts';

const SIZE = 8;
const SEGMENT = { gpa: RIG_GUEST_ADDRESS + (1 << 20), lengthBytes: 16, isWritable: true };

describe.each([
  ['split', () => new RingRig({ size: SIZE })],
  ['packed', () => new PackedRingRig({ size: SIZE })],
] as const)('a %s ring whose chains go back in order', (_, createRig) => {
  const chain = new Chain();

  it('shows each with its own length when all before it were shown', () => {
    // Each step takes a chain (true) or completes one of those that were taken.
    const step = fc.oneof(fc.constant(true as const), fc.nat(SIZE - 1));
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 120, size: 'max' }), (steps) => {
        const rig = createRig();
        const ring = new InOrderRing(rig.device);
        const order: number[] = [];
        const isDone = new Map<number, boolean>();
        for (const one of steps) {
          if (one === true) {
            if (rig.driver.freeCount === 0) continue;
            const head = rig.submit([SEGMENT]);
            expect([ring.look(), ring.pop(chain), chain.head]).toEqual([1, true, head]);
            order.push(head);
            isDone.set(head, false);
          } else {
            const open = order.filter((head) => isDone.get(head) === false);
            const head = open[one % Math.max(open.length, 1)];
            if (head === undefined) continue;
            ring.push(head, head + 1);
            isDone.set(head, true);
          }
          ring.publish();
          while (order.length > 0 && isDone.get(order[0] as number) === true) {
            const head = order.shift() as number;
            expect([rig.driver.popUsed(), rig.driver.usedLen]).toEqual([head, head + 1]);
            rig.driver.freeChain(head);
          }
          expect(rig.driver.hasUsed()).toBe(false);
          expect(ring.inFlightCount).toBe(order.length);
        }
        rig.close();
      }),
      { numRuns: 100 },
    );
  });

  it('forgets one that is put back', () => {
    const rig = createRig();
    const ring = new InOrderRing(rig.device);
    const [first, second] = [rig.submit([SEGMENT]), rig.submit([SEGMENT])];
    expect([ring.pop(chain), ring.pop(chain)]).toEqual([true, true]);
    ring.unpop(second);
    ring.push(first, 1);
    expect([ring.pop(chain), chain.head]).toEqual([true, second]);
    ring.push(second, 2);
    ring.publish();
    expect([rig.driver.popUsed(), rig.driver.popUsed()]).toEqual([first, second]);
    rig.close();
  });

  it('takes each back once: more is our own mistake', () => {
    const rig = createRig();
    const ring = new InOrderRing(rig.device);
    const [first, second] = [rig.submit([SEGMENT]), rig.submit([SEGMENT])];
    ring.pop(chain);
    ring.pop(chain);
    ring.push(second, 1);
    expect(() => ring.push(second, 1)).toThrow(AssertionError);
    expect(() => ring.unpop(first)).toThrow(AssertionError);
    rig.close();
  });
});
