/**
 * Latencies in log-linear buckets: 64 buckets to each power of two, so that a percentile is at most 1/64 too high, from
 * 1 ns to 4.29 s (2^32 ns; longer ones count as that). Recording allocates nothing.
 */
import { assert } from '../base/assert.ts';
import { bucketCount, bucketOf, upperBound } from '../base/log-linear.ts';

const BITS = 6;
const VALUE_MAX = 2 ** 32 - 1;
const BUCKETS = bucketCount(BITS);

export class LatencyHistogram {
  /** Counts by bucket. */
  readonly counts = new Float64Array(BUCKETS);
  count = 0;
  /** Sum of all values, for the mean. */
  sumNs = 0;
  minNs = Number.POSITIVE_INFINITY;
  maxNs = 0;

  record(ns: number): void {
    const value = ns > VALUE_MAX ? VALUE_MAX : ns >>> 0;
    const bucket = bucketOf(value, BITS);
    this.counts[bucket] = (this.counts[bucket] as number) + 1;
    this.count++;
    this.sumNs += ns;
    if (ns < this.minNs) this.minNs = ns;
    if (ns > this.maxNs) this.maxNs = ns;
  }

  /**
   * Smallest bucket bound that `percent` of the values do not exceed (50 is the median); 0 when nothing was recorded.
   */
  percentile(percent: number): number {
    assert(percent > 0 && percent <= 100, 'a percentile is above 0 and at most 100');
    const rank = Math.max(1, Math.ceil((this.count * percent) / 100));
    let seen = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      seen += this.counts[bucket] as number;
      if (seen >= rank) return Math.min(upperBound(bucket, BITS), this.maxNs);
    }
    return 0;
  }

  get meanNs(): number {
    return this.count === 0 ? 0 : this.sumNs / this.count;
  }

  merge(other: LatencyHistogram): void {
    for (let i = 0; i < BUCKETS; i++) this.counts[i] = (this.counts[i] as number) + (other.counts[i] as number);
    this.count += other.count;
    this.sumNs += other.sumNs;
    this.minNs = Math.min(this.minNs, other.minNs);
    this.maxNs = Math.max(this.maxNs, other.maxNs);
  }

  clear(): void {
    this.counts.fill(0);
    this.count = 0;
    this.sumNs = 0;
    this.minNs = Number.POSITIVE_INFINITY;
    this.maxNs = 0;
  }
}
