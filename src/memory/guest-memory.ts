/**
 * The memory map of one session as one thread sees it: guest physical addresses to bytes and to host addresses.
 *
 * A region is one mapping, contiguous in host memory; views of it are cut into windows of 1 GiB. `locate` finds the
 * window of a few bytes that JavaScript reads itself (headers, status bytes, indirect tables); `appendSegments` turns a
 * guest buffer into iovec entries without touching a byte. Both refuse whatever is not inside the regions, and a buffer
 * that crosses from one region into the next is followed, never assumed contiguous in host memory (CVE-2018-1059).
 *
 * Calls of the data path take an address as an element of a Float64Array plus a small offset: an address is beyond the
 * engine's small integers, and would be boxed as an argument of every call that is not inlined.
 */
import { assert } from '../base/assert.ts';
import { DOUBLE } from '../base/double.ts';
import { WINDOW_BYTES } from '../base/limits.ts';
import type { IovArena } from '../sys/iov-arena.ts';
import { MappingViews } from '../sys/mapping.ts';

/** One region as plain data, for another thread. */
export interface MemoryRegionInfo {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  /** Address in the front-end's own address space; ring addresses come in it. */
  readonly userAddress: number;
  /** Where the region's first byte is mapped in this process. */
  readonly hostAddress: number;
}

/** At most 1 GiB of a region, as JavaScript reads and writes it. */
export class Window {
  /** 0-based, in the order of guest addresses. */
  readonly index: number;
  /** Guest address of the first byte, past the last one, and past the whole region. */
  readonly start: number = DOUBLE;
  readonly end: number = DOUBLE;
  readonly regionEnd: number = DOUBLE;
  /** Where the first byte is in this process. */
  readonly hostAddress: number = DOUBLE;
  /** Its lower half, as a signed number. */
  readonly hostLow: number;
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;

  constructor(index: number, region: MemoryRegionInfo, offset: number, views: MappingViews) {
    this.index = index;
    this.start = region.guestAddress + offset;
    this.regionEnd = region.guestAddress + region.sizeBytes;
    this.end = Math.min(this.regionEnd, this.start + WINDOW_BYTES);
    this.hostAddress = region.hostAddress + offset;
    this.hostLow = this.hostAddress | 0;
    const lengthBytes = this.end - this.start;
    const buffer = views.view({ address: region.hostAddress, lengthBytes: region.sizeBytes }, offset, lengthBytes);
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer, 0, Math.floor(lengthBytes / 4));
  }
}

/** Nothing there. */
export const NOWHERE = -1;

/** Stands for a memory without regions. */
const NO_REGION: MemoryRegionInfo = { guestAddress: 0, sizeBytes: 0, userAddress: 0, hostAddress: 1 };

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const NONE = NOWHERE;

export class GuestMemory {
  /** Set by `locate`: offset in the window, in bytes. */
  offset = 0;
  readonly regions: readonly MemoryRegionInfo[];
  /** Ascending, without overlap. */
  readonly #windows: Window[] = [];
  readonly #views = new MappingViews();
  /** Window of the last hit. Buffers of a guest mostly come from one. */
  #last: Window;

  constructor(infos: readonly MemoryRegionInfo[]) {
    this.regions = infos;
    let end = 0;
    for (const region of [...infos].sort((a, b) => a.guestAddress - b.guestAddress)) {
      assert(region.guestAddress >= end, 'regions do not overlap');
      end = region.guestAddress + region.sizeBytes;
      for (let offset = 0; offset < region.sizeBytes; offset += WINDOW_BYTES) {
        this.#windows.push(new Window(this.#windows.length, region, offset, this.#views));
      }
    }
    this.#last = this.#windows[0] ?? new Window(0, NO_REGION, 0, this.#views);
  }

  /**
   * Window that holds the bytes `[gpa, gpa + length)`, gpa = `addresses[index] + skip`, with `this.offset` set, or null
   * when they are not all in one window: outside the memory, or across a border (then the caller reads byte by byte).
   */
  locate(addresses: Float64Array, index: number, skip: number, lengthBytes: number): Window | null {
    const gpa = (addresses[index] as number) + skip;
    let window: Window | null = this.#last;
    if (gpa < window.start || gpa + lengthBytes > window.end) {
      window = this.#find(addresses, index, skip);
      if (window === null || gpa + lengthBytes > window.end) return null;
    }
    this.offset = (gpa - window.start) | 0;
    return window;
  }

  /** In the order of their indexes. */
  get windows(): readonly Window[] {
    return this.#windows;
  }

  /** By its index. */
  window(index: number): Window {
    return this.#windows[index] as Window;
  }

  /**
   * Writes the buffer of `lengthBytes` at `addresses[index] + skip` as iovec entries from `entry` on, at most up to
   * `entryEnd`. Returns the next free entry; `NOWHERE` when part of the buffer is outside the memory; `entryEnd + 1`
   * when the entries ran out.
   */
  appendSegments(
    addresses: Float64Array,
    index: number,
    skip: number,
    lengthBytes: number,
    arena: IovArena,
    entry: number,
    entryEnd: number,
  ): number {
    let left = lengthBytes;
    let next = entry;
    while (left > 0) {
      const done = skip + (lengthBytes - left);
      const window = this.#find(addresses, index, done);
      if (window === null) return NONE;
      if (next === entryEnd) return entryEnd + 1;
      const at = (addresses[index] as number) + done;
      const length = Math.min(left, window.regionEnd - at);
      arena.set(next++, window.hostAddress + (at - window.start), length);
      left -= length;
    }
    return next;
  }

  /** Copies bytes from `addresses[index] + skip` on out, across any border. False when some are outside the memory. */
  read(
    addresses: Float64Array,
    index: number,
    skip: number,
    target: Uint8Array,
    targetOffset: number,
    lengthBytes: number,
  ): boolean {
    const whole = this.locate(addresses, index, skip, lengthBytes);
    if (whole !== null) {
      const { bytes } = whole;
      const at = this.offset;
      for (let i = 0; i < lengthBytes; i++) target[targetOffset + i] = bytes[at + i] as number;
      return true;
    }
    for (let i = 0; i < lengthBytes; i++) {
      const window = this.locate(addresses, index, skip + i, 1);
      if (window === null) return false;
      target[targetOffset + i] = window.bytes[this.offset] as number;
    }
    return true;
  }

  /** Copies bytes in, across any border. False, with part of them written, when some are outside the memory. */
  write(
    addresses: Float64Array,
    index: number,
    skip: number,
    source: Uint8Array,
    sourceOffset: number,
    lengthBytes: number,
  ): boolean {
    const whole = this.locate(addresses, index, skip, lengthBytes);
    if (whole !== null) {
      const { bytes } = whole;
      const at = this.offset;
      for (let i = 0; i < lengthBytes; i++) bytes[at + i] = source[sourceOffset + i] as number;
      return true;
    }
    for (let i = 0; i < lengthBytes; i++) {
      const window = this.locate(addresses, index, skip + i, 1);
      if (window === null) return false;
      window.bytes[this.offset] = source[sourceOffset + i] as number;
    }
    return true;
  }

  /** Takes back every view. The regions may be unmapped afterwards. */
  close(): void {
    this.#views.close();
  }

  /** Window that holds the byte at `addresses[index] + skip`, or null. */
  #find(addresses: Float64Array, index: number, skip: number): Window | null {
    const gpa = (addresses[index] as number) + skip;
    const last = this.#last;
    if (gpa >= last.start && gpa < last.end) return last;
    const windows = this.#windows;
    let low = 0;
    let high = windows.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const window = windows[middle] as Window;
      if (gpa < window.start) high = middle - 1;
      else if (gpa >= window.end) low = middle + 1;
      else {
        this.#last = window;
        return window;
      }
    }
    return null;
  }
}

/** Guest physical address of what the front-end has at `userAddress`, or `NOWHERE`. */
export function guestAddressOf(regions: readonly MemoryRegionInfo[], userAddress: number): number {
  for (const region of regions) {
    const offset = userAddress - region.userAddress;
    if (offset >= 0 && offset < region.sizeBytes) return region.guestAddress + offset;
  }
  return NONE;
}

/** Host address of `[userAddress, userAddress + length)`, or `NOWHERE` when no single region holds it. */
export function hostAddressOf(regions: readonly MemoryRegionInfo[], userAddress: number, lengthBytes: number): number {
  for (const region of regions) {
    const offset = userAddress - region.userAddress;
    if (offset >= 0 && offset + lengthBytes <= region.sizeBytes) return region.hostAddress + offset;
  }
  return NONE;
}
