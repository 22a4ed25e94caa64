/**
 * The device side of a split virtqueue (virtio 1.3 §2.7).
 *
 *   available ring (driver writes)                used ring (device writes)
 *   +-------+-----+------------+------------+     +-------+-----+--------------------+-------------+
 *   | flags | idx | ring[0..n) | used_event |     | flags | idx | {id, len}[0..n)    | avail_event |
 *   +-------+-----+------------+------------+     +-------+-----+--------------------+-------------+
 *     u16     u16     u16 each       u16            u16     u16       u32, u32 each         u16
 *
 * `pop` takes chains, `push` fills used elements, `publish` makes them visible with one store of the used index and
 * says whether the driver wants to be called. Indexes are free-running modulo 2^16.
 *
 * While the queue is polled the driver is asked not to kick; `armKick` asks for kicks again and looks once more.
 *
 * With a place for it (split-inflight.ts) the ring notes what is in flight; what a back-end before it left there is
 * taken first, again.
 */
import { assert } from '../base/assert.ts';
import { CHAIN_DESCRIPTORS_MAX } from '../base/limits.ts';
import type { DirtyLog } from '../memory/dirty-log.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { ChainGather, GATHERED_MAX, RECORD_WORDS, RECORDS, RecordWord } from '../sys/chain-gather.ts';
import { MappingViews } from '../sys/mapping.ts';
import { type Chain, INDIRECT_TABLE, INDIRECT_TABLE_BYTES, RingFault } from './chain.ts';
import { NOTHING_RECOVERED, type Recovery, type Ring } from './ring.ts';
import { type RingSetup, ringBytes } from './ring-shape.ts';
import { SplitInflight } from './split-inflight.ts';

const DESC_NEXT = 1;
const DESC_WRITE = 2;
const DESC_INDIRECT = 4;
const DESC_BYTES = 16;
const DESC_SHIFT = 4;
const DESC_WORDS = 4;

/** Positions in the available and used rings as u16 elements. */
const FLAGS = 0;
const INDEX = 1;
const RING = 2;

const AVAIL_NO_INTERRUPT = 1;
const USED_NO_NOTIFY = 1;
const TWO_32 = 2 ** 32;
// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const NO_FAULT = RingFault.none;
const DESCRIPTORS_MAX = CHAIN_DESCRIPTORS_MAX;
const TABLE = INDIRECT_TABLE;
const TABLE_BYTES = INDIRECT_TABLE_BYTES;
const BATCH_MAX = GATHERED_MAX;
const check: (condition: boolean, message: string) => void = assert;
const WORDS = RECORDS;
const RECORD_SHIFT = Math.log2(RECORD_WORDS);
const { head: HEAD, count: COUNT } = RecordWord;

export class SplitRing implements Ring {
  readonly size: number;
  fault: RingFault = NO_FAULT;
  readonly #mask: number;
  readonly #descriptors: Uint32Array;
  readonly #avail: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedElements: Uint32Array;
  readonly #views = new MappingViews();
  readonly #gather: ChainGather;
  readonly #memory: GuestMemory;
  readonly #hasEventIdx: boolean;
  /** 1 for a head that was taken and not yet pushed (CVE-2026-45782: the same head twice). */
  readonly #inFlight: Uint8Array;
  readonly #tracker: SplitInflight | null;
  readonly recovery: Recovery;
  /** Heads of it that are still to be taken again; null once none is. */
  #again: readonly number[] | null = null;
  #nextAgain = 0;
  #nextAvail: number;
  /** Last available index read from memory. */
  #availIdx: number;
  /** Chains that were gathered, and the available index of the first of them. */
  #gatheredCount = 0;
  #gatheredFrom = 0;
  #nextUsed: number;
  /** Used index that the driver can see. */
  #publishedUsed: number;
  /** Used index up to which elements were marked in a dirty log. */
  #markedUsed: number;
  #inFlightCount = 0;
  /** The first notification after a start is always sent: what the driver saw before is not known. */
  #hasSignalled = false;

  constructor(setup: RingSetup, memory: GuestMemory) {
    const bytes = ringBytes(false, setup.size);
    assert((setup.size & (setup.size - 1)) === 0 && setup.size > 0, 'a split ring has a power of two of entries');
    this.size = setup.size;
    this.#mask = setup.size - 1;
    this.#memory = memory;
    this.#hasEventIdx = setup.hasEventIdx;
    this.#inFlight = new Uint8Array(setup.size);
    const part = (address: number, length: number) => this.#views.view({ address, lengthBytes: length }, 0, length);
    this.#descriptors = new Uint32Array(part(setup.descriptorAddress, bytes.descriptor));
    this.#avail = new Uint16Array(part(setup.availableAddress, bytes.available));
    const used = part(setup.usedAddress, bytes.used);
    this.#used = new Uint16Array(used);
    this.#usedElements = new Uint32Array(used, 4, 2 * setup.size);
    // The used index is the device's own: it goes on from what the last device left.
    this.#nextUsed = Atomics.load(this.#used, INDEX);
    this.#publishedUsed = this.#nextUsed;
    this.#markedUsed = this.#nextUsed;
    const { inflight = null } = setup;
    this.#tracker = inflight === null ? null : new SplitInflight(inflight, setup.size);
    const pending = (Atomics.load(this.#avail, INDEX) - this.#nextUsed) & 0xffff;
    this.recovery = this.#tracker?.recover(this.#nextUsed, pending) ?? NOTHING_RECOVERED;
    const { heads } = this.recovery;
    if (heads.length > 0) this.#again = heads;
    // All that were taken are either shown as used or in flight. A front-end whose back-end vanished knows only those
    // shown, and gives their number as the base.
    this.#nextAvail = heads.length > 0 ? (this.#nextUsed + heads.length) & 0xffff : setup.base & 0xffff;
    this.#availIdx = this.#nextAvail;
    const entriesAddress = setup.availableAddress + 2 * RING;
    this.#gather = ChainGather.ofSplit(setup.descriptorAddress, entriesAddress, setup.size, memory.windows);
  }

  get base(): number {
    return this.#nextAvail;
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  get againCount(): number {
    if (this.#again === null) return 0;
    const count = this.#again.length - this.#nextAgain;
    // From now on `unpop` puts back others.
    if (count === 0) this.#again = null;
    return count;
  }

  /** One atomic load. */
  hasAvailable(): boolean {
    if (this.fault !== NO_FAULT) return false;
    if (this.againCount > 0) return true;
    // Acquire: what the driver wrote before it moved the index is seen by the reads that follow.
    return Atomics.load(this.#avail, INDEX) !== this.#nextAvail;
  }

  look(): number {
    const { againCount } = this;
    if (againCount > 0) return againCount;
    this.#gatheredCount = 0;
    if (this.#nextAvail === this.#availIdx && !this.#refresh()) return 0;
    const count = Math.min((this.#availIdx - this.#nextAvail) & 0xffff, BATCH_MAX);
    // One chain alone gains nothing by it.
    if (count === 1) return 1;
    this.#gather.run(this.#nextAvail, count);
    this.#gatheredFrom = this.#nextAvail;
    this.#gatheredCount = count;
    return count;
  }

  pop(chain: Chain): boolean {
    if (this.againCount > 0) return this.#popAgain(chain);
    const position = this.#nextAvail;
    if (position === this.#availIdx && !this.#refresh()) return false;
    const gathered = (position - this.#gatheredFrom) & 0xffff;
    const record = gathered << RECORD_SHIFT;
    let head: number;
    if (gathered < this.#gatheredCount && this.#gather.isOwner && WORDS[record + COUNT] !== 0) {
      head = WORDS[record + HEAD] as number;
      if (this.#inFlight[head] !== 0) return this.#break(RingFault.headInFlight);
      chain.setRecord(record);
    } else {
      head = this.#avail[RING + (position & this.#mask)] as number;
      if (head >= this.size) return this.#break(RingFault.headOutOfRange);
      if (this.#inFlight[head] !== 0) return this.#break(RingFault.headInFlight);
      const fault = this.#read(head, chain);
      if (fault !== NO_FAULT) return this.#break(fault);
    }
    this.#inFlight[head] = 1;
    this.#inFlightCount++;
    if (this.#tracker !== null) this.#tracker.take(head);
    this.#nextAvail = (position + 1) & 0xffff;
    return true;
  }

  unpop(head: number): void {
    assert(this.#inFlight[head] === 1, 'only a chain that was taken is put back');
    this.#inFlight[head] = 0;
    this.#inFlightCount--;
    // Its mark stays while it is one of those to be taken again.
    if (this.#again !== null) {
      this.#nextAgain--;
      return;
    }
    if (this.#tracker !== null) this.#tracker.untake(head);
    this.#nextAvail = (this.#nextAvail - 1) & 0xffff;
  }

  push(head: number, lengthBytes: number): void {
    check(this.#inFlight[head] === 1, 'a chain is returned once');
    const at = (this.#nextUsed & this.#mask) * 2;
    this.#usedElements[at] = head;
    this.#usedElements[at + 1] = lengthBytes;
    if (this.#tracker !== null) this.#tracker.done(head);
    this.#inFlight[head] = 0;
    this.#inFlightCount--;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
  }

  leave(head: number): void {
    assert(this.#inFlight[head] === 1 && this.#tracker !== null, 'a chain is left where somebody finds it');
    this.#inFlight[head] = 0;
    this.#inFlightCount--;
  }

  publish(): boolean {
    const before = this.#publishedUsed;
    const now = this.#nextUsed;
    if (now === before) return false;
    if (this.#tracker !== null) this.#tracker.announce();
    // Release for the used elements and the data before it, and a full barrier before the look at what the driver
    // wants.
    Atomics.store(this.#used, INDEX, now);
    if (this.#tracker !== null) this.#tracker.settle(now);
    this.#publishedUsed = now;
    if (!this.#hasEventIdx) return (Atomics.load(this.#avail, FLAGS) & AVAIL_NO_INTERRUPT) === 0;
    const usedEvent = Atomics.load(this.#avail, RING + this.size);
    const isWanted = ((now - usedEvent - 1) & 0xffff) < ((now - before) & 0xffff);
    if (this.#hasSignalled) return isWanted;
    this.#hasSignalled = true;
    return true;
  }

  /** With EVENT_IDX the stale avail_event does it. */
  disarmKick(): void {
    if (!this.#hasEventIdx) Atomics.store(this.#used, FLAGS, USED_NO_NOTIFY);
  }

  armKick(): boolean {
    if (this.#hasEventIdx) Atomics.store(this.#used, RING + 4 * this.size, this.#nextAvail);
    else Atomics.store(this.#used, FLAGS, 0);
    // The store above is a full barrier: either the driver sees it, or this load sees the driver's index.
    return this.hasAvailable();
  }

  markUsed(log: DirtyLog, gpa: number): void {
    if (this.#markedUsed === this.#publishedUsed) return;
    for (; this.#markedUsed !== this.#publishedUsed; this.#markedUsed = (this.#markedUsed + 1) & 0xffff) {
      log.mark(gpa + 2 * RING + 8 * (this.#markedUsed & this.#mask), 8);
    }
    log.mark(gpa, 2 * RING);
  }

  markNotification(log: DirtyLog, gpa: number): void {
    if (this.#hasEventIdx) log.mark(gpa + 2 * RING + 8 * this.size, 2);
    else log.mark(gpa, 2 * RING);
  }

  close(): void {
    this.#gather.close();
    this.#tracker?.close();
    this.#views.close();
  }

  #popAgain(chain: Chain): boolean {
    const head = (this.#again as readonly number[])[this.#nextAgain] as number;
    const fault = this.#read(head, chain);
    if (fault !== NO_FAULT) return this.#break(fault);
    this.#inFlight[head] = 1;
    this.#inFlightCount++;
    this.#nextAgain++;
    return true;
  }

  #refresh(): boolean {
    if (this.fault !== NO_FAULT) return false;
    const index = Atomics.load(this.#avail, INDEX);
    if (index === this.#nextAvail) return false;
    const count = (index - this.#nextAvail) & 0xffff;
    if (count > this.size) return this.#break(RingFault.availIndexJump);
    this.#availIdx = index;
    return true;
  }

  #break(fault: RingFault): false {
    this.fault = fault;
    // What follows in the ring is not looked at any more.
    this.#availIdx = this.#nextAvail;
    this.#again = null;
    return false;
  }

  /** Copies the chain at `head` out of the guest: each field of a descriptor is read once. */
  #read(head: number, chain: Chain): RingFault {
    chain.clearRecord();
    const { addresses, lengths } = chain;
    let table: Uint32Array = this.#descriptors;
    let first = 0;
    let entries = this.size;
    let left = entries;
    let isIndirect = false;
    let index = head;
    let count = 0;
    let readableCount = 0;
    let readableBytes = 0;
    let writableBytes = 0;
    for (;;) {
      const at = first + index * DESC_WORDS;
      addresses[count] = (table[at + 1] as number) * TWO_32 + (table[at] as number);
      const length = table[at + 2] as number;
      const flagsAndNext = table[at + 3] as number;
      if ((flagsAndNext & DESC_INDIRECT) !== 0) {
        // A driver may use one even where INDIRECT_DESC was not negotiated (Windows does).
        if (isIndirect) return RingFault.indirectNested;
        if ((flagsAndNext & DESC_NEXT) !== 0) return RingFault.indirectWithNext;
        if (length === 0 || (length & (DESC_BYTES - 1)) !== 0 || length > TABLE_BYTES.length)
          return RingFault.indirectLength;
        const window = this.#memory.locate(addresses, count, 0, length);
        if (window !== null && (this.#memory.offset & 3) === 0) {
          table = window.words;
          first = this.#memory.offset >>> 2;
        } else {
          if (!this.#memory.read(addresses, count, 0, TABLE_BYTES, 0, length)) return RingFault.indirectAddress;
          table = TABLE;
          first = 0;
        }
        isIndirect = true;
        entries = length >>> DESC_SHIFT;
        left = entries;
        index = 0;
        continue;
      }
      if (count === DESCRIPTORS_MAX) return RingFault.chainTooLong;
      lengths[count] = length;
      if ((flagsAndNext & DESC_WRITE) !== 0) {
        writableBytes += length;
      } else {
        if (count !== readableCount) return RingFault.readableAfterWritable;
        readableCount++;
        readableBytes += length;
      }
      count++;
      if ((flagsAndNext & DESC_NEXT) === 0) break;
      index = flagsAndNext >>> 16;
      if (index >= entries) return RingFault.nextOutOfRange;
      if (--left === 0) return RingFault.chainTooLong;
    }
    if (readableBytes + writableBytes > TWO_32) return RingFault.lengthOverflow;
    chain.head = head;
    chain.count = count;
    chain.readableCount = readableCount;
    chain.readableBytes = readableBytes;
    chain.writableBytes = writableBytes;
    return NO_FAULT;
  }
}
