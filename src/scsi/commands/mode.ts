/** MODE SENSE and MODE SELECT of 6 and 10 bytes (SPC-4 §6.9 to §6.12): headers, block descriptors, pages. */
import { clearedScratch, SCRATCH } from '../answer.ts';
import { readU16, readU24, readU32, readU64, writeU16, writeU32, writeU64 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { ALL_SUBPAGES, type ModePage, ModePageCode } from '../mode-pages.ts';
import { Sense } from '../sense.ts';
import type { UnitState } from '../unit-state.ts';

const PageControl = { current: 0, changeable: 1, defaults: 2, saved: 3 } as const;
const DBD = 0x08;
const LLBAA = 0x10;
const WRITE_PROTECTED = 0x80;
const DPOFUA = 0x10;
const SHORT_DESCRIPTOR_BYTES = 8;
const LONG_DESCRIPTOR_BYTES = 16;
const U32_MAX = 0xffff_ffff;

export function modeSense6(command: Command): void {
  modeSense(command, 4, command.task.cdb[4] as number);
}

export function modeSense10(command: Command): void {
  modeSense(command, 8, readU16(command.task.cdb, 7));
}

function modeSense(command: Command, headerBytes: number, allocation: number): void {
  const { unit, task } = command;
  const flags = task.cdb[1] as number;
  const control = (task.cdb[2] as number) >>> 6;
  const code = (task.cdb[2] as number) & 0x3f;
  const subpage = task.cdb[3] as number;
  if (control === PageControl.saved) {
    command.fail(Sense.savingNotSupported);
    return;
  }
  const pages = code === ModePageCode.all ? unit.modes.pages : unit.modes.pages.filter((page) => page.code === code);
  if (pages.length === 0) {
    command.failField(2, 5);
    return;
  }
  if (subpage !== 0 && subpage !== ALL_SUBPAGES) {
    command.failField(3, 7);
    return;
  }
  const isLong = headerBytes === 8 && (flags & LLBAA) !== 0;
  const descriptorBytes = (flags & DBD) !== 0 ? 0 : isLong ? LONG_DESCRIPTOR_BYTES : SHORT_DESCRIPTOR_BYTES;
  clearedScratch(headerBytes + descriptorBytes);
  let at = writeDescriptor(unit, headerBytes, descriptorBytes);
  for (const page of pages) {
    SCRATCH.set(bytesOf(page, control), at);
    at += page.current.length;
  }
  const device = (unit.isWriteProtected ? WRITE_PROTECTED : 0) | DPOFUA;
  if (headerBytes === 4) {
    SCRATCH[0] = at - 1;
    SCRATCH[2] = device;
    SCRATCH[3] = descriptorBytes;
  } else {
    writeU16(SCRATCH, 0, at - 2);
    SCRATCH[3] = device;
    SCRATCH[4] = descriptorBytes === LONG_DESCRIPTOR_BYTES ? 0x01 : 0;
    writeU16(SCRATCH, 6, descriptorBytes);
  }
  command.endWithData(at, allocation);
}

function bytesOf(page: ModePage, control: number): Uint8Array {
  if (control === PageControl.changeable) return page.changeable;
  return control === PageControl.defaults ? page.defaults : page.current;
}

/** Returns where the pages start. */
function writeDescriptor(unit: UnitState, at: number, length: number): number {
  if (length === SHORT_DESCRIPTOR_BYTES) {
    writeU32(SCRATCH, at, Math.min(unit.blockCount, U32_MAX));
    // SBC-3 gives the count all four bytes; the density code of other devices is not there.
    writeU32(SCRATCH, at + 4, unit.blockSizeBytes);
  } else if (length === LONG_DESCRIPTOR_BYTES) {
    writeU64(SCRATCH, at, unit.blockCount);
    writeU32(SCRATCH, at + 12, unit.blockSizeBytes);
  }
  return at + length;
}

const PF = 0x10;
const SP = 0x01;

export function modeSelect6(command: Command): void {
  modeSelect(command, 4, command.task.cdb[4] as number, 4);
}

export function modeSelect10(command: Command): void {
  modeSelect(command, 8, readU16(command.task.cdb, 7), 7);
}

function modeSelect(command: Command, headerBytes: number, length: number, lengthByte: number): void {
  const flags = command.task.cdb[1] as number;
  if ((flags & SP) !== 0) command.failField(1, 0);
  else if (length === 0) command.end(0);
  else if ((flags & PF) === 0) command.failField(1, 4);
  else if (length < headerBytes) command.fail(Sense.parameterListLength);
  else if (length > SCRATCH.length) command.failField(lengthByte, 7);
  else if (command.readData(SCRATCH, 0, length)) {
    const pagesAt = checkDescriptors(command, headerBytes, length);
    // Every page is checked before the first is applied.
    if (pagesAt >= 0 && walkPages(command, pagesAt, length, false)) {
      walkPages(command, pagesAt, length, true);
      command.end(length);
    }
  }
}

/** Returns where the pages start, or -1 when the command has failed. A descriptor may only say what is so already. */
function checkDescriptors(command: Command, headerBytes: number, length: number): number {
  const { unit } = command;
  const descriptorBytes = headerBytes === 4 ? (SCRATCH[3] as number) : readU16(SCRATCH, 6);
  const isLong = headerBytes === 8 && ((SCRATCH[4] as number) & 0x01) !== 0;
  const each = isLong ? LONG_DESCRIPTOR_BYTES : SHORT_DESCRIPTOR_BYTES;
  const at = headerBytes;
  if (descriptorBytes === 0) return at;
  if (descriptorBytes !== each) {
    command.failParameter(headerBytes === 4 ? 3 : 6, 7);
    return -1;
  }
  if (at + each > length) {
    command.fail(Sense.parameterListLength);
    return -1;
  }
  const blocks = isLong ? readU64(SCRATCH, at) : readU32(SCRATCH, at);
  const whole = isLong ? unit.blockCount : Math.min(unit.blockCount, U32_MAX);
  const isWhole = blocks === 0 || blocks === whole;
  const blockSize = isLong ? readU32(SCRATCH, at + 12) : readU24(SCRATCH, at + 5);
  if (isWhole && blockSize === unit.blockSizeBytes) return at + each;
  command.failParameter(isWhole ? at + (isLong ? 12 : 5) : at, 7);
  return -1;
}

/** Checks or applies the pages of the scratch buffer. False when the command has failed. */
function walkPages(command: Command, start: number, end: number, isApplying: boolean): boolean {
  const { unit, task } = command;
  let at = start;
  while (at < end) {
    const code = SCRATCH[at] as number;
    const page = unit.modes.find(code & 0x3f);
    // Bit 6, SPF, would make it a subpage; bit 7, PS, is reserved here but comes back from MODE SENSE unchanged.
    if (page === undefined || (code & 0x40) !== 0) {
      command.failParameter(at, 5);
      return false;
    }
    const size = page.current.length;
    if (at + 2 > end || at + size > end) {
      command.fail(Sense.parameterListLength);
      return false;
    }
    if (SCRATCH[at + 1] !== page.current[1]) {
      command.failParameter(at + 1, 7);
      return false;
    }
    if (isApplying) applyPage(unit, page, at, task.nexus);
    else if (!checkPage(command, page, at)) return false;
    at += size;
  }
  return true;
}

function checkPage(command: Command, page: ModePage, at: number): boolean {
  for (let i = 2; i < page.current.length; i++) {
    const changes = (SCRATCH[at + i] as number) ^ (page.current[i] as number);
    const refused = changes & ~(page.changeable[i] as number);
    if (refused !== 0) {
      command.failParameter(at + i, 31 - Math.clz32(refused));
      return false;
    }
  }
  return true;
}

function applyPage(unit: UnitState, page: ModePage, at: number, nexus: number): void {
  let isChanged = false;
  for (let i = 2; i < page.current.length; i++) {
    const value = SCRATCH[at + i] as number;
    isChanged ||= page.current[i] !== value;
    page.current[i] = value;
  }
  if (isChanged) unit.raise(Sense.modeParametersChanged, nexus);
}
