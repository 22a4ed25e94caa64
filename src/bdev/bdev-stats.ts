/**
 * I/O counters of one bdev: a shared block with one row a reactor, so that each page has one writer. The main thread
 * reads them without locks.
 */
import type { IoType } from './bdev-io.ts';

/** Row length in doubles: one 4 KiB page. */
const ROW = 512;
/** Doubles of each I/O type in a row: operations, bytes, failures. */
const PER_TYPE = 3;
const TYPES = 5;

export interface IoCounts {
  readonly operations: number;
  readonly bytes: number;
  readonly failures: number;
}

export function createStats(reactorCount: number): SharedArrayBuffer {
  return new SharedArrayBuffer(reactorCount * ROW * 8);
}

/** A reactor's own row. */
export class StatsRow {
  readonly #cells: Float64Array;

  constructor(stats: SharedArrayBuffer, reactorIndex: number) {
    this.#cells = new Float64Array(stats, reactorIndex * ROW * 8, PER_TYPE * TYPES);
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
}

/** Rows of a block: reactors. */
export function statsRows(stats: SharedArrayBuffer): number {
  return stats.byteLength / (ROW * 8);
}

/** Counts of one reactor. */
export function readStats(stats: SharedArrayBuffer, reactorIndex: number, type: IoType): IoCounts {
  const cells = new Float64Array(stats, reactorIndex * ROW * 8 + type * PER_TYPE * 8, PER_TYPE);
  return { operations: cells[0] as number, bytes: cells[1] as number, failures: cells[2] as number };
}
