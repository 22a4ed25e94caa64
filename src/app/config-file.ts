/**
 * Configuration files in SPDK's format: `{ "subsystems": [{ "subsystem": NAME, "config": [{ "method", "params" }] }]
 * }`. Each entry is an RPC call, made in the order of the file; a list of entries (SPDK's batches) is made one by one.
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { TargetError } from '../base/errors.ts';
import { fileProblem } from '../base/file-problem.ts';
import type { Logger } from '../base/log.ts';

const configCall = z.object({ method: z.string(), params: z.record(z.string(), z.unknown()).optional() });
const configCalls = z.array(z.union([configCall, z.array(configCall)])).transform((list) => list.flat());
const configFile = z.object({
  subsystems: z.array(z.object({ subsystem: z.string(), config: configCalls.nullable() })),
});

export type ConfigFile = z.output<typeof configFile>;
export type ConfigCall = z.output<typeof configCall>;

/** What `npm start` serves: a 256 MiB RAM disk. */
export const DEFAULT_CONFIG: ConfigFile = {
  subsystems: [
    {
      subsystem: 'bdev',
      config: [{ method: 'bdev_malloc_create', params: { name: 'Malloc0', num_blocks: 524_288, block_size: 512 } }],
    },
    {
      subsystem: 'vhost_blk',
      config: [{ method: 'vhost_create_blk_controller', params: { ctrlr: 'vhost.0', dev_name: 'Malloc0' } }],
    },
  ],
};

/** The subsystems that have a configuration here, in the order in which it works. */
export const SUBSYSTEMS = [
  { subsystem: 'accel', depends_on: [] },
  { subsystem: 'bdev', depends_on: ['accel'] },
  { subsystem: 'vhost_blk', depends_on: ['bdev'] },
  { subsystem: 'vhost_scsi', depends_on: ['bdev'] },
] as const;

export function readConfigFile(path: string): ConfigFile {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { code = 'EIO' } = error as NodeJS.ErrnoException;
    const remedy = code === 'ENOENT' ? ': ringhost rpc save_config writes one' : '';
    throw new TargetError(code, `cannot read the configuration: ${fileProblem(path, error)}${remedy}`);
  }
  return parseConfig(text, path);
}

/** `origin`: what the text is, for the error. Throws `EINVAL`. */
export function parseConfig(text: string, origin: string): ConfigFile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new TargetError('EINVAL', `${origin} is not JSON: ${(error as Error).message}`);
  }
  return checkConfig(value, origin);
}

/** Throws `EINVAL`. */
function checkConfig(value: unknown, origin: string): ConfigFile {
  const parsed = configFile.safeParse(value);
  if (parsed.success) return parsed.data;
  let [issue] = parsed.error.issues;
  let path = issue?.path ?? [];
  // Of the two forms that an entry may have, the first is the one that was meant.
  while (issue?.code === 'invalid_union' && issue.errors[0]?.[0] !== undefined) {
    issue = issue.errors[0][0] as z.core.$ZodIssue;
    path = [...path, ...issue.path];
  }
  const where = path.join('.') || 'the file';
  throw new TargetError('EINVAL', `${origin}: ${where}: ${issue?.message} (docs/configuration.md shows one)`);
}

export interface CallFailure {
  readonly code: number;
  readonly message: string;
  readonly data?: { readonly detail: string };
}

/** Makes a call. Null: it worked. */
export type CallConfig = (call: ConfigCall) => Promise<CallFailure | null>;

/** The connection on which the calls of a configuration come: none. */
export const NO_CONNECTION = 0;

const METHOD_NOT_FOUND = -32_601;

/**
 * Makes every call. One that fails ends it with an error, or is only logged with `ignoreErrors`. What is not known of
 * subsystems that Ringhost has not is passed over with a line in the log, as SPDK does.
 */
export async function applyConfig(
  config: ConfigFile,
  call: CallConfig,
  log: Logger,
  { ignoreErrors = false } = {},
): Promise<void> {
  for (const { subsystem, config: calls } of config.subsystems) {
    for (const entry of calls ?? []) {
      const error = await call(entry);
      if (error === null) continue;
      if (error.code === METHOD_NOT_FOUND && isOfSpdkOnly(subsystem)) {
        log.warn(`configuration: ${entry.method} is not known here and was passed over`, { subsystem });
        continue;
      }
      const text = `configuration: ${subsystem}: ${entry.method} failed: ${failureText(error)}`;
      if (!ignoreErrors) throw new TargetError('EINVAL', text);
      log.error(text);
    }
  }
}

/** Whether calls that are not known here may be passed over: those of `accel` choose how SPDK does its arithmetic. */
export function isOfSpdkOnly(subsystem: string): boolean {
  return subsystem === 'accel' || !SUBSYSTEMS.some((own) => own.subsystem === subsystem);
}

export function failureText({ message, data }: CallFailure): string {
  return data === undefined ? message : `${message}: ${data.detail}`;
}
