/**
 * What is counted of one bdev: a shared block with one row a reactor, so that each page has one writer. The main thread
 * reads them without locks.
 *
 * Operations and bytes are exact. Latencies and places come from a sample of the requests (request-sampler.ts), each of
 * which stands for those before it.
 */
import { bucketCount, bucketOf, upperBound } from '../base/log-linear.ts';
import { STAMP_NS } from '../sys/thread.ts';
import { IoType } from './bdev-io.ts';

const TYPES = Object.keys(IoType).length;
/** Doubles of each I/O type: operations, bytes, failures, nanoseconds of all that were sampled. */
const PER_TYPE = 4;
/** A disk is cut into so many regions of the same size. */
export const REGIONS = 256;
/** Buckets of latencies are a 32nd wide: percentiles are at most 3 % too high. */
const BITS = 5;
const BUCKETS = bucketCount(BITS);

// A row, in doubles. Its parts begin on pages of their own, and those that are not used are never touched.
const PAGE = 512;
const REGIONS_AT = PAGE;
const BUCKETS_AT = REGIONS_AT + PAGE;
const BUCKETS_STEP = 2 * PAGE;
const ROW = BUCKETS_AT + TYPES * BUCKETS_STEP;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ } = IoType;
const STEP_NS = STAMP_NS;

export interface IoCounts {
  readonly operations: number;
  readonly bytes: number;
  readonly failures: number;
  /** From submission to completion, of all operations together: estimated from those that were timed. */
  readonly latencyNs: number;
}

/** How many of the sampled latencies fell into each bucket. */
export type LatencyBuckets = Float64Array;

export function createStats(reactorCount: number): SharedArrayBuffer {
  return new SharedArrayBuffer(reactorCount * ROW * 8);
}

/** A reactor's own row. */
export class StatsRow {
  readonly #cells: Float64Array;

  constructor(stats: SharedArrayBuffer, reactorIndex: number) {
    this.#cells = new Float64Array(stats, reactorIndex * ROW * 8, ROW);
  }

  add(type: IoType, lengthBytes: number, isFailure: boolean): void {
    const at = type * PER_TYPE;
    if (isFailure) {
      this.#cells[at + 2] = (this.#cells[at + 2] as number) + 1;
      return;
    }
    this.#cells[at] = (this.#cells[at] as number) + 1;
    this.#cells[at + 1] = (this.#cells[at + 1] as number) + lengthBytes;
  }

  /** A request that took so long (in steps of the clock's stamps) stands for `weight` ones. */
  addLatency(type: IoType, steps: number, weight: number): void {
    const cells = this.#cells;
    const sum = type * PER_TYPE + 3;
    cells[sum] = (cells[sum] as number) + steps * STEP_NS * weight;
    const bucket = BUCKETS_AT + type * BUCKETS_STEP + bucketOf(steps, BITS);
    cells[bucket] = (cells[bucket] as number) + weight;
  }

  /** A request that began in this region stands for `weight` ones. */
  addPlace(type: IoType, region: number, weight: number): void {
    const cell = REGIONS_AT + (type === READ ? 0 : REGIONS) + region;
    this.#cells[cell] = (this.#cells[cell] as number) + weight;
  }
}

/** Rows of a block: reactors. */
export function statsRows(stats: SharedArrayBuffer): number {
  return stats.byteLength / (ROW * 8);
}

/** Counts of one reactor. */
export function readStats(stats: SharedArrayBuffer, reactorIndex: number, type: IoType): IoCounts {
  const cells = new Float64Array(stats, reactorIndex * ROW * 8 + type * PER_TYPE * 8, PER_TYPE);
  return {
    operations: cells[0] as number,
    bytes: cells[1] as number,
    failures: cells[2] as number,
    latencyNs: cells[3] as number,
  };
}

/** Of all reactors. */
export function readLatencies(stats: SharedArrayBuffer, type: IoType): LatencyBuckets {
  return sumOfRows(stats, BUCKETS_AT + type * BUCKETS_STEP, BUCKETS);
}

/** Shortest and longest latency of a bucket, in steps of the clock's stamps. */
export function boundsOf(bucket: number): { lower: number; upper: number } {
  return { lower: bucket === 0 ? 0 : upperBound(bucket - 1, BITS) + 1, upper: upperBound(bucket, BITS) };
}

/** Requests of all reactors by the region where they began: reads, and what changes the disk. */
export function readRegions(stats: SharedArrayBuffer, kind: 'reads' | 'writes'): Float64Array {
  return sumOfRows(stats, REGIONS_AT + (kind === 'reads' ? 0 : REGIONS), REGIONS);
}

function sumOfRows(stats: SharedArrayBuffer, at: number, length: number): Float64Array {
  const sum = new Float64Array(length);
  for (let row = 0; row < statsRows(stats); row++) {
    const cells = new Float64Array(stats, (row * ROW + at) * 8, length);
    for (let i = 0; i < length; i++) sum[i] = (sum[i] as number) + (cells[i] as number);
  }
  return sum;
}
