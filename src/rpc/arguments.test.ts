import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { argumentHelp, parseArguments, toParams, UsageError, usageLine } from './arguments.ts';
import type { CliSpec } from './define.ts';
import { cliOf, findMethod, methodNames } from './lookup.ts';
import { checkParams } from './params.ts';

/** What the method would be called with. */
function paramsOf(line: string): unknown {
  const [method, ...words] = line.split(' ');
  const found = findMethod(method ?? '');
  if (found === undefined) throw new Error(`no method ${method}`);
  const cli = cliOf(found);
  return toParams(cli, parseArguments(cli, words).values);
}

/** What the daemon makes of the parameters. */
function checked(method: string, params: Readonly<Record<string, unknown>>): unknown {
  const found = findMethod(method);
  if (found === undefined) throw new Error(`no method ${method}`);
  const current = found.alias?.toParams?.(params) ?? params;
  return checkParams(found.spec, found.spec.normalize?.(current) ?? current);
}

const MALLOC_DEFAULTS = { md_interleave: false, dif_is_head_of_md: false };

/** The lines of the guide of 2018 and of today's rpc.py, and the parameters that rpc.py makes of them. */
const LINES: readonly (readonly [line: string, params: object])[] = [
  [
    'bdev_malloc_create 64 512 -b Malloc0',
    { ...MALLOC_DEFAULTS, num_blocks: 131072, block_size: 512, name: 'Malloc0' },
  ],
  [
    'bdev_malloc_create 1 512 -b A --shm-name vm1',
    { ...MALLOC_DEFAULTS, num_blocks: 2048, block_size: 512, name: 'A', shm_name: 'vm1' },
  ],
  ['bdev_malloc_create 0.5 4096', { ...MALLOC_DEFAULTS, num_blocks: 128, block_size: 4096 }],
  [
    'bdev_malloc_create -n -1 -p 4096 -u 4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1 -o 8 1 512',
    {
      ...MALLOC_DEFAULTS,
      num_blocks: 2048,
      block_size: 512,
      numa_id: -1,
      physical_block_size: 4096,
      uuid: '4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1',
      optimal_io_boundary: 8,
    },
  ],
  [
    'construct_malloc_bdev 64 512 -b Malloc0',
    { ...MALLOC_DEFAULTS, num_blocks: 131072, block_size: 512, name: 'Malloc0' },
  ],
  [
    'bdev_rbd_create rbd foo 512 --config mon_host=[v2:10.0.0.1:3300,v1:10.0.0.1:6789] --config key=AQ== -b Ceph0',
    {
      pool_name: 'rbd',
      rbd_name: 'foo',
      block_size: 512,
      name: 'Ceph0',
      config: { mon_host: '[v2:10.0.0.1:3300,v1:10.0.0.1:6789]', key: 'AQ==' },
      read_only: false,
    },
  ],
  [
    'construct_rbd_bdev -b Ceph0 --user vms rbd foo 4096',
    { pool_name: 'rbd', rbd_name: 'foo', block_size: 4096, name: 'Ceph0', user_id: 'vms', read_only: false },
  ],
  ['bdev_rbd_delete Ceph0', { name: 'Ceph0' }],
  ['delete_rbd_bdev Ceph0', { name: 'Ceph0' }],
  ['bdev_rbd_resize Ceph0 128', { name: 'Ceph0', new_size: 128 }],
  [
    'bdev_rbd_register_cluster ceph --user vms --config-file /etc/ceph/x.conf --key-file /etc/ceph/x.keyring',
    { name: 'ceph', user_id: 'vms', config_file: '/etc/ceph/x.conf', key_file: '/etc/ceph/x.keyring' },
  ],
  ['bdev_rbd_get_clusters_info -b ceph', { name: 'ceph' }],
  ['bdev_rbd_unregister_cluster ceph', { name: 'ceph' }],
  ['bdev_malloc_delete Malloc0', { name: 'Malloc0' }],
  ['delete_malloc_bdev Malloc0', { name: 'Malloc0' }],
  ['bdev_malloc_resize Malloc0 128', { name: 'Malloc0', new_size: 128 }],
  [
    'bdev_null_create Null0 1 4096 -a 1 -g 2 -s 3 -c 4 -r 5',
    {
      dif_is_head_of_md: false,
      name: 'Null0',
      num_blocks: 256,
      block_size: 4096,
      preferred_write_alignment: 1,
      preferred_write_granularity: 2,
      optimal_write_size: 3,
      preferred_unmap_alignment: 4,
      preferred_unmap_granularity: 5,
    },
  ],
  ['construct_null_bdev Null0 1 512', { dif_is_head_of_md: false, name: 'Null0', num_blocks: 2048, block_size: 512 }],
  ['bdev_powercut_create Cut0 2048 512', { name: 'Cut0', num_blocks: 2048, block_size: 512, ignore_flush: false }],
  ['bdev_powercut_image Cut0 /tmp/cut.img 3', { name: 'Cut0', filename: '/tmp/cut.img', seed: 3 }],
  ['bdev_null_delete Null0', { name: 'Null0' }],
  ['delete_null_bdev Null0', { name: 'Null0' }],
  ['bdev_null_resize Null0 2', { name: 'Null0', new_size: 2 }],
  ['delete_bdev Malloc0', { name: 'Malloc0' }],
  [
    'bdev_aio_create /dev/ram0 Aio0',
    { filename: '/dev/ram0', name: 'Aio0', readonly: false, fallocate: false, nowait: false },
  ],
  [
    'bdev_aio_create -r --fallocate /srv/disk Aio0 4096 -u 4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1 --no-wait',
    {
      filename: '/srv/disk',
      name: 'Aio0',
      block_size: 4096,
      readonly: true,
      fallocate: true,
      nowait: true,
      uuid: '4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1',
    },
  ],
  ['construct_aio_bdev /srv/disk Aio0 512', { filename: '/srv/disk', name: 'Aio0', block_size: 512 }],
  ['bdev_aio_rescan Aio0', { name: 'Aio0' }],
  [
    'bdev_nbd_create Nbd0 nbds://host/vm0 4096 -u 00000000-0000-0000-0000-000000000001 -r --io-timeout-sec 9 ' +
      '--reconnect-timeout-sec 60 --tls-hostname host --tls-ca ca.pem --tls-cert cert.pem --tls-key key.pem',
    {
      name: 'Nbd0',
      uri: 'nbds://host/vm0',
      block_size: 4096,
      uuid: '00000000-0000-0000-0000-000000000001',
      readonly: true,
      io_timeout_sec: 9,
      reconnect_timeout_sec: 60,
      tls_hostname: 'host',
      tls_ca: 'ca.pem',
      tls_cert: 'cert.pem',
      tls_key: 'key.pem',
    },
  ],
  ['bdev_nbd_delete Nbd0', { name: 'Nbd0' }],
  ['bdev_nbd_resize Nbd0', { name: 'Nbd0' }],
  [
    'bdev_virtio_attach_controller -t user -a /tmp/other.sock -d blk --vq-count 2 --vq-size 512 Virtio0',
    { name: 'Virtio0', trtype: 'user', traddr: '/tmp/other.sock', dev_type: 'blk', vq_count: 2, vq_size: 512 },
  ],
  [
    'construct_virtio_dev -t user -a /tmp/other.sock -d scsi Virtio0',
    { name: 'Virtio0', trtype: 'user', traddr: '/tmp/other.sock', dev_type: 'scsi' },
  ],
  ['construct_virtio_user_scsi_bdev /tmp/other.sock Virtio0', { path: '/tmp/other.sock', name: 'Virtio0' }],
  [
    'construct_virtio_user_blk_bdev --vq-count 2 --vq-size 512 /tmp/other.sock Virtio0',
    { path: '/tmp/other.sock', name: 'Virtio0', vq_count: 2, vq_size: 512 },
  ],
  ['bdev_virtio_detach_controller Virtio0', { name: 'Virtio0' }],
  ['remove_virtio_bdev Virtio0', { name: 'Virtio0' }],
  ['remove_virtio_scsi_bdev Virtio0', { name: 'Virtio0' }],
  ['bdev_virtio_scsi_get_devices', {}],
  ['get_virtio_scsi_devs', {}],
  ['bdev_aio_delete Aio0', { name: 'Aio0' }],
  ['delete_aio_bdev Aio0', { name: 'Aio0' }],
  ['bdev_uring_create /dev/nvme0n1 Uring0 512', { filename: '/dev/nvme0n1', name: 'Uring0', block_size: 512 }],
  ['bdev_uring_create /dev/nvme0n1 Uring0', { filename: '/dev/nvme0n1', name: 'Uring0' }],
  ['bdev_uring_rescan Uring0', { name: 'Uring0' }],
  ['bdev_uring_delete Uring0', { name: 'Uring0' }],
  ['vhost_create_scsi_controller vhost.0 --cpumask 0x1 --delay', { ctrlr: 'vhost.0', cpumask: '0x1', delay: true }],
  ['construct_vhost_scsi_controller --cpumask 0x1 vhost.0', { ctrlr: 'vhost.0', cpumask: '0x1', delay: false }],
  ['vhost_start_scsi_controller vhost.0', { ctrlr: 'vhost.0' }],
  [
    'vhost_scsi_controller_add_target vhost.0 -1 Malloc0',
    { ctrlr: 'vhost.0', scsi_target_num: -1, bdev_name: 'Malloc0' },
  ],
  [
    'vhost_scsi_controller_add_target vhost.0 3 Malloc0 --lun 2 --vendor ACME --model Disk --serial S1',
    {
      ctrlr: 'vhost.0',
      scsi_target_num: 3,
      bdev_name: 'Malloc0',
      lun: 2,
      vendor: 'ACME',
      model: 'Disk',
      serial: 'S1',
    },
  ],
  ['add_vhost_scsi_lun vhost.0 0 Malloc0', { ctrlr: 'vhost.0', scsi_target_num: 0, bdev_name: 'Malloc0' }],
  ['vhost_scsi_controller_remove_target vhost.0 0', { ctrlr: 'vhost.0', scsi_target_num: 0 }],
  ['remove_vhost_scsi_dev vhost.0 0', { ctrlr: 'vhost.0', scsi_target_num: 0 }],
  ['remove_vhost_scsi_target vhost.0 0', { ctrlr: 'vhost.0', scsi_target_num: 0 }],
  ['bdev_get_bdevs', {}],
  ['bdev_get_bdevs -b Malloc0 -t 500', { name: 'Malloc0', timeout: 500 }],
  ['bdev_get_bdevs --name=Malloc0 --timeout-ms 500', { name: 'Malloc0', timeout: 500 }],
  ['get_bdevs -b Malloc0', { name: 'Malloc0' }],
  ['bdev_set_options -p 65535 -c 256', {}],
  ['bdev_nvme_set_options -r 3 --timeout-us 1000000', {}],
  ['bdev_nvme_set_hotplug -e -r 100000', {}],
  ['bdev_iscsi_set_options -t 30', {}],
  ['iobuf_set_options --small-pool-count 8192', {}],
  ['sock_impl_set_options -i posix --enable-zerocopy-send-server', {}],
  ['sock_set_default_impl -i posix', {}],
  ['accel_set_options --small-cache-size 128', {}],
  ['bdev_examine -b Malloc0', { name: 'Malloc0' }],
  ['bdev_wait_for_examine', {}],
  ['bdev_reset_iostat', {}],
  ['bdev_reset_iostat -b Malloc0 -m all', { name: 'Malloc0', mode: 'all' }],
  ['notify_get_types', {}],
  ['get_notification_types', {}],
  ['notify_get_notifications -i 5 -n 10', { id: 5, max: 10 }],
  ['get_notifications', {}],
  ['scsi_get_devices', {}],
  ['get_scsi_devices', {}],
  ['virtio_blk_get_transports --name vhost_user_blk', { name: 'vhost_user_blk' }],
  ['virtio_blk_create_transport vhost_user_blk', { name: 'vhost_user_blk' }],
  ['framework_get_scheduler', {}],
  ['framework_set_scheduler static', { name: 'static' }],
  ['bdev_get_iostat', { per_channel: false }],
  ['bdev_get_iostat --names A,B', { per_channel: false, names: ['A', 'B'] }],
  ['bdev_get_iostat --names A -c --reset-mode all', { per_channel: true, names: ['A'], reset_mode: 'all' }],
  ['get_bdevs_iostat -b A', { name: 'A' }],
  [
    'vhost_create_blk_controller --cpumask 0x2 vhost.1 Malloc0',
    { ctrlr: 'vhost.1', dev_name: 'Malloc0', cpumask: '0x2', readonly: false, packed_ring: false },
  ],
  [
    'construct_vhost_blk_controller vhost.1 Malloc0 -r --cpumask 0x2',
    { ctrlr: 'vhost.1', dev_name: 'Malloc0', cpumask: '0x2', readonly: true, packed_ring: false },
  ],
  [
    'vhost_create_blk_controller -rp v M --transport vhost_user_blk --serial S1',
    { ctrlr: 'v', dev_name: 'M', transport: 'vhost_user_blk', serial: 'S1', readonly: true, packed_ring: true },
  ],
  ['vhost_delete_controller vhost.1', { ctrlr: 'vhost.1' }],
  ['vhost_delete_controller --force vhost.1', { ctrlr: 'vhost.1', force: true }],
  ['remove_vhost_controller vhost.1', { ctrlr: 'vhost.1' }],
  [
    'vhost_create_blk_controller v M --mode poll --queue-placement pinned',
    { ctrlr: 'v', dev_name: 'M', readonly: false, packed_ring: false, mode: 'poll', queue_placement: 'pinned' },
  ],
  ['vhost_controller_set_coalescing vhost.1 10 60000', { ctrlr: 'vhost.1', delay_base_us: 10, iops_threshold: 60_000 }],
  ['set_vhost_controller_coalescing vhost.1 10 60000', { ctrlr: 'vhost.1', delay_base_us: 10, iops_threshold: 60_000 }],
  ['vhost_controller_set_mode vhost.1 interrupt', { ctrlr: 'vhost.1', mode: 'interrupt' }],
  ['vhost_controller_set_qos_weight vhost.1 300', { ctrlr: 'vhost.1', weight: 300 }],
  [
    'vhost_controller_set_placement vhost.1 --queue-placement spread --cpumask 0x3',
    { ctrlr: 'vhost.1', queue_placement: 'spread', cpumask: '0x3' },
  ],
  ['vhost_get_controllers', {}],
  ['vhost_get_controllers -n vhost.1', { name: 'vhost.1' }],
  ['get_vhost_controllers -n vhost.1', { name: 'vhost.1' }],
  ['framework_get_reactors', {}],
  ['framework_start_init', {}],
  ['start_subsystem_init', {}],
  ['framework_wait_init', {}],
  ['wait_subsystem_init', {}],
  ['framework_get_subsystems', {}],
  ['get_subsystems', {}],
  ['framework_get_config bdev', { name: 'bdev', with_batches: false }],
  ['framework_get_config bdev --with-batches', { name: 'bdev', with_batches: true }],
  ['framework_get_config bdev --no-with-batches', { name: 'bdev', with_batches: false }],
  ['get_subsystem_config bdev', { name: 'bdev' }],
  ['save_config', { with_batches: false }],
  ['save_config -i 4 -s bdev,vhost_blk', { subsystems: 'bdev,vhost_blk', with_batches: false }],
  ['save_subsystem_config -n bdev -i -1', { name: 'bdev', with_batches: false }],
  ['state_get_missing', {}],
  ['state_retry_missing', {}],
  ['state_forget_missing 3', { id: 3 }],
  [
    'framework_upgrade --exec /opt/new/bin/ringhost --max-pause-ms 100 --max-start-ms 5000',
    { exec: '/opt/new/bin/ringhost', max_pause_ms: 100, max_start_ms: 5000 },
  ],
  ['log_set_level DEBUG', { level: 'DEBUG' }],
  ['set_log_level debug', { level: 'debug' }],
  ['log_get_level', {}],
  ['get_log_level', {}],
  ['log_set_print_level INFO', { level: 'INFO' }],
  ['set_log_print_level INFO', { level: 'INFO' }],
  ['log_get_print_level', {}],
  ['get_log_print_level', {}],
  ['spdk_get_version', {}],
  ['get_spdk_version', {}],
  ['spdk_kill_instance SIGTERM', { sig_name: 'SIGTERM' }],
  ['kill_instance 15', { sig_name: '15' }],
  ['rpc_get_methods -c', { current: true, include_aliases: false }],
  [
    'bdev_nvme_attach_controller -b Nvme0 -t PCIe -a 0000:01:00.0',
    { name: 'Nvme0', trtype: 'PCIe', traddr: '0000:01:00.0' },
  ],
  [
    'construct_nvme_bdev -b N -t TCP -a ::1 -f IPv6 -s 4420 -n nqn.2019-08.org.example:one',
    { name: 'N', trtype: 'TCP', traddr: '::1', adrfam: 'IPv6', trsvcid: '4420', subnqn: 'nqn.2019-08.org.example:one' },
  ],
  ['bdev_nvme_detach_controller Nvme0', { name: 'Nvme0' }],
  ['delete_nvme_controller Nvme0 -t PCIe', { name: 'Nvme0', trtype: 'PCIe' }],
  ['bdev_nvme_get_controllers', {}],
  ['get_nvme_controllers -n Nvme0', { name: 'Nvme0' }],
  ['bdev_nvme_get_controller_health_info -c Nvme0', { name: 'Nvme0' }],
  ['get_nvme_controller_health_info -c Nvme0', { name: 'Nvme0' }],
  ['bdev_nvme_reset_controller Nvme0', { name: 'Nvme0' }],
  [
    'bdev_nvme_start_discovery -b Nvme -t tcp -a 192.0.2.7 -s 8009 -f ipv4 -q nqn.host -w -T 500 -l -1 -o 2 -u 0',
    {
      ...{ name: 'Nvme', trtype: 'tcp', traddr: '192.0.2.7', trsvcid: '8009', adrfam: 'ipv4', hostnqn: 'nqn.host' },
      ...{ wait_for_attach: true, attach_timeout_ms: 500, ctrlr_loss_timeout_sec: -1, reconnect_delay_sec: 2 },
      fast_io_fail_timeout_sec: 0,
    },
  ],
  ['bdev_nvme_stop_discovery -b Nvme', { name: 'Nvme' }],
  ['bdev_nvme_get_discovery_info', {}],
  [
    'bdev_module_create /srv/my-disk.ts size=64M -b Disk0 path=/a=b --timeout-sec 5',
    { path: '/srv/my-disk.ts', options: { size: '64M', path: '/a=b' }, name: 'Disk0', timeout_sec: 5 },
  ],
  ['bdev_module_delete Disk0', { name: 'Disk0' }],
  ['bdev_module_resize Disk0 128', { name: 'Disk0', new_size: 128 }],
  ['bdev_split_create Malloc0 4 -s 16', { base_bdev: 'Malloc0', split_count: 4, split_size_mb: 16 }],
  ['bdev_gpt_create Nvme0n1', { base_bdev: 'Nvme0n1' }],
  [
    'bdev_gpt_create Nvme0n1 -t 0fc63daf-8483-4772-8e79-3d69d8477de4',
    { base_bdev: 'Nvme0n1', types: ['0fc63daf-8483-4772-8e79-3d69d8477de4'] },
  ],
  ['bdev_gpt_delete Nvme0n1', { base_bdev: 'Nvme0n1' }],
  [
    'bdev_raid_create -n Raid0 -z 64 -r raid0 -b Malloc0\tMalloc1',
    { name: 'Raid0', strip_size_kb: 64, raid_level: 'raid0', base_bdevs: ['Malloc0', 'Malloc1'], superblock: false },
  ],
  ['bdev_raid_add_base_bdev Raid1 Nvme2n1', { raid_bdev: 'Raid1', base_bdev: 'Nvme2n1' }],
  ['bdev_raid_remove_base_bdev Nvme2n1', { name: 'Nvme2n1' }],
  ['bdev_raid_set_options -b 200', { process_max_bandwidth_mb_sec: 200 }],
  ['bdev_lvol_create_lvstore Nvme0n1 lvs0 -c 65536', { bdev_name: 'Nvme0n1', lvs_name: 'lvs0', cluster_sz: 65_536 }],
  ['bdev_lvol_load_lvstore Nvme0n1', { bdev_name: 'Nvme0n1' }],
  ['bdev_lvol_unload_lvstore Nvme0n1', { bdev_name: 'Nvme0n1' }],
  ['bdev_lvol_delete_lvstore -l lvs0', { lvs_name: 'lvs0' }],
  ['bdev_lvol_rename_lvstore lvs0 vms', { old_name: 'lvs0', new_name: 'vms' }],
  ['bdev_lvol_get_lvstores', {}],
  ['bdev_lvol_check_lvstore -l lvs0', { lvs_name: 'lvs0' }],
  ['bdev_lvol_create -l lvs0 -t a 10', { lvol_name: 'a', size_in_mib: 10, lvs_name: 'lvs0', thin_provision: true }],
  ['bdev_lvol_snapshot lvs0/a s', { lvol_name: 'lvs0/a', snapshot_name: 's' }],
  ['bdev_lvol_clone lvs0/s c', { snapshot_name: 'lvs0/s', clone_name: 'c' }],
  ['bdev_lvol_rename lvs0/a b', { old_name: 'lvs0/a', new_name: 'b' }],
  ['bdev_lvol_resize lvs0/a 20', { name: 'lvs0/a', size_in_mib: 20 }],
  ['bdev_lvol_set_read_only lvs0/a', { name: 'lvs0/a' }],
  ['bdev_lvol_delete lvs0/a', { name: 'lvs0/a' }],
  ['bdev_lvol_inflate lvs0/c', { name: 'lvs0/c' }],
  ['bdev_lvol_decouple_parent lvs0/c', { name: 'lvs0/c' }],
  ['bdev_lvol_get_lvols -l lvs0', { lvs_name: 'lvs0' }],
  ['bdev_raid_delete Raid0', { name: 'Raid0', clear_sb: false }],
  ['bdev_raid_get_bdevs all', { category: 'all' }],
  ['bdev_split_delete Malloc0', { base_bdev: 'Malloc0' }],
  [
    'bdev_set_qos_limit Malloc0 --rw-ios-per-sec 20000 --w-mbytes-per-sec 0 --burst-ms 10',
    { name: 'Malloc0', rw_ios_per_sec: 20000, w_mbytes_per_sec: 0, burst_ms: 10 },
  ],
  ['bdev_crypto_create Malloc0 Crypt0 -n K', { base_bdev_name: 'Malloc0', name: 'Crypt0', key_name: 'K' }],
  ['bdev_crypto_delete Crypt0', { name: 'Crypt0' }],
  [
    'accel_crypto_key_create -c AES_XTS -k 00 -e 11 -t SIMPLE_LBA -n K',
    { cipher: 'AES_XTS', key: '00', key2: '11', tweak_mode: 'SIMPLE_LBA', name: 'K' },
  ],
  ['accel_crypto_key_create -c AES_XTS --key-file /k -n K', { cipher: 'AES_XTS', key_file: '/k', name: 'K' }],
  ['accel_crypto_keys_get -k K', { key_name: 'K' }],
  ['accel_crypto_key_destroy -n K', { key_name: 'K' }],
  ['bdev_passthru_create -b Malloc0 -p Pass0', { base_bdev_name: 'Malloc0', name: 'Pass0' }],
  ['bdev_passthru_delete Pass0', { name: 'Pass0' }],
  [
    'bdev_delay_create -b Malloc0 -d Slow0 -r 1 -t 2 -w 3 -n 4',
    {
      base_bdev_name: 'Malloc0',
      name: 'Slow0',
      avg_read_latency: 1,
      p99_read_latency: 2,
      avg_write_latency: 3,
      p99_write_latency: 4,
    },
  ],
  ['bdev_delay_delete Slow0', { name: 'Slow0' }],
  [
    'bdev_delay_update_latency Slow0 p99_write 5',
    { delay_bdev_name: 'Slow0', latency_type: 'p99_write', latency_us: 5 },
  ],
  ['bdev_error_create Malloc0', { base_name: 'Malloc0' }],
  ['bdev_error_delete EE_Malloc0', { name: 'EE_Malloc0' }],
  [
    'bdev_error_inject_error EE_Malloc0 read corrupt_data -n 2 -o 5 -v 9 --lba-start 8 --probability 0.5 --seed 3',
    {
      name: 'EE_Malloc0',
      io_type: 'read',
      error_type: 'corrupt_data',
      num: 2,
      corrupt_offset: 5,
      corrupt_value: 9,
      lba_start: 8,
      probability: 0.5,
      seed: 3,
    },
  ],
  ['bdev_error_resume_pending EE_Malloc0', { name: 'EE_Malloc0' }],
  ['log_set_flag vhost', { flag: 'vhost' }],
  ['set_log_flag vhost', { flag: 'vhost' }],
  ['log_clear_flag all', { flag: 'all' }],
  ['clear_log_flag all', { flag: 'all' }],
  ['log_get_flags', {}],
  ['get_log_flags', {}],
  ['bdev_get_latency', {}],
  ['vhost_get_latency -n vhost.0', { ctrlr: 'vhost.0' }],
  ['bdev_get_jobs', {}],
  ['bdev_get_jobs -i 3', { id: 3 }],
  ['bdev_job_cancel 3', { id: 3 }],
  ['bdev_job_set_options 3 -l 200', { id: 3, max_bandwidth_mb_sec: 200 }],
  ['bdev_erase Malloc0', { name: 'Malloc0' }],
  ['bdev_erase Malloc0 -m unmap -l 100', { name: 'Malloc0', method: 'unmap', max_bandwidth_mb_sec: 100 }],
  ['bdev_copy Malloc0 Malloc1', { source: 'Malloc0', destination: 'Malloc1' }],
  [
    'trace_start_requests --controllers a,b --queue 1 --types read,flush --slower-than-us 500 --to-bytes 4096',
    {
      controllers: ['a', 'b'],
      queue: 1,
      types: ['read', 'flush'],
      slower_than_us: 500,
      to_bytes: 4096,
      hash_reads: false,
    },
  ],
  ['trace_start_requests --hash-reads', { hash_reads: true }],
  ['trace_read_requests --max 10', { max: 10 }],
  ['trace_stop_requests', {}],
  ['bdev_get_regions --names A,B', { names: ['A', 'B'] }],
  ['bdev_enable_histogram Malloc0 -e', { name: 'Malloc0', enable: true }],
  ['bdev_enable_histogram --no-histogram Malloc0', { name: 'Malloc0', enable: false }],
  [
    'bdev_enable_histogram -o read --granularity 5 --min-nsec 100 --max-nsec 2000 Malloc0',
    { name: 'Malloc0', enable: true, opc: 'read', granularity: 5, min_nsec: 100, max_nsec: 2000 },
  ],
  ['enable_bdev_histogram -d Malloc0', { name: 'Malloc0', enable: false }],
  ['bdev_get_histogram Malloc0', { name: 'Malloc0' }],
  ['get_bdev_histogram Malloc0', { name: 'Malloc0' }],
  ['rpc_get_methods --include-aliases', { current: false, include_aliases: true }],
  ['get_rpc_methods', { current: false }],
  ['rpc.discover', {}],
];

describe('the command line of a method', () => {
  test.each(LINES)('%s', (line, params) => {
    expect(paramsOf(line)).toEqual(params);
  });

  test.each(LINES)('%s makes parameters that the method takes', (line, params) => {
    expect(checked(line.split(' ')[0] ?? '', params as Readonly<Record<string, unknown>>)).toMatchObject({ ok: true });
  });

  test('is tried here for every method and every older name', () => {
    // What reads a file is tried with the command that reads it.
    const isAlone = (name: string): boolean => findMethod(name)?.spec.cli.input === undefined;
    expect([...new Set(LINES.map(([line]) => line.split(' ')[0]))].toSorted()).toEqual(
      methodNames(true).filter(isAlone),
    );
  });

  test('never sends a block count that JSON cannot hold', () => {
    expect(paramsOf('bdev_malloc_create 64 0')).toMatchObject({ num_blocks: 0 });
    expect(paramsOf('bdev_malloc_create -1 512')).toMatchObject({ num_blocks: -2048 });
  });
});

const CLI: CliSpec = {
  positionals: [
    { name: 'first', kind: 'string', help: 'one' },
    { name: 'second', kind: 'int', help: 'two' },
  ],
  flags: [
    { names: ['-a', '--alpha'], dest: 'alpha', kind: 'string', help: 'a string' },
    { names: ['--alphabet'], dest: 'alphabet', kind: 'switch', help: 'a switch' },
    { names: ['-b', '--beta'], dest: 'beta', kind: 'float', help: 'a number', fallback: 1.5 },
    { names: ['-c'], dest: 'charlie', kind: 'switch', help: 'a switch' },
    { names: ['-d'], dest: 'delta', kind: 'switch', help: 'a switch' },
    { names: ['--echo'], dest: 'echo', kind: 'string', choices: ['x', 'y'], help: 'x or y' },
  ],
  print: 'nothing',
};

const read = (...words: string[]) => parseArguments(CLI, words).values;

/** Null when the words are refused as they should be; any other error is thrown. */
function readOrRefuse(words: readonly string[]): unknown {
  try {
    return parseArguments(CLI, words);
  } catch (error) {
    if (error instanceof UsageError) return null;
    throw error;
  }
}

describe('arguments', () => {
  test('may have flags anywhere, in any spelling', () => {
    const expected = { first: 'f', second: -1, alpha: 'x y', beta: -2.5, charlie: true, delta: true, alphabet: false };
    expect(read('-a', 'x y', 'f', '-cd', '-1', '--beta', '-2.5')).toEqual(expected);
    expect(read('f', '--alpha=x y', '-dc', '-b-2.5', '-1')).toEqual(expected);
    expect(read('-ax y', '-c', '-d', '--be=-2.5', '--', 'f', '-1')).toEqual(expected);
  });

  test('may begin with a dash behind --, and a dash alone is a value', () => {
    expect(read('--', '-f', '7')).toMatchObject({ first: '-f', second: 7, beta: 1.5 });
    expect(read('-x is a sentence', '7')).toMatchObject({ first: '-x is a sentence' });
    expect(read('-', '7')).toMatchObject({ first: '-' });
  });

  test('an exact long flag is not taken for the beginning of another', () => {
    expect(read('--alpha', 'v', 'f', '1')).toMatchObject({ alpha: 'v', alphabet: false });
    expect(read('--alphab', 'f', '1')).toMatchObject({ alphabet: true });
  });

  test.each([
    [['f'], 'missing: second'],
    [[], 'missing: first, second'],
    [['f', '1', 'x'], 'unexpected argument: x'],
    [['f', '1', '--nope'], 'unknown flag: --nope'],
    [['f', '1', '-cz'], 'unknown flag: -z'],
    [['f', '1', '--al', 'x'], '--al may mean --alpha or --alphabet'],
    [['f', '1', '--alpha'], '--alpha needs a value'],
    [['f', '1', '--alpha', '-c'], '--alpha needs a value'],
    [['f', '1', '--alphabet=1'], '--alphabet takes no value'],
    [['f', 'x'], 'second must be a whole number, not x'],
    [['f', '1.5'], 'second must be a whole number, not 1.5'],
    [['f', '99999999999999999999'], 'second is too large'],
    [['f', '1', '--beta', 'inf'], '--beta must be a number, not inf'],
    [['f', '1', '--echo', 'z'], '--echo must be one of x, y, not z'],
  ])('%j: %s', (words, message) => {
    expect(() => parseArguments(CLI, words)).toThrow(UsageError);
    expect(() => parseArguments(CLI, words)).toThrow(message);
  });

  test('ask for help with -h, whatever else is wrong', () => {
    expect(parseArguments(CLI, ['-h']).wantsHelp).toBe(true);
    expect(parseArguments(CLI, ['-ch', 'x']).wantsHelp).toBe(true);
  });

  test('are read or refused, never anything else', () => {
    const word = fc.oneof(
      fc.string(),
      fc.constantFrom('-a', '-b', '--', '--alpha', '--alpha=', '-cd', '-1', '7', '-h'),
    );
    fc.assert(
      fc.property(fc.array(word, { maxLength: 8 }), (words) => {
        expect(() => readOrRefuse(words)).not.toThrow();
      }),
    );
  });

  test('are shown in the help', () => {
    expect(usageLine('method', CLI)).toBe(
      'method [-a ALPHA] [--alphabet] [-b BETA] [-c] [-d] [--echo {x,y}] first second',
    );
    expect(argumentHelp(CLI)).toContain('--echo {x,y}');
  });
});
