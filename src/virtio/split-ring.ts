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
 */
import { assert } from '../base/assert.ts';
import { CHAIN_DESCRIPTORS_MAX } from '../base/limits.ts';
import { type GuestMemory, NOWHERE } from '../memory/guest-memory.ts';
import { MappingViews } from '../sys/mapping.ts';
import { type Chain, RingFault } from './chain.ts';

const DESC_NEXT = 1;
const DESC_WRITE = 2;
const DESC_INDIRECT = 4;
const DESC_BYTES = 16;

/** Positions in the available and used rings as u16 elements. */
const FLAGS = 0;
const INDEX = 1;
const RING = 2;

const AVAIL_NO_INTERRUPT = 1;
const USED_NO_NOTIFY = 1;
const TWO_32 = 2 ** 32;

/** Where an indirect table that cannot be read in place is copied to; one for all rings of a thread. */
const TABLE = new Uint32Array((CHAIN_DESCRIPTORS_MAX * DESC_BYTES) / 4);
const TABLE_BYTES = new Uint8Array(TABLE.buffer);
/** Guest physical address of the indirect table that is looked at. */
const TABLE_ADDRESS = new Float64Array(1);

export interface SplitRingSetup {
  /** Entries, a power of two. */
  readonly size: number;
  /** Host addresses of the three parts, each wholly inside one memory region. */
  readonly descriptorAddress: number;
  readonly availableAddress: number;
  readonly usedAddress: number;
  readonly hasEventIdx: boolean;
  /** Index of the next available entry to take. */
  readonly nextAvail: number;
}

/** Bytes of the three parts of a ring of `size` entries. */
export function splitRingBytes(size: number): { descriptor: number; available: number; used: number } {
  return { descriptor: 16 * size, available: 6 + 2 * size, used: 6 + 8 * size };
}

export class SplitRing {
  readonly size: number;
  /** What the driver broke; nothing is taken from a broken ring. */
  fault: RingFault = RingFault.none;
  readonly #mask: number;
  readonly #descriptors: Uint32Array;
  readonly #avail: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedElements: Uint32Array;
  readonly #views = new MappingViews();
  readonly #memory: GuestMemory;
  readonly #hasEventIdx: boolean;
  /** 1 for a head that was taken and not yet pushed (CVE-2026-45782: the same head twice). */
  readonly #inFlight: Uint8Array;
  #nextAvail: number;
  /** Last available index read from memory. */
  #availIdx: number;
  #nextUsed: number;
  /** Used index that the driver can see. */
  #publishedUsed: number;
  #inFlightCount = 0;
  /** The first notification after a start is always sent: what the driver saw before is not known. */
  #hasSignalled = false;

  constructor(setup: SplitRingSetup, memory: GuestMemory) {
    const bytes = splitRingBytes(setup.size);
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
    this.#nextAvail = setup.nextAvail & 0xffff;
    this.#availIdx = this.#nextAvail;
    // The used index is the device's own: it goes on from what the last device left.
    this.#nextUsed = Atomics.load(this.#used, INDEX);
    this.#publishedUsed = this.#nextUsed;
  }

  /** Next available entry to take: what GET_VRING_BASE reports once nothing is in flight. */
  get nextAvail(): number {
    return this.#nextAvail;
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  /** True when the driver has made chains available that were not taken. One atomic load. */
  hasAvailable(): boolean {
    // Acquire: what the driver wrote before it moved the index is seen by the reads that follow.
    return this.fault === RingFault.none && Atomics.load(this.#avail, INDEX) !== this.#nextAvail;
  }

  /** Takes one chain. False when there is none, or when the driver broke the ring (`fault` is then set). */
  pop(chain: Chain): boolean {
    const position = this.#nextAvail;
    if (position === this.#availIdx && !this.#refresh()) return false;
    const head = this.#avail[RING + (position & this.#mask)] as number;
    if (head >= this.size) return this.#break(RingFault.headOutOfRange);
    if (this.#inFlight[head] !== 0) return this.#break(RingFault.headInFlight);
    chain.reset(head);
    const fault = this.#walk(head, chain);
    if (fault !== RingFault.none) return this.#break(fault);
    this.#inFlight[head] = 1;
    this.#inFlightCount++;
    this.#nextAvail = (position + 1) & 0xffff;
    return true;
  }

  /** Puts the chain of the last `pop` back: it is taken again later. */
  unpop(head: number): void {
    assert(this.#inFlight[head] === 1, 'only a chain that was taken is put back');
    this.#inFlight[head] = 0;
    this.#inFlightCount--;
    this.#nextAvail = (this.#nextAvail - 1) & 0xffff;
  }

  /** Returns a chain to the driver. `lengthBytes`: bytes written to its device-writable part. Not yet visible. */
  push(head: number, lengthBytes: number): void {
    assert(this.#inFlight[head] === 1, 'a chain is returned once');
    const at = (this.#nextUsed & this.#mask) * 2;
    this.#usedElements[at] = head;
    this.#usedElements[at + 1] = lengthBytes;
    this.#inFlight[head] = 0;
    this.#inFlightCount--;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
  }

  /** Makes the pushed chains visible. True when the driver is to be called. */
  publish(): boolean {
    const before = this.#publishedUsed;
    const now = this.#nextUsed;
    if (now === before) return false;
    // Release for the used elements and the data before it, and a full barrier before the look at what the driver
    // wants.
    Atomics.store(this.#used, INDEX, now);
    this.#publishedUsed = now;
    if (!this.#hasEventIdx) return (Atomics.load(this.#avail, FLAGS) & AVAIL_NO_INTERRUPT) === 0;
    const usedEvent = Atomics.load(this.#avail, RING + this.size);
    const isWanted = ((now - usedEvent - 1) & 0xffff) < ((now - before) & 0xffff);
    if (this.#hasSignalled) return isWanted;
    this.#hasSignalled = true;
    return true;
  }

  /** Asks the driver not to kick. With EVENT_IDX the stale avail_event does it. */
  disarmKick(): void {
    if (!this.#hasEventIdx) Atomics.store(this.#used, FLAGS, USED_NO_NOTIFY);
  }

  /** Asks for a kick at the next chain. True when chains came meanwhile: then poll on, the kick may never come. */
  armKick(): boolean {
    if (this.#hasEventIdx) Atomics.store(this.#used, RING + 4 * this.size, this.#nextAvail);
    else Atomics.store(this.#used, FLAGS, 0);
    // The store above is a full barrier: either the driver sees it, or this load sees the driver's index.
    return this.hasAvailable();
  }

  /** Takes back the views. The ring must not be used afterwards. */
  close(): void {
    this.#views.close();
  }

  #refresh(): boolean {
    if (this.fault !== RingFault.none) return false;
    const index = Atomics.load(this.#avail, INDEX);
    if (index === this.#nextAvail) return false;
    if (((index - this.#nextAvail) & 0xffff) > this.size) return this.#break(RingFault.availIndexJump);
    this.#availIdx = index;
    return true;
  }

  #break(fault: RingFault): false {
    this.fault = fault;
    // What follows in the ring is not looked at any more.
    this.#availIdx = this.#nextAvail;
    return false;
  }

  #walk(head: number, chain: Chain): RingFault {
    const table = this.#descriptors;
    let index = head;
    for (let walked = 0; walked < this.size; walked++) {
      const at = index * 4;
      const address = (table[at + 1] as number) * TWO_32 + (table[at] as number);
      const length = table[at + 2] as number;
      const flagsAndNext = table[at + 3] as number;
      if ((flagsAndNext & DESC_INDIRECT) !== 0) {
        TABLE_ADDRESS[0] = address;
        return this.#walkIndirect(length, flagsAndNext, chain);
      }
      const fault = chain.add(address, length, (flagsAndNext & DESC_WRITE) !== 0);
      if (fault !== RingFault.none) return fault;
      if ((flagsAndNext & DESC_NEXT) === 0) return lengthFault(chain);
      index = flagsAndNext >>> 16;
      if (index >= this.size) return RingFault.nextOutOfRange;
    }
    return RingFault.chainTooLong;
  }

  /**
   * Of the table at `TABLE_ADDRESS`. A driver may use one even where INDIRECT_DESC was not negotiated (Windows does).
   */
  #walkIndirect(lengthBytes: number, flags: number, chain: Chain): RingFault {
    if ((flags & DESC_NEXT) !== 0) return RingFault.indirectWithNext;
    if (lengthBytes === 0 || lengthBytes % DESC_BYTES !== 0 || lengthBytes > TABLE_BYTES.length) {
      return RingFault.indirectLength;
    }
    const entries = lengthBytes / DESC_BYTES;
    let table: Uint32Array = TABLE;
    let base = 0;
    const window = this.#memory.locate(TABLE_ADDRESS, 0, 0, lengthBytes);
    if (window !== NOWHERE && (this.#memory.offset & 3) === 0) {
      table = this.#memory.window(window).words;
      base = this.#memory.offset >>> 2;
    } else if (!this.#memory.read(TABLE_ADDRESS, 0, 0, TABLE_BYTES, 0, lengthBytes)) {
      return RingFault.indirectAddress;
    }
    let index = 0;
    for (let walked = 0; walked < entries; walked++) {
      const at = base + index * 4;
      const bufferAddress = (table[at + 1] as number) * TWO_32 + (table[at] as number);
      const length = table[at + 2] as number;
      const flagsAndNext = table[at + 3] as number;
      if ((flagsAndNext & DESC_INDIRECT) !== 0) return RingFault.indirectNested;
      const fault = chain.add(bufferAddress, length, (flagsAndNext & DESC_WRITE) !== 0);
      if (fault !== RingFault.none) return fault;
      if ((flagsAndNext & DESC_NEXT) === 0) return lengthFault(chain);
      index = flagsAndNext >>> 16;
      if (index >= entries) return RingFault.nextOutOfRange;
    }
    return RingFault.chainTooLong;
  }
}

function lengthFault(chain: Chain): RingFault {
  return chain.readableBytes + chain.writableBytes > TWO_32 ? RingFault.lengthOverflow : RingFault.none;
}
