/** What was measured on a real cluster of this project's tests, for the simulation: see bench/calibrate.ts. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export const MEASURED_FILE = join(import.meta.dirname, 'measured.jsonl');

/** A load: closed loops of 4 KiB at random, on images that were written all over. */
export interface LoadPoint {
  /** Each keeps a copy of everything. */
  readonly osds: number;
  /** Each with a connection and an image of its own. */
  readonly clients: number;
  /** Requests in flight, of each client. */
  readonly depth: number;
  readonly writePercent: number;
}

/** One round of one point. Times are in microseconds; those of CPU are a request's share. */
export interface LoadSample extends LoadPoint {
  readonly iops: number;
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly clientCpuUs: number;
  readonly osdCpuUs: number;
}

/** A sample a line; later rounds are added at the end. */
export function readMeasured(): LoadSample[] {
  const lines = readFileSync(MEASURED_FILE, 'utf8').split('\n');
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as LoadSample);
}

const keyOf = ({ osds, clients, depth, writePercent }: LoadPoint): string =>
  `${osds}/${clients}/${depth}/${writePercent}`;

/**
 * Of each point the round with the most requests: others on the machine, whom nobody could stop, only ever take some
 * away.
 */
export function bestOf(samples: readonly LoadSample[]): LoadSample[] {
  return [...Map.groupBy(samples, keyOf).values()].map((rounds) =>
    rounds.reduce((best, round) => (round.iops > best.iops ? round : best)),
  );
}
