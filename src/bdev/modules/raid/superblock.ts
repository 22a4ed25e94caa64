/**
 * What the legs of a mirror with a superblock begin with, in the first MiB, behind which the data is.
 *
 *     0          SPDK's superblock, version 1.0 (its module/bdev/raid/bdev_raid.h): who belongs to the disk, and in
 *                which state; the leg with the highest sequence number knows best
 *     512 KiB    Ringhost's own: which slot this leg has, and what the map means
 *     516 KiB    the map: a bit for each region that may differ between the legs
 *
 * SPDK does not look at Ringhost's part, and does not keep it: after it has written to a leg the map says too little.
 */
import { TargetError } from '../../../base/errors.ts';
import { readUuid, writeUuid } from '../../../base/uuid.ts';
import { REGIONS_MAX } from './mirror-state.ts';

export const DATA_OFFSET_BYTES = 2 ** 20;
const OWN_OFFSET_BYTES = 512 * 1024;
const OWN_BYTES = 4096;
export const MAP_OFFSET_BYTES = OWN_OFFSET_BYTES + OWN_BYTES;
export const MAP_BYTES = REGIONS_MAX / 8;
/** All of it that is read, and written when a leg joins. */
export const AREA_BYTES = MAP_OFFSET_BYTES + MAP_BYTES;
/** What is written of SPDK's part: room for all the legs that there may be. */
const SUPERBLOCK_BYTES = 4096;

const SIGNATURE = 'SPDKRAID';
const HEAD_BYTES = 256;
const LEG_BYTES = 64;
const NAME_BYTES = 64;
const RAID1 = 1;
/** In a leg's flags, of which SPDK 1.0 has none. */
const REBUILDING = 1;
const CRC_AT = 16;
const OWN_SIGNATURE = 'RINGRAID';
const OWN_CRC_AT = 12;
const OWN_LENGTH = 64;

export const LegState = { missing: 0, configured: 1, failed: 2 } as const;
export type LegState = (typeof LegState)[keyof typeof LegState];

interface LegRecord {
  /** Of its bdev. */
  readonly uuid: string;
  readonly state: LegState;
  /** Ringhost's, of one that is missing: what it lacks is being brought to it. */
  readonly isRebuilding: boolean;
}

export interface Superblock {
  readonly uuid: string;
  readonly name: string;
  readonly blockSizeBytes: number;
  readonly blockCount: number;
  readonly sequence: number;
  /** By slot. */
  readonly legs: readonly LegRecord[];
}

/** Ringhost's part. */
export interface OwnHeader {
  readonly uuid: string;
  readonly slot: number;
  readonly regionBytes: number;
  /**
   * The sequence number when all legs were last in sync: a leg that has at least this one differs from the others in
   * no region that is not marked.
   */
  readonly cleanSequence: number;
}

export function encodeSuperblock(superblock: Superblock): Uint8Array {
  const { uuid, name, blockSizeBytes, blockCount, sequence, legs } = superblock;
  const bytes = Buffer.alloc(SUPERBLOCK_BYTES);
  const length = HEAD_BYTES + legs.length * LEG_BYTES;
  bytes.write(SIGNATURE, 0, 'latin1');
  bytes.writeUInt16LE(1, 8);
  bytes.writeUInt32LE(length, 12);
  writeUuid(bytes, 24, uuid);
  bytes.write(name.slice(0, NAME_BYTES - 1), 40, NAME_BYTES - 1, 'utf8');
  bytes.writeBigUInt64LE(BigInt(blockCount), 104);
  bytes.writeUInt32LE(blockSizeBytes, 112);
  bytes.writeUInt32LE(RAID1, 116);
  bytes.writeBigUInt64LE(BigInt(sequence), 128);
  bytes.writeUInt8(legs.length, 136);
  bytes.writeUInt8(legs.length, 255);
  for (const [slot, leg] of legs.entries()) {
    const at = HEAD_BYTES + slot * LEG_BYTES;
    writeUuid(bytes, at, leg.uuid);
    bytes.writeBigUInt64LE(BigInt(DATA_OFFSET_BYTES / blockSizeBytes), at + 16);
    bytes.writeBigUInt64LE(BigInt(blockCount), at + 24);
    bytes.writeUInt32LE(leg.state, at + 32);
    bytes.writeUInt32LE(leg.isRebuilding ? REBUILDING : 0, at + 36);
    bytes.writeUInt8(slot, at + 40);
  }
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, length)), CRC_AT);
  return bytes;
}

/** Null when there is none. Throws `EINVAL` for one that is not of a mirror, or not understood. */
export function decodeSuperblock(area: Uint8Array, leg: string): Superblock | null {
  const bytes = Buffer.from(area.buffer, area.byteOffset, area.byteLength);
  if (bytes.toString('latin1', 0, 8) !== SIGNATURE) return null;
  const refuse = (why: string): never => {
    const advice = 'erase it (ringhost erase), or leave it where it belongs';
    throw new TargetError('EINVAL', `bdev "${leg}" has the superblock of a RAID disk ${why}: ${advice}`);
  };
  const length = bytes.readUInt32LE(12);
  const count = bytes.readUInt8(255);
  if (bytes.readUInt16LE(8) !== 1) refuse(`in version ${bytes.readUInt16LE(8)}, not 1`);
  if (length !== HEAD_BYTES + count * LEG_BYTES || length > SUPERBLOCK_BYTES) refuse('that is damaged');
  const covered = Buffer.from(bytes.subarray(0, length));
  covered.writeUInt32LE(0, CRC_AT);
  if (crc32c(covered) !== bytes.readUInt32LE(CRC_AT)) refuse('with a wrong checksum');
  if (bytes.readUInt32LE(116) !== RAID1) refuse('of another level than raid1');
  const slots = bytes.readUInt8(136);
  const legs: LegRecord[] = Array.from({ length: slots }, () => ({
    ...{ uuid: NO_UUID, state: LegState.missing, isRebuilding: false },
  }));
  const blockSizeBytes = bytes.readUInt32LE(112);
  for (let i = 0; i < count; i++) {
    const at = HEAD_BYTES + i * LEG_BYTES;
    const slot = bytes.readUInt8(at + 40);
    const offset = Number(bytes.readBigUInt64LE(at + 16)) * blockSizeBytes;
    if (slot >= slots || offset !== DATA_OFFSET_BYTES) refuse('whose data is elsewhere than Ringhost has it');
    const state = bytes.readUInt32LE(at + 32) as LegState;
    const isRebuilding = (bytes.readUInt32LE(at + 36) & REBUILDING) !== 0;
    legs[slot] = { uuid: readUuid(bytes, at), state, isRebuilding };
  }
  const end = bytes.indexOf(0, 40);
  return {
    uuid: readUuid(bytes, 24),
    name: bytes.toString('utf8', 40, Math.min(end, 40 + NAME_BYTES)),
    ...{ blockSizeBytes, blockCount: Number(bytes.readBigUInt64LE(104)) },
    ...{ sequence: Number(bytes.readBigUInt64LE(128)), legs },
  };
}

const NO_UUID = '00000000-0000-0000-0000-000000000000';

export function encodeOwnHeader({ uuid, slot, regionBytes, cleanSequence }: OwnHeader): Uint8Array {
  const bytes = Buffer.alloc(OWN_BYTES);
  bytes.write(OWN_SIGNATURE, 0, 'latin1');
  bytes.writeUInt32LE(1, 8);
  writeUuid(bytes, 16, uuid);
  bytes.writeUInt32LE(slot, 32);
  bytes.writeBigUInt64LE(BigInt(regionBytes), 40);
  bytes.writeBigUInt64LE(BigInt(cleanSequence), 48);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, OWN_LENGTH)), OWN_CRC_AT);
  return bytes;
}

/** Null when there is none that can be used: then nothing is known of the regions. */
export function decodeOwnHeader(area: Uint8Array): OwnHeader | null {
  const bytes = Buffer.from(area.buffer, area.byteOffset + OWN_OFFSET_BYTES, OWN_BYTES);
  if (bytes.toString('latin1', 0, 8) !== OWN_SIGNATURE || bytes.readUInt32LE(8) !== 1) return null;
  const covered = Buffer.from(bytes.subarray(0, OWN_LENGTH));
  covered.writeUInt32LE(0, OWN_CRC_AT);
  if (crc32c(covered) !== bytes.readUInt32LE(OWN_CRC_AT)) return null;
  return {
    ...{ uuid: readUuid(bytes, 16), slot: bytes.readUInt32LE(32) },
    ...{ regionBytes: Number(bytes.readBigUInt64LE(40)), cleanSequence: Number(bytes.readBigUInt64LE(48)) },
  };
}

export const OWN_HEADER_AT = OWN_OFFSET_BYTES;

const POLYNOMIAL = 0x82f6_3b78;

/** CRC-32C as SPDK has it here: from 0 on, and not inverted. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ ((crc & 1) === 0 ? 0 : POLYNOMIAL);
  }
  return crc >>> 0;
}
