/** Commands as a controller reads them, word by word. */
import { describe, expect, it } from 'vitest';
import {
  COMMAND_WORDS,
  encodeBlocks,
  encodeCommand,
  encodeDeallocate,
  encodeFlush,
  encodeRange,
  getLogPage,
} from './command.ts';
import { IoOpcode } from './spec.ts';

const BLOCKS = Float64Array.of(0x12_3456_789a);

/** An entry at the second place of a queue that held something before. */
function encoded(encode: (words: Uint32Array<ArrayBuffer>, at: number) => unknown): number[] {
  const words = new Uint32Array(3 * COMMAND_WORDS).fill(0xffff_ffff);
  encode(words, COMMAND_WORDS);
  const others = [...words.subarray(0, COMMAND_WORDS), ...words.subarray(2 * COMMAND_WORDS)];
  expect(new Set(others)).toEqual(new Set([0xffff_ffff]));
  return [...words.subarray(COMMAND_WORDS, 2 * COMMAND_WORDS)];
}

describe('a command', () => {
  it('that transfers blocks names the first one in 64 bits, and one less than their count', () => {
    const words = encoded((queue, at) => encodeBlocks(queue, at, IoOpcode.read, 0xabcd, 3, BLOCKS, 0, 0x1_0000));
    expect(words).toEqual([0xabcd_0002, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0x3456_789a, 0x12, 0xffff, 0, 0, 0]);
  });

  it('that flushes has a namespace and nothing else', () => {
    expect(encoded((queue, at) => encodeFlush(queue, at, 7, 1))).toEqual([0x0007_0000, 1, ...Array(14).fill(0)]);
  });

  it('that deallocates has one range', () => {
    const words = encoded((queue, at) => encodeDeallocate(queue, at, 1, 2));
    expect(words).toEqual([0x0001_0009, 2, ...Array(9).fill(0), 4, 0, 0, 0, 0]);
    const range = new Uint32Array(4).fill(0xffff_ffff);
    encodeRange(range, 0, BLOCKS, 0, 0xffff_fff0);
    expect([...range]).toEqual([0, 0xffff_fff0, 0x3456_789a, 0x12]);
  });

  it('of the admin queue has what is given, and zeroes elsewhere', () => {
    const words = encoded((queue, at) => encodeCommand({ opcode: 6, nsid: 5, cdw10: 1, cdw15: 9 }, queue, at));
    expect(words).toEqual([6, 5, ...Array(8).fill(0), 1, 0, 0, 0, 0, 9]);
  });

  it('for a log page counts dwords from zero, in two halves', () => {
    expect(getLogPage(2, 512, 0xffff_ffff)).toMatchObject({ cdw10: 0x007f_0002, cdw11: 0 });
    expect(getLogPage(2, 512 * 1024, 0)).toMatchObject({ cdw10: 0xffff_0002, cdw11: 1 });
    expect(getLogPage(0x70, 4096, 0, 2 ** 33 + 4)).toMatchObject({ cdw12: 4, cdw13: 2 });
  });
});
