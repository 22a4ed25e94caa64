/** PERSISTENT RESERVE OUT (SPC-4 §6.16, §5.13). Reservations end with the daemon: APTPL is refused. */
import { SCRATCH } from '../answer.ts';
import { readU16, readU32 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { type Registration, type Reservations, ReservationType, reservationType } from '../reservations.ts';
import { Sense } from '../sense.ts';
import { findTransportId, TRANSPORT_ID_BYTES } from '../transport-id.ts';

const PARAMETER_BYTES = 24;
const SPEC_I_PT = 0x08;
const APTPL = 0x01;
/** The longest list that is looked at: REGISTER AND MOVE with one TransportID. */
const MOVE_BYTES_MAX = 24 + 256;

/** Reads the parameter list into the scratch buffer. False when the command is over. */
function readParameters(command: Command, isMove = false): boolean {
  const length = readU32(command.task.cdb, 5);
  const isRight = isMove ? length >= PARAMETER_BYTES + TRANSPORT_ID_BYTES && length <= MOVE_BYTES_MAX : length === 24;
  if (!isRight) {
    command.fail(Sense.parameterListLength);
    return false;
  }
  if (!command.readData(SCRATCH, 0, length)) return false;
  const flagsAt = isMove ? 17 : 20;
  const flags = SCRATCH[flagsAt] as number;
  const refused = flags & (isMove ? APTPL : SPEC_I_PT | APTPL);
  if (refused === 0) return true;
  command.failParameter(flagsAt, 31 - Math.clz32(refused));
  return false;
}

function hasKey(registration: Registration | undefined, at: number): boolean {
  const high = registration?.keyHigh ?? 0;
  const low = registration?.keyLow ?? 0;
  return readU32(SCRATCH, at) === high && readU32(SCRATCH, at + 4) === low;
}

function isZeroKey(at: number): boolean {
  return readU32(SCRATCH, at) === 0 && readU32(SCRATCH, at + 4) === 0;
}

/** Own registration when the key of the parameter list is its key; undefined, with a conflict, when not. */
function ownRegistration(command: Command): Registration | undefined {
  const own = command.unit.reservations.find(command.task.nexus);
  if (own !== undefined && hasKey(own, 0)) return own;
  command.conflict();
  return undefined;
}

/** Type of the CDB, or null when the command has failed for it. */
function requestedType(command: Command): ReservationType | null {
  const scopeAndType = command.task.cdb[2] as number;
  const type = reservationType(scopeAndType & 0x0f);
  if (type === null || scopeAndType >>> 4 !== 0) {
    command.failField(2, type === null ? 3 : 7);
    return null;
  }
  return type;
}

function done(command: Command): void {
  command.end(readU32(command.task.cdb, 5));
}

// ---- registrations --------------------------------------------------------------------------------------------------

export function register(command: Command): void {
  if (!readParameters(command)) return;
  if (hasKey(command.unit.reservations.find(command.task.nexus), 0)) setKey(command);
  else command.conflict();
}

export function registerAndIgnore(command: Command): void {
  if (readParameters(command)) setKey(command);
}

/** A service action reservation key of 0 unregisters. */
function setKey(command: Command): void {
  const { unit, task } = command;
  const { reservations } = unit;
  const isRegistered = reservations.find(task.nexus) !== undefined;
  if (!isZeroKey(8)) {
    reservations.register(task.nexus, readU32(SCRATCH, 8), readU32(SCRATCH, 12));
    reservations.bumpGeneration();
  } else if (isRegistered) {
    const wasForRegistrants = reservations.isForRegistrants;
    const hasEnded = reservations.unregister(task.nexus);
    if (hasEnded && wasForRegistrants) tellRegistrants(command, Sense.reservationsReleased);
    reservations.bumpGeneration();
  }
  done(command);
}

export function registerAndMove(command: Command): void {
  if (!readParameters(command, true)) return;
  const { unit, task } = command;
  const { reservations } = unit;
  if (ownRegistration(command) === undefined) return;
  const idBytes = readU32(SCRATCH, 20);
  const target = findTransportId(SCRATCH, 24, unit.nexusNames);
  if (idBytes < TRANSPORT_ID_BYTES || idBytes + 24 > readU32(task.cdb, 5)) command.fail(Sense.parameterListLength);
  else if (isZeroKey(8)) command.failParameter(8, 7);
  else if (readU16(SCRATCH, 18) !== 1) command.failParameter(18, 7);
  else if (target < 0 || target === task.nexus) command.failParameter(24, 7);
  // Only the holder of a reservation that has one can move it.
  else if (!reservations.isHolder(task.nexus) || reservations.isForAll) command.conflict();
  else {
    const isUnregister = ((SCRATCH[17] as number) & 0x02) !== 0;
    const type = reservations.type;
    reservations.register(target, readU32(SCRATCH, 8), readU32(SCRATCH, 12));
    if (isUnregister) reservations.unregister(task.nexus);
    reservations.reserve(target, type);
    reservations.bumpGeneration();
    done(command);
  }
}

// ---- the reservation ------------------------------------------------------------------------------------------------

export function reservePersistent(command: Command): void {
  if (!readParameters(command)) return;
  const { reservations } = command.unit;
  const { nexus } = command.task;
  if (ownRegistration(command) === undefined) return;
  const type = requestedType(command);
  if (type === null) return;
  if (reservations.type === ReservationType.none) reservations.reserve(nexus, type);
  else if (!reservations.isHolder(nexus) || reservations.type !== type) {
    command.conflict();
    return;
  }
  done(command);
}

export function releasePersistent(command: Command): void {
  if (!readParameters(command)) return;
  const { reservations } = command.unit;
  if (ownRegistration(command) === undefined) return;
  // Nothing reserved, or not by this nexus: no error.
  if (!reservations.isHolder(command.task.nexus)) {
    done(command);
    return;
  }
  if (command.task.cdb[2] !== reservations.type) {
    command.fail(Sense.invalidRelease);
    return;
  }
  const wasForRegistrants = reservations.isForRegistrants;
  reservations.release();
  if (wasForRegistrants) tellRegistrants(command, Sense.reservationsReleased);
  done(command);
}

export function clear(command: Command): void {
  if (!readParameters(command)) return;
  const { reservations } = command.unit;
  if (ownRegistration(command) === undefined) return;
  tellRegistrants(command, Sense.reservationsPreempted);
  reservations.release();
  reservations.registrations = [];
  reservations.bumpGeneration();
  done(command);
}

// ---- preemption -----------------------------------------------------------------------------------------------------

export function preempt(command: Command): void {
  if (takeOver(command) !== null) done(command);
}

/** As PREEMPT; then ends when the tasks of the nexuses that lost their registration have ended. */
export function preemptAndAbort(command: Command): void {
  const removed = takeOver(command);
  if (removed === null) return;
  const sequence = command.sequence;
  command.park(done);
  command.owner.abortNexuses(removed, command, () => {
    if (command.isActive && command.sequence === sequence) command.resume();
  });
}

/** Carries a PREEMPT out. Returns the nexuses that lost their registration, or null when the command is over. */
function takeOver(command: Command): readonly number[] | null {
  if (!readParameters(command)) return null;
  const { reservations } = command.unit;
  const { nexus } = command.task;
  if (ownRegistration(command) === undefined) return null;
  const isReserved = reservations.type !== ReservationType.none;
  const isOfHolder = isReserved && namesHolder(reservations);
  const type = isOfHolder ? requestedType(command) : ReservationType.none;
  if (type === null) return null;
  if (isZeroKey(8) && !isOfHolder) {
    command.failParameter(8, 7);
    return null;
  }
  // A key of 0 names all registrants of a reservation that belongs to all.
  const matches = (other: Registration): boolean => isZeroKey(8) || hasKey(other, 8);
  const named = reservations.registrations.filter(matches);
  if (named.length === 0) {
    command.conflict();
    return null;
  }
  // Whoever preempts a reservation stays registered; without one, a nexus may name its own key and go too.
  const removed = named.map((other) => other.nexus).filter((other) => !isOfHolder || other !== nexus);
  const before = reservations.type;
  if (isOfHolder) reservations.release();
  for (const other of removed) {
    reservations.unregister(other);
    if (other !== nexus) command.unit.attentions.raiseFor(other, Sense.registrationsPreempted);
  }
  if (isOfHolder) {
    reservations.reserve(nexus, type);
    if (before !== type) tellRegistrants(command, Sense.reservationsReleased);
  }
  reservations.bumpGeneration();
  return removed;
}

/** The service action reservation key means the holder of the reservation. */
function namesHolder(reservations: Reservations): boolean {
  if (reservations.isForAll) return isZeroKey(8);
  return !isZeroKey(8) && hasKey(reservations.find(reservations.holder), 8);
}

function tellRegistrants(
  command: Command,
  condition: typeof Sense.reservationsReleased | typeof Sense.reservationsPreempted,
): void {
  for (const { nexus } of command.unit.reservations.registrations) {
    if (nexus !== command.task.nexus) command.unit.attentions.raiseFor(nexus, condition);
  }
}
