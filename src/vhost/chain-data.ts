/**
 * The bytes of a descriptor chain: segment lists of its buffers for bdevs, and copies of the few bytes that the device
 * itself reads or writes. Buffers may be cut anywhere, so every position is an offset into the readable or the writable
 * part as a whole.
 */
import { type GuestMemory, NOWHERE, type Window } from '../memory/guest-memory.ts';
import { BUFFER_WORDS, BufferWord, RECORDS, RecordWord } from '../sys/chain-gather.ts';
import { IOV_LONG_ENTRIES, IOV_SHORT_ENTRIES, type IovArena, NO_LIST } from '../sys/iov-arena.ts';
import { type Chain, NO_RECORD } from '../virtio/chain.ts';

/** The arena has no list now: try again when a request has ended. */
export const ARENA_FULL = -2;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const FULL = ARENA_FULL;
const NOT_MAPPED = NOWHERE;
const NONE = NO_LIST;
const SHORT_ENTRIES = IOV_SHORT_ENTRIES;
const LONG_ENTRIES = IOV_LONG_ENTRIES;
const UNRECORDED = NO_RECORD;
const WORDS = RECORDS;
const { buffers: BUFFERS } = RecordWord;
const { length: LENGTH, hostLow: HOST_LOW, hostHigh: HOST_HIGH, window: WINDOW } = BufferWord;
const STEP = BUFFER_WORDS;

export class ChainData {
  /** Set by `map`: the list that was taken, to be released in the arena. */
  list = NONE;
  readonly #memory: GuestMemory;
  readonly #arena: IovArena;

  constructor(memory: GuestMemory, arena: IovArena) {
    this.#memory = memory;
    this.#arena = arena;
  }

  /**
   * Makes the segment list of `length` bytes that start `skip` bytes into descriptor `first`; the chain has them.
   * Returns its entries; `NOWHERE` when the buffers are not in the memory; `ARENA_FULL`.
   */
  map(chain: Chain, first: number, skip: number, length: number): number {
    if (chain.record !== UNRECORDED && this.#mapBuffer(chain, first, skip, length)) return 1;
    const arena = this.#arena;
    const isShort = chain.count <= SHORT_ENTRIES;
    let list = isShort ? arena.takeShort() : arena.takeLong();
    if (list === NONE) return FULL;
    let room = isShort ? SHORT_ENTRIES : LONG_ENTRIES;
    let end = this.#append(chain, first, skip, length, list, list + room);
    if (isShort && end > list + room) {
      // Buffers cross so many region borders that a short list does not do.
      arena.release(list);
      list = arena.takeLong();
      if (list === NONE) return FULL;
      room = LONG_ENTRIES;
      end = this.#append(chain, first, skip, length, list, list + room);
    }
    if (end === NOT_MAPPED || end > list + room) {
      arena.release(list);
      return NOT_MAPPED;
    }
    this.list = list;
    return end - list;
  }

  /**
   * Window that holds the first `length` bytes of buffer `index`, with the memory's `offset` set, or null when they are
   * not all in that buffer, or not in one window.
   */
  locate(chain: Chain, index: number, length: number): Window | null {
    const memory = this.#memory;
    if (chain.record === UNRECORDED) {
      return (chain.lengths[index] as number) < length ? null : memory.locate(chain.addresses, index, 0, length);
    }
    const at = chain.record + BUFFERS + index * STEP;
    if (index >= chain.count || (WORDS[at + LENGTH] as number) < length) return null;
    const window = memory.window(WORDS[at + WINDOW] as number);
    memory.offset = ((WORDS[at + HOST_LOW] as number) - window.hostLow) | 0;
    return window;
  }

  /** Copies `length` bytes that start `skip` bytes into the readable part out of the guest. The chain has them. */
  gather(chain: Chain, skip: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    let toSkip = skip;
    let filled = 0;
    for (let i = 0; i < chain.readableCount && filled < length; i++) {
      const whole = chain.lengths[i] as number;
      if (whole <= toSkip) {
        toSkip -= whole;
        continue;
      }
      const take = Math.min(whole - toSkip, length - filled);
      if (!this.#memory.read(chain.addresses, i, toSkip, target, targetOffset + filled, take)) return false;
      filled += take;
      toSkip = 0;
    }
    return true;
  }

  /** Copies `length` bytes to the place `skip` bytes into the writable part. The chain has room for them. */
  scatter(chain: Chain, skip: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    let toSkip = skip;
    let written = 0;
    for (let i = chain.readableCount; i < chain.count && written < length; i++) {
      const whole = chain.lengths[i] as number;
      if (whole <= toSkip) {
        toSkip -= whole;
        continue;
      }
      const take = Math.min(whole - toSkip, length - written);
      if (!this.#memory.write(chain.addresses, i, toSkip, source, sourceOffset + written, take)) return false;
      written += take;
      toSkip = 0;
    }
    return true;
  }

  /** The short way where all of it is the start of one buffer, whose place is known. False when it is not. */
  #mapBuffer(chain: Chain, first: number, skip: number, length: number): boolean {
    let at = chain.record + BUFFERS + first * STEP;
    let end = first + 1;
    if (skip !== 0) {
      if (WORDS[at + LENGTH] !== skip) return false;
      at += STEP;
      end++;
    }
    if (end > chain.count || (WORDS[at + LENGTH] as number) < length) return false;
    const list = this.#arena.takeShort();
    if (list === NONE) return false;
    this.#arena.setWords(list, WORDS[at + HOST_LOW] as number, WORDS[at + HOST_HIGH] as number, length);
    this.list = list;
    return true;
  }

  #append(chain: Chain, first: number, skip: number, length: number, list: number, listEnd: number): number {
    let entry = list;
    let left = length;
    let toSkip = skip;
    for (let i = first; left > 0; i++) {
      const whole = chain.lengths[i] as number;
      if (whole <= toSkip) {
        toSkip -= whole;
        continue;
      }
      const take = Math.min(whole - toSkip, left);
      entry = this.#memory.appendSegments(chain.addresses, i, toSkip, take, this.#arena, entry, listEnd);
      if (entry === NOT_MAPPED || entry > listEnd) return entry;
      left -= take;
      toSkip = 0;
    }
    return entry;
  }
}
