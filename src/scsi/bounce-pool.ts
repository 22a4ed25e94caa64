/**
 * Memory of the target's own, for commands that must look at data (VERIFY, COMPARE AND WRITE) or multiply it (WRITE
 * SAME). A reactor has one pool; when it is empty, commands wait for a buffer in the order in which they came.
 */
import { assert } from '../base/assert.ts';
import type { BdevIo } from '../bdev/bdev-io.ts';
import { type IovArena, NO_LIST } from '../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../sys/mapping.ts';

/** One buffer: the longest COMPARE AND WRITE, 255 blocks of 512 bytes, twice over. */
const BOUNCE_BYTES = 256 * 1024;
const BUFFERS = 8;

export const NO_BOUNCE = -1;

/** A command that waits. */
export interface BounceWaiter {
  bounceReady(index: number): void;
}

export class BouncePool {
  readonly bytesEach: number;
  readonly #arena: IovArena;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();
  readonly #buffers: Uint8Array[] = [];
  /** By buffer: the one-entry segment list that describes it. */
  readonly #lists: number[] = [];
  readonly #free: number[] = [];
  #waiting: BounceWaiter[] = [];
  #isServing = false;

  constructor(arena: IovArena, buffers = BUFFERS, bytesEach = BOUNCE_BYTES) {
    this.bytesEach = bytesEach;
    this.#arena = arena;
    this.#memory = Mapping.anonymous(buffers * bytesEach);
    for (let i = 0; i < buffers; i++) {
      const list = arena.takeShort();
      assert(list !== NO_LIST, 'the arena has lists for bounce buffers');
      this.#lists.push(list);
      this.#buffers.push(new Uint8Array(this.#views.view(this.#memory, i * bytesEach, bytesEach)));
      this.#free.push(i);
    }
  }

  /** A buffer, or `NO_BOUNCE`: then `waiter` is called with one later, unless it gives up. */
  take(waiter: BounceWaiter): number {
    const index = this.#waiting.length === 0 ? this.#free.pop() : undefined;
    if (index !== undefined) return index;
    this.#waiting.push(waiter);
    return NO_BOUNCE;
  }

  /** The waiter does not want one any more. */
  giveUp(waiter: BounceWaiter): void {
    this.#waiting = this.#waiting.filter((other) => other !== waiter);
  }

  release(index: number): void {
    this.#free.push(index);
    // Commands that end at once give their buffer back in here: one loop, however many wait.
    if (this.#isServing) return;
    this.#isServing = true;
    while (this.#waiting.length > 0) {
      const free = this.#free.pop();
      if (free === undefined) break;
      (this.#waiting.shift() as BounceWaiter).bounceReady(free);
    }
    this.#isServing = false;
  }

  bytes(index: number): Uint8Array {
    return this.#buffers[index] as Uint8Array;
  }

  /** Makes the first bytes of a buffer the segments of a request. */
  describe(index: number, io: BdevIo, lengthBytes: number): void {
    assert(lengthBytes <= this.bytesEach, 'a request fits its bounce buffer');
    const list = this.#lists[index] as number;
    this.#arena.set(list, this.#memory.address + index * this.bytesEach, lengthBytes);
    io.iovFirst = list;
    io.iovCount = 1;
  }

  /** No command holds a buffer. */
  close(): void {
    assert(this.#free.length === this.#buffers.length, 'bounce buffers are back when the pool is closed');
    for (const list of this.#lists) this.#arena.release(list);
    this.#views.close();
    this.#memory.close();
  }
}
