/** Advisory locks of whole files (flock(2)): one open file has it, until it is closed or its process ends. */
import { checkErrno, Errno } from '../base/errors.ts';
import { native } from './native.ts';

/** Whether this open file has the lock now; false when another one has it. */
export function lockFile(fd: number): boolean {
  const result = native.lockFile(fd);
  if (result === Errno.EAGAIN) return false;
  checkErrno(result, 'cannot lock a file');
  return true;
}
