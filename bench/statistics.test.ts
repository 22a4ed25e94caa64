import fc from 'fast-check';
import { expect, test } from 'vitest';
import { pairedRatios, summarize } from './statistics.ts';

test('the median of an odd and of an even number of values', () => {
  expect(summarize([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3 });
  expect(summarize([4, 1, 2, 3])).toEqual({ median: 2.5, min: 1, max: 4 });
});

test('a median lies between the extremes', () => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0, max: 1e9, noNaN: true }), { minLength: 1 }), (values) => {
      const { median, min, max } = summarize(values);
      expect(median).toBeGreaterThanOrEqual(min);
      expect(median).toBeLessThanOrEqual(max);
    }),
  );
});

test('nothing has no median', () => {
  expect(() => summarize([])).toThrow(RangeError);
});

test('ratios are taken pair by pair', () => {
  expect(pairedRatios([10, 30], [5, 10])).toEqual([2, 3]);
});
