/** The block device methods of the RPC table: every kind of bdev, the RAM disk ("malloc") and the null disk. */
import { z } from 'zod';
import {
  type CliFlag,
  type CliPositional,
  type CliSpec,
  type CliValues,
  defineMethod,
  uint32,
  uint53,
  uuid,
} from '../define.ts';

/** Block sizes that a guest's driver can use: one page at most, a power of two. */
export const BLOCK_SIZES = [512, 1024, 2048, 4096] as const;

/** I/O types in the order in which `bdev_get_bdevs` lists them. */
export const IO_TYPE_NAMES = [
  'read',
  'write',
  'unmap',
  'flush',
  'reset',
  'nvme_admin',
  'nvme_io',
  'nvme_io_md',
  'write_zeroes',
  'zcopy',
  'get_zone_info',
  'zone_management',
  'zone_append',
  'compare',
  'compare_and_write',
  'abort',
  'seek_hole',
  'seek_data',
  'copy',
  'nvme_iov_md',
  'nvme_nssr',
  'write_uncorrectable',
] as const;

export const bdevName = z.string().min(1);
const blockSize = z.literal(BLOCK_SIZES);
const physicalBlockSize = z
  .int()
  .min(0)
  .max(1 << 20)
  .refine((size) => size === 0 || (size >= 512 && (size & (size - 1)) === 0), {
    error: 'physical_block_size must be a power of two of at least 512 (or 0: the same as block_size)',
  });
const noMetadata = z.literal(0);

/** Parameters for per-block metadata, which SPDK's clients send even when they are not used. */
const metadataParams = {
  md_size: noMetadata.optional().describe('Bytes of metadata a block. Only 0: Ringhost has no block metadata.'),
  dif_type: noMetadata.optional().describe('Protection information type. Only 0: none.'),
  dif_is_head_of_md: z.boolean().optional().describe('No effect: there is no protection information.'),
  dif_pi_format: z.int().min(0).max(2).optional().describe('No effect: there is no protection information.'),
};

export const byName = (text: string) => z.strictObject({ name: bdevName.describe(text) });
const nameArgument = (help: string): CliPositional => ({ name: 'name', kind: 'string', help });
export const namedCli = (help: string): CliSpec => ({ positionals: [nameArgument(help)], print: 'nothing' });

const createFlags: readonly CliFlag[] = [
  { names: ['-u', '--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev (default: random)' },
  { names: ['-p', '--physical-block-size'], dest: 'physical_block_size', kind: 'int', help: 'physical block size' },
  { names: ['-m', '--md-size'], dest: 'md_size', kind: 'int', help: 'metadata bytes a block: only 0' },
  { names: ['-t', '--dif-type'], dest: 'dif_type', kind: 'int', choices: [0, 1, 2, 3], help: 'only 0: none' },
  { names: ['-d', '--dif-is-head-of-md'], dest: 'dif_is_head_of_md', kind: 'switch', help: 'ignored' },
  { names: ['-f', '--dif-pi-format'], dest: 'dif_pi_format', kind: 'int', choices: [0, 1, 2], help: 'ignored' },
];

/** rpc.py takes the size in MiB and sends whole blocks, rounded down. The daemon refuses a block size of 0. */
function sizeToBlocks(values: CliValues): Readonly<Record<string, unknown>> {
  const { total_size: mebibytes, ...rest } = values;
  const blockBytes = Number(rest.block_size);
  return { ...rest, num_blocks: blockBytes > 0 ? Math.floor((Number(mebibytes) * 1024 * 1024) / blockBytes) : 0 };
}

const supportedIoTypes = z.record(z.enum(IO_TYPE_NAMES), z.boolean());

const bdevInfo = z.object({
  name: z.string(),
  aliases: z.array(z.string()).describe('Other names; the UUID is one.'),
  product_name: z.string().describe('Kind of bdev, such as `Malloc disk`.'),
  block_size: z.int().describe('Bytes.'),
  num_blocks: z.int(),
  preferred_write_alignment: z.int().describe('Blocks; 0 when there is no preference.'),
  preferred_write_granularity: z.int().describe('Blocks; 0 when there is no preference.'),
  optimal_write_size: z.int().describe('Blocks; 0 when there is no preference.'),
  preferred_unmap_alignment: z.int().describe('Blocks; 0 when there is no preference.'),
  preferred_unmap_granularity: z.int().describe('Blocks; 0 when there is no preference.'),
  uuid: z.string(),
  numa_id: z.int().optional(),
  assigned_rate_limits: z.object({
    rw_ios_per_sec: z.int(),
    rw_mbytes_per_sec: z.int(),
    r_mbytes_per_sec: z.int(),
    w_mbytes_per_sec: z.int(),
  }),
  claimed: z.boolean().describe('Whether another bdev or a controller holds it for itself.'),
  claim_type: z.string().optional(),
  zoned: z.boolean(),
  supported_io_types: supportedIoTypes,
  memory_domains: z.array(z.object({ dma_device_type: z.string() })).optional(),
  driver_specific: z.record(z.string(), z.unknown()),
});

const ioCounters = {
  bytes_read: z.int(),
  num_read_ops: z.int(),
  bytes_written: z.int(),
  num_write_ops: z.int(),
  bytes_unmapped: z.int(),
  num_unmap_ops: z.int(),
  bytes_copied: z.int(),
  num_copy_ops: z.int(),
  read_latency_ticks: z
    .int()
    .describe(
      'Of all reads together, as the other latencies: estimated from those that were timed (`bdev_get_latency`).',
    ),
  max_read_latency_ticks: z.int().describe('0, as the other longest and shortest ones: not kept.'),
  min_read_latency_ticks: z.int(),
  write_latency_ticks: z.int(),
  max_write_latency_ticks: z.int(),
  min_write_latency_ticks: z.int(),
  unmap_latency_ticks: z.int(),
  max_unmap_latency_ticks: z.int(),
  min_unmap_latency_ticks: z.int(),
  copy_latency_ticks: z.int(),
  max_copy_latency_ticks: z.int(),
  min_copy_latency_ticks: z.int(),
  io_error: z.record(z.string(), z.int()).describe('Count by status name; empty when there were none.'),
};

const bdevIostat = z.object({ name: z.string(), ...ioCounters, driver_specific: z.unknown().optional() });

const ticks = {
  tick_rate: z.int().describe('Ticks a second.'),
  ticks: z.int().describe('The clock when the counters were read.'),
};

const iostatResult = z.union([
  z.object({ ...ticks, bdevs: z.array(bdevIostat) }),
  z
    .object({ ...ticks, name: z.string(), channels: z.array(z.object({ thread_id: z.int(), ...ioCounters })) })
    .describe('With `per_channel`.'),
]);

const EXAMPLE_COUNTERS = {
  bytes_read: 40960,
  num_read_ops: 10,
  bytes_written: 4096,
  num_write_ops: 1,
  bytes_unmapped: 0,
  num_unmap_ops: 0,
  bytes_copied: 0,
  num_copy_ops: 0,
  read_latency_ticks: 21000,
  max_read_latency_ticks: 3100,
  min_read_latency_ticks: 1900,
  write_latency_ticks: 2200,
  max_write_latency_ticks: 2200,
  min_write_latency_ticks: 2200,
  unmap_latency_ticks: 0,
  max_unmap_latency_ticks: 0,
  min_unmap_latency_ticks: 0,
  copy_latency_ticks: 0,
  max_copy_latency_ticks: 0,
  min_copy_latency_ticks: 0,
  io_error: {},
};

const EXAMPLE_BDEV = {
  name: 'Malloc0',
  aliases: ['4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1'],
  product_name: 'Malloc disk',
  block_size: 512,
  num_blocks: 131072,
  preferred_write_alignment: 0,
  preferred_write_granularity: 0,
  optimal_write_size: 0,
  preferred_unmap_alignment: 0,
  preferred_unmap_granularity: 0,
  uuid: '4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1',
  assigned_rate_limits: { rw_ios_per_sec: 0, rw_mbytes_per_sec: 0, r_mbytes_per_sec: 0, w_mbytes_per_sec: 0 },
  claimed: false,
  zoned: false,
  supported_io_types: Object.fromEntries(
    IO_TYPE_NAMES.map((name) => [name, ['read', 'write', 'unmap', 'flush', 'write_zeroes'].includes(name)]),
  ),
  driver_specific: {},
};

const RESET_MODES = ['all', 'maxmin', 'error', 'none'] as const;
export const ENODEV = { code: 'ENODEV', when: 'no bdev has this name' } as const;
export const EEXIST = { code: 'EEXIST', when: 'a bdev with this name or UUID exists' } as const;

/** Operations or MiB a second. */
const rate = uint53.max(1_000_000_000);

/** A new size for a RAM or null disk, in whole MiB, as SPDK's bdev_null_resize has it. */
const resizeParams = z.strictObject({
  name: bdevName.describe('Bdev to resize.'),
  new_size: uint53.min(1).describe('New size in MiB.'),
});
const resizeCli: CliSpec = {
  positionals: [nameArgument('bdev to resize'), { name: 'new_size', kind: 'int', help: 'new size in MiB' }],
  print: 'text',
};

export const bdevMethods = {
  bdev_malloc_create: defineMethod({
    summary: 'Create a RAM disk',
    details:
      'Its content is lost when it is deleted, and without `shm_name` when the daemon ends. A new disk reads as ' +
      'zeroes. With `shm_name` it is a file in memory that stays when the daemon ends, however that happens, until ' +
      'the machine does: the next daemon finds the content under the same name.',
    params: z.strictObject({
      name: bdevName.optional().describe('Name. Default: `Malloc0`, `Malloc1`, … in the order of creation.'),
      num_blocks: uint53.min(1).describe('Size in blocks.'),
      block_size: blockSize.describe('Bytes a block.'),
      physical_block_size: physicalBlockSize.optional().describe('Bytes. Default: `block_size`.'),
      uuid: uuid.optional().describe('Default: random.'),
      optimal_io_boundary: uint32
        .optional()
        .describe('No effect: requests are not cut at boundaries. Default: 0, none.'),
      ...metadataParams,
      md_interleave: z.boolean().optional().describe('No effect: there is no metadata.'),
      numa_id: z
        .int()
        .min(-1)
        .max(1023)
        .optional()
        .describe(
          'No effect but that the node must be there: the memory is that of whoever touches it. Default: -1, any.',
        ),
      shm_name: z
        .string()
        .regex(/^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$/, { error: 'shm_name may have letters, digits, ".", "_" and "-"' })
        .optional()
        .describe(
          'Keep the content in `/dev/shm/ringhost.NAME` (mode 0600), or find it there; a file that is smaller grows. ' +
            'Such a disk can only grow. Default: none. An addition of Ringhost.',
        ),
    }),
    ignored: ['optimal_io_boundary', 'numa_id', 'md_interleave', 'dif_is_head_of_md', 'dif_pi_format'],
    result: z.string().describe('Name of the new bdev.'),
    errors: [
      EEXIST,
      { code: 'EINVAL', when: 'a size is out of range, or the NUMA node does not exist' },
      { code: 'ENOMEM', when: 'the memory reserved for RAM disks does not suffice' },
      { code: 'EBUSY', when: 'another disk uses the memory of `shm_name`' },
      { code: 'EACCES', when: 'the memory of `shm_name` belongs to another user, or is open to others' },
      { code: 'ENOSPC', when: '/dev/shm has no room for `shm_name`' },
    ],
    aliases: [{ name: 'construct_malloc_bdev' }],
    cli: {
      positionals: [
        { name: 'total_size', kind: 'float', help: 'size in MiB' },
        { name: 'block_size', kind: 'int', help: 'bytes a block: 512, 1024, 2048 or 4096' },
      ],
      flags: [
        { names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'name of the bdev' },
        ...createFlags,
        { names: ['-o', '--optimal-io-boundary'], dest: 'optimal_io_boundary', kind: 'int', help: 'ignored' },
        { names: ['-i', '--md-interleave'], dest: 'md_interleave', kind: 'switch', help: 'ignored' },
        { names: ['-n', '--numa-id'], dest: 'numa_id', kind: 'int', help: 'ignored' },
        {
          names: ['--shm-name'],
          dest: 'shm_name',
          kind: 'string',
          help: 'keep the content in shared memory of this name (Ringhost only)',
          isAddition: true,
        },
      ],
      toParams: sizeToBlocks,
      print: 'text',
    },
    example: { params: { name: 'Malloc0', num_blocks: 131072, block_size: 512 }, result: 'Malloc0' },
  }),

  bdev_malloc_delete: defineMethod({
    summary: 'Delete a RAM disk',
    details: 'Controllers that use it lose it first: their guests see I/O errors, not a hang.',
    params: byName('RAM disk to delete.'),
    result: z.boolean(),
    errors: [{ code: 'ENODEV', when: 'no RAM disk has this name' }],
    aliases: [{ name: 'delete_malloc_bdev' }],
    cli: namedCli('RAM disk to delete'),
    example: { params: { name: 'Malloc0' }, result: true },
  }),

  bdev_malloc_resize: defineMethod({
    summary: 'Change the size of a RAM disk',
    details:
      'A running guest sees the new size at once. What lies beyond a smaller size is lost. ' +
      'This method is an addition of Ringhost; its parameters are those of `bdev_null_resize`.',
    params: resizeParams,
    result: z.boolean(),
    errors: [
      ENODEV,
      { code: 'EINVAL', when: 'the bdev is not a RAM disk' },
      { code: 'EBUSY', when: 'the new size is smaller and a controller uses the bdev' },
      { code: 'ENOMEM', when: 'the memory reserved for RAM disks does not suffice' },
    ],
    cli: resizeCli,
    example: { params: { name: 'Malloc0', new_size: 128 }, result: true },
  }),

  bdev_null_create: defineMethod({
    summary: 'Create a disk that drops writes and returns whatever the buffers held',
    details: 'For measuring: it costs nothing but the request itself.',
    params: z.strictObject({
      name: bdevName.describe('Name.'),
      num_blocks: uint53.min(1).describe('Size in blocks.'),
      block_size: blockSize.describe('Bytes a block.'),
      physical_block_size: physicalBlockSize.optional().describe('Bytes. Default: `block_size`.'),
      uuid: uuid.optional().describe('Default: random.'),
      ...metadataParams,
      preferred_write_alignment: uint32.optional().describe('No effect. Default: 0, none.'),
      preferred_write_granularity: uint32.optional().describe('No effect. Default: 0, none.'),
      optimal_write_size: uint32.optional().describe('No effect. Default: 0, none.'),
      preferred_unmap_alignment: uint32.optional().describe('No effect. Default: 0, none.'),
      preferred_unmap_granularity: uint32.optional().describe('No effect. Default: 0, none.'),
    }),
    ignored: [
      ...(['preferred_write_alignment', 'preferred_write_granularity', 'optimal_write_size'] as const),
      ...(['preferred_unmap_alignment', 'preferred_unmap_granularity'] as const),
      ...(['dif_is_head_of_md', 'dif_pi_format'] as const),
    ],
    result: z.string().describe('Name of the new bdev.'),
    errors: [EEXIST, { code: 'EINVAL', when: 'a size is out of range' }],
    aliases: [{ name: 'construct_null_bdev' }],
    cli: {
      positionals: [
        nameArgument('name of the bdev'),
        { name: 'total_size', kind: 'int', help: 'size in MiB' },
        { name: 'block_size', kind: 'int', help: 'bytes a block: 512, 1024, 2048 or 4096' },
      ],
      flags: [
        ...createFlags,
        {
          names: ['-a', '--preferred-write-alignment'],
          dest: 'preferred_write_alignment',
          kind: 'int',
          help: 'ignored',
        },
        {
          names: ['-g', '--preferred-write-granularity'],
          dest: 'preferred_write_granularity',
          kind: 'int',
          help: 'ignored',
        },
        { names: ['-s', '--optimal-write-size'], dest: 'optimal_write_size', kind: 'int', help: 'ignored' },
        {
          names: ['-c', '--preferred-unmap-alignment'],
          dest: 'preferred_unmap_alignment',
          kind: 'int',
          help: 'ignored',
        },
        {
          names: ['-r', '--preferred-unmap-granularity'],
          dest: 'preferred_unmap_granularity',
          kind: 'int',
          help: 'ignored',
        },
      ],
      toParams: sizeToBlocks,
      print: 'text',
    },
    example: { params: { name: 'Null0', num_blocks: 262144, block_size: 4096 }, result: 'Null0' },
  }),

  bdev_null_delete: defineMethod({
    summary: 'Delete a null disk',
    params: byName('Null disk to delete.'),
    result: z.boolean(),
    errors: [{ code: 'ENODEV', when: 'no null disk has this name' }],
    aliases: [{ name: 'delete_null_bdev' }],
    cli: namedCli('null disk to delete'),
    example: { params: { name: 'Null0' }, result: true },
  }),

  bdev_null_resize: defineMethod({
    summary: 'Change the size of a null disk',
    details: 'A running guest sees the new size at once.',
    params: resizeParams,
    result: z.boolean(),
    errors: [
      ENODEV,
      { code: 'EINVAL', when: 'the bdev is not a null disk' },
      { code: 'EBUSY', when: 'the new size is smaller and a controller uses the bdev' },
    ],
    cli: resizeCli,
    example: { params: { name: 'Null0', new_size: 2048 }, result: true },
  }),

  bdev_set_qos_limit: defineMethod({
    summary: 'Limit what a bdev does in a second',
    details:
      'Reads and writes beyond a limit wait. What is left out stays as it is, and 0 takes a limit away. A limit is ' +
      'for the bdev, whoever uses it on whichever reactors; controllers that share it, and want more than there is, ' +
      'get equal parts, or as `vhost_controller_set_qos_weight` says. SPDK wants at least 1000 operations a second, ' +
      'and rounds up to thousands; here any number holds.',
    params: z.strictObject({
      name: bdevName.describe('Bdev.'),
      rw_ios_per_sec: rate.optional().describe('Reads and writes a second.'),
      rw_mbytes_per_sec: rate.optional().describe('MiB read and written a second.'),
      r_mbytes_per_sec: rate.optional().describe('MiB read a second.'),
      w_mbytes_per_sec: rate.optional().describe('MiB written a second.'),
      burst_ms: uint32
        .min(1)
        .max(60_000)
        .optional()
        .describe('What was not used in this time may be used at once. An addition of Ringhost. Default: 100.'),
    }),
    result: z.boolean(),
    errors: [ENODEV],
    cli: {
      positionals: [nameArgument('bdev to limit')],
      flags: [
        { names: ['--rw-ios-per-sec'], dest: 'rw_ios_per_sec', kind: 'int', help: 'reads and writes a second' },
        { names: ['--rw-mbytes-per-sec'], dest: 'rw_mbytes_per_sec', kind: 'int', help: 'MiB a second' },
        { names: ['--r-mbytes-per-sec'], dest: 'r_mbytes_per_sec', kind: 'int', help: 'MiB read a second' },
        { names: ['--w-mbytes-per-sec'], dest: 'w_mbytes_per_sec', kind: 'int', help: 'MiB written a second' },
        { names: ['--burst-ms'], dest: 'burst_ms', kind: 'int', help: 'length of a burst' },
      ],
      print: 'nothing',
    },
    example: { params: { name: 'Malloc0', rw_ios_per_sec: 20000 }, result: true },
  }),

  delete_bdev: defineMethod({
    summary: 'Delete a bdev of any kind',
    details:
      'The name of 2018. Controllers that use the bdev lose it first: new requests are refused, those in flight end, ' +
      'and SCSI targets that show it are detached from running guests.',
    params: byName('Bdev to delete.'),
    result: z.boolean(),
    errors: [
      ENODEV,
      { code: 'ETIMEDOUT', when: 'requests in flight did not end in 10 s; the bdev goes as soon as they are over' },
    ],
    cli: {
      positionals: [{ name: 'bdev_name', kind: 'string', help: 'bdev to delete' }],
      toParams: (values) => ({ name: values.bdev_name }),
      print: 'nothing',
    },
    example: { params: { name: 'Malloc0' }, result: true },
  }),

  bdev_get_bdevs: defineMethod({
    summary: 'List bdevs',
    params: z.strictObject({
      name: bdevName.optional().describe('Only this bdev (its name, alias or UUID). Default: all.'),
      timeout: uint53
        .default(0)
        .describe('With `name`: milliseconds to wait for the bdev to appear. Default: 0, answer at once.'),
    }),
    result: z.array(bdevInfo),
    errors: [{ code: 'ENODEV', when: 'no bdev has this name, or it did not appear in time' }],
    waits: ({ name, timeout }) => name !== undefined && timeout !== 0,
    aliases: [{ name: 'get_bdevs' }],
    cli: {
      flags: [
        { names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'only this bdev' },
        { names: ['-t', '--timeout-ms'], dest: 'timeout', kind: 'int', help: 'with -b: wait so long for it to appear' },
      ],
      print: 'json',
    },
    example: { params: { name: 'Malloc0' }, result: [EXAMPLE_BDEV] },
  }),

  bdev_get_iostat: defineMethod({
    summary: 'Show I/O counters of bdevs',
    details: 'Counters run since the bdev was created, or since they were last reset.',
    params: z.strictObject({
      names: z.array(bdevName).max(256).optional().describe('Only these bdevs. Default: all.'),
      name: bdevName.optional().describe('Only this bdev: the older way to say `names` with one entry.'),
      per_channel: z
        .boolean()
        .default(false)
        .describe('Counters of each reactor apart. Needs exactly one bdev. Default: false.'),
      reset_mode: z
        .enum(RESET_MODES)
        .default('none')
        .describe('What to reset after reading: all counters, the extremes, the error counts, nothing. Default: none.'),
    }),
    result: iostatResult,
    errors: [ENODEV, { code: 'EINVAL', when: '`per_channel` without exactly one bdev' }],
    aliases: [
      {
        name: 'get_bdevs_iostat',
        note: 'The result is an array: an object with `tick_rate`, then one object a bdev.',
        toResult: (result) => ('bdevs' in result ? [{ tick_rate: result.tick_rate }, ...result.bdevs] : result),
        cli: {
          flags: [{ names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'only this bdev' }],
          print: 'json',
        },
      },
    ],
    cli: {
      flags: [
        { names: ['-c', '--per-channel'], dest: 'per_channel', kind: 'switch', help: 'each reactor apart' },
        {
          names: ['--reset-mode'],
          dest: 'reset_mode',
          kind: 'string',
          choices: ['all', 'maxmin', 'error', 'none'],
          help: 'what to reset after reading',
        },
        { names: ['--names'], dest: 'names', kind: 'list', help: 'only these bdevs, separated by commas' },
        { names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'only this bdev' },
      ],
      print: 'json',
    },
    example: {
      params: { names: ['Malloc0'] },
      result: {
        tick_rate: 1_000_000_000,
        ticks: 81_204_961_204,
        bdevs: [{ name: 'Malloc0', ...EXAMPLE_COUNTERS }],
      },
    },
  }),

  bdev_reset_iostat: defineMethod({
    summary: 'Begin to count I/O anew',
    details: 'What `bdev_get_iostat` shows counts from here on. The counters of `/metrics` go on.',
    params: z.strictObject({
      name: z.string().optional().describe('Name of the bdev. Default: all.'),
      mode: z
        .enum(RESET_MODES)
        .default('all')
        .describe('`all` counts; the others change nothing, for there is nothing of theirs. Default: `all`.'),
    }),
    result: z.boolean(),
    errors: [{ code: 'ENODEV', when: 'no bdev has this name' }],
    cli: {
      flags: [
        { names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'name of the bdev' },
        { names: ['-m', '--mode'], dest: 'mode', kind: 'string', help: 'what to reset', choices: RESET_MODES },
      ],
      print: 'nothing',
    },
    example: { params: { name: 'Malloc0' }, result: true },
  }),
};
