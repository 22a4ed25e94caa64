/**
 * COMPARE AND WRITE and ORWRITE (SBC-3 §5.3, §5.7): what is read decides what is written, so no other command of the
 * unit runs in between. That holds for one target in one reactor: two controllers that share a bdev are two units.
 */
import { IoType } from '../../bdev/bdev-io.ts';
import { SCRATCH } from '../answer.ts';
import { readU64 } from '../big-endian.ts';
import type { Command } from '../command.ts';
import { checkProtect, checkRange, checkTransferLength, checkWritable, decodeRange } from './range.ts';
import { endWriteWithFua } from './read-write.ts';
import { isSame } from './verify.ts';

export function compareAndWrite(command: Command): void {
  const { unit, task } = command;
  command.lba = readU64(task.cdb, 2);
  command.blocks = task.cdb[13] as number;
  if (!checkProtect(command) || !checkRange(command)) return;
  if (command.blocks > unit.compareBlocksMax) command.failField(13, 7);
  else if (checkWritable(command)) {
    command.dataBytes = 2 * command.blocks * unit.blockSizeBytes;
    if (command.blocks === 0) command.end(0);
    else if (command.dataBytes > task.dataOutBytes) command.overrun();
    else command.withBounce(readToCompare);
  }
}

function readToCompare(command: Command): void {
  command.submitBounce(IoType.read, command.lba, command.blocks, compareThenWrite);
}

function compareThenWrite(command: Command): void {
  if (command.hasFailed()) return;
  const length = command.blocks * command.unit.blockSizeBytes;
  if (!isSame(command, 0, 0, length)) return;
  const bytes = command.unit.bounce.bytes(command.bounce);
  if (!command.readData(bytes.subarray(0, length), length, length)) return;
  command.submitBounce(IoType.write, command.lba, command.blocks, endWriteWithFua);
}

export function orWrite(command: Command): void {
  const lengthByte = decodeRange(command);
  if (!checkProtect(command) || !checkRange(command)) return;
  if (!checkTransferLength(command, lengthByte) || !checkWritable(command)) return;
  command.doneBlocks = 0;
  command.dataBytes = command.blocks * command.unit.blockSizeBytes;
  if (command.blocks === 0) command.end(0);
  else if (command.dataBytes > command.task.dataOutBytes) command.overrun();
  else command.withBounce(readNext);
}

function readNext(command: Command): void {
  const { unit } = command;
  const room = Math.floor(unit.bounce.bytesEach / unit.blockSizeBytes);
  command.pieceBlocks = Math.min(command.blocks - command.doneBlocks, room);
  command.submitBounce(IoType.read, command.lba + command.doneBlocks, command.pieceBlocks, mergeThenWrite);
}

function mergeThenWrite(command: Command): void {
  if (command.hasFailed()) return;
  const { unit } = command;
  const bytes = unit.bounce.bytes(command.bounce);
  const first = command.doneBlocks * unit.blockSizeBytes;
  const length = command.pieceBlocks * unit.blockSizeBytes;
  for (let done = 0; done < length; ) {
    const part = Math.min(SCRATCH.length, length - done);
    if (!command.readData(SCRATCH, first + done, part)) return;
    for (let i = 0; i < part; i++) bytes[done + i] = (bytes[done + i] as number) | (SCRATCH[i] as number);
    done += part;
  }
  command.submitBounce(IoType.write, command.lba + command.doneBlocks, command.pieceBlocks, merged);
}

function merged(command: Command): void {
  if (command.hasFailed()) return;
  command.doneBlocks += command.pieceBlocks;
  if (command.doneBlocks < command.blocks) readNext(command);
  else endWriteWithFua(command);
}
