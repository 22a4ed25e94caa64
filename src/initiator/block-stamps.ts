/**
 * What a disk must hold, block by block: every write stamps the block with its number and a generation, every read is
 * checked in full. Kept apart from the load generator, so that contents can be checked over reconnects and restarts.
 */
import { assert } from '../base/assert.ts';

/** A block whose contents nobody knows: never written, or a write to it failed. */
const UNKNOWN = 0;
/** A block of zeroes. */
const ZEROED = 1;
const FIRST_STAMP = 2;

export class BlockStamps {
  readonly blockCount: number;
  /** Words of 4 bytes in a block. */
  readonly blockWords: number;
  readonly #generations: Uint32Array;
  /** 1 while a write to the block, or a read of it, is in flight. */
  readonly #busy: Uint8Array;
  readonly #seed: number;

  /** `isZeroed`: the disk is known to hold zeroes. `seed`: tells two disks' stamps apart. */
  constructor(blockCount: number, blockBytes: number, options: { isZeroed?: boolean; seed?: number } = {}) {
    assert(blockBytes % 4 === 0 && blockCount > 0, 'blocks are whole words');
    this.blockCount = blockCount;
    this.blockWords = blockBytes / 4;
    this.#generations = new Uint32Array(blockCount).fill(options.isZeroed === true ? ZEROED : UNKNOWN);
    this.#busy = new Uint8Array(blockCount);
    this.#seed = options.seed ?? 0;
  }

  /** Claims a block for one request. False when another has it. */
  claim(block: number): boolean {
    if (this.#busy[block] !== 0) return false;
    this.#busy[block] = 1;
    return true;
  }

  release(block: number): void {
    this.#busy[block] = 0;
  }

  generation(block: number): number {
    return this.#generations[block] as number;
  }

  /** Generation for the next write to a block. */
  nextGeneration(block: number): number {
    return Math.max(FIRST_STAMP, ((this.#generations[block] as number) + 1) >>> 0);
  }

  /** A write with this generation was completed. */
  setGeneration(block: number, generation: number): void {
    this.#generations[block] = generation;
  }

  /** A write failed, or was cut off: the block may hold anything. */
  forget(block: number): void {
    this.#generations[block] = UNKNOWN;
  }

  /** Writes a block's contents for a generation to `words[first…]`. */
  stamp(words: Uint32Array, first: number, block: number, generation: number): void {
    let value = this.#firstWord(block, generation);
    for (let i = 0; i < this.blockWords; i++) {
      words[first + i] = value;
      value = (value + 0x9e3779b1) | 0;
    }
  }

  /** Index of the first word of `words[first…]` that is not as the block was last written, or -1. */
  check(words: Uint32Array, first: number, block: number): number {
    const generation = this.#generations[block] as number;
    if (generation === UNKNOWN) return -1;
    const isZeroed = generation === ZEROED;
    let value = isZeroed ? 0 : this.#firstWord(block, generation);
    const step = isZeroed ? 0 : 0x9e3779b1;
    for (let i = 0; i < this.blockWords; i++) {
      if ((words[first + i] as number) !== value >>> 0) return i;
      value = (value + step) | 0;
    }
    return -1;
  }

  /** Blocks whose contents are known. */
  knownCount(): number {
    let count = 0;
    for (const generation of this.#generations) if (generation !== UNKNOWN) count++;
    return count;
  }

  #firstWord(block: number, generation: number): number {
    let hash = Math.imul(block ^ this.#seed, 0x85ebca6b) ^ Math.imul(generation, 0xc2b2ae35);
    hash ^= hash >>> 15;
    hash = Math.imul(hash, 0x2c1b3c6d);
    return hash ^ (hash >>> 13);
  }
}
