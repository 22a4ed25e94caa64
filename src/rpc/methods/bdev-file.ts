/** The methods of file and block-device disks, under the names of SPDK's two modules for them. */
import { z } from 'zod';
import { type CliFlag, type CliSpec, defineMethod, uuid } from '../define.ts';
import { BLOCK_SIZES, bdevName, byName, EEXIST, ENODEV, namedCli } from './bdev.ts';

const fileParams = {
  name: bdevName.describe('Name.'),
  filename: z.string().min(1).max(4095).describe('Path of a file or block device. Its bytes are served as they are.'),
  block_size: z
    .literal([0, ...BLOCK_SIZES])
    .optional()
    .describe('Bytes a block. Default: 0, the logical block size of a device, 512 for a file.'),
  uuid: uuid.optional().describe('Default: made of `filename`, so that it is the same next time.'),
};

/** What SPDK does not have. */
const ringParams = {
  direct: z
    .boolean()
    .optional()
    .describe('O_DIRECT. Default: where the file takes it at this block size. An addition of Ringhost.'),
  unlocked: z
    .boolean()
    .optional()
    .describe(
      'Do not lock the file: another daemon may have it too, as in a live migration. Default: false. An addition of ' +
        'Ringhost.',
    ),
  iopoll: z
    .boolean()
    .optional()
    .describe(
      'Poll the device for completions; it must have queues for that. Default: false. An addition of Ringhost.',
    ),
  sqpoll_core: z
    .int()
    .min(0)
    .max(1023)
    .optional()
    .describe('A kernel thread on this core, which has no reactor, submits. Default: none. An addition of Ringhost.'),
};

const errors = [
  EEXIST,
  { code: 'ENOENT', when: 'there is no such file' },
  { code: 'EACCES', when: 'the daemon may not open it' },
  { code: 'EBUSY', when: 'the file or device is in use, or mounted, and still so after 30 s' },
  {
    code: 'EINVAL',
    when: 'it is neither a file nor a block device, has no whole block, or cannot be served with these options',
  },
] as const;

const rescanErrors = [
  ENODEV,
  { code: 'EINVAL', when: 'the bdev is of another kind, or has no whole block any more' },
  { code: 'EBUSY', when: 'it is smaller and a controller uses the bdev' },
] as const;

/** `bdev_*_rescan`; `name` is the disk of its example. */
function rescanMethod(name: string) {
  return defineMethod({
    summary: 'Look at the size of the file again',
    details: 'After the file or device grew. A running guest sees the new size at once.',
    params: byName('Disk whose file has a new size.'),
    result: z.boolean(),
    errors: rescanErrors,
    cli: { ...namedCli('disk whose file has a new size'), print: 'json' },
    example: { params: { name }, result: true },
  });
}

const ringFlags: readonly CliFlag[] = [
  { names: ['--direct'], dest: 'direct', kind: 'switch', help: 'O_DIRECT or an error', isAddition: true },
  { names: ['--unlocked'], dest: 'unlocked', kind: 'switch', help: 'do not lock the file', isAddition: true },
  { names: ['--iopoll'], dest: 'iopoll', kind: 'switch', help: 'poll the device for completions', isAddition: true },
  { names: ['--sqpoll-core'], dest: 'sqpoll_core', kind: 'int', help: 'core of a kernel thread that submits' },
];

const createPositionals: CliSpec['positionals'] = [
  { name: 'filename', kind: 'string', help: 'path of the file or block device' },
  { name: 'name', kind: 'string', help: 'name of the bdev' },
  { name: 'block_size', kind: 'int', help: 'bytes a block: 512, 1024, 2048 or 4096', isOptional: true },
];
const uuidFlag: CliFlag = { names: ['-u', '--uuid'], dest: 'uuid', kind: 'string', help: 'UUID of the bdev' };

export const fileMethods = {
  bdev_aio_create: defineMethod({
    summary: 'Create a disk over a file or block device',
    details:
      'Served by io_uring, as `bdev_uring_create` does. See docs/file-disks.md for what is stable when, and for ' +
      'the rules of O_DIRECT.',
    params: z.strictObject({
      ...fileParams,
      readonly: z.boolean().optional().describe('Open for reading only. Default: false.'),
      fallocate: z
        .boolean()
        .optional()
        .describe('Offer discard and write zeroes. Default: true (SPDK: false; its rpc.py sends what was typed).'),
      nowait: z.boolean().optional().describe('No effect: io_uring does not wait.'),
      ...ringParams,
    }),
    ignored: ['nowait'],
    result: z.string().describe('Name of the new bdev.'),
    errors,
    aliases: [
      {
        name: 'construct_aio_bdev',
        cli: { positionals: createPositionals, print: 'text' },
      },
    ],
    cli: {
      positionals: createPositionals,
      flags: [
        { names: ['-r', '--readonly'], dest: 'readonly', kind: 'switch', help: 'open for reading only' },
        { names: ['--fallocate'], dest: 'fallocate', kind: 'switch', help: 'offer discard and write zeroes' },
        uuidFlag,
        { names: ['--no-wait'], dest: 'nowait', kind: 'switch', help: 'ignored' },
        ...ringFlags,
      ],
      print: 'text',
    },
    example: { params: { name: 'Aio0', filename: '/srv/disks/vm0.raw' }, result: 'Aio0' },
  }),

  bdev_aio_delete: defineMethod({
    summary: 'Delete a disk that bdev_aio_create made',
    details: 'The file stays. Controllers that use the disk lose it first: their guests see I/O errors, not a hang.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EINVAL', when: 'the bdev is of another kind' }],
    aliases: [{ name: 'delete_aio_bdev' }],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'Aio0' }, result: true },
  }),

  bdev_aio_rescan: rescanMethod('Aio0'),

  bdev_uring_create: defineMethod({
    summary: 'Create a disk over a file or block device',
    details: 'As `bdev_aio_create`, with fewer options. Discard and write zeroes are offered.',
    params: z.strictObject({ ...fileParams, ...ringParams }),
    result: z.string().describe('Name of the new bdev.'),
    errors,
    cli: { positionals: createPositionals, flags: [uuidFlag, ...ringFlags], print: 'text' },
    example: { params: { name: 'Uring0', filename: '/dev/nvme0n1' }, result: 'Uring0' },
  }),

  bdev_uring_delete: defineMethod({
    summary: 'Delete a disk that bdev_uring_create made',
    details: 'The file stays. Controllers that use the disk lose it first: their guests see I/O errors, not a hang.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EINVAL', when: 'the bdev is of another kind' }],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'Uring0' }, result: true },
  }),

  bdev_uring_rescan: rescanMethod('Uring0'),
};
