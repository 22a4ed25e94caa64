/**
 * The daemon is killed again and again under a guest that writes and verifies, and started anew by nobody but its
 * options: the guest waits for its disk and goes on. RINGHOST_KILLS is how often (docs/reliability.md).
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { whyNoGuests } from './requirements.ts';

const KILLS = Number(process.env['RINGHOST_KILLS'] ?? 5);
/** Where nothing was in flight at any of the kills: this many times as many at most. */
const FUTILE_FACTOR_MAX = 10;
const KILL_MS_MAX = 120_000;
/** A kill comes this long after the guest was served again. */
const LIFE_MS_MAX = 1000;
const MIB = 1 << 20;
const SIZE_MIB = 16;
const QUEUES = 2;
const JOBS = 2;
/** Less than the guest asks for: requests wait in the daemon, taken and not done. */
const IOS_PER_S = 1000;
/** Blocks that a job of fio writes in one of its rounds, before it reads all of them back. */
const BLOCKS_PER_ROUND = 512;
/** A file system on a disk, with O_DIRECT where it can: what a killed daemon asked for ends after its death. */
const ON_DISK = join(import.meta.dirname, '..', '..', 'build');

describe.skipIf(whyNoGuests() !== null)('a guest whose daemon is killed under load', () => {
  const directory = mkdtempSync(join(ON_DISK, 'kill-guest-'));
  let daemon: Daemon;
  let guest: Guest;

  beforeAll(async () => {
    daemon = await Daemon.start({ args: ['--state-dir', join(directory, 'state')] });
    const filename = join(directory, 'disk');
    writeFileSync(filename, '');
    truncateSync(filename, SIZE_MIB * MIB);
    await daemon.rpc('bdev_aio_create', { name: 'Disk', filename });
    await daemon.rpc('bdev_set_qos_limit', { name: 'Disk', rw_ios_per_sec: IOS_PER_S });
    await daemon.rpc('vhost_create_blk_controller', { ctrlr: 'split', dev_name: 'Disk' });
    guest = await Guest.start({
      name: 'ringhost-kill',
      cpus: QUEUES,
      memoryMiB: 512,
      disks: [{ id: 'split', socketPath: daemon.socketPath('split'), queues: QUEUES, reconnectS: 1 }],
    });
  });
  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
    rmSync(directory, { recursive: true, force: true });
  });
  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  /** Writes a part of the disk in a new way and reads it back, in rounds, until it is told to stop. */
  async function verify(path: string): Promise<number> {
    const { stdout } = await guest.run(
      `round=0
      until [ -e /run/stop ]; do
        round=$((round + 1))
        # With another seed no block of the round before is taken for one of this.
        fio --name=verify --filename=${path} --direct=1 --ioengine=libaio --iodepth=16 --numjobs=${JOBS} --thread \\
          --bs=4k --size=${BLOCKS_PER_ROUND * 4}k --offset_increment=${SIZE_MIB / JOBS}M --rw=randwrite \\
          --randseed=$round --verify=crc32c --verify_fatal=1 --output=/tmp/fio.txt || { cat /tmp/fio.txt; exit 1; }
      done
      echo $round`,
      { timeoutMs: KILLS * FUTILE_FACTOR_MAX * KILL_MS_MAX },
    );
    return Number(stdout);
  }

  /** Until the guest saw more of its requests end than now. */
  async function goesOn(path: string): Promise<void> {
    await guest.run(
      `ended() { read -r reads _ _ _ writes _ </sys/block/${path.replace('/dev/', '')}/stat; echo $((reads + writes)); }
      first=$(ended)
      until [ $(ended) -ge $((first + 64)) ]; do sleep 0.05; done`,
      { timeoutMs: KILL_MS_MAX },
    );
  }

  test(
    'goes on each time, and finds everything that it wrote',
    async () => {
      const path = await guest.devicePath('split');
      const verified = verify(path);
      let kills = 0;
      let requests = 0;
      const acted = (async () => {
        await goesOn(path);
        for (; kills < KILLS || (requests === 0 && kills < KILLS * FUTILE_FACTOR_MAX); kills++) {
          await sleep(Math.random() * LIFE_MS_MAX);
          await daemon.crash();
          await goesOn(path);
          requests += takenUp(daemon.log());
        }
        await guest.run('touch /run/stop');
      })();
      const [rounds] = await Promise.all([verified, acted]);
      console.info(`${kills} kills, ${requests} requests taken up, ${rounds} rounds verified`);
      expect((await guest.run('dmesg')).stdout).not.toMatch(/I\/O error/);
      // Otherwise nothing was in flight when it was killed, and nothing was tested.
      expect(requests).toBeGreaterThan(0);
    },
    60_000 + KILLS * FUTILE_FACTOR_MAX * KILL_MS_MAX,
  );
});

/** Requests that this daemon found in flight. */
function takenUp(log: string): number {
  return [...log.matchAll(/takes up (\d+) requests/g)].reduce((sum, [, count]) => sum + Number(count), 0);
}
