/**
 * Logical volumes with guests: a daemon that is killed under load while snapshots are made, and a store that is full.
 * RINGHOST_KILLS is how often it is killed.
 */
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { waitUntil } from '../e2e/wait.ts';
import { connectBlk, STAMPED_BYTES, StampedLoad } from '../support/stamped-load.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const KILLS = Number(process.env['RINGHOST_KILLS'] ?? 2);
const KILL_MS_MAX = 300_000;
const LIFE_MS_MAX = 200;
const MIB = 2 ** 20;
const ON_DISK = join(import.meta.dirname, '..', '..', 'build');

interface StoreInDaemon {
  readonly daemon: RinghostDaemon;
  readonly config: string;
  close(): Promise<void>;
}

/** A daemon with a store on a file, which it has again after a restart with what `configure` adds. */
async function startWithStore(sizeBytes: number, clusterBytes: number): Promise<StoreInDaemon> {
  const directory = mkdtempSync(join(ON_DISK, 'lvol-'));
  const filename = join(directory, 'disk');
  writeFileSync(filename, '');
  truncateSync(filename, sizeBytes);
  const config = join(directory, 'config.json');
  const bdev = { method: 'bdev_aio_create', params: { name: 'Base', filename } };
  writeFileSync(config, JSON.stringify({ subsystems: [{ subsystem: 'bdev', config: [bdev] }] }));
  const daemon = await RinghostDaemon.start(['-m', '0x3', '-c', config]);
  await daemon.rpc.call('bdev_lvol_create_lvstore', { bdev_name: 'Base', lvs_name: 'lvs', cluster_sz: clusterBytes });
  const close = async (): Promise<void> => {
    await daemon.close();
    rmSync(directory, { recursive: true });
  };
  return { daemon, config, close };
}

test(
  'a volume loses nothing when its daemon is killed under load while snapshots of it come and go',
  async () => {
    const { daemon, config, close } = await startWithStore(8 * STAMPED_BYTES, 64 * 1024);
    const size_in_mib = STAMPED_BYTES / MIB;
    await daemon.rpc.call('bdev_lvol_create', { lvs_name: 'lvs', lvol_name: 'vm', size_in_mib, thin_provision: true });
    await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'disk', dev_name: 'lvs/vm' });
    writeFileSync(config, JSON.stringify(await daemon.rpc.call('save_config')));
    const path = join(daemon.directory, 'disk');
    await waitUntil(() => existsSync(path), KILL_MS_MAX, 'controller');
    const disk = await connectBlk(path, { keepsRequests: true, timeoutMs: KILL_MS_MAX });
    const load = new StampedLoad(disk);
    let snapshots = 0;
    try {
      for (let kill = 0; kill < KILLS; kill++) {
        await daemon.rpc.call('bdev_lvol_snapshot', { lvol_name: 'lvs/vm', snapshot_name: `s${kill}` });
        snapshots++;
        const lasting = sleep(Math.random() * LIFE_MS_MAX);
        // It may be killed in the middle of it.
        const deleting =
          kill % 2 === 1 ? daemon.rpc.call('bdev_lvol_delete', { name: `lvs/s${kill - 1}` }).catch(() => {}) : null;
        await lasting;
        await daemon.crash();
        await deleting;
        await Promise.all([daemon.restart(), disk.reconnect()]);
        expect(await daemon.rpc.call('bdev_lvol_check_lvstore', { lvs_name: 'lvs' })).toMatchObject({ faults: [] });
      }
      await load.stop();
      await load.verify();
      expect(disk.unknownIds()).toBe(0);
      expect(load.writes).toBeGreaterThan(KILLS);
      console.log(`${KILLS} kills, ${snapshots} snapshots: ${load.writes} writes, ${load.reads} reads checked`);
    } catch (error) {
      console.log(`--- the daemon's log\n${daemon.log}`);
      throw error;
    } finally {
      disk.close();
      await close();
    }
  },
  60_000 + KILLS * 2 * KILL_MS_MAX,
);

test('guests hear that a store is full, and go on when there is room', async () => {
  const { daemon, close } = await startWithStore(4 * MIB, 64 * 1024);
  const { rpc } = daemon;
  try {
    for (const lvol_name of ['blk', 'scsi']) {
      await rpc.call('bdev_lvol_create', { lvs_name: 'lvs', lvol_name, size_in_mib: 64, thin_provision: true });
    }
    await rpc.call('vhost_create_blk_controller', { ctrlr: 'blk', dev_name: 'lvs/blk' });
    await rpc.call('vhost_create_scsi_controller', { ctrlr: 'scsi', delay: true });
    await rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 0, bdev_name: 'lvs/scsi' });
    await rpc.call('vhost_start_scsi_controller', { ctrlr: 'scsi' });
    const blk = await BlkInitiator.connect(join(daemon.directory, 'blk'));
    const scsi = await ScsiInitiator.connect(join(daemon.directory, 'scsi'));
    const cluster = new Uint8Array(64 * 1024).fill(1);
    const write = (index: number): Promise<void> => blk.write(index * 128, cluster);
    let written = 0;
    await expect(
      (async () => {
        for (; ; written++) await write(written);
      })(),
    ).rejects.toThrow();
    expect(written).toBeGreaterThan(10);
    const cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 128, 0];
    await scsi.good({ cdb: [0, 0, 0, 0, 0, 0] });
    const { status, sense } = await scsi.command({ cdb, out: cluster });
    // DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT.
    expect([status, (sense[2] as number) & 0xf, sense[12], sense[13]]).toEqual([2, 7, 0x27, 7]);
    await waitUntil(() => daemon.log.includes('lvs is full'), KILL_MS_MAX, 'the log');
    // What there is can be written, and what is discarded is room for others.
    await write(0);
    await blk.discard([{ sector: 0, sectors: 128 }]);
    await scsi.good({ cdb, out: cluster });
    blk.close();
    scsi.close();
  } finally {
    await close();
  }
});
