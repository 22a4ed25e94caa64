/**
 * The daemon is killed under load, again and again, and started anew: the driver waits, and then everything it asked
 * for is done, once, and in no other order than it saw. RINGHOST_KILLS is how often, each; docs/reliability.md has the
 * figures of a long run.
 */
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { waitUntil } from '../e2e/wait.ts';
import { connectBlk, connectScsi, STAMPED_BYTES, StampedLoad } from '../support/stamped-load.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const KILLS = Number(process.env.RINGHOST_KILLS ?? 4);
/** Where the disk is so fast that nothing was in flight at any of the kills: this many times as many at most. */
const FUTILE_FACTOR_MAX = 10;
const KILL_MS_MAX = 60_000;
/** A kill comes this long after the driver was served again: some while what was left is still being done. */
const LIFE_MS_MAX = 150;
/** A file system on a disk, with O_DIRECT where it can. */
const ON_DISK = join(import.meta.dirname, '..', '..', 'build');

/** Requests that the log says were taken up. */
function takenUp(log: string): number {
  return [...log.matchAll(/takes up (\d+) requests/g)].reduce((sum, [, count]) => sum + Number(count), 0);
}

function configOf(kind: 'blk' | 'scsi', filename: string) {
  const bdev = { method: 'bdev_aio_create', params: { name: 'Disk', filename } };
  const blk = [{ method: 'vhost_create_blk_controller', params: { ctrlr: 'disk', dev_name: 'Disk' } }];
  const scsi = [
    { method: 'vhost_create_scsi_controller', params: { ctrlr: 'disk', delay: true } },
    { method: 'vhost_scsi_controller_add_target', params: { ctrlr: 'disk', scsi_target_num: 0, bdev_name: 'Disk' } },
    { method: 'vhost_start_scsi_controller', params: { ctrlr: 'disk' } },
  ];
  return {
    subsystems: [
      { subsystem: 'bdev', config: [bdev] },
      { subsystem: `vhost_${kind}`, config: kind === 'blk' ? blk : scsi },
    ],
  };
}

test.each([
  ['blk', 'split', connectBlk],
  ['scsi', 'split', connectScsi],
  ['blk', 'packed', connectBlk],
  ['scsi', 'packed', connectScsi],
] as const)(
  'a %s disk with %s rings loses nothing and mixes nothing up when its daemon is killed under load',
  async (kind, layout, connect) => {
    const directory = mkdtempSync(join(ON_DISK, 'kill-'));
    const filename = join(directory, 'disk');
    writeFileSync(filename, '');
    truncateSync(filename, STAMPED_BYTES);
    const config = join(directory, 'config.json');
    writeFileSync(config, JSON.stringify(configOf(kind, filename)));
    const daemon = await RinghostDaemon.start(['-c', config]);
    const path = join(daemon.directory, 'disk');
    await waitUntil(() => existsSync(path), KILL_MS_MAX, 'controller');
    // As a virtual machine that waits as long as it takes.
    const options = { keepsRequests: true, timeoutMs: KILL_MS_MAX, isPacked: layout === 'packed' };
    const disk = await connect(path, options);
    const load = new StampedLoad(disk);
    let requests = 0;
    let kills = 0;
    try {
      for (; kills < KILLS || (requests === 0 && kills < KILLS * FUTILE_FACTOR_MAX); kills++) {
        await sleep(Math.random() * LIFE_MS_MAX);
        requests += takenUp(daemon.log);
        await daemon.crash();
        await Promise.all([daemon.restart(), disk.reconnect()]);
      }
      requests += takenUp(daemon.log);
      await load.stop();
      await load.verify();
      expect(disk.unknownIds()).toBe(0);
      expect(load.writes).toBeGreaterThan(kills);
      // Otherwise nothing was in flight when it was killed, and nothing was tested.
      expect(requests).toBeGreaterThan(0);
      const counts = `${load.writes} writes, ${load.reads} reads checked, ${requests} requests taken up`;
      console.log(`${kind}, ${layout}: ${kills} kills, ${counts}`);
      disk.close();
      await daemon.close();
    } catch (error) {
      console.log(`--- the daemon's log\n${daemon.log}`);
      await daemon.crash();
      throw error;
    } finally {
      disk.close();
      rmSync(directory, { recursive: true });
    }
  },
  60_000 + KILLS * FUTILE_FACTOR_MAX * KILL_MS_MAX,
);
