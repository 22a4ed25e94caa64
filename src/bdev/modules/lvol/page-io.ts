/** The disk under a store, by pages, for the main thread. */

import { IoType } from '../../bdev-io.ts';
import type { BlockAccess, BlockRange } from '../../block-access.ts';
import { JobControl } from '../../job-control.ts';
import type { BdevEntry } from '../../registry.ts';
import { PAGE_BYTES } from './format.ts';

/** What is read or written at a time. */
const PIECE_BYTES = 512 * 1024;

/** Every call rejects with `EIO` when the disk fails it. */
export class PageIo {
  readonly #blocks: BlockAccess;
  readonly #base: BdevEntry;
  readonly #blocksPerPage: number;
  readonly #canZero: boolean;

  constructor(blocks: BlockAccess, base: BdevEntry) {
    this.#blocks = blocks;
    this.#base = base;
    this.#blocksPerPage = PAGE_BYTES / base.bdev.blockSizeBytes;
    this.#canZero = base.bdev.ioTypes.includes(IoType.writeZeroes);
  }

  async read(page: number, pages: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(pages * PAGE_BYTES);
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      const count = this.#blocksOf(Math.min(PIECE_BYTES, bytes.length - at));
      bytes.set(await this.#blocks.read(this.#base, this.#blockAt(page, at), count), at);
    }
    return bytes;
  }

  async write(page: number, bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      await this.#blocks.write(this.#base, this.#blockAt(page, at), bytes.subarray(at, at + PIECE_BYTES));
    }
  }

  /** Zeroes them, and flushes. */
  async zero(areas: readonly { readonly page: number; readonly pages: number }[]): Promise<void> {
    if (this.#canZero) {
      const ranges = areas.map(({ page, pages }): BlockRange => [this.#blockAt(page, 0), pages * this.#blocksPerPage]);
      await this.#blocks.transfer({ type: IoType.writeZeroes, target: this.#base, ranges }, new JobControl());
      return;
    }
    for (const { page, pages } of areas) await this.write(page, new Uint8Array(pages * PAGE_BYTES));
    await this.flush();
  }

  async flush(): Promise<void> {
    await this.#blocks.flush(this.#base);
  }

  #blockAt(page: number, offsetBytes: number): number {
    return page * this.#blocksPerPage + this.#blocksOf(offsetBytes);
  }

  #blocksOf(bytes: number): number {
    return bytes / this.#base.bdev.blockSizeBytes;
  }
}
