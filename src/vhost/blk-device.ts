/** What a vhost-user-blk controller shows of its bdev: features and configuration space (virtio 1.3 §5.2.3, §5.2.4). */
import { SEGMENTS_OFFERED } from '../base/limits.ts';
import type { Bdev } from '../bdev/bdev.ts';
import { maskOf } from '../vhost-user/messages.ts';
import { BlkConfig, BlkFeature, SECTOR_BYTES } from '../virtio/blk.ts';
import { FEATURES_OFFERED } from '../virtio/features.ts';

/** Ranges of one DISCARD or WRITE_ZEROES request. */
export const RANGES_MAX = 64;
/** Sectors of one range: 32 MiB, which a RAM disk zeroes in about a millisecond. */
export const DISCARD_SECTORS_MAX = 65_536;
/** Largest single segment: what Linux's block layer would use anyway. */
const SEGMENT_BYTES_MAX = 0x7fff_ffff & ~0xfff;

/** What a queue needs to know of its controller, as plain data. */
export interface BlkDeviceParams {
  readonly isReadonly: boolean;
  /** DISCARD and WRITE_ZEROES are offered. */
  readonly hasRanges: boolean;
  /** Every write must be stable before it completes. */
  readonly isWriteThrough: boolean;
  /** What GET_ID returns, at most 20 bytes. */
  readonly serial: string;
}

/** Features offered, without VHOST_USER_F_PROTOCOL_FEATURES. */
export function blkFeatures({ isReadonly, hasRanges }: BlkDeviceParams): bigint {
  const { SIZE_MAX, SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, RO, DISCARD, WRITE_ZEROES } = BlkFeature;
  const common = maskOf(SIZE_MAX, SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, ...FEATURES_OFFERED);
  return common | (isReadonly ? maskOf(RO) : 0n) | (hasRanges ? maskOf(DISCARD, WRITE_ZEROES) : 0n);
}

/** The configuration space of `bdev`; the capacity of one that was removed is 0. */
export function blkConfig(bdev: Bdev, isRemoved: boolean, queueCount: number, isWriteBack: boolean): Uint8Array {
  const blockSize = bdev.blockSizeBytes;
  const sectors = isRemoved ? 0 : (bdev.blockCount * blockSize) / SECTOR_BYTES;
  return BlkConfig.encode({
    capacitySectors: sectors,
    sizeMax: SEGMENT_BYTES_MAX,
    segMax: SEGMENTS_OFFERED,
    cylinders: 0,
    heads: 0,
    sectors: 0,
    blockSizeBytes: blockSize,
    physicalBlockExponent: Math.max(0, Math.log2(bdev.physicalBlockSizeBytes / blockSize)),
    alignmentOffset: 0,
    minIoSizeBlocks: Math.max(1, bdev.physicalBlockSizeBytes / blockSize),
    optIoSizeBlocks: 0,
    writeback: isWriteBack ? 1 : 0,
    unused0: 0,
    queueCount,
    maxDiscardSectors: DISCARD_SECTORS_MAX,
    maxDiscardSegments: RANGES_MAX,
    discardSectorAlignment: blockSize / SECTOR_BYTES,
    maxWriteZeroesSectors: DISCARD_SECTORS_MAX,
    maxWriteZeroesSegments: RANGES_MAX,
    writeZeroesMayUnmap: 1,
    unused1: 0,
    unused2: 0,
  });
}
