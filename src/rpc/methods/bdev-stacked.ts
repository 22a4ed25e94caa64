/** The methods of bdevs over other bdevs: pass-through, encryption, delay, error injection, parts. */
import { z } from 'zod';
import { type CliFlag, defineMethod, uint32, uint53, uuid } from '../define.ts';
import { bdevName, byName, EEXIST, ENODEV, namedCli } from './bdev.ts';

const CLAIMED = { code: 'EPERM', when: 'the base is claimed by another bdev, or a controller serves it' } as const;
const WRONG_KIND = { code: 'EINVAL', when: 'the bdev is of another kind' } as const;
const stackedUuid = uuid.optional().describe("Default: made of the base's, so that it is the same next time.");
const stackedParams = {
  base_bdev_name: bdevName.describe('Bdev under it. The new one claims it, and goes with it.'),
  name: bdevName.describe('Name.'),
  uuid: stackedUuid,
};
const baseFlag: CliFlag = { names: ['-b', '--base-bdev-name'], dest: 'base_bdev_name', kind: 'string', help: 'base' };
const uuidFlag: CliFlag = { names: ['-u', '--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev' };

/** Microseconds; an hour at most, so that nobody waits for a slip of the keyboard. */
const latency = uint53.max(3_600_000_000);
const LATENCY_TYPES = ['avg_read', 'p99_read', 'avg_write', 'p99_write'] as const;
const latencyFlag = (names: readonly string[], dest: string, what: string): CliFlag => {
  return { names, dest, kind: 'int', help: `microseconds that ${what} take longer` };
};

const IO_TYPES = ['clear', 'read', 'write', 'unmap', 'flush', 'write_zeroes', 'all'] as const;
const ERROR_TYPES = ['failure', 'pending', 'corrupt_data', 'nomem'] as const;
const addition = (names: readonly string[], dest: string, kind: 'int' | 'float', help: string): CliFlag => {
  return { names, dest, kind, help };
};

export const stackedMethods = {
  bdev_passthru_create: defineMethod({
    summary: 'Create a disk that is another name for a disk',
    params: z.strictObject(stackedParams),
    result: z.string().describe('Name of the new bdev.'),
    errors: [EEXIST, ENODEV, CLAIMED],
    cli: {
      flags: [baseFlag, { names: ['-p', '--name'], dest: 'name', kind: 'string', help: 'name of the bdev' }, uuidFlag],
      print: 'text',
    },
    example: { params: { base_bdev_name: 'Malloc0', name: 'Pass0' }, result: 'Pass0' },
  }),

  bdev_passthru_delete: defineMethod({
    summary: 'Delete a disk that bdev_passthru_create made',
    details: 'The disk under it stays.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [ENODEV, WRONG_KIND],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'Pass0' }, result: true },
  }),

  bdev_crypto_create: defineMethod({
    summary: 'Create a disk that is stored encrypted on the one under it',
    details:
      'AES-XTS, in the format of dm-crypt (docs/stacked-bdevs.md). What SPDK calls obsolete is not taken ' +
      '(`crypto_pmd`, `key`, `key2`, `cipher`): make a key with `accel_crypto_key_create` first.',
    params: z.strictObject({
      base_bdev_name: stackedParams.base_bdev_name,
      name: stackedParams.name,
      key_name: bdevName.describe('Key, of `accel_crypto_key_create`.'),
    }),
    result: z.string().describe('Name of the new bdev.'),
    errors: [EEXIST, ENODEV, CLAIMED, { code: 'ENOENT', when: 'there is no such key' }],
    cli: {
      positionals: [
        { name: 'base_bdev_name', kind: 'string', help: 'bdev under it' },
        { name: 'name', kind: 'string', help: 'name of the bdev' },
      ],
      flags: [{ names: ['-n', '--key-name'], dest: 'key_name', kind: 'string', help: 'name of the key' }],
      print: 'json',
    },
    example: { params: { base_bdev_name: 'Nvme0n1', name: 'Crypt0', key_name: 'key0' }, result: 'Crypt0' },
  }),

  bdev_crypto_delete: defineMethod({
    summary: 'Delete a disk that bdev_crypto_create made',
    details: 'The disk under it stays, encrypted as it is; so does the key.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [ENODEV, WRONG_KIND],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'Crypt0' }, result: true },
  }),

  bdev_delay_create: defineMethod({
    summary: 'Create a disk that is slower than the one under it',
    details:
      'Reads and writes end so much later than those of the disk under it. One in a hundred, by chance, has the ' +
      '`p99` latency, the others the `avg` one. Below a millisecond a latency is exact only while the reactor polls.',
    params: z.strictObject({
      ...stackedParams,
      avg_read_latency: latency.describe('Microseconds.'),
      p99_read_latency: latency.describe('Microseconds.'),
      avg_write_latency: latency.describe('Microseconds.'),
      p99_write_latency: latency.describe('Microseconds.'),
    }),
    result: z.string().describe('Name of the new bdev.'),
    errors: [EEXIST, ENODEV, CLAIMED],
    cli: {
      flags: [
        baseFlag,
        { names: ['-d', '--name'], dest: 'name', kind: 'string', help: 'name of the bdev' },
        uuidFlag,
        latencyFlag(['-r', '--avg-read-latency'], 'avg_read_latency', 'reads'),
        latencyFlag(['-t', '--nine-nine-read-latency'], 'p99_read_latency', '1 in 100 reads'),
        latencyFlag(['-w', '--avg-write-latency'], 'avg_write_latency', 'writes'),
        latencyFlag(['-n', '--nine-nine-write-latency'], 'p99_write_latency', '1 in 100 writes'),
      ],
      print: 'text',
    },
    example: {
      params: {
        base_bdev_name: 'Malloc0',
        name: 'Slow0',
        avg_read_latency: 4000,
        p99_read_latency: 9000,
        avg_write_latency: 4000,
        p99_write_latency: 9000,
      },
      result: 'Slow0',
    },
  }),

  bdev_delay_delete: defineMethod({
    summary: 'Delete a disk that bdev_delay_create made',
    details: 'The disk under it stays. Requests that wait end at once.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [ENODEV, WRONG_KIND],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'Slow0' }, result: true },
  }),

  bdev_delay_update_latency: defineMethod({
    summary: 'Change a latency of a delay disk',
    details: 'Requests that wait already keep theirs.',
    params: z.strictObject({
      delay_bdev_name: bdevName.describe('Delay disk.'),
      latency_type: z.enum(LATENCY_TYPES).describe('Which of its latencies.'),
      latency_us: latency.describe('Microseconds.'),
    }),
    result: z.boolean(),
    errors: [ENODEV, WRONG_KIND],
    cli: {
      positionals: [
        { name: 'delay_bdev_name', kind: 'string', help: 'delay disk' },
        { name: 'latency_type', kind: 'string', choices: LATENCY_TYPES, help: 'which of its latencies' },
        { name: 'latency_us', kind: 'int', help: 'microseconds' },
      ],
      print: 'json',
    },
    example: { params: { delay_bdev_name: 'Slow0', latency_type: 'avg_read', latency_us: 100 }, result: true },
  }),

  bdev_error_create: defineMethod({
    summary: 'Create a disk that can be told to fail',
    details: 'Its name is that of the disk under it with `EE_` in front.',
    params: z.strictObject({
      base_name: bdevName.describe('Bdev under it. The new one claims it, and goes with it.'),
      uuid: stackedUuid,
    }),
    result: z.boolean(),
    errors: [EEXIST, ENODEV, CLAIMED],
    cli: {
      positionals: [{ name: 'base_name', kind: 'string', help: 'bdev under it' }],
      flags: [{ names: ['--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev' }],
      print: 'json',
    },
    example: { params: { base_name: 'Malloc0' }, result: true },
  }),

  bdev_error_delete: defineMethod({
    summary: 'Delete a disk that bdev_error_create made',
    details: 'The disk under it stays. Requests that are held back end with an error.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [ENODEV, WRONG_KIND],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'EE_Malloc0' }, result: true },
  }),

  bdev_error_inject_error: defineMethod({
    summary: 'Let requests of an error disk fail',
    details:
      'A call makes a rule; one for the same type and blocks replaces it. A request meets the first that strikes, ' +
      'in the order in which they were made. `failure` ends it with an error, `nomem` too; `pending` holds it back ' +
      'until bdev_error_resume_pending or the end of the disk; `corrupt_data` changes a byte of what is read or ' +
      'written. `clear` drops all rules. `lba_start`, `lba_count`, `nth`, `probability` and `seed` are additions of ' +
      'Ringhost: the same seed and the same load give the same faults.',
    params: z.strictObject({
      name: bdevName.describe('Error disk.'),
      io_type: z.enum(IO_TYPES).describe('`flush` reaches only disks with a write cache.'),
      error_type: z.enum(ERROR_TYPES).describe('What happens to a request that is struck.'),
      num: uint32.default(1).describe('How many requests are struck. 0 drops the rule.'),
      queue_depth: uint32
        .max(65_536)
        .default(0)
        .describe('Strike only when so many others are in flight in a reactor.'),
      corrupt_offset: uint32.max(0x7fff_ffff).default(0).describe('Which byte of the request is changed.'),
      corrupt_value: z.int().min(0).max(255).default(0).describe('What it is XORed with: 1 to 255.'),
      lba_start: uint53.optional().describe('First block that the rule is for. Default: 0.'),
      lba_count: uint53.min(1).optional().describe('How many blocks it is for. Default: all.'),
      nth: uint32.min(1).max(0x7fff_ffff).default(1).describe('Strike every n-th request.'),
      probability: z.number().gt(0).max(1).default(1).describe('Strike by chance, from above 0 to 1.'),
      seed: uint32.max(0x7fff_ffff).default(0).describe('Where the chance starts.'),
    }),
    result: z.boolean(),
    errors: [ENODEV, WRONG_KIND, { code: 'ENOSPC', when: 'the disk has 64 rules' }],
    cli: {
      positionals: [
        { name: 'name', kind: 'string', help: 'error disk' },
        { name: 'io_type', kind: 'string', choices: IO_TYPES, help: 'type of I/O' },
        { name: 'error_type', kind: 'string', choices: ERROR_TYPES, help: 'what happens' },
      ],
      flags: [
        { names: ['-n', '--num'], dest: 'num', kind: 'int', help: 'how many requests are struck' },
        { names: ['-q', '--queue-depth'], dest: 'queue_depth', kind: 'int', help: 'others in flight' },
        { names: ['-o', '--corrupt-offset'], dest: 'corrupt_offset', kind: 'int', help: 'which byte is changed' },
        { names: ['-v', '--corrupt-value'], dest: 'corrupt_value', kind: 'int', help: 'what it is XORed with' },
        addition(['--lba-start'], 'lba_start', 'int', 'first block'),
        addition(['--lba-count'], 'lba_count', 'int', 'how many blocks'),
        addition(['--nth'], 'nth', 'int', 'every n-th request'),
        addition(['--probability'], 'probability', 'float', 'by chance, 0 to 1'),
        addition(['--seed'], 'seed', 'int', 'where the chance starts'),
      ],
      print: 'json',
    },
    example: { params: { name: 'EE_Malloc0', io_type: 'read', error_type: 'failure', num: 5 }, result: true },
  }),

  bdev_error_resume_pending: defineMethod({
    summary: 'Let go on what an error disk holds back',
    params: byName('Error disk.'),
    result: z.boolean(),
    errors: [ENODEV, WRONG_KIND],
    cli: { ...namedCli('error disk'), print: 'json' },
    example: { params: { name: 'EE_Malloc0' }, result: true },
  }),

  bdev_split_create: defineMethod({
    summary: 'Cut a disk into equal parts',
    details: 'The parts are disks of their own, `BASEp0`, `BASEp1`, …, and claim the disk together.',
    params: z.strictObject({
      base_bdev: bdevName.describe('Disk to cut. The parts claim it, and go with it.'),
      split_count: uint32.min(1).max(1024).describe('How many parts: fewer are made when there is no room for all.'),
      split_size_mb: uint53
        .max(2 ** 32)
        .default(0)
        .describe('MiB of each. 0: all of the disk.'),
    }),
    result: z.array(z.string()).describe('Names of the parts.'),
    errors: [ENODEV, CLAIMED, EEXIST, { code: 'EINVAL', when: 'there is no room for one part' }],
    cli: {
      positionals: [
        { name: 'base_bdev', kind: 'string', help: 'disk to cut' },
        { name: 'split_count', kind: 'int', help: 'how many parts' },
      ],
      flags: [{ names: ['-s', '--split-size-mb'], dest: 'split_size_mb', kind: 'int', help: 'MiB of each' }],
      print: 'words',
    },
    example: { params: { base_bdev: 'Malloc0', split_count: 2 }, result: ['Malloc0p0', 'Malloc0p1'] },
  }),

  bdev_split_delete: defineMethod({
    summary: 'Delete the parts of a disk',
    details: 'The disk stays.',
    params: z.strictObject({ base_bdev: bdevName.describe('Disk that is cut.') }),
    result: z.boolean(),
    errors: [{ code: 'ENODEV', when: 'there is no such bdev, or it is not cut' }],
    cli: { positionals: [{ name: 'base_bdev', kind: 'string', help: 'disk that is cut' }], print: 'nothing' },
    example: { params: { base_bdev: 'Malloc0' }, result: true },
  }),

  bdev_gpt_create: defineMethod({
    summary: 'Make disks of the partitions of a disk',
    details:
      'Reads the GUID partition table, or its backup at the end of the disk. The partitions are disks of their own, ' +
      '`BASEp1`, `BASEp2`, … by their numbers in the table, with its UUIDs, and claim the disk together. An addition ' +
      'of Ringhost: SPDK looks at every disk by itself, and makes disks of partitions of its own type. Nothing is ' +
      'looked at here unless it is asked for, because a guest may have written it.',
    params: z.strictObject({
      base_bdev: bdevName.describe('Disk with the table. The partitions claim it, and go with it.'),
      types: z
        .array(uuid)
        .min(1)
        .optional()
        .describe('Only partitions of these types. SPDK’s is 6527994e-2c5a-4eec-9613-8f5944074e8b. Default: all.'),
    }),
    result: z.array(z.string()).describe('Names of the partitions.'),
    errors: [
      ENODEV,
      CLAIMED,
      EEXIST,
      { code: 'EINVAL', when: 'there is no table, or neither it nor its backup can be used' },
      { code: 'ENOENT', when: 'it has no partitions, or none of these types' },
      { code: 'EIO', when: 'the disk cannot be read' },
    ],
    cli: {
      positionals: [{ name: 'base_bdev', kind: 'string', help: 'disk with the table' }],
      flags: [{ names: ['-t', '--types'], dest: 'types', kind: 'list', help: 'only partitions of these type GUIDs' }],
      print: 'words',
    },
    example: { params: { base_bdev: 'Nvme0n1' }, result: ['Nvme0n1p1', 'Nvme0n1p2'] },
  }),

  bdev_gpt_delete: defineMethod({
    summary: 'Delete the disks of the partitions of a disk',
    details: 'The disk stays, and what is on it.',
    params: z.strictObject({ base_bdev: bdevName.describe('Disk with the table.') }),
    result: z.boolean(),
    errors: [{ code: 'ENODEV', when: 'there is no such bdev, or there are no disks of its partitions' }],
    cli: { positionals: [{ name: 'base_bdev', kind: 'string', help: 'disk with the table' }], print: 'nothing' },
    example: { params: { base_bdev: 'Nvme0n1' }, result: true },
  }),
};
