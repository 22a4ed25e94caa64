/**
 * A daemon with `--state-dir` is killed at any moment: the next one has what was acknowledged, with or without the
 * change that was being made. `RINGHOST_KILLS=300` makes it the long run (docs/configuration.md).
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ConfigCall } from '../../src/app/config-file.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { waitUntil } from './hostile-helpers.ts';

const KILLS = Number(process.env['RINGHOST_KILLS'] ?? 6);
const SEED = Number(process.env['RINGHOST_SEED'] ?? Date.now() % 1e6);
/** A daemon lives until it has made less than so many changes, and for less than so many milliseconds more. */
const CHANGES_MAX = 10;
const LIFE_MS_MAX = 25;
const POLL_MS = 20;
const COMMAND = join(import.meta.dirname, '..', '..', 'bin', 'ringhost');

type Values = Readonly<Record<string, unknown>>;

let directory: string;
let state: string;
let child: ChildProcess | null = null;
let output = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-kept-'));
  state = join(directory, 'state');
  output = '';
});
afterEach(async () => {
  await end('SIGKILL');
  rmSync(directory, { recursive: true });
});

function run(...args: readonly string[]): ChildProcess {
  const options = ['-S', directory, '-r', join(directory, 'rpc.sock'), '-m', '0x1', '--state-dir', state, ...args];
  child = spawn(process.execPath, [COMMAND, 'serve', ...options], { stdio: ['ignore', 'pipe', 'pipe'] });
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => (output += String(chunk)));
  return child;
}

const isAlive = (): boolean => child !== null && child.exitCode === null && child.signalCode === null;

/** Starts a daemon; resolves with a client when it has brought back what it could. */
async function start(...args: readonly string[]): Promise<RpcClient> {
  run(...args);
  for (let client: RpcClient | null = null; ; await sleep(POLL_MS)) {
    if (!isAlive()) throw new Error(`the daemon ended:\n${output}`);
    client = await RpcClient.connect(join(directory, 'rpc.sock')).catch(() => null);
    if (client === null) continue;
    await client.call('framework_wait_init');
    return client;
  }
}

async function end(signal: NodeJS.Signals): Promise<void> {
  const process = child;
  if (process === null || !isAlive()) return;
  const gone = once(process, 'exit');
  process.kill(signal);
  await gone;
}

/** The end of a daemon that does not start. */
async function failure(...args: readonly string[]): Promise<string> {
  const [code] = (await once(run(...args), 'close')) as [number];
  expect(code).toBe(1);
  return output;
}

/** A generator of numbers below `limit` (mulberry32): the same for the same seed. */
function random(seed: number): (limit: number) => number {
  let a = seed >>> 0;
  return (limit) => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  };
}

/** What there should be: by name, what a bdev or controller is. Plain data, so that two can be compared. */
interface Model {
  readonly bdevs: Record<string, string>;
  readonly blk: Record<string, string>;
  /** Bdevs by target. */
  readonly scsi: Record<string, Record<string, string>>;
}

interface Change {
  readonly method: string;
  readonly params: Values;
  apply(model: Model): void;
}

const BDEVS = ['A', 'B', 'C', 'D', 'E', 'F'];
const CONTROLLERS = ['c', 'd', 'e'];
const BLOCK = 4096;

/** A change that a daemon with this configuration takes. */
function nextChange(model: Model, pick: (limit: number) => number): Change {
  const one = <T>(list: readonly T[]): T => list[pick(list.length)] as T;
  const used = new Set([
    ...Object.values(model.blk),
    ...Object.values(model.scsi).flatMap((luns) => Object.values(luns)),
  ]);
  const name = one(BDEVS);
  const ctrlr = one(CONTROLLERS);
  const isThere = name in model.bdevs;
  switch (pick(4)) {
    case 0: {
      if (isThere && !used.has(name)) return change('delete_bdev', { name }, ({ bdevs }) => delete bdevs[name]);
      break;
    }
    case 1: {
      const owner = [model.blk, model.scsi].find((some) => ctrlr in some);
      if (owner !== undefined) {
        return change('vhost_delete_controller', { ctrlr }, ({ blk, scsi }) => {
          delete blk[ctrlr];
          delete scsi[ctrlr];
        });
      }
      if (isThere && pick(2) === 0) {
        return change('vhost_create_blk_controller', { ctrlr, dev_name: name }, ({ blk }) => (blk[ctrlr] = name));
      }
      return change('vhost_create_scsi_controller', { ctrlr }, ({ scsi }) => (scsi[ctrlr] = {}));
    }
    case 2: {
      const target = pick(4);
      const luns = model.scsi[ctrlr];
      const scsi = { ctrlr, scsi_target_num: target };
      if (luns !== undefined && target in luns) {
        return change('vhost_scsi_controller_remove_target', scsi, (m) => delete m.scsi[ctrlr]?.[target]);
      }
      if (luns !== undefined && isThere) {
        return change('vhost_scsi_controller_add_target', { ...scsi, bdev_name: name }, (m) => {
          (m.scsi[ctrlr] as Record<string, string>)[target] = name;
        });
      }
      break;
    }
    default:
  }
  return isThere ? growth(model, name) : creation(name, pick(3));
}

function creation(name: string, kind: number): Change {
  const filename = join(directory, 'disk');
  const set = (text: string) => (m: Model) => (m.bdevs[name] = text);
  if (kind === 0) {
    // Several disks on one file.
    const params = { name, filename, block_size: BLOCK, uuid: uuidOf(name), fallocate: true, unlocked: true };
    return change('bdev_aio_create', params, set('aio'));
  }
  const method = kind === 1 ? 'bdev_null_create' : 'bdev_malloc_create';
  return change(method, { name, num_blocks: 256, block_size: BLOCK }, set(`${kind === 1 ? 'null' : 'malloc'} 1`));
}

function growth(model: Model, name: string): Change {
  const [kind = '', mebibytes] = (model.bdevs[name] as string).split(' ');
  if (kind === 'aio') return change('bdev_aio_rescan', { name }, () => undefined);
  const size = (Number(mebibytes) % 8) + 1;
  // It may only grow, once somebody uses it.
  const params = { name, new_size: Math.max(size, Number(mebibytes)) };
  return change(`bdev_${kind}_resize`, params, (m) => (m.bdevs[name] = `${kind} ${params.new_size}`));
}

function change(method: string, params: Values, apply: (model: Model) => unknown): Change {
  return { method, params, apply: (model) => void apply(model) };
}

const uuidOf = (name: string): string => `00000000-0000-4000-8000-0000000000${name.charCodeAt(0).toString(16)}`;

/** The model of what a daemon has. */
function modelOf(calls: readonly ConfigCall[]): Model {
  const model: Model = { bdevs: {}, blk: {}, scsi: {} };
  for (const { method, params = {} } of calls) {
    const text = (name: string): string => String(params[name]);
    const [, kind = ''] = method.split('_');
    if (method === 'bdev_aio_create') model.bdevs[text('name')] = kind;
    else if (method.startsWith('bdev_')) {
      model.bdevs[text('name')] = `${kind} ${(Number(params['num_blocks']) * BLOCK) / 2 ** 20}`;
    } else if (method === 'vhost_create_blk_controller') model.blk[text('ctrlr')] = text('dev_name');
    else if (method === 'vhost_create_scsi_controller') model.scsi[text('ctrlr')] = {};
    else if (method === 'vhost_scsi_controller_add_target') {
      (model.scsi[text('ctrlr')] as Record<string, string>)[text('scsi_target_num')] = text('bdev_name');
    } else expect(method).toBe('vhost_start_scsi_controller');
  }
  return model;
}

async function observe(client: RpcClient): Promise<Model> {
  const { subsystems } = await client.call('save_config');
  return modelOf(subsystems.flatMap(({ config }) => config ?? []));
}

describe('a daemon that is killed while its configuration changes', () => {
  it(`has what was acknowledged when it starts again (${KILLS} times, seed ${SEED})`, {
    timeout: 3_600_000,
  }, async () => {
    writeFileSync(join(directory, 'disk'), '');
    truncateSync(join(directory, 'disk'), 1 << 20);
    const pick = random(SEED);
    let acknowledged: Model = { bdevs: {}, blk: {}, scsi: {} };
    let begun: Change | null = null;
    let changes = 0;
    let finished = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      const client = await start();
      const found = await observe(client);
      const withBegun = structuredClone(acknowledged);
      begun?.apply(withBegun);
      expect([acknowledged, withBegun]).toContainEqual(found);
      expect((await client.call('state_get_missing')).missing).toEqual([]);
      if (begun !== null && JSON.stringify(found) !== JSON.stringify(acknowledged)) finished++;
      acknowledged = found;
      let life: Promise<void> | null = null;
      const last = pick(CHANGES_MAX);
      begun = null;
      for (let made = 0; isAlive(); made++, changes++) {
        if (made === last) life = sleep(pick(LIFE_MS_MAX)).then(() => end('SIGKILL'));
        begun = nextChange(acknowledged, pick);
        try {
          await client.request(begun.method, begun.params);
        } catch (error) {
          if (isAlive() && !/closed the connection/.test((error as Error).message)) throw error;
          break;
        }
        begun.apply(acknowledged);
        begun = null;
      }
      client.close();
      await life;
    }
    console.info(`${KILLS} kills, ${changes} changes; ${finished} that were under way had been kept`);
    expect(changes).toBeGreaterThan(0);
  });

  it('has it too when it is killed while it starts', { timeout: 600_000 }, async () => {
    const client = await start('--default-config');
    for (const name of BDEVS) await client.call('bdev_malloc_create', { name, num_blocks: 8, block_size: BLOCK });
    const before = await observe(client);
    client.close();
    await end('SIGKILL');
    const kept = readFileSync(join(state, 'state.json'), 'utf8');
    const pick = random(SEED);
    for (let i = 0; i < Math.min(2, KILLS); i++) {
      output = '';
      run();
      // Any moment of its life, from before it has read anything to after it serves.
      if (i > 0) await waitUntil('it begins', () => output.includes('Starting') || !isAlive());
      await sleep(pick(200));
      await end('SIGKILL');
      expect(readFileSync(join(state, 'state.json'), 'utf8')).toBe(kept);
    }
    // The default configuration is for a daemon that has never kept anything.
    const next = await start('--default-config');
    expect(await observe(next)).toEqual(before);
    next.close();
  });
});

describe('a daemon with a state directory', () => {
  it('says what it could not bring back, keeps it, and brings it back when it can', async () => {
    const filename = join(directory, 'disk');
    writeFileSync(filename, '');
    truncateSync(filename, 1 << 20);
    let client = await start();
    await client.call('bdev_aio_create', { name: 'A', filename });
    await client.call('vhost_create_scsi_controller', { ctrlr: 's' });
    await client.call('vhost_scsi_controller_add_target', { ctrlr: 's', scsi_target_num: 3, bdev_name: 'A' });
    await client.call('vhost_create_blk_controller', { ctrlr: 'c', dev_name: 'A' });
    const before = await observe(client);
    client.close();
    await end('SIGTERM');
    rmSync(filename);

    client = await start();
    expect(await observe(client)).toEqual({ bdevs: {}, blk: {}, scsi: { s: {} } });
    const { missing } = await client.call('state_get_missing');
    expect(missing.map(({ method }) => method)).toEqual([
      'bdev_aio_create',
      'vhost_create_blk_controller',
      'vhost_scsi_controller_add_target',
    ]);
    expect(missing[0]?.reason).toMatch(/No such file or directory: cannot open/);
    expect(output).toMatch(/bdev_aio_create A could not be brought back, and is kept/);
    expect(output).toMatch(/3 kept calls failed: ringhost rpc state_get_missing shows them/);
    // Changes go on meanwhile, and what is missing stays.
    await client.call('bdev_null_create', { name: 'N', num_blocks: 256, block_size: BLOCK });
    client.close();
    await end('SIGKILL');
    client = await start();
    expect((await client.call('state_get_missing')).missing).toHaveLength(3);
    writeFileSync(filename, '');
    truncateSync(filename, 1 << 20);
    expect((await client.call('state_retry_missing')).missing).toEqual([]);
    expect(await observe(client)).toEqual({ ...before, bdevs: { A: 'aio', N: 'null 1' } });
    client.close();
  });

  it('does not share it, and does not touch what it cannot read', async () => {
    (await start()).close();
    const other = ['-r', join(directory, 'other.sock'), '-S', tmpdir(), '-m', '0x1'];
    const second = spawnSync(process.execPath, [COMMAND, 'serve', ...other, '--state-dir', state], {
      encoding: 'utf8',
    });
    expect([second.status, second.stderr]).toEqual([
      1,
      expect.stringContaining(`--state-dir ${state} is in use by another daemon, process ${child?.pid}`),
    ]);
    await end('SIGTERM');
    const file = join(state, 'state.json');
    const torn = readFileSync(file, 'utf8').slice(0, -40);
    writeFileSync(file, torn);
    output = '';
    expect(await failure('--default-config')).toMatch(/state\.json is not JSON: .*it was left as it is: mend it/);
    expect(readFileSync(file, 'utf8')).toBe(torn);
    expect(existsSync(join(directory, 'vhost.0'))).toBe(false);
  });

  it.runIf(process.getuid?.() === 0)('on a full disk refuses changes, and goes on serving', async () => {
    mkdirSync(state);
    expect(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', state]).status).toBe(0);
    try {
      const client = await start();
      await client.call('bdev_null_create', { name: 'A', num_blocks: 256, block_size: BLOCK });
      const filler = join(state, 'filler');
      spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4k']);
      const create = (name: string) => client.call('bdev_null_create', { name, num_blocks: 256, block_size: BLOCK });
      await expect(create('B')).rejects.toThrow(/No space left on device.*a restart brings back what was there before/);
      await expect(create('C')).rejects.toThrow(/No space left on device.*nothing is changed until it can be/);
      expect(Object.keys((await observe(client)).bdevs)).toEqual(['A', 'B']);
      rmSync(filler);
      await create('C');
      client.close();
      await end('SIGKILL');
      const next = await start();
      expect(Object.keys((await observe(next)).bdevs)).toEqual(['A', 'B', 'C']);
      next.close();
      await end('SIGTERM');
    } finally {
      await end('SIGKILL');
      spawnSync('umount', [state]);
    }
  });
});
