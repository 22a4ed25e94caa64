/** A descriptor that is readable while one of a few others is ready: what stays the same while they come and go. */
import { checkErrno } from '../base/errors.ts';
import { closeFd } from './events.ts';
import { native } from './native.ts';

const EPOLLIN = 0x1;
const EPOLLOUT = 0x4;
const Operation = { add: 1, remove: 2, change: 3 } as const;

export class ReadySet {
  readonly fd: number = checkErrno(native.epollCreate(), 'cannot create an epoll descriptor');

  /** Watches for nothing yet but its end. It leaves when it is closed. */
  add(fd: number): void {
    checkErrno(native.epollControl(this.fd, Operation.add, fd, 0), 'cannot watch a descriptor');
  }

  /** For a descriptor that lives on elsewhere. */
  remove(fd: number): void {
    native.epollControl(this.fd, Operation.remove, fd, 0);
  }

  watch(fd: number, readable: boolean, writable: boolean): void {
    native.epollControl(this.fd, Operation.change, fd, (readable ? EPOLLIN : 0) | (writable ? EPOLLOUT : 0));
  }

  close(): void {
    closeFd(this.fd);
  }
}
