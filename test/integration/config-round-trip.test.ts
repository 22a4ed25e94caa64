/**
 * Every call that makes something, with parameters of any kind: what is saved makes the same again. A method that makes
 * something and is not here does not compile.
 */
import { execFile } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SUBSYSTEMS } from '../../src/app/config-file.ts';
import { Daemon } from '../../src/app/daemon.ts';
import { DaemonLog } from '../../src/app/logger.ts';
import { OWNER_ONLY } from '../../src/base/socket-access.ts';
import { TWEAK_MODES } from '../../src/bdev/modules/crypto/xts.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { METHODS, type MethodName, type Result } from '../../src/rpc/methods.ts';
import { allowedCores } from '../../src/sys/thread.ts';
import { FakeNbdServer } from '../support/fake-nbd-server.ts';
import { gptImage, LINUX_TYPE, SPDK_TYPE } from '../support/gpt-image.ts';
import { NvmeTcpTarget, TARGET_NQN } from '../support/nvme-tcp-target.ts';
import { VhostUserTarget } from '../support/vhost-user-target.ts';

/** The methods that make something, by their names. */
type Making = Exclude<
  Extract<
    MethodName,
    | 'accel_crypto_key_create'
    | `bdev_${string}_create`
    | `bdev_${string}_attach_controller`
    | `bdev_nvme_start_${string}`
    | `vhost_create_${string}`
    | `vhost_controller_set_${string}`
    | `vhost_scsi_controller_add_${string}`
    | `vhost_start_${string}`
  >,
  // It needs a cluster: src/bdev/modules/rbd is tested with one.
  'bdev_rbd_create'
>;
type Values = Readonly<Record<string, unknown>>;

interface Case {
  /** One entry for each parameter. */
  readonly params: Readonly<Record<string, fc.Arbitrary<unknown>>>;
  /** Calls that come before. */
  readonly before?: readonly (readonly [MethodName, Values])[];
  /** What is saved in the parameters of this call, when that is another one. */
  readonly savedAs?: MethodName;
  /** Parameters that have no effect here, besides those that the table of methods names. */
  readonly unsaved?: readonly string[];
}

const RUNS = 6;
const SIZE_BYTES = 1 << 20;
const GPT_FILE = join(tmpdir(), `ringhost-round-trip-gpt-${process.pid}`);
const LVOL_FILE = join(tmpdir(), `ringhost-round-trip-lvol-${process.pid}`);
const KEY_FILE = join(tmpdir(), `ringhost-round-trip-key-${process.pid}`);

let directory: string;
let daemon: Daemon;
let rpc: RpcClient;
let nbd: FakeNbdServer;
let nvme: NvmeTcpTarget;
let vhostTarget: VhostUserTarget;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-round-trip-'));
  writeFileSync(join(directory, 'disk'), '');
  truncateSync(join(directory, 'disk'), SIZE_BYTES);
  writeFileSync(KEY_FILE, randomBytes(64));
  const partition = { guid: randomUUID(), first: 40, last: 99 };
  const other = { guid: randomUUID(), first: 100, last: 199 };
  writeFileSync(
    GPT_FILE,
    gptImage({
      entries: [
        { type: LINUX_TYPE, ...partition },
        { type: SPDK_TYPE, ...other },
      ],
    }),
  );
  nbd = await FakeNbdServer.listen(SIZE_BYTES);
  nvme = await new NvmeTcpTarget().listen();
  nvme.list(nvme.listed);
  vhostTarget = await VhostUserTarget.start(SIZE_BYTES);
  const log = new DaemonLog('json');
  log.level = 'ERROR';
  daemon = await Daemon.start(
    {
      socketDirectory: directory,
      rpcSocket: join(directory, 'rpc.sock'),
      cores: allowedCores(),
      memoryBytes: 2 ** 30,
      configFile: undefined,
      ignoreConfigErrors: false,
      stateDirectory: undefined,
      useDefaultConfig: false,
      mode: 'interrupt',
      access: OWNER_ONLY,
      account: null,
      http: null,
      rpcHttps: null,
    },
    log,
    (error) => expect.fail(error.message),
  );
  rpc = await RpcClient.connect(join(directory, 'rpc.sock'));
});
afterAll(async () => {
  rpc.close();
  await daemon.stop();
  await vhostTarget.close();
  await nvme.kill();
  await nbd.close();
  rmSync(directory, { recursive: true });
  for (const file of [KEY_FILE, GPT_FILE, LVOL_FILE]) rmSync(file);
});

const only = (value: unknown) => fc.constant(value);
const maybe = fc.boolean();
const uuid = fc.uuid().map((text) => text.toLowerCase());
const blockSize = fc.constantFrom(512, 4096);
const blocks = fc.integer({ min: 8, max: 64 });
const zero = only(0);
const unit = fc.integer({ min: 0, max: 8 });
const ascii = (max: number) => fc.string({ minLength: 1, maxLength: max, unit: 'grapheme-ascii' });
/** Of the daemon's: none in particular is not written down. */
const cpumask = fc.constantFrom(...allowedCores().map((core) => `0x${(2 ** core).toString(16)}`));
const mode = fc.constantFrom('poll', 'adaptive', 'interrupt');

const metadata = { md_size: zero, dif_type: zero, dif_is_head_of_md: maybe, dif_pi_format: zero };
const METADATA = ['md_size', 'dif_type'];
const MALLOC = ['bdev_malloc_create', { name: 'M', num_blocks: 8, block_size: 512 }] as const;
const KEY = ['accel_crypto_key_create', { name: 'K', cipher: 'AES_XTS', key_file: KEY_FILE }] as const;
const BLK = ['vhost_create_blk_controller', { ctrlr: 'c', dev_name: 'M' }] as const;
const SCSI = ['vhost_create_scsi_controller', { ctrlr: 'c', delay: true }] as const;
const file = {
  name: only('B'),
  filename: fc.constant('disk').map((name) => join(directory, name)),
  block_size: fc.constantFrom(512, 4096),
  uuid,
  // What the file takes is for the tests of files.
  direct: only(false),
  iopoll: only(false),
  unlocked: maybe,
};
const stacked = { base_bdev_name: only('M'), name: only('B'), uuid };
/** Microseconds. */
const latency = fc.nat(1_000_000);
/** Whether the queues are spread is the daemon's answer to a controller that says nothing. */
const placing = { cpumask, mode };

/** Of connections to a target. */
const connection = {
  hostnqn: only('nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff'),
  ...{ hdgst: maybe, ddgst: maybe, keep_alive_timeout_ms: fc.integer({ min: 1000, max: 9000 }) },
  ...{ ctrlr_loss_timeout_sec: fc.integer({ min: 10, max: 20 }), reconnect_delay_sec: fc.integer({ min: 1, max: 5 }) },
  fast_io_fail_timeout_sec: fc.integer({ min: 0, max: 9 }),
};

const CASES: Readonly<Record<Making, Case>> = {
  bdev_malloc_create: {
    params: {
      ...{ name: only('B'), num_blocks: blocks, block_size: blockSize, physical_block_size: only(4096), uuid },
      ...{ optimal_io_boundary: unit, ...metadata, md_interleave: maybe, numa_id: only(-1) },
      shm_name: fc.constant(0).map(() => `test-${process.pid}`),
    },
    unsaved: METADATA,
  },
  bdev_null_create: {
    params: {
      ...{ name: only('B'), num_blocks: blocks, block_size: blockSize, physical_block_size: only(4096), uuid },
      ...{ ...metadata, preferred_write_alignment: unit, preferred_write_granularity: unit, optimal_write_size: unit },
      ...{ preferred_unmap_alignment: unit, preferred_unmap_granularity: unit },
    },
    unsaved: METADATA,
  },
  bdev_aio_create: {
    params: { ...file, readonly: maybe, fallocate: maybe, nowait: maybe, sqpoll_core: only(undefined) },
  },
  bdev_uring_create: { params: { ...file, sqpoll_core: only(undefined) } },
  bdev_nbd_create: {
    params: {
      ...{ name: only('B'), uri: fc.constant(0).map(() => nbd.uri), block_size: blockSize, uuid, readonly: maybe },
      ...{ io_timeout_sec: unit, reconnect_timeout_sec: unit },
      ...{ tls_hostname: ascii(8), tls_ca: only('/ca.pem'), tls_cert: only('/cert.pem'), tls_key: only('/key.pem') },
    },
  },
  bdev_nvme_attach_controller: {
    params: {
      ...{ name: only('B'), trtype: only('TCP'), traddr: only('127.0.0.1'), adrfam: only('IPv4') },
      ...{ trsvcid: fc.constant(0).map(() => String(nvme.port)), subnqn: only(TARGET_NQN) },
      ...{ num_io_queues: fc.integer({ min: 4, max: 8 }), psk: only(undefined) },
      ...{ ...connection, multipath: fc.constantFrom('disable', 'failover') },
    },
  },
  bdev_nvme_start_discovery: {
    params: {
      ...{ name: only('B'), trtype: only('TCP'), traddr: only('127.0.0.1'), adrfam: only('IPv4') },
      ...{ trsvcid: fc.constant(0).map(() => String(nvme.port)), ...connection },
      ...{ wait_for_attach: maybe, attach_timeout_ms: fc.integer({ min: 60_000, max: 90_000 }) },
      controller_names: only({ B7: TARGET_NQN }),
    },
    // What stands on its disks is made after they are there.
    unsaved: ['wait_for_attach'],
  },
  bdev_powercut_create: {
    params: { name: only('B'), num_blocks: blocks, block_size: blockSize, uuid, ignore_flush: maybe },
  },
  accel_crypto_key_create: {
    params: {
      ...{ name: only('K'), cipher: only('AES_XTS'), key: only(undefined), key2: only(undefined) },
      ...{ key_file: only(KEY_FILE), tweak_mode: fc.constantFrom(...TWEAK_MODES) },
    },
  },
  bdev_crypto_create: {
    before: [MALLOC, KEY],
    params: { base_bdev_name: only('M'), name: only('B'), key_name: only('K') },
  },
  bdev_passthru_create: { before: [MALLOC], params: stacked },
  bdev_delay_create: {
    before: [MALLOC],
    params: {
      ...{ ...stacked, avg_read_latency: latency, p99_read_latency: latency },
      ...{ avg_write_latency: latency, p99_write_latency: latency },
    },
  },
  bdev_error_create: { before: [MALLOC], params: { base_name: only('M'), uuid } },
  bdev_split_create: {
    before: [MALLOC],
    params: { base_bdev: only('M'), split_count: fc.integer({ min: 1, max: 4 }), split_size_mb: only(0) },
  },
  bdev_gpt_create: {
    before: [['bdev_aio_create', { name: 'M', filename: GPT_FILE, block_size: 512 }]],
    params: { base_bdev: only('M'), types: fc.subarray([LINUX_TYPE, SPDK_TYPE], { minLength: 1 }) },
  },
  bdev_raid_create: {
    before: [MALLOC, ['bdev_malloc_create', { name: 'N', num_blocks: 16, block_size: 512 }]],
    params: {
      ...{ name: only('B'), raid_level: only('concat'), base_bdevs: only(['N', 'M']), uuid, superblock: only(false) },
      ...{ strip_size_kb: fc.constantFrom(1, 2, 4), base_blocks: only([10, 8]) },
      // Of mirrors: src/bdev/modules/raid/raid.test.ts.
      ...{ num_base_bdevs: only(undefined), allow_degraded: only(false) },
    },
    unsaved: ['superblock', 'allow_degraded'],
  },
  bdev_lvol_create: {
    before: [
      ['bdev_aio_create', { name: 'M', filename: LVOL_FILE, block_size: 512 }],
      ['bdev_lvol_create_lvstore', { bdev_name: 'M', lvs_name: 'lvs', cluster_sz: 65_536 }],
    ],
    params: {
      // A file without a store each time.
      lvol_name: fc.constant('v').map((name) => {
        writeFileSync(LVOL_FILE, '');
        truncateSync(LVOL_FILE, 8 * SIZE_BYTES);
        return name;
      }),
      ...{ size_in_mib: fc.integer({ min: 1, max: 2 }), thin_provision: maybe },
      ...{ lvs_name: only('lvs'), uuid: only(undefined), clear_method: only('unmap') },
    },
    // The store has them.
    savedAs: 'bdev_lvol_load_lvstore',
    unsaved: ['lvol_name', 'size_in_mib', 'thin_provision', 'lvs_name', 'clear_method'],
  },
  bdev_module_create: {
    params: {
      ...{ name: only('B'), uuid, timeout_sec: fc.nat(1000), options: only({ mib: '1' }) },
      path: only(join(import.meta.dirname, '..', '..', 'examples', 'ramdisk.ts')),
    },
  },
  bdev_virtio_attach_controller: {
    params: {
      // Of `scsi` ones: test/integration/virtio-scsi.test.ts.
      ...{ name: only('B'), trtype: only('user'), dev_type: only('blk') },
      traddr: fc.constant(0).map(() => vhostTarget.socketPath),
      ...{ vq_count: fc.integer({ min: 1, max: 3 }), vq_size: fc.constantFrom(64, 256, 512) },
    },
  },
  vhost_create_blk_controller: {
    before: [MALLOC],
    params: {
      ...{ ctrlr: only('c'), dev_name: only('M'), ...placing, readonly: maybe, serial: ascii(20) },
      ...{ packed_ring: maybe, packed_ring_recovery: maybe, transport: only('vhost_user_blk') },
      queue_placement: fc.constantFrom('spread', 'pinned'),
    },
    unsaved: ['packed_ring', 'packed_ring_recovery', 'transport'],
  },
  vhost_create_scsi_controller: {
    params: { ctrlr: only('c'), delay: maybe, ...placing, queue_placement: only('pinned') },
    // Whether it listens is told by a call to start it.
    unsaved: ['delay', 'queue_placement'],
  },
  vhost_start_scsi_controller: { before: [SCSI], params: { ctrlr: only('c') } },
  vhost_scsi_controller_add_target: {
    before: [MALLOC, SCSI],
    params: {
      ...{ ctrlr: only('c'), scsi_target_num: fc.integer({ min: 0, max: 255 }), bdev_name: only('M') },
      ...{ lun: fc.integer({ min: 0, max: 16_383 }), vendor: ascii(8), model: ascii(16), serial: ascii(64) },
      ...{ readonly: maybe, removable: maybe },
    },
  },
  vhost_controller_set_coalescing: {
    before: [MALLOC, BLK],
    params: { ctrlr: only('c'), delay_base_us: fc.nat(1_000_000), iops_threshold: fc.integer({ min: 100, max: 1e6 }) },
  },
  vhost_controller_set_mode: {
    before: [MALLOC, BLK],
    params: { ctrlr: only('c'), mode },
    savedAs: 'vhost_create_blk_controller',
  },
  vhost_controller_set_qos_weight: {
    before: [MALLOC, BLK],
    params: { ctrlr: only('c'), weight: fc.integer({ min: 1, max: 10_000 }).filter((weight) => weight !== 100) },
  },
  vhost_controller_set_placement: {
    before: [MALLOC, BLK],
    params: { ctrlr: only('c'), queue_placement: fc.constantFrom('spread', 'pinned'), cpumask },
    savedAs: 'vhost_create_blk_controller',
  },
};

/** Parameters that must be there. */
function requiredOf(method: MethodName): string[] {
  return Object.entries(METHODS[method].params.shape).flatMap(([name, schema]) =>
    schema.safeParse(undefined).success ? [] : [name],
  );
}

/** Any of the parameters that may be left out, but for the name. */
function arbitraryOf(method: Making): fc.Arbitrary<Values> {
  const { params } = CASES[method];
  const known = requiredOf(method)
    .concat('name', 'trsvcid', 'subnqn', 'key_file', 'strip_size_kb', 'lvs_name')
    .filter((name) => name in params);
  return fc
    .record(params, { requiredKeys: known })
    .map((values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)));
}

const save = (): Promise<Result<'save_config'>> => rpc.call('save_config');
const callsOf = ({ subsystems }: Result<'save_config'>) => subsystems.flatMap(({ config }) => config ?? []);

/** By a configuration in which there is nothing. */
async function deleteAll(): Promise<void> {
  const subsystems = SUBSYSTEMS.map(({ subsystem }) => ({ subsystem, config: [] }));
  await rpc.call('config_apply', { subsystems, prune: true });
  expect(callsOf(await save())).toEqual([]);
}

describe.each(Object.keys(CASES) as Making[])('%s', (method) => {
  test('is tried with every parameter that it has', () => {
    expect(Object.keys(CASES[method].params).toSorted()).toEqual(Object.keys(METHODS[method].params.shape).toSorted());
  });

  test('is saved with all that it was given, and loading that makes the same', async () => {
    const { before = [], savedAs = method } = CASES[method];
    const unsaved: readonly string[] = [...(CASES[method].unsaved ?? []), ...METHODS[method].ignored];
    await fc.assert(
      fc.asyncProperty(arbitraryOf(method), async (params) => {
        try {
          for (const [name, values] of before) await rpc.request(name, values);
          await rpc.request(method, params);
          const saved = await save();
          const call = callsOf(saved).find((one) => one.method === savedAs && isAbout(one.params ?? {}, params));
          const full = METHODS[savedAs].params.parse(call?.params) as Values;
          const wanted = Object.fromEntries(Object.entries(params).filter(([name]) => !unsaved.includes(name)));
          expect({ ...defaultsOf(wanted), ...full }).toMatchObject(wanted);
          await deleteAll();
          await rpc.request('load_config', saved as unknown as Values);
          expect(await save()).toEqual(saved);
          const again = await rpc.request('config_apply', saved as unknown as Values);
          expect(again).toEqual({ changes: [], extra: [], passed_over: [] });
        } finally {
          await deleteAll();
        }
      }),
      { numRuns: RUNS },
    );
  });
});

const isAbout = (one: Values, other: Values): boolean =>
  one['name'] === other['name'] && one['ctrlr'] === other['ctrlr'];

/** What is not written down when it is what the daemon does anyway. */
function defaultsOf({ mode: asked, cpumask: mask }: Values): Values {
  const all = `0x${allowedCores()
    .reduce((sum, core) => sum + 2 ** core, 0)
    .toString(16)}`;
  return {
    ...(asked === 'interrupt' ? { mode: 'interrupt' } : {}),
    queue_placement: 'spread',
    ...(mask === all ? { cpumask: all } : {}),
  };
}

test('what depends on other things is saved after them', async () => {
  await rpc.request(...SCSI);
  await rpc.request(...MALLOC);
  await rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'c', scsi_target_num: 1, bdev_name: 'M' });
  await rpc.call('vhost_create_blk_controller', { ctrlr: 'd', dev_name: 'M' });
  const saved = await save();
  expect(callsOf(saved).map(({ method }) => method)).toEqual([
    'bdev_malloc_create',
    'vhost_create_blk_controller',
    'vhost_create_scsi_controller',
    'vhost_scsi_controller_add_target',
  ]);
  expect(await rpc.call('save_config', { subsystems: 'vhost_scsi' })).toEqual({
    subsystems: saved.subsystems.filter(({ subsystem }) => subsystem !== 'vhost_blk'),
  });
  await deleteAll();
});

test('a configuration is applied as a whole, or not at all', async () => {
  const path = join(directory, 'wanted.json');
  const write = (subsystems: unknown): void => writeFileSync(path, JSON.stringify({ subsystems }));
  const apply = (...flags: readonly string[]) => {
    const args = ['config', 'apply', path, '-s', join(directory, 'rpc.sock'), ...flags];
    return promisify(execFile)(join(import.meta.dirname, '..', '..', 'bin', 'ringhost'), args);
  };
  await rpc.request(...MALLOC);
  const saved = await save();
  const other = { method: 'bdev_null_create', params: { name: 'N', num_blocks: 8, block_size: 512 } };
  const twice = { method: 'bdev_passthru_create', params: { name: 'P', base_bdev_name: 'Absent' } };
  write([{ subsystem: 'bdev', config: [other, twice] }]);
  await expect(apply('--prune')).rejects.toThrow(/bdev_passthru_create P: .*everything that was done was undone/);
  expect(await save()).toEqual(saved);

  write([{ subsystem: 'bdev', config: [other] }]);
  expect((await apply('--dry-run')).stdout).toMatch(
    /^\+ bdev_null_create N.*\n.*left alone.*malloc_create M\nnothing was done/,
  );
  expect(await save()).toEqual(saved);
  expect((await apply('--prune')).stdout).toMatch(
    /^\+ bdev_null_create N.*\n- bdev_malloc_create M\ndone: 2 changes\n$/,
  );
  expect((await apply('--prune')).stdout).toBe('everything is as the file says\n');

  write([{ subsystem: 'bdev', config: [{ ...other, params: { ...other.params, num_blocks: 16 } }] }]);
  await expect(apply()).rejects.toThrow(/N would be taken away and made again: allow it with/);
  expect((await apply('--replace')).stdout).toBe('! bdev_null_create N: num_blocks 8 → 16\ndone: 1 change\n');
  await deleteAll();
});
