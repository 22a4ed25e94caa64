/** WRITE SAME of 10 and 16 bytes (SBC-3 §5.41, §5.42): one block of data many times, zeroes, or unmapped blocks. */
import { IoType } from '../../bdev/bdev-io.ts';
import type { Command } from '../command.ts';
import { CLEAR_BYTES_MAX, WRITE_SAME_BLOCKS_MAX } from '../unit-state.ts';
import { checkProtect, checkRange, checkWritable, decodeRange } from './range.ts';
import { endWrite } from './read-write.ts';

const NDOB = 0x01;
const UNMAP = 0x08;
const ANCHOR = 0x10;

export function writeSame10(command: Command): void {
  start(command, false);
}

export function writeSame16(command: Command): void {
  start(command, ((command.task.cdb[1] as number) & NDOB) !== 0);
}

function start(command: Command, hasNoData: boolean): void {
  const { task, unit } = command;
  const flags = task.cdb[1] as number;
  const lengthByte = decodeRange(command);
  if (!checkProtect(command)) return;
  if ((flags & ANCHOR) !== 0) command.failField(1, 4);
  else if ((flags & UNMAP) !== 0 && !unit.canUnmap) command.failField(1, 3);
  else if (checkRange(command) && checkWritable(command)) {
    command.doneBlocks = 0;
    command.dataBytes = hasNoData ? 0 : unit.blockSizeBytes;
    // A length of 0, up to the end of the disk, is not offered (WSNZ): it would be too long for most disks.
    if (command.blocks === 0 || command.blocks > WRITE_SAME_BLOCKS_MAX) command.failField(lengthByte, 7);
    // Exactly one block: a length that differs tells of an initiator with another block size in mind.
    else if (!hasNoData && task.dataOutBytes !== unit.blockSizeBytes) command.failField(lengthByte, 7);
    else if (hasNoData && canClear(command)) clearNext(command);
    else command.withBounce(hasNoData ? fillZeroes : fillPattern);
  }
}

function fillZeroes(command: Command): void {
  command.unit.bounce.bytes(command.bounce).fill(0);
  writeNext(command);
}

function fillPattern(command: Command): void {
  const { unit } = command;
  const size = unit.blockSizeBytes;
  const bytes = unit.bounce.bytes(command.bounce);
  const block = bytes.subarray(0, size);
  if (!command.readData(block, 0, size)) return;
  if (canClear(command) && block.every(isZero)) {
    clearNext(command);
    return;
  }
  const filled = Math.min(Math.floor(bytes.length / size), command.blocks) * size;
  // Doubles what is there until the buffer is full.
  for (let at = size; at < filled; at *= 2) bytes.copyWithin(at, 0, Math.min(at, filled - at));
  writeNext(command);
}

function isZero(byte: number): boolean {
  return byte === 0;
}

/** Zeroes need no data on the way to the bdev. */
function canClear(command: Command): boolean {
  return command.unit.canWriteZeroes || unmaps(command);
}

/** Blocks are to be unmapped, and will read as zeroes. */
function unmaps(command: Command): boolean {
  return ((command.task.cdb[1] as number) & UNMAP) !== 0 && command.unit.unmapReadsZeroes;
}

function clearNext(command: Command): void {
  const { unit } = command;
  const type = unmaps(command) ? IoType.unmap : IoType.writeZeroes;
  const piece = Math.min(command.blocks - command.doneBlocks, Math.floor(CLEAR_BYTES_MAX / unit.blockSizeBytes));
  command.pieceBlocks = piece;
  command.submitBare(type, command.lba + command.doneBlocks, piece, cleared);
}

function cleared(command: Command): void {
  if (isOver(command)) endWrite(command);
  else if (command.isActive) clearNext(command);
}

function writeNext(command: Command): void {
  const { unit } = command;
  const room = Math.floor(unit.bounce.bytesEach / unit.blockSizeBytes);
  const piece = Math.min(command.blocks - command.doneBlocks, room);
  command.pieceBlocks = piece;
  command.submitBounce(IoType.write, command.lba + command.doneBlocks, piece, written);
}

function written(command: Command): void {
  if (isOver(command)) endWrite(command);
  else if (command.isActive) writeNext(command);
}

/** Counts the piece that was done. True when it was the last; a failed one ends the command here. */
function isOver(command: Command): boolean {
  if (command.hasFailed()) return false;
  command.doneBlocks += command.pieceBlocks;
  return command.doneBlocks === command.blocks;
}
