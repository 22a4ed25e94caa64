/**
 * One request queue of a vhost-user-scsi controller in its reactor: virtio-scsi commands (virtio 1.3 §5.6.6.1) become
 * tasks of SCSI targets, and their ends become responses.
 *
 *   device-readable   request (51 bytes), data-out
 *   device-writable   response (108 bytes), data-in
 *
 * Framing is free: each part may be cut over descriptors in any way. A slot is the head index of the chain it came
 * from. A target may come back to the buffers of a task at any time until it ends, so a slot keeps a copy of the chain:
 * a short one of its own, a long one from a pool. Nothing is allocated per request once a slot was used.
 */
import type { BdevIo } from '../bdev/bdev-io.ts';
import { NOWHERE } from '../memory/guest-memory.ts';
import { ScsiTask, type TaskTransport } from '../scsi/task.ts';
import { NO_LIST } from '../sys/iov-arena.ts';
import { Chain } from '../virtio/chain.ts';
import {
  decodeLun,
  decodeTarget,
  NO_LUN,
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

/** Results of `mapData`, as the task interface has them. */
const MAPPED = 0;
const MAP_FAULT = -1;
const MAP_RETRY = -2;

/**
 * Descriptors of the chain that every slot has room for: a page list of 48 KiB, or an indirect table's usual length.
 */
const SLOT_DESCRIPTORS = 16;

/** Bytes of a CDB whose opcode is not in a group of longer ones: 3, variable length, and 6 and 7, vendor specific. */
const SHORT_CDB_BYTES = 16;
const LONG_CDB_GROUPS = (1 << 3) | (1 << 6) | (1 << 7);

/** A request that is not in one piece is put together here. */
const HEADER = new Uint8Array(SCSI_REQUEST_BYTES);
/** A response whose place is not in one piece is made here. */
const RESPONSE = new Uint8Array(SCSI_RESPONSE_BYTES);

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
  readonly #slotChains: (Chain | null)[];
  /** By slot: the chain in use. */
  readonly #chains: (Chain | null)[];
  readonly #longChains: Chain[] = [];
  /** By slot: the target's number. */
  readonly #targetOf: Uint8Array;
  /** Slots of tasks that found no segment list: the targets get them again. */
  readonly #retries: Int32Array;
  #retryCount = 0;

  constructor(options: ScsiQueueOptions) {
    super(options);
    const { size } = options.ring;
    this.#device = options.device;
    this.#responseWindow = new Int32Array(size);
    this.#responseOffset = new Uint32Array(size);
    this.#list = new Int32Array(size).fill(NO_LIST);
    this.#isFaulty = new Uint8Array(size);
    this.#moreLists = emptySlots<number[]>(size);
    this.#tasks = emptySlots<ScsiTask>(size);
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
    if (chain.writableBytes < SCSI_RESPONSE_BYTES) return this.refuse(chain, 'has no room for the response');
    if (!this.#locateResponse(chain)) return this.refuse(chain, 'has its response outside the memory');
    this.#keep(chain);
    if (chain.readableBytes < SCSI_REQUEST_BYTES) return this.#endNow(slot, ScsiResponse.FAILURE);
    const isTogether = (chain.lengths[0] as number) >= SCSI_REQUEST_BYTES;
    const window = isTogether ? this.memory.locate(chain.addresses, 0, 0, SCSI_REQUEST_BYTES) : NOWHERE;
    if (window !== NOWHERE) return this.#parse(chain, this.memory.window(window).bytes, this.memory.offset);
    if (!this.data.gather(chain, 0, HEADER, 0, SCSI_REQUEST_BYTES)) return this.#endNow(slot, ScsiResponse.FAILURE);
    return this.#parse(chain, HEADER, 0);
  }

  /** Reads the request at `bytes[at]`, which may be the guest's own memory: every byte is read once. */
  #parse(chain: Chain, bytes: Uint8Array, at: number): true {
    const slot = chain.head;
    const dataOutBytes = chain.readableBytes - SCSI_REQUEST_BYTES;
    const dataInBytes = chain.writableBytes - SCSI_RESPONSE_BYTES;
    // Both directions in one request need INOUT, which is not offered.
    if (dataOutBytes > 0 && dataInBytes > 0) return this.#endNow(slot, ScsiResponse.FAILURE);
    const target = this.isDetached ? NO_LUN : decodeTarget(bytes, at + ScsiRequestOffset.lun);
    if (target === NO_LUN) return this.#endNow(slot, ScsiResponse.BAD_TARGET);
    this.#targetOf[slot] = target;
    const task = this.#taskOf(slot);
    task.lun = decodeLun(bytes, at + ScsiRequestOffset.lun);
    task.tagLow = readU32(bytes, at + ScsiRequestOffset.tag);
    task.tagHigh = readU32(bytes, at + ScsiRequestOffset.tag + 4);
    task.attribute = bytes[at + ScsiRequestOffset.attribute] as number;
    const { cdb } = task;
    const cdbAt = at + ScsiRequestOffset.cdb;
    const opcode = bytes[cdbAt] as number;
    cdb[0] = opcode;
    const cdbBytes = (LONG_CDB_GROUPS & (1 << (opcode >>> 5))) === 0 ? SHORT_CDB_BYTES : SCSI_CDB_BYTES;
    for (let i = 1; i < cdbBytes; i++) cdb[i] = bytes[cdbAt + i] as number;
    task.dataInBytes = dataInBytes;
    task.dataOutBytes = dataOutBytes;
    this.#execute(slot);
    return true;
  }

  /**
   * Answers the tasks of a target that wait for segment lists: the target does not know them now, so task management
   * would miss them. The driver brings them again.
   */
  dropRetries(target: number): void {
    const slots = this.#retries.slice(0, this.#retryCount);
    this.#retryCount = 0;
    for (const slot of slots) {
      if (this.#targetOf[slot] === target) this.#endNow(slot, ScsiResponse.BUSY);
      else this.#retries[this.#retryCount++] = slot;
    }
  }

  // ---- TaskTransport ------------------------------------------------------------------------------------------------

  writeDataIn(task: ScsiTask, source: Uint8Array, offset: number, lengthBytes: number): number {
    const length = Math.min(lengthBytes, task.dataInBytes - offset);
    if (length <= 0) return 0;
    const chain = this.#chains[task.slot] as Chain;
    if (!this.data.scatter(chain, SCSI_RESPONSE_BYTES + offset, source, 0, length)) this.#isFaulty[task.slot] = 1;
    return length;
  }

  readDataOut(task: ScsiTask, target: Uint8Array, offset: number, lengthBytes: number): number {
    const length = Math.min(lengthBytes, task.dataOutBytes - offset);
    if (length <= 0) return 0;
    const chain = this.#chains[task.slot] as Chain;
    if (this.data.gather(chain, SCSI_REQUEST_BYTES + offset, target, 0, length)) return length;
    this.#isFaulty[task.slot] = 1;
    return 0;
  }

  mapData(task: ScsiTask, io: BdevIo, isRead: boolean, offset: number, lengthBytes: number): number {
    const { slot } = task;
    if (offset + lengthBytes > (isRead ? task.dataInBytes : task.dataOutBytes)) return MAP_FAULT;
    const chain = this.#chains[slot] as Chain;
    const first = isRead ? chain.readableCount : 0;
    const skip = (isRead ? SCSI_RESPONSE_BYTES : SCSI_REQUEST_BYTES) + offset;
    const count = this.data.map(chain, first, skip, lengthBytes);
    if (count === ARENA_FULL) {
      this.#retries[this.#retryCount++] = slot;
      return MAP_RETRY;
    }
    if (count === NOWHERE) {
      this.#isFaulty[slot] = 1;
      return MAP_FAULT;
    }
    io.iovFirst = this.data.list;
    io.iovCount = count;
    if (this.#list[slot] === NO_LIST) this.#list[slot] = this.data.list;
    else this.#keepList(slot, this.data.list);
    return MAPPED;
  }

  taskDone(task: ScsiTask): void {
    const { slot } = task;
    const response = this.#isFaulty[slot] === 0 ? task.response : ScsiResponse.FAILURE;
    const senseBytes = Math.min(task.senseLength, SCSI_SENSE_BYTES);
    const window = this.#responseWindow[slot] as number;
    if (window !== NOWHERE) {
      encodeResponse(
        this.memory.window(window).bytes,
        this.#responseOffset[slot] as number,
        task,
        response,
        senseBytes,
      );
    } else {
      RESPONSE.fill(0);
      encodeResponse(RESPONSE, 0, task, response, senseBytes);
      this.data.scatter(this.#chains[slot] as Chain, 0, RESPONSE, 0, SCSI_RESPONSE_BYTES);
    }
    const placed = task.dataInBytes > 0 ? Math.min(task.transferredBytes, task.dataInBytes) : 0;
    this.#release(slot);
    this.complete(slot, SCSI_RESPONSE_BYTES + placed);
  }

  // ---- tasks
  // ---------------------------------------------------------------------------------------------------------

  #execute(slot: number): void {
    const target = this.#device.target(this.#targetOf[slot] as number);
    if (target === null) this.#endNow(slot, ScsiResponse.BAD_TARGET);
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
      task = new ScsiTask(this);
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
    this.#isFaulty[slot] = 0;
  }

  #keepList(slot: number, list: number): void {
    const more = this.#moreLists[slot] ?? [];
    more.push(list);
    this.#moreLists[slot] = more;
  }

  /** Gives back what the slot holds but its task. */
  #release(slot: number): void {
    this.#releaseLists(slot);
    const chain = this.#chains[slot] as Chain;
    if (chain !== this.#slotChains[slot]) this.#longChains.push(chain);
    this.#chains[slot] = null;
  }

  #releaseLists(slot: number): void {
    if (this.#list[slot] !== NO_LIST) {
      this.arena.release(this.#list[slot] as number);
      this.#list[slot] = NO_LIST;
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
    const isWhole = (chain.lengths[first] as number) >= SCSI_RESPONSE_BYTES;
    const window = isWhole ? this.memory.locate(chain.addresses, first, 0, SCSI_RESPONSE_BYTES) : NOWHERE;
    this.#responseWindow[slot] = window;
    if (window !== NOWHERE) {
      this.#responseOffset[slot] = this.memory.offset;
      return true;
    }
    RESPONSE.fill(0);
    return this.data.scatter(chain, 0, RESPONSE, 0, SCSI_RESPONSE_BYTES);
  }
}

function emptySlots<T>(size: number): (T | null)[] {
  return Array.from({ length: size }, () => null);
}

/**
 * Sense bytes behind `senseBytes` are left as they are: nearly always all of them, a cache line that needs no transfer.
 */
function encodeResponse(bytes: Uint8Array, at: number, task: ScsiTask, response: number, senseBytes: number): void {
  writeU32(bytes, at + ScsiResponseOffset.senseLength, senseBytes);
  writeU32(bytes, at + ScsiResponseOffset.residual, task.residualBytes);
  bytes[at + ScsiResponseOffset.statusQualifier] = 0;
  bytes[at + ScsiResponseOffset.statusQualifier + 1] = 0;
  bytes[at + ScsiResponseOffset.status] = task.status;
  bytes[at + ScsiResponseOffset.response] = response;
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

/** Little-endian. */
function readU32(bytes: Uint8Array, at: number): number {
  const high = ((bytes[at + 3] as number) << 24) | ((bytes[at + 2] as number) << 16);
  return (high | ((bytes[at + 1] as number) << 8) | (bytes[at] as number)) >>> 0;
}
