/** The vhost controller methods of the RPC table. */
import { z } from 'zod';
import { type CliFlag, defineMethod } from '../define.ts';

const ctrlrName = z
  .string()
  .min(1)
  .describe('Name of the controller: its socket is this name in the socket directory.');

const MODES = ['poll', 'adaptive', 'interrupt'] as const;
const PLACEMENTS = ['spread', 'pinned'] as const;

const mode = z
  .enum(MODES)
  .describe(
    'When a queue sleeps: never (`poll`), after half a millisecond of silence (`adaptive`), at once (`interrupt`).',
  );

const queuePlacement = z
  .enum(PLACEMENTS)
  .describe('Queues evenly over the reactors of `cpumask` (`spread`), or all on one of them (`pinned`).');

const vhostQueue = z.object({
  index: z.int(),
  lcore: z.int().describe('Core of the reactor that it runs on.'),
  requests: z.int().describe('Requests taken.'),
  in_flight: z.int().describe('Of these, not yet answered.'),
  kicks: z.int().describe('Times that the driver woke it.'),
  calls: z.int().describe('Interrupts sent to the driver.'),
  calls_saved: z.int().describe('Answers that needed none: told together with others, or not asked for.'),
  faults: z.int().describe('Times that the driver broke the ring.'),
});

const vhostSession = z.object({
  vid: z.int().describe('Number of the connection.'),
  id: z.int().describe('Number of the session within the controller.'),
  name: z.string(),
  started: z.boolean().describe("Whether the guest's driver has started its queues."),
  max_queues: z.int().describe('Queues that the front-end has set up.'),
  inflight_task_cnt: z.int().describe('Requests of the guest that are being worked on.'),
  queues: z.array(vhostQueue).describe('Running queues. An addition of Ringhost.'),
});

const blockBackend = z.object({
  readonly: z.boolean(),
  bdev: z.string().nullable().describe('Null when the bdev was removed from under the controller.'),
  transport: z.string(),
});

const scsiTarget = z.object({
  scsi_dev_num: z.int().describe('Number of the target, 0 to 255.'),
  id: z.int().describe('The same.'),
  target_name: z.string(),
  luns: z.array(z.object({ id: z.int().describe('LUN.'), bdev_name: z.string() })),
});

const vhostController = z.object({
  ctrlr: z.string(),
  cpumask: z.string().describe('Cores that its queues may run on, in hexadecimal with `0x`.'),
  delay_base_us: z.int().describe('As set by vhost_controller_set_coalescing; 0: calls are never put off.'),
  iops_threshold: z.int().describe('The same.'),
  mode: mode.describe('When its queues sleep. An addition of Ringhost.'),
  queue_placement: queuePlacement.describe('How its queues are placed. An addition of Ringhost.'),
  qos_weight: z.int().describe('As set by vhost_controller_set_qos_weight. An addition of Ringhost.'),
  socket: z.string().describe('Path of the vhost-user socket.'),
  sessions: z.array(vhostSession),
  backend_specific: z.union([z.object({ block: blockBackend }), z.object({ scsi: z.array(scsiTarget) })]),
});

const cpumask = z
  .string()
  .min(1)
  .optional()
  .describe('Cores to run on: a hexadecimal mask (`0x2`) or a list (`[0,2-3]`). Default: all cores of the daemon.');

const modeParam = mode.optional().describe(`${mode.description} Default: that of the daemon. An addition of Ringhost.`);

const modeFlag: CliFlag = {
  names: ['--mode'],
  dest: 'mode',
  kind: 'string',
  choices: MODES,
  help: 'when its queues sleep (Ringhost only)',
  isAddition: true,
};
const placementFlag: CliFlag = {
  names: ['--queue-placement'],
  dest: 'queue_placement',
  kind: 'string',
  choices: PLACEMENTS,
  help: 'how its queues are placed (Ringhost only)',
  isAddition: true,
};

const targetNumber = (firstNumber: number) => z.int().min(firstNumber).max(255);

/** What INQUIRY carries: fields of a fixed width, padded with spaces. */
const inquiryText = (charactersMax: number, what: string, fallback: string) =>
  z
    .string()
    .min(1)
    .max(charactersMax)
    .regex(/^[\x20-\x7e]*$/, { error: 'only printable ASCII can be shown' })
    .optional()
    .describe(`${what}, at most ${charactersMax} characters. Default: ${fallback}. An addition of Ringhost.`);

const ENODEV = { code: 'ENODEV', when: 'no controller has this name' } as const;

export const vhostMethods = {
  vhost_create_blk_controller: defineMethod({
    summary: 'Serve a bdev to a virtual machine as a vhost-user-blk device',
    details:
      'Creates the socket at once; QEMU connects to it with `-chardev socket,path=…`. The queues of the controller ' +
      'are spread evenly over the reactors of `cpumask`; between equals the one that has the fewest queues is taken, ' +
      "and those on the NUMA node of the guest's memory come before others.",
    params: z.strictObject({
      ctrlr: ctrlrName,
      dev_name: z.string().min(1).describe('Bdev to serve (its name, alias or UUID).'),
      cpumask,
      readonly: z.boolean().default(false).describe('Whether the guest may only read. Default: false.'),
      packed_ring: z
        .boolean()
        .default(false)
        .describe('Accepted for older clients; packed virtqueues are offered to every guest. Default: false.'),
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
      mode: modeParam,
      queue_placement: queuePlacement
        .optional()
        .describe(`${queuePlacement.description} Default: \`spread\`. An addition of Ringhost.`),
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
          help: 'for older clients: packed virtqueues are always offered',
        },
        {
          names: ['--serial'],
          dest: 'serial',
          kind: 'string',
          help: 'serial number that the guest reads (Ringhost only)',
          isAddition: true,
        },
        modeFlag,
        placementFlag,
      ],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0', dev_name: 'Malloc0', cpumask: '0x1' }, result: true },
  }),

  vhost_create_scsi_controller: defineMethod({
    summary: 'Create a vhost-user-scsi controller, without targets yet',
    details:
      'Creates the socket at once, or with `delay` at `vhost_start_scsi_controller`: targets added before that are ' +
      'there when the guest looks first. The queues of the controller and its targets run on one reactor, the one of ' +
      '`cpumask` that has the fewest queues.',
    params: z.strictObject({
      ctrlr: ctrlrName,
      cpumask,
      delay: z.boolean().default(false).describe('Make no socket until the controller is started. Default: false.'),
      mode: modeParam,
      queue_placement: queuePlacement
        .optional()
        .describe('Only `pinned`, the default: the queues share the state of the targets. An addition of Ringhost.'),
    }),
    result: z.boolean(),
    errorStyle: 'invalid_params',
    errors: [
      { code: 'EEXIST', when: 'a controller with this name exists' },
      { code: 'EINVAL', when: '`cpumask` cannot be read or names a core that the daemon does not have' },
      { code: 'ENOTSUP', when: '`queue_placement` is `spread`' },
      { code: 'EADDRINUSE', when: 'another process listens on the socket path' },
    ],
    aliases: [{ name: 'construct_vhost_scsi_controller' }],
    cli: {
      positionals: [{ name: 'ctrlr', kind: 'string', help: 'name of the controller' }],
      flags: [
        { names: ['--cpumask'], dest: 'cpumask', kind: 'string', help: 'cores to run on, such as 0x2 or [0,2-3]' },
        { names: ['--delay'], dest: 'delay', kind: 'switch', help: 'make no socket until it is started' },
        modeFlag,
      ],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0', cpumask: '0x1' }, result: true },
  }),

  vhost_start_scsi_controller: defineMethod({
    summary: 'Make the socket of a controller that was created with delay',
    details: 'Does nothing when the controller was started already.',
    params: z.strictObject({ ctrlr: ctrlrName }),
    result: z.boolean(),
    errorStyle: 'invalid_params',
    errors: [
      ENODEV,
      { code: 'EINVAL', when: 'the controller is not a scsi controller' },
      { code: 'EADDRINUSE', when: 'another process listens on the socket path' },
    ],
    cli: {
      positionals: [{ name: 'ctrlr', kind: 'string', help: 'name of the controller' }],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0' }, result: true },
  }),

  vhost_scsi_controller_add_target: defineMethod({
    summary: 'Show a bdev as a LUN of a SCSI target',
    details:
      'The target is new, or has other LUNs. A running guest is told, and finds the disk by itself. ' +
      "The result is the target's number.",
    params: z.strictObject({
      ctrlr: ctrlrName,
      scsi_target_num: targetNumber(-1).describe('Number of the target, 0 to 255; -1 for the first free one.'),
      bdev_name: z.string().min(1).describe('Bdev to show (its name, alias or UUID).'),
      lun: z
        .int()
        .min(0)
        .max(16_383)
        .default(0)
        .describe('LUN in the target, 0 to 16383. Default: 0. An addition of Ringhost.'),
      vendor: inquiryText(8, 'Vendor that the guest sees', '`INTEL`, as with SPDK'),
      model: inquiryText(16, 'Model that the guest sees', 'the product name of the bdev, such as `Malloc disk`'),
      serial: inquiryText(64, 'Serial number that the guest sees', 'the name of the bdev'),
      readonly: z
        .boolean()
        .default(false)
        .describe('Whether the guest may only read. Default: false. An addition of Ringhost.'),
      removable: z
        .boolean()
        .default(false)
        .describe(
          'Whether the guest sees a removable medium, which it may eject and load again. Default: false. ' +
            'An addition of Ringhost.',
        ),
    }),
    result: z.int(),
    errorStyle: 'invalid_params',
    errors: [
      { code: 'ENODEV', when: 'no controller or bdev has this name' },
      { code: 'EINVAL', when: 'the controller is not a scsi controller, or a number is out of range' },
      { code: 'EEXIST', when: 'the target has this LUN already' },
      { code: 'ENOSPC', when: 'every target is in use' },
    ],
    aliases: [
      {
        name: 'add_vhost_scsi_lun',
        note: 'Names of the parameters as in 2018: `scsi_dev_num` and `lun_name` are taken too.',
        toParams: (params) => renamed(params, { scsi_dev_num: 'scsi_target_num', lun_name: 'bdev_name' }),
      },
    ],
    cli: {
      positionals: [
        { name: 'ctrlr', kind: 'string', help: 'name of the controller' },
        { name: 'scsi_target_num', kind: 'int', help: 'number of the target, or -1 for the first free one' },
        { name: 'bdev_name', kind: 'string', help: 'bdev to show' },
      ],
      flags: [
        { names: ['--lun'], dest: 'lun', kind: 'int', help: 'LUN in the target (Ringhost only)', isAddition: true },
        { names: ['--vendor'], dest: 'vendor', kind: 'string', help: 'vendor (Ringhost only)', isAddition: true },
        { names: ['--model'], dest: 'model', kind: 'string', help: 'model (Ringhost only)', isAddition: true },
        {
          names: ['--serial'],
          dest: 'serial',
          kind: 'string',
          help: 'serial number (Ringhost only)',
          isAddition: true,
        },
        {
          names: ['-r', '--readonly'],
          dest: 'readonly',
          kind: 'switch',
          help: 'the guest may only read (Ringhost only)',
          isAddition: true,
        },
        {
          names: ['--removable'],
          dest: 'removable',
          kind: 'switch',
          help: 'the guest may eject the medium (Ringhost only)',
          isAddition: true,
        },
      ],
      print: 'json',
    },
    example: { params: { ctrlr: 'vhost.0', scsi_target_num: 0, bdev_name: 'Malloc0' }, result: 0 },
  }),

  vhost_scsi_controller_remove_target: defineMethod({
    summary: 'Take a SCSI target away from a controller, with its LUNs',
    details:
      'A running guest is told, and new commands are refused. Commands in flight are finished first, or aborted when ' +
      'that takes more than 5 s; the call answers when it is over. Deleting a bdev does the same to every LUN that ' +
      'shows it.',
    params: z.strictObject({
      ctrlr: ctrlrName,
      scsi_target_num: targetNumber(0).describe('Number of the target.'),
      lun: z
        .int()
        .min(0)
        .max(16_383)
        .optional()
        .describe('Only this LUN. Default: all of the target. An addition of Ringhost.'),
    }),
    result: z.boolean(),
    errorStyle: 'invalid_params',
    errors: [
      { code: 'ENODEV', when: 'there is no such controller, target or LUN' },
      { code: 'EINVAL', when: 'the controller is not a scsi controller' },
      { code: 'EBUSY', when: 'the target is being removed already' },
      { code: 'ENOTSUP', when: "the guest's driver runs and does not know removal" },
      { code: 'ETIMEDOUT', when: 'commands in flight did not end in 10 s; the target goes as soon as they are over' },
    ],
    aliases: [
      {
        name: 'remove_vhost_scsi_dev',
        note: 'The number may be called `scsi_dev_num`, as in 2018.',
        toParams: (params) => renamed(params, { scsi_dev_num: 'scsi_target_num' }),
      },
      {
        name: 'remove_vhost_scsi_target',
        toParams: (params) => renamed(params, { scsi_dev_num: 'scsi_target_num' }),
      },
    ],
    cli: {
      positionals: [
        { name: 'ctrlr', kind: 'string', help: 'name of the controller' },
        { name: 'scsi_target_num', kind: 'int', help: 'number of the target' },
      ],
      flags: [{ names: ['--lun'], dest: 'lun', kind: 'int', help: 'only this LUN (Ringhost only)', isAddition: true }],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0', scsi_target_num: 0 }, result: true },
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
    errors: [
      ENODEV,
      { code: 'EBUSY', when: 'a guest is connected and `force` was not given' },
      { code: 'ETIMEDOUT', when: 'requests in flight did not end in 10 s; the controller is gone all the same' },
    ],
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

  vhost_controller_set_coalescing: defineMethod({
    summary: 'Put calls to a busy guest off',
    details:
      'A queue that answers more than `iops_threshold` requests a second interrupts its guest at most once in ' +
      '`delay_base_us · (rate - iops_threshold) / iops_threshold` microseconds. That trades latency for fewer ' +
      'interrupts, which pays only for guests that sleep between many small requests. It is off by default: a round ' +
      'of the reactor sends at most one call anyway, and only when the driver asked for it.',
    params: z.strictObject({
      ctrlr: ctrlrName,
      delay_base_us: z.int().min(0).max(1_000_000).describe('Microseconds, at most a second; 0 switches it off.'),
      iops_threshold: z.int().min(100).describe('Requests a second of one queue, at least 100.'),
    }),
    result: z.boolean(),
    errorStyle: 'invalid_params',
    errors: [ENODEV],
    aliases: [{ name: 'set_vhost_controller_coalescing' }],
    cli: {
      positionals: [
        { name: 'ctrlr', kind: 'string', help: 'name of the controller' },
        { name: 'delay_base_us', kind: 'int', help: 'base delay in microseconds' },
        { name: 'iops_threshold', kind: 'int', help: 'requests a second up to which nothing is put off' },
      ],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0', delay_base_us: 10, iops_threshold: 60_000 }, result: true },
  }),

  vhost_controller_set_mode: defineMethod({
    summary: 'Choose when the queues of a controller sleep',
    details: 'Takes effect at once, for running queues too. An addition of Ringhost.',
    params: z.strictObject({ ctrlr: ctrlrName, mode }),
    result: z.boolean(),
    errorStyle: 'invalid_params',
    errors: [ENODEV],
    cli: {
      positionals: [
        { name: 'ctrlr', kind: 'string', help: 'name of the controller' },
        { name: 'mode', kind: 'string', choices: MODES, help: 'when its queues sleep' },
      ],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0', mode: 'poll' }, result: true },
  }),

  vhost_controller_set_qos_weight: defineMethod({
    summary: 'Choose what a controller gets of limits that it shares with others',
    details:
      'Where several controllers use bdevs that stand on one with limits (`bdev_set_qos_limit`), or that one itself, ' +
      'and want more than there is, each gets by its weight; who wants less leaves the rest to the others. Takes ' +
      'effect at once. An addition of Ringhost.',
    params: z.strictObject({
      ctrlr: ctrlrName,
      weight: z.int().min(1).max(10_000).describe('1 to 10000. A controller without one has 100.'),
    }),
    result: z.boolean(),
    errorStyle: 'invalid_params',
    errors: [ENODEV],
    cli: {
      positionals: [
        { name: 'ctrlr', kind: 'string', help: 'name of the controller' },
        { name: 'weight', kind: 'int', help: '1 to 10000; 100 is what others have' },
      ],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0', weight: 300 }, result: true },
  }),

  vhost_controller_set_placement: defineMethod({
    summary: 'Move the queues of a blk controller to other reactors',
    details:
      'The guest goes on meanwhile: a queue that moves finishes what it has in flight and continues on its new ' +
      'reactor. Without parameters the queues are placed anew, as the load is now. The answer comes when they run. ' +
      'An addition of Ringhost.',
    params: z.strictObject({
      ctrlr: ctrlrName,
      queue_placement: queuePlacement.optional().describe(`${queuePlacement.description} Default: as it is.`),
      cpumask: cpumask.describe('Cores to run on, as for vhost_create_blk_controller. Default: as it is.'),
    }),
    result: z.boolean(),
    errorStyle: 'invalid_params',
    errors: [
      ENODEV,
      { code: 'EINVAL', when: '`cpumask` cannot be read or names a core that the daemon does not have' },
      { code: 'ENOTSUP', when: 'the controller is a scsi controller, whose targets live on one reactor' },
    ],
    cli: {
      positionals: [{ name: 'ctrlr', kind: 'string', help: 'name of the controller' }],
      flags: [
        { ...placementFlag, help: 'how its queues are placed' },
        { names: ['--cpumask'], dest: 'cpumask', kind: 'string', help: 'cores to run on, such as 0x2 or [0,2-3]' },
      ],
      print: 'nothing',
    },
    example: { params: { ctrlr: 'vhost.0', queue_placement: 'spread', cpumask: '0x3' }, result: true },
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
          mode: 'adaptive',
          queue_placement: 'spread',
          qos_weight: 100,
          socket: '/var/tmp/vhost.0',
          sessions: [],
          backend_specific: { block: { readonly: false, bdev: 'Malloc0', transport: 'vhost_user_blk' } },
        },
      ],
    },
  }),
};

function renamed(
  params: Readonly<Record<string, unknown>>,
  names: Readonly<Record<string, string>>,
): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(params).map(([name, value]) => [names[name] ?? name, value]));
}
