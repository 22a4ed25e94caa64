/** TEST UNIT READY, REQUEST SENSE, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, RESERVE and RELEASE, LOG SENSE. */
import { IoType } from '../../bdev/bdev-io.ts';
import { clearedScratch, SCRATCH } from '../answer.ts';
import { readU16, writeU16 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { NO_NEXUS } from '../reservations.ts';
import { Sense, writeSense } from '../sense.ts';

export function testUnitReady(command: Command): void {
  command.end(0);
}

/** A pending unit attention is told here as data, and is then no longer pending. */
export function requestSense(command: Command): void {
  const { unit, task } = command;
  const condition = unit.attentions.take(task.nexus);
  if (condition === Sense.reportedLunsChanged) unit.directory.lunsReported(task.nexus);
  const isEmpty = condition === Sense.none && unit.isEjected;
  const isDescriptor = ((task.cdb[1] as number) & 0x01) !== 0;
  const length = writeSense(SCRATCH, isEmpty ? Sense.mediumNotPresent : condition, isDescriptor);
  command.endWithData(length, task.cdb[4] as number);
}

const START = 0x01;
const LOEJ = 0x02;
const NO_FLUSH = 0x04;
const POWER_CONDITION = 0xf0;

/** The unit has no power conditions: it stops only in that its cache is written out. */
export function startStopUnit(command: Command): void {
  const { unit, task } = command;
  const flags = task.cdb[4] as number;
  if ((flags & POWER_CONDITION) !== 0) {
    command.end(0);
    return;
  }
  if ((flags & LOEJ) !== 0 && !unit.isRemovable) {
    command.failField(4, 1);
    return;
  }
  const isStop = (flags & START) === 0;
  if ((flags & LOEJ) !== 0 && unit.isRemovalPrevented) command.fail(Sense.removalPrevented);
  else if (isStop && (flags & NO_FLUSH) === 0) command.submitBare(IoType.flush, 0, 0, moveMedium);
  else changeMedium(command);
}

function moveMedium(command: Command): void {
  if (!command.hasFailed()) changeMedium(command);
}

function changeMedium(command: Command): void {
  const { unit, task } = command;
  const flags = task.cdb[4] as number;
  if ((flags & LOEJ) !== 0) {
    const isLoading = (flags & START) !== 0;
    if (isLoading && unit.isEjected) unit.raise(Sense.mediumMayHaveChanged, task.nexus);
    unit.isEjected = !isLoading;
  }
  command.end(0);
}

export function preventAllow(command: Command): void {
  const { unit, task } = command;
  unit.prevented[task.nexus] = (task.cdb[4] as number) & 0x01;
  command.end(0);
}

/** RESERVE of 6 and 10 bytes (SPC-2 §7.21): the whole unit, for the nexus that asks. */
export function reserve(command: Command): void {
  const { unit, task } = command;
  const { reservations } = unit;
  if (hasThirdParty(command)) return;
  if (reservations.registrations.length > 0) {
    keepsPersistent(command);
    return;
  }
  if (reservations.reservedBy !== NO_NEXUS && reservations.reservedBy !== task.nexus) {
    command.conflict();
    return;
  }
  reservations.reservedBy = task.nexus;
  command.end(0);
}

export function release(command: Command): void {
  const { unit, task } = command;
  const { reservations } = unit;
  if (hasThirdParty(command)) return;
  if (reservations.registrations.length > 0) {
    keepsPersistent(command);
    return;
  }
  // Of a nexus that does not hold it: nothing, and no error.
  if (reservations.reservedBy === task.nexus) reservations.reservedBy = NO_NEXUS;
  command.end(0);
}

/**
 * Compatible reservation handling (SPC-4 §5.13.3): nothing for a registrant that has its access, a conflict for
 * others.
 */
function keepsPersistent(command: Command): void {
  const { unit, task } = command;
  const { reservations } = unit;
  const isRegistrant = reservations.find(task.nexus) !== undefined;
  if (isRegistrant && (reservations.isForRegistrants || reservations.isHolder(task.nexus))) command.end(0);
  else command.conflict();
}

/** Third-party, long identifiers and extents are obsolete. True when the command has failed for them. */
function hasThirdParty(command: Command): boolean {
  if (((command.task.cdb[1] as number) & 0x1f) === 0) return false;
  command.failField(1, 4);
  return true;
}

const LogPage = { supported: 0x00, exceptions: 0x2f } as const;
const LOG_PAGES = [LogPage.supported, LogPage.exceptions] as const;
const ALL_SUBPAGES = 0xff;

/** LOG SENSE: the list of pages, and that there are no informational exceptions. */
export function logSense(command: Command): void {
  const cdb = command.task.cdb;
  const page = (cdb[2] as number) & 0x3f;
  const subpage = cdb[3] as number;
  if (((cdb[1] as number) & 0x01) !== 0) command.failField(1, 0);
  else if (page === LogPage.supported && (subpage === 0 || subpage === ALL_SUBPAGES)) {
    command.endWithData(supportedLogPages(subpage !== 0), readU16(cdb, 7));
  } else if (page === LogPage.exceptions && subpage === 0) {
    // Parameter 0: no exception, and no temperature (FFh).
    const data = clearedScratch(12);
    data[0] = LogPage.exceptions;
    writeU16(data, 2, 8);
    data[6] = 0x03;
    data[7] = 4;
    data[10] = 0xff;
    command.endWithData(12, readU16(cdb, 7));
  } else if (subpage !== 0) command.failField(3, 7);
  else command.failField(2, 5);
}

function supportedLogPages(withSubpages: boolean): number {
  const each = withSubpages ? 2 : 1;
  // With subpages, page 00h subpage FFh is one of them.
  const entries: readonly (readonly [number, number])[] = withSubpages
    ? [
        [LogPage.supported, 0],
        [LogPage.supported, ALL_SUBPAGES],
        [LogPage.exceptions, 0],
      ]
    : LOG_PAGES.map((page) => [page, 0] as const);
  const length = 4 + entries.length * each;
  const data = clearedScratch(length);
  if (withSubpages) {
    data[0] = 0x40;
    data[1] = ALL_SUBPAGES;
  }
  writeU16(data, 2, length - 4);
  for (let i = 0; i < entries.length; i++) {
    const [page, subpage] = entries[i] as readonly [number, number];
    data[4 + i * each] = page;
    if (withSubpages) data[5 + i * each] = subpage;
  }
  return length;
}
