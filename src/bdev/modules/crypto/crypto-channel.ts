/**
 * A crypto disk's channel. A read goes down as it is, and what has arrived in the guest's memory is decrypted there. A
 * write is copied, a piece at a time, into buffers of ours and encrypted in these: the guest's memory stays as it is.
 */
import { type IovArena, NO_LIST } from '../../../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../../../sys/mapping.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, IoStatus, IoType } from '../../bdev-io.ts';
import { NO_ROOM, PiecewiseChannel } from '../../piecewise-channel.ts';
import { BOUNCE_BYTES, BounceBuffers } from '../bounce-buffers.ts';
import { type TweakMode, unitBytesOf, XtsCipher } from './xts.ts';

/** Of writes in flight, by slot. Memory that no write needed yet costs nothing. */
const BUFFERS = 64;
/** The one behind them is for reads. */
const READ_BUFFER = BUFFERS;
const BUFFER_WORDS = BOUNCE_BYTES / 4;
/** What is decrypted at a time: it stays in the cache. */
const READ_BYTES = 64 * 1024;

const { read: READ, write: WRITE, writeZeroes: WRITE_ZEROES } = IoType;
const { success: SUCCESS } = IoStatus;

export class CryptoChannel extends PiecewiseChannel {
  readonly #arena: IovArena;
  readonly #cipher: XtsCipher;
  readonly #blockBytes: number;
  readonly #unitsPerBlock: number;
  readonly #memory = Mapping.anonymous((BUFFERS + 1) * BOUNCE_BYTES);
  readonly #views = new MappingViews();
  readonly #words = new Int32Array(this.#views.view(this.#memory, 0, this.#memory.lengthBytes));
  readonly #buffers = new BounceBuffers(this.#memory);
  /** By slot: describes its buffer. */
  readonly #lists = new Int32Array(BUFFERS);

  constructor(description: BdevDescription, context: ChannelContext) {
    super(description, context, BUFFERS);
    const { blockSizeBytes, params } = description;
    const tweakMode = params['tweakMode'] as TweakMode;
    const key = Uint8Array.from(new Uint8Array(params['key'] as SharedArrayBuffer));
    this.#arena = context.arena;
    this.#blockBytes = blockSizeBytes;
    this.#cipher = new XtsCipher(key, unitBytesOf(tweakMode, blockSizeBytes), tweakMode);
    this.#unitsPerBlock = blockSizeBytes / this.#cipher.unitBytes;
    key.fill(0);
  }

  override submit(io: BdevIo): void {
    if (io.type === WRITE || io.type === WRITE_ZEROES) this.start(io, io.countBlocks);
    else this.forward(io, 0);
  }

  protected override baseDone(io: BdevIo, status: IoStatus, tag: number): void {
    if (io.type === READ && status === SUCCESS) this.#decrypt(io);
    super.baseDone(io, status, tag);
  }

  protected override preparePiece(io: BdevIo, progress: number, slot: number, below: BdevIo): number {
    const list = this.#arena.takeShort();
    if (list === NO_LIST) return NO_ROOM;
    const blocks = Math.min(BOUNCE_BYTES / this.#blockBytes, io.countBlocks - progress);
    const bytes = blocks * this.#blockBytes;
    const words = this.#words.subarray(slot * BUFFER_WORDS, slot * BUFFER_WORDS + bytes / 4);
    if (io.type === WRITE_ZEROES) words.fill(0);
    else this.#buffers.gather(slot, this.#arena, io.iovFirst, io.iovCount, progress * this.#blockBytes, bytes);
    this.#cipher.encrypt(words, (io.offsetBlocks + progress) * this.#unitsPerBlock);
    this.#arena.set(list, this.#buffers.addressOf(slot), bytes);
    this.#lists[slot] = list;
    below.type = WRITE;
    below.offsetBlocks = io.offsetBlocks + progress;
    below.countBlocks = blocks;
    below.lengthBytes = bytes;
    below.iovFirst = list;
    below.iovCount = 1;
    return progress + blocks;
  }

  protected override pieceOver(slot: number): void {
    this.#arena.release(this.#lists[slot] as number);
  }

  override close(): void {
    this.#buffers.close();
    this.#views.close();
    this.#memory.close();
    super.close();
  }

  #decrypt(io: BdevIo): void {
    const { iovFirst, iovCount } = io;
    const at = READ_BUFFER * BUFFER_WORDS;
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
}
