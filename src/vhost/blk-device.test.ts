/**
 * What a guest sees of its disk before it asks for anything: feature bits and the configuration space, byte by byte.
 */
import { describe, expect, it } from 'vitest';
import { NullBdev } from '../bdev/modules/null/null.ts';
import { hasBit } from '../vhost-user/messages.ts';
import { BlkConfig } from '../virtio/blk.ts';
import { blkConfig, blkFeatures } from './blk-device.ts';

function bdevOf(blockCount: number, blockSizeBytes: number, physicalBlockSizeBytes = blockSizeBytes): NullBdev {
  return new NullBdev({ name: 'Null0', blockCount, blockSizeBytes, physicalBlockSizeBytes });
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('the configuration space', () => {
  it('of a disk of 512-byte blocks is exactly this', () => {
    const bytes = blkConfig(bdevOf(0x1234_5678, 512), false, 256, true);
    expect(hex(bytes)).toBe(
      [
        '78563412 00000000', // capacity in sectors
        '00f0ff7f', // size_max
        '7e000000', // seg_max 126
        '00000000', // geometry
        '00020000', // blk_size
        '00 00 0100', // physical_block_exp, alignment_offset, min_io_size
        '00000000', // opt_io_size
        '01 00 0001', // writeback, unused, num_queues 256
        '00000100 40000000 01000000', // discard: 65536 sectors, 64 segments, alignment 1
        '00000100 40000000', // write zeroes: 65536 sectors, 64 segments
        '01 000000', // may unmap, unused
      ]
        .join('')
        .replaceAll(' ', ''),
    );
  });

  it('counts the capacity in sectors of 512 bytes, whatever the blocks', () => {
    for (const size of [512, 1024, 2048, 4096]) {
      const config = BlkConfig.decode(blkConfig(bdevOf(1000, size), false, 1, true));
      expect([config.capacitySectors, config.blockSizeBytes]).toEqual([(1000 * size) / 512, size]);
      expect(config.discardSectorAlignment).toBe(size / 512);
    }
  });

  it('has room for the largest disk', () => {
    expect(BlkConfig.decode(blkConfig(bdevOf(2 ** 40, 4096), false, 1, true)).capacitySectors).toBe(2 ** 43);
  });

  it.each([
    [512, 512, 0, 1],
    [512, 4096, 3, 8],
    [4096, 4096, 0, 1],
    [512, 1 << 20, 11, 2048],
    // A physical block smaller than a logical one says nothing.
    [4096, 512, 0, 1],
  ])(
    'shows blocks of %i on physical blocks of %i as exponent %i and %i blocks',
    (logical, physical, exponent, blocks) => {
      const config = BlkConfig.decode(blkConfig(bdevOf(8, logical, physical), false, 1, true));
      expect([config.physicalBlockExponent, config.minIoSizeBlocks]).toEqual([exponent, blocks]);
    },
  );

  it('of a disk that was removed has no sectors', () => {
    const config = BlkConfig.decode(blkConfig(bdevOf(1000, 512), true, 4, true));
    expect([config.capacitySectors, config.blockSizeBytes, config.queueCount]).toEqual([0, 512, 4]);
  });

  it('shows whether writes are cached', () => {
    const writeback = (isWriteBack: boolean) => blkConfig(bdevOf(8, 512), false, 1, isWriteBack)[32];
    expect([writeback(true), writeback(false)]).toEqual([1, 0]);
  });

  it('is as long as QEMU asks for', () => {
    expect(blkConfig(bdevOf(8, 512), false, 1, true)).toHaveLength(60);
  });
});

describe('features', () => {
  const bitsOf = (mask: bigint): number[] =>
    Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => hasBit(mask, bit));
  const COMMON = [1, 2, 6, 9, 10, 11, 12, 27, 28, 29, 32, 34, 35, 40];

  const featuresOf = (isReadonly: boolean, hasRanges: boolean): number[] =>
    bitsOf(blkFeatures({ isReadonly, hasRanges, isWriteThrough: false, serial: '' }));

  it('of a writable disk are these', () => {
    expect(featuresOf(false, true)).toEqual([...COMMON, 13, 14].toSorted((a, b) => a - b));
  });

  it('of a disk that cannot discard leave that out', () => {
    expect(featuresOf(false, false)).toEqual(COMMON);
  });

  it('of a read-only disk say so, and offer nothing that writes', () => {
    expect(featuresOf(true, false)).toEqual([...COMMON, 5].toSorted((a, b) => a - b));
  });
});
