/**
 * RBD disks on a cluster of three OSDs that keep their data on disks and want keys: one is killed and started again,
 * one stands still, the monitor is away. No request fails and nothing is lost; and what an operator hears who has the
 * wrong key, or no OSD at all.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { BlockStamps } from '../../src/initiator/block-stamps.ts';
import { BlkLoadGenerator } from '../../src/initiator/load-generator.ts';
import { BlkRequestType, BlkStatus } from '../../src/virtio/blk.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { CephCluster, RBD_USER } from '../support/ceph-cluster.ts';
import { MIB, pattern, sameBytes } from './blk-case-helpers.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const BLOCK_BYTES = 4096;
const DISK_MIB = 32;
/** How long a fault lasts: longer than what is in flight takes. */
const FAULT_MS = 1500;
const LIMIT_MS = 240_000;
const LOAD = { depth: 16, blockBytes: BLOCK_BYTES, writePercent: 50, stallMs: 120_000 };

describe.skipIf(whyNoTool('ceph') !== null)('RBD on three OSDs with keys', () => {
  let ceph: CephCluster;
  let daemon: RinghostDaemon;
  let connection: Readonly<Record<string, string>>;

  beforeAll(async () => {
    ceph = await CephCluster.start({
      osds: 3,
      hasAuth: true,
      store: 'disk',
      parent: join(import.meta.dirname, '../../build'),
    });
    daemon = await RinghostDaemon.start();
    connection = { mon_host: ceph.monitor, key: await ceph.key(RBD_USER) };
  }, LIMIT_MS);
  afterEach(() => daemon.checkAlive());
  afterAll(async () => {
    await daemon?.close();
    await ceph?.close();
  }, LIMIT_MS);

  async function serve(image: string, config: Readonly<Record<string, string>> = {}): Promise<BlkInitiator> {
    await ceph.createImage(image, DISK_MIB);
    await daemon.rpc.request('bdev_rbd_create', {
      ...{ name: image, pool_name: 'rbd', rbd_name: image, block_size: 512, user_id: RBD_USER },
      config: { ...connection, ...config },
    });
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: image, dev_name: image });
    return await BlkInitiator.connect(join(daemon.directory, image));
  }

  test(
    'an OSD that dies and comes back, one that stands still, and a monitor that is away cost no request',
    async () => {
      const host = await serve('faults');
      const stamps = new BlockStamps((DISK_MIB * MIB) / BLOCK_BYTES, BLOCK_BYTES, { isZeroed: true });
      const load = new BlkLoadGenerator(host, { ...LOAD, stamps });
      const running = load.runAsync({ durationMs: LIMIT_MS });
      await sleep(FAULT_MS);
      await ceph.killOsd(0);
      await sleep(FAULT_MS);
      ceph.startOsd(0);
      await sleep(FAULT_MS);
      ceph.signalOsd(1, 'SIGSTOP');
      await sleep(FAULT_MS);
      ceph.signalOsd(1, 'SIGCONT');
      await ceph.killMonitor();
      await sleep(FAULT_MS);
      ceph.startMonitor();
      load.stop();
      const { ios, errors, mismatches } = await running;
      expect({ errors, mismatches }).toEqual({ errors: 0, mismatches: 0 });
      expect(ios).toBeGreaterThan(0);
      load.close();
      const check = new BlkLoadGenerator(host, { ...LOAD, stamps, writePercent: 0, pattern: 'sequential' });
      const count = (DISK_MIB * MIB) / BLOCK_BYTES;
      expect(await check.runAsync({ count })).toMatchObject({ errors: 0, mismatches: 0 });
      check.close();
      host.close();
    },
    LIMIT_MS,
  );

  test('without an answer of any OSD requests fail after rados_osd_op_timeout; with one they work again', async () => {
    const host = await serve('timeout', { rados_osd_op_timeout: '2' });
    await host.write(0, pattern(BLOCK_BYTES, 1));
    for (const id of [0, 1, 2]) ceph.signalOsd(id, 'SIGSTOP');
    const write = { type: BlkRequestType.OUT, sector: 0, out: pattern(BLOCK_BYTES, 2) } as const;
    expect((await host.request(write)).status).toBe(BlkStatus.IOERR);
    for (const id of [0, 1, 2]) ceph.signalOsd(id, 'SIGCONT');
    await expect.poll(() => daemon.log, { timeout: 20_000 }).toContain('rados_osd_op_timeout');
    const isServed = async () => (await host.request(write)).status;
    await expect.poll(isServed, { timeout: 60_000 }).toBe(BlkStatus.OK);
    sameBytes(await host.read(0, BLOCK_BYTES), pattern(BLOCK_BYTES, 2), 'what was written at last');
    host.close();
  });

  test('a user without the right key, or without rights, is told so', async () => {
    const create = (user_id: string, config: Readonly<Record<string, string>>) =>
      daemon.rpc.request('bdev_rbd_create', {
        ...{ pool_name: 'rbd', rbd_name: 'first', block_size: 512, user_id },
        config: { mon_host: ceph.monitor, ...config },
      });
    const wrongKey = create(RBD_USER, { key: await ceph.key('nobody') });
    await expect(wrongKey).rejects.toMatchObject({ code: -13, message: expect.stringContaining('check user_id') });
    const noRights = create('nobody', { key: await ceph.key('nobody') });
    await expect(noRights).rejects.toMatchObject({ code: -1, message: expect.stringContaining('profile rbd') });
    const noKey = create(RBD_USER, { keyring: '/nowhere' });
    await expect(noKey).rejects.toMatchObject({ message: expect.stringMatching(/key/) });
  });
});
