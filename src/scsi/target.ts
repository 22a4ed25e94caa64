/**
 * A SCSI target of one reactor: its logical units, what is answered for a LUN that is not there, task management, and
 * the I_T nexuses (SAM-5). Everything runs on the reactor's thread.
 */
import { assert } from '../base/assert.ts';
import { finishTask, resetAnswer, SCRATCH, setParameterData, setSense } from './answer.ts';
import { readU16 } from './big-endian.ts';
import { missingInquiry, STANDARD_INQUIRY_BYTES, wellKnownInquiry } from './commands/inquiry.ts';
import { reportLunsFault, writeLuns } from './commands/report.ts';
import { LogicalUnit, type TaskFilter } from './lun.ts';
import { fieldPointer, NO_FIELD, NO_INFORMATION, Sense, writeSense } from './sense.ts';
import { ManagementResult, REPORT_LUNS_UNIT, type ScsiTask, ServiceResponse, TaskManagementFunction } from './task.ts';
import { defaultNexusName, NEXUS_NAME_BYTES } from './transport-id.ts';
import type { UnitDirectory, UnitOptions, UnitState } from './unit-state.ts';

const Opcode = { testUnitReady: 0x00, requestSense: 0x03, inquiry: 0x12, reportLuns: 0xa0 } as const;
/** Single-level addressing has 14 bits. */
const LUN_MAX = 0x3fff;

export interface TargetOptions {
  /** How many I_T nexuses there are; a vhost-user controller has one, its session. */
  readonly nexusCount?: number;
  /** By nexus: 8 bytes that name the initiator port in TransportIDs. */
  readonly nexusNames?: readonly Uint8Array[];
}

/** A task management request. */
export interface ManagementRequest {
  /** One of `TaskManagementFunction`. */
  readonly function: number;
  readonly lun: number;
  readonly nexus: number;
  /** Of the task to abort or to ask for. */
  readonly tagLow: number;
  readonly tagHigh: number;
}

export class ScsiTarget implements UnitDirectory {
  readonly #units = new Map<number, LogicalUnit>();
  /** The unit of the last task: mostly the one of the next. */
  #last: LogicalUnit | null = null;
  #lastNumber = -1;
  #lunNumbers: readonly number[] = [];
  readonly #nexusNames: readonly Uint8Array[];

  constructor(options: TargetOptions = {}) {
    const count = options.nexusCount ?? 1;
    this.#nexusNames = Array.from({ length: count }, (_, i) => options.nexusNames?.[i] ?? defaultNexusName(i));
    assert(
      this.#nexusNames.every((name) => name.length === NEXUS_NAME_BYTES),
      'a nexus has a name of 8 bytes',
    );
  }

  // ---- logical units ------------------------------------------------------------------------------------------------

  /** LUNs, ascending. */
  get lunNumbers(): readonly number[] {
    return this.#lunNumbers;
  }

  hasLun(number: number): boolean {
    return this.#units.has(number);
  }

  /** State of a unit, for whoever shows it. */
  lun(number: number): UnitState | undefined {
    return this.#units.get(number)?.state;
  }

  /** The other units tell their initiators of it: REPORTED LUNS DATA HAS CHANGED. */
  addLun(number: number, options: UnitOptions): void {
    assert(number >= 0 && number <= LUN_MAX && !this.#units.has(number), 'a LUN is free and has 14 bits');
    for (const unit of this.#units.values()) unit.state.raise(Sense.reportedLunsChanged);
    this.#units.set(number, new LogicalUnit(number, options, this, this.#nexusNames));
    this.#changed();
  }

  /**
   * From now on the LUN is not there. `onGone` runs when its last task has ended, perhaps at once; the channel may be
   * closed then. Returns what ends the tasks that still run, each after the I/O that is under way.
   */
  removeLun(number: number, onGone: () => void): () => void {
    const unit = this.#units.get(number);
    assert(unit !== undefined, 'a LUN that is removed is there');
    this.#units.delete(number);
    this.#changed();
    for (const other of this.#units.values()) other.state.raise(Sense.reportedLunsChanged);
    unit.remove(onGone);
    return () =>
      unit.abort(
        () => true,
        ServiceResponse.aborted,
        () => {},
      );
  }

  /** The channel of a unit has a new number of blocks. */
  capacityChanged(number: number): void {
    this.#units.get(number)?.state.raise(Sense.capacityChanged);
  }

  lunsReported(nexus: number): void {
    for (const unit of this.#units.values()) unit.state.attentions.clear(nexus, Sense.reportedLunsChanged);
  }

  #changed(): void {
    this.#lunNumbers = [...this.#units.keys()].sort((a, b) => a - b);
    this.#lastNumber = -1;
    this.#last = null;
  }

  // ---- nexuses ------------------------------------------------------------------------------------------------------

  /** A session began, or its transport was reset: nothing of it is in flight, and every unit says POWER ON. */
  resetNexus(nexus = 0): void {
    for (const { state } of this.#units.values()) {
      state.nexusLost(nexus);
      state.attentions.raiseFor(nexus, Sense.powerOn);
    }
  }

  // ---- tasks --------------------------------------------------------------------------------------------------------

  /**
   * Carries a task out; its transport hears of the end, now or later. When the transport's `mapData` said that no
   * segment list is free the task is forgotten, and the transport gives it again.
   */
  execute(task: ScsiTask): void {
    resetAnswer(task);
    let unit = this.#last;
    if (task.lun !== this.#lastNumber) {
      unit = this.#units.get(task.lun) ?? null;
      this.#last = unit;
      this.#lastNumber = task.lun;
    }
    if (unit === null) this.#executeMissing(task);
    else if (!unit.startTransfer(task)) unit.accept(task);
  }

  /**
   * What a target answers for a LUN that it does not have, and for the REPORT LUNS well-known unit (SPC-4 §6.6,
   * §6.33).
   */
  #executeMissing(task: ScsiTask): void {
    task.unpackCdb();
    const isWellKnown = task.lun === REPORT_LUNS_UNIT;
    const cdb = task.cdb;
    const opcode = cdb[0] as number;
    if (opcode === Opcode.inquiry) this.#inquireMissing(task, isWellKnown);
    else if (opcode === Opcode.reportLuns) {
      const fault = reportLunsFault(task);
      if (fault < 0) writeLuns(task, this);
      else refuse(task, Sense.invalidFieldInCdb, fieldPointer(fault, 7, true));
    } else if (opcode === Opcode.requestSense) {
      const code = isWellKnown ? Sense.none : Sense.lunNotSupported;
      setParameterData(task, writeSense(SCRATCH, code, ((cdb[1] as number) & 0x01) !== 0), cdb[4] as number);
    } else if (!isWellKnown) refuse(task, Sense.lunNotSupported);
    else if (opcode !== Opcode.testUnitReady) refuse(task, Sense.invalidOpcode);
    finishTask(task);
  }

  #inquireMissing(task: ScsiTask, isWellKnown: boolean): void {
    const cdb = task.cdb;
    const isVpd = ((cdb[1] as number) & 0x01) !== 0;
    if (cdb[2] !== 0) refuse(task, Sense.invalidFieldInCdb, fieldPointer(2, 7, true));
    else {
      const length = isVpd ? 5 : STANDARD_INQUIRY_BYTES;
      if (isWellKnown) wellKnownInquiry();
      else missingInquiry();
      // Page 00h lists itself only.
      if (isVpd) SCRATCH.set([0, 0, 1, 0], 1);
      setParameterData(task, length, readU16(cdb, 3));
    }
  }

  // ---- task management ----------------------------------------------------------------------------------------------

  /** Carries out a task management function; `done` runs after every task that it ended has ended, perhaps at once. */
  manage(request: ManagementRequest, done: (result: ManagementResult) => void): void {
    const { nexus } = request;
    const isOwn: TaskFilter = (task) => task.nexus === nexus;
    const isNamed: TaskFilter = (task) =>
      isOwn(task) && task.tagLow === request.tagLow && task.tagHigh === request.tagHigh;
    const complete = (): void => done(ManagementResult.complete);
    if (request.function === TaskManagementFunction.nexusReset) {
      this.#resetNexusTasks(nexus, isOwn, complete);
      return;
    }
    const unit = this.#units.get(request.lun);
    if (unit === undefined) {
      done(ManagementResult.incorrectLun);
      return;
    }
    switch (request.function) {
      case TaskManagementFunction.abortTask:
        unit.abort(isNamed, ServiceResponse.aborted, complete);
        break;
      case TaskManagementFunction.abortTaskSet:
        unit.abort(isOwn, ServiceResponse.aborted, complete);
        break;
      case TaskManagementFunction.clearTaskSet:
        this.#tellCleared(unit, nexus);
        unit.abort(() => true, ServiceResponse.aborted, complete);
        break;
      case TaskManagementFunction.logicalUnitReset:
        unit.abort(
          () => true,
          ServiceResponse.reset,
          () => {
            unit.state.reset();
            unit.state.raise(Sense.deviceReset);
            complete();
          },
        );
        break;
      case TaskManagementFunction.queryTask:
        done(unit.has(isNamed) ? ManagementResult.succeeded : ManagementResult.complete);
        break;
      case TaskManagementFunction.queryTaskSet:
        done(unit.has(isOwn) ? ManagementResult.succeeded : ManagementResult.complete);
        break;
      default:
        done(ManagementResult.rejected);
    }
  }

  #resetNexusTasks(nexus: number, isOwn: TaskFilter, complete: () => void): void {
    const units = [...this.#units.values()];
    let left = units.length;
    if (left === 0) complete();
    for (const unit of units) {
      unit.abort(isOwn, ServiceResponse.reset, () => {
        unit.state.nexusLost(nexus);
        unit.state.attentions.raiseFor(nexus, Sense.nexusLoss);
        left--;
        if (left === 0) complete();
      });
    }
  }

  /** Nexuses that lose tasks to another one's CLEAR TASK SET hear of it. */
  #tellCleared(unit: LogicalUnit, nexus: number): void {
    for (let other = 0; other < this.#nexusNames.length; other++) {
      if (other !== nexus && unit.has((task) => task.nexus === other)) {
        unit.state.attentions.raiseFor(other, Sense.commandsCleared);
      }
    }
  }
}

/** CHECK CONDITION of a LUN without mode pages: fixed sense. */
function refuse(task: ScsiTask, code: number, field: number = NO_FIELD): void {
  setSense(task, code, false, NO_INFORMATION, field);
}
