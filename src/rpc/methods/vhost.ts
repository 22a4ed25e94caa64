/** The vhost controller methods of the RPC table. */
import { z } from 'zod';
import { defineMethod } from '../define.ts';

const ctrlrName = z
  .string()
  .min(1)
  .describe('Name of the controller: its socket is this name in the socket directory.');

const vhostSession = z.object({
  vid: z.int().describe('Number of the connection.'),
  id: z.int().describe('Number of the session within the controller.'),
  name: z.string(),
  started: z.boolean().describe("Whether the guest's driver has started its queues."),
  max_queues: z.int().describe('Queues that the front-end has set up.'),
  inflight_task_cnt: z.int().describe('Requests of the guest that are being worked on.'),
});

const blockBackend = z.object({
  readonly: z.boolean(),
  bdev: z.string().nullable().describe('Null when the bdev was removed from under the controller.'),
  transport: z.string(),
});

const vhostController = z.object({
  ctrlr: z.string(),
  cpumask: z.string().describe('Cores that its queues may run on, in hexadecimal with `0x`.'),
  delay_base_us: z.int().describe('Microseconds by which calls to the guest are put off; 0: not at all.'),
  iops_threshold: z.int(),
  socket: z.string().describe('Path of the vhost-user socket.'),
  sessions: z.array(vhostSession),
  backend_specific: z.object({ block: blockBackend }),
});

const ENODEV = { code: 'ENODEV', when: 'no controller has this name' } as const;

export const vhostMethods = {
  vhost_create_blk_controller: defineMethod({
    summary: 'Serve a bdev to a virtual machine as a vhost-user-blk device',
    details:
      'Creates the socket at once; QEMU connects to it with `-chardev socket,path=…`. The queues of the controller ' +
      'run on the reactor that has the fewest controllers among those of `cpumask`.',
    params: z.strictObject({
      ctrlr: ctrlrName,
      dev_name: z.string().min(1).describe('Bdev to serve (its name, alias or UUID).'),
      cpumask: z
        .string()
        .min(1)
        .optional()
        .describe(
          'Cores to run on: a hexadecimal mask (`0x2`) or a list (`[0,2-3]`). Default: all cores of the daemon.',
        ),
      readonly: z.boolean().default(false).describe('Whether the guest may only read. Default: false.'),
      packed_ring: z.boolean().default(false).describe('Offer packed virtqueues. Default: false.'),
      packed_ring_recovery: z
        .boolean()
        .default(false)
        .describe(
          'Accepted for older clients; in-flight recovery of packed virtqueues needs no switch. Default: false.',
        ),
      transport: z
        .string()
        .default('vhost_user_blk')
        .describe('Only `vhost_user_blk` (case does not matter), which is the default.'),
      serial: z
        .string()
        .max(20)
        .regex(/^[\x20-\x7e]*$/, { error: 'serial must be printable ASCII' })
        .optional()
        .describe(
          'What the guest reads as the serial number, at most 20 characters. ' +
            'Default: the name of the bdev, cut to 20. ' +
            'An addition of Ringhost.',
        ),
    }),
    result: z.boolean(),
    errorStyle: 'invalid_params',
    errors: [
      { code: 'EEXIST', when: 'a controller with this name exists' },
      { code: 'ENODEV', when: 'no bdev has the name `dev_name`' },
      {
        code: 'EINVAL',
        when: '`cpumask` cannot be read or names a core that the daemon does not have, or `transport` is unknown',
      },
      { code: 'EBUSY', when: 'the bdev is claimed by something else' },
      { code: 'EADDRINUSE', when: 'another process listens on the socket path' },
    ],
    aliases: [{ name: 'construct_vhost_blk_controller' }],
    cli: {
      positionals: [
        { name: 'ctrlr', kind: 'string', help: 'name of the controller' },
        { name: 'dev_name', kind: 'string', help: 'bdev to serve' },
      ],
      flags: [
        { names: ['--cpumask'], dest: 'cpumask', kind: 'string', help: 'cores to run on, such as 0x2 or [0,2-3]' },
        { names: ['--transport'], dest: 'transport', kind: 'string', help: 'only vhost_user_blk' },
        { names: ['-r', '--readonly'], dest: 'readonly', kind: 'switch', help: 'the guest may only read' },
        {
          names: ['-p', '--packed-ring', '--packed_ring'],
          dest: 'packed_ring',
          kind: 'switch',
          help: 'offer packed virtqueues',
        },
        {
          names: ['--serial'],
          dest: 'serial',
          kind: 'string',
          help: 'serial number that the guest reads (Ringhost only)',
          isAddition: true,
        },
      ],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0', dev_name: 'Malloc0', cpumask: '0x1' }, result: true },
  }),

  vhost_delete_controller: defineMethod({
    summary: 'Delete a controller and its socket',
    details:
      'A controller that a guest is connected to is busy: detach the disk from the guest first. With `force` it goes ' +
      'all the same, and the requests of that guest fail from then on.',
    params: z.strictObject({
      ctrlr: ctrlrName,
      force: z
        .boolean()
        .default(false)
        .describe('Delete it although a guest is connected. Default: false. An addition of Ringhost.'),
    }),
    result: z.boolean(),
    errorStyle: 'invalid_params',
    errors: [ENODEV, { code: 'EBUSY', when: 'a guest is connected and `force` was not given' }],
    aliases: [{ name: 'remove_vhost_controller' }],
    cli: {
      positionals: [{ name: 'ctrlr', kind: 'string', help: 'name of the controller' }],
      flags: [
        {
          names: ['-f', '--force'],
          dest: 'force',
          kind: 'switch',
          help: 'even with a guest connected (Ringhost only)',
          isAddition: true,
        },
      ],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0' }, result: true },
  }),

  vhost_get_controllers: defineMethod({
    summary: 'List controllers',
    params: z.strictObject({
      name: z.string().min(1).optional().describe('Only this controller. Default: all.'),
    }),
    result: z.array(vhostController),
    errorStyle: 'internal',
    errors: [ENODEV],
    aliases: [{ name: 'get_vhost_controllers' }],
    cli: {
      flags: [{ names: ['-n', '--name'], dest: 'name', kind: 'string', help: 'only this controller' }],
      print: 'json',
    },
    example: {
      params: {},
      result: [
        {
          ctrlr: 'vhost.0',
          cpumask: '0x1',
          delay_base_us: 0,
          iops_threshold: 60000,
          socket: '/var/tmp/vhost.0',
          sessions: [],
          backend_specific: { block: { readonly: false, bdev: 'Malloc0', transport: 'vhost_user_blk' } },
        },
      ],
    },
  }),
};
