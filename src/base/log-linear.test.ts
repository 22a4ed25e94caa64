import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bucketCount, bucketOf, upperBound } from './log-linear.ts';

const bits = fc.integer({ min: 1, max: 10 });
const values = fc.oneof(fc.integer({ min: 0, max: 2 ** 32 - 1 }), fc.integer({ min: 0, max: 5000 }));

describe('log-linear buckets', () => {
  it('hold a value between their bounds, which are close', () => {
    fc.assert(
      fc.property(values, bits, (value, precision) => {
        const bucket = bucketOf(value, precision);
        const lower = bucket === 0 ? 0 : upperBound(bucket - 1, precision) + 1;
        expect(value).toBeGreaterThanOrEqual(lower);
        expect(value).toBeLessThanOrEqual(upperBound(bucket, precision));
        expect(upperBound(bucket, precision) - lower).toBeLessThanOrEqual(lower / 2 ** precision);
      }),
    );
  });

  it('are as many as they say', () => {
    for (const precision of [4, 5, 6, 7]) {
      expect(bucketOf(2 ** 32 - 1, precision)).toBe(bucketCount(precision) - 1);
      expect(upperBound(bucketCount(precision) - 1, precision)).toBe(2 ** 32 - 1);
    }
  });
});
