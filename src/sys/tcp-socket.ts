/**
 * TCP connections whose bytes go to and come from lists of segments (native/stream.c): what a queue of NVMe/TCP stands
 * on. No object of Node's is in the way; a transfer that would wait returns `-EAGAIN`.
 */
import { assert } from '../base/assert.ts';
import { checkErrno } from '../base/errors.ts';
import { closeFd } from './events.ts';
import type { IovArena } from './iov-arena.ts';
import { Mapping, MappingViews } from './mapping.ts';
import { native } from './native.ts';

const IOVEC_BYTES = 16;
const IOVEC_WORDS = 4;
const TWO_32 = 2 ** 32;

/** A list of segments for system calls, put together of parts of requests' lists and of memory of our own. */
export class IovList {
  /** Host address of entry 0. */
  readonly address: number;
  readonly capacity: number;
  /** Entries in use. */
  count = 0;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.#memory = Mapping.anonymous(capacity * IOVEC_BYTES);
    this.address = this.#memory.address;
    const buffer = this.#views.view(this.#memory, 0, this.#memory.lengthBytes);
    this.#words = new Uint32Array(buffer);
    this.#bytes = new Uint8Array(buffer);
  }

  /** Adds a part of our own memory. */
  add(memory: OwnMemory, offsetBytes: number, lengthBytes: number): void {
    assert(this.count < this.capacity, 'a list has room for an entry');
    const at = this.count++ * IOVEC_WORDS;
    const low = memory.addressLow + offsetBytes;
    this.#words[at] = low >>> 0;
    this.#words[at + 1] = memory.addressHigh + (low >= TWO_32 ? 1 : 0);
    this.#words[at + 2] = lengthBytes;
  }

  /**
   * Adds `lengthBytes` of a request's segments from `skipBytes` on; fewer when they hold fewer. The list has room for
   * as many entries. Returns how many were added.
   */
  addPart(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): number {
    const before = this.count;
    const words = this.#words;
    let skip = skipBytes;
    let left = lengthBytes;
    for (let entry = first; entry < first + count && left > 0; entry++) {
      const whole = arena.lengthOf(entry);
      if (whole <= skip) {
        skip -= whole;
        continue;
      }
      assert(this.count < this.capacity, 'a list has room for an entry');
      const length = Math.min(whole - skip, left);
      const at = this.count++ * IOVEC_WORDS;
      arena.copyAddress(entry, words, at);
      const low = (words[at] as number) + skip;
      words[at] = low >>> 0;
      if (low >= TWO_32) words[at + 1] = (words[at + 1] as number) + 1;
      words[at + 2] = length;
      left -= length;
      skip = 0;
    }
    return this.count - before;
  }

  lengthOf(entry: number): number {
    return this.#words[entry * IOVEC_WORDS + 2] as number;
  }

  /** Takes bytes off the front of an entry. */
  advance(entry: number, bytes: number): void {
    const at = entry * IOVEC_WORDS;
    const low = (this.#words[at] as number) + bytes;
    this.#words[at] = low >>> 0;
    if (low >= TWO_32) this.#words[at + 1] = (this.#words[at + 1] as number) + 1;
    this.#words[at + 2] = (this.#words[at + 2] as number) - bytes;
  }

  // SAFETY of the calls below: entries come from requests' lists, which stay as they are until the request ends, and
  // from `OwnMemory`, whose bounds its users keep.

  /** Bytes sent from the entries `[first, first + count)`, or a negative errno. */
  send(fd: number, first: number, count: number): number {
    return native.streamTransfer(fd, true, this.#bytes, first, count);
  }

  /** Bytes received, 0 at the end of the stream, or a negative errno. */
  receive(fd: number, first: number, count: number): number {
    return native.streamTransfer(fd, false, this.#bytes, first, count);
  }

  /**
   * CRC32C over the first bytes of some entries, as a signed number, going on from the sum of what came before. Every
   * byte is read by this thread: guest memory that was truncated is zeroes from then on.
   */
  crc32c(first: number, count: number, lengthBytes: number, sum: number): number {
    return native.crc32c(this.#bytes, first, count, lengthBytes, sum);
  }

  close(): void {
    this.#views.close();
    this.#memory.close();
  }
}

/** Zeroed memory of our own that segments may point into. */
export class OwnMemory {
  readonly address: number;
  readonly lengthBytes: number;
  readonly addressLow: number;
  readonly addressHigh: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly view: DataView;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();

  constructor(lengthBytes: number) {
    this.#memory = Mapping.anonymous(lengthBytes);
    this.lengthBytes = lengthBytes;
    this.address = this.#memory.address;
    this.addressLow = this.address % TWO_32;
    this.addressHigh = Math.floor(this.address / TWO_32);
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
 * that
 * failed, why.
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
