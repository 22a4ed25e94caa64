/**
 * A disk with a volatile write cache, in memory: what the host sees, what is stable, and which sectors differ. Any
 * thread may have a view of it; one at a time uses it.
 */
import { type MappingInfo, MappingViews } from '../../../sys/mapping.ts';

const SECTOR_BYTES = 512;
const SECTOR_WORDS = SECTOR_BYTES / 4;

/** Words of the state that threads share; a byte for each sector follows them. */
const Word = { wanted: 0, taken: 1, seed: 2, dirty: 3, kept: 4, flushes: 5, random: 6, count: 7 } as const;

/** So many of 256 sectors that were not flushed are on the disk after a cut; which of these, the seed decides. */
const KEPT_OF_256 = [0, 25, 128, 230, 256] as const;
/** A sector that is written again was written back before, in one of so many cases: an older version may survive. */
const WRITTEN_BACK_ONE_OF = 4;

export interface CutResult {
  /** Sectors that were not flushed. */
  readonly dirtySectors: number;
  /** Of these, the ones that are on the disk all the same. */
  readonly keptSectors: number;
  /** Flushes that were carried out since the disk was made. */
  readonly flushes: number;
}

export function sharedStateOf(sizeBytes: number): SharedArrayBuffer {
  return new SharedArrayBuffer(Word.count * 4 + sizeBytes / SECTOR_BYTES);
}

export class WriteCache {
  readonly #views = new MappingViews();
  readonly #words: Int32Array;
  readonly #dirty: Uint8Array;
  readonly #cached: Int32Array;
  readonly #stable: Int32Array;
  readonly #image: Int32Array;

  /** The mapping has the disk three times: as it is seen, as it is stable, and as the last cut would leave it. */
  constructor(mapping: MappingInfo, shared: SharedArrayBuffer) {
    const bytes = mapping.lengthBytes / 3;
    const part = (index: number): Int32Array => new Int32Array(this.#views.view(mapping, index * bytes, bytes));
    this.#words = new Int32Array(shared, 0, Word.count);
    this.#dirty = new Uint8Array(shared, Word.count * 4);
    this.#cached = part(0);
    this.#stable = part(1);
    this.#image = part(2);
  }

  /** The disk as the last cut would leave it. */
  get image(): Uint8Array {
    return new Uint8Array(this.#image.buffer, this.#image.byteOffset, this.#image.byteLength);
  }

  get result(): CutResult {
    return {
      dirtySectors: this.#words[Word.dirty] as number,
      keptSectors: this.#words[Word.kept] as number,
      flushes: this.#words[Word.flushes] as number,
    };
  }

  /** Before a range of bytes is written: the cache may have written the old content back by itself. */
  overwriting(offset: number, length: number): void {
    const end = (offset + length) / SECTOR_BYTES;
    for (let sector = offset / SECTOR_BYTES; sector < end; sector++) {
      if (this.#dirty[sector] === 1 && this.#random(WRITTEN_BACK_ONE_OF) === 0) this.#copy(sector, this.#stable);
    }
  }

  /** A write of a range of bytes has completed. */
  written(offset: number, length: number): void {
    this.#dirty.fill(1, offset / SECTOR_BYTES, (offset + length) / SECTOR_BYTES);
  }

  /** Makes everything stable whose write has completed. */
  flush(): void {
    const dirty = this.#dirty;
    for (let sector = dirty.indexOf(1); sector >= 0; sector = dirty.indexOf(1, sector + 1)) {
      this.#copy(sector, this.#stable);
      dirty[sector] = 0;
    }
    this.#words[Word.flushes] = (this.#words[Word.flushes] as number) + 1;
  }

  /** Has a cut imagined by whoever uses the disk, or by `cutIfWanted` afterwards. */
  want(seed: number): void {
    this.#words[Word.seed] = seed;
    Atomics.add(this.#words, Word.wanted, 1);
  }

  /** Fills the image, when that is wanted and nobody has done it. */
  cutIfWanted(): void {
    const wanted = Atomics.load(this.#words, Word.wanted);
    if (Atomics.exchange(this.#words, Word.taken, wanted) === wanted) return;
    this.#words[Word.random] = this.#words[Word.seed] as number;
    const keptOf256 = KEPT_OF_256[this.#random(KEPT_OF_256.length)] as number;
    const dirty = this.#dirty;
    this.#image.set(this.#stable);
    let [count, kept] = [0, 0];
    for (let sector = dirty.indexOf(1); sector >= 0; sector = dirty.indexOf(1, sector + 1)) {
      count++;
      if (this.#random(256) >= keptOf256) continue;
      kept++;
      this.#copy(sector, this.#image);
    }
    this.#words[Word.dirty] = count;
    this.#words[Word.kept] = kept;
  }

  close(): void {
    this.#views.close();
  }

  #copy(sector: number, to: Int32Array): void {
    const end = (sector + 1) * SECTOR_WORDS;
    for (let word = sector * SECTOR_WORDS; word < end; word++) to[word] = this.#cached[word] as number;
  }

  /** Below `limit`; the same numbers after the same seed (mulberry32). */
  #random(limit: number): number {
    const seed = ((this.#words[Word.random] as number) + 0x6d2b79f5) | 0;
    this.#words[Word.random] = seed;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  }
}
