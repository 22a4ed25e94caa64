/** The methods of RAID disks. */
import { z } from 'zod';
import { defineMethod, uint32, uint53, uuid } from '../define.ts';
import { bdevName, byName, EEXIST, ENODEV, namedCli } from './bdev.ts';

const CLAIMED = { code: 'EPERM', when: 'a base is claimed by another bdev, or a controller serves it' } as const;
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
  state: z.enum(['online', 'configuring', 'offline']).describe('Always `online`.'),
  raid_level: z.enum(['raid0', 'raid1', 'concat']),
  superblock: z.boolean(),
  num_base_bdevs: z.int(),
  num_base_bdevs_discovered: z.int().describe('Those that are there.'),
  num_base_bdevs_operational: z.int().describe('Those in sync.'),
  process: z
    .object({
      type: z.string().describe('`rebuild`.'),
      target: z.string().describe('The base that is rebuilt; of several, the first.'),
      progress: z.object({ blocks: z.int(), percent: z.int() }),
    })
    .optional()
    .describe('raid1: what goes on in the background. It is a job, too: `bdev_get_jobs`.'),
  base_bdevs_list: z.array(
    z.object({
      name: z.string().nullable().describe('Null: the place is free.'),
      uuid: z.string(),
      is_configured: z.boolean(),
      data_offset: z.int().describe('Blocks.'),
      data_size: z.int().describe('Blocks that are used.'),
      state: z
        .enum(['in_sync', 'rebuilding', 'missing', 'failed'])
        .optional()
        .describe('raid1. An addition of Ringhost.'),
      failures: z.int().optional().describe('raid1: how often a base in this place was taken out for a failure.'),
      reason: z.string().optional().describe('raid1: why it was.'),
    }),
  ),
});

export const raidMethods = {
  bdev_raid_create: defineMethod({
    summary: 'Create a disk of several disks',
    details:
      '`raid0` deals strips of equal size out to the bases in turn, as much of each as the smallest has; it grows ' +
      'when all of them have grown. `concat` puts one behind the other and does not grow. Neither survives the loss ' +
      'of a base. All must be there: unlike SPDK, nothing waits for them. `raid1` has all of its blocks on each ' +
      'base, and goes on while one of them is left (docs/raid.md). Not served: raid5f, superblocks of other levels.',
    params: z.strictObject({
      name: bdevName.describe('Name.'),
      raid_level: z.enum(LEVELS).describe('`raid1` (or `1`), `raid0` (or `0`) or `concat`.'),
      base_bdevs: z.array(bdevName).min(1).max(BASES_MAX).describe('Its bases, which it claims, in this order.'),
      strip_size_kb: stripSize
        .default(DEFAULT_STRIP_KIB)
        .describe('KiB of a strip, a power of two. Of each base whole strips are used. No effect on raid1.'),
      uuid: uuid.optional().describe('Default: made of those of its bases, so that it is the same next time.'),
      superblock: z
        .boolean()
        .default(false)
        .describe(
          '`raid1`: the first MiB of each base says what it belongs to, and which parts were being written. When the ' +
            'bases have one already the mirror is what they say.',
        ),
      base_blocks: z
        .array(uint53.min(1))
        .max(BASES_MAX)
        .optional()
        .describe(
          '`concat`: blocks that are used of each base, so that a base that has grown moves nothing. ' +
            '`save_config` has it. Default: all in whole strips. An addition of Ringhost.',
        ),
      num_base_bdevs: uint32
        .min(1)
        .max(16)
        .optional()
        .describe('`raid1`: of a new mirror, how many it can have. Default: those named. An addition of Ringhost.'),
      allow_degraded: z
        .boolean()
        .default(false)
        .describe(
          '`raid1` with superblocks: also without bases that were in sync when the others were last written. ' +
            'What was written to those alone is lost. An addition of Ringhost.',
        ),
    }),
    result: z.boolean(),
    errors: [
      EEXIST,
      ENODEV,
      CLAIMED,
      { code: 'EINVAL', when: 'the bases have blocks of several sizes, or one is too small' },
      { code: 'EINVAL', when: 'superblocks say that the bases do not belong together' },
      { code: 'ENOTSUP', when: 'the level is not served, or a superblock of it' },
    ],
    cli: {
      flags: [
        { names: ['-n', '--name'], dest: 'name', kind: 'string', help: 'name of the bdev' },
        { names: ['-z', '--strip-size-kb'], dest: 'strip_size_kb', kind: 'int', help: 'KiB of a strip' },
        {
          names: ['-r', '--raid-level'],
          dest: 'raid_level',
          kind: 'string',
          choices: LEVELS,
          help: 'raid1, raid0 or concat',
        },
        { names: ['-b', '--base-bdevs'], dest: 'base_bdevs', kind: 'string', help: 'bases in quotes, spaces between' },
        { names: ['--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev' },
        { names: ['--num-base-bdevs'], dest: 'num_base_bdevs', kind: 'int', help: 'raid1: bases that it can have' },
        {
          ...{ names: ['--allow-degraded'], dest: 'allow_degraded', isAddition: true },
          ...{ kind: 'switch', help: 'raid1: also without bases that were in sync' },
        },
        { names: ['-s', '--superblock'], dest: 'superblock', kind: 'switch', help: 'raid1: with superblocks' },
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
      clear_sb: z.boolean().default(false).describe('Erase the superblocks, too.'),
    }),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EINVAL', when: 'the bdev is of another kind' }],
    cli: {
      positionals: [{ name: 'name', kind: 'string', help: 'disk to delete' }],
      flags: [{ names: ['-c', '--clear-sb'], dest: 'clear_sb', kind: 'switch', help: 'erase the superblocks, too' }],
      print: 'nothing',
    },
    example: { params: { name: 'Raid0' }, result: true },
  }),

  bdev_raid_add_base_bdev: defineMethod({
    summary: 'Add a disk to a mirror',
    details: 'It is overwritten, and rebuilt while the mirror is in use. Answered when that has begun.',
    params: z.strictObject({
      raid_bdev: bdevName.describe('Mirror (raid1) that has a place free.'),
      base_bdev: bdevName.describe('Disk to add.'),
    }),
    result: z.boolean(),
    errors: [ENODEV, CLAIMED, { code: 'EINVAL', when: 'it does not fit, or is of another RAID disk' }],
    cli: {
      positionals: [
        { name: 'raid_bdev', kind: 'string', help: 'mirror' },
        { name: 'base_bdev', kind: 'string', help: 'disk to add' },
      ],
      print: 'nothing',
    },
    example: { params: { raid_bdev: 'Raid1', base_bdev: 'Nvme2n1' }, result: true },
  }),

  bdev_raid_remove_base_bdev: defineMethod({
    summary: 'Take a disk out of a mirror',
    details: 'The mirror goes on without it. Answered when the disk can be used for something else.',
    params: byName('Disk to take out.'),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EBUSY', when: 'it is the last one in sync' }],
    cli: namedCli('disk to take out'),
    example: { params: { name: 'Nvme2n1' }, result: true },
  }),

  bdev_raid_set_options: defineMethod({
    summary: 'Limit what rebuilding may take',
    details: 'Of those that begin from now on; `bdev_job_set_options` changes one that runs.',
    params: z.strictObject({
      process_window_size_kb: uint32.optional().describe('No effect: pieces of 512 KiB are rebuilt at a time.'),
      process_max_bandwidth_mb_sec: uint32.optional().describe('MiB a second at most. 0: no limit.'),
    }),
    ignored: ['process_window_size_kb'],
    result: z.boolean(),
    cli: {
      flags: [
        { names: ['-w', '--process-window-size-kb'], dest: 'process_window_size_kb', kind: 'int', help: 'no effect' },
        {
          ...{ names: ['-b', '--process-max-bandwidth-mb-sec'], dest: 'process_max_bandwidth_mb_sec' },
          ...{ kind: 'int', help: 'MiB a second at most; 0: no limit' },
        },
      ],
      print: 'nothing',
    },
    example: { params: { process_max_bandwidth_mb_sec: 200 }, result: true },
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
