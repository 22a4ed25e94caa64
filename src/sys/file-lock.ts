/**
 * Advisory locks of whole files (fcntl(2), F_OFD_SETLK): an open file has one until its last descriptor is closed and
 * the kernel has ended every request on it, also those that a killed process left. QEMU's locks are of this kind.
 */
import { checkErrno, Errno } from '../base/errors.ts';
import { native } from './native.ts';

/** Whether this open file, opened for writing, is locked for itself alone now; false when another one is. */
export function lockFile(fd: number): boolean {
  return lock(fd, 0);
}

/** Whether it is locked now as others that are read may be too; false when another one is locked for itself alone. */
export function lockFileShared(fd: number): boolean {
  return lock(fd, 1);
}

function lock(fd: number, isShared: number): boolean {
  const result = native.lockFile(fd, isShared);
  if (result === Errno.EAGAIN || result === Errno.EACCES) return false;
  checkErrno(result, 'cannot lock a file');
  return true;
}
