/**
 * An image of a Ceph cluster in memory, on the target's core as the target is, and fio's rbd engine on the same image
 * without any rings between. librbd's cache is off for both.
 */
import { loadScenario } from './load.ts';
import type { Scenario } from './scenario.ts';

const ENDPOINT = { protocol: 'blk', disk: 'rbd' } as const;

const MIXES = [
  { title: 'random read', writePercent: 0, depths: [1, 32] },
  { title: 'random write', writePercent: 100, depths: [32] },
];

export const RBD_SCENARIOS: readonly Scenario[] = MIXES.flatMap(({ title, writePercent, depths }) =>
  depths.map((depth) => ({
    ...loadScenario('blk, RBD image', `4 KiB ${title}, depth ${depth}`, {
      endpoint: ENDPOINT,
      format: 'indirect',
      queues: 1,
      pattern: 'random',
      blockBytes: 4096,
      depth,
      writePercent,
    }),
    usesImage: true,
  })),
);
