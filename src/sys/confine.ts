/** Landlock: takes the files away from this process that it does not need. */
import { closeSync, constants, openSync } from 'node:fs';
import { checkErrno } from '../base/errors.ts';
import { native } from './native.ts';

/** `open(2)` for a place in the file system, not its contents. Node has no name for it. */
const O_PATH = 0o10000000;

/**
 * From now on this thread, what it starts and what it becomes by `execve` reach only what lies beneath these paths.
 * Paths that do not exist are left out. Threads that run already are not confined.
 *
 * @throws TargetError `ENOSYS` or `EOPNOTSUPP` when the kernel has no Landlock
 */
export function confineFiles(readable: readonly string[], writable: readonly string[]): void {
  const [read, write] = [openAll(readable), openAll(writable)];
  try {
    const result = native.confine(Int32Array.from(read), Int32Array.from(write));
    checkErrno(result, 'cannot confine the process (kernel with Landlock; see /sys/kernel/security/lsm)');
  } finally {
    for (const fd of [...read, ...write]) closeSync(fd);
  }
}

function openAll(paths: readonly string[]): number[] {
  return paths.flatMap((path) => {
    try {
      return [openSync(path, O_PATH | constants.O_RDONLY)];
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  });
}
