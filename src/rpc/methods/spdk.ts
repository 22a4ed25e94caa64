/**
 * The methods of the RPC table that SPDK's clients and configuration files call, and that have little behind them here:
 * settings of parts that Ringhost does not have, and what there is only one choice for.
 */
import { z } from 'zod';
import { anyParams, defineMethod, noParams, type RpcState, uint53 } from '../define.ts';

const ALWAYS: readonly RpcState[] = ['startup', 'runtime'];

/** `what`: which part of SPDK it tunes. */
function setting(what: string, example: Readonly<Record<string, unknown>>, advice = '') {
  return defineMethod({
    summary: `Accept settings of ${what}; they have no effect`,
    details: `There is no such part here: the parameters are not looked at, and the log says so.${advice}`,
    params: anyParams,
    result: z.boolean(),
    states: ALWAYS,
    hasNoEffect: true,
    cli: { takesAnything: true, print: 'nothing' },
    example: { params: example, result: true },
  });
}

const PER_CONTROLLER =
  ' What concerns one controller, such as `ctrlr_loss_timeout_sec`, is a parameter of `bdev_nvme_attach_controller`.';
const HOTPLUG =
  ' A drive that is pulled is noticed in any case; one that is plugged in is attached by ' +
  '`bdev_nvme_attach_controller`.';

const EVENT_TYPES = ['bdev_register', 'bdev_unregister'] as const;
const eventType = z.enum(EVENT_TYPES);
const transport = z.object({ name: z.string() });

export const spdkMethods = {
  bdev_set_options: setting("SPDK's pools of requests", { bdev_io_pool_size: 65_535, bdev_io_cache_size: 256 }),
  bdev_nvme_set_options: setting('all NVMe controllers', { timeout_us: 0, bdev_retry_count: 3 }, PER_CONTROLLER),
  bdev_nvme_set_hotplug: setting("SPDK's search for new drives", { enable: false, period_us: 100_000 }, HOTPLUG),
  bdev_iscsi_set_options: setting("SPDK's iSCSI client", { timeout_sec: 30 }),
  iobuf_set_options: setting("SPDK's pools of buffers", { small_pool_count: 8192, large_pool_count: 1024 }),
  sock_impl_set_options: setting("SPDK's sockets", { impl_name: 'posix', enable_zerocopy_send_server: true }),
  sock_set_default_impl: setting("SPDK's sockets", { impl_name: 'posix' }),
  accel_set_options: setting("SPDK's acceleration engines", { small_cache_size: 128 }),

  bdev_examine: defineMethod({
    summary: 'Look for an lvol store on a bdev, and load it when there is one',
    details: 'As `bdev_lvol_load_lvstore` does. Partition tables and mirrors are made by calls of their own.',
    params: z.strictObject({ name: z.string().describe('Name of the bdev.') }),
    result: z.boolean(),
    errors: [{ code: 'ENODEV', when: 'no bdev has this name' }],
    cli: {
      flags: [{ names: ['-b', '--name'], dest: 'name', kind: 'string', help: 'name of the bdev' }],
      print: 'nothing',
    },
    example: { params: { name: 'Aio0' }, result: true },
  }),

  bdev_wait_for_examine: defineMethod({
    summary: 'Answer when every bdev has been looked at',
    details: 'At once: nothing is looked at unless it is asked for (`bdev_examine`, `bdev_lvol_load_lvstore`).',
    params: noParams,
    result: z.boolean(),
    hasNoEffect: true,
    cli: { print: 'nothing' },
    example: { params: {}, result: true },
  }),

  notify_get_types: defineMethod({
    summary: 'List the kinds of events',
    params: noParams,
    result: z.array(eventType),
    states: ALWAYS,
    aliases: [{ name: 'get_notification_types' }],
    cli: { print: 'json' },
    example: { params: {}, result: [...EVENT_TYPES] },
  }),

  notify_get_notifications: defineMethod({
    summary: 'List what has happened since an event',
    details: 'The newest 1024 are kept.',
    params: z.strictObject({
      id: uint53.default(0).describe('First event to show. Default: 0, the oldest that is kept.'),
      max: uint53.optional().describe('How many at most. Default: all.'),
    }),
    result: z.array(
      z.object({
        type: eventType,
        ctx: z.string().describe('Name of the bdev.'),
        id: z.int().describe('Rises by one with each, from 0 on.'),
      }),
    ),
    states: ALWAYS,
    aliases: [{ name: 'get_notifications' }],
    cli: {
      flags: [
        { names: ['-i', '--id'], dest: 'id', kind: 'int', help: 'first event to show' },
        { names: ['-n', '--max'], dest: 'max', kind: 'int', help: 'how many at most' },
      ],
      print: 'json',
    },
    example: { params: {}, result: [{ type: 'bdev_register', ctx: 'Malloc0', id: 0 }] },
  }),

  scsi_get_devices: defineMethod({
    summary: 'List the targets of all scsi controllers',
    details: '`vhost_get_controllers` tells of which controller each is, and its LUNs.',
    params: noParams,
    result: z.array(z.object({ id: z.int().describe('Its place in this list.'), device_name: z.string() })),
    aliases: [{ name: 'get_scsi_devices' }],
    cli: { print: 'json' },
    example: { params: {}, result: [{ id: 0, device_name: 'Target 0' }] },
  }),

  virtio_blk_get_transports: defineMethod({
    summary: 'List the transports of blk controllers',
    params: z.strictObject({ name: z.string().optional().describe('Only this one.') }),
    result: z.array(transport),
    errors: [{ code: 'ENODEV', when: 'there is no such transport' }],
    cli: {
      flags: [{ names: ['--name'], dest: 'name', kind: 'string', help: 'only this one' }],
      print: 'json',
    },
    example: { params: {}, result: [{ name: 'vhost_user_blk' }] },
  }),

  virtio_blk_create_transport: defineMethod({
    summary: 'Make a transport of blk controllers',
    details: '`vhost_user_blk` is the only one, and always there: making it changes nothing.',
    params: z.strictObject({ name: z.string().describe('`vhost_user_blk`.') }),
    result: z.boolean(),
    hasNoEffect: true,
    errors: [{ code: 'ENODEV', when: 'it is another one' }],
    cli: { positionals: [{ name: 'name', kind: 'string', help: 'name of the transport' }], print: 'nothing' },
    example: { params: { name: 'vhost_user_blk' }, result: true },
  }),

  framework_get_scheduler: defineMethod({
    summary: 'Show what decides which core serves what',
    params: noParams,
    result: z.object({ scheduler_name: z.string(), scheduler_period: z.int() }),
    states: ALWAYS,
    cli: { print: 'json' },
    example: { params: {}, result: { scheduler_name: 'static', scheduler_period: 0 } },
  }),

  framework_set_scheduler: defineMethod({
    summary: 'Choose what decides which core serves what',
    details:
      'Queues are spread over the cores of their controller when they start, and moved by ' +
      '`vhost_controller_set_placement`. That is what `static` means; the others are refused.',
    params: z.strictObject({
      name: z.string().describe('`static`.'),
      period: uint53.optional().describe('No effect.'),
      load_limit: uint53.optional().describe('No effect.'),
      core_limit: uint53.optional().describe('No effect.'),
      core_busy: uint53.optional().describe('No effect.'),
      mappings: z.string().optional().describe('No effect.'),
    }),
    ignored: ['period', 'load_limit', 'core_limit', 'core_busy', 'mappings'],
    result: z.boolean(),
    states: ALWAYS,
    hasNoEffect: true,
    errors: [{ code: 'EINVAL', when: 'it is another one' }],
    cli: { positionals: [{ name: 'name', kind: 'string', help: '`static`' }], print: 'nothing' },
    example: { params: { name: 'static' }, result: true },
  }),
};
