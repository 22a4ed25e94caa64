/**
 * One request queue of a vhost-user-scsi controller in its reactor: virtio-scsi commands (virtio 1.3 §5.6.6.1) become
 * tasks of SCSI targets, and their ends become responses.
 *
 *   device-readable   request (51 bytes), data-out
 *   device-writable   response (108 bytes), data-in
 *
 * Framing is free: each part may be cut over descriptors in any way. A slot is the head index of the chain it came
 * from. A target may come back to the buffers of a task at any time until it ends, so a slot keeps a copy of the chain
 * (a short one of its own, a long one from a pool), unless the task says that it will not: READ and WRITE do once their
 * segment list is made. Nothing is allocated per request once a slot was used.
 */
import type { BdevIo } from '../bdev/bdev-io.ts';
import type { Sharer } from '../bdev/fair-shares.ts';
import { NOWHERE, type Window } from '../memory/guest-memory.ts';
import { ScsiTask, type TaskTransport } from '../scsi/task.ts';
import { NO_LIST } from '../sys/iov-arena.ts';
import { Chain } from '../virtio/chain.ts';
import {
  decodeLun,
  SCSI_REQUEST_BYTES,
  SCSI_RESPONSE_BYTES,
  SCSI_SENSE_BYTES,
  ScsiRequestOffset,
  ScsiResponse,
  ScsiResponseOffset,
} from '../virtio/scsi.ts';
import { ARENA_FULL } from './chain-data.ts';
import { type QueueOptions, RequestQueue } from './request-queue.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const REQUEST_BYTES = SCSI_REQUEST_BYTES;
const RESPONSE_BYTES = SCSI_RESPONSE_BYTES;
const SENSE_BYTES = SCSI_SENSE_BYTES;
const NOT_MAPPED = NOWHERE;
const NONE = NO_LIST;
const FULL = ARENA_FULL;
const { FAILURE, BAD_TARGET, BUSY } = ScsiResponse;

/** Results of `mapData`, as the task interface has them. */
const MAPPED = 0;
const MAP_FAULT = -1;
const MAP_RETRY = -2;

/**
 * Descriptors of the chain that every slot has room for: a page list of 48 KiB, or an indirect table's usual length.
 */
const SLOT_DESCRIPTORS = 16;

/** A request that is not in one piece, or in an odd place, is put together here. */
const HEADER_WORDS = new Uint32Array(Math.ceil(SCSI_REQUEST_BYTES / 4));
const HEADER = new Uint8Array(HEADER_WORDS.buffer);
/** Words of a request. The CDB starts in the last byte of the one with the attribute. */
const TAG_WORD = ScsiRequestOffset.tag / 4;
const ATTRIBUTE_WORD = ScsiRequestOffset.attribute / 4;
/** First word of a LUN field: format 1 in byte 0; the highest bit of byte 2 clear, so that the rest is a plain LUN. */
const LUN_FORMAT_MASK = 0xff;
const LUN_FORMAT = 1;
const LUN_IS_SPECIAL = 0x80_0000;
/** A response whose place is not in one piece is made here. */
const RESPONSE = new Uint8Array(SCSI_RESPONSE_BYTES);
const RESPONSE_WORDS = new Uint32Array(RESPONSE.buffer);

/** Takes tasks; each ends with `taskDone`, or waits for a list after `mapData` found none. */
export interface TaskTarget {
  execute(task: ScsiTask): void;
}

/** Where the targets are found. */
export interface TargetDirectory {
  /** Null when there is no such target. */
  target(number: number): TaskTarget | null;
  /** Ends the tasks of a queue, known by its own `sharer`, with `taskWithdrawn` whose I/O no device was given. */
  withdraw(sharer: Sharer): void;
}

export interface ScsiQueueOptions extends QueueOptions {
  readonly device: TargetDirectory;
}

/** What is known of a slot's request. An object, not rows of arrays: a field costs a fraction of a checked element. */
class Request extends ScsiTask {
  /** Where the response goes; null when that is not in one piece. */
  place: Window | null = null;
  placeOffset = 0;
  /** The target's number. */
  target = 0;
  /** Segment list that the task took, or `NONE`; and more of them, which is rare. */
  list = NONE;
  moreLists: number[] | null = null;
  /** A buffer turned out to be outside the memory. */
  isFaulty = false;
  /** The chain in use; null once it is not needed any more. */
  chain: Chain | null = null;
  /** For a copy of a short chain, and the copy of a long one. */
  ownChain: Chain | null = null;
  longChain: Chain | null = null;

  constructor(transport: TaskTransport, slot: number) {
    super(transport);
    this.slot = slot;
  }
}

export class ScsiQueue extends RequestQueue implements TaskTransport {
  readonly #device: TargetDirectory;
  readonly #requests: (Request | null)[];
  readonly #longChains: Chain[] = [];
  /** Tasks that found no segment list: the targets get them again. */
  #retries: Request[] = [];

  constructor(options: ScsiQueueOptions) {
    super(options);
    this.#device = options.device;
    this.#requests = Array.from({ length: options.ring.size }, () => null);
  }

  override take(): number {
    if (this.#retries.length > 0) this.#retry();
    return super.take();
  }

  override get isBusy(): boolean {
    return this.#retries.length > 0 || super.isBusy;
  }

  /** Tasks that wait for segment lists come first. */
  protected override wantsMore(): boolean {
    return this.#retries.length === 0;
  }

  // ---- requests -----------------------------------------------------------------------------------------------------

  protected override accept(chain: Chain): boolean {
    if (chain.writableBytes < RESPONSE_BYTES) return this.refuse(chain, 'has no room for the response');
    const place = this.data.locate(chain, chain.readableCount, RESPONSE_BYTES);
    if (place === null && !this.#clearResponse(chain)) return this.refuse(chain, 'has its response outside the memory');
    const request = this.#requests[chain.head] ?? this.#makeRequest(chain.head);
    request.place = place;
    request.placeOffset = this.memory.offset;
    request.isFaulty = false;
    request.chain = chain;
    if (chain.readableBytes >= REQUEST_BYTES) this.#begin(request, chain);
    else this.#endNow(request, FAILURE);
    // What has not ended yet, and may come back to its buffers, keeps them.
    if (request.chain === chain) {
      request.chain = null;
      if (request.needsBuffers || place === null) this.#keep(request, chain);
    }
    return true;
  }

  /** Gives the request to its target: every byte of it is read once. */
  #begin(request: Request, chain: Chain): void {
    const window = this.data.locate(chain, 0, REQUEST_BYTES);
    const { offset } = this.memory;
    let words: Uint32Array = HEADER_WORDS;
    let at = 0;
    if (window !== null && (offset & 3) === 0) {
      words = window.words;
      at = offset >>> 2;
    } else if (!this.data.gather(chain, 0, HEADER, 0, REQUEST_BYTES)) {
      this.#endNow(request, FAILURE);
      return;
    }
    const lun = words[at] as number;
    const lunRest = words[at + 1] as number;
    request.tagLow = (words[at + TAG_WORD] as number) | 0;
    request.tagHigh = (words[at + TAG_WORD + 1] as number) | 0;
    const head = words[at + ATTRIBUTE_WORD] as number;
    const cdb1 = words[at + ATTRIBUTE_WORD + 1] as number;
    const cdb2 = words[at + ATTRIBUTE_WORD + 2] as number;
    const cdb3 = words[at + ATTRIBUTE_WORD + 3] as number;
    const cdb4 = words[at + ATTRIBUTE_WORD + 4] as number;
    request.attribute = head & 0xff;
    request.cdb0 = (head >>> 24) | (cdb1 << 8);
    request.cdb1 = (cdb1 >>> 24) | (cdb2 << 8);
    request.cdb2 = (cdb2 >>> 24) | (cdb3 << 8);
    request.cdb3 = (cdb3 >>> 24) | (cdb4 << 8);
    request.dataOutBytes = chain.readableBytes - REQUEST_BYTES;
    request.dataInBytes = chain.writableBytes - RESPONSE_BYTES;
    request.target = (lun >>> 8) & 0xff;
    request.lun = ((lun >>> 8) & 0x3f00) | (lun >>> 24);
    if ((lun & LUN_IS_SPECIAL) !== 0 || lunRest !== 0) request.lun = specialLun(lun, lunRest);
    // Both directions in one request need INOUT, which is not offered.
    if (request.dataOutBytes > 0 && request.dataInBytes > 0) this.#endNow(request, FAILURE);
    else if (this.isDetached || (lun & LUN_FORMAT_MASK) !== LUN_FORMAT) this.#endNow(request, BAD_TARGET);
    else this.#execute(request);
  }

  /**
   * Answers the tasks of a target that wait for segment lists: the target does not know them now, so task management
   * would miss them. The driver brings them again.
   */
  dropRetries(target: number): void {
    const retries = this.#retries;
    this.#retries = retries.filter((request) => request.target !== target);
    for (const request of retries) if (request.target === target) this.#endNow(request, BUSY);
  }

  // ---- TaskTransport ------------------------------------------------------------------------------------------------

  writeDataIn(task: ScsiTask, source: Uint8Array, offset: number, lengthBytes: number): number {
    const request = task as Request;
    const length = Math.min(lengthBytes, request.dataInBytes - offset);
    if (length <= 0) return 0;
    const chain = request.chain as Chain;
    if (!this.data.scatter(chain, RESPONSE_BYTES + offset, source, 0, length)) request.isFaulty = true;
    return length;
  }

  readDataOut(task: ScsiTask, target: Uint8Array, offset: number, lengthBytes: number): number {
    const request = task as Request;
    const length = Math.min(lengthBytes, request.dataOutBytes - offset);
    if (length <= 0) return 0;
    const chain = request.chain as Chain;
    if (this.data.gather(chain, REQUEST_BYTES + offset, target, 0, length)) return length;
    request.isFaulty = true;
    return 0;
  }

  mapData(task: ScsiTask, io: BdevIo, isRead: boolean, offset: number, lengthBytes: number): number {
    const request = task as Request;
    if (offset + lengthBytes > (isRead ? request.dataInBytes : request.dataOutBytes)) return MAP_FAULT;
    const chain = request.chain as Chain;
    const first = isRead ? chain.readableCount : 0;
    const skip = (isRead ? RESPONSE_BYTES : REQUEST_BYTES) + offset;
    const count = this.data.map(chain, first, skip, lengthBytes);
    if (count === FULL) {
      this.#retries.push(request);
      return MAP_RETRY;
    }
    if (count === NOT_MAPPED) {
      request.isFaulty = true;
      return MAP_FAULT;
    }
    const { list } = this.data;
    io.iovFirst = list;
    io.iovCount = count;
    if (request.list === NONE) request.list = list;
    else {
      request.moreLists ??= [];
      request.moreLists.push(list);
    }
    return MAPPED;
  }

  taskDone(task: ScsiTask): void {
    const request = task as Request;
    const { place, slot } = request;
    const response = request.isFaulty ? FAILURE : request.response;
    if (place !== null) encodeResponse(place.bytes, place.words, request.placeOffset, request, response);
    else {
      RESPONSE.fill(0);
      encodeResponse(RESPONSE, RESPONSE_WORDS, 0, request, response);
      this.data.scatter(request.chain as Chain, 0, RESPONSE, 0, RESPONSE_BYTES);
    }
    const placed = request.dataInBytes > 0 ? Math.min(request.transferredBytes, request.dataInBytes) : 0;
    if (request.list !== NONE) this.#releaseLists(request);
    if (request.chain !== null) this.#releaseChain(request);
    this.complete(slot, RESPONSE_BYTES + placed);
  }

  taskWithdrawn(task: ScsiTask): void {
    const request = task as Request;
    this.#releaseLists(request);
    if (request.chain !== null) this.#releaseChain(request);
    this.leave(request.slot);
  }

  // ---- tasks --------------------------------------------------------------------------------------------------------

  protected override withdraw(): void {
    const retries = this.#retries;
    this.#retries = [];
    for (const request of retries) this.taskWithdrawn(request);
    if (this.sharer !== null) this.#device.withdraw(this.sharer);
  }

  #execute(request: Request): void {
    const target = this.#device.target(request.target);
    if (target === null) this.#endNow(request, BAD_TARGET);
    else target.execute(request);
  }

  /** Brings the tasks again that waited for lists. Those that find none again wait on. */
  #retry(): void {
    const requests = this.#retries;
    this.#retries = [];
    for (const request of requests) {
      this.#releaseLists(request);
      this.#execute(request);
    }
  }

  /** Ends a request that no target saw. */
  #endNow(request: Request, response: number): void {
    request.dataInBytes = 0;
    request.dataOutBytes = 0;
    request.status = 0;
    request.senseLength = 0;
    request.transferredBytes = 0;
    request.residualBytes = 0;
    request.response = response as ScsiTask['response'];
    this.taskDone(request);
  }

  #makeRequest(slot: number): Request {
    const request = new Request(this, slot);
    this.#requests[slot] = request;
    return request;
  }

  /** The chain is another's after this request. */
  #keep(request: Request, chain: Chain): void {
    let own: Chain;
    if (chain.count <= SLOT_DESCRIPTORS) {
      own = request.ownChain ?? new Chain(SLOT_DESCRIPTORS);
      request.ownChain = own;
    } else {
      own = this.#longChains.pop() ?? new Chain();
      request.longChain = own;
    }
    own.copyFrom(chain);
    request.chain = own;
  }

  #releaseChain(request: Request): void {
    request.chain = null;
    if (request.longChain === null) return;
    this.#longChains.push(request.longChain);
    request.longChain = null;
  }

  #releaseLists(request: Request): void {
    if (request.list === NONE) return;
    this.arena.release(request.list);
    request.list = NONE;
    const more = request.moreLists;
    if (more === null) return;
    for (let i = 0; i < more.length; i++) this.arena.release(more[i] as number);
    more.length = 0;
  }

  /** A response that is not in one piece is cleared first. False when it has no place in the guest's memory. */
  #clearResponse(chain: Chain): boolean {
    RESPONSE.fill(0);
    return this.data.scatter(chain, 0, RESPONSE, 0, RESPONSE_BYTES);
  }
}

/** LUN of a field that is not a plain number (SAM-5 §4.7), from its two words. */
function specialLun(low: number, high: number): number {
  HEADER_WORDS[0] = low;
  HEADER_WORDS[1] = high;
  return decodeLun(HEADER, 0);
}

/**
 * Sense bytes behind `senseBytes` are left as they are: nearly always all of them, a cache line that needs no transfer.
 */
function encodeResponse(bytes: Uint8Array, words: Uint32Array, at: number, task: ScsiTask, response: number): void {
  const senseBytes = Math.min(task.senseLength, SENSE_BYTES);
  const statusAndResponse = (task.status << 16) | (response << 24);
  if ((at & 3) === 0) {
    const word = at >>> 2;
    words[word] = senseBytes;
    words[word + 1] = task.residualBytes;
    words[word + 2] = statusAndResponse;
  } else {
    writeU32(bytes, at + ScsiResponseOffset.senseLength, senseBytes);
    writeU32(bytes, at + ScsiResponseOffset.residual, task.residualBytes);
    writeU32(bytes, at + ScsiResponseOffset.statusQualifier, statusAndResponse);
  }
  const senseAt = at + ScsiResponseOffset.sense;
  for (let i = 0; i < senseBytes; i++) bytes[senseAt + i] = task.sense[i] as number;
}

/** Little-endian. */
function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}
