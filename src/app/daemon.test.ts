/** A daemon that cannot start leaves nothing behind. What one does that starts is for the integration tests. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { threadNames } from '../../test/support/processes.ts';
import { until } from '../../test/support/waiting.ts';
import { OWNER_ONLY } from '../base/socket-access.ts';
import { allowedCores } from '../sys/thread.ts';
import { Daemon } from './daemon.ts';
import { DaemonLog } from './logger.ts';
import type { DaemonOptions } from './options.ts';

let directory: string;
const deaths: string[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-daemon-'));
});

afterEach(() => rmSync(directory, { recursive: true }));

function start(parts: Partial<DaemonOptions> = {}): Promise<Daemon> {
  const log = new DaemonLog('json');
  log.level = 'ERROR';
  const options: DaemonOptions = {
    socketDirectory: directory,
    cores: allowedCores().slice(0, 1),
    memoryBytes: 2 ** 30,
    rpcSocket: join(directory, 'rpc.sock'),
    configFile: undefined,
    useDefaultConfig: true,
    mode: 'interrupt',
    access: OWNER_ONLY,
    account: null,
    http: null,
    ...parts,
  };
  return Daemon.start(options, log, (error) => deaths.push(error.message));
}

const reactorThreads = (): string[] => threadNames().filter((name) => name.startsWith('reactor_'));

function configFile(...config: readonly { method: string; params: Record<string, unknown> }[]): string {
  const path = join(directory, 'config.json');
  writeFileSync(path, JSON.stringify({ subsystems: [{ subsystem: 'test', config }] }));
  return path;
}

async function expectNothingLeft(files: readonly string[] = []): Promise<void> {
  await until(() => reactorThreads().length === 0, 'end of the reactors');
  expect(readdirSync(directory)).toEqual(files);
  expect(deaths).toEqual([]);
}

describe('a daemon', () => {
  it('lets a bdev go whose device is gone, as if an operator had deleted it', async () => {
    const daemon = await start();
    const [entry] = daemon.bdevs.list();
    const [reactor] = daemon.reactors;
    if (entry === undefined || reactor === undefined) throw new Error('the default configuration has a bdev');
    reactor.onBdevGone(entry.id);
    reactor.onBdevGone(entry.id);
    reactor.onBdevGone(entry.id + 1);
    await until(() => daemon.bdevs.list().length === 0, 'end of the bdev');
    expect(daemon.vhost.list()).toMatchObject([{ name: 'vhost.0', isBdevRemoved: true }]);
    await daemon.stop();
    await expectNothingLeft();
  });

  it('serves what it is told to, and takes everything away when it stops', async () => {
    const daemon = await start();
    expect(readdirSync(directory)).toEqual(expect.arrayContaining(['rpc.sock', 'vhost.0']));
    expect(daemon.vhost.list().map(({ name }) => name)).toEqual(['vhost.0']);
    expect(reactorThreads()).toHaveLength(1);
    await Promise.all([daemon.stop(), daemon.stop()]);
    await expectNothingLeft();
  });

  it('does not start without its socket directory', async () => {
    await expect(start({ socketDirectory: join(directory, 'none') })).rejects.toMatchObject({ code: 'ENOENT' });
    await expectNothingLeft();
  });

  it('does not start when one of its reactors cannot: the others end', async () => {
    const cores = [...allowedCores().slice(0, 1), 1023];
    await expect(start({ cores })).rejects.toMatchObject({ code: 'EINVAL' });
    await expectNothingLeft();
  });

  it('does not start with a configuration that fails half way', async () => {
    const path = configFile(
      { method: 'bdev_malloc_create', params: { name: 'A', num_blocks: 8, block_size: 512 } },
      { method: 'vhost_create_blk_controller', params: { ctrlr: 'c', dev_name: 'A' } },
      { method: 'vhost_create_blk_controller', params: { ctrlr: 'd', dev_name: 'B' } },
    );
    await expect(start({ configFile: path })).rejects.toThrow('vhost_create_blk_controller failed');
    await expectNothingLeft(['config.json']);
  });

  it('does not start where another one listens, and does not disturb it', async () => {
    const first = await start();
    await expect(start()).rejects.toMatchObject({ code: 'EADDRINUSE' });
    expect(readdirSync(directory)).toContain('vhost.0');
    expect(reactorThreads()).toHaveLength(1);
    await first.stop();
    await expectNothingLeft();
  });
});
