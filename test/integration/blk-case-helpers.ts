/** Small things that the cases share. */
import { deepEqual } from 'node:assert/strict';
import type { BlkInitiator } from '../../src/initiator/blk-initiator.ts';

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const SECTOR = 512;

/** Bytes that differ from place to place and from seed to seed. */
export function pattern(lengthBytes: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  let x = Math.imul(seed, 0x9e3779b1) | 1;
  for (let i = 0; i < lengthBytes; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    bytes[i] = x;
  }
  return bytes;
}

/** Compares without printing megabytes. */
export function sameBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  const at = actual.findIndex((byte, i) => byte !== expected[i]);
  const found = { length: actual.length, firstDifference: at, byte: actual[at] };
  deepEqual(found, { length: expected.length, firstDifference: -1, byte: undefined }, what);
}

export async function writeAndReadBack(disk: BlkInitiator, sector: number, data: Uint8Array, queue = 0): Promise<void> {
  await disk.write(sector, data, { queue });
  sameBytes(await disk.read(sector, data.length, { queue }), data, `sector ${sector}, queue ${queue}`);
}

/** `count` lengths of `size`. */
export function repeat(size: number, count: number): number[] {
  return Array.from({ length: count }, () => size);
}
