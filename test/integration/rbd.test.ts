/**
 * RBD disks on a cluster that keeps its data in memory: what every bdev does, verified load over blk and scsi, resize,
 * discard, locks of the living and the dead, and what is refused. What a failing cluster does is in rbd-faults.test.ts.
 */
import { chmodSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { SILENT } from '../../src/base/log.ts';
import { RbdClusters } from '../../src/bdev/modules/rbd/clusters.ts';
import { OwnAddresses } from '../../src/bdev/modules/rbd/own-addresses.ts';
import { RbdBdev } from '../../src/bdev/modules/rbd/rbd.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { BlockStamps } from '../../src/initiator/block-stamps.ts';
import { BlkLoadGenerator, ScsiLoadGenerator } from '../../src/initiator/load-generator.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { BlkFeature, BlkRequestType, BlkStatus } from '../../src/virtio/blk.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { describeConformance, type Kind } from '../support/bdev-conformance.ts';
import { CephCluster } from '../support/ceph-cluster.ts';
import { connectBlk, connectScsi, STAMPED_BYTES } from '../support/stamped-load.ts';
import { strayAnswers } from '../support/upgrade-load.ts';
import { MIB, pattern, sameBytes } from './blk-case-helpers.ts';
import { RinghostDaemon } from './fixtures/targets.ts';
import { attentions } from './scsi-bench.ts';

const BLOCK_BYTES = 4096;
const DISK_MIB = 32;
const CORES = ['-m', '0x3'];
const LOAD = { depth: 16, blockBytes: BLOCK_BYTES, writePercent: 50, stallMs: 60_000 };

let number = 0;
const newName = (): string => `image${number++}`;

describe.skipIf(whyNoTool('ceph') !== null)('RBD:', () => {
  let ceph: CephCluster;
  beforeAll(async () => {
    ceph = await CephCluster.start({ store: 'memory', parent: tmpdir() });
  });
  afterAll(() => ceph?.close());

  describe('conformance:', () => {
    let own: OwnAddresses;
    let clusters: RbdClusters;
    beforeAll(async () => {
      own = new OwnAddresses(join(ceph.directory, 'own'), SILENT);
      clusters = new RbdClusters(own, SILENT);
      await clusters.register('plain', { configFile: ceph.configFile });
      await clusters.register('one core', { configFile: ceph.configFile, coreMask: '[0]' });
      const settings = { rbd_cache: 'true', rbd_cache_policy: 'writeback' };
      await clusters.register('cached', { configFile: ceph.configFile, settings });
    });
    afterAll(() => clusters?.close());

    const imageOf = (blockSizeBytes: number, clusterName: string): Kind => ({
      canWake: true,
      async make(name, bytes) {
        const image = newName();
        await ceph.createImage(image, bytes / MIB);
        const cluster = clusters.get(clusterName);
        cluster.users++;
        const params = { name, pool: 'rbd', image, blockSizeBytes, isReadonly: false, lock: 'share', cluster } as const;
        return await RbdBdev.open(params, cluster, own, SILENT);
      },
    });
    describeConformance('an image', imageOf(512, 'plain'));
    describeConformance('an image of 4096-byte blocks', imageOf(4096, 'one core'));
    describeConformance('an image behind a cache of librbd', imageOf(512, 'cached'));
  });

  /** A disk on an image of its own, and its controller. */
  async function serve(daemon: RinghostDaemon, image: string, params: Readonly<Record<string, unknown>> = {}) {
    const connection = 'cluster_name' in params ? {} : { config: { mon_host: ceph.monitor, ...NO_AUTH } };
    const where = { pool_name: 'rbd', rbd_name: image, block_size: 512 };
    await daemon.rpc.request('bdev_rbd_create', { name: image, ...where, ...connection, ...params });
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: image, dev_name: image });
    return join(daemon.directory, image);
  }

  const registered = async (daemon: RinghostDaemon): Promise<void> => {
    await daemon.rpc.call('bdev_rbd_register_cluster', { name: 'ceph', config_file: ceph.configFile });
  };

  test('an image holds what was written under load, through blk and scsi, before and after a restart', async () => {
    const image = newName();
    await ceph.createImage(image, DISK_MIB);
    const stamps = new BlockStamps((DISK_MIB * MIB) / BLOCK_BYTES, BLOCK_BYTES, { isZeroed: true });
    const first = await RinghostDaemon.start(CORES);
    const blk = await BlkInitiator.connect(await serve(first, image), { queues: 2 });
    const blkLoad = new BlkLoadGenerator(blk, { ...LOAD, stamps });
    expect(await blkLoad.runAsync({ count: 2500 })).toMatchObject({ errors: 0, mismatches: 0 });
    blkLoad.close();
    blk.close();
    await first.close();

    const second = await RinghostDaemon.start([...CORES, '--mode', 'interrupt']);
    await registered(second);
    await second.rpc.request('construct_rbd_bdev', {
      ...{ name: 'Ceph0', pool_name: 'rbd', rbd_name: image, block_size: 4096, cluster_name: 'ceph' },
    });
    await second.rpc.call('vhost_create_scsi_controller', { ctrlr: 'scsi.0' });
    const target = { ctrlr: 'scsi.0', scsi_target_num: 0, bdev_name: 'Ceph0' };
    await second.rpc.call('vhost_scsi_controller_add_target', target);
    const scsi = await ScsiInitiator.connect(join(second.directory, 'scsi.0'), { requestQueues: 2 });
    await attentions(scsi, {});
    const disk = { target: 0, lun: 0, sizeBytes: DISK_MIB * MIB, logicalBlockBytes: 4096 };
    const scsiLoad = new ScsiLoadGenerator(scsi, disk, { ...LOAD, stamps });
    expect(await scsiLoad.runAsync({ count: 2500 })).toMatchObject({ errors: 0, mismatches: 0 });
    scsiLoad.close();
    scsi.close();
    await second.close();
  });

  test('an upgrade under load hands images over with their locks, also from behind a cache', {
    timeout: 300_000,
  }, async () => {
    const images = [newName(), newName()] as const;
    for (const image of images) await ceph.createImage(image, STAMPED_BYTES / MIB);
    const daemon = await RinghostDaemon.start(CORES);
    const logs = mkdtempSync(join(tmpdir(), 'rbd-logs-'));
    const logging = { debug_rbd: '5', log_file: join(logs, '$pid.$cctid'), log_to_stderr: 'false' };
    const cluster = { config_file: ceph.configFile, config_param: logging };
    await daemon.rpc.call('bdev_rbd_register_cluster', { name: 'ceph', ...cluster });
    const path = await serve(daemon, images[0], { cluster_name: 'ceph' });
    const cache = { rbd_cache: 'true', rbd_cache_policy: 'writeback' };
    const config = { mon_host: ceph.monitor, ...NO_AUTH, ...logging, ...cache };
    const where = { pool_name: 'rbd', rbd_name: images[1], block_size: 512 } as const;
    await daemon.rpc.call('bdev_rbd_create', { name: 'Cached', ...where, config });
    await daemon.rpc.call('vhost_create_scsi_controller', { ctrlr: 'scsi' });
    const target = { ctrlr: 'scsi', scsi_target_num: 0, bdev_name: 'Cached' };
    await daemon.rpc.call('vhost_scsi_controller_add_target', target);
    const options = { timeoutMs: 120_000 };
    const disks = [await connectBlk(path, options), await connectScsi(join(daemon.directory, 'scsi'), options)];
    expect(await strayAnswers(daemon, disks, CORES)).toBe(0);
    // A lock that is another's takes seconds: every daemon finds it free, also after upgrades that failed.
    const log = readdirSync(logs).map((name) => readFileSync(join(logs, name), 'utf8'));
    expect(log.join('')).toContain('successfully acquired exclusive lock');
    expect(log.join('')).not.toContain('unable to acquire exclusive lock');
    rmSync(logs, { recursive: true });
    const keeper = newName();
    await ceph.createImage(keeper, 8);
    const kept = { name: 'Keeper', pool_name: 'rbd', rbd_name: keeper, block_size: 512, cluster_name: 'ceph' } as const;
    await daemon.rpc.call('bdev_rbd_create', { ...kept, lock: 'hold' });
    await expect(daemon.upgrade()).rejects.toThrow('bdev "Keeper" keeps the lock of its image (lock "hold")');
    await daemon.close();
  });

  describe('a disk', () => {
    let daemon: RinghostDaemon;
    beforeAll(async () => {
      daemon = await RinghostDaemon.start(CORES);
      await registered(daemon);
    });
    afterEach(() => daemon.checkAlive());
    afterAll(() => daemon?.close());
    const served = async (image: string, mebibytes: number, params: Readonly<Record<string, unknown>> = {}) => {
      await ceph.createImage(image, mebibytes);
      return await BlkInitiator.connect(await serve(daemon, image, { cluster_name: 'ceph', ...params }));
    };

    test('grows when its image does, whoever made it grow, and does not shrink by us while it is used', async () => {
      const image = newName();
      const host = await served(image, 8);
      for (const [mebibytes, resize] of [
        [16, () => ceph.rbd('resize', image, '--size', '16M')],
        [24, () => daemon.rpc.call('bdev_rbd_resize', { name: image, new_size: 24 })],
      ] as const) {
        const change = host.nextConfigChange();
        await resize();
        expect((await change).capacitySectors).toBe((mebibytes * MIB) / 512);
        const data = pattern(BLOCK_BYTES, mebibytes);
        await host.write((mebibytes * MIB) / 512 - 8, data);
        sameBytes(await host.read((mebibytes * MIB) / 512 - 8, BLOCK_BYTES), data, 'the new end');
      }
      const shrink = daemon.rpc.call('bdev_rbd_resize', { name: image, new_size: 8 });
      await expect(shrink).rejects.toMatchObject({ code: -16 });
      const change = host.nextConfigChange();
      await ceph.rbd('resize', image, '--size', '8M', '--allow-shrink');
      expect((await change).capacitySectors).toBe((8 * MIB) / 512);
      const beyond = { type: BlkRequestType.IN, sector: (8 * MIB) / 512, inBytes: 512 } as const;
      expect((await host.request(beyond)).status).toBe(BlkStatus.IOERR);
      host.close();
    });

    test('gives back what its guest discards', async () => {
      const image = newName();
      const host = await served(image, 16);
      for (let i = 0; i < 16; i++) await host.write((i * MIB) / 512, pattern(MIB, i));
      expect(await ceph.usedBytes(image)).toBe(16 * MIB);
      await host.discard([{ sector: (4 * MIB) / 512, sectors: (8 * MIB) / 512 }]);
      expect(await ceph.usedBytes(image)).toBe(8 * MIB);
      await host.writeZeroes([{ sector: 100, sectors: 100 }]);
      sameBytes(await host.read(100, 100 * 512), new Uint8Array(100 * 512), 'a zeroed range');
      sameBytes(await host.read((12 * MIB) / 512, MIB), pattern(MIB, 12), 'what was not discarded');
      host.close();
    });

    test('opened for reading only is read-only to its guest', async () => {
      const host = await served(newName(), 4, { read_only: true });
      expect(host.hasFeature(BlkFeature.RO)).toBe(true);
      sameBytes(await host.read(0, BLOCK_BYTES), new Uint8Array(BLOCK_BYTES), 'an empty image');
      host.close();
    });

    test('has a UUID that stays, and shows where it is', async () => {
      const image = newName();
      (await served(image, 4)).close();
      const show = async () => (await daemon.rpc.call('bdev_get_bdevs', { name: image }))[0];
      const before = await show();
      expect(before).toMatchObject({ product_name: 'Ceph Rbd Disk', num_blocks: 8192 });
      expect(before?.driver_specific).toMatchObject({
        rbd: { pool_name: 'rbd', rbd_name: image, cluster_name: 'ceph' },
      });
      await daemon.rpc.call('vhost_delete_controller', { ctrlr: image, force: true });
      await daemon.rpc.call('bdev_rbd_delete', { name: image });
      await serve(daemon, image);
      expect((await show())?.uuid).toBe(before?.uuid);
    });

    test('leaves no descriptor behind', async () => {
      const image = newName();
      await ceph.createImage(image, 4);
      const eventFds = (): number =>
        readdirSync(`/proc/${daemon.pid}/fd`).filter((fd) => isEventFd(`/proc/${daemon.pid}/fd/${fd}`)).length;
      const cycle = async (): Promise<void> => {
        const host = await BlkInitiator.connect(await serve(daemon, image));
        await host.write(0, pattern(4096, 1));
        host.close();
        await daemon.rpc.call('vhost_delete_controller', { ctrlr: image, force: true });
        await daemon.rpc.call('bdev_rbd_delete', { name: image });
      };
      await cycle();
      const before = eventFds();
      for (let i = 0; i < 4; i++) await cycle();
      await expect.poll(eventFds, { timeout: 20_000 }).toBe(before);
    });

    test('goes, as one that is pulled out, when its pool is removed', async () => {
      const image = newName();
      await ceph.ceph(
        'osd pool create doomed 8 8',
        'osd pool set doomed size 1 --yes-i-really-mean-it',
        'osd pool application enable doomed rbd',
        'config set mon mon_allow_pool_delete true',
      );
      await ceph.createImage(`doomed/${image}`, DISK_MIB);
      const host = await BlkInitiator.connect(await serve(daemon, image, { pool_name: 'doomed' }));
      await host.write(0, pattern(4096, 1));
      await ceph.ceph('osd pool delete doomed doomed --yes-i-really-really-mean-it');
      const namesAfterWrite = async (): Promise<string[]> => {
        await host.write(0, pattern(4096, 2)).catch(() => undefined);
        return (await daemon.rpc.call('bdev_get_bdevs', {})).map(({ name }) => name);
      };
      await expect.poll(namesAfterWrite, { timeout: 20_000 }).not.toContain(image);
      await expect(host.read(0, 4096)).rejects.toThrow();
      host.close();
    });

    test('deleted under load gives its guest errors', async () => {
      const image = newName();
      const host = await served(image, DISK_MIB);
      const load = new BlkLoadGenerator(host, LOAD);
      const running = load.runAsync({ durationMs: 1000 });
      await daemon.rpc.call('delete_bdev', { name: image });
      expect((await running).errors).toBeGreaterThan(0);
      load.close();
      host.close();
    });
  });

  describe('the calls', () => {
    let daemon: RinghostDaemon;
    beforeAll(async () => {
      daemon = await RinghostDaemon.start();
      await registered(daemon);
      await ceph.createImage('there', 4);
    });
    afterEach(() => daemon.checkAlive());
    afterAll(() => daemon?.close());
    const create = (params: Readonly<Record<string, unknown>>) =>
      daemon.rpc.request('bdev_rbd_create', { pool_name: 'rbd', rbd_name: 'there', block_size: 512, ...params });

    test.each([
      [{ pool_name: 'nowhere', cluster_name: 'ceph' }, -2, 'ceph osd lspools'],
      [{ rbd_name: 'nothing', cluster_name: 'ceph' }, -2, 'rbd ls'],
      [{ cluster_name: 'other' }, -2, 'bdev_rbd_register_cluster'],
      [{ cluster_name: 'ceph', user_id: 'admin' }, -22, 'for a connection of its own'],
      [{ config: { no_such_option: '1' } }, -22, 'Ceph has no such option'],
      [{ config: { rados_osd_op_timeout: 'soon' } }, -22, 'does not take the value'],
      [{ config: { mon_host: '127.0.0.1:1', client_mount_timeout: '1' } }, -110, 'no monitor answers'],
    ])('of a disk with %o say what to do', async (params, code, text) => {
      await expect(create(params)).rejects.toMatchObject({ code, message: expect.stringContaining(text) });
    });

    test('give librbd as many threads for completions as it has cores, or as is wanted', async () => {
      const threads = (): number =>
        readdirSync(`/proc/${daemon.pid}/task`).filter(
          (id) => readFileSync(`/proc/${daemon.pid}/task/${id}/comm`, 'utf8') === 'io_context_pool\n',
        ).length;
      const started = async (params: Readonly<Record<string, unknown>>): Promise<number> => {
        const before = threads();
        await daemon.rpc.request('bdev_rbd_register_cluster', { name: 'new', config_file: ceph.configFile, ...params });
        const after = threads();
        await daemon.rpc.call('bdev_rbd_unregister_cluster', { name: 'new' });
        return after - before;
      };
      expect(await started({})).toBe(2);
      expect(await started({ core_mask: '[0]' })).toBe(1);
      expect(await started({ core_mask: '[0]', config_param: { librados_thread_count: '3' } })).toBe(3);
    });

    test('know registered clusters', async () => {
      const again = daemon.rpc.call('bdev_rbd_register_cluster', { name: 'ceph' });
      await expect(again).rejects.toMatchObject({ code: -17 });
      expect(await create({ cluster_name: 'ceph' })).toBe('Ceph0');
      await expect(create({ name: 'Ceph0', cluster_name: 'ceph' })).rejects.toMatchObject({ code: -17 });
      const info = await daemon.rpc.call('bdev_rbd_get_clusters_info', { name: 'ceph' });
      expect(info).toMatchObject({ cluster_name: 'ceph', config_file: ceph.configFile, bdevs: 1 });
      expect(await daemon.rpc.call('bdev_rbd_get_clusters_info', {})).toEqual([info]);
      const config = await daemon.rpc.call('framework_get_config', { name: 'bdev' });
      expect(config?.map(({ method }) => method)).toEqual(['bdev_rbd_register_cluster', 'bdev_rbd_create']);
      const unregister = () => daemon.rpc.call('bdev_rbd_unregister_cluster', { name: 'ceph' });
      await expect(unregister()).rejects.toMatchObject({ code: -16 });
      await daemon.rpc.call('delete_bdev', { name: 'Ceph0' });
      expect(await unregister()).toBe(true);
      await expect(unregister()).rejects.toMatchObject({ code: -2 });
    });
  });

  describe('the lock of an image', () => {
    test('goes at once from a killed daemon to its successor, which has all that was acknowledged', async () => {
      const image = newName();
      await ceph.createImage(image, DISK_MIB);
      const daemon = await RinghostDaemon.start(CORES);
      let host = await BlkInitiator.connect(await serve(daemon, image));
      /** By block: the last write that was acknowledged, and those of which nobody knows. */
      const acknowledged = new Map<number, number>();
      const doubtful = new Set<number>();
      let generation = 0;
      for (let round = 0; round < 2; round++) {
        const writer = async (lane: number): Promise<void> => {
          for (;;) {
            const block = lane + 16 * ((generation * 37) % 256);
            const mine = ++generation;
            doubtful.add(block);
            try {
              await host.write(block * 8, pattern(BLOCK_BYTES, mine));
            } catch {
              return;
            }
            acknowledged.set(block, mine);
            doubtful.delete(block);
          }
        };
        const writers = Array.from({ length: 16 }, (_, lane) => writer(lane));
        const from = generation;
        await expect.poll(() => generation - from, { timeout: 60_000 }).toBeGreaterThan(300);
        await daemon.crash();
        host.close();
        await Promise.all(writers);
        await daemon.restart();
        host = await BlkInitiator.connect(await serve(daemon, image));
        expect(daemon.log).toContain('a daemon before this one that died');
        for (const [block, last] of acknowledged) {
          if (doubtful.has(block)) continue;
          sameBytes(await host.read(block * 8, BLOCK_BYTES), pattern(BLOCK_BYTES, last), `block ${block}`);
        }
      }
      expect(acknowledged.size).toBeGreaterThan(300);
      host.close();
      await daemon.close();
    });

    test('of every image of a killed daemon goes to its successor, with one epoch for each client', async () => {
      const epoch = async (): Promise<number> => Number(/^epoch (\d+)$/m.exec(await ceph.ceph('osd dump'))?.[1]);
      const images = [newName(), newName(), newName()];
      for (const image of images) await ceph.createImage(image, 8);
      const daemon = await RinghostDaemon.start();
      /** Disks over one connection, and one over a connection of its own; each is written to. */
      const serveAll = async (): Promise<void> => {
        await registered(daemon);
        for (const image of images) {
          const path = await serve(daemon, image, image === images[2] ? {} : { cluster_name: 'ceph' });
          const host = await BlkInitiator.connect(path);
          await host.write(0, pattern(BLOCK_BYTES, 1));
          host.close();
        }
      };
      await serveAll();
      const owners = async (): Promise<string[]> => {
        const locks = images.map((image) => ceph.rbd('lock', 'ls', image, '--format', 'json'));
        return (await Promise.all(locks)).map((text) => JSON.parse(text)[0].address);
      };
      const [dead, before] = [await owners(), await epoch()];
      await daemon.crash();
      await daemon.restart();
      await serveAll();
      // Two clients died.
      expect(new Set(dead).size).toBe(2);
      expect((await epoch()) - before).toBe(2);
      expect((await owners()).filter((owner) => dead.includes(owner))).toEqual([]);
      const blocklist = await ceph.ceph('osd blocklist ls');
      for (const owner of dead) expect(blocklist).toContain(owner);
      await daemon.close();
    });

    test('goes to a successor that finds nothing but the state directory, as after a power cut', async () => {
      const image = newName();
      await ceph.createImage(image, 8);
      const state = mkdtempSync(join(tmpdir(), 'ringhost-state-'));
      const daemon = await RinghostDaemon.start(['--state-dir', state]);
      const host = await BlkInitiator.connect(await serve(daemon, image));
      await host.write(0, pattern(BLOCK_BYTES, 1));
      await daemon.crash();
      host.close();
      for (const name of readdirSync(daemon.directory)) rmSync(join(daemon.directory, name), { recursive: true });
      await daemon.restart();
      await daemon.rpc.call('framework_wait_init');
      expect(daemon.log).toContain('a daemon before this one that died');
      await daemon.close();
      rmSync(state, { recursive: true });
    });

    test('is not taken from a daemon that lives, unless we are told to; then it is shut out', async () => {
      const image = newName();
      await ceph.createImage(image, 8);
      const [first, second] = [await RinghostDaemon.start(), await RinghostDaemon.start()];
      const old = await BlkInitiator.connect(await serve(first, image, { lock: 'hold' }));
      await old.write(0, pattern(BLOCK_BYTES, 1));
      const refused = serve(second, image, { lock: 'hold' });
      await expect(refused).rejects.toMatchObject({ code: -16, message: expect.stringContaining('is locked by') });
      await old.write(0, pattern(BLOCK_BYTES, 2));
      const host = await BlkInitiator.connect(await serve(second, image, { lock: 'break' }));
      sameBytes(await host.read(0, BLOCK_BYTES), pattern(BLOCK_BYTES, 2), 'the last write before');
      await host.write(0, pattern(BLOCK_BYTES, 3));
      const late = { type: BlkRequestType.OUT, sector: 0, out: pattern(BLOCK_BYTES, 4) } as const;
      expect((await old.request(late)).status).toBe(BlkStatus.IOERR);
      await expect.poll(() => first.log, { timeout: 20_000 }).toContain('has shut out this client');
      sameBytes(await host.read(0, BLOCK_BYTES), pattern(BLOCK_BYTES, 3), 'the write of the new owner');
      old.close();
      host.close();
      await first.close();
      await second.close();
    });

    test('is not taken by what a file says that others may write', async () => {
      const path = join(ceph.directory, 'planted');
      writeFileSync(path, '127.0.0.1:0/1\n', { mode: 0o666 });
      chmodSync(path, 0o666);
      const own = new OwnAddresses(path, SILENT);
      await own.claim();
      expect(own.isDead('127.0.0.1:0/1')).toBe(false);
      chmodSync(path, 0o600);
      const next = new OwnAddresses(path, SILENT);
      await next.claim();
      expect(next.isDead('127.0.0.1:0/1')).toBe(true);
      next.close();
    });
  });
});

const NO_AUTH = {
  auth_client_required: 'none',
  auth_cluster_required: 'none',
  auth_service_required: 'none',
};

function isEventFd(path: string): boolean {
  try {
    return readlinkSync(path).includes('eventfd');
  } catch {
    return false;
  }
}
