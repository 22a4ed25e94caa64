/**
 * A reactor's segment lists: `struct iovec` entries (u64 address, u64 length) in native memory, built once per request
 * and used as they are by the copy engine, io_uring and librbd.
 *
 * Lists come in two sizes, so that an ordinary request costs a few cache lines and a guest may still send the longest
 * chain there is. Both pools are fixed: when one is empty the queue takes no more requests until some complete.
 */
import { assert } from '../base/assert.ts';
import { Mapping, MappingViews } from './mapping.ts';

/** Entries of a short list: covers 4 KiB to 32 KiB requests of scattered pages. */
export const IOV_SHORT_ENTRIES = 8;
/** Entries of a long list: 1024 descriptors, and memory-region borders inside them. */
export const IOV_LONG_ENTRIES = 1088;
const SHORT_LISTS = 8192;
const LONG_LISTS = 256;
const IOVEC_BYTES = 16;
const TWO_32 = 2 ** 32;

export const NO_LIST = -1;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const NONE = NO_LIST;
const SHORT_ENTRIES = IOV_SHORT_ENTRIES;
const LONG_ENTRIES = IOV_LONG_ENTRIES;
const check: (condition: boolean, message: string) => void = assert;

export class IovArena {
  /** Host address of entry 0. */
  readonly address: number;
  /** Entries in all. */
  readonly capacity: number;
  /** The entries as bytes, for native calls. */
  readonly bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();
  readonly #freeShort: Int32Array;
  readonly #freeLong: Int32Array;
  /** Index of the first entry of the long lists. */
  readonly #longStart: number;
  readonly #shortMax: number;
  readonly #longMax: number;
  #shortCount: number;
  #longCount: number;

  constructor(shortLists = SHORT_LISTS, longLists = LONG_LISTS) {
    this.capacity = shortLists * SHORT_ENTRIES + longLists * LONG_ENTRIES;
    this.#memory = Mapping.anonymous(this.capacity * IOVEC_BYTES);
    this.address = this.#memory.address;
    const buffer = this.#views.view(this.#memory, 0, this.#memory.lengthBytes);
    this.bytes = new Uint8Array(buffer);
    this.#words = new Uint32Array(buffer);
    this.#freeShort = new Int32Array(shortLists);
    this.#freeLong = new Int32Array(longLists);
    // The last freed list is the next one taken: its entries are still in the cache.
    for (let i = 0; i < shortLists; i++) this.#freeShort[i] = (shortLists - 1 - i) * SHORT_ENTRIES;
    this.#longStart = shortLists * SHORT_ENTRIES;
    for (let i = 0; i < longLists; i++) this.#freeLong[i] = this.#longStart + (longLists - 1 - i) * LONG_ENTRIES;
    this.#shortMax = shortLists;
    this.#longMax = longLists;
    this.#shortCount = shortLists;
    this.#longCount = longLists;
  }

  /** Index of the first entry of a list of `IOV_SHORT_ENTRIES`, or `NO_LIST`. */
  takeShort(): number {
    return this.#shortCount === 0 ? NONE : (this.#freeShort[--this.#shortCount] as number);
  }

  /** Index of the first entry of a list of `IOV_LONG_ENTRIES`, or `NO_LIST`. */
  takeLong(): number {
    return this.#longCount === 0 ? NONE : (this.#freeLong[--this.#longCount] as number);
  }

  /** Gives back a list by the index it was taken with. */
  release(first: number): void {
    if (first < this.#longStart) {
      check(this.#shortCount < this.#shortMax, 'a short list is released once');
      this.#freeShort[this.#shortCount++] = first;
    } else {
      check(this.#longCount < this.#longMax, 'a long list is released once');
      this.#freeLong[this.#longCount++] = first;
    }
  }

  set(entry: number, address: number, lengthBytes: number): void {
    const at = entry * 4;
    this.#words[at] = address >>> 0;
    this.#words[at + 1] = (address / TWO_32) >>> 0;
    // The high half of a length is always zero, as it was mapped.
    this.#words[at + 2] = lengthBytes;
  }

  /** As `set`, with the address as two words. */
  setWords(entry: number, low: number, high: number, lengthBytes: number): void {
    const at = entry * 4;
    this.#words[at] = low;
    this.#words[at + 1] = high;
    this.#words[at + 2] = lengthBytes;
  }

  /** Host address of an entry's segment. */
  addressOf(entry: number): number {
    return (this.#words[entry * 4 + 1] as number) * TWO_32 + (this.#words[entry * 4] as number);
  }

  /** Bytes of an entry's segment, below 2^32. */
  lengthOf(entry: number): number {
    return this.#words[entry * 4 + 2] as number;
  }

  /**
   * True when the segments of a list hold exactly `totalBytes`, and no address and no length has a bit of its mask.
   * Then the kernel can use the list as it is.
   */
  fits(first: number, count: number, totalBytes: number, addressMask: number, lengthMask: number): boolean {
    const words = this.#words;
    let wrong = 0;
    let total = 0;
    for (let at = first * 4; at < (first + count) * 4; at += 4) {
      const length = words[at + 2] as number;
      wrong |= ((words[at] as number) & addressMask) | (length & lengthMask);
      total += length;
    }
    return wrong === 0 && total === totalBytes;
  }

  /**
   * Makes a list, from `entry` on, of `lengthBytes` of another one, from `skipBytes` after its start. Returns the
   * number of entries: at most `entriesMax`, which then hold fewer bytes.
   */
  setPart(
    entry: number,
    entriesMax: number,
    from: IovArena,
    first: number,
    count: number,
    skipBytes: number,
    lengthBytes: number,
  ): number {
    let entries = 0;
    let toSkip = skipBytes;
    let left = lengthBytes;
    for (let i = first; i < first + count && left > 0 && entries < entriesMax; i++) {
      const whole = from.lengthOf(i);
      if (whole <= toSkip) {
        toSkip -= whole;
        continue;
      }
      const length = Math.min(whole - toSkip, left);
      this.set(entry + entries++, from.addressOf(i) + toSkip, length);
      left -= length;
      toSkip = 0;
    }
    return entries;
  }

  // Addresses are beyond the engine's small integers and would be boxed on their way out: these write them in place.

  /** Stores the address of a segment as two words. */
  copyAddress(entry: number, words: Uint32Array, at: number): void {
    words[at] = this.#words[entry * 4] as number;
    words[at + 1] = this.#words[entry * 4 + 1] as number;
  }

  /** Stores the address of the entry itself as two words. */
  copyEntryAddress(entry: number, words: Uint32Array, at: number): void {
    const address = this.address + entry * IOVEC_BYTES;
    words[at] = address >>> 0;
    words[at + 1] = (address / TWO_32) >>> 0;
  }

  /** Stores the address of the entry itself as a number. */
  storeEntryAddress(entry: number, numbers: Float64Array, at: number): void {
    numbers[at] = this.address + entry * IOVEC_BYTES;
  }

  close(): void {
    this.#views.close();
    this.#memory.close();
  }
}
