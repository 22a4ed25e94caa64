/**
 * First-fit allocation of byte ranges. For the control side of the initiator: the load generator allocates only at
 * start.
 */
import { assert } from '../base/assert.ts';

interface Range {
  start: number;
  end: number;
}

export class RangeAllocator {
  /** Free ranges, ascending and never adjacent. */
  #free: Range[];
  readonly #sizeOf = new Map<number, number>();

  constructor(start: number, end: number) {
    this.#free = [{ start, end }];
  }

  /** First byte of a free range of `sizeBytes`, or -1. The range is taken until `release`. */
  take(sizeBytes: number, alignment: number): number {
    assert(sizeBytes > 0 && alignment > 0, 'a range has a size and an alignment');
    for (let i = 0; i < this.#free.length; i++) {
      const { start, end } = this.#free[i] as Range;
      const first = Math.ceil(start / alignment) * alignment;
      if (first + sizeBytes > end) continue;
      const rest: Range[] = [];
      if (first > start) rest.push({ start, end: first });
      if (first + sizeBytes < end) rest.push({ start: first + sizeBytes, end });
      this.#free.splice(i, 1, ...rest);
      this.#sizeOf.set(first, sizeBytes);
      return first;
    }
    return -1;
  }

  /** Gives back a range by its first byte. False when it was not taken from here. */
  release(start: number): boolean {
    const size = this.#sizeOf.get(start);
    if (size === undefined) return false;
    this.#sizeOf.delete(start);
    const at = this.#free.findIndex((range) => range.start > start);
    const range = { start, end: start + size };
    this.#free.splice(at === -1 ? this.#free.length : at, 0, range);
    this.#mergeAround(this.#free.indexOf(range));
    return true;
  }

  #mergeAround(index: number): void {
    const range = this.#free[index] as Range;
    const next = this.#free[index + 1];
    if (next !== undefined && next.start === range.end) {
      range.end = next.end;
      this.#free.splice(index + 1, 1);
    }
    const before = this.#free[index - 1];
    if (before !== undefined && before.end === range.start) {
      before.end = range.end;
      this.#free.splice(index, 1);
    }
  }
}
