/**
 * The dirty log of a migration as one thread writes it (QEMU docs/interop/vhost-user.rst, "Migration"): one bit for
 * each page of 4 KiB of guest physical memory, least significant bit first, in memory that the front-end shares. The
 * front-end clears bits as it copies pages, and others set bits of the same bytes.
 */
import { type MappingInfo, MappingViews } from '../sys/mapping.ts';

const PAGE_BYTES = 4096;

export class DirtyLog {
  readonly #bits: Uint8Array;
  readonly #views = new MappingViews();

  constructor(mapping: MappingInfo) {
    this.#bits = new Uint8Array(this.#views.view(mapping, 0, mapping.lengthBytes));
  }

  /**
   * Marks the pages of `[gpa, gpa + length)`, which were written before. Pages beyond the log are not marked: the
   * front-end made it too short for its memory.
   */
  mark(gpa: number, lengthBytes: number): void {
    if (lengthBytes <= 0) return;
    const last = Math.min(Math.floor((gpa + lengthBytes - 1) / PAGE_BYTES), this.#bits.length * 8 - 1);
    for (let page = Math.floor(gpa / PAGE_BYTES); page <= last; page++) {
      // Always the locked operation: it orders the data before the bit, also when the bit is set already and the
      // front-end is about to clear it.
      Atomics.or(this.#bits, page >>> 3, 1 << (page & 7));
    }
  }

  /** Takes back the view. */
  close(): void {
    this.#views.close();
  }
}
