/**
 * The driver's side of a split virtqueue (virtio 1.3 §2.7).
 *
 *   descriptor table   16 n bytes        u64 address, u32 length, u16 flags, u16 next
 *   available ring     6 + 2 n bytes     u16 flags, u16 idx, u16 head[n], u16 used_event       (we write)
 *   used ring          6 + 8 n bytes     u16 flags, u16 idx, {u32 id, u32 length}[n], u16 avail_event   (we read)
 *
 * Indices run modulo 2^16.
 */
import { assert } from '../base/assert.ts';
import { DESCRIPTOR_BYTES, DriverRing, type DriverRingOptions, encodeDescriptor, NO_HEAD } from './driver-ring.ts';
import type { OwnedMemory } from './owned-memory.ts';

const NO_INTERRUPT = 1;
const NO_NOTIFY = 1;
/** Word and half-word indexes inside the rings. */
const FLAGS = 0;
const IDX = 1;
const RING = 2;
const HALF_TURN = 0x8000;

export class SplitDriverRing extends DriverRing {
  readonly descriptorAddress: number;
  readonly availableAddress: number;
  readonly usedAddress: number;
  /** The parts themselves, for tests that misbehave or look closely. */
  readonly descriptors: Uint32Array;
  readonly available: Uint16Array;
  readonly used16: Uint16Array;
  readonly used32: Uint32Array;
  /** Index of the next head to expose, modulo 2^16. */
  nextAvail: number;
  /** Index of the next used element to take, modulo 2^16. */
  nextUsed: number;
  readonly #mask: number;
  #published: number;

  constructor(memory: OwnedMemory, options: DriverRingOptions) {
    super(memory, options);
    const { size, region, base = 0 } = options;
    assert((size & (size - 1)) === 0, 'a split ring has 2^k entries');
    const place = region === undefined ? {} : { region };
    this.#mask = size - 1;
    this.descriptorAddress = memory.allocate(DESCRIPTOR_BYTES * size, { alignment: 4096, ...place });
    this.availableAddress = memory.allocate(6 + 2 * size, { alignment: 64, ...place });
    this.usedAddress = memory.allocate(8 + 8 * size, { alignment: 4096, ...place });
    this.descriptors = memory.uint32s(this.descriptorAddress, 4 * size);
    this.available = memory.uint16s(this.availableAddress, 3 + size);
    this.used16 = memory.uint16s(this.usedAddress, 3 + 4 * size);
    this.used32 = memory.uint32s(this.usedAddress, 2 + 2 * size);
    this.nextAvail = base;
    this.nextUsed = base;
    this.#published = base;
    this.reset(base);
  }

  get inFlight(): number {
    return (this.#published - this.nextUsed) & 0xffff;
  }

  get usedBase(): number {
    return this.usedIdx();
  }

  reset(base = 0): void {
    this.descriptors.fill(0);
    this.available.fill(0);
    this.used32.fill(0);
    this.freeAll();
    this.nextAvail = base;
    this.nextUsed = base;
    this.#published = base;
    Atomics.store(this.available, IDX, base);
    Atomics.store(this.used16, IDX, base);
    if (this.hasEventIdx) this.available[RING + this.size] = base;
  }

  resume(nextAvail: number, nextUsed: number): void {
    this.nextAvail = nextAvail;
    this.nextUsed = nextUsed;
    this.#published = nextAvail;
  }

  expose(head: number): void {
    this.available[RING + (this.nextAvail & this.#mask)] = head;
    this.nextAvail = (this.nextAvail + 1) & 0xffff;
  }

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

  hasUsed(): boolean {
    return this.usedIdx() !== this.nextUsed;
  }

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

  wantCalls(): void {
    if (this.hasEventIdx) Atomics.store(this.available, RING + this.size, this.nextUsed);
    else Atomics.store(this.available, FLAGS, 0);
  }

  refuseCalls(): void {
    if (this.hasEventIdx) this.wantCallAt((this.nextUsed + HALF_TURN) & 0xffff);
    else Atomics.store(this.available, FLAGS, NO_INTERRUPT);
  }

  wantCallAfter(chains: number): void {
    this.wantCallAt(this.nextUsed + chains);
  }

  /** EVENT_IDX: asks for a call when the element with this index (modulo 2^16) is completed. */
  wantCallAt(usedIndex: number): void {
    Atomics.store(this.available, RING + this.size, usedIndex & 0xffff);
  }

  writeEntry(words: Uint32Array, index: number, gpa: number, lengthBytes: number, flags: number, next: number): void {
    encodeDescriptor(words, index, gpa, lengthBytes, flags, next);
  }
}
