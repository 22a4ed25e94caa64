/** UNMAP (SBC-3 §5.25): a list of ranges, checked as a whole and then carried out one after the other. */
import { IoType } from '../../bdev/bdev-io.ts';
import { SCRATCH } from '../answer.ts';
import { readU16, readU32, readU64 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { Sense } from '../sense.ts';
import { CLEAR_BYTES_MAX, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX } from '../unit-state.ts';
import { checkWritable } from './range.ts';
import { endWrite } from './read-write.ts';

const ANCHOR = 0x01;
const HEADER_BYTES = 8;
const DESCRIPTOR_BYTES = 16;

export function unmap(command: Command): void {
  const { task } = command;
  const length = readU16(task.cdb, 7);
  if (((task.cdb[1] as number) & ANCHOR) !== 0) command.failField(1, 0);
  else if (length === 0) command.end(0);
  else if (length < HEADER_BYTES) command.fail(Sense.parameterListLength);
  else if (checkWritable(command)) readDescriptors(command, length);
}

function readDescriptors(command: Command, length: number): void {
  if (length > command.task.dataOutBytes) {
    command.overrun();
    return;
  }
  const listMax = HEADER_BYTES + UNMAP_DESCRIPTORS_MAX * DESCRIPTOR_BYTES;
  if (!command.readData(SCRATCH, 0, Math.min(length, listMax))) return;
  const descriptorBytes = readU16(SCRATCH, 2);
  const isCut = readU16(SCRATCH, 0) + 2 > length || descriptorBytes + HEADER_BYTES > length;
  if (isCut || descriptorBytes % DESCRIPTOR_BYTES !== 0) {
    command.fail(Sense.parameterListLength);
    return;
  }
  const count = descriptorBytes / DESCRIPTOR_BYTES;
  if (count > UNMAP_DESCRIPTORS_MAX) {
    command.failParameter(2, 7);
    return;
  }
  let total = 0;
  for (let i = 0; i < count; i++) {
    const at = HEADER_BYTES + i * DESCRIPTOR_BYTES;
    const blocks = readU32(SCRATCH, at + 8);
    if (readU64(SCRATCH, at) + blocks > command.unit.blockCount) {
      command.fail(Sense.lbaOutOfRange);
      return;
    }
    total += blocks;
    if (total > UNMAP_BLOCKS_MAX) {
      command.failParameter(at + 8, 7);
      return;
    }
  }
  command.storage.set(SCRATCH.subarray(HEADER_BYTES, HEADER_BYTES + descriptorBytes));
  // From here on: blocks of descriptors, descriptors done, blocks done of the next one.
  command.blocks = count;
  command.doneBlocks = 0;
  command.lba = 0;
  command.pieceBlocks = 0;
  command.dataBytes = length;
  nextPiece(command);
}

/** `doneBlocks` counts descriptors here, and `lba` the blocks done of the current one. */
function nextPiece(command: Command): void {
  if (command.pieceBlocks > 0 && command.hasFailed()) return;
  command.lba += command.pieceBlocks;
  while (command.doneBlocks < command.blocks) {
    const at = command.doneBlocks * DESCRIPTOR_BYTES;
    const left = readU32(command.storage, at + 8) - command.lba;
    if (left > 0) {
      const piece = Math.min(left, Math.floor(CLEAR_BYTES_MAX / command.unit.blockSizeBytes));
      command.pieceBlocks = piece;
      command.submitBare(IoType.unmap, readU64(command.storage, at) + command.lba, piece, nextPiece);
      return;
    }
    command.doneBlocks++;
    command.lba = 0;
  }
  // Nothing failed: without I/O the status of an earlier command must not count.
  if (command.pieceBlocks > 0) endWrite(command);
  else command.end(command.dataBytes);
}
