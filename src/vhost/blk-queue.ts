/**
 * One virtqueue of a vhost-user-blk controller in its reactor: virtio-blk requests (virtio 1.3 §5.2.6) become bdev I/O.
 *
 * Framing is free: header, data and status may be cut over descriptors in any way. A slot is the head index of the
 * chain it came from, which is unique while the chain is in flight; all state of a request lives in arrays indexed by
 * it, so that nothing is allocated per request.
 */

import { CHAINS_PER_ROUND_MAX } from '../base/limits.ts';
import type { LimitedLog } from '../base/log.ts';
import { BdevIo, type BdevIo as Io, type IoOwner, IoStatus, IoType, NO_SEGMENTS } from '../bdev/bdev-io.ts';
import type { BdevChannel } from '../bdev/channel.ts';
import { type GuestMemory, NOWHERE } from '../memory/guest-memory.ts';
import type { Source } from '../reactor/reactor.ts';
import { signalEventFd } from '../sys/events.ts';
import { IOV_SHORT_ENTRIES, type IovArena, NO_LIST } from '../sys/iov-arena.ts';
import {
  BLK_HEADER_BYTES,
  BLK_ID_BYTES,
  BLK_RANGE_BYTES,
  BLK_RANGE_UNMAP,
  BlkRequestType,
  BlkStatus,
  SECTOR_BYTES,
} from '../virtio/blk.ts';
import { Chain, RING_FAULT_TEXT, RingFault } from '../virtio/chain.ts';
import type { SplitRing } from '../virtio/split-ring.ts';
import { type BlkDeviceParams, DISCARD_SECTORS_MAX, RANGES_MAX } from './blk-device.ts';
import { QueueCounter, type QueueCounters } from './queue-counters.ts';

const TWO_32 = 2 ** 32;

/** One for all queues of a thread: a request is parsed in one go. */
const CHAIN = new Chain();
const SCRATCH = new Uint8Array(Math.max(BLK_HEADER_BYTES, RANGES_MAX * BLK_RANGE_BYTES));
const SCRATCH_VIEW = new DataView(SCRATCH.buffer);

export interface BlkQueueOptions {
  readonly index: number;
  readonly ring: SplitRing;
  readonly memory: GuestMemory;
  readonly arena: IovArena;
  readonly channel: BdevChannel;
  readonly device: BlkDeviceParams;
  readonly callFd: number;
  readonly errFd: number;
  /** False: the driver does not kick, so the queue is always polled. */
  readonly canSleep: boolean;
  readonly counters: QueueCounters;
  readonly faults: LimitedLog;
}

export class BlkQueue implements Source, IoOwner {
  readonly index: number;
  callFd: number;
  /** The controller was deleted under its guest: every request fails. */
  isDetached = false;
  readonly #errFd: number;
  readonly #ring: SplitRing;
  readonly #memory: GuestMemory;
  readonly #arena: IovArena;
  readonly #channel: BdevChannel;
  readonly #device: BlkDeviceParams;
  readonly #id: Uint8Array;
  readonly #canSleep: boolean;
  readonly #counters: QueueCounters;
  readonly #faults: LimitedLog;
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
  #isStopping = false;
  #hasReportedFault = false;
  /** A chain was put back because the arena was full. */
  #isStarved = false;
  #onDrained: (() => void) | null = null;

  constructor(options: BlkQueueOptions) {
    const size = options.ring.size;
    this.index = options.index;
    this.callFd = options.callFd;
    this.#errFd = options.errFd;
    this.#ring = options.ring;
    this.#memory = options.memory;
    this.#arena = options.arena;
    this.#channel = options.channel;
    this.#device = options.device;
    this.#id = new TextEncoder().encode(options.device.serial).subarray(0, BLK_ID_BYTES);
    this.#canSleep = options.canSleep;
    this.#counters = options.counters;
    this.#faults = options.faults;
    this.#sectorsPerBlock = options.channel.blockSizeBytes / SECTOR_BYTES;
    this.#statusWindow = new Int32Array(size);
    this.#statusOffset = new Uint32Array(size);
    this.#usedLength = new Float64Array(size);
    this.#segments = new Int32Array(size);
    this.#pending = new Int32Array(size);
    this.#status = new Uint8Array(size);
  }

  // ---- Source -------------------------------------------------------------------------------------------------------

  take(): number {
    if (this.#isStopping) return 0;
    const ring = this.#ring;
    let taken = 0;
    this.#isStarved = false;
    while (taken < CHAINS_PER_ROUND_MAX && ring.pop(CHAIN)) {
      if (!this.#accept(CHAIN)) {
        ring.unpop(CHAIN.head);
        this.#isStarved = true;
        break;
      }
      taken++;
    }
    if (ring.fault !== RingFault.none && !this.#hasReportedFault) this.#reportFault(ring.fault);
    if (taken > 0) this.#counters[QueueCounter.requests] = (this.#counters[QueueCounter.requests] as number) + taken;
    return taken;
  }

  publish(): void {
    if (this.#ring.publish() && this.callFd >= 0) {
      signalEventFd(this.callFd);
      this.#counters[QueueCounter.calls] = (this.#counters[QueueCounter.calls] as number) + 1;
    }
    if (this.#onDrained !== null && this.#ring.inFlightCount === 0) {
      const onDrained = this.#onDrained;
      this.#onDrained = null;
      onDrained();
    }
  }

  get isBusy(): boolean {
    return !this.#canSleep || this.#isStarved || this.#ring.inFlightCount > 0;
  }

  arm(): boolean {
    return this.#ring.armKick();
  }

  disarm(): void {
    this.#ring.disarmKick();
  }

  /** The driver kicked. */
  kicked(): void {
    this.#counters[QueueCounter.kicks] = (this.#counters[QueueCounter.kicks] as number) + 1;
  }

  /** Takes no more requests; resolves with the next available entry to take when none is in flight. */
  async stop(): Promise<number> {
    this.#isStopping = true;
    if (this.#ring.inFlightCount > 0) await new Promise<void>((resolve) => (this.#onDrained = resolve));
    this.publish();
    const nextAvail = this.#ring.nextAvail;
    this.#ring.close();
    return nextAvail;
  }

  // ---- requests -----------------------------------------------------------------------------------------------------

  /** False when the request must wait for room in the arena. */
  #accept(chain: Chain): boolean {
    const slot = chain.head;
    this.#segments[slot] = NO_LIST;
    this.#pending[slot] = 0;
    this.#status[slot] = BlkStatus.OK;
    this.#usedLength[slot] = chain.writableBytes;
    if (!this.#locateStatus(chain)) return this.#refuse(chain, 'has no room for the status byte');
    if (this.isDetached || chain.readableBytes < BLK_HEADER_BYTES) return this.#endNow(slot, BlkStatus.IOERR);
    let type: number;
    let sector: number;
    const window =
      (chain.lengths[0] as number) < BLK_HEADER_BYTES
        ? NOWHERE
        : this.#memory.locate(chain.addresses, 0, 0, BLK_HEADER_BYTES);
    if (window !== NOWHERE && (this.#memory.offset & 3) === 0) {
      const words = this.#memory.window(window).words;
      const at = this.#memory.offset >>> 2;
      type = words[at] as number;
      sector = (words[at + 3] as number) * TWO_32 + (words[at + 2] as number);
    } else {
      if (!this.#gather(chain, 0, BLK_HEADER_BYTES)) return this.#endNow(slot, BlkStatus.IOERR);
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
    const segments = this.#mapData(chain, first, isRead ? 0 : BLK_HEADER_BYTES, length);
    if (segments < 0) return segments === NOWHERE ? this.#endNow(slot, BlkStatus.IOERR) : false;
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
    let written = 0;
    for (let i = chain.readableCount; i < chain.count && written < BLK_ID_BYTES; i++) {
      const length = Math.min(chain.lengths[i] as number, BLK_ID_BYTES - written);
      if (!this.#memory.write(chain.addresses, i, 0, SCRATCH, written, length)) {
        return this.#endNow(slot, BlkStatus.IOERR);
      }
      written += length;
    }
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
    if (!this.#gather(chain, BLK_HEADER_BYTES, length)) return this.#endNow(slot, BlkStatus.IOERR);
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
    const window = this.#memory.window(this.#statusWindow[slot] as number);
    window.bytes[this.#statusOffset[slot] as number] = this.#status[slot] as number;
    if (this.#segments[slot] !== NO_LIST) this.#arena.release(this.#segments[slot] as number);
    this.#ring.push(slot, this.#usedLength[slot] as number);
  }

  /** A chain that cannot carry a status is given back empty. */
  #refuse(chain: Chain, reason: string): true {
    this.#faults.warn(`blk-${reason}`, `queue ${this.index}: a request ${reason}`);
    this.#ring.push(chain.head, 0);
    return true;
  }

  /** The status byte is the last byte of the device-writable part. */
  #locateStatus(chain: Chain): boolean {
    if (chain.writableBytes === 0) return false;
    let last = chain.count - 1;
    while ((chain.lengths[last] as number) === 0) last--;
    const window = this.#memory.locate(chain.addresses, last, (chain.lengths[last] as number) - 1, 1);
    if (window === NOWHERE) return false;
    this.#statusWindow[chain.head] = window;
    this.#statusOffset[chain.head] = this.#memory.offset;
    return true;
  }

  /**
   * Makes the segment list of `length` bytes that start `skip` bytes into descriptor `first`. Returns its entries;
   * `NOWHERE` when the buffers are not in the memory; another negative number when the arena has no list.
   */
  #mapData(chain: Chain, first: number, skip: number, length: number): number {
    const arena = this.#arena;
    const isShort = chain.count <= IOV_SHORT_ENTRIES;
    let list = isShort ? arena.takeShort() : arena.takeLong();
    if (list === NO_LIST) return ARENA_FULL;
    let end = this.#appendData(chain, first, skip, length, list);
    if (isShort && end > list + IOV_SHORT_ENTRIES) {
      // Buffers cross so many region borders that a short list does not do.
      arena.release(list);
      list = arena.takeLong();
      if (list === NO_LIST) return ARENA_FULL;
      end = this.#appendData(chain, first, skip, length, list);
    }
    if (end === NOWHERE || end > list + arena.entriesOf(list)) {
      arena.release(list);
      return NOWHERE;
    }
    this.#segments[chain.head] = list;
    return end - list;
  }

  #appendData(chain: Chain, first: number, skip: number, length: number, list: number): number {
    const end = list + this.#arena.entriesOf(list);
    let entry = list;
    let left = length;
    let toSkip = skip;
    for (let i = first; left > 0; i++) {
      const whole = chain.lengths[i] as number;
      if (whole <= toSkip) {
        toSkip -= whole;
        continue;
      }
      const part = whole - toSkip;
      const take = Math.min(part, left);
      entry = this.#memory.appendSegments(chain.addresses, i, toSkip, take, this.#arena, entry, end);
      if (entry === NOWHERE || entry > end) return entry;
      left -= take;
      toSkip = 0;
    }
    return entry;
  }

  /** Copies `length` readable bytes from `skip` on into the scratch buffer. */
  #gather(chain: Chain, skip: number, length: number): boolean {
    let toSkip = skip;
    let filled = 0;
    for (let i = 0; i < chain.readableCount && filled < length; i++) {
      const whole = chain.lengths[i] as number;
      if (whole <= toSkip) {
        toSkip -= whole;
        continue;
      }
      const take = Math.min(whole - toSkip, length - filled);
      if (!this.#memory.read(chain.addresses, i, toSkip, SCRATCH, filled, take)) return false;
      filled += take;
      toSkip = 0;
    }
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

  #reportFault(fault: RingFault): void {
    this.#hasReportedFault = true;
    this.#counters[QueueCounter.faults] = (this.#counters[QueueCounter.faults] as number) + 1;
    this.#faults.warn(
      `ring-${fault}`,
      `queue ${this.index} is broken until it is set up again: ${RING_FAULT_TEXT[fault]}`,
    );
    if (this.#errFd >= 0) signalEventFd(this.#errFd);
  }
}

/** See `#mapData`. */
const ARENA_FULL = -2;
