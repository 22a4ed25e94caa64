/**
 * An image's channel: requests go to librbd in one batch a round, with the guest's own buffers, and librbd's threads
 * put what completed on a stack that is taken as a whole. Those threads want the cores of this machine: a reactor does
 * not spin while they work (`sharesCores`), it is woken by an eventfd.
 */
import { Errno } from '../../../base/errors.ts';
import type { IovArena } from '../../../sys/iov-arena.ts';
import { RbdQueue, RbdRequest } from '../../../sys/rbd.ts';
import type { BdevDescription, ChannelContext, PlainParams } from '../../bdev.ts';
import { type BdevIo, type GuestIoType, type IoChannel, IoStatus, IoType } from '../../bdev-io.ts';

/** What a reactor needs to know of an image. */
export interface RbdChannelParams extends PlainParams {
  /** Open for as long as the bdev is there. */
  readonly image: number;
}

/** Requests in librbd; more wait for a place. */
const SLOTS = 1024;

const REQUEST_OF = {
  [IoType.read]: RbdRequest.read,
  [IoType.write]: RbdRequest.write,
  [IoType.flush]: RbdRequest.flush,
  [IoType.unmap]: RbdRequest.discard,
  [IoType.writeZeroes]: RbdRequest.writeZeroes,
} as const;

export class RbdChannel implements IoChannel {
  readonly sharesCores = true;
  readonly wakeFd: number;
  readonly #arena: IovArena;
  readonly #blockSizeBytes: number;
  readonly #queue: RbdQueue;
  /** By slot: the request, where it starts in the image, its length. */
  readonly #ios: (BdevIo | null)[] = Array.from({ length: SLOTS }, () => null);
  readonly #offsets = new Float64Array(SLOTS);
  readonly #lengths = new Float64Array(SLOTS);
  readonly #free = Int32Array.from({ length: SLOTS }, (_, i) => SLOTS - 1 - i);
  #freeCount = SLOTS;
  /** Requests that wait for a slot. */
  #waiting: BdevIo[] = [];

  constructor(description: BdevDescription, context: ChannelContext) {
    this.#arena = context.arena;
    this.#blockSizeBytes = description.blockSizeBytes;
    this.#queue = new RbdQueue((description.params as RbdChannelParams).image, SLOTS);
    this.wakeFd = this.#queue.wakeFd;
  }

  submit(io: BdevIo): void {
    if (io.lengthBytes === 0 && io.type !== IoType.flush) io.complete(IoStatus.success);
    else if (this.#freeCount === 0 || this.#waiting.length > 0) this.#waiting.push(io);
    else this.#start(io);
  }

  poll(): number {
    const count = this.#queue.run();
    for (let i = 0; i < count; i++) this.#end(this.#queue.slot(i), this.#queue.result(i));
    if (count > 0 && this.#waiting.length > 0) this.#startWaiting();
    return count;
  }

  arm(): boolean {
    return this.#queue.arm();
  }

  disarm(): void {
    this.#queue.disarm();
  }

  /** What is in a cache of librbd's is written when the lock is let go of. */
  letGo(): void {}

  update(): void {}

  close(): void {
    this.#queue.close();
  }

  #start(io: BdevIo): void {
    const slot = this.#free[--this.#freeCount] as number;
    this.#ios[slot] = io;
    this.#offsets[slot] = io.offsetBlocks * this.#blockSizeBytes;
    this.#lengths[slot] = io.lengthBytes;
    const { iovFirst, iovCount } = io;
    this.#queue.add(
      slot,
      REQUEST_OF[io.type as GuestIoType],
      this.#offsets,
      this.#lengths,
      this.#arena,
      iovFirst,
      iovCount,
    );
  }

  #end(slot: number, result: number): void {
    const io = this.#ios[slot] as BdevIo;
    this.#ios[slot] = null;
    this.#free[this.#freeCount++] = slot;
    // A read ends short where the image was cut under us.
    const isWhole = result >= (io.type === IoType.read ? (this.#lengths[slot] as number) : 0);
    io.complete(isWhole ? IoStatus.success : statusOf(result));
  }

  #startWaiting(): void {
    const waiting = this.#waiting;
    const count = Math.min(waiting.length, this.#freeCount);
    this.#waiting = waiting.slice(count);
    for (let i = 0; i < count; i++) this.#start(waiting[i] as BdevIo);
  }
}

/** An object that is not there reads as zeroes: ENOENT means that the pool, or the image itself, was removed. */
function statusOf(result: number): IoStatus {
  return result === Errno.ENOENT ? IoStatus.gone : IoStatus.failed;
}
