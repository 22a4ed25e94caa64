/** What is kept of the configuration, and when; without a daemon around it. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Logger, SILENT } from '../base/log.ts';
import type { BdevEntry } from '../bdev/registry.ts';
import type { DaemonHandlers } from '../rpc/methods.ts';
import { type CallConfig, type ConfigCall, type ConfigFile, SUBSYSTEMS } from './config-file.ts';
import { keepChanges, State } from './state.ts';

let parent: string;
let path: string;
let live: Record<string, ConfigCall[]>;
const errors: string[] = [];
const open: State[] = [];
const log: Logger = { ...SILENT, error: (message) => errors.push(message) };

beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'ringhost-state-'));
  path = join(parent, 'state');
  live = {};
  errors.length = 0;
});
afterEach(async () => {
  vi.restoreAllMocks();
  for (const state of open.splice(0)) await state.close();
  rmSync(parent, { recursive: true });
});

function current(): ConfigFile {
  return { subsystems: SUBSYSTEMS.map(({ subsystem }) => ({ subsystem, config: [...(live[subsystem] ?? [])] })) };
}

function start(): State {
  const state = State.open(path, null, log);
  state.current = current;
  open.push(state);
  return state;
}

async function restart(state: State): Promise<State> {
  await state.close();
  live = {};
  return start();
}

const file = (): string => join(path, 'state.json');
const kept = (): ConfigFile & { version: number } => JSON.parse(readFileSync(file(), 'utf8'));
const bdevsOf = ({ subsystems }: ConfigFile): readonly ConfigCall[] | null | undefined =>
  subsystems.find(({ subsystem }) => subsystem === 'bdev')?.config;
const bdev = (name: string, parts: object = {}): ConfigCall => ({
  method: 'bdev_null_create',
  params: { name, num_blocks: 8, ...parts },
});
const blk = (ctrlr: string, dev: string): ConfigCall => ({
  method: 'vhost_create_blk_controller',
  params: { ctrlr, dev_name: dev },
});
const scsi = (ctrlr: string): ConfigCall => ({ method: 'vhost_create_scsi_controller', params: { ctrlr } });
const lun = (ctrlr: string, target: number, dev: string): ConfigCall => ({
  method: 'vhost_scsi_controller_add_target',
  params: { ctrlr, scsi_target_num: target, bdev_name: dev },
});

/** Makes whatever it is told, but for calls in which one of these words is. */
function maker(...broken: readonly string[]): CallConfig {
  return async (call) => {
    const text = JSON.stringify(call);
    if (broken.some((word) => text.includes(word))) return { code: -2, message: 'No such file', data: { detail: 'x' } };
    const subsystem = call.method.startsWith('bdev')
      ? 'bdev'
      : call.method.includes('blk')
        ? 'vhost_blk'
        : 'vhost_scsi';
    live[subsystem] = [...(live[subsystem] ?? []), call];
    return null;
  };
}
const missingOf = (state: State) => state.missing.map(({ method, params, reason }) => ({ method, params, reason }));

describe('the state', () => {
  it('is what there is, for its owner alone, and comes back in an order that works', async () => {
    const state = start();
    expect(state.isNew).toBe(true);
    await state.restore(maker());
    live = { bdev: [bdev('A'), bdev('B')], vhost_blk: [blk('c', 'A')], vhost_scsi: [scsi('s'), lun('s', 0, 'B')] };
    await state.keep();
    expect([statSync(path).mode & 0o777, statSync(file()).mode & 0o777]).toEqual([0o700, 0o600]);
    const wanted = current();
    expect(kept()).toEqual({ version: 1, ...wanted });
    const next = await restart(state);
    expect(next.isNew).toBe(false);
    expect(next.missing).toHaveLength(5);
    await next.restore(maker());
    expect([next.missing, current()]).toEqual([[], wanted]);
    expect(errors).toEqual([]);
  });

  it('keeps what could not be brought back, and says so', async () => {
    const state = start();
    live = { bdev: [bdev('A'), bdev('B')], vhost_blk: [blk('c', 'A'), blk('d', 'B')] };
    await state.keep();
    const before = kept();
    const next = await restart(state);
    await next.restore(maker('"A"'));
    expect(bdevsOf(current())).toEqual([bdev('B')]);
    const reason = 'No such file: x';
    expect(missingOf(next)).toEqual([
      { ...bdev('A'), reason },
      { ...blk('c', 'A'), reason },
    ]);
    expect(errors[0]).toBe('state: bdev_null_create A could not be brought back, and is kept: No such file: x');
    // What is missing comes after what is there, and nothing else has changed.
    expect(kept().subsystems.map(({ config }) => config?.length)).toEqual([0, 2, 2, 0]);
    const last = await restart(next);
    await last.restore(maker());
    expect(last.missing).toEqual([]);
    expect(current().subsystems.map(({ config }) => new Set(config?.map((call) => JSON.stringify(call))))).toEqual(
      before.subsystems.map(({ config }) => new Set(config?.map((call) => JSON.stringify(call)))),
    );
  });

  it('lets missing things be tried again, made anew and forgotten', async () => {
    const state = start();
    live = { bdev: [bdev('A'), bdev('B'), bdev('C')], vhost_scsi: [scsi('s'), lun('s', 0, 'A'), lun('s', 1, 'B')] };
    await state.keep();
    const next = await restart(state);
    await next.restore(maker('"A"', '"B"', '"C"'));
    expect(next.missing).toHaveLength(5);
    await next.restore(maker('"B"', '"C"'));
    expect(next.missing).toHaveLength(3);
    // Somebody makes a B, with another size: that is the one to keep.
    live['bdev'] = [...(live['bdev'] ?? []), bdev('B', { num_blocks: 16 })];
    await next.keep();
    expect(missingOf(next).map(({ params }) => params?.['bdev_name'] ?? params?.['name'])).toEqual(['C', 'B']);
    await next.forget(next.missing[0]?.id ?? 0);
    await expect(next.forget(99)).rejects.toMatchObject({ code: 'ENOENT' });
    // The controller goes, and what was missing of it.
    live['vhost_scsi'] = [];
    await next.keep();
    expect(next.missing).toEqual([]);
    expect(bdevsOf(kept())).toEqual([bdev('A'), bdev('B', { num_blocks: 16 })]);
  });

  it('keeps a disk whose device went away, and the LUN that showed it', async () => {
    const state = start();
    live = { bdev: [bdev('A')], vhost_scsi: [scsi('s'), lun('s', 0, 'A')] };
    await state.keep();
    const entry = { name: 'A' } as BdevEntry;
    state.keepGone([entry], [{ method: 'bdev_null_create', params: { name: 'A', num_blocks: 8 } }]);
    // While it goes, it may still look as if it were there.
    await state.keep();
    expect(kept()).toEqual({ version: 1, ...current() });
    live = { vhost_scsi: [scsi('s')] };
    state.bdevDeleted(entry);
    await state.keep();
    expect(missingOf(state)).toEqual([
      { ...bdev('A'), reason: 'its device is gone' },
      { ...lun('s', 0, 'A'), reason: 'its device is gone' },
    ]);
    const next = await restart(state);
    await next.restore(maker());
    expect([next.missing, live['bdev'], live['vhost_scsi']]).toEqual([[], [bdev('A')], [scsi('s'), lun('s', 0, 'A')]]);
  });

  it('is not written when nothing has changed, and once for all who wait', async () => {
    const state = start();
    const write = vi.spyOn(state.directory, 'write');
    await state.keep();
    await state.keep();
    expect(write).toHaveBeenCalledTimes(1);
    live = { bdev: [bdev('A')] };
    const first = state.keep();
    await Promise.resolve();
    const others = Array.from({ length: 50 }, (_, i) => {
      live['bdev'] = [...(live['bdev'] ?? []), bdev(`B${i}`)];
      return state.keep();
    });
    await Promise.all([first, ...others]);
    expect(write.mock.calls.length).toBeLessThanOrEqual(3);
    expect(bdevsOf(kept())).toHaveLength(51);
  });
});

describe('a directory', () => {
  it('belongs to one daemon', async () => {
    const state = start();
    expect(() => State.open(path, null, log)).toThrow(
      expect.objectContaining({
        code: 'EBUSY',
        message: `--state-dir ${path} is in use by another daemon, process ${process.pid}`,
      }),
    );
    await state.close();
    start();
  });

  it('must have a place', () => {
    path = join(parent, 'none', 'state');
    expect(start).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  });

  it('that a killed daemon left in the middle of a write has the state from before it', async () => {
    const state = start();
    live = { bdev: [bdev('A')] };
    await state.keep();
    writeFileSync(join(path, 'state.json.new'), '{"version": 1, "subsys');
    const next = await restart(state);
    await next.restore(maker());
    expect(live['bdev']).toEqual([bdev('A')]);
    live['bdev'] = [];
    await next.keep();
    expect(readdirSync(path).toSorted()).toEqual(['lock', 'state.json']);
  });

  it.each([
    ['cut short', '{"version": 1, "subsystems": [{"subsys', 'is not JSON'],
    ['empty', '', 'is not JSON'],
    ['of zeroes', '\0'.repeat(100), 'is not JSON'],
    ['of another version', '{"version": 2, "subsystems": []}', 'its version is 2'],
    ['of no version', '{"subsystems": []}', 'its version is undefined'],
    ['of other subsystems', '{"version": 1, "subsystems": [{"subsystem": "x", "config": []}]}', 'a subsystem x'],
    [
      'of other things',
      '{"version": 1, "subsystems": [{"subsystem": "bdev", "config": [1]}]}',
      'subsystems.0.config.0',
    ],
  ])('with a file that is %s is refused with advice, and the file stays as it is', async (_, text, complaint) => {
    await start().close();
    writeFileSync(file(), text);
    expect(start).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(start).toThrow(complaint);
    expect(start).toThrow('it was left as it is: mend it, or move it away to start with nothing');
    expect(readFileSync(file(), 'utf8')).toBe(text);
  });
});

describe('a disk that is full', () => {
  function full(state: State): { mend(): void } {
    const error = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', errno: -28 });
    const spy = vi.spyOn(state.directory, 'write').mockRejectedValue(error);
    return { mend: () => spy.mockRestore() };
  }

  it('fails the change that was made, refuses others until it is kept, and loses nothing', async () => {
    const state = start();
    await state.restore(maker());
    const made: string[] = [];
    const handlers = keepChanges(
      {
        bdev_null_create: ({ name }: { name: string }) => {
          made.push(name);
          live['bdev'] = made.map((one) => bdev(one));
          return name;
        },
        bdev_null_delete: () => Promise.reject(new Error('it would not go')),
        bdev_get_bdevs: () => [],
      } as unknown as DaemonHandlers,
      state,
    );
    const create = (name: string) => handlers.bdev_null_create({ name } as never, {} as never);
    expect(await create('A')).toBe('A');
    const disk = full(state);
    await expect(create('B')).rejects.toMatchObject({
      code: 'ENOSPC',
      message: expect.stringMatching(/in effect, but a restart brings back what was there before/),
    });
    await expect(create('C')).rejects.toMatchObject({
      code: 'ENOSPC',
      message: expect.stringMatching(/nothing is changed/),
    });
    await expect(handlers.bdev_null_delete({ name: 'A' }, {} as never)).rejects.toThrow('nothing is changed');
    // Who only reads is not concerned.
    expect(await handlers.bdev_get_bdevs({} as never, {} as never)).toEqual([]);
    expect([made, bdevsOf(kept())]).toEqual([['A', 'B'], [bdev('A')]]);
    disk.mend();
    await expect(handlers.bdev_null_delete({ name: 'A' }, {} as never)).rejects.toThrow('it would not go');
    expect(bdevsOf(kept())).toEqual([bdev('A'), bdev('B')]);
    expect(await create('C')).toBe('C');
    expect(bdevsOf(kept())).toEqual([bdev('A'), bdev('B'), bdev('C')]);
  });

  it('does not keep a daemon from starting with what it had', async () => {
    const state = start();
    live = { bdev: [bdev('A'), bdev('B')] };
    await state.keep();
    const next = await restart(state);
    const disk = full(next);
    await next.restore(maker('"A"'));
    expect(live['bdev']).toEqual([bdev('B')]);
    disk.mend();
    await next.beReady();
    expect(next.missing).toHaveLength(1);
  });
});

describe('changes', () => {
  it('wait until everything was brought back, and are not kept when the daemon stops', async () => {
    const state = start();
    const create = vi.fn<() => string>(() => 'A');
    const handlers = keepChanges({ bdev_null_create: create } as unknown as DaemonHandlers, state);
    const answer = Promise.resolve(handlers.bdev_null_create({} as never, {} as never));
    await new Promise((resolve) => setImmediate(resolve));
    expect(create).not.toHaveBeenCalled();
    await state.restore(maker());
    expect(await answer).toBe('A');
    await state.close();
    live = { bdev: [bdev('A')] };
    await expect(handlers.bdev_null_create({} as never, {} as never)).rejects.toMatchObject({ code: 'ECANCELED' });
    expect(bdevsOf(kept())).toEqual([]);
    expect(existsSync(join(path, 'state.json.new'))).toBe(false);
  });
});
