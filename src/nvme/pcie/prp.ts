/**
 * Physical region pages: where the data of a command is, page by page (NVMe base 2.0 §4.1.1). Built from the iovec
 * entries of a request, so that a drive reads and writes the guest's own pages; what cannot be said in this way is for
 * a bounce buffer.
 *
 * The first entry may begin anywhere at a multiple of four; all others begin a page, and all but the last end one.
 */
import { DOUBLE } from '../../base/double.ts';
import type { DmaView } from '../../sys/dma.ts';
import type { IovArena } from '../../sys/iov-arena.ts';

const PAGE_BYTES = 4096;
const TWO_32 = 2 ** 32;

export class PrpBuilder {
  /** The two pointers of the command, as `build` left them. */
  readonly pointers = new Uint32Array(4);
  readonly #dma: DmaView;
  /** Where lists are, by index of a word, and the I/O address of the first one. */
  readonly #lists: Uint32Array;
  readonly #listsIova: number;
  readonly #address = new Uint32Array(2);
  /** While building: entries so far, and where the last one's page ends. */
  #count = 0;
  #nextPage = DOUBLE;
  #end = DOUBLE;

  constructor(dma: DmaView, lists: Uint32Array, listsIova: number) {
    this.#dma = dma;
    this.#lists = lists;
    this.#listsIova = listsIova;
  }

  /**
   * For `lengthBytes` of a list of segments, `skipBytes` from their start, with the PRP list at word `listAt`,
   * which has room for what is asked. False when a device cannot reach them as they are.
   */
  build(
    arena: IovArena,
    first: number,
    count: number,
    skipBytes: number,
    lengthBytes: number,
    listAt: number,
  ): boolean {
    this.#count = 0;
    let toSkip = skipBytes;
    let left = lengthBytes;
    for (let i = first; i < first + count && left > 0; i++) {
      const whole = arena.lengthOf(i);
      if (whole <= toSkip) {
        toSkip -= whole;
        continue;
      }
      const length = Math.min(whole - toSkip, left);
      arena.copyAddress(i, this.#address, 0);
      if (!this.#append(toSkip, length, listAt)) return false;
      left -= length;
      toSkip = 0;
    }
    if (left > 0) return false;
    this.#finish(listAt);
    return true;
  }

  /** For memory of our own, contiguous from an I/O address on. */
  buildContiguous(iova: number, lengthBytes: number, listAt: number): void {
    this.#count = 0;
    this.#begin(iova, listAt);
    this.#extend(iova + lengthBytes, listAt);
    this.#finish(listAt);
  }

  #append(skip: number, length: number, listAt: number): boolean {
    const low = this.#address[0] as number;
    const high = this.#address[1] as number;
    if (!this.#dma.find(low, high, skip + length)) return false;
    const iova = high * TWO_32 + low + skip + this.#dma.shift;
    const offset = iova % PAGE_BYTES;
    if (this.#count === 0) {
      if ((offset & 3) !== 0) return false;
      this.#begin(iova, listAt);
    } else if (iova !== this.#end) {
      if (offset !== 0 || this.#end !== this.#nextPage) return false;
      this.#begin(iova, listAt);
    }
    this.#extend(iova + length, listAt);
    return true;
  }

  /** An entry, and where its page ends. */
  #begin(iova: number, listAt: number): void {
    this.#emit(iova, listAt);
    this.#nextPage = iova - (iova % PAGE_BYTES) + PAGE_BYTES;
  }

  /** Entries for all pages up to `end`. */
  #extend(end: number, listAt: number): void {
    while (this.#nextPage < end) {
      this.#emit(this.#nextPage, listAt);
      this.#nextPage += PAGE_BYTES;
    }
    this.#end = end;
  }

  #emit(iova: number, listAt: number): void {
    const low = iova >>> 0;
    const high = (iova / TWO_32) >>> 0;
    if (this.#count === 0) {
      this.pointers[0] = low;
      this.pointers[1] = high;
    } else {
      const at = listAt + 2 * (this.#count - 1);
      this.#lists[at] = low;
      this.#lists[at + 1] = high;
    }
    this.#count++;
  }

  #finish(listAt: number): void {
    const { pointers } = this;
    if (this.#count <= 1) {
      pointers[2] = 0;
      pointers[3] = 0;
    } else if (this.#count === 2) {
      pointers[2] = this.#lists[listAt] as number;
      pointers[3] = this.#lists[listAt + 1] as number;
    } else {
      const list = this.#listsIova + listAt * 4;
      pointers[2] = list >>> 0;
      pointers[3] = (list / TWO_32) >>> 0;
    }
  }
}
