/**
 * The channel of a stacked bdev that carries out requests in pieces: each piece is a request below, with something of
 * its own while it is in flight (a buffer, a segment list), of which there is only so much. Requests that wait for it
 * get it in turns, so that a large one does not hold up small ones.
 */
import type { BdevDescription, ChannelContext } from './bdev.ts';
import { type BaseChannel, type BdevIo, IoStatus, NO_WAKE_FD, WOKEN_FROM_BELOW } from './bdev-io.ts';
import { NO_TAG, StackedChannel } from './stacked-channel.ts';

/** Of `preparePiece`: not now. */
export const NO_ROOM = -1;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { success: SUCCESS } = IoStatus;

/** A request that is carried out in pieces. Pooled. */
class Job {
  io: BdevIo | null = null;
  /** What `preparePiece` makes of it. */
  progress = 0;
  end = 0;
  /** In flight. */
  pieces = 0;
  isWaiting = false;
  status: IoStatus = SUCCESS;
}

export abstract class PiecewiseChannel extends StackedChannel {
  /** While something waits for what others give back, nothing below wakes it. */
  override wakeFd: number = WOKEN_FROM_BELOW;
  wake: () => void = () => {};
  /** By slot: whose piece is in it. */
  readonly #jobs: (Job | null)[];
  readonly #freeSlots: number[];
  readonly #idleJobs: Job[] = [];
  /** Jobs that have more pieces to send. */
  readonly #waiting: Job[] = [];
  #pieces = 0;
  #isSending = false;

  /** `slots`: pieces in flight at a time. */
  constructor(description: BdevDescription, context: ChannelContext, slots: number) {
    super(description, context);
    this.#jobs = Array.from({ length: slots }, () => null);
    this.#freeSlots = Array.from({ length: slots }, (_, i) => slots - 1 - i);
  }

  /** Carries out a request in pieces, until they have brought its progress from 0 to `end`. */
  protected start(io: BdevIo, end: number): void {
    const job = this.#idleJobs.pop() ?? new Job();
    job.io = io;
    job.progress = 0;
    job.end = end;
    job.status = SUCCESS;
    if (end === 0) {
      this.#end(job);
      return;
    }
    job.isWaiting = true;
    this.#waiting.push(job);
    this.#send();
  }

  /**
   * Makes `below` the next piece of `io`, which has come to `progress`, with what is of `slot`. `below` is as `io` is
   * in all that is not set. Returns the progress after it, or `NO_ROOM`.
   */
  protected abstract preparePiece(io: BdevIo, progress: number, slot: number, below: BdevIo): number;

  /** Which base the piece that was prepared is for. */
  protected pieceBase = 0;

  /** Sends it. Its end is told by `below.complete`. */
  protected submitPiece(below: BdevIo): void {
    (this.bases[this.pieceBase] as BaseChannel).submit(below);
  }

  /** Something besides pieces waits, and nothing below wakes it. */
  protected get isStalled(): boolean {
    return false;
  }

  /** A piece is over: what is of its slot can be used again. */
  protected abstract pieceOver(slot: number): void;

  protected override baseDone(io: BdevIo, status: IoStatus, tag: number): void {
    if (tag === NO_TAG) io.complete(status);
    else this.#pieceDone(tag, status);
  }

  override poll(): number {
    if (this.#waiting.length > 0) this.#send();
    return 0;
  }

  #send(): void {
    // A piece may end while it is sent: whoever sends goes on.
    if (this.#isSending) return;
    this.#isSending = true;
    while (this.#waiting.length > 0 && this.#freeSlots.length > 0) {
      if (!this.#sendPiece(this.#waiting[0] as Job, this.#freeSlots.at(-1) as number)) break;
    }
    this.#isSending = false;
    this.settleWake();
  }

  /** After what `isStalled` says has changed. */
  protected settleWake(): void {
    const isWaiting = (this.#waiting.length > 0 && this.#pieces === 0) || this.isStalled;
    this.wakeFd = isWaiting ? NO_WAKE_FD : WOKEN_FROM_BELOW;
    if (isWaiting) this.wake();
  }

  #sendPiece(job: Job, slot: number): boolean {
    const io = job.io as BdevIo;
    const below = this.below(io);
    below.tag = slot;
    const progress = this.preparePiece(io, job.progress, slot, below);
    if (progress === NO_ROOM) {
      this.giveBack(below);
      return false;
    }
    this.#freeSlots.pop();
    this.#jobs[slot] = job;
    this.#pieces++;
    job.pieces++;
    job.progress = progress;
    job.isWaiting = progress < job.end;
    this.#waiting.shift();
    if (job.isWaiting) this.#waiting.push(job);
    this.submitPiece(below);
    return true;
  }

  #pieceDone(slot: number, status: IoStatus): void {
    const job = this.#jobs[slot] as Job;
    this.#jobs[slot] = null;
    this.pieceOver(slot);
    this.#freeSlots.push(slot);
    this.#pieces--;
    job.pieces--;
    if (status !== SUCCESS) this.#giveUp(job, status);
    if (job.pieces === 0 && !job.isWaiting) this.#end(job);
    this.#send();
  }

  /** Nobody wants the rest of a request that failed. */
  #giveUp(job: Job, status: IoStatus): void {
    job.status = status;
    if (!job.isWaiting) return;
    job.isWaiting = false;
    this.#waiting.splice(this.#waiting.indexOf(job), 1);
  }

  #end(job: Job): void {
    const io = job.io as BdevIo;
    job.io = null;
    this.#idleJobs.push(job);
    io.complete(job.status);
  }
}
