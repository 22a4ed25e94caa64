/**
 * A logical unit: its state and its task set (SAM-5 §8). Simple tasks run at once, in any order; an ordered task, and
 * one that reads and writes as one, runs alone: it waits for the older ones and the newer ones wait for it. Tasks at
 * the head of the queue go before all that wait.
 */
import { assert } from '../base/assert.ts';
import { IoType } from '../bdev/bdev-io.ts';
import { finishTask, setSense } from './answer.ts';
import { Command, type CommandDefinition, type CommandOwner, NO_TRANSFER } from './command.ts';
import { COMMANDS, findCommand, hasServiceActions, TRANSFERS } from './command-table.ts';
import { endRead, endWrite } from './commands/read-write.ts';
import { fieldPointer, NO_FIELD, NO_INFORMATION, Sense } from './sense.ts';
import { ScsiStatus, type ScsiTask, ServiceResponse, TaskAttribute } from './task.ts';
import { type UnitDirectory, type UnitOptions, UnitState } from './unit-state.ts';

/** NACA in the control byte: auto contingent allegiance, which is not offered. */
const NACA = 0x04;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { simple: SIMPLE, headOfQueue: HEAD_OF_QUEUE, ordered: ORDERED, aca: ACA } = TaskAttribute;
const { read: READ, write: WRITE } = IoType;
const NOT_A_TRANSFER = NO_TRANSFER;
const TRANSFER_OF = TRANSFERS;
const [END_READ, END_WRITE] = [endRead, endWrite];
const TWO_32 = 2 ** 32;
/** Groups of opcodes by the length of their CDBs. */
const GROUP_OF_10 = 1;
const GROUP_OF_16 = 4;

/** Somebody waits for the end of some commands. */
interface Watch {
  readonly commands: Set<Command>;
  readonly done: () => void;
}

/** Which tasks, in task management. */
export type TaskFilter = (task: ScsiTask) => boolean;

export class LogicalUnit implements CommandOwner {
  readonly state: UnitState;
  readonly #all: Command[] = [];
  /** Those that are not active, up to `#freeCount`: calls of `push` would cost more. */
  readonly #free: Command[] = [];
  #freeCount = 0;
  #activeCount = 0;
  /** The command that runs alone, if one does. */
  #alone: Command | null = null;
  /** Tasks that have not begun, in the order in which they will. */
  #waiting: ScsiTask[] = [];
  #isDraining = false;
  #watches: Watch[] = [];
  #onGone: (() => void) | null = null;

  constructor(number: number, options: UnitOptions, directory: UnitDirectory, nexusNames: readonly Uint8Array[]) {
    this.state = new UnitState(number, options, directory, COMMANDS, nexusNames);
    this.state.raise(Sense.powerOn);
  }

  /** Takes a task whose answer fields are reset. */
  accept(task: ScsiTask): void {
    task.unpackCdb();
    const definition = findCommand(task.cdb);
    const isFirst = task.attribute === HEAD_OF_QUEUE;
    if ((isFirst || this.#waiting.length === 0) && this.#mayStart(task, definition)) this.#start(task, definition);
    else if (isFirst) this.#waiting.unshift(task);
    else this.#waiting.push(task);
  }

  /**
   * Starts a READ or WRITE that nothing whatever speaks against, which nearly every task is: no flag, nobody waits, no
   * condition, no reservation, a range on the disk, buffers that hold it. False, and nothing has happened, when
   * anything does: `accept` finds out what.
   */
  startTransfer(task: ScsiTask): boolean {
    const { cdb0, cdb1, cdb2, cdb3 } = task;
    const type = TRANSFER_OF[cdb0 & 0xff] as number;
    const { state } = this;
    if (type === NOT_A_TRANSFER || task.attribute !== SIMPLE || !state.isOpen) return false;
    if (this.#waiting.length > 0 || this.#alone !== null || (type === WRITE && state.isWriteProtected)) return false;
    const group = (cdb0 >>> 5) & 7;
    // Bytes 2 to 5, and 6 to 9.
    const first = swap((cdb0 >>> 16) | (cdb1 << 16));
    const second = swap((cdb1 >>> 16) | (cdb2 << 16));
    let flags = cdb0 & 0xff00;
    let lba = first;
    let blocks = second;
    if (group === GROUP_OF_10) {
      flags |= cdb2 & 0xff00;
      blocks = (second >>> 8) & 0xffff;
    } else if (group === GROUP_OF_16) {
      flags |= cdb3 & 0xff00_0000;
      lba = first * TWO_32 + second;
      blocks = swap((cdb2 >>> 16) | (cdb3 << 16));
    } else flags |= cdb2 & 0xff00_0000;
    if (flags !== 0 || blocks === 0 || blocks > state.transferBlocksMax) return false;
    if (lba + blocks > state.channel.blockCount) return false;
    const command = this.#freeCount > 0 ? (this.#free[--this.#freeCount] as Command) : this.#newCommand(task);
    const { io } = command;
    io.offsetBlocks = lba;
    io.countBlocks = blocks;
    command.dataBytes = blocks * state.blockSizeBytes;
    this.#activeCount++;
    if (type === READ) command.startTransfer(task, READ, END_READ);
    else command.startTransfer(task, WRITE, END_WRITE);
    return true;
  }

  // ---- CommandOwner -------------------------------------------------------------------------------------------------

  commandEnded(command: Command): void {
    this.#activeCount--;
    this.#free[this.#freeCount++] = command;
    if (this.#alone === command) this.#alone = null;
    if (this.#watches.length > 0) this.#tellWatches(command);
    if (this.#waiting.length > 0) this.#drain();
    if (this.#activeCount === 0 && this.#onGone !== null) this.#gone();
  }

  abortNexuses(nexuses: readonly number[], except: Command, done: () => void): void {
    this.abort((task) => task !== except.task && nexuses.includes(task.nexus), ServiceResponse.aborted, done);
  }

  // ---- task management ----------------------------------------------------------------------------------------------

  /** Whether a task of the filter is here. */
  has(filter: TaskFilter): boolean {
    return this.#waiting.some(filter) || this.#all.some((command) => command.isActive && filter(command.task));
  }

  /** Ends the tasks of the filter with `response`; `done` runs when the last has ended. */
  abort(filter: TaskFilter, response: ServiceResponse, done: () => void): void {
    const commands = this.#all.filter((command) => command.isActive && filter(command.task));
    const waiting = this.#waiting.filter(filter);
    this.#waiting = this.#waiting.filter((task) => !waiting.includes(task));
    for (const task of waiting) {
      task.response = response;
      finishTask(task);
    }
    const sequences = commands.map(({ sequence }) => sequence);
    if (commands.length > 0) this.#watches.push({ commands: new Set(commands), done });
    commands.forEach((command, i) => {
      // The end of one may have ended another, whose record serves a newer task by now.
      if (command.isActive && command.sequence === sequences[i]) command.abort(response);
    });
    if (commands.length === 0) done();
    if (this.#waiting.length > 0) this.#drain();
  }

  /**
   * The unit takes no more tasks: those that wait end now, those that run go on. `onGone` runs when none is left. The
   * caller has seen to it that no task comes.
   */
  remove(onGone: () => void): void {
    assert(this.#onGone === null, 'a logical unit is removed once');
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#onGone = onGone;
    for (const task of waiting) {
      setSense(task, Sense.lunNotSupported, this.state.modes.isDescriptorSense);
      finishTask(task);
    }
    if (this.#activeCount === 0) this.#gone();
  }

  #gone(): void {
    const onGone = this.#onGone;
    this.#onGone = () => {};
    if (onGone !== null) onGone();
  }

  #tellWatches(command: Command): void {
    const watches = this.#watches;
    for (const watch of watches) watch.commands.delete(command);
    this.#watches = watches.filter((watch) => watch.commands.size > 0);
    for (const watch of watches) if (watch.commands.size === 0) watch.done();
  }

  // ---- the task set -------------------------------------------------------------------------------------------------

  #mayStart(task: ScsiTask, definition: CommandDefinition | null): boolean {
    return this.#activeCount === 0 || (this.#alone === null && !runsAlone(task, definition));
  }

  #drain(): void {
    // Commands that end at once come back here: one loop, however many wait.
    if (this.#isDraining) return;
    this.#isDraining = true;
    while (this.#waiting.length > 0) {
      const task = this.#waiting[0] as ScsiTask;
      const definition = findCommand(task.cdb);
      if (!this.#mayStart(task, definition)) break;
      this.#waiting.shift();
      this.#start(task, definition);
    }
    this.#isDraining = false;
  }

  #start(task: ScsiTask, definition: CommandDefinition | null): void {
    if (definition === null || !this.#admit(task, definition)) {
      if (definition === null) this.#refuseUnknown(task);
      finishTask(task);
      return;
    }
    const command = this.#freeCount > 0 ? (this.#free[--this.#freeCount] as Command) : this.#newCommand(task);
    this.#activeCount++;
    if (runsAlone(task, definition)) this.#alone = command;
    command.start(task, definition.run);
  }

  /** What every command is checked for. False: the task has its answer. */
  #admit(task: ScsiTask, definition: CommandDefinition): boolean {
    const state = this.state;
    if (task.attribute === ACA) return this.#refuse(task, Sense.invalidMessage);
    if (!definition.ignoresAttention && this.#tellAttention(task)) return false;
    if (!state.supports(definition)) return this.#refuse(task, Sense.invalidOpcode);
    if (((task.cdb[definition.usage.length - 1] as number) & NACA) !== 0) {
      return this.#refuse(task, Sense.invalidFieldInCdb, fieldPointer(definition.usage.length - 1, 2, true));
    }
    if (state.reservations.isInForce && state.reservations.conflicts(task.nexus, definition.access)) {
      task.status = ScsiStatus.reservationConflict;
      return false;
    }
    if (definition.needsMedium && state.isEjected) return this.#refuse(task, Sense.mediumNotPresent);
    return true;
  }

  #refuseUnknown(task: ScsiTask): void {
    if (task.attribute !== ACA && this.#tellAttention(task)) return;
    if (hasServiceActions(task.cdb[0] as number)) {
      this.#refuse(task, Sense.invalidFieldInCdb, fieldPointer(1, 4, true));
    } else this.#refuse(task, Sense.invalidOpcode);
  }

  /** True when a unit attention was pending: the task has it as its answer. */
  #tellAttention(task: ScsiTask): boolean {
    const attentions = this.state.attentions;
    if (!attentions.isPending(task.nexus)) return false;
    const condition = attentions.take(task.nexus);
    // Told by one unit of the target, known for all of them (LUICLR of the extended inquiry page).
    if (condition === Sense.reportedLunsChanged) this.state.directory.lunsReported(task.nexus);
    this.#refuse(task, condition);
    return true;
  }

  #refuse(task: ScsiTask, code: number, field = NO_FIELD): false {
    setSense(task, code, this.state.modes.isDescriptorSense, NO_INFORMATION, field);
    return false;
  }

  #newCommand(task: ScsiTask): Command {
    const command = new Command(this.state, this, task);
    this.#all.push(command);
    return command;
  }
}

function runsAlone(task: ScsiTask, definition: CommandDefinition | null): boolean {
  return task.attribute === ORDERED || definition?.isAtomic === true;
}

/** A big-endian word that was read as a little-endian one. */
function swap(word: number): number {
  return ((word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)) >>> 0;
}
