/**
 * One command on its way through a logical unit. Pooled by the unit: all of its state is here, and what it does next
 * is a plain function, so that nothing is allocated and nothing is captured for each command.
 *
 * A command ends exactly once, with one of `end`, `fail…`, `overrun` or `forget`. A step that submitted I/O returns;
 * the step in `next` runs when the I/O is over.
 */
import { assert } from '../base/assert.ts';
import { DOUBLE } from '../base/double.ts';
import { BdevIo, type IoOwner, IoStatus, IoType, type LatencyCounter, NO_SEGMENTS } from '../bdev/bdev-io.ts';
import type { Sharer } from '../bdev/fair-shares.ts';
import { finishTask, setParameterData, setSense } from './answer.ts';
import { type BounceWaiter, NO_BOUNCE } from './bounce-pool.ts';
import { fieldPointer, NO_FIELD, NO_INFORMATION, Sense, WHOLE_BYTE } from './sense.ts';
import { ScsiStatus, type ScsiTask, ServiceResponse } from './task.ts';
import { type CommandDescription, UNMAP_DESCRIPTORS_MAX, type UnitState } from './unit-state.ts';

/** Part of a command between two waits. */
export type Step = (command: Command) => void;

/** A row of the command table. */
export interface CommandDefinition extends CommandDescription {
  readonly run: Step;
  /** Carried out even while a unit attention is pending, which then stays (SPC-4 §5.14.1). */
  readonly ignoresAttention: boolean;
  /** Needs the medium. */
  readonly needsMedium: boolean;
  /** Reads and writes as one: no other command of the unit runs meanwhile. */
  readonly isAtomic: boolean;
  /** It moves blocks and does nothing else, and has address and length where its group of opcodes has them. */
  readonly transfer: TransferType;
}

export type TransferType = typeof IoType.read | typeof IoType.write | typeof NO_TRANSFER;
export const NO_TRANSFER = -1;

/** The unit's task set. */
export interface CommandOwner {
  /** The command is over, or was forgotten; it may be used again. */
  commandEnded(command: Command): void;
  /** Aborts every task of some nexuses but `except`; `done` runs when they have ended. */
  abortNexuses(nexuses: readonly number[], except: Command, done: () => void): void;
}

const IDLE: Step = () => {};

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const COMPLETE = ServiceResponse.complete;
const SUCCESS = IoStatus.success;
const NO_SPACE = IoStatus.noSpace;
const WITHDRAWN = IoStatus.withdrawn;
const READ = IoType.read;
const NONE = NO_BOUNCE;

export class Command implements IoOwner, BounceWaiter {
  readonly unit: UnitState;
  readonly io: BdevIo;
  readonly owner: CommandOwner;
  task: ScsiTask;
  next: Step = IDLE;
  /** Between its start and its end. */
  isActive = false;
  /** Tells one use of this record from the next. */
  sequence = 0;
  /** I/O is under way: an aborted command ends after it. */
  isInIo = false;
  /** It was started by `startTransfer`. */
  isTransfer = false;
  isWaitingForBounce = false;
  /** Not `complete`: how the command ends instead, because it was aborted. */
  abortResponse: ServiceResponse = COMPLETE;
  #isStepping = false;
  #hasNext = false;

  /** The range that the CDB names. */
  lba = DOUBLE;
  blocks = DOUBLE;
  /** Blocks done so far, and those under way. */
  doneBlocks = 0;
  pieceBlocks = 0;
  /** Bytes of the buffers that were used. */
  dataBytes = 0;
  bounce = NONE;
  /** For parameters that outlive a wait; made when first needed. */
  #storage: Uint8Array | null = null;

  constructor(unit: UnitState, owner: CommandOwner, task: ScsiTask) {
    this.unit = unit;
    this.owner = owner;
    this.task = task;
    this.io = new BdevIo(this);
  }

  get latencies(): LatencyCounter | null {
    return this.task.transport.latencies ?? null;
  }

  get sharer(): Sharer | null {
    return this.task.transport.sharer ?? null;
  }

  get storage(): Uint8Array {
    if (this.#storage === null) this.#storage = new Uint8Array(UNMAP_DESCRIPTORS_MAX * 16);
    return this.#storage;
  }

  // ---- steps --------------------------------------------------------------------------------------------------------

  start(task: ScsiTask, run: Step): void {
    this.#begin(task);
    this.isTransfer = false;
    this.next = run;
    this.#step();
  }

  /**
   * Starts a READ or WRITE that needs no check any more: `io` has its range, `dataBytes` its length. `then` ends it,
   * unless it simply succeeds.
   */
  startTransfer(task: ScsiTask, type: IoType, then: Step): void {
    const { io } = this;
    this.task = task;
    this.isActive = true;
    this.isTransfer = true;
    this.sequence++;
    this.abortResponse = COMPLETE;
    this.next = then;
    if (!this.mapData(type === READ, this.dataBytes)) {
      this.owner.commandEnded(this);
      return;
    }
    task.needsBuffers = false;
    io.type = type;
    io.lengthBytes = this.dataBytes;
    this.isInIo = true;
    this.unit.channel.submit(io);
  }

  #begin(task: ScsiTask): void {
    this.task = task;
    this.isActive = true;
    this.sequence++;
    this.abortResponse = COMPLETE;
  }

  /** Runs `next`, and what becomes next while it runs: a channel may complete inside `submit`. */
  #step(): void {
    this.#hasNext = true;
    if (this.#isStepping) return;
    this.#isStepping = true;
    while (this.#hasNext) {
      this.#hasNext = false;
      if (this.abortResponse === COMPLETE) this.next(this);
      else this.#endAborted();
    }
    this.#isStepping = false;
    if (!this.isActive) this.owner.commandEnded(this);
  }

  ioDone(): void {
    this.isInIo = false;
    const { io, task } = this;
    const isGood = this.isTransfer && io.status === SUCCESS && this.abortResponse === COMPLETE;
    if (isGood && (io.type === READ || !this.unit.mustFlushWrites)) {
      this.isActive = false;
      task.transferredBytes = this.dataBytes;
      finishTask(task);
      this.owner.commandEnded(this);
    } else if (io.status === WITHDRAWN && this.abortResponse === COMPLETE) {
      this.#free();
      task.transport.taskWithdrawn(task);
      this.owner.commandEnded(this);
    } else this.#step();
  }

  /** Ends the command with `response` as soon as no I/O of it is under way. */
  abort(response: ServiceResponse): void {
    assert(response !== COMPLETE, 'an aborted command does not complete');
    this.abortResponse = response;
    if (this.isWaitingForBounce) {
      this.isWaitingForBounce = false;
      this.unit.bounce.giveUp(this);
      this.#step();
    } else if (!this.isInIo) this.#step();
  }

  // ---- waits --------------------------------------------------------------------------------------------------------

  /** Submits I/O on `[offset, offset + count)` of the disk, with the segments that `io` has; `then` runs after it. */
  submit(type: IoType, offsetBlocks: number, countBlocks: number, then: Step): void {
    const io = this.io;
    io.type = type;
    io.offsetBlocks = offsetBlocks;
    io.countBlocks = countBlocks;
    io.lengthBytes = countBlocks * this.unit.blockSizeBytes;
    this.next = then;
    this.isInIo = true;
    this.unit.channel.submit(io);
  }

  /**
   * Submits I/O on the whole range of the command: the hot path. The address goes from field to field, because as an
   * argument it would be boxed.
   */
  submitRange(type: IoType, then: Step): void {
    const io = this.io;
    io.type = type;
    io.offsetBlocks = this.lba;
    io.countBlocks = this.blocks;
    io.lengthBytes = this.blocks * this.unit.blockSizeBytes;
    this.next = then;
    this.isInIo = true;
    this.unit.channel.submit(io);
  }

  /** Submits I/O without segments. */
  submitBare(type: IoType, offsetBlocks: number, countBlocks: number, then: Step): void {
    this.io.iovFirst = NO_SEGMENTS;
    this.io.iovCount = 0;
    this.submit(type, offsetBlocks, countBlocks, then);
  }

  /** Reads or writes blocks of the disk from or to the start of the bounce buffer. */
  submitBounce(type: IoType, offsetBlocks: number, countBlocks: number, then: Step): void {
    this.unit.bounce.describe(this.bounce, this.io, countBlocks * this.unit.blockSizeBytes);
    this.submit(type, offsetBlocks, countBlocks, then);
  }

  /** Gets a bounce buffer; `then` runs when it is there, which may be at once. */
  withBounce(then: Step): void {
    this.next = then;
    this.isWaitingForBounce = true;
    const index = this.unit.bounce.take(this);
    if (index !== NONE) this.bounceReady(index);
  }

  /** Waits for something that is neither I/O nor memory: `then` runs after `resume`. */
  park(then: Step): void {
    this.next = then;
  }

  resume(): void {
    this.#step();
  }

  bounceReady(index: number): void {
    this.isWaitingForBounce = false;
    this.bounce = index;
    this.#step();
  }

  /**
   * Makes the initiator's buffers, from their start, the segments of the next I/O. False when the command is over:
   * the buffers are too short or not there, or there is no list now and the transport brings the task again.
   */
  mapData(isRead: boolean, lengthBytes: number): boolean {
    const task = this.task;
    if (lengthBytes > (isRead ? task.dataInBytes : task.dataOutBytes)) {
      this.overrun();
      return false;
    }
    const result = task.transport.mapData(task, this.io, isRead, 0, lengthBytes);
    if (result === 0) return true;
    if (result === NO_LIST_NOW) this.forget();
    else this.respond(ServiceResponse.targetFailure);
    return false;
  }

  /** Reads `length` bytes at `offset` of data-out. False, and the command is over, when they are not there. */
  readData(target: Uint8Array, offset: number, length: number): boolean {
    const task = this.task;
    if (offset + length > task.dataOutBytes) {
      this.overrun();
      return false;
    }
    if (task.transport.readDataOut(task, target, offset, length) === length) return true;
    this.respond(ServiceResponse.targetFailure);
    return false;
  }

  // ---- ends ---------------------------------------------------------------------------------------------------------

  /** Success; `transferredBytes` of the initiator's buffers were filled or taken. */
  end(transferredBytes: number): void {
    this.task.transferredBytes = transferredBytes;
    this.#finish();
  }

  /** Success with parameter data from the scratch buffer. */
  endWithData(lengthBytes: number, allocationBytes: number): void {
    setParameterData(this.task, lengthBytes, allocationBytes);
    this.#finish();
  }

  fail(code: number, information: number = NO_INFORMATION, field: number = NO_FIELD): void {
    setSense(this.task, code, this.unit.modes.isDescriptorSense, information, field);
    this.#finish();
  }

  /** INVALID FIELD IN CDB, with the byte and the highest bit of the field. */
  failField(byte: number, bit: number = WHOLE_BYTE): void {
    this.fail(Sense.invalidFieldInCdb, NO_INFORMATION, fieldPointer(byte, bit, true));
  }

  /** INVALID FIELD IN PARAMETER LIST. */
  failParameter(byte: number, bit: number = WHOLE_BYTE): void {
    this.fail(Sense.invalidFieldInParameters, NO_INFORMATION, fieldPointer(byte, bit, false));
  }

  /** True, and the command has failed, when the I/O did. */
  hasFailed(): boolean {
    if (this.io.status === SUCCESS) return false;
    if (this.unit.channel.isRemoved) this.fail(Sense.lunNotSupported);
    else if (this.io.status === NO_SPACE) this.fail(Sense.spaceAllocationFailed);
    else this.fail(this.io.type === IoType.read ? Sense.unrecoveredReadError : Sense.writeError);
    return true;
  }

  conflict(): void {
    this.task.status = ScsiStatus.reservationConflict;
    this.#finish();
  }

  /** The CDB asks for more bytes than the buffers hold: nothing is moved (virtio 1.3 §5.6.6.1). */
  overrun(): void {
    this.respond(ServiceResponse.overrun);
  }

  respond(response: ServiceResponse): void {
    this.task.response = response;
    this.task.transferredBytes = 0;
    this.#finish();
  }

  /** The transport brings the task again: as if it had not come. */
  forget(): void {
    this.#free();
  }

  #endAborted(): void {
    // A step that ended the command has had its last word.
    if (!this.isActive) return;
    this.task.status = ScsiStatus.good;
    this.task.senseLength = 0;
    this.respond(this.abortResponse);
  }

  #finish(): void {
    const task = this.task;
    this.#free();
    finishTask(task);
  }

  #free(): void {
    assert(this.isActive && !this.isInIo, 'a command ends once, after its I/O');
    if (this.bounce !== NONE) {
      const bounce = this.bounce;
      this.bounce = NONE;
      this.unit.bounce.release(bounce);
    }
    this.isActive = false;
  }
}

/** `TaskTransport.mapData`: no segment list is free. */
const NO_LIST_NOW = -2;
