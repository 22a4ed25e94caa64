/** A program under measurement: started once, stopped (SIGSTOP) whenever another one has its turn on the core. */
import { type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { checkErrno, TargetError } from '../../src/base/errors.ts';
import type { Load } from '../client.ts';
import { benchNative } from '../native.ts';
import type { Effort, Sample } from '../scenarios/scenario.ts';

/**
 * What a target serves: `ram` keeps its contents in memory, `null` neither reads nor writes, `file` is a file on the
 * disk of this machine, past the page cache; `rbd` is an image of a Ceph cluster, `nbd` an export and `nvme` a
 * subsystem over TCP, from servers on the target's core; `virtio` is what qemu-storage-daemon serves, there too.
 */
export interface Endpoint {
  readonly protocol: 'blk' | 'scsi';
  readonly disk: 'ram' | 'null' | 'file' | 'rbd' | 'nbd' | 'nvme' | 'virtio';
}

export const DISK_MIB = 256;
export const DISK_BYTES = DISK_MIB * 2 ** 20;
/** Of the file: more than a disk's own cache is likely to hold. */
export const FILE_BYTES = 2 ** 30;
/** Queues that every controller has, at least. */
export const QUEUES_MAX = 4;

export interface Target {
  readonly name: string;
  /** What it is and how it was started, for the report. */
  readonly description: string;
  /** From its start until it served, in milliseconds. */
  readonly startMs: number;
  readonly pid: number;
  /** The vhost-user socket; it may be connected to again and again. */
  path(endpoint: Endpoint): string;
  /** Lets it run, or takes the core away from it. */
  resume(): void;
  suspend(): void;
  /** For what has no rings: carries out a load by itself. */
  measureAlone?(load: Load, effort: Effort): Promise<Sample>;
  stop(): Promise<void>;
}

/** What has no rings, and is no other program while it is not measured. */
export function ringless(
  name: string,
  description: string,
  measureAlone: (load: Load, effort: Effort) => Promise<Sample>,
): Target {
  return {
    name,
    description,
    startMs: Number.NaN,
    pid: process.pid,
    path: () => '',
    resume() {},
    suspend() {},
    async stop() {},
    measureAlone,
  };
}

/** Where everything runs and lies. */
export interface Place {
  /** Where the client polls: the calling thread's. */
  readonly client: number;
  /** Where the target serves. */
  readonly target: number;
  /** Of `FILE_BYTES`, all of them written. */
  readonly file: string;
  /** The image, where one is measured. */
  readonly image?: ClusterImage | undefined;
  /** The socket of the NBD server, where one is measured. */
  readonly nbdSocket?: string | undefined;
  /** The socket of the vhost-user target, where one is measured. */
  readonly virtioSocket?: string | undefined;
  /** The port of the NVMe/TCP target on this machine, where one is measured. */
  readonly nvmePort?: number | undefined;
}

export interface ClusterImage {
  readonly configFile: string;
  readonly pool: string;
  readonly name: string;
}

export interface TargetKind {
  readonly name: string;
  /** What it is in the comparison: ourselves, another program for the same purpose, or a bound that none can pass. */
  readonly role: 'subject' | 'peer' | 'limit';
  /** True for what is measured only when `--targets` asks for it. */
  readonly isExtra?: boolean;
  /** Why it cannot run here, or null. */
  unavailable(): string | null;
  /** Whether it can serve this. */
  serves(endpoint: Endpoint): boolean;
  start(place: Place): Promise<Target>;
}

export const ROOT = join(import.meta.dirname, '..', '..');
/** Sockets, files of disks and logs of a target go here, so that no disk of this machine is part of a measurement. */
export const MEMORY_DIRECTORY = '/dev/shm';
const START_LIMIT_MS = 60_000;
const STOP_LIMIT_MS = 5000;
const READY_POLL_MS = 2;
const LOG_TAIL_BYTES = 2000;

export function makeDirectory(): string {
  return mkdtempSync(join(MEMORY_DIRECTORY, 'ringhost-bench-'));
}

/** Name of the socket of an endpoint. */
export function socketName({ protocol, disk }: Endpoint): string {
  return `${protocol}-${disk}`;
}

export interface Launch {
  readonly name: string;
  readonly description: string;
  readonly place: Place;
  readonly directory: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Returns false, or throws, until it can be talked to. */
  readonly isUp: () => Promise<boolean>;
  /** Makes the disks and controllers, where the command line did not. */
  readonly configure?: () => Promise<void>;
}

/** Starts a program, and waits until its controllers can be connected to. */
export async function launch({ name, description, place, directory, command, args, ...rest }: Launch): Promise<Target> {
  const options: SpawnOptions = { stdio: ['pipe', 'ignore', 'pipe'], env: rest.env ?? process.env };
  const sinceMs = performance.now();
  // The calling thread is pinned, and its children would be, too. They must not outlive it: some keep a core busy.
  const around = ['--pdeathsig', 'KILL', 'taskset', '-c', `${place.client},${place.target}`];
  const child = spawn('setpriv', [...around, command, ...args], options);
  let log = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    log = (log + chunk.toString()).slice(-LOG_TAIL_BYTES);
  });
  const exited = once(child, 'exit').catch(() => undefined);
  const isRunning = (): boolean => child.exitCode === null && child.signalCode === null && child.pid !== undefined;
  const stop = async (): Promise<void> => {
    if (isRunning()) {
      child.kill('SIGCONT');
      child.kill('SIGTERM');
      const patience = setTimeout(() => child.kill('SIGKILL'), STOP_LIMIT_MS);
      await exited;
      clearTimeout(patience);
    }
    rmSync(directory, { recursive: true, force: true });
  };
  const deadlineMs = Date.now() + START_LIMIT_MS;
  while (!(await rest.isUp().catch(() => false))) {
    if (isRunning() && Date.now() < deadlineMs) {
      await delay(READY_POLL_MS);
      continue;
    }
    await stop();
    throw new TargetError('EIO', `${name} did not start: ${log}`);
  }
  try {
    await rest.configure?.();
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    name,
    description,
    startMs: performance.now() - sinceMs,
    pid: child.pid ?? 0,
    path: (endpoint) => join(directory, socketName(endpoint)),
    resume: () => void child.kill('SIGCONT'),
    suspend: () => void child.kill('SIGSTOP'),
    stop,
  };
}

export function areThere(paths: readonly string[]): boolean {
  return paths.every((path) => existsSync(path));
}

/** Processor time that all threads of a process have used, in nanoseconds. */
export function cpuTimeNs(pid: number): number {
  return checkErrno(benchNative.processCpuNs(pid), `no processor time of process ${pid}`);
}

/** Resident memory in bytes: all pages (RSS), and with shared ones counted in part (PSS). */
export function memoryOf(pid: number): { rss: number; pss: number } {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const bytesOf = (name: string): number => Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1024;
  return { rss: bytesOf('Rss'), pss: bytesOf('Pss') };
}
