/** The methods of disks over other vhost-user targets, under SPDK's names. */
import { z } from 'zod';
import { defineMethod, noParams } from '../define.ts';
import { bdevName, byName, EEXIST, ENODEV, namedCli } from './bdev.ts';

export const virtioMethods = {
  bdev_virtio_attach_controller: defineMethod({
    summary: 'Create a disk over another vhost-user target',
    details:
      "Ringhost is the front-end of SPDK's vhost, qemu-storage-daemon or another Ringhost. docs/virtio-bdev.md says " +
      'what happens when the target goes and comes back.',
    params: z.strictObject({
      name: bdevName.describe('Name of the bdev.'),
      trtype: z.literal('user').describe('`user`: a vhost-user socket. SPDK has `pci` and `vfio-user` too.'),
      traddr: z.string().min(1).max(107).describe('Path of the socket.'),
      dev_type: z.enum(['blk', 'scsi']).describe('What the target is. `scsi` is not there yet.'),
      vq_count: z.int().min(1).max(64).optional().describe('Queues; each serves one reactor. Default: 1.'),
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
      { code: 'ENOTSUP', when: 'the target lacks what is needed, or is `scsi`' },
      { code: 'EINVAL', when: 'the target has fewer queues, or blocks of an odd size' },
    ],
    cli: {
      positionals: [{ name: 'name', kind: 'string', help: 'name of the bdev' }],
      flags: [
        { names: ['-t', '--trtype'], dest: 'trtype', kind: 'string', help: 'user' },
        { names: ['-a', '--traddr'], dest: 'traddr', kind: 'string', help: 'path of the socket' },
        { names: ['-d', '--dev-type'], dest: 'dev_type', kind: 'string', help: 'blk', choices: ['blk', 'scsi'] },
        { names: ['--vq-count'], dest: 'vq_count', kind: 'int', help: 'queues' },
        { names: ['--vq-size'], dest: 'vq_size', kind: 'int', help: 'entries of each queue' },
      ],
      print: 'json',
    },
    example: {
      params: { name: 'VirtioBlk0', trtype: 'user', traddr: '/var/tmp/other.sock', dev_type: 'blk' },
      result: ['VirtioBlk0'],
    },
  }),

  bdev_virtio_detach_controller: defineMethod({
    summary: 'Delete a disk that bdev_virtio_attach_controller made',
    details: 'Controllers that use the disk lose it first: their guests see I/O errors, not a hang.',
    params: byName('Disk to delete.'),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EINVAL', when: 'the bdev is of another kind' }],
    aliases: [{ name: 'remove_virtio_bdev' }],
    cli: namedCli('disk to delete'),
    example: { params: { name: 'VirtioBlk0' }, result: true },
  }),

  bdev_virtio_scsi_get_devices: defineMethod({
    summary: 'List the attached virtio-scsi targets',
    details: 'There are none yet.',
    params: noParams,
    result: z.array(z.looseObject({ name: z.string() })),
    aliases: [{ name: 'get_virtio_scsi_devs' }],
    cli: { print: 'json' },
    example: { params: {}, result: [] },
  }),
};
