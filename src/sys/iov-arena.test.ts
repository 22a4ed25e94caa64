/** Segment lists of a reactor: never one for two requests. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../base/assert.ts';
import { IOV_LONG_ENTRIES, IOV_SHORT_ENTRIES, IovArena, NO_LIST } from './iov-arena.ts';
import { MappingViews } from './mapping.ts';

describe('IovArena', () => {
  it('never hands out lists that overlap, and says when it has none', () => {
    const step = fc.record({ kind: fc.constantFrom('short', 'long', 'release', 'release'), which: fc.nat() });
    fc.assert(
      fc.property(fc.nat(6), fc.nat(3), fc.array(step, { maxLength: 80, size: 'max' }), (shorts, longs, steps) => {
        const arena = new IovArena(shorts, longs + 1);
        const owner = new Set<number>();
        const taken: { first: number; entries: number }[] = [];
        for (const { kind, which } of steps) {
          if (kind === 'release') {
            const [list] = taken.splice(which % Math.max(taken.length, 1), 1);
            if (list === undefined) continue;
            for (let i = 0; i < list.entries; i++) owner.delete(list.first + i);
            arena.release(list.first);
            continue;
          }
          const entries = kind === 'short' ? IOV_SHORT_ENTRIES : IOV_LONG_ENTRIES;
          const out = taken.filter((list) => list.entries === entries).length;
          const first = kind === 'short' ? arena.takeShort() : arena.takeLong();
          expect(first === NO_LIST).toBe(out === (kind === 'short' ? shorts : longs + 1));
          if (first === NO_LIST) continue;
          expect(first >= 0 && first + entries <= arena.capacity).toBe(true);
          const own = Array.from({ length: entries }, (_, i) => first + i);
          expect(own.some((entry) => owner.has(entry))).toBe(false);
          for (const entry of own) owner.add(entry);
          taken.push({ first, entries });
        }
        for (const { first } of taken) arena.release(first);
        const all = Array.from({ length: shorts }, () => arena.takeShort());
        expect(new Set([...all, NO_LIST]).size).toBe(shorts + 1);
        arena.close();
      }),
      { numRuns: 60 },
    );
  });

  it('keeps what is written to an entry, and only there', () => {
    const arena = new IovArena(4, 1);
    const entry = fc.record({
      index: fc.nat(arena.capacity - 1),
      address: fc.maxSafeNat(),
      length: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    });
    const model = new Map<number, readonly [number, number]>();
    fc.assert(
      fc.property(entry, ({ index, address, length }) => {
        arena.set(index, address, length);
        model.set(index, [address, length]);
        for (const [at, expected] of model) expect([arena.addressOf(at), arena.lengthOf(at)]).toEqual(expected);
      }),
    );
    arena.close();
  });

  it('lays entries out as `struct iovec`', () => {
    const arena = new IovArena(1, 1);
    arena.set(1, 0x0012_3456_789a_bcde, 0xfedc_ba98);
    const views = new MappingViews();
    const mapping = { address: arena.address, lengthBytes: arena.capacity * 16 };
    const view = new DataView(views.view(mapping, 16, 16));
    expect([view.getBigUint64(0, true), view.getBigUint64(8, true)]).toEqual([0x0012_3456_789a_bcden, 0xfedc_ba98n]);
    views.close();
    arena.close();
  });

  it('takes a list that was just given back before any other', () => {
    const arena = new IovArena(4, 2);
    arena.takeShort();
    const second = arena.takeShort();
    arena.release(second);
    expect(arena.takeShort()).toBe(second);
    const long = arena.takeLong();
    arena.release(long);
    expect(arena.takeLong()).toBe(long);
    arena.close();
  });

  it('is given back no more than it handed out: more is our own mistake', () => {
    const arena = new IovArena(2, 1);
    const short = arena.takeShort();
    arena.release(short);
    expect(() => arena.release(short)).toThrow(AssertionError);
    const long = arena.takeLong();
    arena.release(long);
    expect(() => arena.release(long)).toThrow(AssertionError);
    arena.close();
  });

  it('has room for the longest chain in a long list', () => {
    expect(IOV_LONG_ENTRIES).toBeGreaterThanOrEqual(1024);
    const arena = new IovArena();
    expect(arena.takeShort()).not.toBe(NO_LIST);
    expect(arena.takeLong()).not.toBe(NO_LIST);
    arena.close();
  });
});
