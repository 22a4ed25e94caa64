/** Two kinds of load on one disk of Ringhost's, both in the same round. */
import { type Load, LoadClient } from '../client.ts';
import { RINGHOST } from '../targets/ringhost.ts';
import type { Endpoint, Target } from '../targets/target.ts';
import { COMPARISON } from './load.ts';
import type { Effort, Sample, Scenario } from './scenario.ts';

export type ComparedRow = Pick<Load, 'format' | 'depth' | 'blockBytes' | 'isPacked' | 'isTracked'>;

interface Comparison {
  readonly group: string;
  readonly endpoint: Endpoint;
  /** What it is compared with: random reads. */
  readonly what: ComparedRow;
  readonly change: Partial<Load>;
  readonly isDetail: boolean;
  /** Before the name of the row. */
  readonly prefix?: string;
}

export function comparison({ group, endpoint, what, change, isDetail, prefix = '' }: Comparison): Scenario {
  const { protocol, disk } = endpoint;
  const { format, depth, blockBytes } = what;
  const base: Load = { ...what, protocol, queues: 1, pattern: 'random', writePercent: 0 };
  const size = blockBytes === 512 ? '512 B' : '4 KiB';
  const disks = disk === 'ram' ? 'RAM' : 'null';
  return {
    group,
    name: `${prefix}${protocol}, ${disks} disk, ${size} random read, ${format}, depth ${depth}`,
    metrics: COMPARISON,
    isDetail,
    runsOn: (kind) => kind.name === RINGHOST.name,
    measure: (target, effort) => compared(target, endpoint, base, { ...base, ...change }, effort),
  };
}

/** One, the other, the other, the one. */
async function compared(target: Target, endpoint: Endpoint, base: Load, other: Load, effort: Effort): Promise<Sample> {
  const sums = { base: 0, iops: 0 };
  for (const which of ['base', 'iops', 'iops', 'base'] as const) {
    sums[which] += await iopsOf(target, endpoint, which === 'base' ? base : other, effort);
  }
  return { ratio: sums.iops / sums.base, iops: sums.iops / 2, base: sums.base / 2 };
}

async function iopsOf(target: Target, endpoint: Endpoint, load: Load, effort: Effort): Promise<number> {
  const client = await LoadClient.connect(target.path(endpoint), load);
  try {
    if (endpoint.disk !== 'null') client.verify();
    return client.measure(effort.durationMs, effort.warmUpMs).iops;
  } finally {
    await client.close();
  }
}
