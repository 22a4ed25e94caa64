/** A descriptor that is readable while one of a few others is ready: what stays the same while they come and go. */
import { checkErrno } from '../base/errors.ts';
import { closeFd, epollEvents, Operation } from './events.ts';
import { native } from './native.ts';

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
    native.epollControl(this.fd, Operation.change, fd, epollEvents({ readable, writable }));
  }

  close(): void {
    closeFd(this.fd);
  }
}
