/**
 * A file on the disk of this machine, past the page cache: the same file, depth and core for every target, and for fio
 * without any rings between.
 */
import { loadScenario } from './load.ts';
import type { Scenario } from './scenario.ts';

const ENDPOINT = { protocol: 'blk', disk: 'file' } as const;
/** A disk's own speed varies less than a core's, and its rounds are slow to start. */
const ROUNDS_MAX = 4;

const MIXES = [
  { title: 'random read', writePercent: 0, depths: [1, 32, 128] },
  { title: 'random write', writePercent: 100, depths: [32] },
];

export const FILE_SCENARIOS: readonly Scenario[] = MIXES.flatMap(({ title, writePercent, depths }) =>
  depths.map((depth) => ({
    ...loadScenario('blk, file on disk', `4 KiB ${title}, depth ${depth}`, {
      endpoint: ENDPOINT,
      format: 'indirect',
      queues: 1,
      pattern: 'random',
      blockBytes: 4096,
      depth,
      writePercent,
      isDetail: depth !== 32,
    }),
    usesFile: true,
    roundsMax: ROUNDS_MAX,
  })),
);
