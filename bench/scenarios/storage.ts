/**
 * Disks that are more than memory: the same disk, depth and core for every target, and for fio with its own engine on
 * it, without any rings between. A file lies on the disk of this machine, past the page cache. What a server gives
 * comes from memory, by a server on the target's core as the target is: it takes its time from it.
 */
import type { Endpoint } from '../targets/target.ts';
import { loadScenario } from './load.ts';
import type { Backing, Scenario } from './scenario.ts';

interface Storage {
  readonly title: string;
  readonly disk: Endpoint['disk'];
  readonly needs: Backing;
  /** Of random reads. */
  readonly readDepths: readonly number[];
  readonly writeDepths: readonly number[];
  readonly roundsMax?: number;
}

const ALL: readonly Storage[] = [
  // A disk's own speed varies less than a core's, and its rounds are slow to start.
  {
    title: 'file on disk',
    disk: 'file',
    needs: 'file',
    readDepths: [1, 32, 128],
    writeDepths: [1, 32, 128],
    roundsMax: 3,
  },
  { title: 'RBD image', disk: 'rbd', needs: 'image', readDepths: [1, 32], writeDepths: [32] },
  { title: 'NBD export', disk: 'nbd', needs: 'nbd', readDepths: [1, 32], writeDepths: [32] },
  { title: 'NVMe/TCP', disk: 'nvme', needs: 'nvme', readDepths: [1, 32], writeDepths: [32] },
  { title: 'vhost-user target', disk: 'virtio', needs: 'vhost-user', readDepths: [1, 32], writeDepths: [32] },
];

function rowsOf({ title, disk, needs, readDepths, writeDepths, ...rest }: Storage): Scenario[] {
  const mixes = [
    { name: 'random read', writePercent: 0, depths: readDepths },
    { name: 'random write', writePercent: 100, depths: writeDepths },
  ];
  return mixes.flatMap(({ name, writePercent, depths }) =>
    depths.map((depth) => ({
      ...loadScenario(`blk, ${title}`, `4 KiB ${name}, depth ${depth}`, {
        endpoint: { protocol: 'blk', disk },
        format: 'indirect',
        queues: 1,
        pattern: 'random',
        blockBytes: 4096,
        depth,
        writePercent,
        isDetail: depth !== 32,
      }),
      needs,
      ...rest,
    })),
  );
}

export const STORAGE_SCENARIOS: readonly Scenario[] = ALL.flatMap(rowsOf);
