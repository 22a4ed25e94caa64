/**
 * REPORT LUNS, REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 §6.33 to
 * §6.36).
 */
import { clearedScratch, SCRATCH } from '../answer.ts';
import { readU16, readU32, writeU16, writeU32 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { REPORT_LUNS_UNIT, type ScsiTask, ServiceResponse } from '../task.ts';
import type { CommandDescription, UnitDirectory, UnitState } from '../unit-state.ts';

const LUN_BYTES = 8;
const FLAT_SPACE = 0x40;
/** LUNs from here on need flat space addressing. */
const FLAT_SPACE_FIRST = 256;
/** SELECT REPORT: which units. */
const Select = { addressable: 0, wellKnown: 1, all: 2 } as const;
/** The least that may be asked for. */
const ALLOCATION_BYTES_MIN = 16;

export function reportLuns(command: Command): void {
  const { task, unit } = command;
  const fault = reportLunsFault(task);
  if (fault >= 0) command.failField(fault, 7);
  else {
    writeLuns(task, unit.directory);
    if (task.response === ServiceResponse.complete) command.end(task.transferredBytes);
    else command.respond(task.response);
  }
}

/** The byte of the CDB that is wrong, or -1. */
export function reportLunsFault(task: ScsiTask): number {
  if ((task.cdb[2] as number) > Select.all) return 2;
  return readU32(task.cdb, 6) < ALLOCATION_BYTES_MIN ? 6 : -1;
}

/** Gives the list to the initiator in pieces of the scratch buffer: it may have thousands of entries. */
export function writeLuns(task: ScsiTask, directory: UnitDirectory): void {
  const select = task.cdb[2] as number;
  const numbers = select === Select.wellKnown ? [] : directory.lunNumbers;
  const count = numbers.length + (select === Select.addressable ? 0 : 1);
  const wanted = Math.min(LUN_BYTES * (1 + count), readU32(task.cdb, 6));
  directory.lunsReported(task.nexus);
  if (wanted > task.dataInBytes) {
    task.response = ServiceResponse.overrun;
    return;
  }
  clearedScratch(LUN_BYTES);
  writeU32(SCRATCH, 0, LUN_BYTES * count);
  let filled = LUN_BYTES;
  let done = 0;
  for (let i = 0; i <= count; i++) {
    if (i === count || filled === SCRATCH.length) {
      const length = Math.min(filled, wanted - done);
      if (task.transport.writeDataIn(task, SCRATCH, done, length) < length) {
        task.response = ServiceResponse.targetFailure;
        return;
      }
      done += length;
      filled = 0;
    }
    if (i < count) {
      writeLun(SCRATCH, filled, i < numbers.length ? (numbers[i] as number) : REPORT_LUNS_UNIT);
      filled += LUN_BYTES;
    }
  }
  task.transferredBytes = done;
}

function writeLun(target: Uint8Array, at: number, lun: number): void {
  target.fill(0, at, at + LUN_BYTES);
  const isFlat = lun >= FLAT_SPACE_FIRST && lun !== REPORT_LUNS_UNIT;
  writeU16(target, at, isFlat ? lun | (FLAT_SPACE << 8) : lun);
}

/** REPORTING OPTIONS of REPORT SUPPORTED OPERATION CODES. */
const Reporting = { all: 0, opcode: 1, serviceAction: 2, either: 3 } as const;
const TIMEOUTS_BYTES = 12;
/** SUPPORT: not supported; as a standard says. */
const Support = { no: 1, standard: 3 } as const;

export function reportSupportedOpcodes(command: Command): void {
  const { task, unit } = command;
  const cdb = task.cdb;
  const hasTimeouts = ((cdb[2] as number) & 0x80) !== 0;
  const reporting = (cdb[2] as number) & 0x07;
  const allocation = readU32(cdb, 6);
  if (reporting === Reporting.all) {
    command.endWithData(allCommands(unit, hasTimeouts), allocation);
    return;
  }
  const opcode = cdb[3] as number;
  const rows = unit.commands.filter((row) => row.opcode === opcode);
  const hasActions = rows.some((row) => row.serviceAction >= 0);
  const isMismatch =
    rows.length > 0 &&
    ((reporting === Reporting.opcode && hasActions) || (reporting === Reporting.serviceAction && !hasActions));
  if (isMismatch || reporting > Reporting.either) {
    command.failField(2, 2);
    return;
  }
  const action = readU16(cdb, 4);
  const row = rows.find(
    (candidate) => unit.supports(candidate) && (candidate.serviceAction < 0 || candidate.serviceAction === action),
  );
  command.endWithData(oneCommand(row, hasTimeouts), allocation);
}

function allCommands(unit: UnitState, hasTimeouts: boolean): number {
  const rows = unit.commands.filter((row) => unit.supports(row));
  const each = 8 + (hasTimeouts ? TIMEOUTS_BYTES : 0);
  const data = clearedScratch(4 + rows.length * each);
  writeU32(data, 0, rows.length * each);
  let at = 4;
  for (const row of rows) {
    data[at] = row.opcode;
    writeU16(data, at + 2, Math.max(0, row.serviceAction));
    data[at + 5] = (hasTimeouts ? 0x02 : 0) | (row.serviceAction >= 0 ? 0x01 : 0);
    writeU16(data, at + 6, row.usage.length);
    if (hasTimeouts) writeTimeouts(data, at + 8);
    at += each;
  }
  return at;
}

function oneCommand(row: CommandDescription | undefined, hasTimeouts: boolean): number {
  if (row === undefined) {
    clearedScratch(4)[1] = Support.no;
    return 4;
  }
  const length = 4 + row.usage.length;
  const data = clearedScratch(length + TIMEOUTS_BYTES);
  data[1] = (hasTimeouts ? 0x80 : 0) | Support.standard;
  writeU16(data, 2, row.usage.length);
  data.set(row.usage, 4);
  if (!hasTimeouts) return length;
  writeTimeouts(data, length);
  return length + TIMEOUTS_BYTES;
}

/** A command timeouts descriptor that names no times. */
function writeTimeouts(data: Uint8Array, at: number): void {
  writeU16(data, at, TIMEOUTS_BYTES - 2);
}

export function reportTaskManagement(command: Command): void {
  const cdb = command.task.cdb;
  const isExtended = ((cdb[2] as number) & 0x80) !== 0;
  const allocation = readU32(cdb, 6);
  if (allocation < 4) {
    command.failField(6, 7);
    return;
  }
  const length = isExtended ? 16 : 4;
  const data = clearedScratch(length);
  // ATS, ATSS, CTSS, LURS, QTS; QTSS, ITNRS.
  data[0] = 0xdc;
  data[1] = 0x03;
  data[3] = isExtended ? 12 : 0;
  command.endWithData(length, allocation);
}
