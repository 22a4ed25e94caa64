/**
 * What is counted of one bdev: a shared block with one row a reactor, so that each page has one writer. The main thread
 * reads them without locks.
 *
 * Operations and bytes are exact. Latencies and places come from a sample of the requests (request-sampler.ts), each of
 * which stands for those before it.
 */
import { IoType } from './bdev-io.ts';
import { LATENCY_CELLS, Latencies, type LatencyBuckets } from './latencies.ts';

/** Doubles of each I/O type: operations, bytes, failures. */
const PER_TYPE = 3;
/** A disk is cut into so many regions of the same size. */
export const REGIONS = 256;

// A row, in doubles. Its parts begin on pages of their own, and those that are not used are never touched.
const PAGE = 512;
const REGIONS_AT = PAGE;
const LATENCIES_AT = REGIONS_AT + PAGE;
const ROW = LATENCIES_AT + Math.ceil(LATENCY_CELLS / PAGE) * PAGE;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ } = IoType;

export interface IoCounts {
  readonly operations: number;
  readonly bytes: number;
  readonly failures: number;
  /** From submission to completion, of all operations together: estimated from those that were timed. */
  readonly latencyNs: number;
}

export function createStats(reactorCount: number): SharedArrayBuffer {
  return new SharedArrayBuffer(reactorCount * ROW * 8);
}

/** A reactor's own row. */
export class StatsRow {
  readonly latencies: Latencies;
  readonly #cells: Float64Array;

  constructor(stats: SharedArrayBuffer, reactorIndex: number) {
    this.latencies = latenciesOf(stats, reactorIndex);
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
    latencyNs: latenciesOf(stats, reactorIndex).sumNs(type),
  };
}

/** Of all reactors. */
export function readLatencies(stats: SharedArrayBuffer, type: IoType): LatencyBuckets {
  return sumOfRows(stats, (row) => latenciesOf(stats, row).buckets(type));
}

/** Requests of all reactors by the region where they began: reads, and what changes the disk. */
export function readRegions(stats: SharedArrayBuffer, kind: 'reads' | 'writes'): Float64Array {
  const at = REGIONS_AT + (kind === 'reads' ? 0 : REGIONS);
  return sumOfRows(stats, (row) => new Float64Array(stats, (row * ROW + at) * 8, REGIONS));
}

function latenciesOf(stats: SharedArrayBuffer, row: number): Latencies {
  return new Latencies(new Float64Array(stats, (row * ROW + LATENCIES_AT) * 8, LATENCY_CELLS));
}

function sumOfRows(stats: SharedArrayBuffer, cellsOf: (row: number) => Float64Array): Float64Array {
  const sum = cellsOf(0).slice();
  for (let row = 1; row < statsRows(stats); row++) {
    cellsOf(row).forEach((count, i) => {
      sum[i] = (sum[i] as number) + count;
    });
  }
  return sum;
}
