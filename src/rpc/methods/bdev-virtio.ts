/** The methods of disks over other vhost-user targets, under SPDK's names. */
import { z } from 'zod';
import { type CliFlag, defineMethod, type MethodAlias, noParams } from '../define.ts';
import { bdevName, byName, EEXIST, ENODEV, namedCli } from './bdev.ts';

const vqFlags = [
  { names: ['--vq-count'], dest: 'vq_count', kind: 'int', help: 'queues' },
  { names: ['--vq-size'], dest: 'vq_size', kind: 'int', help: 'entries of each queue' },
] as const satisfies readonly CliFlag[];

/** The names that SPDK had before one method did it all: the kind of device was in the name. */
function olderName(type: 'blk' | 'scsi'): MethodAlias<string[]> {
  return {
    name: `construct_virtio_user_${type}_bdev`,
    toParams: ({ path, ...rest }) => ({ ...rest, traddr: path, trtype: 'user', dev_type: type }),
    note: `\`path\` in place of \`traddr\`; \`trtype\` is \`user\`, \`dev_type\` is \`${type}\`.`,
    cli: {
      positionals: [
        { name: 'path', kind: 'string', help: 'path of the socket' },
        { name: 'name', kind: 'string', help: 'name of the controller' },
      ],
      flags: vqFlags,
      print: 'words',
    },
  };
}

export const virtioMethods = {
  bdev_virtio_attach_controller: defineMethod({
    summary: 'Create disks over another vhost-user target',
    details:
      "Ringhost is the front-end of SPDK's vhost, qemu-storage-daemon or another Ringhost. A `blk` target is one " +
      'disk, named as the controller. Of a `scsi` target every unit that is a disk becomes one: `NAMEt0` is LUN 0 of ' +
      'target 0, `NAMEt0l1` its LUN 1 (SPDK looks at LUN 0 only); units that come, go or grow are followed. ' +
      'docs/virtio-bdev.md says what happens when the target goes and comes back.',
    params: z.strictObject({
      name: bdevName.describe('Name of the controller, and of the disk of a `blk` one.'),
      trtype: z.literal('user').describe('`user`: a vhost-user socket. SPDK has `pci` and `vfio-user` too.'),
      traddr: z.string().min(1).max(107).describe('Path of the socket.'),
      dev_type: z.enum(['blk', 'scsi']).describe('What the target is.'),
      vq_count: z.int().min(1).max(64).optional().describe('Request queues; each serves one reactor. Default: 1.'),
      vq_size: z
        .literal([16, 32, 64, 128, 256, 512, 1024])
        .optional()
        .describe('Entries of each queue; a request takes three. Default: 256.'),
    }),
    result: z.array(z.string()).describe('Names of the new bdevs.'),
    errors: [
      EEXIST,
      { code: 'ENOENT', when: 'there is no such socket' },
      { code: 'ECONNREFUSED', when: 'nobody listens on it' },
      { code: 'ENOTSUP', when: 'the target lacks what is needed' },
      { code: 'EINVAL', when: 'the target has fewer queues, or a disk of an odd size' },
      { code: 'ETIMEDOUT', when: 'the target does not answer within 10 s' },
    ],
    aliases: [{ name: 'construct_virtio_dev' }, olderName('blk'), olderName('scsi')],
    cli: {
      positionals: [{ name: 'name', kind: 'string', help: 'name of the controller' }],
      flags: [
        { names: ['-t', '--trtype'], dest: 'trtype', kind: 'string', help: 'user' },
        { names: ['-a', '--traddr'], dest: 'traddr', kind: 'string', help: 'path of the socket' },
        {
          names: ['-d', '--dev-type'],
          dest: 'dev_type',
          kind: 'string',
          help: 'blk or scsi',
          choices: ['blk', 'scsi'],
        },
        ...vqFlags,
      ],
      print: 'json',
    },
    example: {
      params: { name: 'VirtioBlk0', trtype: 'user', traddr: '/var/tmp/other.sock', dev_type: 'blk' },
      result: ['VirtioBlk0'],
    },
  }),

  bdev_virtio_detach_controller: defineMethod({
    summary: 'Detach a virtio controller, and delete its disks',
    details: 'Users of the disks lose them first: their guests see I/O errors, not a hang. The data stays.',
    params: byName('Controller to detach.'),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EINVAL', when: 'the bdev of this name is of another kind' }],
    aliases: [{ name: 'remove_virtio_bdev' }, { name: 'remove_virtio_scsi_bdev' }],
    cli: namedCli('controller to detach'),
    example: { params: { name: 'VirtioBlk0' }, result: true },
  }),

  bdev_virtio_scsi_get_devices: defineMethod({
    summary: 'List the attached virtio-scsi controllers',
    params: noParams,
    result: z.array(
      z.object({
        name: z.string(),
        virtio: z.object({ vq_count: z.int(), vq_size: z.int(), type: z.literal('user'), socket: z.string() }),
      }),
    ),
    aliases: [{ name: 'get_virtio_scsi_devs' }],
    cli: { print: 'json' },
    example: {
      params: {},
      result: [{ name: 'Scsi0', virtio: { vq_count: 1, vq_size: 256, type: 'user', socket: '/var/tmp/other.sock' } }],
    },
  }),
};
