/** The superblocks of mirrors: in SPDK's layout, checked before they are believed. */
import { describe, expect, it } from 'vitest';
import {
  AREA_BYTES,
  decodeOwnHeader,
  decodeSuperblock,
  encodeOwnHeader,
  encodeSuperblock,
  LegState,
  OWN_HEADER_AT,
} from './superblock.ts';

const UUIDS = [1, 2, 3].map((n) => `00000000-1111-5222-8333-44444444444${n}`) as [string, string, string];
const SUPERBLOCK = {
  ...{ uuid: UUIDS[0], name: 'Raid1', blockSizeBytes: 512, blockCount: 2 ** 33 + 1, sequence: 77 },
  legs: [
    { uuid: UUIDS[1], state: LegState.configured, isRebuilding: false },
    { uuid: UUIDS[2], state: LegState.missing, isRebuilding: true },
  ],
};

function area(part: Uint8Array, at = 0): Buffer {
  const bytes = Buffer.alloc(AREA_BYTES);
  bytes.set(part, at);
  return bytes;
}

describe('a superblock', () => {
  it('is read as it was written', () => {
    expect(decodeSuperblock(area(encodeSuperblock(SUPERBLOCK)), 'A')).toEqual(SUPERBLOCK);
    expect(decodeSuperblock(Buffer.alloc(AREA_BYTES), 'A')).toBeNull();
  });

  it("has SPDK's layout", () => {
    const bytes = Buffer.from(encodeSuperblock(SUPERBLOCK));
    expect(bytes.toString('latin1', 0, 8)).toBe('SPDKRAID');
    expect([bytes.readUInt16LE(8), bytes.readUInt32LE(12), bytes.readUInt32LE(116)]).toEqual([1, 256 + 2 * 64, 1]);
    expect(bytes.toString('utf8', 40, 45)).toBe('Raid1');
    expect([bytes.readBigUInt64LE(104), bytes.readUInt32LE(112)]).toEqual([2n ** 33n + 1n, 512]);
    expect([bytes.readBigUInt64LE(128), bytes.readUInt8(136), bytes.readUInt8(255)]).toEqual([77n, 2, 2]);
    expect(bytes.toString('hex', 256 + 64, 256 + 80)).toBe(UUIDS[2].replaceAll('-', ''));
    expect([bytes.readBigUInt64LE(256 + 16), bytes.readUInt32LE(256 + 32)]).toEqual([2048n, 1]);
    expect([bytes.readUInt8(256 + 40), bytes.readUInt8(256 + 64 + 40)]).toEqual([0, 1]);
  });

  it.each([
    ['in another version', 8, 2, /in version 2, not 1/],
    ['with a wrong length', 12, 1, /that is damaged/],
    ['with a byte changed', 41, 0x7a, /with a wrong checksum/],
  ])('is refused %s', (_, at, value, message) => {
    const bytes = area(encodeSuperblock(SUPERBLOCK));
    bytes[at] = value;
    expect(() => decodeSuperblock(bytes, 'A')).toThrow(message);
  });
});

describe("Ringhost's part", () => {
  const HEADER = { uuid: UUIDS[0], slot: 1, regionBytes: 2 ** 24, cleanSequence: Number.MAX_SAFE_INTEGER };

  it('is read as it was written, or not at all', () => {
    const bytes = area(encodeOwnHeader(HEADER), OWN_HEADER_AT);
    expect(decodeOwnHeader(bytes)).toEqual(HEADER);
    bytes.writeUInt32LE(0, OWN_HEADER_AT + 32);
    expect(decodeOwnHeader(bytes)).toBeNull();
    expect(decodeOwnHeader(Buffer.alloc(AREA_BYTES))).toBeNull();
  });
});
