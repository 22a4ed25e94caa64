/**
 * For an upgrade (docs/upgrade.md): a RAM disk's anonymous memory is copied into a file in memory, which the next
 * daemon has as the disk. It is copied while guests work; what they write meanwhile is noted and copied again, until
 * little is left for the moment in which they wait.
 */
import { closeSync, write, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { createMemoryFile, type MappingInfo, MappingViews, truncateFile } from '../../../sys/mapping.ts';
import { WrittenBlocks } from './written-blocks.ts';

/** Written at once; what is all zeroes of such a piece is not. A huge page of most processors. */
export const PIECE_BYTES = 2 * 2 ** 20;
const ZEROES = new Uint8Array(PIECE_BYTES);
/** Copying this much again takes a few milliseconds, in which guests may wait. */
const LITTLE_BYTES = 8 * 2 ** 20;
/** Guests that write faster than can be copied are not caught up with. */
const ROUNDS_MAX = 6;

const writeAsync = promisify(write);

/** The bytes of a RAM disk as the next daemon gets them. */
export class MemoryCopy {
  readonly fd: number;
  readonly written: WrittenBlocks;
  /** Pieces that are not all zeroes, by number. */
  readonly pieces: number[] = [];
  readonly #mapping: MappingInfo;
  readonly #sizeBytes: number;
  #isOpen = true;
  /** A thread of the system's calls uses the descriptor. */
  #isWriting = false;

  /** Throws `ENOMEM`, `EMFILE`. */
  constructor(name: string, mapping: MappingInfo, sizeBytes: number) {
    this.#mapping = mapping;
    this.#sizeBytes = sizeBytes;
    this.written = WrittenBlocks.of(sizeBytes);
    this.fd = createMemoryFile(`ringhost.${name}`, sizeBytes);
  }

  /** Everything once, after every reactor notes what it writes. Throws `ENOSPC` and the like. */
  async copyAll(): Promise<void> {
    for (let at = 0, piece = 0; at < this.#sizeBytes && this.#isOpen; at += PIECE_BYTES, piece++) {
      const length = Math.min(PIECE_BYTES, this.#sizeBytes - at);
      // The file has zeroes where nothing was written.
      if (this.#isZero(at, length)) continue;
      this.pieces.push(piece);
      await this.#copy(at, length);
    }
  }

  /** What was written meanwhile, until little is left. */
  async catchUp(): Promise<void> {
    const { written } = this;
    for (let round = 0; round < ROUNDS_MAX && written.count() * written.partBytes > LITTLE_BYTES; round++) {
      for (let run = this.#takeRun(0); run !== null && this.#isOpen; run = this.#takeRun(run.end)) {
        await this.#copy(run.at, run.length);
      }
    }
  }

  /** Nobody writes any more: the rest. */
  settle(): void {
    for (let run = this.#takeRun(0); run !== null; run = this.#takeRun(run.end)) {
      const { at, length } = run;
      this.#withBytes(at, length, (bytes) => {
        for (let done = 0; done < length; ) done += writeSync(this.fd, bytes, done, length - done, at + done);
      });
    }
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    if (!this.#isWriting) closeSync(this.fd);
  }

  async #copy(at: number, length: number): Promise<void> {
    const views = new MappingViews();
    this.#isWriting = true;
    try {
      const bytes = new Uint8Array(views.view(this.#mapping, at, length));
      for (let done = 0; done < length; ) {
        done += (await writeAsync(this.fd, bytes, done, length - done, at + done)).bytesWritten;
      }
    } finally {
      views.close();
      this.#isWriting = false;
      if (!this.#isOpen) closeSync(this.fd);
    }
  }

  #isZero(at: number, length: number): boolean {
    return this.#withBytes(at, length, (bytes) => Buffer.compare(bytes, ZEROES.subarray(0, length)) === 0);
  }

  #withBytes<T>(at: number, length: number, use: (bytes: Uint8Array) => T): T {
    const views = new MappingViews();
    try {
      return use(new Uint8Array(views.view(this.#mapping, at, length)));
    } finally {
      views.close();
    }
  }

  /** Parts beside each other that were written, from a part on: their marks are taken before their bytes are. */
  #takeRun(from: number): { readonly at: number; readonly length: number; readonly end: number } | null {
    const { written } = this;
    const first = written.next(from);
    if (first === written.partCount) return null;
    let end = first;
    while ((end - first) * written.partBytes < PIECE_BYTES && written.take(end)) end++;
    const at = first * written.partBytes;
    return { at, length: Math.min((end - first) * written.partBytes, this.#sizeBytes - at), end };
  }
}

/** Memory of the daemon before that a RAM disk of this one is in. */
export class HandedMemory {
  readonly fd: number;

  constructor(fd: number) {
    this.fd = fd;
  }

  async grow(): Promise<void> {}

  /** What comes back by growing is zeroes. */
  resize(sizeBytes: number): void {
    truncateFile(this.fd, sizeBytes);
  }

  close(): void {
    closeSync(this.fd);
  }
}
