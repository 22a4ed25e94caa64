/**
 * How long requests took, by type: histograms in shared memory with one writer. Which requests are timed, and how many
 * each stands for, is the sampler's matter (request-sampler.ts).
 *
 *   sum of the first type … sum of the last   buckets of the first type … buckets of the last
 */
import { bucketCount, bucketOf, upperBound } from '../base/log-linear.ts';
import { STAMP_NS } from '../sys/thread.ts';
import { IoType } from './bdev-io.ts';

const TYPES = Object.keys(IoType).length;
/** Buckets are a 32nd wide: percentiles are at most 3 % too high. */
const BITS = 5;
const BUCKETS = bucketCount(BITS);
/** Doubles of the histograms. */
export const LATENCY_CELLS = TYPES + TYPES * BUCKETS;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const STEP_NS = STAMP_NS;

/** How many of the sampled latencies fell into each bucket. */
export type LatencyBuckets = Float64Array;

export class Latencies {
  readonly #cells: Float64Array;

  /** `cells`: `LATENCY_CELLS` of them. */
  constructor(cells: Float64Array) {
    this.#cells = cells;
  }

  /** A request that took so long (in steps of the clock's stamps) stands for `weight` ones. */
  add(type: IoType, steps: number, weight: number): void {
    const cells = this.#cells;
    cells[type] = (cells[type] as number) + steps * STEP_NS * weight;
    const bucket = TYPES + type * BUCKETS + bucketOf(steps, BITS);
    cells[bucket] = (cells[bucket] as number) + weight;
  }

  /** Nanoseconds of all requests of a type together. */
  sumNs(type: IoType): number {
    return this.#cells[type] as number;
  }

  buckets(type: IoType): LatencyBuckets {
    const at = TYPES + type * BUCKETS;
    return this.#cells.subarray(at, at + BUCKETS);
  }
}

/** Shortest and longest latency of a bucket, in steps of the clock's stamps. */
export function boundsOf(bucket: number): { lower: number; upper: number } {
  return { lower: bucket === 0 ? 0 : upperBound(bucket - 1, BITS) + 1, upper: upperBound(bucket, BITS) };
}
