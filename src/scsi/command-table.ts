/**
 * The commands of a direct-access unit, one row each: what dispatches them, what REPORT SUPPORTED OPERATION CODES
 * answers and what the documentation lists. The CDB usage data gives the length of the CDB and, bit by bit, what is
 * evaluated; its first byte is the opcode, and the low five bits of the second the service action of opcodes that
 * have them.
 */
import { assert } from '../base/assert.ts';
import { IoType } from '../bdev/bdev-io.ts';
import { type CommandDefinition, NO_TRANSFER, type Step, type TransferType } from './command.ts';
import { compareAndWrite, orWrite } from './commands/atomic.ts';
import {
  logSense,
  preventAllow,
  release,
  requestSense,
  reserve,
  startStopUnit,
  testUnitReady,
} from './commands/basic.ts';
import { preFetch, synchronizeCache } from './commands/cache.ts';
import {
  getLbaStatus,
  readCapacity10,
  readCapacity16,
  readDefectData10,
  readDefectData12,
} from './commands/capacity.ts';
import { inquiry } from './commands/inquiry.ts';
import { modeSelect6, modeSelect10, modeSense6, modeSense10 } from './commands/mode.ts';
import { readFullStatus, readKeys, readReservation, reportCapabilities } from './commands/persistent-in.ts';
import {
  clear,
  preempt,
  preemptAndAbort,
  register,
  registerAndIgnore,
  registerAndMove,
  releasePersistent,
  reservePersistent,
} from './commands/persistent-out.ts';
import { read, write } from './commands/read-write.ts';
import { reportLuns, reportSupportedOpcodes, reportTaskManagement } from './commands/report.ts';
import { unmap } from './commands/unmap.ts';
import { verify, writeAndVerify } from './commands/verify.ts';
import { writeSame10, writeSame16 } from './commands/write-same.ts';
import { AccessKind } from './reservations.ts';

interface Options {
  readonly action?: boolean;
  readonly access: AccessKind;
  readonly ignoresAttention?: boolean;
  readonly needsMedium?: boolean;
  readonly isAtomic?: boolean;
  readonly needsUnmap?: boolean;
  readonly transfer?: TransferType;
}

const FREE: Options = { access: AccessKind.free };
/** Answered whatever attention is pending. */
const QUIET: Options = { access: AccessKind.free, ignoresAttention: true };
const MEDIUM_FREE: Options = { access: AccessKind.persistentFree, needsMedium: true };
const READ: Options = { access: AccessKind.read, needsMedium: true };
const WRITE: Options = { access: AccessKind.write, needsMedium: true };
const READ_BLOCKS: Options = { ...READ, transfer: IoType.read };
const WRITE_BLOCKS: Options = { ...WRITE, transfer: IoType.write };
const READ_STATE: Options = { access: AccessKind.read };
const WRITE_STATE: Options = { access: AccessKind.write };
const ATOMIC: Options = { ...WRITE, isAtomic: true };
const RESERVE: Options = { access: AccessKind.reserve };
const PERSISTENT: Options = { access: AccessKind.persistentReserve, action: true };
const UNMAP: Options = { ...WRITE, needsUnmap: true };

/** In the order of opcodes. */
export const COMMANDS: readonly CommandDefinition[] = [
  row('TEST UNIT READY', '00 00 00 00 00 00', MEDIUM_FREE, testUnitReady),
  row('REQUEST SENSE', '03 01 00 00 ff 00', QUIET, requestSense),
  row('READ(6)', '08 1f ff ff ff 00', READ, read),
  row('WRITE(6)', '0a 1f ff ff ff 00', WRITE, write),
  row('INQUIRY', '12 01 ff ff ff 00', QUIET, inquiry),
  row('MODE SELECT(6)', '15 11 00 00 ff 00', WRITE_STATE, modeSelect6),
  row('RESERVE(6)', '16 1f 00 00 00 00', RESERVE, reserve),
  row('RELEASE(6)', '17 1f 00 00 00 00', RESERVE, release),
  row('MODE SENSE(6)', '1a 08 ff ff ff 00', WRITE_STATE, modeSense6),
  row('START STOP UNIT', '1b 00 00 00 f7 00', WRITE_STATE, startStopUnit),
  row('PREVENT ALLOW MEDIUM REMOVAL', '1e 00 00 00 01 00', FREE, preventAllow),
  row('READ CAPACITY(10)', '25 00 ff ff ff ff 00 00 01 00', MEDIUM_FREE, readCapacity10),
  row('READ(10)', '28 f8 ff ff ff ff 00 ff ff 00', READ_BLOCKS, read),
  row('WRITE(10)', '2a f8 ff ff ff ff 00 ff ff 00', WRITE_BLOCKS, write),
  row('WRITE AND VERIFY(10)', '2e f6 ff ff ff ff 00 ff ff 00', WRITE, writeAndVerify),
  row('VERIFY(10)', '2f f6 ff ff ff ff 00 ff ff 00', READ, verify),
  row('PRE-FETCH(10)', '34 00 ff ff ff ff 00 ff ff 00', READ, preFetch),
  row('SYNCHRONIZE CACHE(10)', '35 02 ff ff ff ff 00 ff ff 00', WRITE, synchronizeCache),
  row('READ DEFECT DATA(10)', '37 00 1f 00 00 00 00 ff ff 00', READ, readDefectData10),
  row('WRITE SAME(10)', '41 f8 ff ff ff ff 00 ff ff 00', WRITE, writeSame10),
  row('UNMAP', '42 01 00 00 00 00 00 ff ff 00', UNMAP, unmap),
  row('LOG SENSE', '4d 01 3f ff 00 00 00 ff ff 00', FREE, logSense),
  row('MODE SELECT(10)', '55 11 00 00 00 00 00 ff ff 00', WRITE_STATE, modeSelect10),
  row('RESERVE(10)', '56 1f 00 00 00 00 00 00 00 00', RESERVE, reserve),
  row('RELEASE(10)', '57 1f 00 00 00 00 00 00 00 00', RESERVE, release),
  row('MODE SENSE(10)', '5a 18 ff ff 00 00 00 ff ff 00', WRITE_STATE, modeSense10),
  row('PERSISTENT RESERVE IN, READ KEYS', '5e 00 00 00 00 00 00 ff ff 00', PERSISTENT, readKeys),
  row('PERSISTENT RESERVE IN, READ RESERVATION', '5e 01 00 00 00 00 00 ff ff 00', PERSISTENT, readReservation),
  row('PERSISTENT RESERVE IN, REPORT CAPABILITIES', '5e 02 00 00 00 00 00 ff ff 00', PERSISTENT, reportCapabilities),
  row('PERSISTENT RESERVE IN, READ FULL STATUS', '5e 03 00 00 00 00 00 ff ff 00', PERSISTENT, readFullStatus),
  row('PERSISTENT RESERVE OUT, REGISTER', '5f 00 00 00 00 ff ff ff ff 00', PERSISTENT, register),
  row('PERSISTENT RESERVE OUT, RESERVE', '5f 01 ff 00 00 ff ff ff ff 00', PERSISTENT, reservePersistent),
  row('PERSISTENT RESERVE OUT, RELEASE', '5f 02 ff 00 00 ff ff ff ff 00', PERSISTENT, releasePersistent),
  row('PERSISTENT RESERVE OUT, CLEAR', '5f 03 00 00 00 ff ff ff ff 00', PERSISTENT, clear),
  row('PERSISTENT RESERVE OUT, PREEMPT', '5f 04 ff 00 00 ff ff ff ff 00', PERSISTENT, preempt),
  row('PERSISTENT RESERVE OUT, PREEMPT AND ABORT', '5f 05 ff 00 00 ff ff ff ff 00', PERSISTENT, preemptAndAbort),
  row('PERSISTENT RESERVE OUT, REGISTER AND IGNORE', '5f 06 00 00 00 ff ff ff ff 00', PERSISTENT, registerAndIgnore),
  row('PERSISTENT RESERVE OUT, REGISTER AND MOVE', '5f 07 00 00 00 ff ff ff ff 00', PERSISTENT, registerAndMove),
  row('READ(16)', '88 f8 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', READ_BLOCKS, read),
  row('COMPARE AND WRITE', '89 f8 ff ff ff ff ff ff ff ff 00 00 00 ff 00 00', ATOMIC, compareAndWrite),
  row('WRITE(16)', '8a f8 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', WRITE_BLOCKS, write),
  row('ORWRITE(16)', '8b f8 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', ATOMIC, orWrite),
  row('WRITE AND VERIFY(16)', '8e f6 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', WRITE, writeAndVerify),
  row('VERIFY(16)', '8f f6 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', READ, verify),
  row('PRE-FETCH(16)', '90 00 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', READ, preFetch),
  row('SYNCHRONIZE CACHE(16)', '91 02 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', WRITE, synchronizeCache),
  row('WRITE SAME(16)', '93 f9 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', WRITE, writeSame16),
  row('READ CAPACITY(16)', '9e 10 00 00 00 00 00 00 00 00 ff ff ff ff 00 00', act(MEDIUM_FREE), readCapacity16),
  row('GET LBA STATUS', '9e 12 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', act(READ), getLbaStatus),
  row('REPORT LUNS', 'a0 00 ff 00 00 00 ff ff ff ff 00 00', QUIET, reportLuns),
  row(
    'REPORT SUPPORTED OPERATION CODES',
    'a3 0c 87 ff ff ff ff ff ff ff 00 00',
    act(READ_STATE),
    reportSupportedOpcodes,
  ),
  row('REPORT SUPPORTED TMFS', 'a3 0d 80 00 00 00 ff ff ff ff 00 00', act(READ_STATE), reportTaskManagement),
  row('READ(12)', 'a8 f8 ff ff ff ff ff ff ff ff 00 00', READ_BLOCKS, read),
  row('WRITE(12)', 'aa f8 ff ff ff ff ff ff ff ff 00 00', WRITE_BLOCKS, write),
  row('WRITE AND VERIFY(12)', 'ae f6 ff ff ff ff ff ff ff ff 00 00', WRITE, writeAndVerify),
  row('VERIFY(12)', 'af f6 ff ff ff ff ff ff ff ff 00 00', READ, verify),
  row('READ DEFECT DATA(12)', 'b7 1f 00 00 00 00 ff ff ff ff 00 00', READ, readDefectData12),
];

/** By opcode: its row, or its rows by service action. */
const BY_OPCODE: (CommandDefinition | null)[] = Array.from({ length: 256 }, () => null);
const BY_ACTION: ((CommandDefinition | null)[] | null)[] = Array.from({ length: 256 }, () => null);
for (const definition of COMMANDS) {
  const { opcode, serviceAction } = definition;
  if (serviceAction < 0) {
    assert(BY_OPCODE[opcode] === null, 'an opcode has one row');
    BY_OPCODE[opcode] = definition;
  } else {
    const actions = BY_ACTION[opcode] ?? Array.from({ length: 32 }, () => null);
    BY_ACTION[opcode] = actions;
    actions[serviceAction] = definition;
  }
}

/** The row of a CDB, or null when there is none. */
export function findCommand(cdb: Uint8Array): CommandDefinition | null {
  const opcode = cdb[0] as number;
  const actions = BY_ACTION[opcode];
  if (actions === null || actions === undefined) return BY_OPCODE[opcode] as CommandDefinition | null;
  return actions[(cdb[1] as number) & 0x1f] as CommandDefinition | null;
}

/** By opcode: what a transfer does, or `NO_TRANSFER`. */
export const TRANSFERS = Int8Array.from(BY_OPCODE, (definition) => definition?.transfer ?? NO_TRANSFER);

/** Whether byte 1 of the CDB names a service action. */
export function hasServiceActions(opcode: number): boolean {
  return BY_ACTION[opcode] !== null;
}

/** The same, for an opcode with service actions. */
function act(options: Options): Options {
  return { ...options, action: true };
}

function row(name: string, usage: string, options: Options, run: Step): CommandDefinition {
  const bytes = Uint8Array.from(usage.split(' '), (digits) => Number.parseInt(digits, 16));
  return {
    opcode: bytes[0] as number,
    serviceAction: options.action === true ? (bytes[1] as number) & 0x1f : -1,
    name,
    usage: bytes,
    access: options.access,
    ignoresAttention: options.ignoresAttention ?? false,
    needsMedium: options.needsMedium ?? false,
    isAtomic: options.isAtomic ?? false,
    needsUnmap: options.needsUnmap ?? false,
    transfer: options.transfer ?? NO_TRANSFER,
    run,
  };
}
