/**
 * One virtqueue of a vhost-user-blk controller in its reactor: virtio-blk requests (virtio 1.3 §5.2.6) become bdev I/O.
 *
 * Framing is free: header, data and status may be cut over descriptors in any way. A slot is the head index of the
 * chain it came from, which is unique while the chain is in flight; all state of a request lives in the slot's
 * `Request`, so that nothing is allocated per request once a slot was used.
 */

import { DOUBLE } from '../base/double.ts';
import {
  BdevIo,
  type BdevIo as Io,
  type IoOwner,
  IoStatus,
  IoType,
  type LatencyCounter,
  NO_SEGMENTS,
} from '../bdev/bdev-io.ts';
import type { BdevChannel } from '../bdev/channel.ts';
import type { Sharer } from '../bdev/fair-shares.ts';
import { NOWHERE } from '../memory/guest-memory.ts';
import { BUFFER_WORDS, BufferWord, RECORDS, RecordWord } from '../sys/chain-gather.ts';
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
import { type Chain, NO_RECORD } from '../virtio/chain.ts';
import { type BlkDeviceParams, DISCARD_SECTORS_MAX, RANGES_MAX } from './blk-device.ts';
import { type QueueOptions, RequestQueue } from './request-queue.ts';

const TWO_32 = 2 ** 32;
// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { IN, OUT } = BlkRequestType;
const { OK, IOERR, UNSUPP } = BlkStatus;
const { read: READ, write: WRITE, flush: FLUSH } = IoType;
const HEADER_BYTES = BLK_HEADER_BYTES;
const NONE = NO_LIST;
const NOT_MAPPED = NOWHERE;
const SUCCESS = IoStatus.success;
const WITHDRAWN = IoStatus.withdrawn;
/** In place of a status: the request was not carried out. */
const LEFT = -1;
const UNRECORDED = NO_RECORD;
const WORDS = RECORDS;
const { header0: TYPE, header2: SECTOR_LOW, header3: SECTOR_HIGH, buffers: HEADER } = RecordWord;
/** Of a chain of three buffers. */
const DATA = HEADER + BUFFER_WORDS;
const ANSWER = DATA + BUFFER_WORDS;
const { length: LENGTH, hostLow: HOST_LOW, hostHigh: HOST_HIGH, window: WINDOW } = BufferWord;

/** One for all queues of a thread: a request is parsed in one go. */
const SCRATCH = new Uint8Array(Math.max(HEADER_BYTES, RANGES_MAX * BLK_RANGE_BYTES));
const SCRATCH_VIEW = new DataView(SCRATCH.buffer);

export interface BlkQueueOptions extends QueueOptions {
  readonly channel: BdevChannel;
  readonly device: BlkDeviceParams;
}

/** What is known of a slot's request. An object, not rows of arrays: a field costs a fraction of a checked element. */
class Request implements IoOwner {
  /** Carries most requests whole. */
  readonly io: Io = new BdevIo(this);
  readonly slot: number;
  readonly #queue: BlkQueue;
  /** Where the status byte goes: a window of the guest's memory, and the offset in it. */
  statusBytes: Uint8Array = SCRATCH;
  statusOffset = 0;
  /** Bytes of its writable part; the last one is the status. */
  writableBytes = 0;
  /** What the used element says of it when it does not fail: how far the writable part is written without a gap. */
  usedLength = 0;
  /** The segment list, or `NONE`. */
  list = NONE;
  /** I/Os still to end. */
  pending = 0;
  status: number = OK;

  constructor(queue: BlkQueue, slot: number) {
    this.#queue = queue;
    this.slot = slot;
  }

  get latencies(): LatencyCounter | null {
    return this.#queue.latencies;
  }

  get sharer(): Sharer | null {
    return this.#queue.sharer;
  }

  ioDone(io: Io): void {
    this.#queue.requestIoDone(this, io);
  }
}

export class BlkQueue extends RequestQueue {
  readonly #channel: BdevChannel;
  readonly #device: BlkDeviceParams;
  readonly #id: Uint8Array;
  readonly #sectorsPerBlock: number;
  /** Blocks in a sector and in a byte: powers of two, so that multiplying is exact, and quicker than dividing. */
  readonly #blocksPerSector: number = DOUBLE;
  readonly #blocksPerByte: number = DOUBLE;
  /** The same as shifts. */
  readonly #sectorShift: number;
  readonly #blockShift: number;
  readonly #requests: (Request | null)[];
  /** For requests of several I/Os. */
  readonly #moreIos: Io[] = [];

  constructor(options: BlkQueueOptions) {
    super(options);
    this.#channel = options.channel;
    this.#device = options.device;
    this.#id = new TextEncoder().encode(options.device.serial).subarray(0, BLK_ID_BYTES);
    this.#sectorsPerBlock = options.channel.blockSizeBytes / SECTOR_BYTES;
    this.#blocksPerSector = 1 / this.#sectorsPerBlock;
    this.#blocksPerByte = 1 / options.channel.blockSizeBytes;
    this.#sectorShift = Math.log2(this.#sectorsPerBlock);
    this.#blockShift = Math.log2(options.channel.blockSizeBytes);
    this.#requests = Array.from({ length: options.ring.size }, () => null);
  }

  protected override accept(chain: Chain): boolean {
    if (chain.record !== UNRECORDED && this.#acceptUsual(chain)) return true;
    const { memory } = this;
    const { addresses, lengths, head: slot } = chain;
    if (chain.writableBytes === 0) return this.refuse(chain, 'has no room for the status byte');
    // The status byte is the last byte of the device-writable part.
    let last = chain.count - 1;
    while ((lengths[last] as number) === 0) last--;
    const statusWindow = memory.locate(addresses, last, (lengths[last] as number) - 1, 1);
    if (statusWindow === null) return this.refuse(chain, 'has no room for the status byte');
    const request = this.#requests[slot] ?? this.#makeRequest(slot);
    request.statusBytes = statusWindow.bytes;
    request.statusOffset = memory.offset;
    request.writableBytes = chain.writableBytes;
    request.usedLength = chain.writableBytes === 1 ? 1 : 0;
    request.list = NONE;
    request.pending = 1;
    request.status = OK;
    if (this.isDetached || chain.readableBytes < HEADER_BYTES) return this.#endNow(request, IOERR);
    let type: number;
    let sector: number;
    const isTogether = (lengths[0] as number) >= HEADER_BYTES;
    const window = isTogether ? memory.locate(addresses, 0, 0, HEADER_BYTES) : null;
    if (window !== null && (memory.offset & 3) === 0) {
      const { words } = window;
      const at = memory.offset >>> 2;
      type = words[at] as number;
      sector = (words[at + 3] as number) * TWO_32 + (words[at + 2] as number);
    } else {
      if (!this.data.gather(chain, 0, SCRATCH, 0, HEADER_BYTES)) return this.#endNow(request, IOERR);
      type = SCRATCH_VIEW.getUint32(0, true);
      sector = SCRATCH_VIEW.getUint32(12, true) * TWO_32 + SCRATCH_VIEW.getUint32(8, true);
    }
    if (type > OUT) return this.#other(chain, request, type);
    const isRead = type === IN;
    if (!isRead && this.#device.isReadonly) return this.#endNow(request, IOERR);
    const length = isRead ? chain.writableBytes - 1 : chain.readableBytes - HEADER_BYTES;
    const offset = sector * this.#blocksPerSector;
    const count = length * this.#blocksPerByte;
    if (!Number.isInteger(offset) || !Number.isInteger(count) || offset + count > this.#channel.blockCount) {
      return this.#endNow(request, IOERR);
    }
    if (count === 0) return this.#endNow(request, OK);
    if (isRead) request.usedLength = chain.writableBytes;
    const segments = this.data.map(chain, isRead ? chain.readableCount : 0, isRead ? 0 : HEADER_BYTES, length);
    if (segments < 0) return segments === NOT_MAPPED ? this.#endNow(request, IOERR) : false;
    const { list } = this.data;
    const { io } = request;
    request.list = list;
    io.type = isRead ? READ : WRITE;
    io.offsetBlocks = offset;
    io.countBlocks = count;
    io.lengthBytes = length;
    io.iovFirst = list;
    io.iovCount = segments;
    this.#channel.submit(io);
    return true;
  }

  /**
   * The short way of nearly all requests: IN or OUT with header, data and status in a buffer each, and nothing that
   * speaks against it. False, with nothing done, when it is another one.
   */
  #acceptUsual(chain: Chain): boolean {
    const { record, head: slot } = chain;
    const type = WORDS[record + TYPE] as number;
    const isRead = type === IN;
    if (chain.count !== 3 || chain.readableCount !== (isRead ? 1 : 2) || this.isDetached) return false;
    if (!isRead && (type !== OUT || this.#device.isReadonly)) return false;
    const isPlain = WORDS[record + HEADER + LENGTH] === HEADER_BYTES && WORDS[record + ANSWER + LENGTH] === 1;
    const sector = WORDS[record + SECTOR_LOW] as number;
    const length = WORDS[record + DATA + LENGTH] as number;
    // Beyond 1 TiB is the other way's.
    if (!isPlain || WORDS[record + SECTOR_HIGH] !== 0 || sector < 0) return false;
    const offset = sector >>> this.#sectorShift;
    const count = length >>> this.#blockShift;
    if (offset << this.#sectorShift !== sector || count << this.#blockShift !== length) return false;
    if (offset + count > this.#channel.blockCount) return false;
    const list = this.arena.takeShort();
    if (list === NONE) return false;
    const data = record + DATA;
    this.arena.setWords(list, WORDS[data + HOST_LOW] as number, WORDS[data + HOST_HIGH] as number, length);
    const request = this.#requests[slot] ?? this.#makeRequest(slot);
    const window = this.memory.window(WORDS[record + ANSWER + WINDOW] as number);
    request.statusBytes = window.bytes;
    request.statusOffset = ((WORDS[record + ANSWER + HOST_LOW] as number) - window.hostLow) | 0;
    request.writableBytes = isRead ? length + 1 : 1;
    request.usedLength = request.writableBytes;
    request.list = list;
    request.pending = 1;
    request.status = OK;
    const { io } = request;
    io.type = isRead ? READ : WRITE;
    io.offsetBlocks = offset;
    io.countBlocks = count;
    io.lengthBytes = length;
    io.iovFirst = list;
    io.iovCount = 1;
    this.#channel.submit(io);
    return true;
  }

  /** Whatever is not IN or OUT. */
  #other(chain: Chain, request: Request, type: number): boolean {
    if (type === BlkRequestType.FLUSH) return this.#flush(request);
    if (type === BlkRequestType.GET_ID) return this.#getId(chain, request);
    if (type === BlkRequestType.DISCARD) return this.#ranges(chain, request, IoType.unmap);
    if (type === BlkRequestType.WRITE_ZEROES) return this.#ranges(chain, request, IoType.writeZeroes);
    return this.#endNow(request, UNSUPP);
  }

  #flush(request: Request): boolean {
    request.pending = 1;
    this.#submitRange(request.io, FLUSH, 0, 0);
    return true;
  }

  #getId(chain: Chain, request: Request): boolean {
    if (chain.writableBytes < BLK_ID_BYTES + 1) return this.#endNow(request, IOERR);
    SCRATCH.fill(0, 0, BLK_ID_BYTES);
    SCRATCH.set(this.#id, 0);
    const isWritten = this.data.scatter(chain, 0, SCRATCH, 0, BLK_ID_BYTES);
    request.usedLength = chain.writableBytes === BLK_ID_BYTES + 1 ? chain.writableBytes : BLK_ID_BYTES;
    return this.#endNow(request, isWritten ? OK : IOERR);
  }

  /** DISCARD and WRITE_ZEROES: every range is checked before the first is applied. */
  #ranges(chain: Chain, request: Request, type: IoType): boolean {
    const length = chain.readableBytes - HEADER_BYTES;
    const count = length / BLK_RANGE_BYTES;
    if (this.#device.isReadonly) return this.#endNow(request, IOERR);
    if (!this.#device.hasRanges) return this.#endNow(request, UNSUPP);
    if (!Number.isInteger(count) || count === 0 || count > RANGES_MAX) return this.#endNow(request, IOERR);
    if (!this.data.gather(chain, HEADER_BYTES, SCRATCH, 0, length)) return this.#endNow(request, IOERR);
    const allowedFlags = type === IoType.writeZeroes ? BLK_RANGE_UNMAP : 0;
    const blocks = this.#sectorsPerBlock;
    for (let i = 0; i < count; i++) {
      const at = i * BLK_RANGE_BYTES;
      const sector = SCRATCH_VIEW.getUint32(at + 4, true) * TWO_32 + SCRATCH_VIEW.getUint32(at, true);
      const sectors = SCRATCH_VIEW.getUint32(at + 8, true);
      if ((SCRATCH_VIEW.getUint32(at + 12, true) & ~allowedFlags) !== 0) return this.#endNow(request, UNSUPP);
      const isAligned = sector % blocks === 0 && sectors % blocks === 0;
      const end = (sector + sectors) / blocks;
      if (!isAligned || end > this.#channel.blockCount || sectors > DISCARD_SECTORS_MAX) {
        return this.#endNow(request, IOERR);
      }
    }
    request.pending = count;
    for (let i = 0; i < count; i++) {
      const at = i * BLK_RANGE_BYTES;
      const sector = SCRATCH_VIEW.getUint32(at + 4, true) * TWO_32 + SCRATCH_VIEW.getUint32(at, true);
      const sectors = SCRATCH_VIEW.getUint32(at + 8, true);
      const io = i === 0 ? request.io : (this.#moreIos.pop() ?? new BdevIo(request));
      io.owner = request;
      this.#submitRange(io, type, sector / blocks, sectors / blocks);
    }
    return true;
  }

  protected override withdraw(): void {
    if (this.sharer !== null) this.#channel.withdraw(this.sharer);
  }

  /** One of a request's I/Os has ended. */
  requestIoDone(request: Request, io: Io): void {
    if (io !== request.io) this.#moreIos.push(io);
    if (io.status !== SUCCESS && request.status !== LEFT) request.status = io.status === WITHDRAWN ? LEFT : IOERR;
    if (--request.pending > 0) return;
    const mustFlush = io.type !== FLUSH && io.type !== READ && this.#channel.hasWriteCache;
    if (mustFlush && this.#device.isWriteThrough && request.status === OK) this.#flush(request);
    else this.#finish(request);
  }

  /** Ends a request whose status is known without I/O. */
  #endNow(request: Request, status: number): true {
    request.status = status;
    this.#finish(request);
    return true;
  }

  #finish(request: Request): void {
    if (request.list !== NONE) this.arena.release(request.list);
    if (request.status === LEFT) {
      this.leave(request.slot);
      return;
    }
    const { status, writableBytes } = request;
    request.statusBytes[request.statusOffset] = status;
    // After a failure nobody knows how much of the data was written, and a device must not say too much (virtio 1.3
    // §2.7.8.2).
    const usedLength = status === OK || writableBytes === 1 ? request.usedLength : 0;
    this.complete(request.slot, usedLength, writableBytes);
  }

  #makeRequest(slot: number): Request {
    const request = new Request(this, slot);
    this.#requests[slot] = request;
    return request;
  }

  /** An I/O without segments. */
  #submitRange(io: Io, type: IoType, offsetBlocks: number, countBlocks: number): void {
    io.type = type;
    io.offsetBlocks = offsetBlocks;
    io.countBlocks = countBlocks;
    io.lengthBytes = countBlocks * this.#channel.blockSizeBytes;
    io.iovFirst = NO_SEGMENTS;
    io.iovCount = 0;
    this.#channel.submit(io);
  }
}
