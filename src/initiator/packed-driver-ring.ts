/**
 * The driver's side of a packed virtqueue (virtio 1.3 §2.8).
 *
 *   descriptor ring     16 n bytes   u64 address, u32 length, u16 id, u16 flags                       (both write)
 *   driver's wishes     4 bytes      u16 offset with wrap in bit 15, u16 flags: when to be called     (we write)
 *   device's wishes     4 bytes      the same: when to be kicked                                      (we read)
 *
 * Chains are built in a table of our own, and copied into the ring whenever they are exposed; their head there is their
 * id in the ring. The flags of the first descriptor that was exposed are held back until `publish`.
 */
import { PACKED_BASE_FIRST } from '../virtio/ring-shape.ts';
import {
  DESCRIPTOR_BYTES,
  DescriptorFlag,
  DriverRing,
  type DriverRingOptions,
  encodeDescriptor,
  NO_HEAD,
} from './driver-ring.ts';
import type { OwnedMemory } from './owned-memory.ts';

const MARKS = 0x8080;
const AVAIL_MARK = 0x0080;
const USED_MARK = 0x8000;
/** Half-words of a descriptor, and of an event structure. */
const FLAGS = 7;
const ID = 6;
const EVENT_OFFSET = 0;
const EVENT_FLAGS = 1;
const EVENT_ENABLE = 0;
const EVENT_DISABLE = 1;
const EVENT_AT_OFFSET = 2;
const POSITION_MASK = 0x7fff;
const WRAP_SHIFT = 15;
const NOWHERE = -1;

/** A place in the ring and the turn in which it is stood at. */
interface Position {
  place: number;
  wrap: number;
}

export class PackedDriverRing extends DriverRing {
  readonly descriptorAddress: number;
  readonly availableAddress: number;
  readonly usedAddress: number;
  readonly descriptors: Uint32Array;
  /** The parts themselves, for tests that misbehave or look closely. */
  readonly ring32: Uint32Array;
  readonly ring16: Uint16Array;
  readonly driverEvent: Uint16Array;
  readonly deviceEvent: Uint16Array;
  readonly #avail: Position = { place: 0, wrap: 1 };
  readonly #used: Position = { place: 0, wrap: 1 };
  readonly #peek: Position = { place: 0, wrap: 1 };
  /** Descriptors in the ring of the chains that were exposed, by id. */
  readonly #slots: Uint16Array;
  #hidden = NOWHERE;
  #hiddenFlags = 0;
  /** Where the available side stood when it was published last. */
  #publishedPlace = 0;
  #inFlight = 0;

  constructor(memory: OwnedMemory, options: DriverRingOptions) {
    super(memory, options);
    const { size, region, base = PACKED_BASE_FIRST } = options;
    const place = region === undefined ? {} : { region };
    this.descriptorAddress = memory.allocate(DESCRIPTOR_BYTES * size, { alignment: 4096, ...place });
    this.availableAddress = memory.allocate(4, { alignment: 64, ...place });
    this.usedAddress = memory.allocate(4, { alignment: 64, ...place });
    this.ring32 = memory.uint32s(this.descriptorAddress, 4 * size);
    this.ring16 = memory.uint16s(this.descriptorAddress, 8 * size);
    this.driverEvent = memory.uint16s(this.availableAddress, 2);
    this.deviceEvent = memory.uint16s(this.usedAddress, 2);
    this.descriptors = new Uint32Array(4 * size);
    this.#slots = new Uint16Array(size);
    this.reset(base);
  }

  get nextAvail(): number {
    return halfOf(this.#avail);
  }

  get nextUsed(): number {
    return halfOf(this.#used);
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Both halves: what the device has not used is available from there on, as long as it completed in order. */
  get usedBase(): number {
    const peek = this.#peekFromUsed();
    while (this.#isUsed(peek)) {
      const slots = this.#slots[this.ring16[peek.place * 8 + ID] as number] ?? 0;
      if (slots === 0) break;
      this.#advance(peek, slots);
    }
    const half = halfOf(peek);
    return (half | (half << 16)) >>> 0;
  }

  reset(base = PACKED_BASE_FIRST): void {
    this.descriptors.fill(0);
    // A place that neither side has written looks used, not available, in the turn that begins or the one before.
    const wrap = (base >>> WRAP_SHIFT) & 1;
    for (let i = 0; i < this.size; i++) {
      const isPast = i < (base & POSITION_MASK);
      this.ring32.fill(0, 4 * i, 4 * i + 3);
      this.ring32[4 * i + 3] = ((wrap === 1) === isPast ? MARKS : 0) << 16;
    }
    this.driverEvent.fill(0);
    this.deviceEvent.fill(0);
    this.#slots.fill(0);
    this.freeAll();
    this.resume(base & 0xffff, base & 0xffff);
  }

  resume(nextAvail: number, nextUsed: number): void {
    this.#avail.place = nextAvail & POSITION_MASK;
    this.#avail.wrap = nextAvail >>> WRAP_SHIFT;
    this.#used.place = nextUsed & POSITION_MASK;
    this.#used.wrap = nextUsed >>> WRAP_SHIFT;
    this.#publishedPlace = this.#avail.place;
    this.#hidden = NOWHERE;
    this.#inFlight = 0;
  }

  expose(head: number): void {
    const { descriptors, ring32 } = this;
    const avail = this.#avail;
    let slots = 0;
    for (let index = head, isLast = false; !isLast; slots++) {
      const from = 4 * index;
      const to = 4 * avail.place;
      const flagsAndNext = descriptors[from + 3] as number;
      isLast = (flagsAndNext & DescriptorFlag.next) === 0 || slots === this.size - 1;
      const flags = (flagsAndNext & 0xffff) | (avail.wrap === 1 ? AVAIL_MARK : USED_MARK);
      ring32[to] = descriptors[from] as number;
      ring32[to + 1] = descriptors[from + 1] as number;
      ring32[to + 2] = descriptors[from + 2] as number;
      if (this.#hidden === NOWHERE) {
        this.ring16[2 * to + ID] = head;
        this.#hidden = avail.place;
        this.#hiddenFlags = flags;
      } else {
        ring32[to + 3] = head | (flags << 16);
      }
      this.#advance(avail, 1);
      index = flagsAndNext >>> 16;
    }
    this.#slots[head] = slots;
    this.#inFlight++;
  }

  publish(): boolean {
    const old = this.#publishedPlace;
    const now = this.#avail.place;
    // Releases the descriptors, and is a full barrier before the device's wishes are read.
    if (this.#hidden !== NOWHERE) Atomics.store(this.ring16, 8 * this.#hidden + FLAGS, this.#hiddenFlags);
    const isAny = this.#hidden !== NOWHERE;
    this.#hidden = NOWHERE;
    this.#publishedPlace = now;
    const wish = Atomics.load(this.deviceEvent, EVENT_FLAGS);
    if (!this.hasEventIdx || wish !== EVENT_AT_OFFSET) return wish !== EVENT_DISABLE;
    const at = Atomics.load(this.deviceEvent, EVENT_OFFSET);
    const event = (at & POSITION_MASK) - (at >>> WRAP_SHIFT === this.#avail.wrap ? 0 : this.size);
    const from = old < now || !isAny ? old : old - this.size;
    return ((now - event - 1) & 0xffff) < ((now - from) & 0xffff);
  }

  hasUsed(): boolean {
    return this.#isUsed(this.#used);
  }

  popUsed(): number {
    const used = this.#used;
    if (!this.#isUsed(used)) return NO_HEAD;
    const id = this.ring16[8 * used.place + ID] as number;
    this.usedLen = this.ring32[4 * used.place + 2] as number;
    // An id that is not in flight: the caller finds out, and nobody knows how to go on.
    this.#advance(used, this.#slots[id] || 1);
    this.#inFlight--;
    return id;
  }

  wantCalls(): void {
    if (this.hasEventIdx) this.wantCallAt(this.nextUsed);
    else Atomics.store(this.driverEvent, EVENT_FLAGS, EVENT_ENABLE);
  }

  refuseCalls(): void {
    Atomics.store(this.driverEvent, EVENT_FLAGS, EVENT_DISABLE);
  }

  /** EVENT_IDX: asks for a call when the descriptor at this place (wrap counter in bit 15) is used. */
  wantCallAt(offsetAndWrap: number): void {
    Atomics.store(this.driverEvent, EVENT_OFFSET, offsetAndWrap);
    Atomics.store(this.driverEvent, EVENT_FLAGS, EVENT_AT_OFFSET);
  }

  wantCallAfter(chains: number, descriptors: number): void {
    const peek = this.#peekFromUsed();
    this.#advance(peek, chains * descriptors);
    this.wantCallAt(halfOf(peek));
  }

  writeEntry(words: Uint32Array, index: number, gpa: number, lengthBytes: number, flags: number): void {
    encodeDescriptor(words, index, gpa, lengthBytes, 0, flags);
  }

  #peekFromUsed(): Position {
    this.#peek.place = this.#used.place;
    this.#peek.wrap = this.#used.wrap;
    return this.#peek;
  }

  #isUsed(position: Position): boolean {
    // Acquires the descriptor.
    const flags = Atomics.load(this.ring16, 8 * position.place + FLAGS);
    return (flags & MARKS) === (position.wrap === 1 ? MARKS : 0);
  }

  #advance(position: Position, slots: number): void {
    position.place += slots;
    if (position.place < this.size) return;
    position.place -= this.size;
    position.wrap ^= 1;
  }
}

/** As half of a base. */
function halfOf({ place, wrap }: Position): number {
  return place | (wrap << WRAP_SHIFT);
}
