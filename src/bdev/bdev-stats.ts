/**
 * I/O counters of one bdev: a shared block with one row a reactor, so that each page has one writer. The main thread
 * reads them without locks.
 */
import type { IoType } from './bdev-io.ts';

/** Row length in doubles: one 4 KiB page. */
const ROW = 512;
/** Doubles of each I/O type in a row: operations, bytes, failures, nanoseconds. */
const PER_TYPE = 4;
const TYPES = 5;

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
  readonly #cells: Float64Array;
  /** By type: operations that the latency stands for. */
  readonly #timedOperations: number[];

  constructor(stats: SharedArrayBuffer, reactorIndex: number) {
    this.#cells = new Float64Array(stats, reactorIndex * ROW * 8, PER_TYPE * TYPES);
    this.#timedOperations = Array.from({ length: TYPES }, (_, type) => this.#cells[type * PER_TYPE] as number);
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

  /** The operation added last took so long, and stands for those since the one that was timed before. */
  addLatency(type: IoType, latencyNs: number): void {
    const at = type * PER_TYPE;
    const operations = this.#cells[at] as number;
    const count = operations - (this.#timedOperations[type] as number);
    this.#cells[at + 3] = (this.#cells[at + 3] as number) + latencyNs * count;
    this.#timedOperations[type] = operations;
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
