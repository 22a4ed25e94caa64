/** The methods of the RPC table about the daemon itself: life cycle, reactors, log, configuration, introspection. */
import { z } from 'zod';
import { type CliSpec, defineMethod, noParams, type RpcState } from '../define.ts';
import { configEntry } from './config.ts';

const ALWAYS: readonly RpcState[] = ['startup', 'runtime'];

const LOG_LEVELS = ['ERROR', 'WARNING', 'NOTICE', 'INFO', 'DEBUG'] as const;
const KILL_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGQUIT', 'SIGHUP', 'SIGKILL', 'SIGUSR1'] as const;

const logLevel = z.enum(LOG_LEVELS);
const levelParams = z.strictObject({ level: logLevel.describe('Messages of this level and above.') });
const setLevelCli: CliSpec = {
  positionals: [{ name: 'level', kind: 'string', choices: LOG_LEVELS, help: 'log level' }],
  print: 'nothing',
};

const flagParams = z.strictObject({
  flag: z.string().describe('`bdev`, `http`, `reactor`, `rpc` or `vhost`, or `all`. SPDK has others.'),
});
const flagCli: CliSpec = {
  positionals: [{ name: 'flag', kind: 'string', help: 'part of the daemon' }],
  print: 'nothing',
};

/** Older clients send level names in any case. */
function upperCaseLevel(params: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const { level } = params;
  return typeof level === 'string' ? { ...params, level: level.toUpperCase() } : params;
}

/** Older clients send the number of the signal (signal(7), x86 and ARM) as well. */
const SIGNAL_BY_NUMBER: Readonly<Record<string, string>> = {
  1: 'SIGHUP',
  2: 'SIGINT',
  3: 'SIGQUIT',
  9: 'SIGKILL',
  10: 'SIGUSR1',
  15: 'SIGTERM',
};

function nameSignal(params: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const { sig_name: given } = params;
  const name = typeof given === 'number' || typeof given === 'string' ? SIGNAL_BY_NUMBER[given] : undefined;
  return name === undefined ? params : { ...params, sig_name: name };
}

const lwThread = z.object({
  name: z.string(),
  id: z.int(),
  cpumask: z.string().describe('Hexadecimal without `0x`.'),
  elapsed: z.int().describe('Ticks since it was created.'),
  queues: z.array(z.int()).describe('Queues of the controller that run here. An addition of Ringhost.'),
});

const reactor = z.object({
  lcore: z.int().describe('The core it is pinned to.'),
  numa_id: z.int().optional().describe('NUMA node of the core.'),
  tid: z.int().describe('Thread id.'),
  busy: z.int().describe('Ticks in which it found work.'),
  idle: z.int().describe('Ticks in which it found none.'),
  in_interrupt: z.boolean().describe('Whether it sleeps until it is woken.'),
  irq: z.int().optional().describe('Of the core, in clock ticks of the kernel.'),
  sys: z.int().optional().describe('Of the core, in clock ticks of the kernel.'),
  usr: z.int().optional().describe('Of the core, in clock ticks of the kernel.'),
  core_freq: z.int().optional().describe('MHz.'),
  lw_threads: z
    .array(lwThread)
    .describe('What runs on the reactor: one entry a controller. One without running queues is shown where it would.'),
});

export const frameworkMethods = {
  framework_get_reactors: defineMethod({
    summary: 'List reactors and what runs on them',
    params: noParams,
    result: z.object({
      tick_rate: z.int().describe('Ticks a second.'),
      pid: z.int().optional().describe('Process id of the daemon.'),
      reactors: z.array(reactor),
    }),
    cli: { print: 'json' },
    example: {
      params: {},
      result: {
        tick_rate: 1_000_000_000,
        pid: 4711,
        reactors: [
          {
            lcore: 0,
            tid: 4712,
            busy: 41_000_000_000,
            idle: 2_000_000_000,
            in_interrupt: false,
            lw_threads: [{ name: 'vhost.0', id: 1, cpumask: '1', elapsed: 43_000_000_000, queues: [0, 1] }],
          },
        ],
      },
    },
  }),

  framework_start_init: defineMethod({
    summary: 'Start the subsystems of a daemon that waits for it',
    details: 'A daemon that is already running refuses it with code -1, as SPDK does.',
    params: noParams,
    result: z.boolean(),
    states: ['startup'],
    aliases: [{ name: 'start_subsystem_init' }],
    cli: { print: 'nothing' },
    example: { params: {}, result: true },
  }),

  framework_wait_init: defineMethod({
    summary: 'Answer when all subsystems are running',
    params: noParams,
    result: z.boolean(),
    states: ALWAYS,
    waits: () => true,
    aliases: [{ name: 'wait_subsystem_init' }],
    cli: { print: 'nothing' },
    example: { params: {}, result: true },
  }),

  framework_upgrade: defineMethod({
    summary: 'Hand everything that is served over to a new daemon, without a pause that guests notice',
    details:
      'The new daemon makes everything ready while this one serves; then requests wait until it has taken the rings. ' +
      'When anything fails before that, this one serves on, and the error says why (docs/upgrade.md). This daemon ' +
      'answers, and ends after it. An addition of Ringhost.',
    params: z.strictObject({
      exec: z.string().min(1).optional().describe('Program to start. Default: that of this daemon.'),
      args: z
        .array(z.string())
        .optional()
        .describe('Its arguments, such as `serve` and options. Default: those of this daemon.'),
      max_pause_ms: z
        .int()
        .min(1)
        .default(2000)
        .describe('Milliseconds that requests may wait at most; otherwise this daemon serves on. Default: 2000.'),
      max_start_ms: z
        .int()
        .min(1)
        .default(60_000)
        .describe('Milliseconds that the new daemon may take to be ready. Default: 60000.'),
    }),
    result: z.object({
      pid: z.int().describe('Process id of the new daemon.'),
      pause_ms: z.number().describe('Milliseconds in which no request was taken.'),
      sessions: z.int().describe('Front-ends that were handed over.'),
    }),
    errors: [
      { code: 'EBUSY', when: 'an upgrade is under way, or something is being deleted' },
      { code: 'ENOTSUP', when: 'a disk cannot be handed over' },
      { code: 'EIO', when: 'the new daemon ended before it took over' },
      { code: 'ECANCELED', when: 'the new daemon could not make something' },
      { code: 'ETIMEDOUT', when: 'the new daemon, or a request in flight, took too long' },
    ],
    waits: () => true,
    cli: {
      flags: [
        { names: ['--exec'], dest: 'exec', kind: 'string', help: 'program to start' },
        { names: ['--max-pause-ms'], dest: 'max_pause_ms', kind: 'int', help: 'how long requests may wait' },
        { names: ['--max-start-ms'], dest: 'max_start_ms', kind: 'int', help: 'how long the start may take' },
      ],
      print: 'json',
    },
    example: { params: {}, result: { pid: 4713, pause_ms: 14.2, sessions: 2 } },
  }),

  framework_get_subsystems: defineMethod({
    summary: 'List subsystems in the order of their initialisation',
    params: noParams,
    result: z.array(z.object({ subsystem: z.string(), depends_on: z.array(z.string()) })),
    aliases: [{ name: 'get_subsystems' }],
    cli: { print: 'json' },
    example: {
      params: {},
      result: [
        { subsystem: 'accel', depends_on: [] },
        { subsystem: 'bdev', depends_on: ['accel'] },
        { subsystem: 'vhost_blk', depends_on: ['bdev'] },
      ],
    },
  }),

  framework_get_config: defineMethod({
    summary: 'Show the calls that would configure a subsystem as it is now',
    params: z.strictObject({
      name: z.string().min(1).describe('Name of the subsystem.'),
      with_batches: z
        .boolean()
        .default(false)
        .describe('Accepted for newer clients; there are no batches. Default: false.'),
    }),
    result: z.array(configEntry).nullable(),
    errorStyle: 'invalid_params',
    errors: [{ code: 'EINVAL', when: 'no subsystem has this name' }],
    aliases: [
      {
        name: 'get_subsystem_config',
        cli: { positionals: [{ name: 'name', kind: 'string', help: 'name of the subsystem' }], print: 'json' },
      },
    ],
    cli: {
      positionals: [{ name: 'name', kind: 'string', help: 'name of the subsystem' }],
      flags: [{ names: ['--with-batches'], dest: 'with_batches', kind: 'yesno', help: 'has no effect' }],
      print: 'json',
    },
    example: {
      params: { name: 'bdev' },
      result: [{ method: 'bdev_malloc_create', params: { name: 'Malloc0', num_blocks: 131072, block_size: 512 } }],
    },
  }),

  log_set_level: defineMethod({
    summary: 'Set the level of the log',
    params: levelParams,
    normalize: upperCaseLevel,
    result: z.boolean(),
    states: ALWAYS,
    aliases: [
      {
        name: 'set_log_level',
        cli: { positionals: [{ name: 'level', kind: 'string', help: 'log level' }], print: 'nothing' },
      },
    ],
    cli: setLevelCli,
    example: { params: { level: 'DEBUG' }, result: true },
  }),

  log_get_level: defineMethod({
    summary: 'Show the level of the log',
    params: noParams,
    result: logLevel,
    states: ALWAYS,
    aliases: [{ name: 'get_log_level' }],
    cli: { print: 'json' },
    example: { params: {}, result: 'NOTICE' },
  }),

  log_set_print_level: defineMethod({
    summary: 'Set the level of what is also printed on the terminal',
    params: levelParams,
    normalize: upperCaseLevel,
    result: z.boolean(),
    states: ALWAYS,
    aliases: [
      {
        name: 'set_log_print_level',
        cli: { positionals: [{ name: 'level', kind: 'string', help: 'log level' }], print: 'nothing' },
      },
    ],
    cli: setLevelCli,
    example: { params: { level: 'INFO' }, result: true },
  }),

  log_get_print_level: defineMethod({
    summary: 'Show the level of what is also printed on the terminal',
    params: noParams,
    result: logLevel,
    states: ALWAYS,
    aliases: [{ name: 'get_log_print_level' }],
    cli: { print: 'json' },
    example: { params: {}, result: 'INFO' },
  }),

  log_set_flag: defineMethod({
    summary: 'Log all that a part of the daemon has to say',
    details: 'Its level becomes DEBUG, whatever that of the log is.',
    params: flagParams,
    result: z.boolean(),
    states: ALWAYS,
    errors: [{ code: 'EINVAL', when: 'no part of the daemon has this name' }],
    aliases: [{ name: 'set_log_flag' }],
    cli: flagCli,
    example: { params: { flag: 'vhost' }, result: true },
  }),

  log_clear_flag: defineMethod({
    summary: 'Log of a part of the daemon what the level of the log says',
    params: flagParams,
    result: z.boolean(),
    states: ALWAYS,
    errors: [{ code: 'EINVAL', when: 'no part of the daemon has this name' }],
    aliases: [{ name: 'clear_log_flag' }],
    cli: flagCli,
    example: { params: { flag: 'vhost' }, result: true },
  }),

  log_get_flags: defineMethod({
    summary: 'Show which parts of the daemon log all they have to say',
    params: noParams,
    result: z.record(z.string(), z.boolean()),
    states: ALWAYS,
    aliases: [{ name: 'get_log_flags' }],
    cli: { print: 'json' },
    example: { params: {}, result: { bdev: false, http: false, reactor: false, rpc: false, vhost: true } },
  }),

  spdk_get_version: defineMethod({
    summary: 'Show the version of the daemon',
    params: noParams,
    result: z.object({
      version: z.string().describe('As people read it.'),
      fields: z.object({
        major: z.int(),
        minor: z.int(),
        patch: z.int(),
        suffix: z.string(),
        commit: z.string().optional(),
      }),
    }),
    states: ALWAYS,
    aliases: [{ name: 'get_spdk_version' }],
    cli: { print: 'text' },
    example: {
      params: {},
      result: { version: 'Ringhost v0.1.0', fields: { major: 0, minor: 1, patch: 0, suffix: '' } },
    },
  }),

  spdk_kill_instance: defineMethod({
    summary: 'Send a signal to the daemon',
    details:
      '`SIGINT` and `SIGTERM` stop it in order, `SIGHUP` has it read certificates and tokens again, `SIGUSR1` has no ' +
      'effect. The connection may end before the answer arrives.',
    params: z.strictObject({ sig_name: z.enum(KILL_SIGNALS).describe('Name or number of the signal.') }),
    normalize: nameSignal,
    result: z.boolean(),
    aliases: [
      {
        name: 'kill_instance',
        cli: {
          positionals: [{ name: 'sig_name', kind: 'string', help: 'signal, by name or number' }],
          print: 'nothing',
        },
      },
    ],
    cli: {
      positionals: [{ name: 'sig_name', kind: 'string', choices: KILL_SIGNALS, help: 'signal' }],
      print: 'nothing',
    },
    example: { params: { sig_name: 'SIGTERM' }, result: true },
  }),

  rpc_get_methods: defineMethod({
    summary: 'List the methods that the daemon knows',
    params: z.strictObject({
      current: z.boolean().default(false).describe('Only those that may be called now. Default: false.'),
      include_aliases: z.boolean().default(false).describe('Older names as well. Default: false.'),
    }),
    result: z.array(z.string()),
    states: ALWAYS,
    aliases: [
      {
        name: 'get_rpc_methods',
        note: 'Older names are listed as well, so that clients of that time find theirs.',
        toParams: (params) => ({ include_aliases: true, ...params }),
        cli: {
          flags: [{ names: ['-c', '--current'], dest: 'current', kind: 'switch', help: 'only those callable now' }],
          print: 'json',
        },
      },
    ],
    cli: {
      flags: [
        { names: ['-c', '--current'], dest: 'current', kind: 'switch', help: 'only those callable now' },
        { names: ['-i', '--include-aliases'], dest: 'include_aliases', kind: 'switch', help: 'older names as well' },
      ],
      print: 'json',
    },
    example: { params: {}, result: ['bdev_get_bdevs', 'bdev_malloc_create'] },
  }),

  'rpc.discover': defineMethod({
    summary: 'Describe every method as an OpenRPC document',
    details: 'An addition of Ringhost, after the service discovery of the OpenRPC specification 1.3.',
    params: noParams,
    result: z.record(z.string(), z.unknown()),
    states: ALWAYS,
    cli: { print: 'json' },
    example: { params: {}, result: { openrpc: '1.3.2', info: { title: 'Ringhost', version: '0.1.0' }, methods: [] } },
  }),
};
