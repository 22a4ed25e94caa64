/**
 * The driver's side of a virtqueue, whatever its layout, in memory that the initiator owns.
 *
 * Chains come from a free list of descriptors (`addChain`, `expose`, `publish`, `popUsed`, `freeChain`). Nothing
 * allocates after construction except `addChain`'s caller; a load generator builds its chains once and only exposes
 * them again. What stands in the ring's memory can be written by hand too, for tests that misbehave.
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

export interface DriverRingOptions {
  /** Entries, up to 32768; of a split ring a power of two. */
  readonly size: number;
  /** EVENT_IDX was negotiated. */
  readonly hasEventIdx?: boolean;
  /** Region that holds the three parts. Default: the first with room. */
  readonly region?: OwnedRegion;
  /** Where it begins, as given with SET_VRING_BASE. Default: where new rings begin. */
  readonly base?: number;
}

/** What `popUsed` returns when the device has completed nothing more. */
export const NO_HEAD = -1;

export const DESCRIPTOR_BYTES = 16;
const TWO_32 = 2 ** 32;

export abstract class DriverRing {
  readonly size: number;
  readonly hasEventIdx: boolean;
  /** Guest physical addresses of the three parts, as SET_VRING_ADDR knows them. */
  abstract readonly descriptorAddress: number;
  abstract readonly availableAddress: number;
  abstract readonly usedAddress: number;
  /** The chains that were built: a table of split descriptors. In a split ring the ring's own. */
  abstract readonly descriptors: Uint32Array;
  /** Length of the element that `popUsed` returned last. */
  usedLen = 0;
  /** Where the next chain goes, and where the next used one is expected; each as half of a base. */
  abstract nextAvail: number;
  abstract nextUsed: number;
  protected readonly memory: OwnedMemory;
  /** The driver's own free list: links that no device can change. */
  readonly #next: Uint16Array;
  #firstFree = 0;
  #freeCount: number;

  constructor(memory: OwnedMemory, { size, hasEventIdx = false }: DriverRingOptions) {
    assert(size > 0 && size <= 32768, 'a ring has at most 32768 entries');
    this.memory = memory;
    this.size = size;
    this.hasEventIdx = hasEventIdx;
    this.#next = new Uint16Array(size);
    this.#freeCount = size;
  }

  /** Descriptors that no chain uses. */
  get freeCount(): number {
    return this.#freeCount;
  }

  /** Heads given to the device and not taken back. */
  abstract get inFlight(): number;
  /** What SET_VRING_BASE is to say when nobody told: where the used side ends. */
  abstract get usedBase(): number;
  /** Starts over with every descriptor free. */
  abstract reset(base?: number): void;
  /** Goes on where a driver outside of this class left the ring: nothing is in flight. */
  abstract resume(nextAvail: number, nextUsed: number): void;
  /** Makes a head available; the device sees it after `publish`. */
  abstract expose(head: number): void;
  /** Shows all exposed heads to the device. True when it wants a kick for them. */
  abstract publish(): boolean;
  /** Whether `popUsed` has something. */
  abstract hasUsed(): boolean;
  /** Head of the next completed chain (`usedLen` holds its length), or `NO_HEAD`. The id is as the device wrote it. */
  abstract popUsed(): number;
  /** Asks for a call at the next completion. Look at the used ring again afterwards. */
  abstract wantCalls(): void;
  /** Asks for no calls. With EVENT_IDX a split ring can only name one half a turn away. */
  abstract refuseCalls(): void;
  /** EVENT_IDX: asks for a call when so many more chains of `descriptors` descriptors each, and one more, are used. */
  abstract wantCallAfter(chains: number, descriptors: number): void;
  /** Writes an entry of an indirect table. `next` means nothing in a packed one. */
  abstract writeEntry(
    words: Uint32Array,
    index: number,
    gpa: number,
    lengthBytes: number,
    flags: number,
    next: number,
  ): void;

  /** Writes one descriptor of a chain exactly as given. */
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
      this.writeEntry(words, i, segment.gpa, segment.lengthBytes, flags, isLast ? 0 : i + 1);
    });
    this.memory.write(tableAddress, table);
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

  /** Gives the ring's memory back. */
  close(): void {
    this.memory.release(this.descriptorAddress);
    this.memory.release(this.availableAddress);
    this.memory.release(this.usedAddress);
  }

  protected freeAll(): void {
    for (let i = 0; i < this.size; i++) this.#next[i] = i + 1;
    this.#firstFree = 0;
    this.#freeCount = this.size;
  }
}

/** Encodes a split descriptor, of a ring or of an indirect table. */
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
