/** Cores, names and the clock of the calling thread. */
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

/** Shown by `ps -L` and `top -H`. At most 15 bytes. */
export function nameThread(name: string): void {
  native.setThreadName(name);
}

/** The kernel's id of the calling thread. */
export const threadId = native.threadId;

/** CLOCK_MONOTONIC in nanoseconds. */
export const clockNs = native.clockNs;
