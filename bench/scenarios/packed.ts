/**
 * Packed rings beside split ones, both in the same round: what the layout itself is worth. Only Ringhost: SPDK's target
 * offers packed rings on request, qemu-storage-daemon never does.
 */
import { type Load, LoadClient } from '../client.ts';
import { RINGHOST } from '../targets/ringhost.ts';
import type { Endpoint, Target } from '../targets/target.ts';
import { type Effort, formatRate, formatShare, type Sample, type Scenario } from './scenario.ts';

const KIB = 1024;

async function iopsOf(target: Target, endpoint: Endpoint, load: Load, effort: Effort): Promise<number> {
  const client = await LoadClient.connect(target.path(endpoint), load);
  try {
    if (endpoint.disk !== 'null') client.verify();
    return client.measure(effort.durationMs, effort.warmUpMs).iops;
  } finally {
    await client.close();
  }
}

/** Split, packed, packed, split. */
async function compared(target: Target, endpoint: Endpoint, load: Load, effort: Effort): Promise<Sample> {
  let base = 0;
  let iops = 0;
  for (const isPacked of [false, true, true, false]) {
    const one = await iopsOf(target, endpoint, { ...load, isPacked }, effort);
    if (isPacked) iops += one / 2;
    else base += one / 2;
  }
  return { ratio: iops / base, iops, base };
}

function row(endpoint: Endpoint, what: Pick<Load, 'format' | 'depth' | 'blockBytes'>, isDetail: boolean): Scenario {
  const { protocol, disk } = endpoint;
  const { format, depth, blockBytes } = what;
  const load: Load = { ...what, protocol, queues: 1, pattern: 'random', writePercent: 0 };
  const size = blockBytes === 512 ? '512 B' : '4 KiB';
  return {
    group: 'Packed rings (compared with split ones)',
    name: `${protocol}, ${disk === 'ram' ? 'RAM' : 'null'} disk, ${size} random read, ${format}, depth ${depth}`,
    metrics: [
      { key: 'ratio', title: 'of that', format: formatShare, hasRange: true },
      { key: 'iops', title: 'IOPS', format: formatRate },
      { key: 'base', title: 'compared with', format: formatRate },
    ],
    isDetail,
    runsOn: (kind) => kind.name === RINGHOST.name,
    measure: (target, effort) => compared(target, endpoint, load, effort),
  };
}

const RAM: Endpoint = { protocol: 'blk', disk: 'ram' };

export const PACKED_SCENARIOS: readonly Scenario[] = [
  ...[1, 32, 128].map((depth) => row(RAM, { format: 'indirect', depth, blockBytes: 4 * KIB }, depth !== 128)),
  row(RAM, { format: 'direct', depth: 128, blockBytes: 4 * KIB }, true),
  row(RAM, { format: 'indirect', depth: 128, blockBytes: 512 }, true),
  row({ protocol: 'blk', disk: 'null' }, { format: 'indirect', depth: 128, blockBytes: 4 * KIB }, true),
  row({ protocol: 'scsi', disk: 'ram' }, { format: 'indirect', depth: 128, blockBytes: 4 * KIB }, true),
];
