/**
 * What all threads know of a mirror (raid1), in shared memory: which legs are in use, which parts of the disk are being
 * written, and which ones may differ between the legs. Everything is changed by atomic operations.
 *
 * **Legs.** A leg *in sync* is read and written, a *target* (it is being rebuilt) is written. Which legs a daemon that
 * starts again would take for being in sync is *recorded*: a write may be answered when all of those have it. So a leg
 * that failed is first taken out, then the record is changed, and then the write that it failed is answered.
 *
 * **Units** are locked: a read shares the 4 KiB units that it touches with other reads, whatever changes them has them
 * alone. So no read sees half of a write, both legs have overlapping writes in the same order, and what one read has
 * given is what the next one gives, whichever leg it is from. Units share the words of a table; who needs several takes
 * them in the order of the table, and keeps what it has, so that nobody waits in a circle.
 *
 * **Regions** are what is brought into line after a crash: a region that is clean is the same on all legs. It becomes
 * dirty, on the legs' own record where there is one, before anything in it is written.
 */
import { assert } from '../../../base/assert.ts';

/** Bits of a half of the word of legs. */
export const LEGS_MAX = 16;
export const UNIT_BYTES = 4096;
/** A power of two. Units this far apart share a word. */
const UNITS = 2 ** 16;
/** A disk that grows has more of them. */
export const REGIONS_MAX = 2 ** 18;
const REGIONS_AT_FIRST = 2 ** 15;
const REGION_BYTES_MIN = 2 ** 20;

const Word = {
  legs: 0,
  recorded: 1,
  logLock: 2,
  aged: 3,
  channels: 4,
  cannotRecord: 5,
  opened: 16,
  failures: 32,
} as const;
const UNITS_AT = 64;
const REGIONS_AT = UNITS_AT + UNITS;
const WORDS = REGIONS_AT + REGIONS_MAX;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const ALL_LEGS = 2 ** LEGS_MAX - 1;
/** Of a unit: somebody has it alone, or will when those who read it have done so. Below it: how many read. */
const ALONE = 2 ** 16;
const READERS = ALONE - 1;
/** Of a region: dirty; written since the last sweep. Below them: writes that are in it. */
const DIRTY = 2 ** 30;
const CLEANING = 2 ** 29;
const TOUCHED = 2 ** 28;
const WRITES = TOUCHED - 1;

/** Bytes of a region of a disk that begins with this size: a power of two. */
export function regionBytesOf(sizeBytes: number): number {
  return Math.max(REGION_BYTES_MIN, 2 ** Math.ceil(Math.log2(sizeBytes / REGIONS_AT_FIRST)));
}

export class MirrorState {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(memory = new SharedArrayBuffer(WORDS * 4)) {
    this.memory = memory;
    this.#words = new Int32Array(memory);
  }

  // Legs, by slot.

  /** Bits of those in sync. */
  get inSync(): number {
    return Atomics.load(this.#words, Word.legs) & ALL_LEGS;
  }

  get targets(): number {
    return (Atomics.load(this.#words, Word.legs) >>> LEGS_MAX) & ALL_LEGS;
  }

  /** Of all that are written. */
  get written(): number {
    const legs = Atomics.load(this.#words, Word.legs);
    return (legs | (legs >>> LEGS_MAX)) & ALL_LEGS;
  }

  get recorded(): number {
    return Atomics.load(this.#words, Word.recorded);
  }

  set recorded(slots: number) {
    Atomics.store(this.#words, Word.recorded, slots);
  }

  /** False: the last leg does not take a change of the record. */
  get canRecord(): boolean {
    return Atomics.load(this.#words, Word.cannotRecord) === 0;
  }

  set canRecord(value: boolean) {
    Atomics.store(this.#words, Word.cannotRecord, value ? 0 : 1);
  }

  addInSync(slot: number): void {
    Atomics.or(this.#words, Word.legs, 1 << slot);
  }

  addTarget(slot: number): void {
    Atomics.or(this.#words, Word.legs, 1 << (slot + LEGS_MAX));
  }

  /** A target is in sync now. False: it is none any more. */
  promote(slot: number): boolean {
    return this.#change((legs) =>
      (legs & (1 << (slot + LEGS_MAX))) === 0 ? legs : (legs & ~(1 << (slot + LEGS_MAX))) | (1 << slot),
    );
  }

  /** Takes a leg out. False: it is out already, or the last one in sync. */
  drop(slot: number): boolean {
    return this.#change((legs) => {
      const left = legs & ~(1 << slot) & ~(1 << (slot + LEGS_MAX));
      return (legs & ALL_LEGS) !== 0 && (left & ALL_LEGS) === 0 ? legs : left;
    });
  }

  /** A leg failed a request, and was taken out for that. */
  countFailure(slot: number): void {
    Atomics.add(this.#words, Word.failures + slot, 1);
  }

  failuresOf(slot: number): number {
    return Atomics.load(this.#words, Word.failures + slot);
  }

  /** How many channels have opened a leg. */
  opened(slot: number, change: number): number {
    return Atomics.add(this.#words, Word.opened + slot, change) + change;
  }

  #change(next: (legs: number) => number): boolean {
    for (;;) {
      const legs = Atomics.load(this.#words, Word.legs);
      const wanted = next(legs);
      if (wanted === legs) return false;
      if (Atomics.compareExchange(this.#words, Word.legs, legs, wanted) === legs) return true;
    }
  }

  // Units.

  /** A number for a channel, from 1 on. */
  nextChannel(): number {
    return Atomics.add(this.#words, Word.channels, 1) + 1;
  }

  /** Takes a unit of the table, to read. */
  share(index: number): boolean {
    if ((Atomics.add(this.#words, UNITS_AT + index, 1) & ALONE) === 0) return true;
    Atomics.sub(this.#words, UNITS_AT + index, 1);
    return false;
  }

  unshare(index: number): void {
    Atomics.sub(this.#words, UNITS_AT + index, 1);
  }

  /** Keeps others from a unit: it is the caller's once `isQuiet`. */
  claim(index: number): boolean {
    return (Atomics.or(this.#words, UNITS_AT + index, ALONE) & ALONE) === 0;
  }

  /** Nobody reads a unit that was claimed. */
  isQuiet(index: number): boolean {
    return (Atomics.load(this.#words, UNITS_AT + index) & READERS) === 0;
  }

  unclaim(index: number): void {
    Atomics.and(this.#words, UNITS_AT + index, ~ALONE);
  }

  /** Whoever waited long goes first: who has nothing yet waits until it has what it needs. */
  isHeldBack(id: number): boolean {
    const aged = Atomics.load(this.#words, Word.aged);
    return aged !== 0 && aged !== id;
  }

  ageTo(id: number): void {
    Atomics.compareExchange(this.#words, Word.aged, 0, id);
  }

  rejuvenate(id: number): void {
    Atomics.compareExchange(this.#words, Word.aged, id, 0);
  }

  // Regions.

  /** Whoever writes the record of the regions. */
  lockLog(): boolean {
    return Atomics.compareExchange(this.#words, Word.logLock, 0, 1) === 0;
  }

  unlockLog(): void {
    Atomics.store(this.#words, Word.logLock, 0);
  }

  /** A write is going to be in a region. */
  enter(region: number): void {
    const before = Atomics.add(this.#words, REGIONS_AT + region, 1);
    if ((before & TOUCHED) === 0) Atomics.or(this.#words, REGIONS_AT + region, TOUCHED);
  }

  leave(region: number): void {
    const before = Atomics.sub(this.#words, REGIONS_AT + region, 1);
    assert((before & WRITES) > 0, 'a write leaves a region that it is in');
  }

  isDirty(region: number): boolean {
    return (Atomics.load(this.#words, REGIONS_AT + region) & (DIRTY | CLEANING)) === DIRTY;
  }

  setDirty(region: number): void {
    Atomics.or(this.#words, REGIONS_AT + region, DIRTY);
  }

  /** What its bit in the record should be. */
  shouldBeMarked(region: number): boolean {
    const word = Atomics.load(this.#words, REGIONS_AT + region);
    return (word & WRITES) > 0 || (word & (DIRTY | CLEANING)) === DIRTY;
  }

  /** Forgets that it was touched. True for one that is dirty, and nobody came to since this was called last. */
  isIdle(region: number): boolean {
    return (Atomics.and(this.#words, REGIONS_AT + region, ~TOUCHED) & ~CLEANING) === DIRTY;
  }

  /** Begins to clean a region. False when a write came to it since `isIdle`. */
  startCleaning(region: number): boolean {
    const at = REGIONS_AT + region;
    return Atomics.compareExchange(this.#words, at, DIRTY, DIRTY | CLEANING) === DIRTY;
  }

  /** Either it is clean, or everything is as before. */
  endCleaning(region: number, isClean: boolean): void {
    Atomics.and(this.#words, REGIONS_AT + region, isClean ? ~(DIRTY | CLEANING) : ~CLEANING);
  }
}

/** Words of the table that a range of blocks needs, in the order in which they are taken. */
export class UnitRange {
  count = 0;
  #start = 0;
  #wrapped = 0;

  set(firstBlock: number, blockCount: number, unitBlocks: number): void {
    const first = Math.floor(firstBlock / unitBlocks);
    const last = Math.floor((firstBlock + blockCount - 1) / unitBlocks);
    this.count = Math.min(last - first + 1, UNITS);
    this.#start = first % UNITS;
    this.#wrapped = Math.max(0, this.#start + this.count - UNITS);
  }

  /** Ascending: what is beyond the end of the table begins at its start. */
  at(i: number): number {
    return i < this.#wrapped ? i : this.#start + i - this.#wrapped;
  }
}
