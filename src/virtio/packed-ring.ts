/**
 * The device side of a packed virtqueue (virtio 1.3 §2.8).
 *
 *   descriptor ring (both write)                                   event suppression, one for each side
 *   +--------------+-----------+--------+-----------+---           +--------------------------+--------------+
 *   | u64 address  | u32 length | u16 id | u16 flags | ...          | u16 offset, wrap (bit 15) | u16 flags    |
 *   +--------------+-----------+--------+-----------+---           +--------------------------+--------------+
 *
 * A chain is descriptors one after another. Its first is available when its flags AVAIL and USED say so, which change
 * their meaning with every turn of the ring: the wrap counter. A chain that was used is one descriptor with its id,
 * written where the device stands, which then goes on by as many places as the chain had. Both sides only look at the
 * place where they stand, so used descriptors are written without their reader seeing them as long as the flags of the
 * first are not: `publish` stores those.
 *
 * A chain's id is its head. Drivers keep ids below the size of the ring; another one breaks it.
 */
import { assert } from '../base/assert.ts';
import { CHAIN_DESCRIPTORS_MAX } from '../base/limits.ts';
import type { DirtyLog } from '../memory/dirty-log.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { ChainPrefetch } from '../sys/chain-prefetch.ts';
import { MappingViews } from '../sys/mapping.ts';
import { type Chain, INDIRECT_TABLE, INDIRECT_TABLE_BYTES, RingFault } from './chain.ts';
import { NOTHING_RECOVERED, type Ring } from './ring.ts';
import { NOWHERE, packedSlotsInFlight, type RingSetup, ringBytes } from './ring-shape.ts';

const DESC_NEXT = 1;
const DESC_WRITE = 2;
const DESC_INDIRECT = 4;
const DESC_BYTES = 16;
const DESC_SHIFT = 4;
/** Elements of a descriptor as u32 and as u16, and those that hold length, id with flags, id, and flags. */
const DESC_WORDS = 4;
const LENGTH = 2;
const ID_AND_FLAGS = 3;
const DESC_HALVES = 8;
const ID = 6;
const FLAGS = 7;
const FLAGS_SHIFT = 16;
const ID_MASK = 0xffff;
/** AVAIL and USED: one of both in what is available, both or none in what was used, by turns. */
const MARKS = 0x8080;
const AVAIL_MARK = 0x0080;
const USED_MARK = 0x8000;

/** Of the event suppression structures, as u16 elements, and values of the flags. */
const EVENT_OFFSET = 0;
const EVENT_FLAGS = 1;
const EVENT_BYTES = 4;
const EVENT_DISABLE = 1;
const EVENT_AT_OFFSET = 2;

const POSITION_MASK = 0x7fff;
const WRAP_SHIFT = 15;
const USED_SHIFT = 16;
const TWO_32 = 2 ** 32;
// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const NO_FAULT = RingFault.none;
const DESCRIPTORS_MAX = CHAIN_DESCRIPTORS_MAX;
const NONE = NOWHERE;
const TABLE = INDIRECT_TABLE;
const TABLE_BYTES = INDIRECT_TABLE_BYTES;

export class PackedRing implements Ring {
  readonly size: number;
  fault: RingFault = NO_FAULT;
  readonly recovery = NOTHING_RECOVERED;
  readonly againCount = 0;
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  /** What the driver wants, and what it is told. */
  readonly #driverEvent: Uint16Array;
  readonly #deviceEvent: Uint16Array;
  readonly #views = new MappingViews();
  readonly #prefetch: ChainPrefetch;
  readonly #memory: GuestMemory;
  readonly #hasEventIdx: boolean;
  /** Descriptors of the chains in flight, by id; 0 for an id that is not (CVE-2026-45782: the same one twice). */
  readonly #slots: Uint16Array;
  /** Descriptors taken and not used yet. */
  #slotsInFlight: number;
  #inFlightCount = 0;
  /** Where the next chain will be, and what its marks will be. */
  #nextAvail: number;
  #availWrap: number;
  /** Chains from there on that were seen and not taken. */
  #seen = 0;
  /** Where the next used descriptor goes. */
  #nextUsed: number;
  #usedWrap: number;
  /** The first used descriptor that the driver cannot see yet, and the flags that will show it. */
  #hidden = NONE;
  #hiddenFlags = 0;
  /** The first descriptor that the last `publish` showed. */
  #shown = NONE;
  /** Where the used side stood when the driver was called, or not, last. */
  #publishedUsed: number;
  /** The first notification after a start is always sent: what the driver saw before is not known. */
  #hasSignalled = false;

  constructor(setup: RingSetup, memory: GuestMemory) {
    const { size, base } = setup;
    const bytes = ringBytes(true, size);
    this.size = size;
    this.#memory = memory;
    this.#hasEventIdx = setup.hasEventIdx;
    this.#slots = new Uint16Array(size);
    const part = (address: number, length: number) => this.#views.view({ address, lengthBytes: length }, 0, length);
    const descriptors = part(setup.descriptorAddress, bytes.descriptor);
    this.#words = new Uint32Array(descriptors);
    this.#halves = new Uint16Array(descriptors);
    this.#driverEvent = new Uint16Array(part(setup.availableAddress, bytes.available));
    this.#deviceEvent = new Uint16Array(part(setup.usedAddress, bytes.used));
    this.#slotsInFlight = packedSlotsInFlight(base, size);
    assert(this.#slotsInFlight !== NONE, 'a ring stands inside itself');
    this.#nextAvail = base & POSITION_MASK;
    this.#availWrap = (base >>> WRAP_SHIFT) & 1;
    const used = this.#nextAvail - this.#slotsInFlight;
    this.#nextUsed = used < 0 ? used + size : used;
    this.#usedWrap = used < 0 ? this.#availWrap ^ 1 : this.#availWrap;
    this.#publishedUsed = this.#nextUsed;
    this.#prefetch = ChainPrefetch.ofPacked(setup.descriptorAddress, size, memory.regions);
  }

  get base(): number {
    const available = this.#nextAvail | (this.#availWrap << WRAP_SHIFT);
    return (available | ((this.#nextUsed | (this.#usedWrap << WRAP_SHIFT)) << USED_SHIFT)) >>> 0;
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  /** One atomic load. */
  hasAvailable(): boolean {
    if (this.fault !== NO_FAULT) return false;
    // Acquire: what the driver wrote before the flags is seen by the reads that follow.
    const flags = Atomics.load(this.#halves, this.#nextAvail * DESC_HALVES + FLAGS);
    return (flags & MARKS) === (this.#availWrap === 1 ? AVAIL_MARK : USED_MARK);
  }

  look(): number {
    if (this.#seen === 0 && this.hasAvailable()) this.#seen = this.#prefetch.look(this.#nextAvail, this.#availWrap);
    return this.#seen;
  }

  pop(chain: Chain): boolean {
    if (this.#seen === 0 && this.look() === 0) return false;
    const fault = this.#read(chain);
    if (fault !== NO_FAULT) return this.#break(fault);
    this.#seen--;
    return true;
  }

  unpop(head: number): void {
    const slots = this.#slots[head] as number;
    assert(slots !== 0, 'only a chain that was taken is put back');
    this.#slots[head] = 0;
    this.#slotsInFlight -= slots;
    this.#inFlightCount--;
    this.#nextAvail -= slots;
    if (this.#nextAvail < 0) {
      this.#nextAvail += this.size;
      this.#availWrap ^= 1;
    }
    // Looked at again before it is taken: the driver may have changed what follows.
    this.#seen = 0;
  }

  push(head: number, lengthBytes: number): void {
    const slots = this.#slots[head] as number;
    assert(slots !== 0, 'a chain is returned once');
    const place = this.#nextUsed;
    const flags = (this.#usedWrap === 1 ? MARKS : 0) | (lengthBytes > 0 ? DESC_WRITE : 0);
    this.#words[place * DESC_WORDS + LENGTH] = lengthBytes;
    if (this.#hidden === NONE) {
      this.#hidden = place;
      this.#hiddenFlags = flags;
      this.#halves[place * DESC_HALVES + ID] = head;
    } else {
      this.#words[place * DESC_WORDS + ID_AND_FLAGS] = head | (flags << FLAGS_SHIFT);
    }
    this.#slots[head] = 0;
    this.#slotsInFlight -= slots;
    this.#inFlightCount--;
    const next = place + slots;
    if (next < this.size) {
      this.#nextUsed = next;
    } else {
      this.#nextUsed = next - this.size;
      this.#usedWrap ^= 1;
    }
  }

  publish(): boolean {
    const first = this.#hidden;
    if (first === NONE) return false;
    // Release for the data, for the rest of this descriptor and for those that follow it, and a full barrier before the
    // look at what the driver wants.
    Atomics.store(this.#halves, first * DESC_HALVES + FLAGS, this.#hiddenFlags);
    this.#hidden = NONE;
    this.#shown = first;
    const before = this.#publishedUsed;
    const now = this.#nextUsed;
    this.#publishedUsed = now;
    const wish = Atomics.load(this.#driverEvent, EVENT_FLAGS);
    if (!this.#hasEventIdx) return wish !== EVENT_DISABLE;
    const hasSignalled = this.#hasSignalled;
    this.#hasSignalled = true;
    if (!hasSignalled || wish !== EVENT_AT_OFFSET) return wish !== EVENT_DISABLE;
    return this.#isPassed(Atomics.load(this.#driverEvent, EVENT_OFFSET), before, now);
  }

  disarmKick(): void {
    Atomics.store(this.#deviceEvent, EVENT_FLAGS, EVENT_DISABLE);
  }

  armKick(): boolean {
    if (this.#hasEventIdx) {
      Atomics.store(this.#deviceEvent, EVENT_OFFSET, this.#nextAvail | (this.#availWrap << WRAP_SHIFT));
      Atomics.store(this.#deviceEvent, EVENT_FLAGS, EVENT_AT_OFFSET);
    } else {
      Atomics.store(this.#deviceEvent, EVENT_FLAGS, 0);
    }
    // The store above is a full barrier: either the driver sees it, or this load sees the driver's flags.
    return this.hasAvailable();
  }

  /** The places that the used side passed: a chain of several descriptors is returned in the first of its places. */
  markUsed(log: DirtyLog, gpa: number): void {
    const from = this.#shown;
    if (from === NONE) return;
    this.#shown = NONE;
    const end = this.#nextUsed > from ? this.#nextUsed : this.size;
    log.mark(gpa + from * DESC_BYTES, (end - from) * DESC_BYTES);
    if (this.#nextUsed <= from) log.mark(gpa, this.#nextUsed * DESC_BYTES);
  }

  markNotification(log: DirtyLog, gpa: number): void {
    log.mark(gpa, EVENT_BYTES);
  }

  close(): void {
    this.#prefetch.close();
    this.#views.close();
  }

  /** Did the step from `before` to `now` pass the place that the driver asked to be called at (§2.8.10)? */
  #isPassed(wish: number, before: number, now: number): boolean {
    // Places of the turn before are negative.
    const from = before < now ? before : before - this.size;
    const wrap = wish >>> WRAP_SHIFT;
    const event = (wish & POSITION_MASK) - (wrap === this.#usedWrap ? 0 : this.size);
    return ((now - event - 1) & 0xffff) < ((now - from) & 0xffff);
  }

  #break(fault: RingFault): false {
    this.fault = fault;
    // What follows in the ring is not looked at any more.
    this.#seen = 0;
    return false;
  }

  /** Copies the next chain out of the guest and takes it: each field of a descriptor is read once. */
  #read(chain: Chain): RingFault {
    const { addresses, lengths } = chain;
    const room = this.size - this.#slotsInFlight;
    let table = this.#words;
    let place = this.#nextAvail;
    let wrap = this.#availWrap;
    let at = place * DESC_WORDS;
    /** Entries of an indirect table to come; 0 in the ring. */
    let left = 0;
    let slots = 0;
    let count = 0;
    let readableCount = 0;
    let readableBytes = 0;
    let writableBytes = 0;
    let id = 0;
    for (let isLast = false; ; ) {
      addresses[count] = (table[at + 1] as number) * TWO_32 + (table[at] as number);
      const length = table[at + LENGTH] as number;
      const idAndFlags = table[at + ID_AND_FLAGS] as number;
      const flags = idAndFlags >>> FLAGS_SHIFT;
      if (left === 0) {
        if (slots++ === room) return RingFault.chainTooLong;
        if (++place === this.size) {
          place = 0;
          wrap ^= 1;
        }
        isLast = (flags & DESC_NEXT) === 0;
        id = idAndFlags & ID_MASK;
        if ((flags & DESC_INDIRECT) !== 0) {
          // A driver may use one even where INDIRECT_DESC was not negotiated (Windows does).
          if (!isLast) return RingFault.indirectWithNext;
          if (length === 0 || (length & (DESC_BYTES - 1)) !== 0 || length > TABLE_BYTES.length)
            return RingFault.indirectLength;
          const window = this.#memory.locate(addresses, count, 0, length);
          if (window !== null && (this.#memory.offset & 3) === 0) {
            table = window.words;
            at = this.#memory.offset >>> 2;
          } else {
            if (!this.#memory.read(addresses, count, 0, TABLE_BYTES, 0, length)) return RingFault.indirectAddress;
            table = TABLE;
            at = 0;
          }
          left = length >>> DESC_SHIFT;
          continue;
        }
      }
      if (count === DESCRIPTORS_MAX) return RingFault.chainTooLong;
      lengths[count] = length;
      // Of the flags in a table only this one counts (§2.8.7).
      if ((flags & DESC_WRITE) !== 0) {
        writableBytes += length;
      } else {
        if (count !== readableCount) return RingFault.readableAfterWritable;
        readableCount++;
        readableBytes += length;
      }
      count++;
      if (left === 0 ? isLast : --left === 0) break;
      at = left === 0 ? place * DESC_WORDS : at + DESC_WORDS;
    }
    if (readableBytes + writableBytes > TWO_32) return RingFault.lengthOverflow;
    chain.head = id;
    chain.count = count;
    chain.readableCount = readableCount;
    chain.readableBytes = readableBytes;
    chain.writableBytes = writableBytes;
    return this.#take(id, slots, place, wrap);
  }

  #take(id: number, slots: number, place: number, wrap: number): RingFault {
    if (id >= this.size) return RingFault.headOutOfRange;
    if (this.#slots[id] !== 0) return RingFault.headInFlight;
    this.#slots[id] = slots;
    this.#slotsInFlight += slots;
    this.#inFlightCount++;
    this.#nextAvail = place;
    this.#availWrap = wrap;
    return NO_FAULT;
  }
}
