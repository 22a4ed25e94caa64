/**
 * What a packed ring keeps of its requests in flight (QEMU docs/interop/vhost-user.rst, "Inflight I/O tracking", packed
 * virtqueues). Used descriptors are written over others that are in flight, so that all of them are kept here.
 *
 *   header, 32 bytes
 *   | features | version | entries | free | old free | used | old used | wrap | old wrap | - |
 *      u64        u16       u16       u16     u16       u16     u16       u8       u8     10 B
 *   entry of a descriptor, 32 bytes
 *   | mark | - | next | last | count | counter | id  | flags | length | address |
 *      u8   u8   u16     u16    u16      u64     u16    u16     u32       u64
 *
 * Entries that nobody uses are linked from `free`. A chain that is taken is copied to the first of them, and kept once
 * `free` is past them. Its first entry has its mark, its number and its last entry. Chains that complete are linked
 * before the free ones and `used` goes on, but what was before is kept as `old`: whoever comes after a crash sees by
 * the descriptor at `old used` whether the driver was shown the batch.
 *
 * Nothing is read back while the ring runs: the links that are gone by are our own.
 */
import { INFLIGHT_VERSION, InflightPart, inflightCounter } from './inflight-part.ts';
import { NOTHING_RECOVERED, type Recovery } from './ring.ts';
import type { InflightArea } from './ring-shape.ts';

/** Header fields as u16 elements, and as u32 elements two of them at a time. */
const VERSION_AT = 4;
const ENTRIES_AT = 5;
const FREE_AT = 6;
const OLD_FREE_AT = 7;
const USED_AT = 8;
const OLD_USED_AT = 9;
const WRAPS_AT = 10;
const FREE_WORD = 3;
const USED_WORD = 4;
/** Entries in u32 elements; and their fields: u32 elements, and u16 ones. */
const ENTRY_WORDS = 8;
const ENTRY_SHIFT = 3;
const FIRST_WORD = 8;
const LAST_AND_COUNT = 1;
const COUNTER = 2;
const ID_AND_FLAGS = 4;
const LENGTH = 5;
const ADDRESS = 6;
const NEXT = 1;

/** Of the ring: descriptors in u32 and u16 elements, their flags, and the marks in those (see packed-ring.ts). */
const DESC_WORDS = 4;
const DESC_HALVES = 8;
const FLAGS = 7;
const DESC_NEXT = 1;
const MARKS = 0x8080;
const AVAIL_MARK = 0x0080;
const USED_MARK = 0x8000;
const PLACE_MASK = 0x7fff;
const WRAP_SHIFT = 15;

export interface PackedStand {
  /** Where the used side stands, as half of a base. */
  readonly used: number;
  /** Descriptors from there on that were taken. */
  readonly slots: number;
}

export interface PackedRecovery extends Recovery, PackedStand {
  /** The chains of `heads`, as in a ring that begins with the first. */
  readonly descriptors: Uint32Array;
}

interface FoundChain {
  readonly id: number;
  readonly entry: number;
  readonly last: number;
  readonly entries: readonly number[];
}

export class PackedInflight extends InflightPart {
  readonly #size: number;
  /** Of each entry the one after it in its list, and of a chain's first entry the last. */
  readonly #next: Uint16Array;
  readonly #last: Uint16Array;
  /** First entry of a chain, by its id. */
  readonly #entryOf: Uint16Array;
  #free = 0;
  /** Entries of the chain that is being copied: the last of them, and the one after it. */
  #copied = 0;
  #nextCopied = 0;
  /** First entries of the chains that are done and not shown, and the last entry of the oldest. */
  readonly #batch: Uint16Array;
  #batchCount = 0;
  #batchEnd = 0;
  /** Turn of the ring in which the used side stood when it was shown last. */
  #wrap = 0;

  /** `size`: descriptors of the ring, no more than the area has. */
  constructor(area: InflightArea, size: number) {
    super(area, true);
    this.#size = size;
    this.#next = new Uint16Array(area.entries);
    this.#last = new Uint16Array(area.entries);
    this.#entryOf = new Uint16Array(size);
    this.#batch = new Uint16Array(size);
  }

  /**
   * Takes up what is there. `start`: where the ring stands when the area does not say. `ring`: its descriptors.
   */
  recover(start: PackedStand, ring: Uint16Array): PackedRecovery {
    const words = Uint32Array.from(this.words);
    const halves = new Uint16Array(words.buffer);
    const version = halves[VERSION_AT] as number;
    if (version === 0) return this.#begin(start, null);
    if (version !== INFLIGHT_VERSION || halves[ENTRIES_AT] !== this.entries) {
      return this.#begin(start, `it is of version ${version} for ${halves[ENTRIES_AT]} entries`);
    }
    const isShown = this.#isBatchShown(halves, ring);
    const used = usedOf(halves, isShown);
    if ((used & PLACE_MASK) >= this.#size) return this.#begin(start, `it ends at ${used & PLACE_MASK}`);
    const chains = this.#chainsIn(words, isShown);
    if (chains === null) return this.#begin(start, 'its lists are broken');
    const slots = chains.reduce((sum, { entries }) => sum + entries.length, 0);
    if (slots > this.#size || !canStand(ring, used, slots)) {
      return this.#begin(start, `the ring does not stand where it ends, with ${chains.length} requests`);
    }
    this.#decide(isShown, used, halves[isShown ? FREE_AT : OLD_FREE_AT] as number);
    this.#rebuild(words, chains);
    return { heads: chains.map(({ id }) => id), staleReason: null, used, slots, descriptors: copyOf(words, chains) };
  }

  /** Copies a descriptor of the chain that is being read. The address in two halves. */
  copy(low: number, high: number, length: number, idAndFlags: number): void {
    const { words } = this;
    const entry = this.#nextCopied;
    const at = FIRST_WORD + (entry << ENTRY_SHIFT);
    words[at + ID_AND_FLAGS] = idAndFlags;
    words[at + LENGTH] = length;
    words[at + ADDRESS] = low;
    words[at + ADDRESS + 1] = high;
    this.#copied = entry;
    this.#nextCopied = this.#next[entry] as number;
  }

  /** The chain that was copied, of so many descriptors, was taken. */
  take(id: number, slots: number): void {
    const entry = this.#free;
    const at = FIRST_WORD + (entry << ENTRY_SHIFT);
    this.words[at + LAST_AND_COUNT] = this.#copied | (slots << 16);
    this.count(at + COUNTER);
    this.words[at] = 1 | ((this.#next[entry] as number) << 16);
    this.#entryOf[id] = entry;
    this.#last[entry] = this.#copied;
    this.#setFree(this.#nextCopied);
  }

  override untake(id: number): void {
    const entry = this.#entryOf[id] as number;
    this.#link(this.#last[entry] as number, this.#free);
    this.#setFree(entry);
    this.#unmark(entry);
  }

  override done(id: number): void {
    const entry = this.#entryOf[id] as number;
    const last = this.#last[entry] as number;
    const count = this.#batchCount++;
    this.#batch[count] = entry;
    if (count === 0) this.#batchEnd = last;
    else this.#link(last, this.#batch[count - 1] as number);
  }

  override announce(used: number): void {
    this.#link(this.#batchEnd, this.#free);
    this.halves[FREE_AT] = this.#batch[this.#batchCount - 1] as number;
    this.halves[USED_AT] = used & PLACE_MASK;
    this.halves[WRAPS_AT] = (used >>> WRAP_SHIFT) | (this.#wrap << 8);
  }

  override settle(used: number): void {
    const { words } = this;
    const batch = this.#batch;
    const next = this.#next;
    const newest = batch[this.#batchCount - 1] as number;
    for (let i = 0; i < this.#batchCount; i++) {
      const entry = batch[i] as number;
      words[FIRST_WORD + (entry << ENTRY_SHIFT)] = (next[entry] as number) << 16;
    }
    this.#batchCount = 0;
    // First: a batch whose entries are free for good was shown, whatever else says.
    this.#setFree(newest);
    this.#setUsed(used);
  }

  #setFree(entry: number): void {
    this.#free = entry;
    this.#nextCopied = entry;
    this.words[FREE_WORD] = entry | (entry << 16);
  }

  #setUsed(used: number): void {
    const place = used & PLACE_MASK;
    const wrap = used >>> WRAP_SHIFT;
    this.#wrap = wrap;
    this.words[USED_WORD] = place | (place << 16);
    this.halves[WRAPS_AT] = wrap | (wrap << 8);
  }

  #link(entry: number, next: number): void {
    this.#next[entry] = next;
    this.halves[2 * (FIRST_WORD + (entry << ENTRY_SHIFT)) + NEXT] = next;
  }

  #unmark(entry: number): void {
    this.words[FIRST_WORD + (entry << ENTRY_SHIFT)] = (this.#next[entry] as number) << 16;
  }

  #isBatchShown(halves: Uint16Array, ring: Uint16Array): boolean {
    if (halves[FREE_AT] === halves[OLD_FREE_AT]) return true;
    const old = usedOf(halves, false);
    if (usedOf(halves, true) === old || (old & PLACE_MASK) >= this.#size) return false;
    return !isTaken(ring, old);
  }

  /** What is in flight, in the order in which it was taken; null when it cannot be. */
  #chainsIn(words: Uint32Array, isShown: boolean): FoundChain[] | null {
    const halves = new Uint16Array(words.buffer);
    const isVisited = new Uint8Array(this.entries);
    let free = halves[isShown ? FREE_AT : OLD_FREE_AT] as number;
    for (; free < this.entries && isVisited[free] === 0; free = nextOf(words, free)) isVisited[free] = 1;
    const chains: FoundChain[] = [];
    const hasId = new Uint8Array(this.#size);
    for (let entry = 0; entry < this.entries; entry++) {
      const at = FIRST_WORD + ENTRY_WORDS * entry;
      if (((words[at] as number) & 0xff) === 0 || isVisited[entry] !== 0) continue;
      const chain = chainAt(words, entry, isVisited);
      if (chain === null || chain.id >= this.#size || hasId[chain.id] !== 0) return null;
      hasId[chain.id] = 1;
      chains.push(chain);
    }
    return chains.sort((a, b) => counterOf(words, a.entry) - counterOf(words, b.entry));
  }

  /** Goes on from the batch that was shown, or back to where it began: in the order that tells one from the other. */
  #decide(isShown: boolean, used: number, free: number): void {
    if (isShown) this.#setFree(free);
    this.#setUsed(used);
    if (!isShown) this.#setFree(free);
  }

  /** Every entry that no chain has is free. */
  #rebuild(words: Uint32Array, chains: readonly FoundChain[]): void {
    const isKept = new Uint8Array(this.entries);
    for (const { id, entry, last, entries } of chains) {
      for (const one of entries) {
        isKept[one] = 1;
        this.#next[one] = nextOf(words, one);
      }
      this.#entryOf[id] = entry;
      this.#last[entry] = last;
    }
    for (let entry = 0; entry < this.entries; entry++) {
      if (isKept[entry] === 0) this.words[FIRST_WORD + ENTRY_WORDS * entry] = nextOf(words, entry) << 16;
    }
    let first = this.entries;
    for (let entry = this.entries - 1; entry >= 0; entry--) {
      if (isKept[entry] !== 0) continue;
      this.#link(entry, first);
      first = entry;
    }
    this.#setFree(first);
    const newest = chains.at(-1);
    this.countFrom(newest === undefined ? 0 : counterOf(words, newest.entry));
  }

  #begin({ used, slots }: PackedStand, staleReason: string | null): PackedRecovery {
    this.halves[VERSION_AT] = 0;
    this.words.fill(0);
    for (let entry = 0; entry < this.entries; entry++) this.#link(entry, entry + 1);
    this.#setFree(0);
    this.#setUsed(used);
    this.halves[ENTRIES_AT] = this.entries;
    this.halves[VERSION_AT] = INFLIGHT_VERSION;
    return { ...NOTHING_RECOVERED, staleReason, used, slots, descriptors: new Uint32Array(0) };
  }
}

function usedOf(halves: Uint16Array, isNew: boolean): number {
  const wraps = halves[WRAPS_AT] as number;
  const wrap = (isNew ? wraps : wraps >>> 8) & 1;
  return (halves[isNew ? USED_AT : OLD_USED_AT] as number) | (wrap << WRAP_SHIFT);
}

/** Is the descriptor there available in this turn of the ring, and not given back? */
function isTaken(ring: Uint16Array, at: number): boolean {
  const wrap = at >>> WRAP_SHIFT;
  return marksOf(ring, at & PLACE_MASK) === (wrap === 1 ? AVAIL_MARK : USED_MARK);
}

/**
 * Can the ring stand there with so many descriptors taken? Not one that was begun anew meanwhile. (What was given back
 * and not shown may look used; the driver may have come round to those before.)
 */
function canStand(ring: Uint16Array, used: number, slots: number): boolean {
  const size = ring.length / DESC_HALVES;
  const start = used & PLACE_MASK;
  const wrap = used >>> WRAP_SHIFT;
  for (let i = 0; i < slots; i++) {
    const place = start + i;
    const isAvailable = (marksOf(ring, place % size) & AVAIL_MARK) !== 0;
    if (isAvailable !== ((place < size ? wrap : wrap ^ 1) === 1)) return false;
  }
  if (slots === size) return true;
  const end = start + slots;
  const isEndUsed = marksOf(ring, end % size) === ((end < size ? wrap : wrap ^ 1) === 1 ? MARKS : 0);
  const isBeforeUnused = marksOf(ring, (start + size - 1) % size) === ((start > 0 ? wrap : wrap ^ 1) === 1 ? 0 : MARKS);
  return !isEndUsed && !isBeforeUnused;
}

function marksOf(ring: Uint16Array, place: number): number {
  return (ring[place * DESC_HALVES + FLAGS] as number) & MARKS;
}

function nextOf(words: Uint32Array, entry: number): number {
  return (words[FIRST_WORD + ENTRY_WORDS * entry] as number) >>> 16;
}

function counterOf(words: Uint32Array, entry: number): number {
  return inflightCounter(words, FIRST_WORD + ENTRY_WORDS * entry + COUNTER);
}

/** Null when it is none, or shares an entry with what was visited. */
function chainAt(words: Uint32Array, first: number, isVisited: Uint8Array): FoundChain | null {
  const lastAndCount = words[FIRST_WORD + ENTRY_WORDS * first + LAST_AND_COUNT] as number;
  const entries: number[] = [];
  for (let entry = first, left = lastAndCount >>> 16; ; entry = nextOf(words, entry)) {
    if (left === 0 || entry >= isVisited.length || isVisited[entry] !== 0) return null;
    isVisited[entry] = 1;
    entries.push(entry);
    const idAndFlags = words[FIRST_WORD + ENTRY_WORDS * entry + ID_AND_FLAGS] as number;
    const isLast = --left === 0;
    if (((idAndFlags >>> 16) & DESC_NEXT) !== (isLast ? 0 : DESC_NEXT)) return null;
    if (isLast) return { id: idAndFlags & 0xffff, entry: first, last: entry, entries };
  }
}

/** The descriptors of chains as they were in their ring. */
function copyOf(words: Uint32Array, chains: readonly FoundChain[]): Uint32Array {
  const kept = chains.flatMap(({ entries }) => entries);
  const descriptors = new Uint32Array(DESC_WORDS * kept.length);
  kept.forEach((entry, i) => {
    const at = FIRST_WORD + ENTRY_WORDS * entry;
    descriptors.set(words.subarray(at + ADDRESS, at + ADDRESS + 2), DESC_WORDS * i);
    descriptors[DESC_WORDS * i + 2] = words[at + LENGTH] as number;
    descriptors[DESC_WORDS * i + 3] = words[at + ID_AND_FLAGS] as number;
  });
  return descriptors;
}
