/**
 * A file's channel: an io_uring of its own, driven from this thread. Requests go to the kernel as they are, on the
 * guest's own buffers, with one system call a round; completions are read from the ring.
 *
 * A file in the page cache or in memory is first asked for what it has at hand, in one call for all requests of a
 * round: there io_uring would hand every request to a worker thread. What would have to wait goes to the ring.
 *
 * A request whose buffers cannot be used as they are, or that the kernel cut short, goes on through a bounce buffer, in
 * pieces. Whatever happens, it ends: success, or a failure that its guest sees.
 */
import { Errno } from '../../../base/errors.ts';
import { TransferBatch } from '../../../sys/disk-file.ts';
import { IoUring } from '../../../sys/io-uring.ts';
import type { IovArena } from '../../../sys/iov-arena.ts';
import type { BdevDescription, ChannelContext, PlainParams } from '../../bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType } from '../../bdev-io.ts';
import { BOUNCE_BYTES, BounceBuffers, NO_BOUNCE } from '../bounce-buffers.ts';

/** What a reactor needs to know of a file. */
export interface FileChannelParams extends PlainParams {
  /** Open for as long as the bdev is there. */
  readonly fd: number;
  /** Opened with O_DIRECT. */
  readonly isDirect: boolean;
  /** What O_DIRECT wants of addresses, and of offsets and lengths: powers of two, 1 without it. */
  readonly memoryAlignment: number;
  readonly offsetAlignment: number;
  readonly isBlockDevice: boolean;
  /** The file lives in memory, and no swap can make it wait. */
  readonly isAtHand: boolean;
  readonly isPolled: boolean;
  /** -1: none. */
  readonly sqPollCore: number;
}

/** Requests in the ring; more wait for a place. */
const SLOTS = 512;
/** Longer requests go in pieces: the most that one system call transfers (MAX_RW_COUNT) is little more. */
const WHOLE_BYTES_MAX = 1 << 30;
/** Entries of one READV or WRITEV (UIO_MAXIOV). */
const IOVS_MAX = 1024;
/** Longer requests are left to the kernel's workers: copying them here would keep the others waiting. */
const NOW_BYTES_MAX = 1 << 20;
/** Times that the kernel may ask to try again, once a round, before a request fails. */
const RETRIES_MAX = 250;

/** fallocate(2): the size of the file stays. */
const PUNCH_HOLE = 0x03;
const ZERO_RANGE = 0x11;

/** Ways to discard and to zero, tried in this order until one is supported. The last ones always are. */
const Way = { discard: 0, punchHole: 1, nothing: 2, zeroRange: 3, punchZeroes: 4, writeZeroes: 5 } as const;

/** Steps of a slot. */
const NONE = 0;

export class FileChannel implements IoChannel {
  readonly wakeFd: number;
  readonly #arena: IovArena;
  readonly #blockSizeBytes: number;
  /** Direct writes to a file system are ended by a thread of the kernel (Linux up to 6.18), others by an interrupt. */
  readonly #areWritesEndedLate: boolean;
  readonly #memoryMask: number;
  readonly #offsetMask: number;
  readonly #ring: IoUring;
  /** For what a polled ring cannot do: flush, discard and zeroes. Else the same ring. */
  readonly #plain: IoUring;
  #bounces: BounceBuffers | null = null;

  /** By slot: the request, where it starts in the file, its length, its finished bytes, … */
  readonly #ios: (BdevIo | null)[] = Array.from({ length: SLOTS }, () => null);
  readonly #offset = new Float64Array(SLOTS);
  readonly #length = new Float64Array(SLOTS);
  readonly #done = new Float64Array(SLOTS);
  /** … its bounce buffer, the way in which its range is treated, how often it was tried again. */
  readonly #bounce = new Int32Array(SLOTS).fill(NO_BOUNCE);
  readonly #way = new Uint8Array(SLOTS);
  readonly #retries = new Uint8Array(SLOTS);
  readonly #free = new Int32Array(SLOTS);
  #freeCount = SLOTS;
  /** Requests that wait for a slot; slots that wait for a bounce buffer, and those to try again in the next round. */
  #waiting: BdevIo[] = [];
  #bounceWaiting: number[] = [];
  #again: number[] = [];

  /** Requests of this round that may be answered at once, and the list of the round before: they change places. */
  #batch: TransferBatch | null;
  #spare: TransferBatch | null;
  #batched = new Int32Array(SLOTS);
  #spareBatched = new Int32Array(SLOTS);
  #canReadNow: boolean;
  #canWriteNow: boolean;

  #discardWay: number;
  #zeroWay: number = Way.zeroRange;
  #ended = 0;
  #writes = 0;

  constructor(description: BdevDescription, context: ChannelContext) {
    const params = description.params as FileChannelParams;
    this.#arena = context.arena;
    this.#blockSizeBytes = description.blockSizeBytes;
    this.#areWritesEndedLate = params.isDirect && !params.isBlockDevice;
    this.#memoryMask = params.memoryAlignment - 1;
    this.#offsetMask = params.offsetAlignment - 1;
    this.#discardWay = params.isBlockDevice ? Way.discard : Way.punchHole;
    const sqPollCore = params.sqPollCore < 0 ? undefined : params.sqPollCore;
    this.#ring = new IoUring(params.fd, { entries: SLOTS, ioPoll: params.isPolled, sqPollCore });
    this.#plain = params.isPolled ? new IoUring(params.fd, { entries: SLOTS }) : this.#ring;
    this.wakeFd = this.#ring.wakeFd;
    this.#batch = params.isDirect ? null : new TransferBatch(params.fd, SLOTS, params.isAtHand);
    this.#spare = params.isDirect ? null : new TransferBatch(params.fd, SLOTS, params.isAtHand);
    this.#canReadNow = !params.isDirect;
    this.#canWriteNow = !params.isDirect;
    for (let i = 0; i < SLOTS; i++) this.#free[i] = SLOTS - 1 - i;
  }

  submit(io: BdevIo): void {
    if (this.#freeCount === 0 || this.#waiting.length > 0) this.#waiting.push(io);
    else this.#start(io);
  }

  poll(): number {
    this.#ended = 0;
    if (this.#again.length > 0) this.#tryAgain();
    if (this.#batch !== null && this.#batch.count > 0) this.#runBatch(this.#batch);
    this.#reap(this.#ring);
    if (this.#plain !== this.#ring) this.#reap(this.#plain);
    if (this.#waiting.length > 0) this.#startWaiting();
    return this.#ended;
  }

  /** That thread is on this core as a rule, where it waits for whoever spins. */
  rest(timeoutNs: number): number {
    return this.#writes > 0 && this.#areWritesEndedLate ? this.#ring.wait(timeoutNs) : 0;
  }

  arm(): boolean {
    const isDue = this.#again.length > 0 || (this.#batch !== null && this.#batch.count > 0);
    return this.#ring.arm() || isDue;
  }

  disarm(): void {
    this.#ring.disarm();
  }

  update(): void {}

  close(): void {
    this.#ring.close();
    if (this.#plain !== this.#ring) this.#plain.close();
    this.#bounces?.close();
  }

  #start(io: BdevIo): void {
    const slot = this.#free[--this.#freeCount] as number;
    this.#ios[slot] = io;
    if (io.type === IoType.write) this.#writes++;
    this.#offset[slot] = io.offsetBlocks * this.#blockSizeBytes;
    this.#length[slot] = io.lengthBytes;
    this.#done[slot] = 0;
    this.#way[slot] = NONE;
    this.#retries[slot] = 0;
    if (io.type === IoType.read) this.#transfer(slot, io, this.#canReadNow);
    else if (io.type === IoType.write) this.#transfer(slot, io, this.#canWriteNow);
    else if (io.type === IoType.flush) this.#plain.dataSync(slot);
    else if (io.lengthBytes === 0) this.#end(slot, IoStatus.success);
    else this.#range(slot, io, io.type === IoType.unmap ? this.#discardWay : this.#zeroWay);
  }

  #transfer(slot: number, io: BdevIo, isNow: boolean): void {
    const { iovFirst, iovCount } = io;
    const arena = this.#arena;
    const canUse = iovCount > 0 && iovCount <= IOVS_MAX && (this.#length[slot] as number) <= WHOLE_BYTES_MAX;
    // A small integer from here on: it is handed around without being boxed.
    const length = (this.#length[slot] as number) | 0;
    if (!canUse || !arena.fits(iovFirst, iovCount, length, this.#memoryMask, this.#offsetMask)) {
      this.#transferPiece(slot, io);
      return;
    }
    const isWrite = io.type === IoType.write;
    const batch = this.#batch;
    if (isNow && batch !== null && batch.count < batch.capacity && length <= NOW_BYTES_MAX) {
      this.#batched[batch.count] = slot;
      batch.add(isWrite, this.#offset, slot, arena, iovFirst, iovCount);
    } else {
      this.#ring.transfer(isWrite, slot, this.#offset, arena, iovFirst, iovCount, length);
    }
  }

  /** The next bytes of a transfer, through a bounce buffer. */
  #transferPiece(slot: number, io: BdevIo): void {
    const done = this.#done[slot] as number;
    const length = Math.min((this.#length[slot] as number) - done, BOUNCE_BYTES);
    if (length === 0) {
      this.#end(slot, IoStatus.success);
      return;
    }
    this.#bounces ??= new BounceBuffers();
    if (this.#bounce[slot] === NO_BOUNCE) this.#bounce[slot] = this.#bounces.take();
    const bounce = this.#bounce[slot] as number;
    if (bounce === NO_BOUNCE) {
      this.#bounceWaiting.push(slot);
      return;
    }
    const isWrite = io.type === IoType.write;
    if (isWrite) this.#bounces.gather(bounce, this.#arena, io.iovFirst, io.iovCount, done, length);
    const offset = (this.#offset[slot] as number) + done;
    this.#ring.transferBuffer(isWrite, slot, offset, this.#bounces.addressOf(bounce), length);
  }

  /** Discards or zeroes the range of a request. */
  #range(slot: number, io: BdevIo, way: number): void {
    const offset = this.#offset[slot] as number;
    this.#way[slot] = way;
    if (way === Way.discard) this.#plain.discard(slot, offset, io.lengthBytes);
    else if (way === Way.punchHole || way === Way.punchZeroes) {
      this.#plain.allocate(slot, PUNCH_HOLE, offset, io.lengthBytes);
    } else if (way === Way.zeroRange) this.#plain.allocate(slot, ZERO_RANGE, offset, io.lengthBytes);
    else if (way === Way.nothing) this.#end(slot, IoStatus.success);
    else this.#writeZeroes(slot);
  }

  #writeZeroes(slot: number): void {
    this.#bounces ??= new BounceBuffers();
    const done = this.#done[slot] as number;
    const length = Math.min((this.#length[slot] as number) - done, BOUNCE_BYTES);
    const offset = (this.#offset[slot] as number) + done;
    this.#ring.transferBuffer(true, slot, offset, this.#bounces.zeroesAddress, length);
  }

  #runBatch(batch: TransferBatch): void {
    batch.run();
    // Completing may submit more: those belong to the next round.
    const batched = this.#batched;
    this.#batch = this.#spare;
    this.#spare = batch;
    this.#batched = this.#spareBatched;
    this.#spareBatched = batched;
    for (let i = 0; i < batch.count; i++) {
      const slot = batched[i] as number;
      const io = this.#ios[slot] as BdevIo;
      const result = batch.result(i);
      if (result === this.#length[slot]) {
        this.#end(slot, IoStatus.success);
      } else if (result === Errno.EAGAIN || result === Errno.ENOTSUP) {
        if (result === Errno.ENOTSUP && io.type === IoType.write) this.#canWriteNow = false;
        if (result === Errno.ENOTSUP && io.type === IoType.read) this.#canReadNow = false;
        this.#transfer(slot, io, false);
      } else {
        this.#transferred(slot, io, result);
      }
    }
    batch.count = 0;
  }

  #reap(ring: IoUring): void {
    ring.enter();
    for (let slot = ring.next(); slot >= 0; slot = ring.next()) {
      const io = this.#ios[slot] as BdevIo;
      const result = ring.result;
      if (result === Errno.EAGAIN || result === Errno.EINTR) this.#retry(slot);
      else if (io.type === IoType.read || io.type === IoType.write) this.#transferred(slot, io, result);
      else if (io.type === IoType.flush) this.#end(slot, statusOf(result));
      else this.#rangeEnded(slot, io, result);
    }
  }

  /** So many bytes of a read or write are there, or it failed. */
  #transferred(slot: number, io: BdevIo, result: number): void {
    const before = this.#done[slot] as number;
    const wanted = (this.#length[slot] as number) - before;
    // What O_DIRECT cannot go on from is done once more.
    const moved = result >= wanted ? wanted : result - (result & this.#offsetMask);
    // No bytes: the end of the file, which somebody cut under us.
    if (moved <= 0) {
      this.#end(slot, result < 0 ? statusOf(result) : IoStatus.failed);
      return;
    }
    const bounce = this.#bounce[slot] as number;
    if (bounce !== NO_BOUNCE && io.type === IoType.read) {
      (this.#bounces as BounceBuffers).scatter(bounce, this.#arena, io.iovFirst, io.iovCount, before, moved);
    }
    this.#done[slot] = before + moved;
    if (moved === wanted) this.#end(slot, IoStatus.success);
    else this.#transferPiece(slot, io);
  }

  #rangeEnded(slot: number, io: BdevIo, result: number): void {
    const way = this.#way[slot] as number;
    if (way === Way.writeZeroes) {
      if (result <= 0) {
        this.#end(slot, result < 0 ? statusOf(result) : IoStatus.failed);
        return;
      }
      this.#done[slot] = (this.#done[slot] as number) + (result - (result & this.#offsetMask));
      if ((this.#done[slot] as number) >= io.lengthBytes) this.#end(slot, IoStatus.success);
      else this.#writeZeroes(slot);
    } else if (result >= 0) {
      this.#end(slot, IoStatus.success);
    } else if (result === Errno.ENOTSUP || (result === Errno.EINVAL && way === Way.discard)) {
      // This file has no such way: take the next one, from now on.
      if (io.type === IoType.unmap) this.#discardWay = Math.max(this.#discardWay, way + 1);
      else this.#zeroWay = Math.max(this.#zeroWay, way + 1);
      this.#range(slot, io, way + 1);
    } else {
      this.#end(slot, statusOf(result));
    }
  }

  /** The kernel is short of something: once more in the next round. */
  #retry(slot: number): void {
    const retries = (this.#retries[slot] as number) + 1;
    this.#retries[slot] = retries;
    if (retries > RETRIES_MAX) this.#end(slot, IoStatus.failed);
    else this.#again.push(slot);
  }

  #tryAgain(): void {
    const slots = this.#again;
    this.#again = [];
    for (const slot of slots) {
      const io = this.#ios[slot] as BdevIo;
      if (io.type === IoType.flush) this.#plain.dataSync(slot);
      else if (io.type === IoType.unmap || io.type === IoType.writeZeroes)
        this.#range(slot, io, this.#way[slot] as number);
      else if (this.#bounce[slot] !== NO_BOUNCE || this.#done[slot] !== 0) this.#transferPiece(slot, io);
      else this.#transfer(slot, io, false);
    }
  }

  #end(slot: number, status: IoStatus): void {
    const io = this.#ios[slot] as BdevIo;
    const bounce = this.#bounce[slot] as number;
    this.#ios[slot] = null;
    this.#bounce[slot] = NO_BOUNCE;
    this.#free[this.#freeCount++] = slot;
    this.#ended++;
    if (io.type === IoType.write) this.#writes--;
    if (bounce !== NO_BOUNCE) this.#passBounceOn(bounce);
    io.complete(status);
  }

  #startWaiting(): void {
    const waiting = this.#waiting;
    const count = Math.min(waiting.length, this.#freeCount);
    this.#waiting = waiting.slice(count);
    for (let i = 0; i < count; i++) this.#start(waiting[i] as BdevIo);
  }

  #passBounceOn(bounce: number): void {
    const next = this.#bounceWaiting.shift();
    if (next === undefined) {
      (this.#bounces as BounceBuffers).release(bounce);
      return;
    }
    this.#bounce[next] = bounce;
    this.#transferPiece(next, this.#ios[next] as BdevIo);
  }
}

/** How a request ends whose system call had this result. */
export function statusOf(result: number): IoStatus {
  if (result >= 0) return IoStatus.success;
  // A device that was pulled out.
  return result === Errno.ENODEV || result === Errno.ENXIO ? IoStatus.gone : IoStatus.failed;
}
