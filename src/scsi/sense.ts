/** Sense data (SPC-4 §4.5): the codes in use, and both formats. */

import { writeU32, writeU64 } from './big-endian.ts';

/** Sense key, ASC and ASCQ in one number: `0xKKAAQQ`. */
export const Sense = {
  none: 0x00_00_00,
  mediumNotPresent: 0x02_3a_00,
  writeError: 0x03_0c_00,
  unrecoveredReadError: 0x03_11_00,
  parameterListLength: 0x05_1a_00,
  invalidOpcode: 0x05_20_00,
  lbaOutOfRange: 0x05_21_00,
  invalidFieldInCdb: 0x05_24_00,
  lunNotSupported: 0x05_25_00,
  invalidFieldInParameters: 0x05_26_00,
  invalidRelease: 0x05_26_04,
  savingNotSupported: 0x05_39_00,
  removalPrevented: 0x05_53_02,
  mediumMayHaveChanged: 0x06_28_00,
  powerOn: 0x06_29_00,
  deviceReset: 0x06_29_03,
  nexusLoss: 0x06_29_07,
  modeParametersChanged: 0x06_2a_01,
  reservationsPreempted: 0x06_2a_03,
  reservationsReleased: 0x06_2a_04,
  registrationsPreempted: 0x06_2a_05,
  capacityChanged: 0x06_2a_09,
  commandsCleared: 0x06_2f_00,
  reportedLunsChanged: 0x06_3f_0e,
  writeProtected: 0x07_27_00,
  softwareWriteProtected: 0x07_27_02,
  spaceAllocationFailed: 0x07_27_07,
  invalidMessage: 0x0b_49_00,
  miscompare: 0x0e_1d_00,
} as const;
export type Sense = (typeof Sense)[keyof typeof Sense];

const FIXED_CURRENT = 0x70;
const DESCRIPTOR_CURRENT = 0x72;
/** Bytes of fixed sense without vendor bytes. */
const FIXED_SENSE_BYTES = 18;
const VALID = 0x80;
const TWO_32 = 2 ** 32;

/** No INFORMATION field. */
export const NO_INFORMATION = -1;
/** No field pointer. */
export const NO_FIELD = -1;
/** Field pointer: the field has no single bit to point at. */
export const WHOLE_BYTE = -1;

/**
 * Field pointer bytes (SPC-4 §4.5.2.4.2): which byte, and its highest bit, of the CDB or the parameter list is wrong.
 */
export function fieldPointer(byte: number, bit: number, isInCdb: boolean): number {
  const flags = 0x80 | (isInCdb ? 0x40 : 0) | (bit === WHOLE_BYTE ? 0 : 0x08 | bit);
  return (flags << 16) | byte;
}

/** Writes sense data. Returns its length. `information` is below 2^53; `field` comes from `fieldPointer`. */
export function writeSense(
  target: Uint8Array,
  code: number,
  isDescriptor: boolean,
  information: number = NO_INFORMATION,
  field: number = NO_FIELD,
): number {
  return isDescriptor
    ? writeDescriptor(target, code, information, field)
    : writeFixed(target, code, information, field);
}

function writeFixed(target: Uint8Array, code: number, information: number, field: number): number {
  target.fill(0, 0, FIXED_SENSE_BYTES);
  target[0] = FIXED_CURRENT;
  target[2] = (code >>> 16) & 0xf;
  target[7] = FIXED_SENSE_BYTES - 8;
  target[12] = (code >>> 8) & 0xff;
  target[13] = code & 0xff;
  // Four bytes only: what does not fit is left out, as SPC-4 has it.
  if (information !== NO_INFORMATION && information < TWO_32) {
    target[0] = FIXED_CURRENT | VALID;
    writeU32(target, 3, information);
  }
  if (field !== NO_FIELD) writeField(target, 15, field);
  return FIXED_SENSE_BYTES;
}

function writeDescriptor(target: Uint8Array, code: number, information: number, field: number): number {
  let end = 8;
  target.fill(0, 0, 8 + 12 + 8);
  target[0] = DESCRIPTOR_CURRENT;
  target[1] = (code >>> 16) & 0xf;
  target[2] = (code >>> 8) & 0xff;
  target[3] = code & 0xff;
  if (information !== NO_INFORMATION) {
    target[end] = 0x00;
    target[end + 1] = 0x0a;
    target[end + 2] = VALID;
    writeU64(target, end + 4, information);
    end += 12;
  }
  if (field !== NO_FIELD) {
    target[end] = 0x02;
    target[end + 1] = 0x06;
    writeField(target, end + 4, field);
    end += 8;
  }
  target[7] = end - 8;
  return end;
}

function writeField(target: Uint8Array, at: number, field: number): void {
  target[at] = (field >>> 16) & 0xff;
  target[at + 1] = (field >>> 8) & 0xff;
  target[at + 2] = field & 0xff;
}
