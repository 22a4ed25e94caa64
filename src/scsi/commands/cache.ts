/** SYNCHRONIZE CACHE and PRE-FETCH of 10 and 16 bytes (SBC-3 §5.22 to §5.23, §5.7). */
import { IoType } from '../../bdev/bdev-io.ts';
import type { Command } from '../command.ts';
import { checkRange, decodeRange } from './range.ts';

/**
 * The whole cache is written out, whatever the range. With IMMED too the answer comes after it: later than asked for,
 * and with a stronger promise.
 */
export function synchronizeCache(command: Command): void {
  decodeRange(command);
  if (checkRange(command)) command.submitBare(IoType.flush, 0, 0, endFlush);
}

function endFlush(command: Command): void {
  if (!command.hasFailed()) command.end(0);
}

/** GOOD, not CONDITION MET: the target has no cache of its own that could hold the blocks. */
export function preFetch(command: Command): void {
  decodeRange(command);
  if (checkRange(command)) command.end(0);
}
