import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockStamps } from './block-stamps.ts';

const BLOCK_BYTES = 512;
const BLOCK_WORDS = BLOCK_BYTES / 4;

describe('block stamps', () => {
  it('accept a block as it was last written, and nothing else', () => {
    const position = fc.record({
      block: fc.nat(63),
      writes: fc.integer({ min: 1, max: 5 }),
      word: fc.nat(BLOCK_WORDS - 1),
      bit: fc.nat(31),
    });
    fc.assert(
      fc.property(position, ({ block, writes, word, bit }) => {
        const stamps = new BlockStamps(64, BLOCK_BYTES);
        const words = new Uint32Array(BLOCK_WORDS);
        for (let i = 0; i < writes; i++) {
          const generation = stamps.nextGeneration(block);
          stamps.stamp(words, 0, block, generation);
          stamps.setGeneration(block, generation);
        }
        expect(stamps.check(words, 0, block)).toBe(-1);
        words[word] = (words[word] as number) ^ (1 << bit);
        expect(stamps.check(words, 0, block)).toBe(word);
      }),
    );
  });

  it('notice an older generation, another block and another disk', () => {
    const stamps = new BlockStamps(16, BLOCK_BYTES, { seed: 1 });
    const words = new Uint32Array(BLOCK_WORDS);
    stamps.setGeneration(3, 7);
    stamps.stamp(words, 0, 3, 6);
    expect(stamps.check(words, 0, 3)).toBe(0);
    stamps.stamp(words, 0, 4, 7);
    expect(stamps.check(words, 0, 3)).toBe(0);
    new BlockStamps(16, BLOCK_BYTES, { seed: 2 }).stamp(words, 0, 3, 7);
    expect(stamps.check(words, 0, 3)).toBe(0);
  });

  it('expect zeroes of a disk that is known to be empty, and nothing of an unknown one', () => {
    const words = new Uint32Array(BLOCK_WORDS);
    words[5] = 1;
    expect(new BlockStamps(4, BLOCK_BYTES, { isZeroed: true }).check(words, 0, 0)).toBe(5);
    expect(new BlockStamps(4, BLOCK_BYTES).check(words, 0, 0)).toBe(-1);
  });

  it('give a block to one request at a time', () => {
    const stamps = new BlockStamps(4, BLOCK_BYTES);
    expect(stamps.claim(2)).toBe(true);
    expect(stamps.claim(2)).toBe(false);
    stamps.release(2);
    expect(stamps.claim(2)).toBe(true);
  });

  it('know nothing of a block whose write failed', () => {
    const stamps = new BlockStamps(4, BLOCK_BYTES, { isZeroed: true });
    stamps.forget(1);
    expect(stamps.knownCount()).toBe(3);
    expect(stamps.check(new Uint32Array(BLOCK_WORDS).fill(9), 0, 1)).toBe(-1);
  });
});
