/**
 * The driver's side of one of a controller's request queues in one reactor (virtio 1.3 §2.7), shared by the channels
 * of all its disks there. Data goes through buffers in memory that the target shares: one copy each way, as the guest's
 * own memory belongs to another session and is not the target's to see.
 *
 * The target is not trusted: an answer to nothing is the end of the queue. The main thread hears of it and begins the
 * connection anew.
 */
import { assert } from '../../../base/assert.ts';
import { TargetError } from '../../../base/errors.ts';
import { CopyEngine } from '../../../sys/copy-engine.ts';
import { readEventFd, signalEventFd } from '../../../sys/events.ts';
import { IOV_LONG_ENTRIES, IovArena } from '../../../sys/iov-arena.ts';
import { MappingViews } from '../../../sys/mapping.ts';
import { type BdevIo, IoStatus, IoType } from '../../bdev-io.ts';
import {
  BUFFER_BYTES,
  Claim,
  type ControllerParams,
  DESCRIPTORS_PER_REQUEST,
  layoutOf,
  type QueueLayout,
  QueueWord,
  queueWord,
  type RequestForm,
  TableWord,
} from './layout.ts';

const TWO_32 = 2 ** 32;
const F_NEXT = 1;
const F_WRITE = 2;
/** In the available ring's flags: no calls, please. In the used ring's: no kicks, please. */
const NO_NOTIFICATION = 1;
/** What a response holds before the device writes it: neither device has such a status. */
const UNANSWERED = 0xff;
/** Times that the target may ask for a request once more at once; and times that it may be busy, so long apart. */
const RETRIES_MAX = 8;
const BUSY_MAX = 500;
const BUSY_MS = 20;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { flush: FLUSH, read: READ } = IoType;
const SUCCESS = IoStatus.success;
const FAILED = IoStatus.failed;
const PER_REQUEST = DESCRIPTORS_PER_REQUEST;

/** What follows the header of a request, or precedes its response. */
export const Data = { none: 0, out: 1, in: 2, parameters: 3, zeroes: 4 } as const;
const { none: NONE, out: OUT, in: IN, parameters: PARAMETERS } = Data;

/** What an answer means. `again`: at once; `later`: the target is busy. */
export const Verdict = { success: 0, failed: 1, again: 2, later: 3 } as const;
const { success: IS_SUCCESS, again: IS_AGAIN, later: IS_LATER } = Verdict;

/** Of a slot. `orphaned`: the target has it, and nobody waits for it. */
const State = { free: 0, sent: 1, later: 2, orphaned: 3 } as const;
const { free: FREE, sent: SENT, later: LATER, orphaned: ORPHANED } = State;

/** A disk's channel: it knows what requests and responses look like. */
export interface QueueUser {
  /** Where the segment lists of its requests are. */
  readonly arena: IovArena;
  readonly blockSizeBytes: number;
  /** Bytes of `io` that one request can do. */
  pieceMax(io: BdevIo): number;
  /** Writes the header for a piece, and parameters; one of `Data`. */
  encode(slot: number, io: BdevIo, doneBytes: number, lengthBytes: number): number;
  /** What the response says; one of `Verdict`. */
  judge(slot: number, io: BdevIo): number;
  /** The target is away: the request is to be done again from its start when it is back. */
  takeBack(io: BdevIo): void;
}

/** Queues of this thread by the address of their controller's memory. */
const OPEN = new Map<number, TargetQueue>();

export class TargetQueue {
  readonly callFd: number;
  /** The part with the requests and responses, as bytes and as words: offsets are those of `layout`. */
  readonly bytes: Uint8Array;
  readonly words: Uint32Array;
  readonly layout: QueueLayout;
  /** Unique among the controller's. */
  readonly number: number;
  readonly #kickFd: number;
  readonly #table: Int32Array;
  readonly #key: number;
  readonly #form: RequestForm;
  readonly #mask: number;
  readonly #list = new IovArena(0, 1);
  readonly #engine = new CopyEngine(this.#list, 1);
  readonly #views = new MappingViews();
  readonly #guestAddress: number;
  readonly #descriptors: Uint32Array;
  readonly #available: Uint16Array;
  readonly #used16: Uint16Array;
  readonly #used32: Uint32Array;
  #channels = 0;
  #armed = 0;
  #isConnected = false;
  #isBroken = false;
  #nextAvailable = 0;
  #published = 0;
  #nextUsed = 0;

  readonly #users: (QueueUser | null)[];
  readonly #ios: (BdevIo | null)[];
  readonly #state: Uint8Array;
  readonly #retries: Uint16Array;
  /** Bytes that earlier pieces did, and those of the piece at the target. */
  readonly #done: Float64Array;
  readonly #piece: Float64Array;
  readonly #free: Int32Array;
  #freeCount: number;
  /** Requests that wait for a slot, and whose they are. */
  readonly #waiting: BdevIo[] = [];
  readonly #waitingUsers: QueueUser[] = [];
  #timer: NodeJS.Timeout | null = null;
  #ended = 0;

  /** This thread's queue of a controller: one that is open, or a new one. Give it back with `release`. */
  static take(bdevName: string, params: ControllerParams, form: RequestForm): TargetQueue {
    const queue = OPEN.get(params.address) ?? new TargetQueue(bdevName, params, form);
    OPEN.set(params.address, queue);
    queue.#channels++;
    return queue;
  }

  private constructor(bdevName: string, params: ControllerParams, form: RequestForm) {
    this.#key = params.address;
    this.#form = form;
    this.#table = new Int32Array(params.table);
    this.number = claimQueue(bdevName, this.#table, params.queueCount);
    this.#kickFd = this.#table[queueWord(this.number, QueueWord.kickFd)] as number;
    this.callFd = this.#table[queueWord(this.number, QueueWord.callFd)] as number;
    const layout = layoutOf(params.queueSize, form);
    const { slots } = layout;
    this.layout = layout;
    this.#mask = params.queueSize - 1;
    const address = params.address + this.number * layout.totalBytes;
    this.#guestAddress = params.guestAddress + this.number * layout.totalBytes;
    const buffer = this.#views.view({ address, lengthBytes: layout.totalBytes }, 0, layout.buffers);
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer);
    this.#descriptors = new Uint32Array(buffer, 0, 4 * params.queueSize);
    this.#available = new Uint16Array(buffer, layout.available, 3 + params.queueSize);
    this.#used16 = new Uint16Array(buffer, layout.used, 3 + 4 * params.queueSize);
    this.#used32 = new Uint32Array(buffer, layout.used, 1 + 2 * params.queueSize);
    this.#engine.setDisk(address, 1, layout.totalBytes);
    this.#users = Array.from({ length: slots }, () => null);
    this.#ios = Array.from({ length: slots }, () => null);
    this.#state = new Uint8Array(slots);
    this.#retries = new Uint16Array(slots);
    this.#done = new Float64Array(slots);
    this.#piece = new Float64Array(slots);
    this.#free = Int32Array.from({ length: slots }, (_, i) => slots - 1 - i);
    this.#freeCount = slots;
    for (let slot = 0; slot < slots; slot++) this.#describe(slot);
  }

  /** Takes a request while the target is there. */
  submit(user: QueueUser, io: BdevIo): void {
    assert(this.#isConnected, 'a request is sent while the target is there');
    if (this.#isBroken) io.complete(FAILED);
    else if (this.#freeCount === 0) {
      this.#waiting.push(io);
      this.#waitingUsers.push(user);
    } else this.#start(user, io);
  }

  /** Sends what was submitted and takes answers. Returns how many requests ended. */
  poll(): number {
    this.#ended = 0;
    if (!this.#isConnected) return 0;
    this.publish();
    while (!this.#isBroken && Atomics.load(this.#used16, 1) !== this.#nextUsed) this.#takeUsed();
    this.publish();
    return this.#ended;
  }

  /** Asks for `callFd`, for one more channel. True when there is something to do already. */
  arm(): boolean {
    this.#armed++;
    if (!this.#isConnected) return false;
    Atomics.store(this.#available, 0, 0);
    return Atomics.load(this.#used16, 1) !== this.#nextUsed || this.#nextAvailable !== this.#published;
  }

  /** Undoes one `arm`. The call descriptor is read when nobody waits for it any more, so that all who do are woken. */
  disarm(): void {
    if (--this.#armed > 0) return;
    if (this.#isConnected) Atomics.store(this.#available, 0, NO_NOTIFICATION);
    readEventFd(this.callFd);
  }

  /** The target came or went. The rings stand still, or begin anew. */
  setConnected(isConnected: boolean): void {
    if (isConnected === this.#isConnected) return;
    if (!isConnected) {
      this.#isConnected = false;
      this.#takeAllBack();
      return;
    }
    this.#isConnected = true;
    this.#isBroken = false;
    this.#nextAvailable = this.#available[1] as number;
    this.#published = this.#nextAvailable;
    this.#nextUsed = this.#used16[1] as number;
    Atomics.store(this.#available, 0, this.#armed > 0 ? 0 : NO_NOTIFICATION);
  }

  /** Ends all requests of a channel without waiting for the target: it has our buffers, not the guest's. */
  fail(user: QueueUser): void {
    for (let slot = 0; slot < this.layout.slots; slot++) {
      if (this.#users[slot] !== user) continue;
      const isAtTarget = this.#state[slot] === SENT;
      this.#end(slot, FAILED, isAtTarget ? ORPHANED : FREE);
    }
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      if (this.#waitingUsers[i] !== user) continue;
      const [io] = this.#waiting.splice(i, 1);
      this.#waitingUsers.splice(i, 1);
      io?.complete(FAILED);
    }
  }

  /** Shows what was sent to the target, and kicks it if it wants that. */
  publish(): void {
    if (!this.#isConnected || this.#nextAvailable === this.#published) return;
    // Releases the descriptors, and is a full barrier before the target's flags are read.
    Atomics.store(this.#available, 1, this.#nextAvailable);
    this.#published = this.#nextAvailable;
    if ((Atomics.load(this.#used16, 0) & NO_NOTIFICATION) === 0) signalEventFd(this.#kickFd);
  }

  /** Tells the main thread something; one of the first words of the table. */
  tell(word: number): void {
    Atomics.add(this.#table, word, 1);
    signalEventFd(this.#table[TableWord.newsFd] as number);
  }

  release(): void {
    if (--this.#channels > 0) return;
    OPEN.delete(this.#key);
    if (this.#timer !== null) clearTimeout(this.#timer);
    const isSpoiled = this.#state.includes(ORPHANED);
    this.#views.close();
    this.#engine.close();
    this.#list.close();
    Atomics.store(this.#table, queueWord(this.number, QueueWord.claim), isSpoiled ? Claim.spoiled : Claim.free);
    if (isSpoiled) this.tell(TableWord.broken);
  }

  /** Writes what never changes of a request's descriptors. */
  #describe(slot: number): void {
    const { requests, requestBytes, responses, responseBytes } = this.layout;
    const first = slot * PER_REQUEST;
    this.#setDescriptor(first, requests + slot * requestBytes, this.#form.headerBytes);
    this.#setDescriptor(first + 2, responses + slot * responseBytes, this.#form.responseBytes);
  }

  #setDescriptor(index: number, offset: number, lengthBytes: number): void {
    const address = this.#guestAddress + offset;
    this.#descriptors[4 * index] = address >>> 0;
    this.#descriptors[4 * index + 1] = address / TWO_32;
    this.#descriptors[4 * index + 2] = lengthBytes;
  }

  /** The flags of a request's descriptors, and their order: the second is the data, the third the response. */
  #link(first: number, data: number): void {
    const words = this.#descriptors;
    const isWritten = data === IN;
    if (data === NONE) {
      words[4 * first + 3] = F_NEXT | ((first + 2) << 16);
      words[4 * (first + 2) + 3] = F_WRITE;
    } else if (isWritten && this.#form.isResponseFirst) {
      words[4 * first + 3] = F_NEXT | ((first + 2) << 16);
      words[4 * (first + 2) + 3] = F_NEXT | F_WRITE | ((first + 1) << 16);
      words[4 * (first + 1) + 3] = F_WRITE;
    } else {
      words[4 * first + 3] = F_NEXT | ((first + 1) << 16);
      words[4 * (first + 1) + 3] = F_NEXT | (isWritten ? F_WRITE : 0) | ((first + 2) << 16);
      words[4 * (first + 2) + 3] = F_WRITE;
    }
  }

  #start(user: QueueUser, io: BdevIo): void {
    const slot = this.#free[--this.#freeCount] as number;
    this.#users[slot] = user;
    this.#ios[slot] = io;
    this.#done[slot] = 0;
    this.#retries[slot] = 0;
    this.#send(slot);
  }

  /** Puts the next piece of a request into the available ring. */
  #send(slot: number): void {
    const { layout } = this;
    const io = this.#ios[slot] as BdevIo;
    const user = this.#users[slot] as QueueUser;
    const done = this.#done[slot] as number;
    const length = io.type === FLUSH ? 0 : Math.min(io.lengthBytes - done, user.pieceMax(io));
    this.#piece[slot] = length;
    this.#state[slot] = SENT;
    const first = slot * PER_REQUEST;
    const response = layout.responses + slot * layout.responseBytes;
    this.bytes[response + this.#form.statusOffset] = UNANSWERED;
    const data = user.encode(slot, io, done, length);
    if (data === OUT || data === IN) {
      this.#setDescriptor(first + 1, layout.buffers + slot * BUFFER_BYTES, length);
      if (data === OUT) this.#copy(slot, io, done, length, true);
    } else if (data === PARAMETERS) {
      const parameters = layout.requests + slot * layout.requestBytes + layout.parameters;
      this.#setDescriptor(first + 1, parameters, this.#form.parameterBytes);
    } else if (data !== NONE) {
      this.#setDescriptor(first + 1, layout.zeroes, user.blockSizeBytes);
    }
    this.#link(first, data);
    this.#available[2 + (this.#nextAvailable & this.#mask)] = first;
    this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
  }

  #takeUsed(): void {
    const id = this.#used32[1 + 2 * (this.#nextUsed & this.#mask)] as number;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    const slot = id / PER_REQUEST;
    const state = Number.isInteger(slot) && slot < this.layout.slots ? this.#state[slot] : FREE;
    if (state === SENT) this.#answered(slot);
    else if (state === ORPHANED) this.#setFree(slot);
    else this.#break();
  }

  #answered(slot: number): void {
    const io = this.#ios[slot] as BdevIo;
    const verdict = (this.#users[slot] as QueueUser).judge(slot, io);
    if (verdict === IS_SUCCESS) {
      const done = this.#done[slot] as number;
      const length = this.#piece[slot] as number;
      if (io.type === READ) this.#copy(slot, io, done, length, false);
      this.#done[slot] = done + length;
      if (io.type !== FLUSH && done + length < io.lengthBytes) this.#send(slot);
      else this.#end(slot, SUCCESS, FREE);
      return;
    }
    const max = verdict === IS_AGAIN ? RETRIES_MAX : verdict === IS_LATER ? BUSY_MAX : 0;
    this.#retries[slot] = (this.#retries[slot] as number) + 1;
    if ((this.#retries[slot] as number) > max) this.#end(slot, FAILED, FREE);
    else if (verdict === IS_AGAIN) this.#send(slot);
    else this.#sendLater(slot);
  }

  #sendLater(slot: number): void {
    this.#state[slot] = LATER;
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      for (let other = 0; other < this.layout.slots; other++) if (this.#state[other] === LATER) this.#send(other);
      this.publish();
    }, BUSY_MS);
  }

  /** The target does not keep to the rules: nothing more is taken from it until it is there anew. */
  #break(): void {
    this.#isBroken = true;
    for (let slot = 0; slot < this.layout.slots; slot++) {
      if (this.#ios[slot] !== null) this.#end(slot, FAILED, FREE);
    }
    while (this.#waiting.length > 0) this.#startNext();
    this.tell(TableWord.broken);
  }

  #takeAllBack(): void {
    for (let slot = 0; slot < this.layout.slots; slot++) {
      const io = this.#ios[slot] as BdevIo | null;
      const user = this.#users[slot] as QueueUser | null;
      if (this.#state[slot] !== FREE) this.#setFree(slot);
      if (io !== null && user !== null) user.takeBack(io);
    }
    const users = this.#waitingUsers.splice(0);
    for (const [i, io] of this.#waiting.splice(0).entries()) users[i]?.takeBack(io);
  }

  #setFree(slot: number): void {
    this.#forget(slot);
    this.#state[slot] = FREE;
    this.#free[this.#freeCount++] = slot;
  }

  #forget(slot: number): void {
    this.#ios[slot] = null;
    this.#users[slot] = null;
  }

  #end(slot: number, status: IoStatus, state: typeof FREE | typeof ORPHANED): void {
    const io = this.#ios[slot] as BdevIo;
    this.#ended++;
    if (state === FREE) this.#setFree(slot);
    else {
      this.#forget(slot);
      this.#state[slot] = ORPHANED;
    }
    if (this.#waiting.length > 0 && this.#freeCount > 0) this.#startNext();
    io.complete(status);
  }

  #startNext(): void {
    const io = this.#waiting.shift() as BdevIo;
    const user = this.#waitingUsers.shift() as QueueUser;
    if (!this.#isBroken) this.#start(user, io);
    else {
      this.#ended++;
      io.complete(FAILED);
    }
  }

  /** Between a part of the request's segments and its buffer. */
  #copy(slot: number, io: BdevIo, skip: number, length: number, isWrite: boolean): void {
    const { arena } = this.#users[slot] as QueueUser;
    const entries = this.#list.setPart(0, IOV_LONG_ENTRIES, arena, io.iovFirst, io.iovCount, skip, length);
    const offset = this.layout.buffers + slot * BUFFER_BYTES;
    if (isWrite) this.#engine.write(offset, length, 0, entries);
    else this.#engine.read(offset, length, 0, entries);
    this.#engine.run();
  }
}

function claimQueue(name: string, table: Int32Array, count: number): number {
  for (let queue = 0; queue < count; queue++) {
    const before = Atomics.compareExchange(table, queueWord(queue, QueueWord.claim), Claim.free, Claim.taken);
    if (before === Claim.free) return queue;
  }
  throw new TargetError(
    'EBUSY',
    `bdev "${name}" has ${count} queues, each for one reactor: attach it with a larger vq_count, or give its ` +
      'controller a smaller cpumask',
  );
}
