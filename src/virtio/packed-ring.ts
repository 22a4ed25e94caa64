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
 *
 * With a place for it (packed-inflight.ts) the ring notes what is in flight; what a back-end before it left there is
 * taken first, again.
 */
import { assert } from '../base/assert.ts';
import { CHAIN_DESCRIPTORS_MAX } from '../base/limits.ts';
import type { DirtyLog } from '../memory/dirty-log.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { ChainGather, RECORD_WORDS, RECORDS, RecordWord } from '../sys/chain-gather.ts';
import { MappingViews } from '../sys/mapping.ts';
import { type Chain, INDIRECT_TABLE, INDIRECT_TABLE_BYTES, RingFault } from './chain.ts';
import { PackedInflight, type PackedRecovery, type PackedStand } from './packed-inflight.ts';
import { NOTHING_RECOVERED, type Recovery, type Ring } from './ring.ts';
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
const WORDS = RECORDS;
const RECORD_SHIFT = Math.log2(RECORD_WORDS);
const { head: HEAD, count: COUNT } = RecordWord;
const SLOTS_SHIFT = 16;

export class PackedRing implements Ring {
  readonly size: number;
  fault: RingFault = NO_FAULT;
  readonly recovery: Recovery;
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  /** What the driver wants, and what it is told. */
  readonly #driverEvent: Uint16Array;
  readonly #deviceEvent: Uint16Array;
  readonly #views = new MappingViews();
  readonly #gather: ChainGather;
  readonly #memory: GuestMemory;
  readonly #hasEventIdx: boolean;
  /** Descriptors of the chains in flight, by id; 0 for an id that is not (CVE-2026-45782: the same one twice). */
  readonly #slots: Uint16Array;
  /** Descriptors taken and not used yet. */
  #slotsInFlight: number;
  #inFlightCount = 0;
  readonly #tracker: PackedInflight | null;
  /** Chains of `recovery` that are still to be taken again, as descriptors one after another; null once none is. */
  #again: Uint32Array | null = null;
  #againCount = 0;
  /** Where the next of them begins. */
  #nextAgain = 0;
  /** Of the chain that was taken last: its descriptors, and the place after them. */
  #takenSlots = 0;
  #takenEnd = 0;
  /** Where the next chain will be, and what its marks will be. */
  #nextAvail: number;
  #availWrap: number;
  /** Chains from there on that were seen and not taken, and those that were seen with them, which were gathered. */
  #seen = 0;
  #gathered = 0;
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
    const { inflight = null } = setup;
    this.#tracker = inflight === null ? null : new PackedInflight(inflight, size);
    const start = standOf(base, size);
    const found = this.#tracker?.recover(start, this.#halves) ?? null;
    this.recovery = found ?? NOTHING_RECOVERED;
    const { used, slots } = found ?? start;
    this.#slotsInFlight = slots;
    this.#nextUsed = used & POSITION_MASK;
    this.#usedWrap = used >>> WRAP_SHIFT;
    const end = this.#nextUsed + slots;
    this.#nextAvail = end < size ? end : end - size;
    this.#availWrap = end < size ? this.#usedWrap : this.#usedWrap ^ 1;
    if (found !== null && found.heads.length > 0) this.#takeUp(found);
    this.#publishedUsed = this.#nextUsed;
    this.#gather = ChainGather.ofPacked(setup.descriptorAddress, size, memory.windows);
  }

  get base(): number {
    const available = this.#nextAvail | (this.#availWrap << WRAP_SHIFT);
    return (available | ((this.#nextUsed | (this.#usedWrap << WRAP_SHIFT)) << USED_SHIFT)) >>> 0;
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  get againCount(): number {
    return this.#againCount;
  }

  /** One atomic load. */
  hasAvailable(): boolean {
    if (this.fault !== NO_FAULT) return false;
    if (this.#againCount > 0) return true;
    // Acquire: what the driver wrote before the flags is seen by the reads that follow.
    const flags = Atomics.load(this.#halves, this.#nextAvail * DESC_HALVES + FLAGS);
    return (flags & MARKS) === (this.#availWrap === 1 ? AVAIL_MARK : USED_MARK);
  }

  look(): number {
    if (this.#againCount > 0) return this.#againCount;
    if (this.#seen > 0 || !this.hasAvailable()) return this.#seen;
    this.#seen = this.#gather.look(this.#nextAvail, this.#availWrap);
    this.#gathered = this.#seen;
    return this.#seen;
  }

  pop(chain: Chain): boolean {
    if (this.#again !== null) {
      if (this.#againCount > 0) return this.#popAgain(chain, this.#again);
      // From now on `unpop` puts back others.
      this.#again = null;
    }
    if (this.#seen === 0 && this.look() === 0) return false;
    const room = this.size - this.#slotsInFlight;
    const record = (this.#gathered - this.#seen) << RECORD_SHIFT;
    const isGathered = this.#gather.isOwner && WORDS[record + COUNT] !== 0;
    if (!isGathered || !this.#takeRecord(chain, record, room)) {
      const fault = this.#read(chain, this.#words, this.#nextAvail, room, this.#tracker);
      if (fault !== NO_FAULT) return this.#break(fault);
    }
    const slots = this.#takenSlots;
    this.#slotsInFlight += slots;
    if (this.#takenEnd <= this.#nextAvail) this.#availWrap ^= 1;
    this.#nextAvail = this.#takenEnd;
    if (this.#tracker !== null) this.#tracker.take(chain.head, slots);
    this.#seen--;
    return true;
  }

  unpop(head: number): void {
    const slots = this.#slots[head] as number;
    assert(slots !== 0, 'only a chain that was taken is put back');
    this.#slots[head] = 0;
    this.#inFlightCount--;
    // Its mark stays while it is one of those to be taken again.
    if (this.#again !== null) {
      this.#againCount++;
      this.#nextAgain -= slots;
      return;
    }
    if (this.#tracker !== null) this.#tracker.untake(head);
    this.#slotsInFlight -= slots;
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
    // Also with a length of 0: an answer that comes after data that was not written is something written (§2.8.3).
    const flags = (this.#usedWrap === 1 ? MARKS : 0) | DESC_WRITE;
    this.#words[place * DESC_WORDS + LENGTH] = lengthBytes;
    if (this.#hidden === NONE) {
      this.#hidden = place;
      this.#hiddenFlags = flags;
      this.#halves[place * DESC_HALVES + ID] = head;
    } else {
      this.#words[place * DESC_WORDS + ID_AND_FLAGS] = head | (flags << FLAGS_SHIFT);
    }
    if (this.#tracker !== null) this.#tracker.done(head);
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

  leave(head: number): void {
    assert(this.#slots[head] !== 0 && this.#tracker !== null, 'a chain is left where somebody finds it');
    this.#slots[head] = 0;
    this.#inFlightCount--;
  }

  publish(): boolean {
    const first = this.#hidden;
    if (first === NONE) return false;
    const used = this.#nextUsed | (this.#usedWrap << WRAP_SHIFT);
    if (this.#tracker !== null) this.#tracker.announce(used);
    // Release for the data, for the rest of this descriptor and for those that follow it, and a full barrier before the
    // look at what the driver wants.
    Atomics.store(this.#halves, first * DESC_HALVES + FLAGS, this.#hiddenFlags);
    if (this.#tracker !== null) this.#tracker.settle(used);
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
    this.#gather.close();
    this.#tracker?.close();
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
    this.#again = null;
    this.#againCount = 0;
    return false;
  }

  /** Goes on from what is in flight. */
  #takeUp({ used, slots, heads, descriptors }: PackedRecovery): void {
    this.#again = descriptors;
    this.#againCount = heads.length;
    // What was given back and not shown must not look so before it is done again.
    for (let i = 0, place = used & POSITION_MASK, wrap = used >>> WRAP_SHIFT; i < slots; i++) {
      Atomics.store(this.#halves, place * DESC_HALVES + FLAGS, wrap === 1 ? AVAIL_MARK : USED_MARK);
      if (++place < this.size) continue;
      place = 0;
      wrap ^= 1;
    }
  }

  #popAgain(chain: Chain, descriptors: Uint32Array): boolean {
    const fault = this.#read(chain, descriptors, this.#nextAgain, this.size, null);
    if (fault !== NO_FAULT) return this.#break(fault);
    this.#nextAgain += this.#takenSlots;
    this.#againCount--;
    return true;
  }

  /** Takes the next chain as its record has it. False, with nothing done, when something is wrong with it. */
  #takeRecord(chain: Chain, record: number, room: number): boolean {
    const mark = WORDS[record + HEAD] as number;
    const slots = mark >>> SLOTS_SHIFT;
    const end = this.#nextAvail + slots;
    if (slots > room || this.#take(mark & ID_MASK, slots, end < this.size ? end : end - this.size) !== NO_FAULT)
      return false;
    chain.setRecord(record);
    if (this.#tracker !== null) this.#copyTo(this.#tracker, slots, mark & ID_MASK);
    return true;
  }

  /**
   * Has the tracker copy the descriptors of a gathered chain. They are read once more, and a driver may have changed
   * them: whatever they say, they are as many as were taken, and of that id.
   */
  #copyTo(tracker: PackedInflight, slots: number, id: number): void {
    const words = this.#words;
    for (let left = slots, place = this.#nextAvail; left > 0; left--) {
      const at = place * DESC_WORDS;
      const flags = ((words[at + ID_AND_FLAGS] as number) >>> FLAGS_SHIFT) & ~DESC_NEXT;
      const idAndFlags = id | ((left > 1 ? flags | DESC_NEXT : flags) << FLAGS_SHIFT);
      tracker.copy(words[at] as number, words[at + 1] as number, words[at + LENGTH] as number, idAndFlags);
      if (++place === this.size) place = 0;
    }
  }

  /**
   * Copies the chain at a place of `ring` out of the guest and takes it: each field of a descriptor is read once.
   * It has at most `room` descriptors there.
   */
  #read(chain: Chain, ring: Uint32Array, first: number, room: number, tracker: PackedInflight | null): RingFault {
    chain.clearRecord();
    const { addresses, lengths } = chain;
    let table = ring;
    let place = first;
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
      const low = table[at] as number;
      const high = table[at + 1] as number;
      addresses[count] = high * TWO_32 + low;
      const length = table[at + LENGTH] as number;
      const idAndFlags = table[at + ID_AND_FLAGS] as number;
      const flags = idAndFlags >>> FLAGS_SHIFT;
      if (left === 0) {
        if (slots++ === room) return RingFault.chainTooLong;
        if (tracker !== null) tracker.copy(low, high, length, idAndFlags);
        if (++place === this.size) place = 0;
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
    return this.#take(id, slots, place);
  }

  #take(id: number, slots: number, end: number): RingFault {
    if (id >= this.size) return RingFault.headOutOfRange;
    if (this.#slots[id] !== 0) return RingFault.headInFlight;
    this.#slots[id] = slots;
    this.#inFlightCount++;
    this.#takenSlots = slots;
    this.#takenEnd = end;
    return NO_FAULT;
  }
}

/** Where a ring stands by its base. */
function standOf(base: number, size: number): PackedStand {
  const slots = packedSlotsInFlight(base, size);
  assert(slots !== NONE, 'a ring stands inside itself');
  const used = (base & POSITION_MASK) - slots;
  const wrap = (base >>> WRAP_SHIFT) & 1;
  return { used: used < 0 ? (used + size) | ((wrap ^ 1) << WRAP_SHIFT) : used | (wrap << WRAP_SHIFT), slots };
}
