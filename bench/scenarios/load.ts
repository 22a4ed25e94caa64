/** Load: a closed loop of requests on one disk. IOPS, latencies, and the processor time that the target took. */
import { type Load, LoadClient } from '../client.ts';
import { RINGHOST } from '../targets/ringhost.ts';
import { cpuTimeNs, type Endpoint, type Target, type TargetKind } from '../targets/target.ts';
import { type Effort, formatNs, formatRate, formatShare, type Metric, type Sample, type Scenario } from './scenario.ts';

const METRICS: readonly Metric[] = [
  { key: 'iops', title: 'IOPS', format: formatRate, hasRange: true },
  { key: 'p50', title: 'p50', format: formatNs },
  { key: 'p99', title: 'p99', format: formatNs },
  { key: 'p999', title: 'p99.9', format: formatNs },
  { key: 'p9999', title: 'p99.99', format: formatNs },
  { key: 'iopsPerCore', title: 'IOPS a core', format: formatRate },
  { key: 'cpu', title: 'CPU', format: formatShare },
  { key: 'clientBusy', title: 'client', format: formatShare },
];

/** For rows that compare two ways of running, both measured in the same round. */
export const COMPARISON: readonly Metric[] = [
  { key: 'ratio', title: 'of that', format: formatShare, hasRange: true },
  { key: 'iops', title: 'IOPS', format: formatRate },
  { key: 'base', title: 'compared with', format: formatRate },
];

interface Row extends Omit<Load, 'protocol'> {
  readonly endpoint: Endpoint;
  readonly isDetail?: boolean;
}

const KIB = 1024;

/** A row of load; also for other kinds of disks. */
export function loadScenario(group: string, name: string, row: Row): Scenario {
  const { endpoint } = row;
  const load: Load = { ...row, protocol: endpoint.protocol };
  return {
    group,
    name,
    metrics: METRICS,
    isDetail: row.isDetail ?? false,
    runsOn: (kind: TargetKind) => kind.serves(endpoint),
    measure: (target, effort) => measure(target, endpoint, load, effort),
  };
}

async function measure(target: Target, endpoint: Endpoint, load: Load, effort: Effort): Promise<Sample> {
  if (target.measureAlone !== undefined) return target.measureAlone(load, effort);
  const client = await LoadClient.connect(target.path(endpoint), load);
  try {
    if (endpoint.disk !== 'null') client.verify();
    const [cpuBeforeNs, beforeMs] = [cpuTimeNs(target.pid), performance.now()];
    const { iops, latency, clientBusy } = client.measure(effort.durationMs, effort.warmUpMs);
    const cpu = (cpuTimeNs(target.pid) - cpuBeforeNs) / ((performance.now() - beforeMs) * 1e6);
    return {
      iops,
      p50: latency.percentile(50),
      p99: latency.percentile(99),
      p999: latency.percentile(99.9),
      p9999: latency.percentile(99.99),
      iopsPerCore: iops / cpu,
      cpu,
      clientBusy,
    };
  } finally {
    await client.close();
  }
}

export async function iopsOf(
  target: Target,
  endpoint: Endpoint,
  load: Load,
  { durationMs, warmUpMs }: Effort,
): Promise<number> {
  const client = await LoadClient.connect(target.path(endpoint), load);
  try {
    return client.measure(durationMs, warmUpMs).iops;
  } finally {
    await client.close();
  }
}

/** The same load over scsi and over blk, in both orders. */
async function scsiOfBlk(target: Target, depth: number, effort: Effort): Promise<Sample> {
  const load = {
    format: 'indirect',
    queues: 1,
    depth,
    blockBytes: 4 * KIB,
    pattern: 'random',
    writePercent: 0,
  } as const;
  const iops = { blk: 0, scsi: 0 };
  for (const protocol of ['blk', 'scsi', 'scsi', 'blk'] as const) {
    iops[protocol] += (await iopsOf(target, { protocol, disk: 'ram' }, { ...load, protocol }, effort)) / 2;
  }
  return { iops: iops.scsi, base: iops.blk, ratio: iops.scsi / iops.blk };
}

const MIXES = [
  { title: 'random read', writePercent: 0 },
  { title: 'random write', writePercent: 100 },
  { title: '70/30 read/write', writePercent: 30 },
];

/** The rows of one disk: 4 KiB at three depths, small blocks, large blocks. */
function diskRows(endpoint: Endpoint, mixes: typeof MIXES, depths: readonly number[]): Scenario[] {
  const group = endpoint.disk === 'ram' ? `${endpoint.protocol}, RAM disk` : `${endpoint.protocol}, null disk`;
  const common = { endpoint, format: 'indirect', queues: 1, pattern: 'random', blockBytes: 4 * KIB } as const;
  const rows = mixes.flatMap(({ title, writePercent }) =>
    depths.map((depth) =>
      loadScenario(group, `4 KiB ${title}, depth ${depth}`, {
        ...common,
        depth,
        writePercent,
        isDetail: writePercent > 0 && depth !== 128,
      }),
    ),
  );
  return [
    ...rows,
    loadScenario(group, '512 B random read, depth 128', { ...common, blockBytes: 512, depth: 128, writePercent: 0 }),
    loadScenario(group, '128 KiB sequential read, depth 32', {
      ...common,
      blockBytes: 128 * KIB,
      pattern: 'sequential',
      depth: 32,
      writePercent: 0,
      isDetail: endpoint.disk === 'null',
    }),
  ];
}

/** What a Linux guest does not do by default: descriptors in the ring itself. */
function directRows(): Scenario[] {
  const endpoint = { protocol: 'blk', disk: 'ram' } as const;
  const common = { endpoint, format: 'direct', queues: 1, pattern: 'random', writePercent: 0 } as const;
  return [
    ...[1, 32, 128].map((depth) => ({ ...common, blockBytes: 4 * KIB, depth, isDetail: depth !== 128 })),
    { ...common, blockBytes: 512, depth: 128, isDetail: true },
  ].map((row) => {
    const size = row.blockBytes === 512 ? '512 B' : '4 KiB';
    return loadScenario('blk, RAM disk, direct descriptors', `${size} random read, depth ${row.depth}`, row);
  });
}

function queueRows(): Scenario[] {
  return (['blk', 'scsi'] as const).flatMap((protocol) =>
    [32].map((depth) =>
      loadScenario('RAM disk, 4 queues on one core', `${protocol}: 4 KiB random read, depth 4 × ${depth}`, {
        endpoint: { protocol, disk: 'ram' },
        format: 'indirect',
        queues: 4,
        pattern: 'random',
        blockBytes: 4 * KIB,
        depth,
        writePercent: 0,
        isDetail: protocol === 'scsi',
      }),
    ),
  );
}

function protocolRows(): Scenario[] {
  return [1, 32, 128].map((depth) => ({
    group: 'scsi (compared with blk)',
    name: `RAM disk, 4 KiB random read, depth ${depth}`,
    metrics: COMPARISON,
    isDetail: depth === 32,
    runsOn: ({ name }) => name === RINGHOST.name,
    measure: (target, effort) => scsiOfBlk(target, depth, effort),
  }));
}

export const LOAD_SCENARIOS: readonly Scenario[] = [
  ...diskRows({ protocol: 'blk', disk: 'ram' }, MIXES, [1, 32, 128]),
  ...diskRows({ protocol: 'blk', disk: 'null' }, MIXES.slice(0, 1), [1, 32, 128]),
  ...diskRows({ protocol: 'scsi', disk: 'ram' }, MIXES, [1, 32, 128]),
  ...diskRows({ protocol: 'scsi', disk: 'null' }, MIXES.slice(0, 1), [1, 32, 128]),
  ...directRows(),
  ...queueRows(),
  ...protocolRows(),
];
