/** Configuration files: read with a reason when they cannot be, and made into calls. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Logger, SILENT } from '../base/log.ts';
import { METHODS, type MethodName } from '../rpc/methods.ts';
import { applyConfig, type CallConfig, type ConfigFile, DEFAULT_CONFIG, readConfigFile } from './config-file.ts';

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-config-'));
});
afterAll(() => rmSync(directory, { recursive: true }));

function fileOf(text: string): string {
  const path = join(directory, 'config.json');
  writeFileSync(path, text);
  return path;
}

const call = (method: string, params?: Record<string, unknown>) => ({
  method,
  ...(params === undefined ? {} : { params }),
});
const configOf = (...config: ConfigFile['subsystems'][number]['config'] & object): ConfigFile => ({
  subsystems: [{ subsystem: 'bdev', config }],
});

describe('reading', () => {
  it('takes the form that SPDK writes', () => {
    const config = {
      subsystems: [
        { subsystem: 'scheduler', config: null },
        {
          subsystem: 'bdev',
          config: [
            call('bdev_malloc_create', { name: 'A', num_blocks: 8, block_size: 512 }),
            call('bdev_wait_for_examine'),
          ],
        },
        { subsystem: 'vhost_blk', config: [] },
      ],
    };
    expect(readConfigFile(fileOf(JSON.stringify(config)))).toEqual(config);
  });

  it('takes batches as the calls that they are', () => {
    const text = JSON.stringify({
      subsystems: [{ subsystem: 'bdev', config: [[call('a'), call('b')], call('c'), []] }],
    });
    expect(readConfigFile(fileOf(text)).subsystems[0]?.config).toEqual([call('a'), call('b'), call('c')]);
  });

  it('passes over what it does not know at the top', () => {
    const text = JSON.stringify({
      version: 2,
      subsystems: [{ subsystem: 'x', config: [{ ...call('y'), comment: 'z' }] }],
    });
    expect(readConfigFile(fileOf(text)).subsystems[0]?.config).toEqual([call('y')]);
  });

  it.each([
    ['nothing', '', 'is not JSON'],
    ['half of it', '{"subsystems": [', 'is not JSON'],
    ['text', 'bdev_malloc_create', 'is not JSON'],
    ['an array', '[]', 'the file'],
    ['no subsystems', '{}', 'subsystems'],
    ['subsystems that are none', '{"subsystems": {}}', 'subsystems'],
    ['a subsystem without a name', '{"subsystems": [{"config": []}]}', 'subsystems.0.subsystem'],
    [
      'a call without a method',
      '{"subsystems": [{"subsystem": "bdev", "config": [{"params": {}}]}]}',
      'subsystems.0.config.0.method',
    ],
    [
      'parameters in a list',
      '{"subsystems": [{"subsystem": "bdev", "config": [{"method": "m", "params": []}]}]}',
      'config.0.params',
    ],
  ])('refuses %s and says where', (_, text, where) => {
    const path = fileOf(text);
    expect(() => readConfigFile(path)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(() => readConfigFile(path)).toThrow(where);
    expect(() => readConfigFile(path)).toThrow(path);
  });

  it('refuses a file that is not there', () => {
    const path = join(directory, 'none.json');
    expect(() => readConfigFile(path)).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    expect(() => readConfigFile(path)).toThrow(`cannot read the configuration: there is no file ${path}`);
  });
});

describe('applying', () => {
  /** Records calls; the answers come by method. */
  function recorder(answers: Record<string, Awaited<ReturnType<CallConfig>>> = {}, ignoreErrors = false) {
    const calls: string[] = [];
    const warnings: string[] = [];
    const note = (message: string) => warnings.push(message);
    const log: Logger = { ...SILENT, warn: note, error: note };
    const make: CallConfig = async ({ method }) => {
      calls.push(method);
      return answers[method] ?? null;
    };
    return { calls, warnings, apply: (config: ConfigFile) => applyConfig(config, make, log, { ignoreErrors }) };
  }

  it('makes every call, one after the other, in the order of the file', async () => {
    const { calls, apply } = recorder();
    await apply({
      subsystems: [
        { subsystem: 'a', config: [call('one'), call('two')] },
        { subsystem: 'b', config: null },
        { subsystem: 'c', config: [call('three')] },
      ],
    });
    expect(calls).toEqual(['one', 'two', 'three']);
  });

  it('waits for each call to end before the next', async () => {
    const events: string[] = [];
    const slow: CallConfig = async ({ method }) => {
      events.push(`begin ${method}`);
      await new Promise((resolve) => setImmediate(resolve));
      events.push(`end ${method}`);
      return null;
    };
    await applyConfig(configOf(call('one'), call('two')), slow, SILENT);
    expect(events).toEqual(['begin one', 'end one', 'begin two', 'end two']);
  });

  const unknown = { code: -32_601, message: 'Method not found' };

  it('passes over what it does not know of subsystems that only SPDK has, with a line in the log', async () => {
    const { calls, warnings, apply } = recorder({ nvmf_set_config: unknown });
    await apply({
      subsystems: [
        { subsystem: 'nvmf', config: [call('nvmf_set_config')] },
        { subsystem: 'bdev', config: [call('two')] },
      ],
    });
    expect(calls).toEqual(['nvmf_set_config', 'two']);
    expect(warnings).toEqual(['configuration: nvmf_set_config is not known here and was passed over']);
  });

  it('does not pass over a disk of a kind that it does not have', async () => {
    const { calls, apply } = recorder({ bdev_lvol_create: unknown });
    await expect(apply(configOf(call('bdev_lvol_create'), call('two')))).rejects.toThrow('bdev_lvol_create failed');
    expect(calls).toEqual(['bdev_lvol_create']);
  });

  it('goes on after failures when told to, and logs each', async () => {
    const { calls, warnings, apply } = recorder({ one: { code: -17, message: 'File exists' }, two: unknown }, true);
    await apply(configOf(call('one'), call('two'), call('three')));
    expect(calls).toEqual(['one', 'two', 'three']);
    expect(warnings).toEqual([
      'configuration: bdev: one failed: File exists',
      'configuration: bdev: two failed: Method not found',
    ]);
  });

  it('ends at the first call that fails, and says which and why', async () => {
    const { calls, apply } = recorder({ two: { code: -17, message: 'File exists' } });
    await expect(apply(configOf(call('one'), call('two'), call('three')))).rejects.toMatchObject({
      code: 'EINVAL',
      message: 'configuration: bdev: two failed: File exists',
    });
    expect(calls).toEqual(['one', 'two']);
  });
});

describe('the default configuration', () => {
  it('is made of calls that exist, with parameters that they take', () => {
    const calls = DEFAULT_CONFIG.subsystems.flatMap(({ config }) => config ?? []);
    expect(calls.map(({ method }) => method)).toEqual(['bdev_malloc_create', 'vhost_create_blk_controller']);
    for (const { method, params } of calls)
      expect(METHODS[method as MethodName].params.parse(params)).toMatchObject(params ?? {});
  });
});
