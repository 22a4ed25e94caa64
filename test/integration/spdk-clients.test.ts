/** What SPDK's clients and configuration files call besides disks and controllers. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

/** The calls that a vhost target of SPDK saves beside those of disks and controllers, with some of their parameters. */
const SETTINGS = [
  { subsystem: 'scheduler', config: [{ method: 'framework_set_scheduler', params: { name: 'static' } }] },
  { subsystem: 'iobuf', config: [{ method: 'iobuf_set_options', params: { small_pool_count: 8192 } }] },
  {
    subsystem: 'sock',
    config: [
      { method: 'sock_set_default_impl', params: { impl_name: 'posix' } },
      { method: 'sock_impl_set_options', params: { impl_name: 'ssl', recv_buf_size: 4096, tls_version: 0 } },
    ],
  },
  { subsystem: 'accel', config: [{ method: 'accel_set_options', params: { small_cache_size: 128 } }] },
  {
    subsystem: 'bdev',
    config: [
      { method: 'bdev_set_options', params: { bdev_io_pool_size: 65_535, bdev_auto_examine: true } },
      { method: 'bdev_raid_set_options', params: { process_max_bandwidth_mb_sec: 100 } },
      { method: 'bdev_iscsi_set_options', params: { timeout_sec: 30 } },
      { method: 'bdev_nvme_set_options', params: { action_on_timeout: 'none', keep_alive_timeout_ms: 10_000 } },
      { method: 'bdev_nvme_set_hotplug', params: { period_us: 100_000, enable: false } },
      { method: 'bdev_malloc_create', params: { name: 'Saved', num_blocks: 8192, block_size: 512 } },
      { method: 'bdev_wait_for_examine' },
    ],
  },
  { subsystem: 'scsi', config: null },
  { subsystem: 'vhost_blk', config: [{ method: 'virtio_blk_create_transport', params: { name: 'vhost_user_blk' } }] },
  { subsystem: 'vhost_scsi', config: [] },
];

let daemon: RinghostDaemon;
beforeAll(async () => {
  daemon = await RinghostDaemon.start();
});
afterAll(() => daemon.close());

it('knows every call that SPDK saves, which rpc.py load_config asks for first, and makes them', async () => {
  const known = await daemon.rpc.call('rpc_get_methods', { current: true });
  const calls = SETTINGS.flatMap(({ config }): { method: string; params?: Record<string, unknown> }[] => config ?? []);
  expect(calls.filter(({ method }) => !known.includes(method))).toEqual([]);
  for (const { method, params } of calls) {
    expect(await daemon.rpc.call(method as 'bdev_set_options', params ?? {})).toEqual(
      method === 'bdev_malloc_create' ? 'Saved' : true,
    );
  }
  expect(daemon.log).toContain('RPC bdev_nvme_set_options has no effect here');
  await expect(daemon.rpc.call('framework_set_scheduler', { name: 'dynamic' })).rejects.toThrow(
    'there is no scheduler "dynamic": the only one is static',
  );
  await expect(daemon.rpc.call('virtio_blk_create_transport', { name: 'vfio_user' })).rejects.toThrow(
    'the only one is vhost_user_blk',
  );
});

it('compares a file of SPDK with what there is, settings left out', async () => {
  const plan = await daemon.rpc.call('config_apply', { subsystems: SETTINGS, dry_run: true });
  expect(plan.changes).toEqual([]);
});

it('tells of bdevs that come and go', async () => {
  const { rpc } = daemon;
  expect(await rpc.call('notify_get_types', {})).toEqual(['bdev_register', 'bdev_unregister']);
  const before = (await rpc.call('notify_get_notifications', {})).at(-1)?.id ?? -1;
  for (const name of ['A', 'B']) await rpc.call('bdev_null_create', { name, num_blocks: 8, block_size: 512 });
  await rpc.call('bdev_null_delete', { name: 'A' });
  const expected = [
    { type: 'bdev_register', ctx: 'A', id: before + 1 },
    { type: 'bdev_register', ctx: 'B', id: before + 2 },
    { type: 'bdev_unregister', ctx: 'A', id: before + 3 },
  ];
  expect(await rpc.call('notify_get_notifications', { id: before + 1 })).toEqual(expected);
  expect(await rpc.call('notify_get_notifications', { id: before + 2, max: 1 })).toEqual(expected.slice(1, 2));
});

it('lists scsi targets and the transport of blk controllers', async () => {
  const { rpc } = daemon;
  await rpc.call('vhost_create_scsi_controller', { ctrlr: 'scsi' });
  for (const scsi_target_num of [3, 5]) {
    const name = `Lun${scsi_target_num}`;
    await rpc.call('bdev_null_create', { name, num_blocks: 8, block_size: 512 });
    await rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num, bdev_name: name });
  }
  expect(await rpc.call('scsi_get_devices', {})).toEqual([
    { id: 0, device_name: 'Target 3' },
    { id: 1, device_name: 'Target 5' },
  ]);
  expect(await rpc.call('virtio_blk_get_transports', {})).toEqual([{ name: 'vhost_user_blk' }]);
});

it('loads an lvol store when it is told to look for one', async () => {
  const { rpc } = daemon;
  await rpc.call('bdev_malloc_create', { name: 'Base', num_blocks: 131_072, block_size: 512 });
  await rpc.call('bdev_examine', { name: 'Base' });
  expect(await rpc.call('bdev_lvol_get_lvstores', {})).toEqual([]);
  await rpc.call('bdev_lvol_create_lvstore', { bdev_name: 'Base', lvs_name: 'lvs' });
  await rpc.call('bdev_lvol_create', { lvs_name: 'lvs', lvol_name: 'a', size_in_mib: 1, thin_provision: true });
  await rpc.call('bdev_lvol_unload_lvstore', { bdev_name: 'Base' });
  // Again, when it is loaded already: nothing happens.
  for (let i = 0; i < 2; i++) await rpc.call('bdev_examine', { name: 'Base' });
  expect(await rpc.call('bdev_get_bdevs', { name: 'lvs/a' })).toMatchObject([{ num_blocks: 2048 }]);
});

it('counts I/O anew when it is told to', async () => {
  const { rpc } = daemon;
  const target = await daemon.create({ blockBytes: 512, sizeBytes: 1 << 20 });
  const disk = await BlkInitiator.connect(target.path);
  const writes = async (): Promise<number | undefined> => {
    const stats = (await rpc.call('bdev_get_iostat', { name: 'Test1' })) as { bdevs: { num_write_ops: number }[] };
    return stats.bdevs[0]?.num_write_ops;
  };
  for (let sector = 0; sector < 3; sector++) await disk.write(sector, new Uint8Array(512));
  expect(await writes()).toBe(3);
  await rpc.call('bdev_reset_iostat', { name: 'Test1', mode: 'maxmin' });
  expect(await writes()).toBe(3);
  await rpc.call('bdev_reset_iostat', {});
  expect(await writes()).toBe(0);
  await disk.write(0, new Uint8Array(512));
  expect(await writes()).toBe(1);
  disk.close();
  await target.close();
});
