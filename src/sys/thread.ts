/** Cores, names and the clock of the calling thread. */
import { readdirSync } from 'node:fs';
import { checkErrno } from '../base/errors.ts';
import { native } from './native.ts';

const CORES_MAX = 1024;

/** Pins the calling thread to one core. */
export function pinToCore(core: number): void {
  checkErrno(native.setAffinity(core), `cannot run on core ${core}`);
}

/** Cores the calling thread may run on, ascending. */
export function allowedCores(): number[] {
  const out = new Int32Array(CORES_MAX);
  const count = checkErrno(native.getAffinity(out), 'cannot read the allowed cores');
  return Array.from(out.subarray(0, count));
}

/** NUMA node of a core; 0 when the system does not say. */
export function nodeOfCore(core: number): number {
  try {
    const names = readdirSync(`/sys/devices/system/cpu/cpu${core}`);
    const node = names.find((name) => /^node\d+$/.test(name));
    return node === undefined ? 0 : Number(node.slice('node'.length));
  } catch {
    return 0;
  }
}

/**
 * NUMA node of the page at `address`, or a negative errno. The page is brought into memory when it is not there: ask
 * for one that is in use.
 */
export const nodeOfMemory = native.nodeOfMemory;

/** Shown by `ps -L` and `top -H`. At most 15 bytes. */
export function nameThread(name: string): void {
  native.setThreadName(name);
}

/** The kernel's id of the calling thread. */
export const threadId = native.threadId;

/** CLOCK_MONOTONIC in nanoseconds. */
export const clockNs = native.clockNs;

/** Lets other threads run that wait for this core. Nothing happens when none does. */
export const yieldCore = native.yieldCore;

/** Nanoseconds of a step of `clockStamp`. */
export const STAMP_NS = 16;

/** A moment, for `nsBetween`. No allocation, for the data path. */
export const clockStamp = native.clockStamp;

/** Steps of `STAMP_NS` between two stamps at most 68 s apart. */
export function stepsBetween(start: number, end: number): number {
  return (end - start) >>> 0;
}
