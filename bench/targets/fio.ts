/**
 * fio's io_uring engine on the file itself: no rings between, no client. The yardstick of file disks, as `copy alone`
 * is that of RAM disks.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { findOnPath } from '../../scripts/setup/child.mjs';
import type { Load } from '../client.ts';
import { benchNative } from '../native.ts';
import type { Sample } from '../scenarios/scenario.ts';
import { ringless, type TargetKind } from './target.ts';

/** What fio needs before it begins. */
const START_MS = 300;

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
  unavailable: () => (findOnPath('fio') === null ? 'it is not installed: apt-get install fio' : null),
  serves: ({ protocol, disk }) => protocol === 'blk' && disk === 'file',
  async start({ target, file }) {
    const description = 'fio --ioengine=io_uring --direct=1 on the same file';
    return ringless(this.name, description, (load, { durationMs, warmUpMs }) =>
      run(target, file, load, durationMs, warmUpMs),
    );
  },
};

async function run(core: number, file: string, load: Load, durationMs: number, warmUpMs: number): Promise<Sample> {
  const { blockBytes, depth, queues, pattern, writePercent } = load;
  const isWrite = writePercent === 100;
  const options = {
    name: 'bench',
    ioengine: 'io_uring',
    direct: 1,
    filename: file,
    size: statSync(file).size,
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
  const [job] = (JSON.parse(await output) as Report).jobs;
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
