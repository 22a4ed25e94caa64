/**
 * An io_uring whose rings are mapped as typed arrays: entries are written and completions read without a call, and one
 * `io_uring_enter` a round submits what was queued and runs what completed (native/uring.c; io_uring(7)).
 *
 * A ring belongs to the thread that made it. It serves one file, which is registered so that the kernel need not look
 * it up for every request. Every request has a `tag`, a small integer that its completion carries.
 */
import { assert } from '../base/assert.ts';
import { checkErrno, Errno } from '../base/errors.ts';
import { closeFd, createEventFd, readEventFd } from './events.ts';
import type { IovArena } from './iov-arena.ts';
import { Mapping, MappingViews } from './mapping.ts';
import { native } from './native.ts';
import { clockNs } from './thread.ts';

const TWO_32 = 2 ** 32;
const OFFSET_SQES = 0x1000_0000;
const SQE_BYTES = 64;
const SQE_WORDS = SQE_BYTES / 4;
const CQE_BYTES = 16;
const CQE_WORDS = CQE_BYTES / 4;

/** Words of `struct io_uring_params`. */
const Param = {
  sqEntries: 0,
  cqEntries: 1,
  flags: 2,
  sqCore: 3,
  sqIdleMs: 4,
  features: 5,
  sqOffsets: 10,
  cqOffsets: 20,
} as const;
const PARAM_BYTES = 120;

/** `IORING_SETUP_*`. */
const Setup = {
  ioPoll: 1 << 0,
  sqPoll: 1 << 1,
  sqAffinity: 1 << 2,
  cqSize: 1 << 3,
  coopTaskrun: 1 << 8,
  taskrunFlag: 1 << 9,
  singleIssuer: 1 << 12,
  deferTaskrun: 1 << 13,
} as const;
/** Completions are run by this thread, in `enter`, and nowhere else: Linux 6.1, 5.19, and what every kernel has. */
const TASKRUN_CHOICES = [
  Setup.singleIssuer | Setup.deferTaskrun | Setup.taskrunFlag,
  Setup.coopTaskrun | Setup.taskrunFlag,
  0,
] as const;

/** `IORING_FEAT_EXT_ARG`, Linux 5.11: waiting has a limit of time. */
const FEATURE_TIMED_WAIT = 1 << 8;

const ENTER_GETEVENTS = 1;
const ENTER_SQ_WAKEUP = 2;
/** In the submission ring's flags: the kernel's thread sleeps; completions wait for `enter`. */
const SQ_NEED_WAKEUP = 1;
const SQ_CQ_OVERFLOW = 2;
const SQ_TASKRUN = 4;
/** In the completion ring's flags. */
const CQ_EVENTFD_DISABLED = 1;

const Register = { files: 2, noFiles: 3, eventFd: 4 } as const;
/** The kernel's submission thread sleeps after so long without work. */
const SQ_IDLE_MS = 100;

/** `IORING_OP_*`. */
const UringOp = {
  readv: 1,
  writev: 2,
  fsync: 3,
  fallocate: 17,
  read: 22,
  write: 23,
  command: 46,
} as const;
/** Added to the opcode: the file is an index into the registered ones. */
const FIXED_FILE = 1 << 8;
const FSYNC_DATASYNC = 1;
/** `BLOCK_URING_CMD_DISCARD`, Linux 6.12: BLKDISCARD without waiting. */
const BLOCK_DISCARD = 0x1200;

export interface IoUringOptions {
  /** A power of two. As many requests may be in flight at most: their completions always have room. */
  readonly entries: number;
  /** A kernel thread on this core takes requests, so that submitting needs no system call. */
  readonly sqPollCore?: number | undefined;
  /**
   * Completions are polled from the device. Only O_DIRECT reads and writes, and only where the device has queues for
   * it.
   */
  readonly ioPoll?: boolean | undefined;
}

export class IoUring {
  /** Readable, from `arm` to `disarm`, when something completed. -1 with `ioPoll`: completions need polling. */
  readonly wakeFd: number;
  /** Of the completion that `next` found: a byte count, 0 or a negative errno. */
  result = 0;
  readonly #fd: number;
  readonly #setup: number;
  readonly #canWait: boolean;
  readonly #views = new MappingViews();
  readonly #rings: Mapping;
  readonly #entries: Mapping;
  readonly #ring: Uint32Array;
  readonly #sqes: Uint32Array;
  /** `#ring` once more: results have a sign. */
  readonly #results: Int32Array;
  readonly #sqHead: number;
  readonly #sqTail: number;
  readonly #sqFlags: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqFlags: number;
  readonly #cqes: number;
  readonly #sqMask: number;
  readonly #cqMask: number;
  /** Entries written, and completions read, as the kernel will see them after the next `enter` and `next`. */
  #tail = 0;
  #head = 0;
  #inFlight = 0;

  /** Throws what the kernel refuses: `ENOSYS` or `EPERM` where io_uring is absent or switched off. */
  constructor(fileFd: number, options: IoUringOptions) {
    const params = new Uint32Array(PARAM_BYTES / 4);
    this.wakeFd = options.ioPoll ? -1 : createEventFd();
    try {
      [this.#fd, this.#setup] = setUp(options, params);
    } catch (error) {
      if (this.wakeFd >= 0) closeFd(this.wakeFd);
      throw error;
    }
    this.#canWait = !options.ioPoll && ((params[Param.features] as number) & FEATURE_TIMED_WAIT) !== 0;
    const at = (base: number, index: number): number => params[base + index] as number;
    const sq = (index: number): number => at(Param.sqOffsets, index) / 4;
    const cq = (index: number): number => at(Param.cqOffsets, index) / 4;
    const sqEntries = params[Param.sqEntries] as number;
    const cqEntries = params[Param.cqEntries] as number;
    [this.#sqHead, this.#sqTail, this.#sqFlags] = [sq(0), sq(1), sq(4)];
    [this.#cqHead, this.#cqTail, this.#cqFlags, this.#cqes] = [cq(0), cq(1), cq(6), cq(5)];
    this.#sqMask = sqEntries - 1;
    this.#cqMask = cqEntries - 1;
    // One mapping for both rings (IORING_FEAT_SINGLE_MMAP, Linux 5.4).
    const ringBytes = Math.max((sq(6) + sqEntries) * 4, this.#cqes * 4 + cqEntries * CQE_BYTES);
    this.#rings = Mapping.file(this.#fd, 0, ringBytes);
    this.#entries = Mapping.file(this.#fd, OFFSET_SQES, sqEntries * SQE_BYTES);
    const ring = this.#views.view(this.#rings, 0, ringBytes);
    this.#ring = new Uint32Array(ring);
    this.#results = new Int32Array(ring);
    this.#sqes = new Uint32Array(this.#views.view(this.#entries, 0, sqEntries * SQE_BYTES));
    // Entries are used in the order of their places, so the index array never changes.
    for (let i = 0; i < sqEntries; i++) this.#ring[sq(6) + i] = i;
    checkErrno(native.uringRegister(this.#fd, Register.files, Int32Array.of(fileFd)), 'cannot register a file');
    if (this.wakeFd >= 0) {
      const events = Int32Array.of(this.wakeFd);
      checkErrno(native.uringRegister(this.#fd, Register.eventFd, events), 'cannot register an eventfd');
      this.disarm();
    }
  }

  /**
   * Reads into, or writes from, the segments of a list, which hold exactly `lengthBytes`. `offsets[tag]` is where in
   * the file: by itself it would be boxed on its way here, being beyond the engine's small integers.
   */
  transfer(
    isWrite: boolean,
    tag: number,
    offsets: Float64Array,
    arena: IovArena,
    iovFirst: number,
    iovCount: number,
    lengthBytes: number,
  ): void {
    // SAFETY: segments come from the memory map. The kernel checks the addresses once more, and copies a list with
    // `enter`, before the request is given back.
    const isSingle = iovCount === 1;
    const opcode = (isWrite ? UringOp.writev : UringOp.readv) + (isSingle ? UringOp.read - UringOp.readv : 0);
    const at = this.#take(opcode, tag, isSingle ? lengthBytes : iovCount);
    this.#setOffset(at, offsets[tag] as number);
    if (isSingle) arena.copyAddress(iovFirst, this.#sqes, at + 4);
    else arena.copyEntryAddress(iovFirst, this.#sqes, at + 4);
  }

  /** Reads into, or writes from, memory of our own. */
  transferBuffer(isWrite: boolean, tag: number, offsetBytes: number, address: number, lengthBytes: number): void {
    const at = this.#take(isWrite ? UringOp.write : UringOp.read, tag, lengthBytes);
    this.#setOffset(at, offsetBytes);
    this.#setAddress(at, address);
  }

  /** Makes what was written stable. */
  dataSync(tag: number): void {
    const at = this.#take(UringOp.fsync, tag, 0);
    this.#sqes[at + 7] = FSYNC_DATASYNC;
  }

  /** `mode` as of fallocate(2). */
  allocate(tag: number, mode: number, offsetBytes: number, lengthBytes: number): void {
    const at = this.#take(UringOp.fallocate, tag, mode);
    this.#setOffset(at, offsetBytes);
    this.#sqes[at + 4] = lengthBytes >>> 0;
    this.#sqes[at + 5] = (lengthBytes / TWO_32) >>> 0;
  }

  /** Tells a block device that the bytes are not needed any more. */
  discard(tag: number, offsetBytes: number, lengthBytes: number): void {
    const at = this.#take(UringOp.command, tag, 0);
    this.#sqes[at + 2] = BLOCK_DISCARD;
    this.#sqes[at + 4] = offsetBytes >>> 0;
    this.#sqes[at + 5] = (offsetBytes / TWO_32) >>> 0;
    this.#sqes[at + 12] = lengthBytes >>> 0;
    this.#sqes[at + 13] = (lengthBytes / TWO_32) >>> 0;
  }

  /**
   * Hands over what was queued and lets completions arrive; no system call when there is neither. What the kernel
   * cannot take now (-EAGAIN, -EBUSY) stays queued for the next time.
   */
  enter(): void {
    const ring = this.#ring;
    // Release: entries are written before the kernel sees the tail.
    Atomics.store(ring, this.#sqTail, this.#tail);
    const flags = Atomics.load(ring, this.#sqFlags);
    if ((this.#setup & Setup.sqPoll) !== 0) {
      if ((flags & SQ_NEED_WAKEUP) !== 0 && this.#inFlight > 0) native.uringEnter(this.#fd, 0, ENTER_SQ_WAKEUP);
      if ((flags & SQ_CQ_OVERFLOW) !== 0) native.uringEnter(this.#fd, 0, ENTER_GETEVENTS);
      return;
    }
    const queued = (this.#tail - Atomics.load(ring, this.#sqHead)) >>> 0;
    const isDue = (flags & (SQ_TASKRUN | SQ_CQ_OVERFLOW)) !== 0;
    const isPolled = (this.#setup & Setup.ioPoll) !== 0 && this.#inFlight > 0;
    if (queued > 0 || isDue || isPolled) native.uringEnter(this.#fd, queued, ENTER_GETEVENTS);
  }

  /** The tag of the next completion, with `result` set, or -1 when there is none. */
  next(): number {
    const ring = this.#ring;
    // Acquire: the completion is read after the tail that shows it.
    if (Atomics.load(ring, this.#cqTail) === this.#head) return -1;
    const at = this.#cqes + (this.#head & this.#cqMask) * CQE_WORDS;
    const tag = ring[at] as number;
    this.result = this.#results[at + 2] as number;
    this.#head = (this.#head + 1) >>> 0;
    // Release: the place is free after it was read.
    Atomics.store(ring, this.#cqHead, this.#head);
    this.#inFlight--;
    return tag;
  }

  /**
   * Lets others have the core until an eighth of what is in flight completed, or for so long. Returns the nanoseconds
   * that it took, 0 where that cannot be. Woken for each completion, a thread that sends a new request for it pays for
   * both once a request.
   */
  wait(timeoutNs: number): number {
    if (!this.#canWait) return 0;
    const start = clockNs();
    native.uringWait(this.#fd, 1 + (this.#inFlight >>> 3), timeoutNs);
    return clockNs() - start;
  }

  /** Asks for `wakeFd`. True when `enter` and `next` have something to do already. */
  arm(): boolean {
    const ring = this.#ring;
    // A full fence between telling the kernel and looking again; the kernel has one between its two as well.
    Atomics.store(ring, this.#cqFlags, 0);
    if (Atomics.load(ring, this.#cqTail) !== this.#head) return true;
    const flags = Atomics.load(ring, this.#sqFlags);
    if ((flags & (SQ_TASKRUN | SQ_CQ_OVERFLOW)) !== 0) return true;
    // The kernel's thread takes what it was shown, in its own time, unless it sleeps.
    const isTakenCareOf =
      (this.#setup & Setup.sqPoll) !== 0 && (flags & SQ_NEED_WAKEUP) === 0 && ring[this.#sqTail] === this.#tail;
    return !isTakenCareOf && this.#tail !== Atomics.load(ring, this.#sqHead);
  }

  disarm(): void {
    Atomics.store(this.#ring, this.#cqFlags, CQ_EVENTFD_DISABLED);
    readEventFd(this.wakeFd);
  }

  /** Nothing is in flight. */
  close(): void {
    assert(this.#inFlight === 0, 'a ring is closed when nothing is in flight');
    // The kernel takes a ring apart later, at its leisure: the file is to be free now.
    native.uringRegister(this.#fd, Register.noFiles, Int32Array.of(-1));
    this.#views.close();
    this.#entries.close();
    this.#rings.close();
    closeFd(this.#fd);
    if (this.wakeFd >= 0) closeFd(this.wakeFd);
  }

  /** Index of the first word of a new entry. There is one: what is queued is in flight too, and that has its limit. */
  #take(opcode: number, tag: number, length: number): number {
    assert(this.#inFlight <= this.#sqMask, 'a ring has room for a request');
    const sqes = this.#sqes;
    const at = (this.#tail & this.#sqMask) * SQE_WORDS;
    this.#tail = (this.#tail + 1) >>> 0;
    this.#inFlight++;
    sqes.fill(0, at, at + SQE_WORDS);
    // The registered file is the first of one.
    sqes[at] = opcode | FIXED_FILE;
    sqes[at + 6] = length;
    sqes[at + 8] = tag;
    return at;
  }

  #setAddress(at: number, address: number): void {
    this.#sqes[at + 4] = address >>> 0;
    this.#sqes[at + 5] = (address / TWO_32) >>> 0;
  }

  #setOffset(at: number, offsetBytes: number): void {
    this.#sqes[at + 2] = offsetBytes >>> 0;
    this.#sqes[at + 3] = (offsetBytes / TWO_32) >>> 0;
  }
}

/** The ring's descriptor and its set-up flags; fills in `params`. */
function setUp({ entries, sqPollCore, ioPoll }: IoUringOptions, params: Uint32Array): [fd: number, setup: number] {
  const wanted =
    Setup.cqSize | (ioPoll ? Setup.ioPoll : 0) | (sqPollCore === undefined ? 0 : Setup.sqPoll | Setup.sqAffinity);
  // The kernel's submission thread cannot defer work to this one.
  const choices = sqPollCore === undefined ? TASKRUN_CHOICES : [0];
  let result: number = Errno.EINVAL;
  for (const choice of choices) {
    params.fill(0);
    params[Param.flags] = wanted | choice;
    params[Param.cqEntries] = entries;
    if (sqPollCore !== undefined) {
      params[Param.sqCore] = sqPollCore;
      params[Param.sqIdleMs] = SQ_IDLE_MS;
    }
    result = native.uringSetup(entries, new Uint8Array(params.buffer));
    if (result >= 0) return [result, wanted | choice];
    if (result !== Errno.EINVAL) break;
  }
  checkErrno(result, 'cannot set up an io_uring');
  return [result, wanted];
}
