/** The segments of pieces in flight: each has a list of its own, with its part of the request's segments. */
import { IOV_LONG_ENTRIES, IOV_SHORT_ENTRIES, type IovArena, NO_LIST } from '../sys/iov-arena.ts';
import type { BdevIo } from './bdev-io.ts';

export class PieceLists {
  readonly #arena: IovArena;
  /** By slot; `NO_LIST`: it has none. */
  readonly #lists: Int32Array;

  constructor(arena: IovArena, slots: number) {
    this.#arena = arena;
    this.#lists = new Int32Array(slots).fill(NO_LIST);
  }

  /** Gives `piece` `lengthBytes` of the segments of `io` from `skipBytes` on. False when there is no list now. */
  give(slot: number, piece: BdevIo, io: BdevIo, skipBytes: number, lengthBytes: number): boolean {
    const arena = this.#arena;
    const list = io.iovCount <= IOV_SHORT_ENTRIES ? arena.takeShort() : arena.takeLong();
    if (list === NO_LIST) return false;
    this.#lists[slot] = list;
    piece.iovFirst = list;
    piece.iovCount = arena.setPart(list, IOV_LONG_ENTRIES, arena, io.iovFirst, io.iovCount, skipBytes, lengthBytes);
    return true;
  }

  /** The piece is over. It may have had no list. */
  release(slot: number): void {
    const list = this.#lists[slot] as number;
    if (list !== NO_LIST) this.#arena.release(list);
    this.#lists[slot] = NO_LIST;
  }
}
