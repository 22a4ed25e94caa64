/**
 * A stream socket for the data path (TCP or Unix): its bytes go from lists of segments (`IovList`) and into them, by
 * system calls that never wait, without an object of Node's in between.
 */
import { networkInterfaces } from 'node:os';
import { assert } from '../base/assert.ts';
import { Errno } from '../base/errors.ts';
import { closeFd } from './events.ts';
import type { IovList } from './iov-list.ts';
import { native } from './native.ts';

/** Where a peer listens: a socket file, or a numeric IPv4 or IPv6 address and a port. */
export type StreamAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** Whether a peer's threads run on the cores of this machine, as far as its address shows. */
export function isOnThisMachine(address: StreamAddress): boolean {
  if ('path' in address || address.host.startsWith('127.')) return true;
  const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return own.some((one) => one.address === address.host);
}

const NO_FD = -1;

export class StreamSocket {
  /** -1: there is none. */
  fd = NO_FD;
  /** 0, or why nothing moves any more: a negative errno, `-ECONNRESET` when the peer ended the stream. */
  error = 0;

  get isOpen(): boolean {
    return this.fd !== NO_FD;
  }

  /** Starts to connect. Until it is connected nothing moves, then, if that failed, `error` says why. */
  open(address: StreamAddress): void {
    assert(!this.isOpen, 'a stream has one socket');
    const isFile = 'path' in address;
    const result = isFile ? native.streamConnect(address.path, 0) : native.streamConnect(address.host, address.port);
    this.error = Math.min(result, 0);
    if (result >= 0) this.fd = result;
  }

  /** Takes over a connected socket. */
  adopt(fd: number): void {
    assert(!this.isOpen, 'a stream has one socket');
    this.fd = fd;
    this.error = 0;
  }

  /** Gives the connected socket away. */
  release(): number {
    const { fd } = this;
    this.fd = NO_FD;
    return fd;
  }

  /** Bytes sent from the entries `[first, list.count)`: 0 when there is no room, or an error. */
  send(list: IovList, first: number): number {
    return this.#transfer(list, true, first, list.count, list.count - first);
  }

  /** Bytes received into a list, of whose entries the first `guestEntries` are a guest's: 0 when none is there. */
  receive(list: IovList, guestEntries: number): number {
    return this.#transfer(list, false, 0, list.count, guestEntries);
  }

  close(): void {
    if (this.isOpen) closeFd(this.fd);
    this.fd = NO_FD;
  }

  #transfer(list: IovList, isSend: boolean, first: number, end: number, guestEntries: number): number {
    if (this.error !== 0) return 0;
    let result = list.transfer(this.fd, isSend, first, end - first);
    // A guest took its memory away: looking at it here puts zeroes in its place.
    if (result === Errno.EFAULT && guestEntries > 0) {
      list.touch(first, guestEntries);
      result = list.transfer(this.fd, isSend, first, end - first);
    }
    if (result > 0) return result;
    if (result === 0) this.error = isSend ? 0 : Errno.ECONNRESET;
    else if (result !== Errno.EAGAIN && result !== Errno.EINTR) this.error = result;
    return 0;
  }
}
