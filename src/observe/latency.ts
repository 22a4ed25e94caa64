/** Latencies between two samples. */
import { type Bucket, percentileOf } from '../base/percentile.ts';
import type { LatencyCount } from './sample.ts';

const NANO = 1e9;

export interface LatencyRate {
  /** Of the requests in between; 0 without any, as the others. */
  readonly meanSeconds: number;
  readonly p50Seconds: number;
  readonly p99Seconds: number;
  readonly p999Seconds: number;
}

const NONE: LatencyCount = { sumSeconds: 0, buckets: [] };

function total(counts: readonly Bucket[]): number {
  return counts.reduce((sum, [, count]) => sum + count, 0);
}

/** What came since. What went down began anew. */
export function growthOf(before: readonly Bucket[], now: readonly Bucket[]): readonly Bucket[] {
  if (total(now) < total(before)) return now;
  const old = new Map(before);
  return now.flatMap(([key, count]): Bucket[] => {
    const growth = count - (old.get(key) ?? 0);
    return growth > 0 ? [[key, growth]] : [];
  });
}

export function latencyRate(before: LatencyCount = NONE, now: LatencyCount = NONE): LatencyRate {
  const buckets = growthOf(before.buckets, now.buckets);
  const count = total(buckets);
  const percentile = (percent: number): number => percentileOf(buckets, percent) / NANO;
  const sum = now.sumSeconds < before.sumSeconds ? now.sumSeconds : now.sumSeconds - before.sumSeconds;
  return {
    meanSeconds: count === 0 ? 0 : sum / count,
    p50Seconds: percentile(50),
    p99Seconds: percentile(99),
    p999Seconds: percentile(99.9),
  };
}

/** Of several, as one. */
export function mergeBuckets(all: readonly (readonly Bucket[])[]): readonly Bucket[] {
  const sums = new Map<number, number>();
  for (const [upper, count] of all.flat()) sums.set(upper, (sums.get(upper) ?? 0) + count);
  return [...sums].sort(([a], [b]) => a - b);
}
