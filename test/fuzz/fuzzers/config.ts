/** Configuration files of any content: read and applied, or refused with a reason, never by another exception. */
import { ok } from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { applyConfig, type ConfigFile, readConfigFile } from '../../../src/app/config-file.ts';
import { TargetError } from '../../../src/base/errors.ts';
import { SILENT } from '../../../src/base/log.ts';
import { defineFuzzer, type FuzzTarget } from '../fuzzer.ts';

interface Case {
  readonly text: string;
  readonly changes: readonly (readonly [at: number, value: number])[];
}

const call = fc.record(
  {
    method: fc.oneof(fc.constantFrom('bdev_malloc_create', 'bdev_set_options', '__proto__'), fc.string()),
    params: fc.oneof(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 })), fc.jsonValue({ maxDepth: 1 })),
  },
  { requiredKeys: [] },
);
const subsystem = fc.record(
  {
    subsystem: fc.oneof(fc.constantFrom('bdev', 'vhost_blk', 'vhost_scsi', 'scheduler'), fc.string()),
    config: fc.oneof(
      { weight: 6, arbitrary: fc.array(call, { maxLength: 4 }) },
      fc.constant(null),
      fc.jsonValue({ maxDepth: 1 }),
    ),
  },
  { requiredKeys: [] },
);
const file = fc.oneof(
  { weight: 8, arbitrary: fc.record({ subsystems: fc.array(subsystem, { maxLength: 4 }) }) },
  fc.jsonValue({ maxDepth: 3 }),
);

class ConfigTarget implements FuzzTarget<Case> {
  readonly counts: Record<string, number> = { 'files read': 0, 'calls made': 0 };
  readonly #directory = mkdtempSync(join(tmpdir(), 'ringhost-fuzz-'));

  async attempt({ text, changes }: Case): Promise<void> {
    const bytes = Buffer.from(text);
    for (const [at, value] of changes) if (bytes.length > 0) bytes[at % bytes.length] = value;
    const path = join(this.#directory, 'config.json');
    writeFileSync(path, bytes);
    let config: ConfigFile;
    try {
      config = readConfigFile(path);
    } catch (error) {
      ok(error instanceof TargetError && error.message.includes(path), `refused without a reason: ${error}`);
      return;
    }
    this.counts['files read'] = (this.counts['files read'] ?? 0) + 1;
    let made = 0;
    await applyConfig(
      config,
      async () => {
        made++;
        return null;
      },
      SILENT,
    );
    this.counts['calls made'] = (this.counts['calls made'] ?? 0) + made;
    ok(made === config.subsystems.reduce((sum, { config: calls }) => sum + (calls?.length ?? 0), 0));
  }

  close(): void {
    rmSync(this.#directory, { recursive: true });
  }
}

export const config = defineFuzzer<Case>({
  name: 'config',
  purpose: 'configuration files of any content',
  cases: fc.record({
    text: file.map((value) => JSON.stringify(value)),
    changes: fc.oneof(
      { weight: 2, arbitrary: fc.constant([]) },
      fc.array(fc.tuple(fc.nat(1000), fc.nat(255)), { maxLength: 4 }),
    ),
  }),
  open: () => new ConfigTarget(),
});
