/**
 * The driver's side of a split virtqueue (virtio 1.3 §2.7), in memory that the initiator owns.
 *
 *   descriptor table   16 n bytes        u64 address, u32 length, u16 flags, u16 next
 *   available ring     6 + 2 n bytes     u16 flags, u16 idx, u16 head[n], u16 used_event       (we write)
 *   used ring          6 + 8 n bytes     u16 flags, u16 idx, {u32 id, u32 length}[n], u16 avail_event   (we read)
 *
 * Two levels: chains from a free list (`addChain`, `expose`, `publish`, `popUsed`, `freeChain`), and raw writes to
 * every field, for tests that misbehave. Nothing allocates after construction except `addChain`'s caller; a load
 * generator builds its chains once and only exposes them again.
 */
import { assert } from '../base/assert.ts';
import type { OwnedMemory, OwnedRegion } from './owned-memory.ts';

export const DescriptorFlag = { next: 1, write: 2, indirect: 4 } as const;

/** One descriptor's buffer. */
export interface Segment {
  /** Guest physical address. */
  readonly gpa: number;
  readonly lengthBytes: number;
  /** True when the device writes it. */
  readonly isWritable: boolean;
}

export interface SplitDriverRingOptions {
  /** Entries, a power of two up to 32768. */
  readonly size: number;
  /** EVENT_IDX was negotiated. */
  readonly hasEventIdx?: boolean;
  /** Region that holds the three parts. Default: the first with room. */
  readonly region?: OwnedRegion;
  /** First value of the indices, as given with SET_VRING_BASE. Default 0. */
  readonly base?: number;
}

/** What `popUsed` returns when the device has completed nothing more. */
export const NO_HEAD = -1;

const DESCRIPTOR_BYTES = 16;
const TWO_32 = 2 ** 32;
const NO_INTERRUPT = 1;
const NO_NOTIFY = 1;
/** Word and half-word indexes inside the rings. */
const FLAGS = 0;
const IDX = 1;
const RING = 2;
const HALF_TURN = 0x8000;

export class SplitDriverRing {
  readonly size: number;
  readonly hasEventIdx: boolean;
  /** Guest physical addresses of the three parts. */
  readonly descriptorAddress: number;
  readonly availableAddress: number;
  readonly usedAddress: number;
  /** The parts themselves, for tests that misbehave or look closely. */
  readonly descriptors: Uint32Array;
  readonly available: Uint16Array;
  readonly used16: Uint16Array;
  readonly used32: Uint32Array;
  /** Length of the element that `popUsed` returned last. */
  usedLen = 0;
  /** Index of the next head to expose, modulo 2^16. */
  nextAvail: number;
  /** Index of the next used element to take, modulo 2^16. */
  nextUsed: number;
  readonly #memory: OwnedMemory;
  readonly #mask: number;
  /** The driver's own free list: links that no device can change. */
  readonly #next: Uint16Array;
  #firstFree = 0;
  #freeCount: number;
  #published: number;

  constructor(memory: OwnedMemory, options: SplitDriverRingOptions) {
    const { size, region, base = 0 } = options;
    assert(size > 0 && size <= 32768 && (size & (size - 1)) === 0, 'a split ring has 2^k entries');
    const place = region === undefined ? {} : { region };
    this.#memory = memory;
    this.size = size;
    this.hasEventIdx = options.hasEventIdx ?? false;
    this.#mask = size - 1;
    this.descriptorAddress = memory.allocate(DESCRIPTOR_BYTES * size, { alignment: 4096, ...place });
    this.availableAddress = memory.allocate(6 + 2 * size, { alignment: 64, ...place });
    this.usedAddress = memory.allocate(8 + 8 * size, { alignment: 4096, ...place });
    this.descriptors = memory.uint32s(this.descriptorAddress, 4 * size);
    this.available = memory.uint16s(this.availableAddress, 3 + size);
    this.used16 = memory.uint16s(this.usedAddress, 3 + 4 * size);
    this.used32 = memory.uint32s(this.usedAddress, 2 + 2 * size);
    this.#next = new Uint16Array(size);
    this.#freeCount = size;
    this.nextAvail = base;
    this.nextUsed = base;
    this.#published = base;
    this.reset(base);
  }

  /** Descriptors that no chain uses. */
  get freeCount(): number {
    return this.#freeCount;
  }

  /** Heads given to the device and not taken back. */
  get inFlight(): number {
    return (this.#published - this.nextUsed) & 0xffff;
  }

  /** Starts over with every descriptor free and both indices at `base`. */
  reset(base = 0): void {
    this.descriptors.fill(0);
    this.available.fill(0);
    this.used32.fill(0);
    for (let i = 0; i < this.size; i++) this.#next[i] = i + 1;
    this.#firstFree = 0;
    this.#freeCount = this.size;
    this.nextAvail = base;
    this.nextUsed = base;
    this.#published = base;
    Atomics.store(this.available, IDX, base);
    Atomics.store(this.used16, IDX, base);
    if (this.hasEventIdx) this.available[RING + this.size] = base;
  }

  /** Goes on where a driver outside of this class left the ring: nothing is in flight. */
  resume(nextAvail: number, nextUsed: number): void {
    this.nextAvail = nextAvail;
    this.nextUsed = nextUsed;
    this.#published = nextAvail;
  }

  /** Writes one descriptor exactly as given. */
  writeDescriptor(index: number, gpa: number, lengthBytes: number, flags: number, next: number): void {
    encodeDescriptor(this.descriptors, index, gpa, lengthBytes, flags, next);
  }

  /** Builds a chain of direct descriptors. Returns its head, or `NO_HEAD` when too few are free. */
  addChain(segments: readonly Segment[]): number {
    assert(segments.length > 0, 'a chain has a descriptor');
    if (segments.length > this.#freeCount) return NO_HEAD;
    const head = this.#firstFree;
    let index = head;
    for (let i = 0; i < segments.length; i++) {
      const { gpa, lengthBytes, isWritable } = segments[i] as Segment;
      const next = this.#next[index] as number;
      const isLast = i === segments.length - 1;
      const flags = (isWritable ? DescriptorFlag.write : 0) | (isLast ? 0 : DescriptorFlag.next);
      this.writeDescriptor(index, gpa, lengthBytes, flags, isLast ? 0 : next);
      if (isLast) {
        this.#firstFree = next;
        // The end of a chain that is in use: `freeChain` stops here.
        this.#next[index] = this.size;
      }
      index = next;
    }
    this.#freeCount -= segments.length;
    return head;
  }

  /**
   * Builds a chain of one descriptor that points to a table of `segments`, written at `tableAddress`
   * (16 bytes a segment). Returns its head, or `NO_HEAD`.
   */
  addIndirect(segments: readonly Segment[], tableAddress: number): number {
    const lengthBytes = DESCRIPTOR_BYTES * segments.length;
    const table = new Uint8Array(lengthBytes);
    const words = new Uint32Array(table.buffer);
    segments.forEach((segment, i) => {
      const isLast = i === segments.length - 1;
      const flags = (segment.isWritable ? DescriptorFlag.write : 0) | (isLast ? 0 : DescriptorFlag.next);
      encodeDescriptor(words, i, segment.gpa, segment.lengthBytes, flags, isLast ? 0 : i + 1);
    });
    this.#memory.write(tableAddress, table);
    const head = this.addChain([{ gpa: tableAddress, lengthBytes, isWritable: false }]);
    if (head !== NO_HEAD) this.writeDescriptor(head, tableAddress, lengthBytes, DescriptorFlag.indirect, 0);
    return head;
  }

  /** Takes one descriptor off the free list, for raw chains. */
  takeDescriptor(): number {
    return this.addChain([{ gpa: 0, lengthBytes: 0, isWritable: false }]);
  }

  /** Gives a chain's descriptors back to the free list. */
  freeChain(head: number): void {
    let last = head;
    let count = 1;
    while ((this.#next[last] as number) < this.size) {
      last = this.#next[last] as number;
      count++;
    }
    this.#next[last] = this.#firstFree;
    this.#firstFree = head;
    this.#freeCount += count;
  }

  /** Puts a head in the available ring; the device sees it after `publish`. */
  expose(head: number): void {
    this.available[RING + (this.nextAvail & this.#mask)] = head;
    this.nextAvail = (this.nextAvail + 1) & 0xffff;
  }

  /** Shows all exposed heads to the device. True when it wants a kick for them. */
  publish(): boolean {
    const old = this.#published;
    const now = this.nextAvail;
    // Releases the heads and descriptors above, and is a full barrier before the device's event word is read.
    Atomics.store(this.available, IDX, now);
    this.#published = now;
    if (!this.hasEventIdx) return (Atomics.load(this.used16, FLAGS) & NO_NOTIFY) === 0;
    const event = Atomics.load(this.used16, RING + 4 * this.size);
    return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff);
  }

  /** Head of the next completed chain (`usedLen` holds its length), or `NO_HEAD`. The id is as the device wrote it. */
  popUsed(): number {
    // Acquires the elements below the index.
    if (Atomics.load(this.used16, IDX) === this.nextUsed) return NO_HEAD;
    const at = 1 + 2 * (this.nextUsed & this.#mask);
    this.nextUsed = (this.nextUsed + 1) & 0xffff;
    this.usedLen = this.used32[at + 1] as number;
    return this.used32[at] as number;
  }

  /** The used index as the device has it. */
  usedIdx(): number {
    return Atomics.load(this.used16, IDX);
  }

  /** Asks for a call at the next completion. Look at the used ring again afterwards. */
  wantCalls(): void {
    if (this.hasEventIdx) Atomics.store(this.available, RING + this.size, this.nextUsed);
    else Atomics.store(this.available, FLAGS, 0);
  }

  /** Asks for no calls. With EVENT_IDX: for the one half a turn away, which is never in practice. */
  refuseCalls(): void {
    if (this.hasEventIdx) this.wantCallAt((this.nextUsed + HALF_TURN) & 0xffff);
    else Atomics.store(this.available, FLAGS, NO_INTERRUPT);
  }

  /** EVENT_IDX: asks for a call when the element with this index (modulo 2^16) is completed. */
  wantCallAt(usedIndex: number): void {
    Atomics.store(this.available, RING + this.size, usedIndex & 0xffff);
  }

  /** Gives the ring's memory back. */
  close(): void {
    this.#memory.release(this.descriptorAddress);
    this.#memory.release(this.availableAddress);
    this.#memory.release(this.usedAddress);
  }
}

/** Encodes a descriptor of a ring or of an indirect table. */
export function encodeDescriptor(
  words: Uint32Array,
  index: number,
  gpa: number,
  lengthBytes: number,
  flags: number,
  next: number,
): void {
  const at = index * 4;
  words[at] = gpa % TWO_32;
  words[at + 1] = gpa / TWO_32;
  words[at + 2] = lengthBytes;
  words[at + 3] = flags | (next << 16);
}
