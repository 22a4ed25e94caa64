/**
 * One guest with two disks whose daemon keeps its state: a logical volume with a file system, and a mirror under load
 * that is verified. Snapshots, clones and new sizes come while the volume is mounted; a leg of the mirror fails, is
 * rebuilt, and then both legs have the same; the daemon is killed in between.
 */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import type { Result } from '../../src/rpc/methods.ts';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { whyNoGuests } from './requirements.ts';
import { waitUntil } from './wait.ts';

const MIB = 2 ** 20;
const STORE_MIB = 96;
const VOLUME_MIB = 32;
const GROWN_MIB = 48;
const LEG_MIB = 16;
/** Before the data of a leg. */
const SUPERBLOCK_BYTES = MIB;
const LONG_MS = 120_000;
const TEST_MAX_MS = 600_000;
const ON_DISK = join(import.meta.dirname, '..', '..', 'build');

describe.skipIf(whyNoGuests() !== null)('a guest on a volume and a mirror', () => {
  const directory = mkdtempSync(join(ON_DISK, 'volumes-'));
  const fileOf = (name: string): string => join(directory, name);
  let daemon: Daemon;
  let guest: Guest;

  async function makeFile(name: string, mib: number): Promise<void> {
    writeFileSync(fileOf(name), '');
    truncateSync(fileOf(name), mib * MIB);
    await daemon.rpc('bdev_aio_create', { name, filename: fileOf(name) });
  }

  async function serve(ctrlr: string, dev_name: string) {
    await daemon.rpc('vhost_create_blk_controller', { ctrlr, dev_name });
    return { id: ctrlr, socketPath: daemon.socketPath(ctrlr), queues: 2, reconnectS: 1 };
  }

  beforeAll(async () => {
    daemon = await Daemon.start({ args: ['--state-dir', fileOf('state')] });
    await makeFile('base', STORE_MIB);
    await daemon.rpc('bdev_lvol_create_lvstore', { bdev_name: 'base', lvs_name: 'lvs', cluster_sz: 64 * 1024 });
    const volume = { lvs_name: 'lvs', lvol_name: 'vm', size_in_mib: VOLUME_MIB, thin_provision: true };
    await daemon.rpc('bdev_lvol_create', volume);
    for (const leg of ['left', 'right']) await makeFile(leg, LEG_MIB);
    await daemon.rpc('bdev_error_create', { base_name: 'right' });
    const raid1 = { name: 'mirror', raid_level: 'raid1', base_bdevs: ['left', 'EE_right'], superblock: true };
    await daemon.rpc('bdev_raid_create', raid1);
    const disks = [await serve('vm', 'lvs/vm'), await serve('mirror', 'mirror')];
    guest = await Guest.start({ name: 'volumes', cpus: 2, memoryMiB: 512, disks });
  });
  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
    rmSync(directory, { recursive: true, force: true });
  });
  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  test(
    'sees snapshots as they were, clones apart from each other and new sizes, over a killed daemon',
    async () => {
      const path = await guest.devicePath('vm');
      await guest.run(`mkfs.ext4 -q ${path}
        mkdir -p /mnt/vm /mnt/clone
        mount ${path} /mnt/vm
        head -c 5M /dev/urandom > /mnt/vm/first
        sync
        sha256sum < /mnt/vm/first > /tmp/first`);
      await daemon.rpc('bdev_lvol_snapshot', { lvol_name: 'lvs/vm', snapshot_name: 'golden' });
      await guest.run(`head -c 5M /dev/urandom > /mnt/vm/second
        rm /mnt/vm/first
        sync
        sha256sum < /mnt/vm/second > /tmp/second`);
      await daemon.rpc('bdev_lvol_clone', { snapshot_name: 'lvs/golden', clone_name: 'clone' });
      await guest.addDisk(await serve('clone', 'lvs/clone'));
      const clone = await guest.devicePath('clone');
      // Of a moment: the journal is replayed, as after a power cut.
      await guest.run(`mount ${clone} /mnt/clone
        [ "$(sha256sum < /mnt/clone/first)" = "$(cat /tmp/first)" ]
        [ ! -e /mnt/clone/second ]
        head -c 3M /dev/urandom > /mnt/clone/third
        sync
        sha256sum < /mnt/clone/third > /tmp/third
        [ ! -e /mnt/vm/third ]`);

      await daemon.rpc('bdev_lvol_resize', { name: 'lvs/vm', size_in_mib: GROWN_MIB });
      await guest.run(
        `until [ $(blockdev --getsize64 ${path}) = ${GROWN_MIB * MIB} ]; do sleep 0.1; done
        resize2fs ${path} 2>/dev/null
        [ $(df -P -m /mnt/vm | awk 'NR == 2 { print $2 }') -gt ${VOLUME_MIB} ]`,
        { timeoutMs: LONG_MS },
      );

      const written = guest.run(
        'head -c 8M /dev/urandom > /mnt/vm/fourth; sync; sha256sum < /mnt/vm/fourth > /tmp/fourth',
      );
      await daemon.crash();
      await written;
      await guest.run(
        `umount /mnt/vm /mnt/clone
        echo 3 > /proc/sys/vm/drop_caches
        for disk in ${path} ${clone}; do e2fsck -f -n $disk; done
        mount ${path} /mnt/vm
        mount ${clone} /mnt/clone
        [ "$(sha256sum < /mnt/vm/second)" = "$(cat /tmp/second)" ]
        [ "$(sha256sum < /mnt/vm/fourth)" = "$(cat /tmp/fourth)" ]
        [ "$(sha256sum < /mnt/clone/first)" = "$(cat /tmp/first)" ]
        [ "$(sha256sum < /mnt/clone/third)" = "$(cat /tmp/third)" ]
        umount /mnt/vm /mnt/clone`,
        { timeoutMs: LONG_MS },
      );
      expect(await daemon.rpc('bdev_lvol_check_lvstore', { lvs_name: 'lvs' })).toMatchObject({ faults: [] });
    },
    TEST_MAX_MS,
  );

  async function mirror(): Promise<Result<'bdev_raid_get_bdevs'>[number]> {
    const [raid] = (await daemon.rpc('bdev_raid_get_bdevs', { category: 'all' })) as Result<'bdev_raid_get_bdevs'>;
    return raid as Result<'bdev_raid_get_bdevs'>[number];
  }

  /** Until the guest has begun another round: all of one before it was verified. */
  async function goesOn(): Promise<void> {
    await guest.run(
      `first=$(cat /run/round)
      until [ $(cat /run/round) -ge $((first + 2)) ]; do sleep 0.05; done`,
      { timeoutMs: LONG_MS },
    );
  }

  /** A leg fails under the guest, misses what is written where the load never writes, and is added again. */
  async function losesLeg(path: string): Promise<void> {
    const fault = { name: 'EE_right', io_type: 'write', error_type: 'failure', num: 1 };
    await daemon.rpc('bdev_error_inject_error', fault);
    const isLost = async (): Promise<boolean> => (await mirror()).num_base_bdevs_operational === 1;
    await waitUntil(isLost, LONG_MS, 'leg that failed');
    await goesOn();
    await guest.run(`dd if=/dev/urandom of=${path} bs=1M seek=2 count=3 oflag=direct 2>/dev/null
      dd if=/dev/urandom of=${path} bs=1M seek=11 count=4 oflag=direct 2>/dev/null`);
    await daemon.rpc('bdev_raid_add_base_bdev', { raid_bdev: 'mirror', base_bdev: 'EE_right' });
    const isRebuilt = async (): Promise<boolean> => {
      const { num_base_bdevs_operational: operational, process } = await mirror();
      return operational === 2 && process === undefined;
    };
    await waitUntil(isRebuilt, LONG_MS, 'end of the rebuild');
    await goesOn();
  }

  test(
    'sees nothing of a leg of its mirror that fails and is rebuilt, and both legs have the same in the end',
    async () => {
      const path = await guest.devicePath('mirror');
      await guest.run('rm -f /run/stop; echo 0 > /run/round');
      const verified = guest.run(
        `round=0
        until [ -e /run/stop ]; do
          echo $((++round)) > /run/round
          fio --name=verify --filename=${path} --direct=1 --ioengine=libaio --iodepth=16 --numjobs=2 --thread \\
            --bs=4k --size=1M --offset_increment=6M --rw=randwrite --randseed=$round --verify=crc32c --verify_fatal=1 \\
            --output=/tmp/fio.txt || { cat /tmp/fio.txt; exit 1; }
        done`,
        { timeoutMs: TEST_MAX_MS },
      );
      const acted = (async () => {
        await goesOn();
        await losesLeg(path);
        await daemon.crash();
        await goesOn();
        await guest.run('touch /run/stop');
      })();
      await Promise.all([acted, verified]);
      expect((await guest.run('dmesg')).stdout).not.toMatch(/I\/O error/);
      await guest.close();
      await daemon.stop();
      const [left, right] = ['left', 'right'].map((leg) => readFileSync(fileOf(leg)).subarray(SUPERBLOCK_BYTES));
      expect(left?.some((byte) => byte !== 0)).toBe(true);
      expect(left?.equals(right as Buffer)).toBe(true);
    },
    TEST_MAX_MS,
  );
});
