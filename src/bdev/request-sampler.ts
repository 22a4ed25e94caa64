/**
 * Which requests of a channel are timed, and how many each stands for. While there are many, one in about 32 of each
 * type: two looks at the clock a request would cost a RAM disk a tenth of its rate. While there are few, all.
 *
 * A request is chosen as it comes, before anybody knows how long it takes, and stands for those of its type that came
 * before it: so slow ones count neither more nor less than they are. How many are skipped varies, lest they be in step
 * with a pattern of the guest's.
 */
import { STAMP_NS, stepsBetween } from '../sys/thread.ts';
import { type BdevIo, IoType } from './bdev-io.ts';

const TYPES = Object.keys(IoType).length;
const SKIPPED_MIN = 16;
/** A power of two. */
const SKIPPED_RANGE = 32;
/** Requests from one decision to the next. */
const PER_DECISION = 32;
/** Many: they come faster than so. */
const BUSY_STEPS = (PER_DECISION * 10_000) / STAMP_NS;

export class RequestSampler {
  /** By type: how many requests from here the next one is chosen. */
  readonly #left = new Int32Array(TYPES).fill(1);
  /** By type: how many it will stand for. */
  readonly #weights = new Int32Array(TYPES).fill(1);
  /** By type: how many choices from here it is decided anew whether there are many, and when that was done last. */
  readonly #decisionIn = new Int32Array(TYPES).fill(PER_DECISION);
  readonly #decided = new Int32Array(TYPES);
  readonly #isBusy = new Uint8Array(TYPES);
  #random = 1;

  /** Counts a request. True when it is to be timed. */
  isChosen(type: IoType): boolean {
    const left = (this.#left[type] as number) - 1;
    this.#left[type] = left;
    return left <= 0;
  }

  /** A chosen request begins at `stamp`. */
  begin(io: BdevIo, stamp: number): void {
    const { type } = io;
    io.stamp = stamp;
    io.weight = this.#weights[type] as number;
    const decisionIn = (this.#decisionIn[type] as number) - 1;
    this.#decisionIn[type] = decisionIn;
    if (decisionIn <= 0) this.#decide(type, stamp);
    const next = this.#isBusy[type] === 1 ? this.#skip() : 1;
    this.#left[type] = next;
    this.#weights[type] = next;
  }

  #decide(type: IoType, stamp: number): void {
    const isBusy = stepsBetween(this.#decided[type] as number, stamp) < BUSY_STEPS;
    this.#isBusy[type] = isBusy ? 1 : 0;
    this.#decided[type] = stamp;
    this.#decisionIn[type] = isBusy ? 1 : PER_DECISION;
  }

  #skip(): number {
    this.#random = (Math.imul(this.#random, 1_664_525) + 1_013_904_223) | 0;
    return SKIPPED_MIN + 1 + ((this.#random >>> 16) & (SKIPPED_RANGE - 1));
  }
}
