/** What threads share of a mirror: locks of units, legs, regions. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MirrorState, regionBytesOf, UnitRange } from './mirror-state.ts';

const TABLE = 2 ** 16;

describe('the units of a range', () => {
  it('are each taken once, in the order of the table, whatever their place', () => {
    const place = fc.tuple(
      fc.maxSafeNat(),
      fc.oneof(fc.integer({ min: 1, max: 3000 }), fc.integer({ min: 1, max: 2 ** 20 })),
      fc.constantFrom(1, 8),
    );
    fc.assert(
      fc.property(place, ([at, count, unitBlocks]) => {
        const first = at % 2 ** 45;
        const units = new UnitRange();
        units.set(first, count, unitBlocks);
        const taken = Array.from({ length: units.count }, (_, i) => units.at(i));
        expect(taken.every((unit, i) => i === 0 || unit > (taken[i - 1] as number))).toBe(true);
        const [from, to] = [Math.floor(first / unitBlocks), Math.floor((first + count - 1) / unitBlocks)];
        expect(taken.length).toBe(Math.min(to - from + 1, TABLE));
        expect(taken.length === TABLE || taken.every((unit) => (unit - from + 2 ** 50) % TABLE <= to - from)).toBe(
          true,
        );
      }),
      { numRuns: 60 },
    );
  });
});

describe('a unit', () => {
  it('is read by many, and changed by one', () => {
    const state = new MirrorState();
    expect([state.share(3), state.share(3)]).toEqual([true, true]);
    expect(state.claim(3)).toBe(true);
    expect([state.claim(3), state.share(3), state.isQuiet(3)]).toEqual([false, false, false]);
    state.unshare(3);
    state.unshare(3);
    expect(state.isQuiet(3)).toBe(true);
    state.unclaim(3);
    expect(state.share(3)).toBe(true);
  });
});

describe('the legs', () => {
  it('come and go, but for the last one in sync', () => {
    const state = new MirrorState();
    state.addInSync(0);
    state.addTarget(2);
    expect([state.inSync, state.targets, state.written]).toEqual([1, 4, 5]);
    expect(state.drop(0)).toBe(false);
    expect(state.promote(2)).toBe(true);
    expect([state.inSync, state.targets]).toEqual([5, 0]);
    expect([state.drop(0), state.drop(0), state.drop(2)]).toEqual([true, false, false]);
    expect(state.inSync).toBe(4);
    expect(state.promote(1)).toBe(false);
  });
});

describe('a region', () => {
  it('is cleaned when nobody came to it', () => {
    const state = new MirrorState();
    state.enter(7);
    state.setDirty(7);
    expect([state.isIdle(7), state.isDirty(7)]).toEqual([false, true]);
    state.leave(7);
    // It was touched since it was looked at last, and then no more.
    expect(state.isIdle(7)).toBe(true);
    expect(state.startCleaning(7)).toBe(true);
    expect([state.isDirty(7), state.shouldBeMarked(7)]).toEqual([false, false]);
    state.endCleaning(7, true);
    expect(state.isDirty(7)).toBe(false);
  });

  it('stays marked for a write that comes while it is cleaned', () => {
    const state = new MirrorState();
    state.setDirty(7);
    expect(state.startCleaning(7)).toBe(true);
    state.enter(7);
    expect([state.isDirty(7), state.shouldBeMarked(7)]).toEqual([false, true]);
    state.endCleaning(7, true);
    expect([state.isDirty(7), state.shouldBeMarked(7)]).toEqual([false, true]);
    state.setDirty(7);
    state.leave(7);
    expect([state.isIdle(7), state.startCleaning(7)]).toEqual([false, true]);
    state.endCleaning(7, false);
    expect(state.isDirty(7)).toBe(true);
  });

  it('is as large as it must be', () => {
    expect([2 ** 20, 2 ** 30, 2 ** 36, 2 ** 40].map(regionBytesOf)).toEqual([2 ** 20, 2 ** 20, 2 ** 21, 2 ** 25]);
  });
});
