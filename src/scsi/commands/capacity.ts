/** READ CAPACITY of 10 and 16 bytes, GET LBA STATUS, READ DEFECT DATA (SBC-3 §5.12, §5.13, §5.6, §5.14). */
import { clearedScratch } from '../answer.ts';
import { readU16, readU32, readU64, writeU16, writeU32, writeU64 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { Sense } from '../sense.ts';

const U32_MAX = 0xffff_ffff;

export function readCapacity10(command: Command): void {
  const { unit, task } = command;
  const isPartial = ((task.cdb[8] as number) & 0x01) !== 0;
  // Without PMI, which is obsolete, an address makes no sense.
  if (!isPartial && readU32(task.cdb, 2) !== 0) {
    command.failField(2, 7);
    return;
  }
  const data = clearedScratch(8);
  writeU32(data, 0, Math.min(unit.blockCount - 1, U32_MAX));
  writeU32(data, 4, unit.blockSizeBytes);
  command.endWithData(8, 8);
}

export function readCapacity16(command: Command): void {
  const { unit, task } = command;
  const data = clearedScratch(32);
  writeU64(data, 0, unit.blockCount - 1);
  writeU32(data, 8, unit.blockSizeBytes);
  data[13] = Math.log2(unit.physicalBlocks);
  // LBPME, LBPRZ.
  data[14] = (unit.canUnmap ? 0x80 : 0) | (unit.unmapReadsZeroes ? 0x40 : 0);
  command.endWithData(32, readU32(task.cdb, 10));
}

/** One descriptor: a bdev does not tell what is allocated, so every block counts as mapped. */
export function getLbaStatus(command: Command): void {
  const { unit, task } = command;
  const lba = readU64(task.cdb, 2);
  if (lba >= unit.blockCount) {
    command.fail(Sense.lbaOutOfRange);
    return;
  }
  const data = clearedScratch(24);
  writeU32(data, 0, 20);
  writeU64(data, 8, lba);
  writeU32(data, 16, Math.min(unit.blockCount - lba, U32_MAX));
  command.endWithData(24, readU32(task.cdb, 10));
}

/** An empty list, of whatever kind and format was asked for: a bdev keeps none. */
export function readDefectData10(command: Command): void {
  const data = clearedScratch(4);
  data[1] = (command.task.cdb[2] as number) & 0x1f;
  command.endWithData(4, readU16(command.task.cdb, 7));
}

export function readDefectData12(command: Command): void {
  const data = clearedScratch(8);
  data[1] = (command.task.cdb[1] as number) & 0x1f;
  writeU16(data, 2, 0);
  command.endWithData(8, readU32(command.task.cdb, 6));
}
