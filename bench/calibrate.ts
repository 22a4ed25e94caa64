/**
 * Measures what the simulation of a cluster (bench/simulate.ts) is calibrated with and checked against:
 * `node bench/calibrate.ts OSDS [ROUNDS]` starts a cluster of 1 or 3 OSDs (BlueStore on files in memory) on one core,
 * and lets fio's rbd engine load it from another one. Samples are added to bench/cluster/measured.jsonl.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { allowedCores, pinToCore } from '../src/sys/thread.ts';
import { CephCluster } from '../test/support/ceph-cluster.ts';
import { type LoadPoint, type LoadSample, MEASURED_FILE } from './cluster/measured.ts';
import { cpuTimeNs, MEMORY_DIRECTORY } from './targets/target.ts';

const IMAGE_MIB = 64;
const DEPTHS = [1, 2, 4, 8, 16, 32, 64, 128];
const CLIENTS = [2, 4, 8];
const CLIENTS_MAX = 8;
const START_MS = 500;
const WARM_UP_MS = 400;
const RUN_MS = 1200;
const NS_PER_US = 1000;

/** Reads of images as they were made, then writes. Mixed loads are for checking only. */
function pointsOf(osds: number): LoadPoint[] {
  const pure = [0, 100].flatMap((writePercent) => [
    ...DEPTHS.map((depth) => ({ osds, clients: 1, depth, writePercent })),
    ...CLIENTS.flatMap((clients) => [1, 16].map((depth) => ({ osds, clients, depth, writePercent }))),
  ]);
  const mixed = [
    [1, 1],
    [1, 16],
    [1, 128],
    [4, 16],
    [8, 4],
  ].map(([clients = 1, depth = 1]) => ({ osds, clients, depth, writePercent: 30 }));
  return [...pure, ...mixed];
}

interface Direction {
  readonly iops: number;
  readonly total_ios: number;
  readonly clat_ns: { readonly mean: number; readonly percentile?: Readonly<Record<string, number>> };
}

async function measure(cluster: CephCluster, core: number, point: LoadPoint): Promise<LoadSample> {
  const { clients, depth, writePercent } = point;
  const options = {
    ...{ ioengine: 'rbd', clientname: 'admin', pool: 'rbd', size: `${IMAGE_MIB}M`, bs: 4096, iodepth: depth },
    ...{
      rw: 'randrw',
      rwmixwrite: writePercent,
      time_based: 1,
      thread: 1,
      group_reporting: 1,
      unified_rw_reporting: 1,
    },
    ...{ runtime: `${RUN_MS}ms`, ramp_time: `${WARM_UP_MS}ms`, 'output-format': 'json' },
  };
  const args = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
  for (let i = 0; i < clients; i++) args.push(`--name=job${i}`, `--rbdname=image${i}`);
  const env = { ...process.env, CEPH_CONF: cluster.configFile, CEPH_ARGS: '--rbd-cache=false' };
  const command = ['-c', String(core), 'fio', ...args];
  const child = spawn('taskset', command, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  const [output, exited] = [text(child.stdout), once(child, 'exit')];
  const cpu = (): number[] => [child.pid ?? 0, ...cluster.osdPids].map(cpuTimeNs);
  await delay(START_MS + WARM_UP_MS);
  const [before, sinceMs] = [cpu(), performance.now()];
  await delay(RUN_MS / 2);
  const [after, seconds] = [cpu(), (performance.now() - sinceMs) / 1000];
  await exited;
  const report = await output;
  const { jobs } = JSON.parse(report.slice(report.indexOf('{')));
  const { iops, clat_ns: latency } = jobs[0].mixed as Direction;
  const spent = after.map((ns, i) => (ns - (before[i] ?? 0)) / NS_PER_US / (iops * seconds));
  return {
    ...point,
    iops,
    meanUs: latency.mean / NS_PER_US,
    p50Us: (latency.percentile?.['50.000000'] ?? Number.NaN) / NS_PER_US,
    p99Us: (latency.percentile?.['99.000000'] ?? Number.NaN) / NS_PER_US,
    clientCpuUs: spent[0] ?? Number.NaN,
    osdCpuUs: spent.slice(1).reduce((sum, us) => sum + us, 0),
  };
}

function add(sample: LoadSample): void {
  const round = (_: string, value: unknown): unknown => (typeof value === 'number' ? Number(value.toFixed(2)) : value);
  appendFileSync(MEASURED_FILE, `${JSON.stringify(sample, round)}\n`);
}

const [osds = 1, rounds = 1] = process.argv.slice(2).map(Number);
const [clientCore, clusterCore] = allowedCores();
if (clientCore === undefined || clusterCore === undefined) throw new Error('two cores are needed: one a side');
pinToCore(clusterCore);
const cluster = await CephCluster.start({ osds, store: 'disk', parent: MEMORY_DIRECTORY });
try {
  for (let i = 0; i < CLIENTS_MAX; i++) {
    await cluster.createImage(`image${i}`, IMAGE_MIB, '--image-feature', 'layering');
    await cluster.rbd('bench', `image${i}`, '--io-type', 'write', '--io-size', '4M', '--io-total', `${IMAGE_MIB}M`);
  }
  for (let round = 0; round < rounds; round++) {
    for (const point of pointsOf(osds)) {
      const sample = await measure(cluster, clientCore, point);
      add(sample);
      const { clients, depth, writePercent, iops, meanUs, p50Us, p99Us, clientCpuUs, osdCpuUs } = sample;
      const cells = [osds, clients, depth, writePercent, iops, meanUs, p50Us, p99Us, clientCpuUs, osdCpuUs];
      console.log(cells.map((value) => value.toFixed(value < 100 ? 1 : 0)).join('\t'));
    }
  }
} finally {
  await cluster.close();
}
