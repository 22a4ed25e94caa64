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
import { NOWHERE } from '../memory/guest-memory.ts';
import { ScsiTask, type TaskTransport } from '../scsi/task.ts';
import { NO_LIST } from '../sys/iov-arena.ts';
import { Chain } from '../virtio/chain.ts';
import {
  decodeLun,
  SCSI_CDB_BYTES,
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
const HEADER = new Uint8Array(SCSI_REQUEST_BYTES);
/** Words of a slot's copy of its request. */
const REQUEST_WORDS = Math.ceil(SCSI_REQUEST_BYTES / 4);
const TAG_WORD = ScsiRequestOffset.tag / 4;
const ATTRIBUTE_WORD = ScsiRequestOffset.attribute / 4;
/** Words up to the end of a CDB of 16 bytes, which is nearly every one. */
const SHORT_WORDS = Math.ceil((ScsiRequestOffset.cdb + 16) / 4);
/** Groups of opcodes with longer CDBs: 3, variable length, and 6 and 7, vendor specific. */
const LONG_CDB_GROUPS = (1 << 3) | (1 << 6) | (1 << 7);
/** First word of a LUN field: format 1 in byte 0; the highest bit of byte 2 clear, so that the rest is a plain LUN. */
const LUN_FORMAT_MASK = 0xff;
const LUN_FORMAT = 1;
const LUN_IS_SPECIAL = 0x80_0000;
const NO_SLOT = -1;
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
}

export interface ScsiQueueOptions extends QueueOptions {
  readonly device: TargetDirectory;
}

export class ScsiQueue extends RequestQueue implements TaskTransport {
  readonly #device: TargetDirectory;
  /** By slot: where the response goes, or `NOWHERE` when that is not in one piece. */
  readonly #responseWindow: Int32Array;
  readonly #responseOffset: Uint32Array;
  /** By slot: segment lists that the task took. Nearly always one. */
  readonly #list: Int32Array;
  readonly #moreLists: (number[] | null)[];
  /** By slot: 1 when a buffer turned out to be outside the memory. */
  readonly #isFaulty: Uint8Array;
  readonly #tasks: (ScsiTask | null)[];
  /** By slot: the request, up to the end of its CDB, in words and in bytes. */
  readonly #requests: Uint32Array;
  readonly #requestBytes: Uint8Array;
  readonly #slotChains: (Chain | null)[];
  /** By slot: the chain in use. */
  readonly #chains: (Chain | null)[];
  readonly #longChains: Chain[] = [];
  /** By slot: the target's number. */
  readonly #targetOf: Uint8Array;
  /** Slots of tasks that found no segment list: the targets get them again. */
  readonly #retries: Int32Array;
  #retryCount = 0;
  /** The request that is being taken, whose chain is not kept yet. */
  #newSlot = NO_SLOT;
  #newChain: Chain | null = null;

  constructor(options: ScsiQueueOptions) {
    super(options);
    const { size } = options.ring;
    this.#device = options.device;
    this.#responseWindow = new Int32Array(size);
    this.#responseOffset = new Uint32Array(size);
    this.#list = new Int32Array(size).fill(NONE);
    this.#isFaulty = new Uint8Array(size);
    this.#moreLists = emptySlots<number[]>(size);
    this.#tasks = emptySlots<ScsiTask>(size);
    this.#requests = new Uint32Array(size * REQUEST_WORDS);
    this.#requestBytes = new Uint8Array(this.#requests.buffer);
    this.#slotChains = emptySlots<Chain>(size);
    this.#chains = emptySlots<Chain>(size);
    this.#targetOf = new Uint8Array(size);
    this.#retries = new Int32Array(size);
  }

  override take(): number {
    if (this.#retryCount > 0) this.#retry();
    return super.take();
  }

  override get isBusy(): boolean {
    return this.#retryCount > 0 || super.isBusy;
  }

  /** Tasks that wait for segment lists come first. */
  protected override wantsMore(): boolean {
    return this.#retryCount === 0;
  }

  // ---- requests -----------------------------------------------------------------------------------------------------

  protected override accept(chain: Chain): boolean {
    const slot = chain.head;
    if (chain.writableBytes < RESPONSE_BYTES) return this.refuse(chain, 'has no room for the response');
    if (!this.#locateResponse(chain)) return this.refuse(chain, 'has its response outside the memory');
    this.#isFaulty[slot] = 0;
    this.#newSlot = slot;
    this.#newChain = chain;
    if (chain.readableBytes >= REQUEST_BYTES && this.#copyRequest(chain)) this.#begin(chain);
    else this.#endNow(slot, FAILURE);
    // What has not ended yet, and may come back to its buffers, keeps them.
    if (this.#newSlot === slot) {
      this.#newSlot = NO_SLOT;
      if ((this.#tasks[slot] as ScsiTask).needsBuffers || this.#responseWindow[slot] === NOT_MAPPED) this.#keep(chain);
    }
    return true;
  }

  /** Copies the request to the slot: every byte is read once. False when it is not in the guest's memory. */
  #copyRequest(chain: Chain): boolean {
    const own = this.#requests;
    const to = chain.head * REQUEST_WORDS;
    const isTogether = (chain.lengths[0] as number) >= REQUEST_BYTES;
    const window = isTogether ? this.memory.locate(chain.addresses, 0, 0, REQUEST_BYTES) : null;
    const { offset } = this.memory;
    if (window === null || (offset & 3) !== 0) {
      if (!this.data.gather(chain, 0, HEADER, 0, REQUEST_BYTES)) return false;
      this.#requestBytes.set(HEADER, 4 * to);
      return true;
    }
    const { words, bytes } = window;
    const at = offset >>> 2;
    for (let i = 0; i < SHORT_WORDS; i++) own[to + i] = words[at + i] as number;
    if ((LONG_CDB_GROUPS & (1 << ((own[to + ATTRIBUTE_WORD] as number) >>> 29))) !== 0) {
      const rest = 4 * SHORT_WORDS;
      for (let i = rest; i < REQUEST_BYTES; i++) this.#requestBytes[4 * to + i] = bytes[offset + i] as number;
    }
    return true;
  }

  /** Gives the slot's request to its target. */
  #begin(chain: Chain): void {
    const slot = chain.head;
    const dataOutBytes = chain.readableBytes - REQUEST_BYTES;
    const dataInBytes = chain.writableBytes - RESPONSE_BYTES;
    const words = this.#requests;
    const at = slot * REQUEST_WORDS;
    const lun = words[at] as number;
    // Both directions in one request need INOUT, which is not offered.
    if (dataOutBytes > 0 && dataInBytes > 0) this.#endNow(slot, FAILURE);
    else if (this.isDetached || (lun & LUN_FORMAT_MASK) !== LUN_FORMAT) this.#endNow(slot, BAD_TARGET);
    else {
      this.#targetOf[slot] = lun >>> 8;
      const task = this.#taskOf(slot);
      const isPlain = (lun & LUN_IS_SPECIAL) === 0 && words[at + 1] === 0;
      task.lun = isPlain ? ((lun >>> 8) & 0x3f00) | (lun >>> 24) : decodeLun(this.#requestBytes, 4 * at);
      task.tagLow = (words[at + TAG_WORD] as number) | 0;
      task.tagHigh = (words[at + TAG_WORD + 1] as number) | 0;
      task.attribute = (words[at + ATTRIBUTE_WORD] as number) & 0xff;
      task.dataInBytes = dataInBytes;
      task.dataOutBytes = dataOutBytes;
      this.#execute(slot);
    }
  }

  /**
   * Answers the tasks of a target that wait for segment lists: the target does not know them now, so task management
   * would miss them. The driver brings them again.
   */
  dropRetries(target: number): void {
    const slots = this.#retries.slice(0, this.#retryCount);
    this.#retryCount = 0;
    for (const slot of slots) {
      if (this.#targetOf[slot] === target) this.#endNow(slot, BUSY);
      else this.#retries[this.#retryCount++] = slot;
    }
  }

  // ---- TaskTransport ------------------------------------------------------------------------------------------------

  writeDataIn(task: ScsiTask, source: Uint8Array, offset: number, lengthBytes: number): number {
    const length = Math.min(lengthBytes, task.dataInBytes - offset);
    if (length <= 0) return 0;
    const chain = this.#chainOf(task.slot);
    if (!this.data.scatter(chain, RESPONSE_BYTES + offset, source, 0, length)) this.#isFaulty[task.slot] = 1;
    return length;
  }

  readDataOut(task: ScsiTask, target: Uint8Array, offset: number, lengthBytes: number): number {
    const length = Math.min(lengthBytes, task.dataOutBytes - offset);
    if (length <= 0) return 0;
    const chain = this.#chainOf(task.slot);
    if (this.data.gather(chain, REQUEST_BYTES + offset, target, 0, length)) return length;
    this.#isFaulty[task.slot] = 1;
    return 0;
  }

  mapData(task: ScsiTask, io: BdevIo, isRead: boolean, offset: number, lengthBytes: number): number {
    const { slot } = task;
    if (offset + lengthBytes > (isRead ? task.dataInBytes : task.dataOutBytes)) return MAP_FAULT;
    const chain = this.#chainOf(slot);
    const first = isRead ? chain.readableCount : 0;
    const skip = (isRead ? RESPONSE_BYTES : REQUEST_BYTES) + offset;
    const count = this.data.map(chain, first, skip, lengthBytes);
    if (count === FULL) {
      this.#retries[this.#retryCount++] = slot;
      return MAP_RETRY;
    }
    if (count === NOT_MAPPED) {
      this.#isFaulty[slot] = 1;
      return MAP_FAULT;
    }
    io.iovFirst = this.data.list;
    io.iovCount = count;
    if (this.#list[slot] === NONE) this.#list[slot] = this.data.list;
    else this.#keepList(slot, this.data.list);
    return MAPPED;
  }

  taskDone(task: ScsiTask): void {
    const { slot } = task;
    const response = this.#isFaulty[slot] === 0 ? task.response : FAILURE;
    const senseBytes = Math.min(task.senseLength, SENSE_BYTES);
    const window = this.#responseWindow[slot] as number;
    if (window !== NOT_MAPPED) {
      const { bytes, words } = this.memory.window(window);
      encodeResponse(bytes, words, this.#responseOffset[slot] as number, task, response, senseBytes);
    } else {
      RESPONSE.fill(0);
      encodeResponse(RESPONSE, RESPONSE_WORDS, 0, task, response, senseBytes);
      this.data.scatter(this.#chainOf(slot), 0, RESPONSE, 0, RESPONSE_BYTES);
    }
    const placed = task.dataInBytes > 0 ? Math.min(task.transferredBytes, task.dataInBytes) : 0;
    this.#release(slot);
    this.complete(slot, RESPONSE_BYTES + placed);
  }

  // ---- tasks --------------------------------------------------------------------------------------------------------

  #execute(slot: number): void {
    const target = this.#device.target(this.#targetOf[slot] as number);
    if (target === null) this.#endNow(slot, BAD_TARGET);
    else target.execute(this.#tasks[slot] as ScsiTask);
  }

  /** Brings the tasks again that waited for lists. Those that find none again wait on. */
  #retry(): void {
    const count = this.#retryCount;
    const slots = this.#retries.slice(0, count);
    this.#retryCount = 0;
    for (const slot of slots) {
      this.#releaseLists(slot);
      this.#execute(slot);
    }
  }

  /** Ends a request that no target saw. */
  #endNow(slot: number, response: number): true {
    const task = this.#taskOf(slot);
    task.dataInBytes = 0;
    task.dataOutBytes = 0;
    task.status = 0;
    task.senseLength = 0;
    task.transferredBytes = 0;
    task.residualBytes = 0;
    task.response = response as ScsiTask['response'];
    this.taskDone(task);
    return true;
  }

  #taskOf(slot: number): ScsiTask {
    let task = this.#tasks[slot] as ScsiTask | null;
    if (task === null) {
      const cdbAt = 4 * slot * REQUEST_WORDS + ScsiRequestOffset.cdb;
      task = new ScsiTask(this, this.#requestBytes.subarray(cdbAt, cdbAt + SCSI_CDB_BYTES));
      task.slot = slot;
      this.#tasks[slot] = task;
    }
    return task;
  }

  #keep(chain: Chain): void {
    const slot = chain.head;
    let own: Chain;
    if (chain.count <= SLOT_DESCRIPTORS) {
      own = this.#slotChains[slot] ?? new Chain(SLOT_DESCRIPTORS);
      this.#slotChains[slot] = own;
    } else {
      own = this.#longChains.pop() ?? new Chain();
    }
    own.copyFrom(chain);
    this.#chains[slot] = own;
  }

  #chainOf(slot: number): Chain {
    return (slot === this.#newSlot ? this.#newChain : this.#chains[slot]) as Chain;
  }

  #keepList(slot: number, list: number): void {
    const more = this.#moreLists[slot] ?? [];
    more.push(list);
    this.#moreLists[slot] = more;
  }

  /** Gives back what the slot holds but its task. */
  #release(slot: number): void {
    this.#releaseLists(slot);
    if (slot === this.#newSlot) this.#newSlot = NO_SLOT;
    const chain = this.#chains[slot] as Chain | null;
    if (chain === null) return;
    if (chain !== this.#slotChains[slot]) this.#longChains.push(chain);
    this.#chains[slot] = null;
  }

  #releaseLists(slot: number): void {
    if (this.#list[slot] !== NONE) {
      this.arena.release(this.#list[slot] as number);
      this.#list[slot] = NONE;
      const more = this.#moreLists[slot];
      if (more !== null && more !== undefined) {
        for (let i = 0; i < more.length; i++) this.arena.release(more[i] as number);
        more.length = 0;
      }
    }
  }

  /** False when the response has no place in the guest's memory. */
  #locateResponse(chain: Chain): boolean {
    const slot = chain.head;
    const first = chain.readableCount;
    const isWhole = (chain.lengths[first] as number) >= RESPONSE_BYTES;
    const window = isWhole ? this.memory.locate(chain.addresses, first, 0, RESPONSE_BYTES) : null;
    this.#responseWindow[slot] = window === null ? NOT_MAPPED : window.index;
    if (window !== null) {
      this.#responseOffset[slot] = this.memory.offset;
      return true;
    }
    RESPONSE.fill(0);
    return this.data.scatter(chain, 0, RESPONSE, 0, RESPONSE_BYTES);
  }
}

function emptySlots<T>(size: number): (T | null)[] {
  return Array.from({ length: size }, () => null);
}

/**
 * Sense bytes behind `senseBytes` are left as they are: nearly always all of them, a cache line that needs no transfer.
 */
function encodeResponse(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
  task: ScsiTask,
  response: number,
  senseBytes: number,
): void {
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
