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

export interface Window {
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
}

/** Nothing there. */
export const NOWHERE = -1;

class Region {
  readonly start: number;
  readonly end: number;
  readonly userAddress: number;
  readonly hostAddress: number;
  readonly windowFirst: number;

  constructor(info: MemoryRegionInfo, windowFirst: number) {
    this.start = info.guestAddress;
    this.end = info.guestAddress + info.sizeBytes;
    this.userAddress = info.userAddress;
    this.hostAddress = info.hostAddress;
    this.windowFirst = windowFirst;
  }
}

export class GuestMemory {
  /** Set by `locate`: offset in the window, in bytes. */
  offset = 0;
  readonly #regions: readonly Region[];
  readonly #windows: (Window | null)[] = [];
  readonly #views = new MappingViews();
  /** Index of the region of the last hit. Buffers of a guest mostly come from one region. */
  #last = 0;

  constructor(infos: readonly MemoryRegionInfo[]) {
    const sorted = [...infos].sort((a, b) => a.guestAddress - b.guestAddress);
    this.#regions = sorted.map((info) => {
      const first = this.#windows.length;
      for (let at = 0; at < info.sizeBytes; at += WINDOW_BYTES) this.#windows.push(null);
      return new Region(info, first);
    });
    for (let i = 1; i < sorted.length; i++) {
      const previous = this.#regions[i - 1] as Region;
      assert(previous.end <= (this.#regions[i] as Region).start, 'regions do not overlap');
    }
  }

  /**
   * Window that holds the bytes `[gpa, gpa + length)`, gpa = `addresses[index] + skip`, with `this.offset` set, or
   * `NOWHERE` when they are not all in one window: outside the memory, or across a border (then the caller reads byte
   * by byte).
   */
  locate(addresses: Float64Array, index: number, skip: number, lengthBytes: number): number {
    const region = this.#find(addresses, index, skip);
    if (region === null) return NOWHERE;
    const gpa = (addresses[index] as number) + skip;
    const inRegion = gpa - region.start;
    const offset = inRegion % WINDOW_BYTES;
    if (gpa + lengthBytes > region.end || offset + lengthBytes > WINDOW_BYTES) return NOWHERE;
    this.offset = offset;
    return region.windowFirst + (inRegion - offset) / WINDOW_BYTES;
  }

  window(index: number): Window {
    const window = this.#windows[index];
    return window === null || window === undefined ? this.#open(index) : window;
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
      const region = this.#find(addresses, index, done);
      if (region === null) return NOWHERE;
      if (next === entryEnd) return entryEnd + 1;
      const at = (addresses[index] as number) + done;
      const room = region.end - at;
      const length = Math.min(left, room);
      arena.set(next++, region.hostAddress + (at - region.start), length);
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
    if (whole !== NOWHERE) {
      const bytes = this.window(whole).bytes;
      const at = this.offset;
      for (let i = 0; i < lengthBytes; i++) target[targetOffset + i] = bytes[at + i] as number;
      return true;
    }
    for (let i = 0; i < lengthBytes; i++) {
      const window = this.locate(addresses, index, skip + i, 1);
      if (window === NOWHERE) return false;
      target[targetOffset + i] = this.window(window).bytes[this.offset] as number;
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
    if (whole !== NOWHERE) {
      const bytes = this.window(whole).bytes;
      const at = this.offset;
      for (let i = 0; i < lengthBytes; i++) bytes[at + i] = source[sourceOffset + i] as number;
      return true;
    }
    for (let i = 0; i < lengthBytes; i++) {
      const window = this.locate(addresses, index, skip + i, 1);
      if (window === NOWHERE) return false;
      this.window(window).bytes[this.offset] = source[sourceOffset + i] as number;
    }
    return true;
  }

  /** Takes back every view. The regions may be unmapped afterwards. */
  close(): void {
    this.#views.close();
    this.#windows.fill(null);
  }

  #find(addresses: Float64Array, index: number, skip: number): Region | null {
    const gpa = (addresses[index] as number) + skip;
    const regions = this.#regions;
    const last = this.#last;
    if (last < regions.length) {
      const region = regions[last] as Region;
      if (gpa >= region.start && gpa < region.end) return region;
    }
    let low = 0;
    let high = regions.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const region = regions[middle] as Region;
      if (gpa < region.start) high = middle - 1;
      else if (gpa >= region.end) low = middle + 1;
      else {
        this.#last = middle;
        return region;
      }
    }
    return null;
  }

  #open(index: number): Window {
    const regions = this.#regions;
    let region = regions[0] as Region;
    for (const candidate of regions) if (candidate.windowFirst <= index) region = candidate;
    const start = (index - region.windowFirst) * WINDOW_BYTES;
    const size = region.end - region.start;
    const length = Math.min(WINDOW_BYTES, size - start);
    const buffer = this.#views.view({ address: region.hostAddress, lengthBytes: size }, start, length);
    const window = { bytes: new Uint8Array(buffer), words: new Uint32Array(buffer, 0, Math.floor(length / 4)) };
    this.#windows[index] = window;
    return window;
  }
}

/** Host address of `[userAddress, userAddress + length)`, or `NOWHERE` when no single region holds it. */
export function hostAddressOf(regions: readonly MemoryRegionInfo[], userAddress: number, lengthBytes: number): number {
  for (const region of regions) {
    const offset = userAddress - region.userAddress;
    if (offset >= 0 && offset + lengthBytes <= region.sizeBytes) return region.hostAddress + offset;
  }
  return NOWHERE;
}
