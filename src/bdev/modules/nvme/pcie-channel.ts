/**
 * A channel to a namespace of a drive: a queue pair of its own, driven from this thread. Requests go to the drive on
 * the guest's own buffers, in as many commands as its limits ask for; completions are read where the drive writes them.
 *
 * What the drive cannot reach as it is goes through a bounce buffer. While the controller is reset, requests are held;
 * what was in flight is driven again when it is back.
 */

import { TargetError } from '../../../base/errors.ts';
import {
  COMMAND_BLOCKS_MAX,
  DATA_WORD,
  encodeBlocks,
  encodeDeallocate,
  encodeFlush,
  encodeRange,
  RANGE_BLOCKS_MAX,
} from '../../../nvme/command.ts';
import { PrpBuilder } from '../../../nvme/pcie/prp.ts';
import { LIST_BYTES, QueueState, queueLayout, SharedState } from '../../../nvme/pcie/queue-memory.ts';
import { NO_SLOT, QueuePair } from '../../../nvme/pcie/queue-pair.ts';
import { IoOpcode } from '../../../nvme/spec.ts';
import { STATUS_DNR } from '../../../nvme/status.ts';
import { DmaView } from '../../../sys/dma.ts';
import { readEventFd } from '../../../sys/events.ts';
import type { IovArena } from '../../../sys/iov-arena.ts';
import type { BdevDescription, ChannelContext, PlainParams } from '../../bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType, NO_WAKE_FD } from '../../bdev-io.ts';
import { BOUNCE_BYTES, BounceBuffers, NO_BOUNCE } from '../bounce-buffers.ts';

/** Bounce buffers of a queue pair. */
export const BOUNCE_MEMORY_BYTES = 4 * BOUNCE_BYTES;

/** What `PcieController.channelParams` gives. */
interface PcieChannelParams extends PlainParams {
  readonly nsid: number;
  readonly boundaryBlocks: number;
  readonly maxTransferBytes: number;
  readonly queues: number;
  readonly entries: number;
  readonly queueBytes: number;
  readonly memoryAddress: number;
  readonly memoryIova: number;
  readonly registersAddress: number;
  readonly registersBytes: number;
  readonly doorbellWords: number;
  readonly sharedAddress: number;
  readonly sharedBytes: number;
  readonly tableAddress: number;
  readonly wakeFds: string;
}

/** Requests that are worked on; more wait. */
const REQUESTS = 512;
const RETRIES_MAX = 3;
const LIST_WORDS = LIST_BYTES / 4;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const SUCCESS = IoStatus.success;
const FAILED = IoStatus.failed;
const GONE = IoStatus.gone;
const QUEUE_DOWN = QueueState.down;
const QUEUE_GONE = QueueState.gone;
const READ = IoType.read;
const WRITE = IoType.write;
const FLUSH = IoType.flush;
const UNMAP = IoType.unmap;
const NONE = NO_SLOT;
const UNBOUNCED = NO_BOUNCE;
const OPCODE_READ = IoOpcode.read;
const OPCODE_WRITE = IoOpcode.write;
const OPCODE_ZEROES = IoOpcode.writeZeroes;
const COUNT_MAX = COMMAND_BLOCKS_MAX;
const RANGE_MAX = RANGE_BLOCKS_MAX;
const DATA = DATA_WORD;

export class PcieChannel implements IoChannel {
  readonly wakeFd: number;
  readonly #arena: IovArena;
  readonly #nsid: number;
  readonly #blockBytes: number;
  readonly #boundary: number;
  readonly #transferBlocks: number;
  readonly #bounceBlocks: number;
  readonly #queue: QueuePair;
  readonly #shared: SharedState;
  readonly #dma: DmaView;
  readonly #prp: PrpBuilder;
  readonly #bounces: BounceBuffers;
  readonly #bouncesIova: number;
  readonly #listsIova: number;
  /** Of the queue, as it was last seen: how often it was brought up, or why it is not. */
  #state: number = QUEUE_DOWN;
  /** Said to the controller's thread: we may touch the queue. */
  #isBusy = false;

  /** By request: … the blocks that commands were made for, of how many; commands in flight; how it will end. */
  readonly #ios: (BdevIo | null)[] = Array.from({ length: REQUESTS }, () => null);
  readonly #made = new Float64Array(REQUESTS);
  readonly #total = new Float64Array(REQUESTS);
  readonly #commands = new Int32Array(REQUESTS);
  readonly #status = new Int32Array(REQUESTS);
  readonly #free = new Int32Array(REQUESTS);
  #freeCount = REQUESTS;
  /** Requests that have commands to make still: a ring of their numbers. */
  readonly #unmade = new Int32Array(REQUESTS);
  #unmadeFirst = 0;
  #unmadeCount = 0;
  /** Requests that wait for a number. */
  #waiting: BdevIo[] = [];

  /** By slot: the request of a command, its first block, and its count of them, its bounce buffer, its tries. */
  readonly #request: Int32Array;
  readonly #block: Float64Array;
  readonly #count: Float64Array;
  readonly #bounce: Int32Array;
  readonly #retries: Uint8Array;
  /** 1 for a slot that is taken. */
  readonly #isTaken: Uint8Array;
  #ended = 0;

  constructor(description: BdevDescription, context: ChannelContext) {
    const params = description.params as PcieChannelParams;
    const shared = { address: params.sharedAddress, lengthBytes: params.sharedBytes };
    this.#shared = new SharedState(shared);
    const queue = this.#shared.takeQueue(params.queues);
    if (queue === 0) {
      this.#shared.close();
      throw new TargetError(
        'ENOSPC',
        `all ${params.queues} queue pairs of ${description.name} are in use: attach its controller with more ` +
          '(num_io_queues)',
      );
    }
    const offset = (queue - 1) * params.queueBytes;
    const memory = { address: params.memoryAddress + offset, lengthBytes: params.queueBytes };
    const layout = queueLayout(params.entries, 0);
    this.#arena = context.arena;
    this.#nsid = params.nsid;
    this.#blockBytes = description.blockSizeBytes;
    this.#boundary = params.boundaryBlocks;
    this.#transferBlocks = Math.min(params.maxTransferBytes / this.#blockBytes, COUNT_MAX);
    this.#bounceBlocks = Math.min(this.#transferBlocks, BOUNCE_BYTES / this.#blockBytes);
    this.#queue = new QueuePair({
      queue,
      entries: params.entries,
      registers: { address: params.registersAddress, lengthBytes: params.registersBytes },
      doorbellWords: params.doorbellWords,
      memory,
      shared,
    });
    this.#dma = new DmaView(params.tableAddress);
    this.#listsIova = params.memoryIova + offset + layout.lists;
    this.#prp = new PrpBuilder(this.#dma, this.#queue.lists, this.#listsIova);
    const bounceAddress = memory.address + layout.bounces;
    this.#bounces = new BounceBuffers({ address: bounceAddress, lengthBytes: BOUNCE_MEMORY_BYTES });
    this.#bouncesIova = params.memoryIova + offset + layout.bounces;
    const fds = params.wakeFds === '' ? [] : params.wakeFds.split(',').map(Number);
    this.wakeFd = fds[queue - 1] ?? NO_WAKE_FD;
    const slots = params.entries;
    this.#request = new Int32Array(slots);
    this.#block = new Float64Array(slots);
    this.#count = new Float64Array(slots);
    this.#bounce = new Int32Array(slots).fill(NO_BOUNCE);
    this.#retries = new Uint8Array(slots);
    this.#isTaken = new Uint8Array(slots);
    for (let i = 0; i < REQUESTS; i++) this.#free[i] = REQUESTS - 1 - i;
  }

  submit(io: BdevIo): void {
    if (this.#freeCount === 0 || this.#waiting.length > 0) this.#waiting.push(io);
    else this.#start(io);
  }

  poll(): number {
    this.#ended = 0;
    const state = this.#shared.stateOf(this.#queue.queue);
    if (state < 0) this.#fail(state === QUEUE_GONE ? GONE : FAILED);
    else if (state !== this.#state) this.#change(state);
    if (this.#isBusy) this.#reap();
    if (this.#state > 0) this.#make();
    if (this.#isBusy) {
      this.#queue.ring();
      if (this.#queue.inFlight === 0) this.#setBusy(false);
    }
    if (this.#waiting.length > 0 && this.#freeCount > 0) this.#startWaiting();
    return this.#ended;
  }

  arm(): boolean {
    // What was signalled before does not count: the queue is looked at afterwards.
    readEventFd(this.wakeFd);
    return this.#queue.hasCompletion || this.#shared.stateOf(this.#queue.queue) !== this.#state;
  }

  disarm(): void {
    readEventFd(this.wakeFd);
  }

  update(): void {}

  close(): void {
    const { queue } = this.#queue;
    this.#setBusy(false);
    this.#queue.leave(this.#state);
    this.#queue.close();
    this.#bounces.close();
    this.#dma.close();
    this.#shared.releaseQueue(queue);
    this.#shared.close();
  }

  #start(io: BdevIo): void {
    if (io.type !== FLUSH && io.countBlocks === 0) {
      io.complete(SUCCESS);
      this.#ended++;
      return;
    }
    const request = this.#free[--this.#freeCount] as number;
    this.#ios[request] = io;
    this.#made[request] = 0;
    this.#total[request] = io.type === FLUSH ? 1 : io.countBlocks;
    this.#commands[request] = 0;
    this.#status[request] = SUCCESS;
    this.#unmade[(this.#unmadeFirst + this.#unmadeCount++) % REQUESTS] = request;
    if (this.#state > 0) this.#make();
  }

  /** Requests that waited for a number. */
  #startWaiting(): void {
    const waiting = this.#waiting;
    let taken = 0;
    while (taken < waiting.length && this.#freeCount > 0) this.#start(waiting[taken++] as BdevIo);
    waiting.splice(0, taken);
  }

  /** Makes commands of requests, as long as there are slots. */
  #make(): void {
    while (this.#unmadeCount > 0 && this.#queue.freeSlots > 0) {
      if (!this.#isBusy && !this.#enter()) return;
      const request = this.#unmade[this.#unmadeFirst] as number;
      if (!this.#makeOne(request)) return;
      if ((this.#made[request] as number) < (this.#total[request] as number)) continue;
      this.#unmadeFirst = (this.#unmadeFirst + 1) % REQUESTS;
      this.#unmadeCount--;
    }
  }

  /** The next command of a request. False when it wants a bounce buffer and there is none. */
  #makeOne(request: number): boolean {
    const io = this.#ios[request] as BdevIo;
    const slot = this.#queue.take();
    const made = this.#made[request] as number;
    this.#request[slot] = request;
    this.#block[slot] = io.offsetBlocks + made;
    this.#count[slot] = (this.#total[request] as number) - made;
    this.#retries[slot] = 0;
    if (io.type === READ || io.type === WRITE) {
      if (!this.#place(slot, io, made)) {
        this.#queue.release(slot);
        return false;
      }
    } else {
      const most = io.type === UNMAP ? RANGE_MAX : COUNT_MAX;
      if ((this.#count[slot] as number) > most) this.#count[slot] = most;
    }
    this.#isTaken[slot] = 1;
    this.#made[request] = made + (this.#count[slot] as number);
    this.#commands[request] = (this.#commands[request] as number) + 1;
    this.#issue(slot, io);
    return true;
  }

  /** Decides how many blocks the command in a slot transfers, and how the drive gets at them. */
  #place(slot: number, io: BdevIo, made: number): boolean {
    let count = this.#count[slot] as number;
    if (count > this.#transferBlocks) count = this.#transferBlocks;
    if (this.#boundary > 0) {
      const left = this.#boundary - ((this.#block[slot] as number) % this.#boundary);
      if (count > left) count = left;
    }
    this.#count[slot] = count;
    const bytes = this.#blockBytes;
    if (this.#prp.build(this.#arena, io.iovFirst, io.iovCount, made * bytes, count * bytes, slot * LIST_WORDS)) {
      return true;
    }
    const bounce = this.#bounces.take();
    if (bounce === UNBOUNCED) return false;
    this.#bounce[slot] = bounce;
    if (count > this.#bounceBlocks) count = this.#bounceBlocks;
    this.#count[slot] = count;
    if (io.type === WRITE) {
      this.#bounces.gather(bounce, this.#arena, io.iovFirst, io.iovCount, made * bytes, count * bytes);
    }
    return true;
  }

  /** Writes the command of a slot, for the first time or once more. */
  #issue(slot: number, io: BdevIo): void {
    const queue = this.#queue;
    const { entries, entryAt } = queue;
    const id = queue.identify(slot);
    const count = this.#count[slot] as number;
    if (io.type === READ || io.type === WRITE) {
      const opcode = io.type === READ ? OPCODE_READ : OPCODE_WRITE;
      encodeBlocks(entries, entryAt, opcode, id, this.#nsid, this.#block, slot, count);
      this.#point(slot, io, entryAt);
    } else if (io.type === FLUSH) {
      encodeFlush(entries, entryAt, id, this.#nsid);
    } else if (io.type === UNMAP) {
      encodeDeallocate(entries, entryAt, id, this.#nsid);
      encodeRange(queue.lists, slot * LIST_WORDS, this.#block, slot, count);
      const range = this.#listsIova + slot * LIST_BYTES;
      entries[entryAt + DATA] = range % 2 ** 32;
      entries[entryAt + DATA + 1] = Math.floor(range / 2 ** 32);
    } else {
      encodeBlocks(entries, entryAt, OPCODE_ZEROES, id, this.#nsid, this.#block, slot, count);
    }
    queue.push(slot, id);
  }

  /** Builds the data pointers anew: those of `#place` may be another command's by now. */
  #point(slot: number, io: BdevIo, entryAt: number): void {
    const prp = this.#prp;
    const list = slot * LIST_WORDS;
    const length = (this.#count[slot] as number) * this.#blockBytes;
    const bounce = this.#bounce[slot] as number;
    if (bounce !== UNBOUNCED) prp.buildContiguous(this.#bouncesIova + bounce * BOUNCE_BYTES, length, list);
    else if (this.#retries[slot] !== 0) {
      const skip = ((this.#block[slot] as number) - io.offsetBlocks) * this.#blockBytes;
      prp.build(this.#arena, io.iovFirst, io.iovCount, skip, length, list);
    }
    const { entries } = this.#queue;
    for (let i = 0; i < 4; i++) entries[entryAt + DATA + i] = prp.pointers[i] as number;
  }

  #reap(): void {
    const queue = this.#queue;
    for (let slot = queue.reap(); slot !== NONE; slot = queue.reap()) {
      const request = this.#request[slot] as number;
      const io = this.#ios[request] as BdevIo;
      const { status } = queue;
      if (status !== 0 && (status & STATUS_DNR) === 0 && (this.#retries[slot] as number) < RETRIES_MAX) {
        this.#retries[slot] = (this.#retries[slot] as number) + 1;
        this.#issue(slot, io);
        continue;
      }
      if (status !== 0) this.#status[request] = FAILED;
      this.#finish(slot, io, status === 0);
    }
  }

  /** A command is over. */
  #finish(slot: number, io: BdevIo, isGood: boolean): void {
    const request = this.#request[slot] as number;
    const bounce = this.#bounce[slot] as number;
    if (bounce !== UNBOUNCED) {
      const bytes = this.#blockBytes;
      if (isGood && io.type === READ) {
        const skip = ((this.#block[slot] as number) - io.offsetBlocks) * bytes;
        const length = (this.#count[slot] as number) * bytes;
        this.#bounces.scatter(bounce, this.#arena, io.iovFirst, io.iovCount, skip, length);
      }
      this.#bounces.release(bounce);
      this.#bounce[slot] = UNBOUNCED;
    }
    this.#isTaken[slot] = 0;
    this.#queue.release(slot);
    const left = (this.#commands[request] as number) - 1;
    this.#commands[request] = left;
    if (left === 0 && this.#made[request] === this.#total[request]) this.#end(request);
  }

  #end(request: number): void {
    const io = this.#ios[request] as BdevIo;
    this.#ios[request] = null;
    this.#free[this.#freeCount++] = request;
    this.#ended++;
    io.complete(this.#status[request] as IoStatus);
  }

  /** True when the queue may be used: it was said before, and it is still up. */
  #enter(): boolean {
    this.#setBusy(true);
    if (this.#shared.stateOf(this.#queue.queue) === this.#state) return true;
    this.#setBusy(false);
    return false;
  }

  #setBusy(isBusy: boolean): void {
    if (this.#isBusy === isBusy) return;
    this.#isBusy = isBusy;
    this.#shared.setBusy(this.#queue.queue, isBusy);
  }

  /** The queue went down, or came up. */
  #change(state: number): void {
    this.#state = state;
    if (state === QUEUE_DOWN) {
      this.#setBusy(false);
      return;
    }
    this.#queue.begin(state);
    if (!this.#enter()) return;
    for (let slot = 0; slot < this.#queue.slots; slot++) {
      if (this.#isTaken[slot] === 0) continue;
      // Not the drive's fault: it counts as a try only in that its pointers are built anew.
      if (this.#retries[slot] === 0) this.#retries[slot] = 1;
      this.#issue(slot, this.#ios[this.#request[slot] as number] as BdevIo);
    }
  }

  /** Ends everything: the drive reaches no memory any more. */
  #fail(status: IoStatus): void {
    this.#state = QUEUE_DOWN;
    this.#setBusy(false);
    this.#unmadeCount = 0;
    for (let slot = 0; slot < this.#queue.slots; slot++) {
      if (this.#isTaken[slot] === 0) continue;
      this.#isTaken[slot] = 0;
      if (this.#bounce[slot] !== UNBOUNCED) this.#bounces.release(this.#bounce[slot] as number);
      this.#bounce[slot] = UNBOUNCED;
      this.#queue.release(slot);
    }
    for (let request = 0; request < REQUESTS; request++) {
      if (this.#ios[request] === null) continue;
      this.#status[request] = status;
      this.#end(request);
    }
    for (const io of this.#waiting.splice(0)) {
      this.#ended++;
      io.complete(status);
    }
  }
}
