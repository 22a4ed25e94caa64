/**
 * Which parts of a RAM disk were written while its memory is copied (handed-memory.ts): one byte each, which reactors
 * set and the main thread takes away.
 */

/** The smallest part; of a large disk they are larger, so that there are at most so many. */
const PART_BYTES_MIN = 4096;
const PARTS_MAX = 2 ** 22;
const HEAD_BYTES = 8;

export class WrittenBlocks {
  readonly memory: SharedArrayBuffer;
  readonly partBytes: number;
  readonly #parts: Uint8Array;

  constructor(memory: SharedArrayBuffer) {
    this.memory = memory;
    this.partBytes = new Float64Array(memory, 0, 1)[0] as number;
    this.#parts = new Uint8Array(memory, HEAD_BYTES);
  }

  /** Of a disk of this size: nothing was written. */
  static of(sizeBytes: number): WrittenBlocks {
    let partBytes = PART_BYTES_MIN;
    while (partBytes * PARTS_MAX < sizeBytes) partBytes *= 2;
    const memory = new SharedArrayBuffer(HEAD_BYTES + Math.ceil(sizeBytes / partBytes));
    new Float64Array(memory, 0, 1)[0] = partBytes;
    return new WrittenBlocks(memory);
  }

  get partCount(): number {
    return this.#parts.length;
  }

  /** Bytes of the disk have changed. */
  note(offsetBytes: number, lengthBytes: number): void {
    if (lengthBytes === 0) return;
    const last = Math.floor((offsetBytes + lengthBytes - 1) / this.partBytes);
    for (let part = Math.floor(offsetBytes / this.partBytes); part <= last; part++) Atomics.store(this.#parts, part, 1);
  }

  /** How many parts were written and not taken. */
  count(): number {
    let count = 0;
    for (const part of this.#parts) count += part;
    return count;
  }

  /** The first part from `from` on that was written; `partCount` when there is none. */
  next(from: number): number {
    const found = this.#parts.indexOf(1, from);
    return found < 0 ? this.#parts.length : found;
  }

  /** Takes the mark of a part away; false when it has none. */
  take(part: number): boolean {
    return part < this.#parts.length && Atomics.exchange(this.#parts, part, 0) === 1;
  }
}
