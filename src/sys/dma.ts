/**
 * Memory that devices reach by themselves (DMA). Guest memory is announced here when it is mapped, and withdrawn before
 * it is unmapped; every device's `DmaTable` follows. Main thread, except `DmaView`.
 *
 * A device knows memory by I/O addresses (IOVA). The table of them lies in mapped memory, which reactors read without
 * locks: entries change only for memory that no request uses.
 */
import { assert } from '../base/assert.ts';
import { DOUBLE } from '../base/double.ts';
import { Mapping, type MappingInfo, MappingViews } from './mapping.ts';

/** What makes memory reachable for a device. */
export interface DmaMapper {
  /** The I/O address of the first byte; throws a `TargetError` where that is not possible. */
  map(memory: MappingInfo): number;
  unmap(iova: number, lengthBytes: number): void;
}

/** All memory that guests share with us. */
class SharedMemory {
  readonly #ranges = new Set<MappingInfo>();
  readonly #tables = new Set<DmaTable>();

  add(memory: MappingInfo): void {
    this.#ranges.add(memory);
    for (const table of this.#tables) table.add(memory);
  }

  /** No request uses it any more. */
  remove(memory: MappingInfo): void {
    if (!this.#ranges.delete(memory)) return;
    for (const table of this.#tables) table.remove(memory);
  }

  attach(table: DmaTable): void {
    this.#tables.add(table);
    for (const memory of this.#ranges) table.add(memory);
  }

  detach(table: DmaTable): void {
    this.#tables.delete(table);
  }
}

export const sharedMemory = new SharedMemory();

/** Ranges of one device. More than that many go by bounce buffers. */
const RANGES_MAX = 2048;
/** An entry: first byte, byte past the last, I/O address of the first. */
const ENTRY = 3;
const DMA_TABLE_BYTES = RANGES_MAX * ENTRY * 8;

export class DmaTable {
  readonly #mapper: DmaMapper;
  readonly #onFailure: (error: Error) => void;
  readonly #memory = Mapping.anonymous(DMA_TABLE_BYTES);
  readonly #views = new MappingViews();
  readonly #entries: Float64Array;

  /** `onFailure` hears of memory that the device cannot reach; requests in it are copied. */
  constructor(mapper: DmaMapper, onFailure: (error: Error) => void) {
    this.#mapper = mapper;
    this.#onFailure = onFailure;
    this.#entries = new Float64Array(this.#views.view(this.#memory, 0, DMA_TABLE_BYTES));
    sharedMemory.attach(this);
  }

  /** Where `DmaView` finds it. */
  get address(): number {
    return this.#memory.address;
  }

  add(memory: MappingInfo): void {
    const entries = this.#entries;
    let at = 0;
    while (at < entries.length && entries[at + 1] !== 0) at += ENTRY;
    if (at === entries.length) return;
    try {
      entries[at + 2] = this.#mapper.map(memory);
    } catch (error) {
      this.#onFailure(error as Error);
      return;
    }
    entries[at] = memory.address;
    entries[at + 1] = memory.address + memory.lengthBytes;
  }

  remove(memory: MappingInfo): void {
    const entries = this.#entries;
    for (let at = 0; at < entries.length; at += ENTRY) {
      if (entries[at] !== memory.address || entries[at + 1] === 0) continue;
      const iova = entries[at + 2] as number;
      const length = (entries[at + 1] as number) - memory.address;
      entries[at + 1] = 0;
      entries[at] = 0;
      this.#mapper.unmap(iova, length);
      return;
    }
  }

  /** No view is open. */
  close(): void {
    sharedMemory.detach(this);
    const entries = this.#entries;
    for (let at = 0; at < entries.length; at += ENTRY) {
      const length = (entries[at + 1] as number) - (entries[at] as number);
      if (length > 0) this.#mapper.unmap(entries[at + 2] as number, length);
    }
    this.#views.close();
    this.#memory.close();
  }
}

/** Not reachable. */
export const NO_IOVA = -1;

/** A device's table as a reactor reads it. */
export class DmaView {
  /** Set by `find`: what is added to an address in the range that it found. */
  shift = DOUBLE;
  readonly #entries: Float64Array;
  readonly #views = new MappingViews();
  /** Of the last hit: a guest's buffers mostly come from one range. */
  #at = 0;

  constructor(tableAddress: number) {
    const memory = { address: tableAddress, lengthBytes: DMA_TABLE_BYTES };
    this.#entries = new Float64Array(this.#views.view(memory, 0, DMA_TABLE_BYTES));
  }

  /** True when one range holds all bytes of a segment, given as two words of its address and its length. */
  find(low: number, high: number, lengthBytes: number): boolean {
    const address = high * 2 ** 32 + low;
    const entries = this.#entries;
    const last = this.#at;
    if (address >= (entries[last] as number) && address + lengthBytes <= (entries[last + 1] as number)) {
      this.shift = (entries[last + 2] as number) - (entries[last] as number);
      return true;
    }
    for (let at = 0; at < entries.length; at += ENTRY) {
      const start = entries[at] as number;
      if (address >= start && address + lengthBytes <= (entries[at + 1] as number)) {
        this.#at = at;
        this.shift = (entries[at + 2] as number) - start;
        return true;
      }
    }
    return false;
  }

  close(): void {
    this.#views.close();
  }
}

/** Hands out I/O addresses between two bounds: first fit, in units of 2 MiB, so that large pages can be used. */
export class IovaAllocator {
  readonly #end: number;
  /** Free ranges, ascending: first address and length. */
  readonly #free: { start: number; length: number }[];

  constructor(start: number, end: number) {
    this.#end = end;
    this.#free = [{ start, length: end - start }];
  }

  /** -1 when there is none. */
  take(lengthBytes: number): number {
    const length = roundUp(lengthBytes);
    const index = this.#free.findIndex((range) => range.length >= length);
    const range = this.#free[index];
    if (range === undefined) return NO_IOVA;
    const { start } = range;
    range.start += length;
    range.length -= length;
    if (range.length === 0) this.#free.splice(index, 1);
    return start;
  }

  release(start: number, lengthBytes: number): void {
    const length = roundUp(lengthBytes);
    assert(start + length <= this.#end, 'an I/O address comes from here');
    const index = this.#free.findIndex((range) => range.start > start);
    const at = index < 0 ? this.#free.length : index;
    this.#free.splice(at, 0, { start, length });
    this.#join(at);
    if (at > 0) this.#join(at - 1);
  }

  /** Joins a free range and the next one when they touch. */
  #join(at: number): void {
    const [range, next] = [this.#free[at], this.#free[at + 1]];
    if (range === undefined || next === undefined || range.start + range.length !== next.start) return;
    range.length += next.length;
    this.#free.splice(at + 1, 1);
  }
}

const UNIT = 2 ** 21;

function roundUp(bytes: number): number {
  return Math.ceil(bytes / UNIT) * UNIT;
}
