/** A RAM disk's memory that is copied for the next daemon while guests write to it. */
import { readSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Mapping, MappingViews } from '../../../sys/mapping.ts';
import { MemoryCopy, PIECE_BYTES } from './handed-memory.ts';
import { WrittenBlocks } from './written-blocks.ts';

const SIZE_BYTES = 4 * PIECE_BYTES + 4096;

let memory: Mapping;
let views: MappingViews;
let disk: Uint8Array;
let copy: MemoryCopy;
beforeEach(() => {
  memory = Mapping.anonymous(SIZE_BYTES);
  views = new MappingViews();
  disk = new Uint8Array(views.view(memory, 0, SIZE_BYTES));
  copy = new MemoryCopy('Ram', memory, SIZE_BYTES);
});
afterEach(() => {
  copy.close();
  views.close();
  memory.close();
});

function write(at: number, length: number, value: number): void {
  disk.fill(value, at, at + length);
  copy.written.note(at, length);
}

function copied(): Buffer {
  const bytes = Buffer.alloc(SIZE_BYTES);
  expect(readSync(copy.fd, bytes, 0, SIZE_BYTES, 0)).toBe(SIZE_BYTES);
  return bytes;
}

describe('a copy of a RAM disk', () => {
  it('takes no memory for what is all zeroes', async () => {
    write(PIECE_BYTES + 7, 1, 1);
    write(SIZE_BYTES - 1, 1, 2);
    await copy.copyAll();
    expect(copy.pieces).toEqual([1, 4]);
    expect(copied().equals(disk)).toBe(true);
  });

  it('has what was written before, while and after it was made, zeroes too', async () => {
    write(0, SIZE_BYTES, 0xaa);
    const copying = copy.copyAll();
    write(4090, 12, 1);
    await copying;
    write(PIECE_BYTES, PIECE_BYTES, 0);
    await copy.catchUp();
    write(SIZE_BYTES - 4097, 4097, 3);
    copy.settle();
    expect(copied().equals(disk)).toBe(true);
    expect(copy.written.count()).toBe(0);
  });

  it('leaves little for the moment in which guests wait, however much was written before', async () => {
    await copy.copyAll();
    const large = Mapping.anonymous(64 << 20);
    const other = new MemoryCopy('Large', large, 64 << 20);
    other.written.note(0, 64 << 20);
    await other.catchUp();
    expect(other.written.count()).toBe(0);
    other.close();
    large.close();
  });
});

describe('what was written', () => {
  it('is noted by parts, of which a very large disk has no more than others', () => {
    const written = WrittenBlocks.of(2 ** 40);
    expect(written.partBytes).toBe(2 ** 18);
    written.note(2 ** 39 - 1, 2);
    expect([written.count(), written.next(0)]).toEqual([2, 2 ** 21 - 1]);
    expect([written.take(2 ** 21 - 1), written.take(2 ** 21 - 1), written.next(0)]).toEqual([true, false, 2 ** 21]);
    written.note(5, 0);
    expect(written.count()).toBe(1);
  });
});
