/** READ and WRITE of 6, 10, 12 and 16 bytes (SBC-3 §5.8 to §5.11, §5.27 to §5.30): the hot path. */
import { IoType } from '../../bdev/bdev-io.ts';
import type { Command } from '../command.ts';
import { checkProtect, checkRange, checkTransferLength, checkWritable, decodeRange } from './range.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE } = IoType;

/** FUA in byte 1. DPO, beside it, is a hint about a cache that the target does not have. */
const FUA = 0x08;

export function read(command: Command): void {
  const lengthByte = decodeRange(command);
  if (lengthByte !== 4 && !checkProtect(command)) return;
  if (!checkRange(command) || !checkTransferLength(command, lengthByte)) return;
  // FUA needs nothing: what was written is read back, from a cache of the bdev or from its medium.
  if (command.blocks === 0) command.end(0);
  else {
    command.dataBytes = command.blocks * command.unit.blockSizeBytes;
    if (!command.mapData(true, command.dataBytes)) return;
    command.task.needsBuffers = false;
    command.submitRange(READ, endRead);
  }
}

export function write(command: Command): void {
  const lengthByte = decodeRange(command);
  if (lengthByte !== 4 && !checkProtect(command)) return;
  if (!checkRange(command) || !checkTransferLength(command, lengthByte) || !checkWritable(command)) return;
  if (command.blocks === 0) command.end(0);
  else {
    command.dataBytes = command.blocks * command.unit.blockSizeBytes;
    if (!command.mapData(false, command.dataBytes)) return;
    command.task.needsBuffers = false;
    command.submitRange(WRITE, lengthByte === 4 ? endWrite : endWriteWithFua);
  }
}

export function endRead(command: Command): void {
  if (!command.hasFailed()) command.end(command.dataBytes);
}

/** As `endWrite`, for CDBs with an FUA bit. */
export function endWriteWithFua(command: Command): void {
  const isFua = ((command.task.cdb[1] as number) & FUA) !== 0;
  if (isFua && command.unit.channel.hasWriteCache) makeStable(command);
  else endWrite(command);
}

/** Ends a command that wrote `dataBytes` of data-out; first flushes when the write cache is switched off. */
export function endWrite(command: Command): void {
  if (command.unit.mustFlushWrites) makeStable(command);
  else if (!command.hasFailed()) command.end(command.dataBytes);
}

/** Flushes what the command wrote, then ends it. */
function makeStable(command: Command): void {
  if (!command.hasFailed()) command.submitBare(IoType.flush, 0, 0, endStable);
}

function endStable(command: Command): void {
  if (!command.hasFailed()) command.end(command.dataBytes);
}
