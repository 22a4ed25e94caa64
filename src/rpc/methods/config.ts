/** The methods of the RPC table about configurations: saved, loaded, and kept in the directory of `--state-dir`. */
import { z } from 'zod';
import { type CliFlag, type CliSpec, defineMethod, noParams } from '../define.ts';

/** A call that makes a part of the configuration. */
export const configEntry = z.object({ method: z.string(), params: z.record(z.string(), z.unknown()).optional() });
const subsystemConfig = z.object({ subsystem: z.string(), config: z.array(configEntry).nullable() });
/** As files have it: SPDK's batches are lists of calls in the list of calls. */
const loadedConfig = z.array(z.union([configEntry, z.array(configEntry)])).nullable();
const withBatches = z
  .boolean()
  .default(false)
  .describe('Accepted for newer clients; there are no batches. Default: false.');

const indentFlag: CliFlag = {
  names: ['-i', '--indent'],
  dest: 'indent',
  kind: 'int',
  help: 'of the text',
  isLocal: true,
};
const batchesFlag: CliFlag = { names: ['--with-batches'], dest: 'with_batches', kind: 'yesno', help: 'has no effect' };
const fileFlag: CliFlag = {
  names: ['-j', '--json-conf'],
  dest: 'json_conf',
  kind: 'string',
  help: 'file to read (default: standard input)',
  isLocal: true,
};

const aliasesParam = z
  .boolean()
  .default(false)
  .describe('Accepted for `rpc.py`; older names always work. Default: false.');

const EXAMPLE_BDEVS = {
  subsystem: 'bdev',
  config: [{ method: 'bdev_malloc_create', params: { name: 'Malloc0', num_blocks: 131072, block_size: 512 } }],
};
const EXAMPLE_CALL = { method: 'bdev_aio_create', params: { name: 'Aio0', filename: '/srv/vm0.raw', block_size: 512 } };

const missingCall = z.object({
  id: z.int().describe('For state_forget_missing.'),
  subsystem: z.string(),
  method: z.string(),
  params: z.record(z.string(), z.unknown()),
  reason: z.string().describe('Why it is not there.'),
});
const EXAMPLE_MISSING = {
  directory: '/var/lib/ringhost',
  missing: [
    { id: 1, subsystem: 'bdev', ...EXAMPLE_CALL, reason: 'No such file or directory: cannot open /srv/vm0.raw' },
  ],
};
const missingResult = z.object({
  directory: z.string().describe('Of `--state-dir`.'),
  missing: z.array(missingCall),
});
const NO_STATE = { code: 'ENOTSUP', when: 'the daemon was started without `--state-dir`' } as const;
const jsonCli: CliSpec = { print: 'json' };

export const configMethods = {
  save_config: defineMethod({
    summary: 'Show the calls that would make everything again',
    details:
      'What `-c FILE` and `load_config` take. `rpc.py save_config` makes the same of `framework_get_subsystems` and ' +
      '`framework_get_config`. As a method of the daemon it is an addition of Ringhost.',
    params: z.strictObject({
      subsystems: z
        .string()
        .min(1)
        .optional()
        .describe('Names with commas between: only these and what they depend on. Default: all.'),
      with_batches: withBatches,
    }),
    result: z.object({ subsystems: z.array(subsystemConfig) }),
    errors: [{ code: 'EINVAL', when: 'no subsystem has this name' }],
    cli: {
      flags: [
        indentFlag,
        { names: ['-s', '--subsystems'], dest: 'subsystems', kind: 'string', help: 'only these, with commas between' },
        batchesFlag,
      ],
      print: 'json',
    },
    example: { params: {}, result: { subsystems: [EXAMPLE_BDEVS] } },
  }),

  load_config: defineMethod({
    summary: 'Make the calls of a configuration',
    details:
      'One after another; the first that fails ends it, and what was made before stays. Nothing is called when a ' +
      'method is not known. Settings of parts that only SPDK has are passed over with a line in the log.',
    params: z.strictObject({
      subsystems: z
        .array(z.object({ subsystem: z.string(), config: loadedConfig }))
        .describe('As save_config shows them, and SPDK.'),
      include_aliases: aliasesParam,
    }),
    result: z.boolean(),
    errors: [{ code: 'EINVAL', when: 'a method is not known, or a call failed' }],
    cli: {
      flags: [
        { names: ['-i', '--include-aliases'], dest: 'include_aliases', kind: 'switch', help: 'has no effect' },
        fileFlag,
      ],
      input: { flag: 'json_conf', members: ['subsystems'] },
      print: 'nothing',
    },
    example: { params: { subsystems: [EXAMPLE_BDEVS] }, result: true },
  }),

  config_apply: defineMethod({
    summary: 'Make what there is what a configuration says, as a whole or not at all',
    details:
      'What is missing is made; what is there is compared in the parameters that the configuration gives. Subsystems ' +
      'that it does not name are left alone. When a call fails, everything that was done is undone: but the content ' +
      'of a RAM disk that was replaced does not come back. An addition of Ringhost.',
    params: z.strictObject({
      subsystems: z
        .array(z.object({ subsystem: z.string(), config: loadedConfig }))
        .describe('As save_config shows them, and SPDK.'),
      dry_run: z.boolean().default(false).describe('Only say what would be done. Default: false.'),
      prune: z.boolean().default(false).describe('Take away what the configuration does not have. Default: false.'),
      replace: z
        .boolean()
        .default(false)
        .describe(
          'Take away and make again what is otherwise and cannot be changed, with what stands on it. Default: false.',
        ),
    }),
    result: z.object({
      changes: z.array(
        z.object({
          action: z.enum(['add', 'set', 'replace', 'remove']),
          method: z.string(),
          name: z.string(),
          params: z.record(z.string(), z.unknown()).describe('What the configuration gives.'),
          was: z
            .record(z.string(), z.unknown())
            .describe('Values that differ from it. Empty where it only stands on something that is replaced.'),
        }),
      ),
      extra: z.array(configEntry).describe('What is there and not in the configuration, and stays.'),
      passed_over: z.array(z.string()).describe("Methods of SPDK's own parts."),
    }),
    errors: [
      { code: 'EINVAL', when: 'the configuration is wrong, or a call failed and what was done before was undone' },
      { code: 'EBUSY', when: 'something would have to be replaced, and `replace` is not given' },
    ],
    cli: {
      flags: [
        { names: ['--dry-run'], dest: 'dry_run', kind: 'switch', help: 'only say what would be done' },
        { names: ['--prune'], dest: 'prune', kind: 'switch', help: 'take away what the configuration does not have' },
        { names: ['--replace'], dest: 'replace', kind: 'switch', help: 'make anew what cannot be changed' },
        fileFlag,
      ],
      input: { flag: 'json_conf', members: ['subsystems'] },
      print: 'json',
    },
    example: {
      params: { subsystems: [EXAMPLE_BDEVS], dry_run: true },
      result: {
        changes: [
          {
            action: 'add',
            method: 'bdev_malloc_create',
            name: 'Malloc0',
            params: { name: 'Malloc0', num_blocks: 131072, block_size: 512 },
            was: {},
          },
        ],
        extra: [],
        passed_over: [],
      },
    },
  }),

  save_subsystem_config: defineMethod({
    summary: 'Show the calls that would make a subsystem again',
    params: z.strictObject({ name: z.string().min(1).describe('Name of the subsystem.'), with_batches: withBatches }),
    result: subsystemConfig,
    errors: [{ code: 'EINVAL', when: 'no subsystem has this name' }],
    cli: {
      flags: [
        indentFlag,
        { names: ['-n', '--name'], dest: 'name', kind: 'string', help: 'name of the subsystem' },
        batchesFlag,
      ],
      print: 'json',
    },
    example: { params: { name: 'bdev' }, result: EXAMPLE_BDEVS },
  }),

  load_subsystem_config: defineMethod({
    summary: 'Make the calls of the configuration of a subsystem',
    details: 'As load_config does.',
    params: z.strictObject({
      subsystem: z.string().default('bdev').describe('Name of the subsystem. Default: `bdev`.'),
      config: loadedConfig.describe('Its calls.'),
    }),
    result: z.boolean(),
    errors: [{ code: 'EINVAL', when: 'a method is not known, or a call failed' }],
    cli: { flags: [fileFlag], input: { flag: 'json_conf', members: ['subsystem', 'config'] }, print: 'nothing' },
    example: { params: EXAMPLE_BDEVS, result: true },
  }),

  state_get_missing: defineMethod({
    summary: 'Show what should be there and is not',
    details:
      'With `--state-dir`: calls that failed when the daemon started, and those for disks whose device went away. ' +
      'They stay in the state, and are made again when the daemon starts again. An addition of Ringhost.',
    params: noParams,
    result: missingResult,
    errors: [NO_STATE],
    cli: jsonCli,
    example: { params: {}, result: EXAMPLE_MISSING },
  }),

  state_retry_missing: defineMethod({
    summary: 'Try again to make what should be there and is not',
    details: 'The result is what is still missing. An addition of Ringhost.',
    params: noParams,
    result: missingResult,
    errors: [NO_STATE],
    cli: jsonCli,
    example: { params: {}, result: { directory: '/var/lib/ringhost', missing: [] } },
  }),

  state_forget_missing: defineMethod({
    summary: 'Give up something that should be there and is not',
    details: 'An addition of Ringhost.',
    params: z.strictObject({ id: z.int().min(1).describe('Its number in state_get_missing.') }),
    result: z.boolean(),
    errors: [NO_STATE, { code: 'ENOENT', when: 'nothing that is missing has this number' }],
    cli: { positionals: [{ name: 'id', kind: 'int', help: 'its number in state_get_missing' }], print: 'nothing' },
    example: { params: { id: 1 }, result: true },
  }),
};
