/** The methods of power-cut disks. */
import { z } from 'zod';
import { defineMethod, uuid } from '../define.ts';
import { BLOCK_SIZES, bdevName, EEXIST, ENODEV } from './bdev.ts';

const SIZE_BLOCKS_MAX = 2 ** 19;

export const powerCutMethods = {
  bdev_powercut_create: defineMethod({
    summary: 'Create a RAM disk that knows what a power cut would leave of it',
    details:
      'For tests of guests: it has a volatile write cache, and bdev_powercut_image shows what the disk would hold ' +
      'were the power cut. It takes three times its size of memory, and `delete_bdev` deletes it. ' +
      'An addition of Ringhost.',
    params: z.strictObject({
      name: bdevName.describe('Name.'),
      num_blocks: z.int().min(1).max(SIZE_BLOCKS_MAX).describe('Size in blocks.'),
      block_size: z.literal(BLOCK_SIZES).describe('Bytes a block.'),
      uuid: uuid.optional().describe('Default: random.'),
      ignore_flush: z.boolean().default(false).describe('Flushes succeed and do nothing. Default: false.'),
    }),
    result: z.string().describe('Name of the new bdev.'),
    errors: [EEXIST, { code: 'ENOMEM', when: 'the memory reserved for RAM disks does not suffice' }],
    cli: {
      positionals: [
        { name: 'name', kind: 'string', help: 'name of the bdev' },
        { name: 'num_blocks', kind: 'int', help: 'size in blocks' },
        { name: 'block_size', kind: 'int', help: 'bytes a block: 512, 1024, 2048 or 4096' },
      ],
      flags: [
        { names: ['-u', '--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev (default: random)' },
        { names: ['--ignore-flush'], dest: 'ignore_flush', kind: 'switch', help: 'flushes do nothing' },
      ],
      print: 'text',
    },
    example: { params: { name: 'Cut0', num_blocks: 131072, block_size: 512 }, result: 'Cut0' },
  }),

  bdev_powercut_image: defineMethod({
    summary: 'Write what a power-cut disk would hold were the power cut now',
    details:
      'What was flushed, and of every sector that was written since, either the new content, or the old, or one in ' +
      'between: the seed decides. The disk itself goes on. An addition of Ringhost.',
    params: z.strictObject({
      name: bdevName.describe('Power-cut disk.'),
      filename: z.string().min(1).describe('File to make.'),
      seed: z.int().min(0).max(0x7fff_ffff).describe('What else is the same has the same image.'),
    }),
    result: z.object({
      dirty_sectors: z.int().describe('Sectors of 512 bytes that were not flushed.'),
      kept_sectors: z.int().describe('Of these, the ones whose last write is in the image.'),
      flushes: z.int().describe('Carried out since the disk was made.'),
    }),
    errors: [
      ENODEV,
      { code: 'EINVAL', when: 'the bdev is not a power-cut disk, or the daemon has more than one reactor' },
      { code: 'EEXIST', when: 'the file exists' },
    ],
    cli: {
      positionals: [
        { name: 'name', kind: 'string', help: 'power-cut disk' },
        { name: 'filename', kind: 'string', help: 'file to make' },
        { name: 'seed', kind: 'int', help: 'decides what of the cache is on the disk' },
      ],
      print: 'json',
    },
    example: {
      params: { name: 'Cut0', filename: '/tmp/cut.img', seed: 1 },
      result: { dirty_sectors: 120, kept_sectors: 12, flushes: 7 },
    },
  }),
};
