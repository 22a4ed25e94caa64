/**
 * fio on the file itself (io_uring), on the image itself (librbd) or on the export itself (libnbd): no rings between,
 * no client. The yardstick of such disks, as `copy alone` is that of RAM disks.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { findOnPath } from '../../scripts/setup/child.mjs';
import type { Load } from '../client.ts';
import { benchNative } from '../native.ts';
import type { Effort, Sample } from '../scenarios/scenario.ts';
import { DISK_BYTES, ringless, type TargetKind } from './target.ts';

/** What fio needs before it begins. */
const START_MS = 300;
const NOT_INSTALLED = 'it is not installed: apt-get install fio';

/** What is used of `fio --output-format=json`. */
interface Direction {
  readonly iops: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}
interface Report {
  readonly jobs: readonly { readonly read: Direction; readonly write: Direction }[];
}

export const FIO: TargetKind = {
  name: 'fio io_uring',
  role: 'limit',
  unavailable: () => (findOnPath('fio') === null ? NOT_INSTALLED : null),
  serves: ({ protocol, disk }) => protocol === 'blk' && disk === 'file',
  async start({ target, file }) {
    const description = 'fio --ioengine=io_uring --direct=1 on the same file';
    const engine = { ioengine: 'io_uring', direct: 1, filename: file, size: statSync(file).size };
    return ringless(this.name, description, (load, effort) => run(target, engine, load, effort));
  },
};

export const FIO_RBD: TargetKind = {
  name: 'fio rbd',
  role: 'limit',
  unavailable: () => (findOnPath('fio') === null ? NOT_INSTALLED : null),
  serves: ({ disk }) => disk === 'rbd',
  async start({ target, image }) {
    if (image === undefined) throw new Error('fio rbd: there is no image');
    const { pool, name: rbdname, configFile } = image;
    const engine = { ioengine: 'rbd', clientname: 'admin', pool, rbdname, size: DISK_BYTES };
    process.env['CEPH_CONF'] = configFile;
    return ringless(this.name, 'fio --ioengine=rbd on the same image', (load, effort) =>
      run(target, engine, load, effort),
    );
  },
};

export const FIO_NBD: TargetKind = {
  name: 'fio nbd',
  role: 'limit',
  unavailable: () => (findOnPath('fio') === null ? NOT_INSTALLED : null),
  serves: ({ disk }) => disk === 'nbd',
  async start({ target, nbdSocket }) {
    const engine = { ioengine: 'nbd', uri: `nbd+unix:///?socket=${nbdSocket}`, size: DISK_BYTES };
    return ringless(this.name, 'fio --ioengine=nbd on the same export', (load, effort) =>
      run(target, engine, load, effort),
    );
  },
};

type Options = Readonly<Record<string, string | number>>;

async function run(core: number, engine: Options, load: Load, { durationMs, warmUpMs }: Effort): Promise<Sample> {
  const { blockBytes, depth, queues, pattern, writePercent } = load;
  const isWrite = writePercent === 100;
  const options = {
    name: 'bench',
    ...engine,
    rw: `${pattern === 'random' ? 'rand' : ''}${isWrite ? 'write' : 'read'}`,
    bs: blockBytes,
    iodepth: depth * queues,
    time_based: 1,
    // A process would begin a session of its own, and lose the priority of ours.
    thread: 1,
    runtime: `${durationMs}ms`,
    ramp_time: `${warmUpMs}ms`,
    'output-format': 'json',
  };
  const args = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
  const child = spawn('taskset', ['-c', String(core), 'fio', ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [output, exited] = [text(child.stdout), once(child, 'exit')];
  // The other core polls, as the client of every other target does: an idle one would leave its share to whatever
  // serves the disk of this machine.
  benchNative.stolenShare((START_MS + warmUpMs + durationMs) * 1e6);
  await exited;
  if (child.exitCode !== 0) throw new Error(`fio failed with ${child.exitCode}`);
  // An engine may have said something first.
  const report = await output;
  const [job] = (JSON.parse(report.slice(report.indexOf('{'))) as Report).jobs;
  const direction = isWrite ? job?.write : job?.read;
  const percentile = direction?.clat_ns.percentile ?? {};
  return {
    iops: direction?.iops ?? Number.NaN,
    p50: percentile['50.000000'] ?? Number.NaN,
    p99: percentile['99.000000'] ?? Number.NaN,
    p999: percentile['99.900000'] ?? Number.NaN,
    p9999: percentile['99.990000'] ?? Number.NaN,
  };
}
