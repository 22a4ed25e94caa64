/**
 * TCP connections whose bytes go to and come from lists of segments (`IovList`): what a queue of NVMe/TCP stands on. No
 * object of Node's is in the way.
 */
import { checkErrno } from '../base/errors.ts';
import { closeFd } from './events.ts';
import { Mapping, MappingViews } from './mapping.ts';
import { native } from './native.ts';

/** Zeroed memory of our own that segments may point into. */
export class OwnMemory {
  readonly address: number;
  readonly lengthBytes: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly view: DataView;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();

  constructor(lengthBytes: number) {
    this.#memory = Mapping.anonymous(lengthBytes);
    this.lengthBytes = lengthBytes;
    this.address = this.#memory.address;
    const buffer = this.#views.view(this.#memory, 0, lengthBytes);
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer);
    this.view = new DataView(buffer);
  }

  close(): void {
    this.#views.close();
    this.#memory.close();
  }
}

/**
 * A socket that connects to an IPv4 or IPv6 address. Until it is connected its transfers return `-EAGAIN`, then, if
 * that failed, why.
 */
export function connectTcp(address: string, port: number): number {
  return checkErrno(native.tcpConnect(address, port), `cannot connect to ${address} port ${port}`);
}

const EPOLLIN = 0x1;
const EPOLLOUT = 0x4;
const Operation = { add: 1, remove: 2, change: 3 } as const;

/** A descriptor that is readable while one of a few others is ready: what stays the same while they come and go. */
export class ReadySet {
  readonly fd: number = checkErrno(native.epollCreate(), 'cannot create an epoll descriptor');

  /** Watches for nothing yet. It leaves when it is closed. */
  add(fd: number): void {
    checkErrno(native.epollControl(this.fd, Operation.add, fd, 0), 'cannot watch a socket');
  }

  watch(fd: number, readable: boolean, writable: boolean): void {
    native.epollControl(this.fd, Operation.change, fd, (readable ? EPOLLIN : 0) | (writable ? EPOLLOUT : 0));
  }

  close(): void {
    closeFd(this.fd);
  }
}
