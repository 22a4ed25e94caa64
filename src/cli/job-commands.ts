/** `ringhost erase`, `copy` and `jobs`: long work that the daemon does, with a bar that shows how far it is. */
import { setTimeout as sleep } from 'node:timers/promises';
import { formatBytes } from '../observe/format.ts';
import type { RpcClient } from '../rpc/client.ts';
import type { Result } from '../rpc/methods.ts';
import { connectTo, type DaemonAccess } from './daemon-access.ts';
import { Progress, timeText } from './progress.ts';
import { parseCount } from './quantities.ts';
import { reporting } from './reporting.ts';

/** As typed. */
export interface CopyOptions extends DaemonAccess {
  readonly limit?: string;
}
export interface EraseOptions extends CopyOptions {
  readonly unmap?: boolean;
}
export interface JobsOptions extends DaemonAccess {
  readonly wait?: boolean;
  readonly json?: boolean;
}

type JobInfo = Result<'bdev_get_jobs'>[number];

const LOOK_MS = 200;
const INTERRUPTED = 130;

/** Resolves with the exit code, as do the others. */
export function runEraseCommand(bdev: string, options: EraseOptions): Promise<number> {
  return reporting('erase', async () => {
    const params = {
      name: bdev,
      method: options.unmap === true ? 'unmap' : 'write_zeroes',
      ...limitOf(options),
    } as const;
    using client = await connectTo(options);
    return await follow(client, await client.call('bdev_erase', params));
  });
}

export function runCopyCommand(source: string, destination: string, options: CopyOptions): Promise<number> {
  return reporting('copy', async () => {
    const params = { source, destination, ...limitOf(options) };
    using client = await connectTo(options);
    return await follow(client, await client.call('bdev_copy', params));
  });
}

export function runJobsCommand(options: JobsOptions): Promise<number> {
  return reporting('jobs', async () => {
    using client = await connectTo(options);
    for (;;) {
      const jobs = await client.call('bdev_get_jobs', {});
      const running = jobs.find(({ state }) => state === 'running');
      if (options.wait !== true || running === undefined) {
        process.stdout.write(options.json === true ? `${JSON.stringify(jobs, null, 2)}\n` : tableOf(jobs));
        return options.wait === true && jobs.some(({ state }) => state === 'failed') ? 1 : 0;
      }
      await untilEnded(client, running, new AbortController().signal);
    }
  });
}

function limitOf({ limit }: CopyOptions) {
  return limit === undefined ? {} : { max_bandwidth_mb_sec: parseCount('--limit', limit) };
}

/** Until it has ended. Who interrupts the command ends the job. */
async function follow(client: RpcClient, id: number): Promise<number> {
  const leaving = new AbortController();
  const leave = (): void => leaving.abort();
  process.on('SIGINT', leave);
  process.on('SIGTERM', leave);
  try {
    const job = await untilEnded(client, await jobOf(client, id), leaving.signal);
    process.stdout.write(`${titleOf(job)}: ${stateText(job)}\n`);
    if (job.state === 'done') return 0;
    return leaving.signal.aborted ? INTERRUPTED : 1;
  } finally {
    process.off('SIGINT', leave);
    process.off('SIGTERM', leave);
  }
}

async function untilEnded(client: RpcClient, first: JobInfo, signal: AbortSignal): Promise<JobInfo> {
  const progress = new Progress(titleOf(first));
  let job = first;
  while (job.state === 'running') {
    if (signal.aborted) await client.call('bdev_job_cancel', { id: job.id });
    const { done_bytes: done, total_bytes: total, elapsed_ms: elapsedMs } = job;
    progress.show({ done, total, elapsedMs });
    await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
    job = await jobOf(client, job.id);
  }
  progress.end();
  return job;
}

async function jobOf(client: RpcClient, id: number): Promise<JobInfo> {
  const [job] = await client.call('bdev_get_jobs', { id });
  return job as JobInfo;
}

function titleOf({ type, bdev, source }: JobInfo): string {
  return source === undefined ? `${type} ${bdev}` : `${type} ${source} → ${bdev}`;
}

function stateText(job: JobInfo): string {
  const { state, error, done_bytes: done, total_bytes: total, elapsed_ms: elapsedMs, percent } = job;
  const time = timeText(Math.round(elapsedMs / 1000));
  if (state === 'done') return `${formatBytes(total)} in ${time}`;
  const fate = `${state} at ${percent} %, ${formatBytes(done)} of ${formatBytes(total)} in ${time}`;
  return error === undefined ? fate : `${fate}: ${error}`;
}

function tableOf(jobs: readonly JobInfo[]): string {
  if (jobs.length === 0) return 'no jobs\n';
  return jobs.map((job) => `${String(job.id).padStart(4)}  ${titleOf(job)}: ${stateText(job)}\n`).join('');
}
