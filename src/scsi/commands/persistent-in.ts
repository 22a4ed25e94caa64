/** PERSISTENT RESERVE IN (SPC-4 §6.15). */
import { clearedScratch } from '../answer.ts';
import { readU16, writeU16, writeU32 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { ReservationType } from '../reservations.ts';
import { TRANSPORT_ID_BYTES, writeTransportId } from '../transport-id.ts';

/** A full status descriptor without its TransportID. */
const STATUS_BYTES = 24;
/** CRH and ATP_C; PTPL_C is not set: reservations do not outlive the daemon. */
const CAPABILITIES = 0x14;
/** TMV: the type mask is valid. */
const TMV = 0x80;

export function readKeys(command: Command): void {
  const { registrations } = command.unit.reservations;
  const data = begin(command, registrations.length * 8);
  let at = 8;
  for (const registration of registrations) {
    writeU32(data, at, registration.keyHigh);
    writeU32(data, at + 4, registration.keyLow);
    at += 8;
  }
  command.endWithData(at, readU16(command.task.cdb, 7));
}

export function readReservation(command: Command): void {
  const { reservations } = command.unit;
  const isReserved = reservations.type !== ReservationType.none;
  const data = begin(command, isReserved ? 16 : 0);
  if (isReserved) {
    // A reservation of all registrants has no holder's key: it reads as 0.
    const holder = reservations.isForAll ? undefined : reservations.find(reservations.holder);
    writeU32(data, 8, holder?.keyHigh ?? 0);
    writeU32(data, 12, holder?.keyLow ?? 0);
    data[21] = reservations.type;
  }
  command.endWithData(isReserved ? 24 : 8, readU16(command.task.cdb, 7));
}

export function reportCapabilities(command: Command): void {
  const data = clearedScratch(8);
  writeU16(data, 0, 8);
  data[2] = CAPABILITIES;
  data[3] = TMV;
  // WR_EX_AR, EX_AC_RO, WR_EX_RO, EX_AC, WR_EX; EX_AC_AR.
  data[4] = 0xea;
  data[5] = 0x01;
  command.endWithData(8, readU16(command.task.cdb, 7));
}

export function readFullStatus(command: Command): void {
  const { unit } = command;
  const { reservations } = unit;
  const each = STATUS_BYTES + TRANSPORT_ID_BYTES;
  const data = begin(command, reservations.registrations.length * each);
  let at = 8;
  for (const registration of reservations.registrations) {
    writeU32(data, at, registration.keyHigh);
    writeU32(data, at + 4, registration.keyLow);
    const isHolder = reservations.isHolder(registration.nexus);
    // ALL_TG_PT: there is one port, so it holds for all of them.
    data[at + 12] = 0x02 | (isHolder ? 0x01 : 0);
    data[at + 13] = isHolder ? reservations.type : 0;
    writeU16(data, at + 18, 1);
    writeU32(data, at + 20, TRANSPORT_ID_BYTES);
    writeTransportId(data, at + STATUS_BYTES, unit.nexusNames[registration.nexus] as Uint8Array);
    at += each;
  }
  command.endWithData(at, readU16(command.task.cdb, 7));
}

/** Clears the data and writes PRGENERATION and ADDITIONAL LENGTH. */
function begin(command: Command, additionalBytes: number): Uint8Array {
  const data = clearedScratch(8 + additionalBytes);
  writeU32(data, 0, command.unit.reservations.generation);
  writeU32(data, 4, additionalBytes);
  return data;
}
