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
    ignoreConfigErrors: false,
    stateDirectory: undefined,
    useDefaultConfig: true,
    mode: 'interrupt',
    access: OWNER_ONLY,
    account: null,
    http: null,
    rpcHttps: null,
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

  it('starts with the configuration that a vhost target of SPDK saved, as it is', async () => {
    const call = (method: string, params: Record<string, unknown>) => ({ method, params });
    const cpumask = `0x${(2 ** (allowedCores()[0] ?? 0)).toString(16)}`;
    const malloc = {
      ...{ name: 'Malloc0', num_blocks: 2048, block_size: 512, physical_block_size: 512 },
      ...{ uuid: '5c0b6b0e-7f5c-4b8e-9c2f-2d1a7f0f3f55', optimal_io_boundary: 0, md_size: 0, dif_type: 0 },
      ...{ dif_is_head_of_md: false, dif_pi_format: 0 },
    };
    const subsystems = [
      { subsystem: 'scheduler', config: [call('framework_set_scheduler', { name: 'static' })] },
      { subsystem: 'keyring', config: [] },
      { subsystem: 'iobuf', config: [call('iobuf_set_options', { small_pool_count: 8192, large_pool_count: 1024 })] },
      { subsystem: 'sock', config: [call('sock_set_default_impl', { impl_name: 'posix' })] },
      { subsystem: 'accel', config: [call('accel_set_options', { small_cache_size: 128 })] },
      {
        subsystem: 'bdev',
        config: [
          call('bdev_set_options', { bdev_io_pool_size: 65_535, bdev_io_cache_size: 256 }),
          call('bdev_raid_set_options', { process_window_size_kb: 1024 }),
          call('bdev_nvme_set_options', { action_on_timeout: 'none' }),
          call('bdev_nvme_set_hotplug', { period_us: 100_000, enable: false }),
          call('bdev_malloc_create', malloc),
          { method: 'bdev_wait_for_examine' },
        ],
      },
      { subsystem: 'scsi', config: null },
      {
        subsystem: 'vhost_blk',
        config: [
          call('vhost_create_blk_controller', {
            ...{ ctrlr: 'vhost.1', dev_name: 'Malloc0', cpumask, readonly: false },
            transport: 'vhost_user_blk',
          }),
        ],
      },
      {
        subsystem: 'vhost_scsi',
        config: [
          call('vhost_create_scsi_controller', { ctrlr: 'vhost.0', cpumask, delay: true }),
          call('vhost_scsi_controller_add_target', { ctrlr: 'vhost.0', bdev_name: 'Malloc0', scsi_target_num: 2 }),
          call('vhost_start_scsi_controller', { ctrlr: 'vhost.0' }),
        ],
      },
    ];
    const path = join(directory, 'spdk.json');
    writeFileSync(path, JSON.stringify({ subsystems }));
    const daemon = await start({ configFile: path });
    expect(daemon.bdevs.get('Malloc0').bdev.uuid).toBe(malloc.uuid);
    expect(daemon.vhost.list().map(({ name, isListening }) => [name, isListening])).toEqual([
      ['vhost.1', true],
      ['vhost.0', true],
    ]);
    expect(daemon.vhost.getScsi('vhost.0').luns()).toMatchObject([{ target: 2, lun: 0 }]);
    await daemon.stop();
    await expectNothingLeft(['spdk.json']);
  });

  it('keeps a disk whose device is gone in its state, and the LUN that showed it', async () => {
    const stateDirectory = join(directory, 'state');
    const path = configFile(
      { method: 'bdev_malloc_create', params: { name: 'A', num_blocks: 8, block_size: 512 } },
      { method: 'vhost_create_scsi_controller', params: { ctrlr: 's' } },
      { method: 'vhost_scsi_controller_add_target', params: { ctrlr: 's', scsi_target_num: 0, bdev_name: 'A' } },
    );
    const daemon = await start({ configFile: path, stateDirectory });
    daemon.reactors[0]?.onBdevGone(daemon.bdevs.get('A').id);
    await until(() => daemon.bdevs.list().length === 0, 'end of the bdev');
    expect(daemon.state?.missing.map(({ method, reason }) => [method, reason])).toEqual([
      ['bdev_malloc_create', 'its device is gone'],
      ['vhost_scsi_controller_add_target', 'its device is gone'],
    ]);
    await daemon.state?.keep();
    await daemon.stop();
    const next = await start({ stateDirectory });
    expect(next.state?.missing).toEqual([]);
    expect(next.vhost.getScsi('s').luns()).toHaveLength(1);
    await next.stop();
    await expectNothingLeft(['config.json', 'state']);
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
