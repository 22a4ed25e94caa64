/**
 * A list of segments that is put together for transfers: parts of requests' lists, and memory of our own between them.
 * Sockets, the copy engine and CRC32C (native/stream.c) take it as it is.
 */
import { assert } from '../base/assert.ts';
import { IOV_LONG_ENTRIES, IOV_SHORT_ENTRIES, IovArena } from './iov-arena.ts';
import { native } from './native.ts';

export class IovList {
  /** The entries; those of the list are the first `count`. */
  readonly entries: IovArena;
  count = 0;

  /** With room for so many entries, at least. */
  constructor(capacity: number) {
    const longLists = capacity <= IOV_SHORT_ENTRIES ? 0 : Math.ceil(capacity / IOV_LONG_ENTRIES);
    this.entries = new IovArena(longLists === 0 ? 1 : 0, longLists);
  }

  get capacity(): number {
    return this.entries.capacity;
  }

  /** Adds memory of our own, or of a segment. */
  add(address: number, lengthBytes: number): void {
    assert(this.count < this.entries.capacity, 'a list has room for an entry');
    this.entries.set(this.count++, address, lengthBytes);
  }

  /**
   * Adds `lengthBytes` of a request's segments from `skipBytes` on; fewer when they hold fewer. The list has room for
   * as many entries. Returns how many were added.
   */
  addPart(from: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): number {
    assert(this.count + count <= this.entries.capacity, 'a list has room for the entries of another');
    const added = this.entries.setPart(this.count, count, from, first, count, skipBytes, lengthBytes);
    this.count += added;
    return added;
  }

  lengthOf(entry: number): number {
    return this.entries.lengthOf(entry);
  }

  /** Bytes of all entries. */
  get lengthBytes(): number {
    let bytes = 0;
    for (let entry = 0; entry < this.count; entry++) bytes += this.entries.lengthOf(entry);
    return bytes;
  }

  /** Takes bytes off the front of the entries from `first` on. Returns the first entry that has some left. */
  skip(first: number, bytes: number): number {
    const { entries } = this;
    let left = bytes;
    for (let entry = first; entry < this.count; entry++) {
      const length = entries.lengthOf(entry);
      if (length > left) {
        entries.set(entry, entries.addressOf(entry) + left, length - left);
        return entry;
      }
      left -= length;
    }
    return this.count;
  }

  // SAFETY of the calls below: entries come from requests' lists, which stay as they are until the request ends, and
  // from memory of our own, whose bounds its users keep.

  /**
   * Bytes sent from, or received into, the entries `[first, first + count)`, or a negative errno: `-EAGAIN` rather than
   * wait. Receiving ends with 0.
   */
  transfer(fd: number, isSend: boolean, first: number, count: number): number {
    return native.streamTransfer(fd, isSend, this.entries.bytes, first, count);
  }

  /** CRC32C over the first bytes of some entries, as a signed number, going on from the sum of what came before. */
  crc32c(first: number, count: number, lengthBytes: number, sum: number): number {
    return native.crc32c(this.entries.bytes, first, count, lengthBytes, sum);
  }

  /**
   * Reads every byte in this thread, after a transfer that ended with `-EFAULT`: where a guest took its memory away
   * there are zeroes from then on (the SIGBUS guard), its session ends by that, and the transfer can be done again.
   */
  touch(first: number, count: number): void {
    native.crc32c(this.entries.bytes, first, count, Number.MAX_SAFE_INTEGER, 0);
  }

  close(): void {
    this.entries.close();
  }
}
