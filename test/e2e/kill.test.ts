/**
 * The daemon is killed again and again under a guest that writes and verifies, on disks with split and packed rings,
 * and started anew by nobody but its options: the guest waits and goes on. RINGHOST_KILLS is how often
 * (docs/reliability.md). Not over SCSI: QEMU's vhost-user-scsi of 7.2 does not connect again.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { VirtioFeature } from '../../src/virtio/features.ts';
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
const LAYOUTS = ['split', 'packed'] as const;
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
    for (const name of LAYOUTS) {
      const filename = join(directory, name);
      writeFileSync(filename, '');
      truncateSync(filename, SIZE_MIB * MIB);
      await daemon.rpc('bdev_aio_create', { name, filename });
      await daemon.rpc('bdev_set_qos_limit', { name, rw_ios_per_sec: IOS_PER_S });
      await daemon.rpc('vhost_create_blk_controller', { ctrlr: name, dev_name: name });
    }
    guest = await Guest.start({
      name: 'ringhost-kill',
      cpus: QUEUES,
      memoryMiB: 512,
      disks: LAYOUTS.map((id) => ({
        id,
        socketPath: daemon.socketPath(id),
        queues: QUEUES,
        properties: [`packed=${id === 'packed' ? 'on' : 'off'}`],
        reconnectS: 1,
      })),
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
    const output = `/tmp/fio-${path.split('/').at(-1)}.txt`;
    const { stdout } = await guest.run(
      `round=0
      until [ -e /run/stop ]; do
        round=$((round + 1))
        # With another seed no block of the round before is taken for one of this.
        fio --name=verify --filename=${path} --direct=1 --ioengine=libaio --iodepth=16 --numjobs=${JOBS} --thread \\
          --bs=4k --size=${BLOCKS_PER_ROUND * 4}k --offset_increment=${SIZE_MIB / JOBS}M --rw=randwrite \\
          --randseed=$round --verify=crc32c --verify_fatal=1 --output=${output} || { cat ${output}; exit 1; }
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
      const paths: string[] = [];
      for (const layout of LAYOUTS) {
        const path = await guest.devicePath(layout);
        const { stdout } = await guest.run(`cat /sys/block/${path.replace('/dev/', '')}/device/features`);
        expect(stdout[VirtioFeature.RING_PACKED]).toBe(layout === 'packed' ? '1' : '0');
        paths.push(path);
      }
      let kills = 0;
      const requests = { split: 0, packed: 0 };
      const isFutile = (): boolean => Object.values(requests).includes(0);
      const acted = (async () => {
        for (const path of paths) await goesOn(path);
        for (; kills < KILLS || (isFutile() && kills < KILLS * FUTILE_FACTOR_MAX); kills++) {
          await sleep(Math.random() * LIFE_MS_MAX);
          await daemon.crash();
          for (const path of paths) await goesOn(path);
          for (const layout of LAYOUTS) requests[layout] += takenUp(daemon.log(), layout);
        }
        await guest.run('touch /run/stop');
      })();
      const [, ...rounds] = await Promise.all([acted, ...paths.map(verify)]);
      console.info(`${kills} kills, requests taken up: ${JSON.stringify(requests)}, rounds verified: ${rounds}`);
      expect((await guest.run('dmesg')).stdout).not.toMatch(/I\/O error/);
      // Otherwise nothing was in flight when it was killed, and nothing was tested.
      expect(isFutile()).toBe(false);
    },
    60_000 + KILLS * FUTILE_FACTOR_MAX * KILL_MS_MAX,
  );
});

/** Requests that this daemon found in flight. */
function takenUp(log: string, ctrlr: string): number {
  const lines = log.split('\n').filter((line) => line.includes(ctrlr));
  return lines.reduce((sum, line) => sum + Number(/takes up (\d+) requests/.exec(line)?.[1] ?? 0), 0);
}
