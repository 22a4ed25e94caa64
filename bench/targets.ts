/** The programs under measurement, each serving 256 MiB of memory as vhost-user-blk on one given core. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { TargetError } from '../src/base/errors.ts';

export interface Target {
  readonly name: string;
  /** What it is and how it was started, for the report. */
  readonly description: string;
  /** The vhost-user socket; it may be connected to again and again. */
  readonly path: string;
  stop(): Promise<void>;
}

export interface TargetKind {
  readonly name: string;
  /** Why it cannot run here, or null. */
  unavailable(): string | null;
  start(core: number): Promise<Target>;
}

export const DISK_MIB = 256;

const ROOT = join(import.meta.dirname, '..');
const START_LIMIT_MS = 30_000;
/** Both sides' disks live in memory: qemu-storage-daemon's is a file here. */
const MEMORY_DIRECTORY = '/dev/shm';
/** How long qemu-storage-daemon's iothread polls before it sleeps: long, so that it never does under load. */
const POLL_MAX_NS = 1_000_000;

export const RINGHOST: TargetKind = {
  name: 'ringhost',
  unavailable: () => null,
  async start(core) {
    const directory = mkdtempSync(join(MEMORY_DIRECTORY, 'ringhost-bench-'));
    const args = ['-S', directory, '-r', join(directory, 'rpc'), '-m', `[${core}]`, '--default-config'];
    const child = spawn(process.execPath, [join(ROOT, 'bin/ringhost'), 'serve', ...args], { stdio: 'ignore' });
    const description = `ringhost serve -m [${core}] --default-config (malloc, ${DISK_MIB} MiB)`;
    return await started(this.name, description, child, directory, 'vhost.0');
  },
};

export const QEMU_STORAGE_DAEMON: TargetKind = {
  name: 'qemu-storage-daemon',
  unavailable() {
    const isThere = (process.env.PATH ?? '').split(':').some((path) => existsSync(join(path, 'qemu-storage-daemon')));
    return isThere ? null : 'it is not installed: apt-get install qemu-system-common';
  },
  async start(core) {
    const directory = mkdtempSync(join(MEMORY_DIRECTORY, 'ringhost-bench-'));
    const file = join(directory, 'disk');
    const path = join(directory, 'vhost.0');
    writeFileSync(file, '');
    truncateSync(file, DISK_MIB * 2 ** 20);
    const args = [
      ...['-c', String(core), 'qemu-storage-daemon'],
      ...['--object', `iothread,id=io,poll-max-ns=${POLL_MAX_NS}`],
      ...['--blockdev', `driver=file,node-name=disk,filename=${file}`],
      '--export',
      `type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${path},writable=on,iothread=io`,
    ];
    const child = spawn('taskset', args, { stdio: 'ignore' });
    const description = `qemu-storage-daemon, file in tmpfs (${DISK_MIB} MiB), iothread poll-max-ns=${POLL_MAX_NS}`;
    return await started(this.name, description, child, directory, 'vhost.0');
  },
};

async function started(
  name: string,
  description: string,
  child: ChildProcess,
  directory: string,
  socket: string,
): Promise<Target> {
  const path = join(directory, socket);
  const exited = once(child, 'exit');
  const stop = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM');
      await exited;
    }
    rmSync(directory, { recursive: true, force: true });
  };
  const deadlineMs = Date.now() + START_LIMIT_MS;
  while (!existsSync(path)) {
    if (child.exitCode !== null || Date.now() > deadlineMs) {
      await stop();
      throw new TargetError('EIO', `${name} did not start`);
    }
    await delay(10);
  }
  return { name, description, path, stop };
}
