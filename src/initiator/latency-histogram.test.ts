import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LatencyHistogram } from './latency-histogram.ts';

const latencies = fc.array(fc.integer({ min: 0, max: 2 ** 32 - 1 }), { minLength: 1, maxLength: 200 });

function histogramOf(values: readonly number[]): LatencyHistogram {
  const histogram = new LatencyHistogram();
  for (const value of values) histogram.record(value);
  return histogram;
}

describe('latency histogram', () => {
  it('gives percentiles that are never too low and at most 1/64 too high', () => {
    fc.assert(
      fc.property(latencies, fc.double({ min: 0.001, max: 100, noNaN: true }), (values, percent) => {
        const sorted = values.toSorted((a, b) => a - b);
        const exact = sorted[Math.max(0, Math.ceil((values.length * percent) / 100) - 1)] as number;
        const given = histogramOf(values).percentile(percent);
        expect(given).toBeGreaterThanOrEqual(exact);
        expect(given).toBeLessThanOrEqual(exact + exact / 64);
      }),
    );
  });

  it('holds small values exactly', () => {
    for (let value = 0; value < 128; value++) expect(histogramOf([value]).percentile(100)).toBe(value);
  });

  it('knows the exact minimum, maximum, mean and count', () => {
    fc.assert(
      fc.property(latencies, (values) => {
        const histogram = histogramOf(values);
        expect(histogram.minNs).toBe(Math.min(...values));
        expect(histogram.maxNs).toBe(Math.max(...values));
        expect(histogram.count).toBe(values.length);
        expect(histogram.meanNs).toBeCloseTo(values.reduce((a, b) => a + b, 0) / values.length, 3);
      }),
    );
  });

  it('merges into what one histogram of all values would be', () => {
    fc.assert(
      fc.property(latencies, latencies, (left, right) => {
        const merged = histogramOf(left);
        merged.merge(histogramOf(right));
        expect(merged).toEqual(histogramOf([...left, ...right]));
      }),
    );
  });

  it('counts what is longer than 4.29 s as that', () => {
    const histogram = histogramOf([2 ** 32, 1e12]);
    expect(histogram.percentile(1)).toBe(2 ** 32 - 1);
    expect(histogram.maxNs).toBe(1e12);
  });

  it('is empty after clear', () => {
    const histogram = histogramOf([1, 2, 3]);
    histogram.clear();
    expect(histogram).toEqual(new LatencyHistogram());
    expect(histogram.percentile(50)).toBe(0);
  });
});
