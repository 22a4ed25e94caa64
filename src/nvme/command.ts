/**
 * Commands as submission queue entries: 16 little-endian words (NVMe base 2.0, §3.3.3.1). Where the data is (PRP or
 * SGL, words 6 to 9) is the transport's affair, and so is the command identifier of what `adminCommand` makes.
 */
import { AdminOpcode, IoOpcode } from './spec.ts';

export const COMMAND_BYTES = 64;
export const COMMAND_WORDS = COMMAND_BYTES / 4;
export const COMPLETION_BYTES = 16;
export const COMPLETION_WORDS = COMPLETION_BYTES / 4;
/** Word of the first data pointer. */
export const DATA_WORD = 6;
/** Blocks that one read, write or write zeroes names at most. */
export const COMMAND_BLOCKS_MAX = 0x1_0000;
/** Blocks that a range of Dataset Management names at most. */
export const RANGE_BLOCKS_MAX = 0xffff_ffff;

const TWO_32 = 2 ** 32;
const DSM_DEALLOCATE = 1 << 2;

export interface AdminCommand {
  readonly opcode: number;
  readonly nsid?: number;
  readonly cdw10?: number;
  readonly cdw11?: number;
  readonly cdw12?: number;
  readonly cdw13?: number;
  readonly cdw14?: number;
  readonly cdw15?: number;
  /** PCIe: where a queue is that is created. */
  readonly address?: number;
}

/** For the control plane. */
export function encodeCommand(command: AdminCommand, words: Uint32Array = new Uint32Array(COMMAND_WORDS), at = 0) {
  words.fill(0, at, at + COMMAND_WORDS);
  words[at] = command.opcode;
  words[at + 1] = command.nsid ?? 0;
  words[at + 10] = command.cdw10 ?? 0;
  words[at + 11] = command.cdw11 ?? 0;
  words[at + 12] = command.cdw12 ?? 0;
  words[at + 13] = command.cdw13 ?? 0;
  words[at + 14] = command.cdw14 ?? 0;
  words[at + 15] = command.cdw15 ?? 0;
  return words;
}

// The data path's: they fill a whole entry and allocate nothing. `block` is an element of a Float64Array, because a
// number beyond the engine's small integers would be boxed as an argument.

/** Reads, writes, or (without data) writes zeroes to `count` blocks, at most `COMMAND_BLOCKS_MAX`. */
export function encodeBlocks(
  words: Uint32Array,
  at: number,
  opcode: number,
  commandId: number,
  nsid: number,
  blocks: Float64Array,
  index: number,
  count: number,
): void {
  const block = blocks[index] as number;
  clear(words, at, opcode, commandId, nsid);
  words[at + 10] = block >>> 0;
  words[at + 11] = (block / TWO_32) >>> 0;
  words[at + 12] = count - 1;
}

export function encodeFlush(words: Uint32Array, at: number, commandId: number, nsid: number): void {
  clear(words, at, IoOpcode.flush, commandId, nsid);
}

/** Deallocates the one range that the command's data holds (`encodeRange`). */
export function encodeDeallocate(words: Uint32Array, at: number, commandId: number, nsid: number): void {
  clear(words, at, IoOpcode.datasetManagement, commandId, nsid);
  words[at + 11] = DSM_DEALLOCATE;
}

/** A range of Dataset Management. */
export function encodeRange(words: Uint32Array, at: number, blocks: Float64Array, index: number, count: number): void {
  const block = blocks[index] as number;
  words[at] = 0;
  words[at + 1] = count;
  words[at + 2] = block >>> 0;
  words[at + 3] = (block / TWO_32) >>> 0;
}

function clear(words: Uint32Array, at: number, opcode: number, commandId: number, nsid: number): void {
  for (let i = at + 2; i < at + COMMAND_WORDS; i++) words[i] = 0;
  words[at] = opcode | (commandId << 16);
  words[at + 1] = nsid;
}

/** Get Log Page for `lengthBytes`, a multiple of 4. */
export function getLogPage(page: number, lengthBytes: number, nsid: number, offsetBytes = 0): AdminCommand {
  const dwords = lengthBytes / 4 - 1;
  return {
    opcode: AdminOpcode.getLogPage,
    nsid,
    cdw10: ((page | ((dwords & 0xffff) << 16)) >>> 0) as number,
    cdw11: dwords >>> 16,
    cdw12: offsetBytes >>> 0,
    cdw13: Math.floor(offsetBytes / TWO_32),
  };
}
