/**
 * What the controller's thread and the reactors share of a queue pair: where its parts are in DMA memory, and a few
 * words of state. Queue 0 is the admin queue's.
 *
 * The controller's thread brings queues up and down. A channel that finds its queue down touches it no more, holds its
 * requests, and goes on when it is up again, with what was in flight driven once more.
 */
import { type MappingInfo, MappingViews } from '../../sys/mapping.ts';
import { COMMAND_BYTES, COMPLETION_BYTES } from '../command.ts';

export const PAGE_BYTES = 4096;
/** A command identifier is a slot, and above it how often the slot was used: stale completions are known by it. */
export const QUEUE_ENTRIES_MAX = 256;
/** PRP list of a command: as many pages as the largest transfer has. */
export const LIST_BYTES = 1024;
export const TRANSFER_BYTES_MAX = (LIST_BYTES / 8) * PAGE_BYTES;

export interface QueueLayout {
  readonly completions: number;
  readonly lists: number;
  readonly bounces: number;
  readonly bytes: number;
}

/** Offsets of a queue's parts from its submission queue. */
export function queueLayout(entries: number, bounceBytes: number): QueueLayout {
  const wholePages = (bytes: number): number => Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
  const completions = wholePages(entries * COMMAND_BYTES);
  const lists = completions + wholePages(entries * COMPLETION_BYTES);
  const bounces = lists + wholePages(entries * LIST_BYTES);
  return { completions, lists, bounces, bytes: bounces + bounceBytes };
}

/** Values of a queue's state; a positive one says that it is up, and for the how-manieth time. */
export const QueueState = { down: 0, failed: -1, gone: -2 } as const;

const HEADER_WORDS = 16;
export const TICK_WORD = 0;
const TICKS = 0xffff;
const WORDS_A_QUEUE = 16 + QUEUE_ENTRIES_MAX;

/** Words of a queue. */
const Word = { owner: 0, state: 1, busy: 2, stale: 3, place: 4, issued: 16 } as const;

export function sharedStateBytes(queues: number): number {
  return (HEADER_WORDS + queues * WORDS_A_QUEUE) * 4;
}

/** The words of all queues of a controller. */
export class SharedState {
  readonly words: Int32Array;
  readonly #views = new MappingViews();

  constructor(memory: MappingInfo) {
    this.words = new Int32Array(this.#views.view(memory, 0, memory.lengthBytes));
  }

  /** Takes a queue that nobody has, of `1` to `count`. Returns 0 when there is none. */
  takeQueue(count: number): number {
    for (let queue = 1; queue <= count; queue++) {
      if (Atomics.compareExchange(this.words, at(queue, Word.owner), 0, 1) === 0) return queue;
    }
    return 0;
  }

  releaseQueue(queue: number): void {
    Atomics.store(this.words, at(queue, Word.owner), 0);
  }

  isTaken(queue: number): boolean {
    return Atomics.load(this.words, at(queue, Word.owner)) !== 0;
  }

  stateOf(queue: number): number {
    return Atomics.load(this.words, at(queue, Word.state));
  }

  setState(queue: number, state: number): void {
    Atomics.store(this.words, at(queue, Word.state), state);
  }

  /** Whether a channel touches the queue, or may. */
  isBusy(queue: number): boolean {
    return Atomics.load(this.words, at(queue, Word.busy)) !== 0;
  }

  /**
   * Said before a queue is used, which may be done if its state is still the expected one afterwards: a full fence
   * between the two, as there is between `setState` and `isBusy` on the other side.
   */
  setBusy(queue: number, isBusy: boolean): void {
    Atomics.store(this.words, at(queue, Word.busy), isBusy ? 1 : 0);
  }

  /**
   * Four words in which a user of the queue leaves to the next one where it stands: the state that it had, the tail of
   * the submission queue, the head of the completion queue and its phase.
   */
  placeAt(queue: number): number {
    return at(queue, Word.place);
  }

  /** A completion came for a command that is not there. */
  countStale(queue: number): void {
    this.words[at(queue, Word.stale)] = (this.words[at(queue, Word.stale)] as number) + 1;
  }

  staleOf(queue: number): number {
    return this.words[at(queue, Word.stale)] as number;
  }

  /** The controller's clock: 16 bits, never 0. */
  get tick(): number {
    return this.words[TICK_WORD] as number;
  }

  advance(): void {
    this.words[TICK_WORD] = (this.tick % TICKS) + 1;
  }

  /** Ticks since a command was issued whose word is given. */
  ageOf(issued: number): number {
    return (this.tick - (issued >>> 16) + TICKS) % TICKS;
  }

  /** Word of the command in slot 0: when it was issued, and its identifier; 0 when there is none. */
  issuedAt(queue: number): number {
    return at(queue, Word.issued);
  }

  close(): void {
    this.#views.close();
  }
}

function at(queue: number, word: number): number {
  return HEADER_WORDS + queue * WORDS_A_QUEUE + word;
}
