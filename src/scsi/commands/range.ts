/** The block range of a medium command: where its CDB has it, and whether it lies on the disk (SBC-3 §5). */
import { readU16, readU24, readU32, readU64 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { Sense } from '../sense.ts';

/** Blocks of READ(6) and WRITE(6) with a length of 0. */
const SHORT_ZERO_BLOCKS = 256;

/**
 * Sets `lba` and `blocks` of a command whose CDB has them where the group of its opcode has them. Returns the byte at
 * which the length starts, for field pointers.
 */
export function decodeRange(command: Command): number {
  const cdb = command.task.cdb;
  const group = (cdb[0] as number) >>> 5;
  if (group === 0) {
    command.lba = readU24(cdb, 1) & 0x1f_ffff;
    const blocks = cdb[4] as number;
    command.blocks = blocks === 0 ? SHORT_ZERO_BLOCKS : blocks;
    return 4;
  }
  if (group === 4) {
    command.lba = readU64(cdb, 2);
    command.blocks = readU32(cdb, 10);
    return 10;
  }
  command.lba = readU32(cdb, 2);
  if (group === 5) {
    command.blocks = readU32(cdb, 6);
    return 6;
  }
  command.blocks = readU16(cdb, 7);
  return 7;
}

/** True when the command may go on. A range of no blocks may start where the disk ends. */
export function checkRange(command: Command): boolean {
  if (command.lba + command.blocks <= command.unit.blockCount) return true;
  command.fail(Sense.lbaOutOfRange);
  return false;
}

/** The three protection bits of byte 1: the unit has no protection information. */
export function checkProtect(command: Command): boolean {
  if (((command.task.cdb[1] as number) & 0xe0) === 0) return true;
  command.failField(1, 7);
  return false;
}

/** True when the unit may be written. */
export function checkWritable(command: Command): boolean {
  const { unit } = command;
  if (!unit.isWriteProtected) return true;
  command.fail(unit.isReadonly ? Sense.writeProtected : Sense.softwareWriteProtected);
  return false;
}

/** True when the range is not longer than one command may move. */
export function checkTransferLength(command: Command, lengthByte: number): boolean {
  if (command.blocks <= command.unit.transferBlocksMax) return true;
  command.failField(lengthByte, 7);
  return false;
}
