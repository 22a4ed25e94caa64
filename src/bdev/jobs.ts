/**
 * Work that goes on after the call that began it was answered: erasing, copying, rebuilding. A job is seen while it
 * runs and for a while after, can be slowed down, and can be ended; what it leaves then is its own affair.
 */
import { TargetError } from '../base/errors.ts';
import { clockNs } from '../sys/thread.ts';
import { JobControl } from './job-control.ts';

/** Of those that have ended. */
const KEPT_MAX = 64;

type JobState = 'running' | 'done' | 'failed' | 'cancelled';

export interface JobSpec {
  /** What it does: `erase`, `copy`, `rebuild`, … */
  readonly type: string;
  /** The bdev that it changes, by name. */
  readonly bdev: string;
  /** The bdev that it reads, by name. */
  readonly source?: string;
  /** Of what `control.doneBytes` counts. */
  readonly totalBytes: number;
  /** MiB a second at most; 0: no limit. */
  readonly mibPerSec?: number;
}

export class Job {
  readonly id: number;
  readonly spec: JobSpec;
  readonly control = new JobControl();
  /** Resolves when it has ended, however. */
  readonly ended: Promise<void>;
  state: JobState = 'running';
  /** Why it failed. */
  error: string | null = null;
  readonly #startedNs = clockNs();
  #endedNs: number | null = null;

  /** `run` ends early, in whatever way, when `control.isCancelled`. */
  constructor(id: number, spec: JobSpec, run: (control: JobControl) => Promise<void>) {
    this.id = id;
    this.spec = spec;
    this.control.bytesPerSec = (spec.mibPerSec ?? 0) * 2 ** 20;
    this.ended = this.#run(run);
  }

  get elapsedNs(): number {
    return (this.#endedNs ?? clockNs()) - this.#startedNs;
  }

  async #run(run: (control: JobControl) => Promise<void>): Promise<void> {
    try {
      await run(this.control);
      this.state = this.control.isCancelled ? 'cancelled' : 'done';
    } catch (error) {
      this.state = this.control.isCancelled ? 'cancelled' : 'failed';
      if (this.state === 'failed') this.error = (error as Error).message;
    }
    this.#endedNs = clockNs();
  }
}

export class Jobs {
  /** The daemon stops. */
  isClosing = false;
  #jobs: Job[] = [];
  #lastId = 0;

  start(spec: JobSpec, run: (control: JobControl) => Promise<void>): Job {
    const over = this.#jobs.filter(({ state }) => state !== 'running');
    const forgotten = new Set(over.slice(0, Math.max(0, over.length - KEPT_MAX)));
    const job = new Job(++this.#lastId, spec, run);
    this.#jobs = [...this.#jobs.filter((one) => !forgotten.has(one)), job];
    return job;
  }

  /** In the order in which they began. */
  list(): readonly Job[] {
    return this.#jobs;
  }

  get running(): readonly Job[] {
    return this.#jobs.filter(({ state }) => state === 'running');
  }

  /** Throws `ENOENT`. */
  get(id: number): Job {
    const job = this.#jobs.find((one) => one.id === id);
    if (job === undefined)
      throw new TargetError('ENOENT', `there is no job ${id}: bdev_get_jobs lists those there are`);
    return job;
  }

  /** Ends them all. */
  async close(): Promise<void> {
    this.isClosing = true;
    for (const { control } of this.running) control.cancel();
    await Promise.all(this.#jobs.map(({ ended }) => ended));
  }
}
