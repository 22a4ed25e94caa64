/**
 * Configuration files in SPDK's format: `{ "subsystems": [{ "subsystem": NAME, "config": [{ "method", "params" }] }]
 * }`. Each entry is an RPC call, made in the order of the file.
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { TargetError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';

const configCall = z.object({ method: z.string(), params: z.record(z.string(), z.unknown()).optional() });
const configFile = z.object({
  subsystems: z.array(z.object({ subsystem: z.string(), config: z.array(configCall).nullable() })),
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

export function readConfigFile(path: string): ConfigFile {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new TargetError('ENOENT', `cannot read the configuration ${path}: ${(error as Error).message}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new TargetError('EINVAL', `${path} is not JSON: ${(error as Error).message}`);
  }
  const parsed = configFile.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new TargetError('EINVAL', `${path}: ${issue?.path.join('.') || 'the file'}: ${issue?.message}`);
}

/** The answer of one call: null when it worked. */
export type CallConfig = (call: ConfigCall) => Promise<{ readonly code: number; readonly message: string } | null>;

const METHOD_NOT_FOUND = -32_601;

/**
 * Makes every call. One that fails ends it with an error; one that Ringhost does not have (a setting of SPDK's own
 * subsystems) is passed over with a line in the log.
 */
export async function applyConfig(config: ConfigFile, call: CallConfig, log: Logger): Promise<void> {
  for (const { subsystem, config: calls } of config.subsystems) {
    for (const entry of calls ?? []) {
      const error = await call(entry);
      if (error === null) continue;
      if (error.code === METHOD_NOT_FOUND) {
        log.warn(`configuration: ${entry.method} is not known here and was passed over`, { subsystem });
        continue;
      }
      throw new TargetError('EINVAL', `configuration: ${subsystem}: ${entry.method} failed: ${error.message}`);
    }
  }
}
