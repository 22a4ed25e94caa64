/** The heat map of latencies: its rows, so many to each power of ten, from 100 ns on. */
import type { Bucket } from '../base/percentile.ts';

const ROWS_PER_DECADE = 6;
const FIRST_NS = 100;
export const HEAT_ROWS = 9 * ROWS_PER_DECADE;

/** Row of a latency; shorter and longer ones are in the first and the last. */
function heatRow(ns: number): number {
  const row = Math.floor(Math.log10(Math.max(ns, 1) / FIRST_NS) * ROWS_PER_DECADE);
  return Math.min(HEAT_ROWS - 1, Math.max(0, row));
}

/** Seconds at which a row begins. */
export function heatRowSeconds(row: number): number {
  return (FIRST_NS * 10 ** (row / ROWS_PER_DECADE)) / 1e9;
}

/** How many requests belong into each row; none of them is empty. */
export function heatOf(buckets: readonly Bucket[]): readonly Bucket[] {
  const rows = new Map<number, number>();
  for (const [ns, count] of buckets) rows.set(heatRow(ns), (rows.get(heatRow(ns)) ?? 0) + count);
  return [...rows];
}
