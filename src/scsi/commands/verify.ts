/**
 * VERIFY and WRITE AND VERIFY of 10, 12 and 16 bytes (SBC-3 §5.32 to §5.34, §5.36 to §5.38): the medium is read,
 * piece by piece, and compared with data-out when BYTCHK asks for it.
 */
import { IoType } from '../../bdev/bdev-io.ts';
import { SCRATCH } from '../answer.ts';
import type { Command } from '../command.ts';
import { Sense } from '../sense.ts';
import { checkProtect, checkRange, checkTransferLength, checkWritable, decodeRange } from './range.ts';

/** BYTCHK. */
const Check = { medium: 0, bytes: 1, reserved: 2, oneBlock: 3 } as const;

function byteCheck(command: Command): number {
  return ((command.task.cdb[1] as number) >>> 1) & 0x03;
}

export function verify(command: Command): void {
  const lengthByte = decodeRange(command);
  const check = byteCheck(command);
  if (!checkProtect(command)) return;
  if (check === Check.reserved) command.failField(1, 2);
  else if (checkRange(command) && checkTransferLength(command, lengthByte)) {
    const size = command.unit.blockSizeBytes;
    command.doneBlocks = 0;
    command.dataBytes = check === Check.medium ? 0 : check === Check.oneBlock ? size : command.blocks * size;
    if (command.blocks === 0) command.end(0);
    else if (command.dataBytes > command.task.dataOutBytes) command.overrun();
    else command.withBounce(readNext);
  }
}

export function writeAndVerify(command: Command): void {
  const lengthByte = decodeRange(command);
  const check = byteCheck(command);
  if (!checkProtect(command)) return;
  if (check !== Check.medium && check !== Check.bytes) command.failField(1, 2);
  else if (checkRange(command) && checkTransferLength(command, lengthByte) && checkWritable(command)) {
    command.doneBlocks = 0;
    command.dataBytes = command.blocks * command.unit.blockSizeBytes;
    if (command.blocks === 0) command.end(0);
    else if (command.mapData(false, command.dataBytes)) command.submitRange(IoType.write, flush);
  }
}

/** What is verified is the medium, not a cache: the data is made stable first. */
function flush(command: Command): void {
  if (command.hasFailed()) return;
  if (command.unit.channel.hasWriteCache) command.submitBare(IoType.flush, 0, 0, startReading);
  else command.withBounce(readNext);
}

function startReading(command: Command): void {
  if (!command.hasFailed()) command.withBounce(readNext);
}

function readNext(command: Command): void {
  const { unit } = command;
  const room = Math.floor(unit.bounce.bytesEach / unit.blockSizeBytes);
  const piece = Math.min(command.blocks - command.doneBlocks, room);
  command.pieceBlocks = piece;
  command.submitBounce(IoType.read, command.lba + command.doneBlocks, piece, compare);
}

function compare(command: Command): void {
  if (command.hasFailed()) return;
  const check = byteCheck(command);
  const size = command.unit.blockSizeBytes;
  const first = command.doneBlocks * size;
  const length = command.pieceBlocks * size;
  if (check === Check.bytes && !isSame(command, first, first, length)) return;
  if (check === Check.oneBlock) {
    for (let at = first; at < first + length; at += size) if (!isSame(command, 0, at, size, at - first)) return;
  }
  command.doneBlocks += command.pieceBlocks;
  if (command.doneBlocks < command.blocks) readNext(command);
  else command.end(command.dataBytes);
}

/**
 * Compares `length` bytes at `dataOffset` of data-out with the bounce buffer. False, and the command is over, when one
 * differs: INFORMATION is its offset in data-out (SBC-3 §4.25).
 */
export function isSame(
  command: Command,
  dataOffset: number,
  mediumOffset: number,
  length: number,
  bounceOffset = 0,
): boolean {
  const medium = command.unit.bounce.bytes(command.bounce);
  for (let done = 0; done < length; ) {
    const part = Math.min(SCRATCH.length, length - done);
    if (!command.readData(SCRATCH, dataOffset + done, part)) return false;
    for (let i = 0; i < part; i++) {
      if (SCRATCH[i] !== medium[bounceOffset + done + i]) {
        command.fail(Sense.miscompare, mediumOffset + done + i);
        return false;
      }
    }
    done += part;
  }
  return true;
}
