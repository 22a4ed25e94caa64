/**
 * One virtqueue of a vhost-user-blk controller in its reactor: virtio-blk requests (virtio 1.3 §5.2.6) become bdev I/O.
 *
 * Framing is free: header, data and status may be cut over descriptors in any way. A slot is the head index of the
 * chain it came from, which is unique while the chain is in flight; all state of a request lives in arrays indexed by
 * it, so that nothing is allocated per request.
 */

import { BdevIo, type BdevIo as Io, type IoOwner, IoStatus, IoType, NO_SEGMENTS } from '../bdev/bdev-io.ts';
import type { BdevChannel } from '../bdev/channel.ts';
import { NOWHERE } from '../memory/guest-memory.ts';
import { NO_LIST } from '../sys/iov-arena.ts';
import {
  BLK_HEADER_BYTES,
  BLK_ID_BYTES,
  BLK_RANGE_BYTES,
  BLK_RANGE_UNMAP,
  BlkRequestType,
  BlkStatus,
  SECTOR_BYTES,
} from '../virtio/blk.ts';
import type { Chain } from '../virtio/chain.ts';
import { type BlkDeviceParams, DISCARD_SECTORS_MAX, RANGES_MAX } from './blk-device.ts';
import { type QueueOptions, RequestQueue } from './request-queue.ts';

const TWO_32 = 2 ** 32;

/** One for all queues of a thread: a request is parsed in one go. */
const SCRATCH = new Uint8Array(Math.max(BLK_HEADER_BYTES, RANGES_MAX * BLK_RANGE_BYTES));
const SCRATCH_VIEW = new DataView(SCRATCH.buffer);

export interface BlkQueueOptions extends QueueOptions {
  readonly channel: BdevChannel;
  readonly device: BlkDeviceParams;
}

export class BlkQueue extends RequestQueue implements IoOwner {
  readonly #channel: BdevChannel;
  readonly #device: BlkDeviceParams;
  readonly #id: Uint8Array;
  readonly #sectorsPerBlock: number;

  /** By slot: where the status byte goes, what the used element will say, the segment list, I/Os still to end. */
  readonly #statusWindow: Int32Array;
  readonly #statusOffset: Uint32Array;
  readonly #usedLength: Float64Array;
  readonly #segments: Int32Array;
  readonly #pending: Int32Array;
  readonly #status: Uint8Array;
  readonly #ios: Io[] = [];
  #ioCount = 0;

  constructor(options: BlkQueueOptions) {
    super(options);
    const size = options.ring.size;
    this.#channel = options.channel;
    this.#device = options.device;
    this.#id = new TextEncoder().encode(options.device.serial).subarray(0, BLK_ID_BYTES);
    this.#sectorsPerBlock = options.channel.blockSizeBytes / SECTOR_BYTES;
    this.#statusWindow = new Int32Array(size);
    this.#statusOffset = new Uint32Array(size);
    this.#usedLength = new Float64Array(size);
    this.#segments = new Int32Array(size);
    this.#pending = new Int32Array(size);
    this.#status = new Uint8Array(size);
  }

  protected override accept(chain: Chain): boolean {
    const slot = chain.head;
    this.#segments[slot] = NO_LIST;
    this.#pending[slot] = 0;
    this.#status[slot] = BlkStatus.OK;
    this.#usedLength[slot] = chain.writableBytes;
    if (!this.#locateStatus(chain)) return this.refuse(chain, 'has no room for the status byte');
    if (this.isDetached || chain.readableBytes < BLK_HEADER_BYTES) return this.#endNow(slot, BlkStatus.IOERR);
    let type: number;
    let sector: number;
    const window =
      (chain.lengths[0] as number) < BLK_HEADER_BYTES
        ? NOWHERE
        : this.memory.locate(chain.addresses, 0, 0, BLK_HEADER_BYTES);
    if (window !== NOWHERE && (this.memory.offset & 3) === 0) {
      const words = this.memory.window(window).words;
      const at = this.memory.offset >>> 2;
      type = words[at] as number;
      sector = (words[at + 3] as number) * TWO_32 + (words[at + 2] as number);
    } else {
      if (!this.data.gather(chain, 0, SCRATCH, 0, BLK_HEADER_BYTES)) return this.#endNow(slot, BlkStatus.IOERR);
      type = SCRATCH_VIEW.getUint32(0, true);
      sector = SCRATCH_VIEW.getUint32(12, true) * TWO_32 + SCRATCH_VIEW.getUint32(8, true);
    }
    if (type === BlkRequestType.IN || type === BlkRequestType.OUT) return this.#transfer(chain, type, sector);
    if (type === BlkRequestType.FLUSH) return this.#flush(slot);
    if (type === BlkRequestType.GET_ID) return this.#getId(chain);
    if (type === BlkRequestType.DISCARD) return this.#ranges(chain, IoType.unmap);
    if (type === BlkRequestType.WRITE_ZEROES) return this.#ranges(chain, IoType.writeZeroes);
    return this.#endNow(slot, BlkStatus.UNSUPP);
  }

  #transfer(chain: Chain, type: number, sector: number): boolean {
    const slot = chain.head;
    const isRead = type === BlkRequestType.IN;
    if (!isRead && this.#device.isReadonly) return this.#endNow(slot, BlkStatus.IOERR);
    const length = isRead ? chain.writableBytes - 1 : chain.readableBytes - BLK_HEADER_BYTES;
    const offset = sector / this.#sectorsPerBlock;
    const count = length / this.#channel.blockSizeBytes;
    if (!Number.isInteger(offset) || !Number.isInteger(count) || offset + count > this.#channel.blockCount) {
      return this.#endNow(slot, BlkStatus.IOERR);
    }
    if (count === 0) return this.#endNow(slot, BlkStatus.OK);
    const first = isRead ? chain.readableCount : 0;
    const segments = this.data.map(chain, first, isRead ? 0 : BLK_HEADER_BYTES, length);
    if (segments < 0) return segments === NOWHERE ? this.#endNow(slot, BlkStatus.IOERR) : false;
    this.#segments[slot] = this.data.list;
    const io = this.#takeIo();
    io.type = isRead ? IoType.read : IoType.write;
    io.offsetBlocks = offset;
    io.countBlocks = count;
    io.lengthBytes = length;
    io.iovFirst = this.#segments[slot] as number;
    io.iovCount = segments;
    io.tag = slot;
    this.#pending[slot] = 1;
    this.#channel.submit(io);
    return true;
  }

  #flush(slot: number): boolean {
    const io = this.#takeIo();
    this.#prepare(io, IoType.flush, 0, 0, slot);
    this.#pending[slot] = 1;
    this.#channel.submit(io);
    return true;
  }

  #getId(chain: Chain): boolean {
    const slot = chain.head;
    if (chain.writableBytes < BLK_ID_BYTES + 1) return this.#endNow(slot, BlkStatus.IOERR);
    SCRATCH.fill(0, 0, BLK_ID_BYTES);
    SCRATCH.set(this.#id, 0);
    if (!this.data.scatter(chain, 0, SCRATCH, 0, BLK_ID_BYTES)) return this.#endNow(slot, BlkStatus.IOERR);
    return this.#endNow(slot, BlkStatus.OK);
  }

  /** DISCARD and WRITE_ZEROES: every range is checked before the first is applied. */
  #ranges(chain: Chain, type: IoType): boolean {
    const slot = chain.head;
    const length = chain.readableBytes - BLK_HEADER_BYTES;
    const count = length / BLK_RANGE_BYTES;
    if (this.#device.isReadonly) return this.#endNow(slot, BlkStatus.IOERR);
    if (!this.#device.hasRanges) return this.#endNow(slot, BlkStatus.UNSUPP);
    if (!Number.isInteger(count) || count === 0 || count > RANGES_MAX) return this.#endNow(slot, BlkStatus.IOERR);
    if (!this.data.gather(chain, BLK_HEADER_BYTES, SCRATCH, 0, length)) return this.#endNow(slot, BlkStatus.IOERR);
    const allowedFlags = type === IoType.writeZeroes ? BLK_RANGE_UNMAP : 0;
    const blocks = this.#sectorsPerBlock;
    for (let i = 0; i < count; i++) {
      const at = i * BLK_RANGE_BYTES;
      const sector = SCRATCH_VIEW.getUint32(at + 4, true) * TWO_32 + SCRATCH_VIEW.getUint32(at, true);
      const sectors = SCRATCH_VIEW.getUint32(at + 8, true);
      if ((SCRATCH_VIEW.getUint32(at + 12, true) & ~allowedFlags) !== 0) return this.#endNow(slot, BlkStatus.UNSUPP);
      const isAligned = sector % blocks === 0 && sectors % blocks === 0;
      const end = (sector + sectors) / blocks;
      if (!isAligned || end > this.#channel.blockCount || sectors > DISCARD_SECTORS_MAX) {
        return this.#endNow(slot, BlkStatus.IOERR);
      }
    }
    this.#pending[slot] = count;
    for (let i = 0; i < count; i++) {
      const at = i * BLK_RANGE_BYTES;
      const sector = SCRATCH_VIEW.getUint32(at + 4, true) * TWO_32 + SCRATCH_VIEW.getUint32(at, true);
      const io = this.#takeIo();
      this.#prepare(io, type, sector / blocks, SCRATCH_VIEW.getUint32(at + 8, true) / blocks, slot);
      this.#channel.submit(io);
    }
    return true;
  }

  ioDone(io: Io): void {
    const slot = io.tag;
    this.#ios[this.#ioCount++] = io;
    if (io.status !== IoStatus.success) this.#status[slot] = BlkStatus.IOERR;
    const pending = (this.#pending[slot] as number) - 1;
    this.#pending[slot] = pending;
    if (pending > 0) return;
    const mustFlush = io.type !== IoType.flush && io.type !== IoType.read && this.#channel.hasWriteCache;
    if (mustFlush && this.#device.isWriteThrough && this.#status[slot] === BlkStatus.OK) {
      this.#flush(slot);
      return;
    }
    this.#finish(slot);
  }

  /** Ends a request whose status is known without I/O. */
  #endNow(slot: number, status: number): true {
    this.#status[slot] = status;
    this.#finish(slot);
    return true;
  }

  #finish(slot: number): void {
    const window = this.memory.window(this.#statusWindow[slot] as number);
    window.bytes[this.#statusOffset[slot] as number] = this.#status[slot] as number;
    if (this.#segments[slot] !== NO_LIST) this.arena.release(this.#segments[slot] as number);
    this.complete(slot, this.#usedLength[slot] as number);
  }

  /** The status byte is the last byte of the device-writable part. */
  #locateStatus(chain: Chain): boolean {
    if (chain.writableBytes === 0) return false;
    let last = chain.count - 1;
    while ((chain.lengths[last] as number) === 0) last--;
    const window = this.memory.locate(chain.addresses, last, (chain.lengths[last] as number) - 1, 1);
    if (window === NOWHERE) return false;
    this.#statusWindow[chain.head] = window;
    this.#statusOffset[chain.head] = this.memory.offset;
    return true;
  }

  #takeIo(): Io {
    return this.#ioCount > 0 ? (this.#ios[--this.#ioCount] as Io) : new BdevIo(this);
  }

  #prepare(io: Io, type: IoType, offsetBlocks: number, countBlocks: number, slot: number): void {
    io.type = type;
    io.offsetBlocks = offsetBlocks;
    io.countBlocks = countBlocks;
    io.lengthBytes = countBlocks * this.#channel.blockSizeBytes;
    io.iovFirst = NO_SEGMENTS;
    io.iovCount = 0;
    io.tag = slot;
    if (type === IoType.flush) this.#pending[slot] = 1;
  }
}
