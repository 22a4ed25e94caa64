/**
 * A crypto disk's channel. A read goes down as it is, and what has arrived in the guest's memory is decrypted there. A
 * write is copied, a piece at a time, into buffers of ours and encrypted in these: the guest's memory stays as it is.
 * Requests that wait for a buffer get them in turns.
 */
import { assert } from '../../../base/assert.ts';
import { type IovArena, NO_LIST } from '../../../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../../../sys/mapping.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BaseChannel, type BdevIo, IoStatus, IoType, NO_WAKE_FD, WOKEN_FROM_BELOW } from '../../bdev-io.ts';
import { StackedChannel } from '../../stacked-channel.ts';
import { BOUNCE_BYTES, BounceBuffers, NO_BOUNCE } from '../bounce-buffers.ts';
import { type TweakMode, unitBytesOf, XtsCipher } from './xts.ts';

/** Of writes in flight. Memory that no write needed yet costs nothing. */
const BUFFERS = 64;
/** The one behind them is for reads. */
const READ_BUFFER = BUFFERS;
/** What is decrypted at a time: it stays in the cache. */
const READ_BYTES = 64 * 1024;

const { read: READ, write: WRITE, writeZeroes: WRITE_ZEROES } = IoType;
const { success: SUCCESS } = IoStatus;

/** A write, or zeroes to write. Pooled. */
class WriteJob {
  io: BdevIo | null = null;
  lengthBytes = 0;
  sentBytes = 0;
  /** In flight. */
  pieces = 0;
  isWaiting = false;
  status: IoStatus = SUCCESS;
}

export class CryptoChannel extends StackedChannel {
  /** While something waits for a segment list, which others give back, nothing below wakes it. */
  override wakeFd: number = WOKEN_FROM_BELOW;
  readonly #arena: IovArena;
  readonly #cipher: XtsCipher;
  readonly #blockBytes: number;
  readonly #unitsPerBlock: number;
  readonly #memory = Mapping.anonymous((BUFFERS + 1) * BOUNCE_BYTES);
  readonly #views = new MappingViews();
  readonly #words = new Int32Array(this.#views.view(this.#memory, 0, this.#memory.lengthBytes));
  readonly #buffers = new BounceBuffers(this.#memory);
  /** By buffer: whose piece is in it, and the list that describes it. */
  readonly #jobs: (WriteJob | null)[] = Array.from({ length: BUFFERS }, () => null);
  readonly #lists = new Int32Array(BUFFERS);
  readonly #idleJobs: WriteJob[] = [];
  /** Jobs that have more pieces to send. */
  readonly #waiting: WriteJob[] = [];
  #pieces = 0;
  #isSending = false;

  constructor(description: BdevDescription, context: ChannelContext) {
    super(description, context);
    const { blockSizeBytes, params } = description;
    const tweakMode = params['tweakMode'] as TweakMode;
    const key = Uint8Array.from(new Uint8Array(params['key'] as SharedArrayBuffer));
    this.#arena = context.arena;
    this.#blockBytes = blockSizeBytes;
    this.#cipher = new XtsCipher(key, unitBytesOf(tweakMode, blockSizeBytes), tweakMode);
    this.#unitsPerBlock = blockSizeBytes / this.#cipher.unitBytes;
    key.fill(0);
    assert(this.#buffers.take() === READ_BUFFER, 'the last buffer is taken first');
  }

  override submit(io: BdevIo): void {
    if (io.type !== WRITE && io.type !== WRITE_ZEROES) {
      this.forward(io, 0);
      return;
    }
    const job = this.#idleJobs.pop() ?? new WriteJob();
    job.io = io;
    job.lengthBytes = io.countBlocks * this.#blockBytes;
    job.sentBytes = 0;
    job.status = SUCCESS;
    if (job.lengthBytes === 0) {
      this.#end(job);
      return;
    }
    job.isWaiting = true;
    this.#waiting.push(job);
    this.#send();
  }

  protected override baseDone(io: BdevIo, status: IoStatus, tag: number): void {
    if (io.type === WRITE || io.type === WRITE_ZEROES) {
      this.#pieceDone(tag, status);
      return;
    }
    if (io.type === READ && status === SUCCESS) this.#decrypt(io);
    io.complete(status);
  }

  override poll(): number {
    if (this.#waiting.length > 0) this.#send();
    return 0;
  }

  override close(): void {
    this.#buffers.close();
    this.#views.close();
    this.#memory.close();
    super.close();
  }

  #decrypt(io: BdevIo): void {
    const { iovFirst, iovCount } = io;
    const at = READ_BUFFER * (BOUNCE_BYTES / 4);
    const length = io.countBlocks * this.#blockBytes;
    let unit = io.offsetBlocks * this.#unitsPerBlock;
    for (let done = 0; done < length; done += READ_BYTES) {
      const bytes = Math.min(READ_BYTES, length - done);
      this.#buffers.gather(READ_BUFFER, this.#arena, iovFirst, iovCount, done, bytes);
      this.#cipher.decrypt(this.#words.subarray(at, at + bytes / 4), unit);
      this.#buffers.scatter(READ_BUFFER, this.#arena, iovFirst, iovCount, done, bytes);
      unit += bytes / this.#cipher.unitBytes;
    }
  }

  /** Sends pieces of what waits, one of each in turn, while there are buffers. */
  #send(): void {
    // A piece may end while it is sent: whoever sends goes on.
    if (this.#isSending) return;
    this.#isSending = true;
    while (this.#waiting.length > 0) {
      const buffer = this.#buffers.take();
      const list = buffer === NO_BOUNCE ? NO_LIST : this.#arena.takeShort();
      if (list === NO_LIST) {
        if (buffer !== NO_BOUNCE) this.#buffers.release(buffer);
        break;
      }
      this.#sendPiece(this.#waiting.shift() as WriteJob, buffer, list);
    }
    this.#isSending = false;
    this.wakeFd = this.#waiting.length > 0 && this.#pieces === 0 ? NO_WAKE_FD : WOKEN_FROM_BELOW;
  }

  #sendPiece(job: WriteJob, buffer: number, list: number): void {
    const io = job.io as BdevIo;
    const skip = job.sentBytes;
    const bytes = Math.min(BOUNCE_BYTES, job.lengthBytes - skip);
    const firstBlock = io.offsetBlocks + skip / this.#blockBytes;
    const at = buffer * (BOUNCE_BYTES / 4);
    if (io.type === WRITE) this.#buffers.gather(buffer, this.#arena, io.iovFirst, io.iovCount, skip, bytes);
    else this.#words.fill(0, at, at + bytes / 4);
    this.#cipher.encrypt(this.#words.subarray(at, at + bytes / 4), firstBlock * this.#unitsPerBlock);
    this.#arena.set(list, this.#buffers.addressOf(buffer), bytes);
    this.#jobs[buffer] = job;
    this.#lists[buffer] = list;
    this.#pieces++;
    job.pieces++;
    job.sentBytes += bytes;
    job.isWaiting = job.sentBytes < job.lengthBytes;
    if (job.isWaiting) this.#waiting.push(job);
    const below = this.below(io);
    below.type = WRITE;
    below.offsetBlocks = firstBlock;
    below.countBlocks = bytes / this.#blockBytes;
    below.lengthBytes = bytes;
    below.iovFirst = list;
    below.iovCount = 1;
    below.tag = buffer;
    (this.bases[0] as BaseChannel).submit(below);
  }

  #pieceDone(buffer: number, status: IoStatus): void {
    const job = this.#jobs[buffer] as WriteJob;
    this.#jobs[buffer] = null;
    this.#arena.release(this.#lists[buffer] as number);
    this.#buffers.release(buffer);
    this.#pieces--;
    job.pieces--;
    if (status !== SUCCESS) this.#giveUp(job, status);
    if (job.pieces === 0 && !job.isWaiting) this.#end(job);
    this.#send();
  }

  /** Nobody wants the rest of a write that failed. */
  #giveUp(job: WriteJob, status: IoStatus): void {
    job.status = status;
    if (!job.isWaiting) return;
    job.isWaiting = false;
    this.#waiting.splice(this.#waiting.indexOf(job), 1);
  }

  #end(job: WriteJob): void {
    const io = job.io as BdevIo;
    job.io = null;
    this.#idleJobs.push(job);
    io.complete(job.status);
  }
}
