/** INQUIRY and its vital product data pages (SPC-4 §6.6, §7.8; SBC-3 §6.6). */
import { clearedScratch, SCRATCH } from '../answer.ts';
import { readU16, writeAscii, writeU16, writeU32, writeU64 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { naaDesignator, uuidBytes } from '../designator.ts';
import { UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, type UnitState, WRITE_SAME_BLOCKS_MAX } from '../unit-state.ts';

const EVPD = 0x01;
/** SPC-4. */
const VERSION = 0x06;
/** HISUP, and response data format 2. */
const FORMAT = 0x12;
export const STANDARD_INQUIRY_BYTES = 96;
/** SAM-5, SPC-4 and SBC-3, no version claimed. */
const VERSION_DESCRIPTORS = [0x00a0, 0x0460, 0x04c0] as const;
const LIMITS_BYTES = 64;
const CHARACTERISTICS_BYTES = 64;
const PROVISIONING_BYTES = 8;
const EXTENDED_BYTES = 64;

/** Writes a page to the scratch buffer and returns its length. */
type VpdPage = (unit: UnitState) => number;

const PAGES: readonly { readonly code: number; readonly write: VpdPage }[] = [
  { code: 0x00, write: supportedPages },
  { code: 0x80, write: serialNumber },
  { code: 0x83, write: deviceIdentification },
  { code: 0x86, write: extendedInquiry },
  { code: 0xb0, write: blockLimits },
  { code: 0xb1, write: characteristics },
  { code: 0xb2, write: provisioning },
];

export function inquiry(command: Command): void {
  const cdb = command.task.cdb;
  const allocation = readU16(cdb, 3);
  const code = cdb[2] as number;
  if (((cdb[1] as number) & EVPD) === 0) {
    if (code !== 0) command.failField(2, 7);
    else command.endWithData(standardInquiry(command.unit), allocation);
    return;
  }
  const page = PAGES.find((candidate) => candidate.code === code);
  if (page === undefined) command.failField(2, 7);
  else command.endWithData(page.write(command.unit), allocation);
}

function standardInquiry(unit: UnitState): number {
  const data = clearedScratch(STANDARD_INQUIRY_BYTES);
  data[1] = unit.isRemovable ? 0x80 : 0;
  data[2] = VERSION;
  data[3] = FORMAT;
  data[4] = STANDARD_INQUIRY_BYTES - 5;
  // CMDQUE.
  data[7] = 0x02;
  writeAscii(data, 8, 8, unit.vendor);
  writeAscii(data, 16, 16, unit.productName);
  writeAscii(data, 32, 4, unit.revision);
  for (let i = 0; i < VERSION_DESCRIPTORS.length; i++) writeU16(data, 58 + 2 * i, VERSION_DESCRIPTORS[i] as number);
  return STANDARD_INQUIRY_BYTES;
}

/** Standard data of a LUN that the target does not have: qualifier 3, type 1Fh. */
export function missingInquiry(): number {
  const data = clearedScratch(STANDARD_INQUIRY_BYTES);
  data[0] = 0x7f;
  data[2] = VERSION;
  data[3] = FORMAT;
  data[4] = STANDARD_INQUIRY_BYTES - 5;
  data[7] = 0x02;
  data.fill(0x20, 8, 36);
  return STANDARD_INQUIRY_BYTES;
}

/** Standard data of a well-known logical unit: type 1Eh. */
export function wellKnownInquiry(): number {
  missingInquiry();
  SCRATCH[0] = 0x1e;
  return STANDARD_INQUIRY_BYTES;
}

/** Starts a page of `lengthBytes` with its header. */
function beginPage(code: number, lengthBytes: number): Uint8Array {
  const data = clearedScratch(lengthBytes);
  data[1] = code;
  writeU16(data, 2, lengthBytes - 4);
  return data;
}

function supportedPages(): number {
  const data = beginPage(0x00, 4 + PAGES.length);
  for (let i = 0; i < PAGES.length; i++) data[4 + i] = (PAGES[i] as { code: number }).code;
  return 4 + PAGES.length;
}

function serialNumber(unit: UnitState): number {
  const length = Math.min(unit.serial.length, 252);
  const data = beginPage(0x80, 4 + length);
  writeAscii(data, 4, length, unit.serial);
  return 4 + length;
}

/** The same bdev has the same designators wherever and however often it is attached. */
function deviceIdentification(unit: UnitState): number {
  const data = clearedScratch(256);
  data[1] = 0x83;
  let at = 4;
  // NAA, locally assigned: the one that Linux makes its links from.
  at = beginDesignator(data, at, 0x01, 0x03, 8);
  data.set(naaDesignator(unit.uuid), at - 8);
  // The UUID itself.
  at = beginDesignator(data, at, 0x01, 0x0a, 18);
  data[at - 18] = 0x10;
  data.set(uuidBytes(unit.uuid), at - 16);
  // T10 vendor: vendor, product, serial number.
  const serial = Math.min(unit.serial.length, 64);
  at = beginDesignator(data, at, 0x02, 0x01, 24 + serial);
  writeAscii(data, at - 24 - serial, 8, unit.vendor);
  writeAscii(data, at - 16 - serial, 16, unit.productName);
  writeAscii(data, at - serial, serial, unit.serial);
  // Relative target port identifier: the one port.
  at = beginDesignator(data, at, 0x01, 0x14, 4);
  data[at - 1] = 1;
  writeU16(data, 2, at - 4);
  return at;
}

/** Writes a designator's header; returns where the designator ends. */
function beginDesignator(data: Uint8Array, at: number, codeSet: number, type: number, length: number): number {
  data[at] = codeSet;
  data[at + 1] = type;
  data[at + 3] = length;
  return at + 4 + length;
}

function extendedInquiry(unit: UnitState): number {
  const data = beginPage(0x86, EXTENDED_BYTES);
  // HEADSUP, ORDSUP, SIMPSUP.
  data[5] = 0x07;
  // V_SUP: a volatile cache.
  data[6] = unit.channel.hasWriteCache ? 0x01 : 0;
  // LUICLR.
  data[7] = 0x01;
  return EXTENDED_BYTES;
}

function blockLimits(unit: UnitState): number {
  const data = beginPage(0xb0, LIMITS_BYTES);
  // WSNZ.
  data[4] = 0x01;
  data[5] = unit.compareBlocksMax;
  writeU16(data, 6, unit.physicalBlocks);
  writeU32(data, 8, unit.transferBlocksMax);
  if (unit.canUnmap) {
    writeU32(data, 20, UNMAP_BLOCKS_MAX);
    writeU32(data, 24, UNMAP_DESCRIPTORS_MAX);
    writeU32(data, 28, unit.physicalBlocks);
    // UGAVALID: aligned to block 0.
    data[32] = 0x80;
  }
  writeU64(data, 36, WRITE_SAME_BLOCKS_MAX);
  return LIMITS_BYTES;
}

function characteristics(unit: UnitState): number {
  const data = beginPage(0xb1, CHARACTERISTICS_BYTES);
  // MEDIUM ROTATION RATE: 1 for a medium that does not rotate, 0 when it is not reported.
  writeU16(data, 4, unit.isRotational ? 0 : 1);
  // VBULS: VERIFY compares unmapped blocks too.
  data[8] = 0x01;
  return CHARACTERISTICS_BYTES;
}

function provisioning(unit: UnitState): number {
  const data = beginPage(0xb2, PROVISIONING_BYTES);
  if (unit.canUnmap) {
    // LBPU, LBPWS, LBPWS10; LBPRZ 001b when unmapped blocks read as zeroes.
    data[5] = 0xe0 | (unit.unmapReadsZeroes ? 0x04 : 0);
    // Thin.
    data[6] = 0x02;
  }
  return PROVISIONING_BYTES;
}
