/** The methods of NVMe controllers: drives of this machine (PCIe) and of others (TCP). */
import { z } from 'zod';
import { type CliFlag, type CliSpec, defineMethod, uint32 } from '../define.ts';

const controllerName = z.string().min(1);

const transportFields = {
  trtype: z.string().describe('Transport: `PCIe` or `TCP`, in any case.'),
  traddr: z.string().min(1).describe('PCI address such as `0000:01:00.0`, or IP address.'),
};

const transportId = z.object({
  trtype: z.string(),
  traddr: z.string(),
  adrfam: z.string().optional(),
  trsvcid: z.string().optional(),
  subnqn: z.string().optional(),
});

const address = [
  { names: ['-t', '--trtype'], dest: 'trtype', kind: 'string', help: 'transport: PCIe or TCP' },
  { names: ['-a', '--traddr'], dest: 'traddr', kind: 'string', help: 'PCI or IP address' },
  { names: ['-f', '--adrfam'], dest: 'adrfam', kind: 'string', help: 'IPv4 or IPv6' },
  { names: ['-s', '--trsvcid'], dest: 'trsvcid', kind: 'string', help: 'TCP port' },
  { names: ['-n', '--subnqn'], dest: 'subnqn', kind: 'string', help: 'NQN of the subsystem' },
] as const satisfies readonly CliFlag[];

const hostFlags = [
  { names: ['-q', '--hostnqn'], dest: 'hostnqn', kind: 'string', help: 'NQN of this host' },
  { names: ['-e', '--hdgst'], dest: 'hdgst', kind: 'switch', help: 'TCP header digests', isAddition: true },
  { names: ['-d', '--ddgst'], dest: 'ddgst', kind: 'switch', help: 'TCP data digests', isAddition: true },
  { names: ['-l', '--ctrlr-loss-timeout-sec'], dest: 'ctrlr_loss_timeout_sec', kind: 'int', help: '-1: for ever' },
  { names: ['-o', '--reconnect-delay-sec'], dest: 'reconnect_delay_sec', kind: 'int', help: 'between attempts' },
  {
    names: ['-u', '--fast-io-fail-timeout-sec'],
    dest: 'fast_io_fail_timeout_sec',
    kind: 'int',
    help: 'how long requests are held',
  },
] as const satisfies readonly CliFlag[];

const fabricFlags = [
  ...hostFlags,
  {
    names: ['-x', '--multipath'],
    dest: 'multipath',
    kind: 'string',
    choices: ['disable', 'failover', 'multipath'],
    help: 'what to do when the name exists',
  },
  { names: ['-k', '--psk'], dest: 'psk', kind: 'string', help: 'not served' },
] as const satisfies readonly CliFlag[];

/** Of targets on a network. */
const hostFields = {
  hostnqn: z.string().optional().describe('NQN of this host. Default: one made of the machine ID, always the same.'),
  hdgst: z.boolean().optional().describe('Header digests. Default: false.'),
  ddgst: z.boolean().optional().describe('Data digests: writes are copied once more. Default: false.'),
  ctrlr_loss_timeout_sec: z
    .int()
    .min(-1)
    .optional()
    .describe(
      'How long a lost connection is tried again before the controller is deleted; -1: for ever; 0: not at all. ' +
        'Default: -1 (SPDK: 0).',
    ),
  reconnect_delay_sec: uint32
    .optional()
    .describe('Longest pause between attempts; the first ones follow each other faster. Default: 2.'),
  fast_io_fail_timeout_sec: uint32
    .optional()
    .describe('How long requests wait for a lost connection before they fail. Default: 0, until it is back.'),
  keep_alive_timeout_ms: uint32
    .optional()
    .describe(
      'Without an answer for so long the connection is lost; 0: never. Default: 10000. An addition of Ringhost.',
    ),
};
const fabricFields = {
  ...hostFields,
  multipath: z
    .enum(['disable', 'failover', 'multipath'])
    .optional()
    .describe(
      'When a controller of this name exists: `disable` is an error, the others add a path to the same subsystem. ' +
        'One path is used at a time, the best by its ANA state. Default: `multipath`.',
    ),
  psk: z.string().optional().describe('TLS is not served: an error, see docs/nvme.md.'),
};

const attachCli: CliSpec = {
  flags: [
    { names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'name of the controller; disks are NAMEn1, NAMEn2' },
    ...address,
    { names: ['--num-io-queues'], dest: 'num_io_queues', kind: 'int', help: 'I/O queue pairs to ask for' },
    ...fabricFlags,
  ],
  print: 'words',
};

const startDiscoveryCli: CliSpec = {
  flags: [
    { names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'beginning of the names of controllers' },
    ...address.filter(({ dest }) => dest !== 'subnqn'),
    ...hostFlags,
    { names: ['-w', '--wait-for-attach'], dest: 'wait_for_attach', kind: 'switch', help: 'wait for what it finds' },
    {
      names: ['-T', '--attach-timeout-ms'],
      dest: 'attach_timeout_ms',
      kind: 'int',
      help: 'how long to wait; implies --wait-for-attach',
    },
    {
      names: ['--controller-name'],
      dest: 'controller_names',
      kind: 'pairs',
      help: 'NAME=NQN: the name for a subsystem; may be repeated',
    },
  ],
  print: 'nothing',
};

const byController = (text: string) => z.strictObject({ name: controllerName.describe(text) });
const controllerCli = (help: string, print: CliSpec['print']): CliSpec => ({
  positionals: [{ name: 'name', kind: 'string', help }],
  print,
});

const ENODEV = { code: 'ENODEV', when: 'no controller has this name' } as const;

export const nvmeMethods = {
  bdev_nvme_attach_controller: defineMethod({
    summary: 'Attach an NVMe controller, and make a disk of each of its namespaces',
    details:
      'Controller `Nvme0` has the disks `Nvme0n1`, `Nvme0n2`, … Namespaces that are added or removed later come ' +
      'and go by themselves.',
    params: z.strictObject({
      name: controllerName.describe('Name of the controller, and the beginning of the names of its disks.'),
      ...transportFields,
      adrfam: z.string().optional().describe('`IPv4` or `IPv6`. Default: what `traddr` is.'),
      trsvcid: z.string().optional().describe('TCP port. Default: 4420.'),
      subnqn: z.string().optional().describe('NQN of the subsystem. TCP needs it.'),
      num_io_queues: z
        .int()
        .min(1)
        .max(256)
        .optional()
        .describe('I/O queue pairs: one a disk and reactor is used. Default: four a reactor, at least 16.'),
      ...fabricFields,
    }),
    result: z.array(z.string()).describe('Names of the new disks.'),
    errors: [
      { code: 'EEXIST', when: 'the name or the controller is attached already' },
      { code: 'EINVAL', when: 'the transport or an address is not known' },
      { code: 'ENODEV', when: 'there is no such drive' },
      { code: 'EACCES', when: 'the drive is not bound to vfio-pci, or the daemon may not open it' },
      { code: 'EIO', when: 'the controller answers with an error' },
      { code: 'ETIMEDOUT', when: 'the controller does not answer' },
      { code: 'ECONNREFUSED', when: 'no target listens there' },
      { code: 'ENOTSUP', when: 'TLS is asked for' },
    ],
    aliases: [{ name: 'construct_nvme_bdev' }],
    cli: attachCli,
    example: { params: { name: 'Nvme0', trtype: 'PCIe', traddr: '0000:01:00.0' }, result: ['Nvme0n1'] },
  }),

  bdev_nvme_detach_controller: defineMethod({
    summary: 'Detach an NVMe controller, and delete its disks',
    details: 'Users of the disks lose them first: their guests see I/O errors, not a hang. The data stays.',
    params: z.strictObject({
      name: controllerName.describe('Controller to detach.'),
      trtype: z.string().optional().describe('Accepted: the name says which controller it is.'),
      traddr: z.string().optional().describe('Accepted: the name says which controller it is.'),
      adrfam: z.string().optional().describe('Accepted: the name says which controller it is.'),
      trsvcid: z.string().optional().describe('Accepted: the name says which controller it is.'),
      subnqn: z.string().optional().describe('Accepted: the name says which controller it is.'),
    }),
    result: z.boolean(),
    errors: [ENODEV, { code: 'ETIMEDOUT', when: 'requests in flight did not end in 10 s; it goes when they are over' }],
    aliases: [{ name: 'delete_nvme_controller' }],
    cli: {
      positionals: [{ name: 'name', kind: 'string', help: 'controller to detach' }],
      flags: address,
      print: 'nothing',
    },
    example: { params: { name: 'Nvme0' }, result: true },
  }),

  bdev_nvme_get_controllers: defineMethod({
    summary: 'List NVMe controllers',
    params: z.strictObject({ name: controllerName.optional().describe('Only this controller. Default: all.') }),
    result: z.array(
      z.object({
        name: z.string(),
        ctrlrs: z.array(
          z.object({
            state: z.enum(['enabled', 'resetting', 'failed', 'deleting']),
            cntlid: z.int(),
            trid: transportId,
            alternate_trids: z.array(transportId).optional().describe('Further paths.'),
          }),
        ),
      }),
    ),
    errors: [ENODEV],
    aliases: [{ name: 'get_nvme_controllers' }],
    cli: {
      flags: [{ names: ['-n', '--name'], dest: 'name', kind: 'string', help: 'only this controller' }],
      print: 'json',
    },
    example: {
      params: {},
      result: [
        { name: 'Nvme0', ctrlrs: [{ state: 'enabled', cntlid: 0, trid: { trtype: 'PCIe', traddr: '0000:01:00.0' } }] },
      ],
    },
  }),

  bdev_nvme_get_controller_health_info: defineMethod({
    summary: 'Show the health of an NVMe drive (SMART)',
    params: byController('Controller to ask.'),
    result: z.object({
      model_number: z.string(),
      serial_number: z.string(),
      firmware_revision: z.string(),
      traddr: z.string(),
      critical_warning: uint32.describe('Bits: 0 spare, 1 temperature, 2 reliability, 3 read-only, 4 memory backup.'),
      temperature_celsius: z.int(),
      available_spare_percentage: z.int(),
      available_spare_threshold_percentage: z.int(),
      percentage_used: z.int().describe('Of its life, as the vendor estimates it. May exceed 100.'),
      data_units_read: z.number().describe('Thousands of 512-byte units.'),
      data_units_written: z.number().describe('Thousands of 512-byte units.'),
      host_read_commands: z.number(),
      host_write_commands: z.number(),
      controller_busy_time: z.number().describe('Minutes.'),
      power_cycles: z.number(),
      power_on_hours: z.number(),
      unsafe_shutdowns: z.number(),
      media_errors: z.number(),
      num_err_log_entries: z.number(),
      warning_temperature_time_minutes: z.int(),
      critical_composite_temperature_time_minutes: z.int(),
    }),
    errors: [ENODEV, { code: 'EIO', when: 'the controller answers with an error' }],
    aliases: [{ name: 'get_nvme_controller_health_info' }],
    cli: {
      flags: [{ names: ['-c', '--controller-name'], dest: 'name', kind: 'string', help: 'controller to ask' }],
      print: 'json',
    },
    example: {
      params: { name: 'Nvme0' },
      result: {
        model_number: 'INTEL SSDPE2KX010T8',
        serial_number: 'PHLJ912301AB1P0FGN',
        firmware_revision: 'VDV10131',
        traddr: '0000:01:00.0',
        critical_warning: 0,
        temperature_celsius: 34,
        available_spare_percentage: 100,
        available_spare_threshold_percentage: 10,
        percentage_used: 0,
        data_units_read: 20_488,
        data_units_written: 1204,
        host_read_commands: 1_520_332,
        host_write_commands: 48_211,
        controller_busy_time: 2,
        power_cycles: 12,
        power_on_hours: 4021,
        unsafe_shutdowns: 3,
        media_errors: 0,
        num_err_log_entries: 0,
        warning_temperature_time_minutes: 0,
        critical_composite_temperature_time_minutes: 0,
      },
    },
  }),

  bdev_nvme_reset_controller: defineMethod({
    summary: 'Reset an NVMe controller',
    details: 'Requests in flight are driven again afterwards: guests only wait.',
    params: z.strictObject({
      name: controllerName.describe('Controller to reset.'),
      cntlid: uint32.optional().describe('Accepted: the name says which controller it is.'),
    }),
    result: z.boolean(),
    errors: [ENODEV, { code: 'EIO', when: 'the controller does not come back' }],
    cli: {
      ...controllerCli('controller to reset', 'nothing'),
      flags: [{ names: ['-c', '--cntlid'], dest: 'cntlid', kind: 'int', help: 'ignored' }],
    },
    example: { params: { name: 'Nvme0' }, result: true },
  }),

  bdev_nvme_start_discovery: defineMethod({
    summary: 'Attach what a discovery service names, from now on',
    details:
      'Subsystems that the discovery log names are attached, and detached when it does not name them any more. Their ' +
      'controllers are called `name` and a number: `Nvme0`, `Nvme1`, … Several ways to a subsystem are paths of one ' +
      'controller. Referrals are shown by `bdev_nvme_get_discovery_info`, and not followed.',
    params: z.strictObject({
      name: controllerName.describe('Of the service, and the beginning of the names of its controllers.'),
      trtype: z.string().describe('Transport: `TCP`, in any case.'),
      traddr: z.string().min(1).describe('IP address of the discovery service.'),
      adrfam: z.string().optional().describe('`IPv4` or `IPv6`. Default: what `traddr` is.'),
      trsvcid: z.string().optional().describe('TCP port. Default: 8009.'),
      ...hostFields,
      wait_for_attach: z
        .boolean()
        .optional()
        .describe('Answer when everything that the log names was tried; what failed is tried again. Default: false.'),
      attach_timeout_ms: z
        .int()
        .min(0)
        .max(2 ** 31 - 1)
        .optional()
        .describe('How long to wait; implies `wait_for_attach`. Default: 0, which means 30 s (SPDK: for ever).'),
      controller_names: z
        .record(z.string().min(1), z.string().min(1))
        .optional()
        .describe(
          'NQNs of subsystems by the names of their controllers, as saved: disks keep their names. An addition.',
        ),
    }),
    result: z.boolean(),
    errors: [
      { code: 'EEXIST', when: 'the name is taken, or another service asks at this address' },
      { code: 'EINVAL', when: 'the transport or the address is not known' },
      { code: 'ETIMEDOUT', when: 'not all was attached in time; then there is no service' },
    ],
    cli: startDiscoveryCli,
    example: {
      params: { name: 'Nvme', trtype: 'TCP', traddr: '192.0.2.7', trsvcid: '8009', wait_for_attach: true },
      result: true,
    },
  }),

  bdev_nvme_stop_discovery: defineMethod({
    summary: 'Stop a discovery service, and detach what it attached',
    details: 'What another discovery service names too, or an operator attached, stays.',
    params: z.strictObject({ name: controllerName.describe('Service to stop.') }),
    result: z.boolean(),
    errors: [{ code: 'ENODEV', when: 'no discovery service has this name' }],
    cli: {
      flags: [{ names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'service to stop' }],
      print: 'nothing',
    },
    example: { params: { name: 'Nvme' }, result: true },
  }),

  bdev_nvme_get_discovery_info: defineMethod({
    summary: 'List discovery services',
    params: z.strictObject({}),
    result: z.array(
      z.object({
        name: z.string(),
        trid: transportId,
        referrals: z.array(z.object({ trid: transportId })).describe('Other discovery services that it names.'),
      }),
    ),
    errors: [],
    cli: { print: 'json' },
    example: {
      params: {},
      result: [
        {
          name: 'Nvme',
          trid: {
            trtype: 'TCP',
            traddr: '192.0.2.7',
            adrfam: 'IPv4',
            trsvcid: '8009',
            subnqn: 'nqn.2014-08.org.nvmexpress.discovery',
          },
          referrals: [],
        },
      ],
    },
  }),
};
