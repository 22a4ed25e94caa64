/**
 * A virtio-blk disk's channel in one reactor: the driver's side of one of the controller's queues (virtio 1.3 §2.7 and
 * §5.2.6). Data goes through buffers in memory that the target shares: one copy each way, as the guest's own memory
 * belongs to another session and is not the target's to see.
 *
 * While the target is away requests wait; when it is back, what it had not answered is sent again. It is not trusted:
 * an answer to nothing is ignored and counted as the end of the queue.
 */
import { TargetError } from '../../../base/errors.ts';
import { CopyEngine } from '../../../sys/copy-engine.ts';
import { readEventFd, signalEventFd } from '../../../sys/events.ts';
import { IOV_LONG_ENTRIES, IovArena } from '../../../sys/iov-arena.ts';
import { MappingViews } from '../../../sys/mapping.ts';
import {
  BLK_HEADER_BYTES,
  BLK_RANGE_BYTES,
  BLK_RANGE_UNMAP,
  BlkRequestType,
  BlkStatus,
  SECTOR_BYTES,
} from '../../../virtio/blk.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType } from '../../bdev-io.ts';
import {
  BUFFER_BYTES,
  DESCRIPTORS_PER_REQUEST,
  layoutOf,
  type QueueLayout,
  QueueWord,
  REQUEST_BYTES,
  type VirtioChannelParams,
} from './layout.ts';

const TWO_32 = 2 ** 32;
const F_NEXT = 1;
const F_WRITE = 2;
/** In the available ring's flags: no calls, please. In the used ring's: no kicks, please. */
const NO_NOTIFICATION = 1;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE, flush: FLUSH, unmap: UNMAP } = IoType;
const SUCCESS = IoStatus.success;
const FAILED = IoStatus.failed;
const PER_REQUEST = DESCRIPTORS_PER_REQUEST;

export class VirtioChannel implements IoChannel {
  readonly wakeFd: number;
  readonly #kickFd: number;
  readonly #queue: number;
  readonly #table: Int32Array;
  readonly #layout: QueueLayout;
  readonly #mask: number;
  readonly #arena: IovArena;
  readonly #list = new IovArena(0, 1);
  readonly #engine = new CopyEngine(this.#list, 1);
  readonly #views = new MappingViews();
  readonly #guestAddress: number;
  readonly #descriptors: Uint32Array;
  readonly #available: Uint16Array;
  readonly #used16: Uint16Array;
  readonly #used32: Uint32Array;
  readonly #requests: Uint32Array;
  readonly #status: Uint8Array;
  readonly #sectorsPerBlock: number;
  readonly #discardBytesMax: number;
  readonly #zeroBytesMax: number;
  readonly #zeroFlags: number;
  #isConnected = false;
  #isAbandoned = false;
  #isBroken = false;
  #nextAvailable = 0;
  #published = 0;
  #nextUsed = 0;

  readonly #ios: (BdevIo | null)[];
  /** Bytes that earlier pieces did, and those of the piece at the target; 1 while it is there. */
  readonly #done: Float64Array;
  readonly #piece: Float64Array;
  readonly #isSent: Uint8Array;
  readonly #free: Int32Array;
  #freeCount: number;
  /** Slots that wait to be sent while the target is away. */
  #held: number[] = [];
  #waiting: BdevIo[] = [];
  #ended = 0;

  constructor(description: BdevDescription, context: ChannelContext) {
    const params = description.params as VirtioChannelParams;
    this.#table = new Int32Array(params.queues);
    this.#queue = claimQueue(description.name, this.#table, params.queueCount);
    this.#kickFd = this.#table[this.#queue * QueueWord.count + QueueWord.kickFd] as number;
    this.wakeFd = this.#table[this.#queue * QueueWord.count + QueueWord.callFd] as number;
    this.#arena = context.arena;
    const layout = layoutOf(params.queueSize);
    const { slots } = layout;
    this.#layout = layout;
    this.#mask = params.queueSize - 1;
    const address = params.address + this.#queue * layout.totalBytes;
    this.#guestAddress = params.guestAddress + this.#queue * layout.totalBytes;
    const buffer = this.#views.view({ address, lengthBytes: layout.totalBytes }, 0, layout.buffers);
    this.#descriptors = new Uint32Array(buffer, 0, 4 * params.queueSize);
    this.#available = new Uint16Array(buffer, layout.available, 3 + params.queueSize);
    this.#used16 = new Uint16Array(buffer, layout.used, 3 + 4 * params.queueSize);
    this.#used32 = new Uint32Array(buffer, layout.used, 1 + 2 * params.queueSize);
    this.#requests = new Uint32Array(buffer, layout.requests, (slots * REQUEST_BYTES) / 4);
    this.#status = new Uint8Array(buffer, layout.status, slots);
    this.#engine.setDisk(address, 1, layout.totalBytes);
    this.#sectorsPerBlock = description.blockSizeBytes / SECTOR_BYTES;
    const { blockSizeBytes } = description;
    this.#discardBytesMax = wholeBlocks(params.discardSectorsMax * SECTOR_BYTES, blockSizeBytes);
    this.#zeroBytesMax = wholeBlocks(params.zeroSectorsMax * SECTOR_BYTES, blockSizeBytes);
    this.#zeroFlags = params.zeroMayUnmap ? BLK_RANGE_UNMAP : 0;
    this.#ios = Array.from({ length: slots }, () => null);
    this.#done = new Float64Array(slots);
    this.#piece = new Float64Array(slots);
    this.#isSent = new Uint8Array(slots);
    this.#free = Int32Array.from({ length: slots }, (_, i) => slots - 1 - i);
    this.#freeCount = slots;
    for (let slot = 0; slot < slots; slot++) this.#describe(slot);
    this.update(description);
  }

  submit(io: BdevIo): void {
    if (io.type !== FLUSH && io.lengthBytes === 0) io.complete(SUCCESS);
    else if (this.#isBroken) io.complete(FAILED);
    else if (this.#freeCount === 0) this.#waiting.push(io);
    else this.#start(io);
  }

  poll(): number {
    this.#ended = 0;
    if (this.#isAbandoned || this.#isBroken) this.#failHeld();
    if (!this.#isConnected) return this.#ended;
    this.#publish();
    while (!this.#isBroken && Atomics.load(this.#used16, 1) !== this.#nextUsed) this.#takeUsed();
    this.#publish();
    return this.#ended;
  }

  arm(): boolean {
    Atomics.store(this.#available, 0, 0);
    if (!this.#isConnected) return this.#isAbandoned && this.#held.length > 0;
    return Atomics.load(this.#used16, 1) !== this.#nextUsed || this.#nextAvailable !== this.#published;
  }

  disarm(): void {
    Atomics.store(this.#available, 0, NO_NOTIFICATION);
    readEventFd(this.wakeFd);
  }

  abandon(): void {
    this.#isAbandoned = true;
  }

  /** The target came, went, or has another size. */
  update(description: BdevDescription): void {
    const { isConnected } = description.params as VirtioChannelParams;
    if (isConnected === this.#isConnected) return;
    this.#isConnected = isConnected;
    if (!isConnected) {
      for (let slot = 0; slot < this.#layout.slots; slot++) {
        if (this.#isSent[slot] === 1) this.#hold(slot);
      }
      return;
    }
    this.#isBroken = false;
    // The rings stand still: whoever made the connection began them anew, or the last channel left nothing in them.
    this.#nextAvailable = this.#available[1] as number;
    this.#published = this.#nextAvailable;
    this.#nextUsed = this.#used16[1] as number;
    const held = this.#held;
    this.#held = [];
    for (const slot of held) this.#send(slot);
    this.#publish();
  }

  close(): void {
    this.#views.close();
    this.#engine.close();
    this.#list.close();
    Atomics.store(this.#table, this.#queue * QueueWord.count + QueueWord.claim, 0);
  }

  /** Writes what never changes of a request's descriptors. */
  #describe(slot: number): void {
    const { requests, status, buffers } = this.#layout;
    const first = slot * PER_REQUEST;
    this.#setDescriptor(first, requests + slot * REQUEST_BYTES, BLK_HEADER_BYTES);
    this.#setDescriptor(first + 1, buffers + slot * BUFFER_BYTES, 0);
    this.#setDescriptor(first + 2, status + slot, 1);
    this.#descriptors[4 * (first + 2) + 3] = F_WRITE;
  }

  #setDescriptor(index: number, offset: number, lengthBytes: number): void {
    const address = this.#guestAddress + offset;
    this.#descriptors[4 * index] = address >>> 0;
    this.#descriptors[4 * index + 1] = address / TWO_32;
    this.#descriptors[4 * index + 2] = lengthBytes;
  }

  #start(io: BdevIo): void {
    const slot = this.#free[--this.#freeCount] as number;
    this.#ios[slot] = io;
    this.#done[slot] = 0;
    if (this.#isConnected) this.#send(slot);
    else this.#hold(slot);
  }

  #hold(slot: number): void {
    this.#isSent[slot] = 0;
    this.#held.push(slot);
  }

  /** Puts the next piece of a request into the available ring. */
  #send(slot: number): void {
    const io = this.#ios[slot] as BdevIo;
    const done = this.#done[slot] as number;
    const { type } = io;
    const hasData = type === READ || type === WRITE;
    const max = hasData ? BUFFER_BYTES : type === UNMAP ? this.#discardBytesMax : this.#zeroBytesMax;
    const length = type === FLUSH ? 0 : Math.min(io.lengthBytes - done, max);
    this.#piece[slot] = length;
    this.#isSent[slot] = 1;
    this.#status[slot] = 0xff;
    const sector = type === FLUSH ? 0 : io.offsetBlocks * this.#sectorsPerBlock + done / SECTOR_BYTES;
    const at = (slot * REQUEST_BYTES) / 4;
    this.#requests[at] = requestType(type);
    this.#requests[at + 1] = 0;
    this.#requests[at + 2] = hasData ? sector >>> 0 : 0;
    this.#requests[at + 3] = hasData ? sector / TWO_32 : 0;
    const first = slot * PER_REQUEST;
    this.#descriptors[4 * first + 3] = F_NEXT | ((type === FLUSH ? first + 2 : first + 1) << 16);
    if (hasData) {
      this.#setDescriptor(first + 1, this.#layout.buffers + slot * BUFFER_BYTES, length);
      if (type === WRITE) this.#copy(slot, io, done, length, true);
    } else if (type !== FLUSH) {
      this.#setDescriptor(first + 1, this.#layout.requests + slot * REQUEST_BYTES + BLK_HEADER_BYTES, BLK_RANGE_BYTES);
      this.#requests[at + 4] = sector >>> 0;
      this.#requests[at + 5] = sector / TWO_32;
      this.#requests[at + 6] = length / SECTOR_BYTES;
      this.#requests[at + 7] = type === UNMAP ? 0 : this.#zeroFlags;
    }
    this.#descriptors[4 * (first + 1) + 3] = F_NEXT | (type === READ ? F_WRITE : 0) | ((first + 2) << 16);
    this.#available[2 + (this.#nextAvailable & this.#mask)] = first;
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
  }

  /** Shows what was sent to the target, and kicks it if it wants that. */
  #publish(): void {
    if (!this.#isConnected || this.#nextAvailable === this.#published) return;
    // Releases the descriptors, and is a full barrier before the target's flags are read.
    Atomics.store(this.#available, 1, this.#nextAvailable);
    this.#published = this.#nextAvailable;
    if ((Atomics.load(this.#used16, 0) & NO_NOTIFICATION) === 0) signalEventFd(this.#kickFd);
  }

  #takeUsed(): void {
    const id = this.#used32[1 + 2 * (this.#nextUsed & this.#mask)] as number;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    const slot = id / PER_REQUEST;
    const isOurs = Number.isInteger(slot) && slot < this.#layout.slots && this.#isSent[slot] === 1;
    if (!isOurs) {
      this.#break();
      return;
    }
    const io = this.#ios[slot] as BdevIo;
    const isSuccess = this.#status[slot] === BlkStatus.OK;
    const done = this.#done[slot] as number;
    const length = this.#piece[slot] as number;
    if (isSuccess && io.type === READ) this.#copy(slot, io, done, length, false);
    this.#isSent[slot] = 0;
    this.#done[slot] = done + length;
    if (isSuccess && io.type !== FLUSH && done + length < io.lengthBytes) this.#send(slot);
    else this.#end(slot, isSuccess ? SUCCESS : FAILED);
  }

  /** The target does not keep to the rules: nothing more is taken from it until it is there anew. */
  #break(): void {
    this.#isBroken = true;
    for (let slot = 0; slot < this.#layout.slots; slot++) if (this.#isSent[slot] === 1) this.#hold(slot);
    this.#failHeld();
  }

  #failHeld(): void {
    const held = this.#held;
    this.#held = [];
    for (const slot of held) this.#end(slot, FAILED);
  }

  #end(slot: number, status: IoStatus): void {
    const io = this.#ios[slot] as BdevIo;
    this.#ios[slot] = null;
    this.#free[this.#freeCount++] = slot;
    this.#ended++;
    const next = this.#waiting.length > 0 ? this.#waiting.shift() : undefined;
    if (next !== undefined) this.#start(next);
    io.complete(status);
  }

  /** Between a part of the request's segments and its buffer. */
  #copy(slot: number, io: BdevIo, skip: number, length: number, isWrite: boolean): void {
    const entries = this.#list.setPart(0, IOV_LONG_ENTRIES, this.#arena, io.iovFirst, io.iovCount, skip, length);
    const offset = this.#layout.buffers + slot * BUFFER_BYTES;
    if (isWrite) this.#engine.write(offset, length, 0, entries);
    else this.#engine.read(offset, length, 0, entries);
    this.#engine.run();
  }
}

function claimQueue(name: string, table: Int32Array, count: number): number {
  for (let queue = 0; queue < count; queue++) {
    if (Atomics.compareExchange(table, queue * QueueWord.count + QueueWord.claim, 0, 1) === 0) return queue;
  }
  throw new TargetError(
    'EBUSY',
    `bdev "${name}" has ${count} queues, each for one reactor: attach it with a larger vq_count, or give its ` +
      'controller a smaller cpumask',
  );
}

/** So many bytes at most in one request, in whole blocks; a target that says nothing takes any. */
function wholeBlocks(bytes: number, blockSizeBytes: number): number {
  const most = bytes === 0 ? 2 ** 30 : Math.min(bytes, 2 ** 30);
  return Math.max(blockSizeBytes, most - (most % blockSizeBytes));
}

function requestType(type: IoType): number {
  if (type === READ) return BlkRequestType.IN;
  if (type === WRITE) return BlkRequestType.OUT;
  if (type === FLUSH) return BlkRequestType.FLUSH;
  return type === UNMAP ? BlkRequestType.DISCARD : BlkRequestType.WRITE_ZEROES;
}
