/** The methods of RAID disks. */
import { z } from 'zod';
import { defineMethod, uint32, uint53, uuid } from '../define.ts';
import { bdevName, byName, EEXIST, ENODEV } from './bdev.ts';

const LEVELS = ['raid0', '0', 'concat', 'raid1', '1', 'raid5f', '5f'] as const;
const CATEGORIES = ['all', 'online', 'configuring', 'offline'] as const;
const BASES_MAX = 255;
const DEFAULT_STRIP_KIB = 64;

const stripSize = uint32
  .min(1)
  .max(2 ** 20)
  .refine((size) => (size & (size - 1)) === 0, { error: 'strip_size_kb must be a power of two' });

const raidInfo = z.object({
  name: z.string(),
  uuid: z.string(),
  strip_size_kb: z.int(),
  state: z.enum(['online', 'configuring', 'offline']).describe('Always `online`: it goes when one of its bases goes.'),
  raid_level: z.enum(['raid0', 'concat']),
  superblock: z.boolean(),
  num_base_bdevs: z.int(),
  num_base_bdevs_discovered: z.int(),
  num_base_bdevs_operational: z.int(),
  base_bdevs_list: z.array(
    z.object({
      name: z.string(),
      uuid: z.string(),
      is_configured: z.boolean(),
      data_offset: z.int().describe('Blocks.'),
      data_size: z.int().describe('Blocks that are used.'),
    }),
  ),
});

export const raidMethods = {
  bdev_raid_create: defineMethod({
    summary: 'Create a disk of several disks',
    details:
      '`raid0` deals strips of equal size out to the bases in turn, as much of each as the smallest has; it grows ' +
      'when all of them have grown. `concat` puts one behind the other and does not grow. Neither survives the loss ' +
      'of a base. All must be there: unlike SPDK, nothing waits for them. Not served: raid1, raid5f, superblocks.',
    params: z.strictObject({
      name: bdevName.describe('Name.'),
      raid_level: z.enum(LEVELS).describe('`raid0` (or `0`) or `concat`.'),
      base_bdevs: z.array(bdevName).min(1).max(BASES_MAX).describe('Its bases, which it claims, in this order.'),
      strip_size_kb: stripSize
        .default(DEFAULT_STRIP_KIB)
        .describe('KiB of a strip, a power of two. Of each base whole strips are used.'),
      uuid: uuid.optional().describe('Default: made of those of its bases, so that it is the same next time.'),
      superblock: z.boolean().default(false).describe('Only false.'),
      base_blocks: z
        .array(uint53.min(1))
        .max(BASES_MAX)
        .optional()
        .describe(
          '`concat`: blocks that are used of each base, so that a base that has grown moves nothing. ' +
            '`save_config` has it. Default: all in whole strips. An addition of Ringhost.',
        ),
    }),
    result: z.boolean(),
    errors: [
      EEXIST,
      ENODEV,
      { code: 'EPERM', when: 'a base is claimed by another bdev, or a controller serves it' },
      { code: 'EINVAL', when: 'the bases have blocks of several sizes, or one is too small' },
      { code: 'ENOTSUP', when: 'the level is not served, or a superblock is asked for' },
    ],
    cli: {
      flags: [
        { names: ['-n', '--name'], dest: 'name', kind: 'string', help: 'name of the bdev' },
        { names: ['-z', '--strip-size-kb'], dest: 'strip_size_kb', kind: 'int', help: 'KiB of a strip' },
        { names: ['-r', '--raid-level'], dest: 'raid_level', kind: 'string', choices: LEVELS, help: 'raid0 or concat' },
        { names: ['-b', '--base-bdevs'], dest: 'base_bdevs', kind: 'string', help: 'bases in quotes, spaces between' },
        { names: ['--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev' },
        { names: ['-s', '--superblock'], dest: 'superblock', kind: 'switch', help: 'not served' },
      ],
      toParams: ({ base_bdevs: names, ...rest }) => ({
        ...rest,
        base_bdevs: String(names).split(/\s+/).filter(Boolean),
      }),
      print: 'nothing',
    },
    example: {
      params: { name: 'Raid0', raid_level: 'raid0', strip_size_kb: 64, base_bdevs: ['Nvme0n1', 'Nvme1n1'] },
      result: true,
    },
  }),

  bdev_raid_delete: defineMethod({
    summary: 'Delete a disk that bdev_raid_create made',
    details: 'Its bases stay, and what is on them.',
    params: byName('Disk to delete.').extend({
      clear_sb: z.boolean().default(false).describe('Ignored: there are no superblocks.'),
    }),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EINVAL', when: 'the bdev is of another kind' }],
    cli: {
      positionals: [{ name: 'name', kind: 'string', help: 'disk to delete' }],
      flags: [{ names: ['-c', '--clear-sb'], dest: 'clear_sb', kind: 'switch', help: 'ignored' }],
      print: 'nothing',
    },
    example: { params: { name: 'Raid0' }, result: true },
  }),

  bdev_raid_get_bdevs: defineMethod({
    summary: 'List RAID disks',
    params: z.strictObject({ category: z.enum(CATEGORIES).describe('Only those in this state. All are `online`.') }),
    result: z.array(raidInfo),
    cli: {
      positionals: [{ name: 'category', kind: 'string', choices: CATEGORIES, help: 'only those in this state' }],
      print: 'json',
    },
    example: {
      params: { category: 'all' },
      result: [
        {
          ...{ name: 'Raid0', uuid: '1d5c5a5e-9a3e-5d7c-8f5e-0f6b1f0a7c11', strip_size_kb: 64, state: 'online' },
          ...{ raid_level: 'raid0', superblock: false, num_base_bdevs: 1, num_base_bdevs_discovered: 1 },
          num_base_bdevs_operational: 1,
          base_bdevs_list: [
            {
              ...{ name: 'Nvme0n1', uuid: '2b0a4c7e-7d0d-5c3f-9d1c-3f0e8a6b5d22', is_configured: true },
              ...{ data_offset: 0, data_size: 2_097_152 },
            },
          ],
        },
      ],
    },
  }),
};
