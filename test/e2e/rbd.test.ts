/**
 * A Linux guest on two images of Ceph, one as a blk disk and one behind a SCSI target, of a cluster of three OSDs with
 * keys: what a guest does with its disks, space given back, resize, a cluster that fails in parts, a guest and a daemon
 * that die under load.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { CephCluster, RBD_USER } from '../support/ceph-cluster.ts';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { carriesExt4, type GuestDisk, seesResize, verifiesUnderLoad } from './guest-cases.ts';
import { whyNoGuests, whyNoTool } from './requirements.ts';
import { waitUntil } from './wait.ts';

const MIB = 1 << 20;
const SIZE_MIB = 32;
const QUEUES = 4;
const LONG_MS = 900_000;
/** Blocks that are written, and reported, before the guest is killed. */
const BLOCKS_MIN = 16;
/** How long an OSD stands still, and a monitor is away. */
const FAULT_MS = 2500;
/** How often the daemon is killed. */
const KILLS = 2;
/** Below the slots that `Guest` gives to its disks. */
const SCSI_SLOT = 0x0f;

describe.skipIf(whyNoGuests() !== null || whyNoTool('ceph') !== null)('a guest on RBD images', () => {
  let ceph: CephCluster;
  let daemon: Daemon;
  let guest: Guest;
  let blk: GuestDisk;
  let scsi: GuestDisk;

  async function serveBlk(): Promise<void> {
    const settings = { mon_host: ceph.monitor, keyring: ceph.keyring };
    await daemon.rpc('bdev_rbd_register_cluster', { name: 'ceph', user_id: RBD_USER, config_param: settings });
    await createDisk('blk', 512);
    await daemon.rpc('vhost_create_blk_controller', { ctrlr: 'vhost.0', dev_name: 'blk', cpumask: '0x1' });
  }

  async function createDisk(name: string, blockSize: number): Promise<void> {
    const where = { pool_name: 'rbd', rbd_name: name, block_size: blockSize, cluster_name: 'ceph' };
    await daemon.rpc('bdev_rbd_create', { name, ...where });
  }

  async function boot(name: string): Promise<void> {
    guest = await Guest.start({
      name,
      disks: [{ id: 'blk', socketPath: daemon.socketPath('vhost.0'), queues: QUEUES, reconnectS: 1 }],
      qemuArgs: [
        ...['-chardev', `socket,id=scsi,path=${daemon.socketPath('vhost.1')}`],
        ...['-device', `vhost-user-scsi-pci,chardev=scsi,num_queues=2,addr=${SCSI_SLOT.toString(16)}`],
      ],
    });
    blk = { path: await guest.devicePath('blk'), sizeBytes: SIZE_MIB * MIB };
    scsi = { path: await guest.scsiDevicePath(0), sizeBytes: SIZE_MIB * MIB, blockSizeBytes: 4096 };
  }

  /** Writes parts of disks and reads them back, in rounds, until `stopVerifying`. */
  async function verifying(...disks: readonly GuestDisk[]): Promise<void> {
    const jobs = disks.map(({ path }, i) => `--name=disk${i} --filename=${path}`).join(' ');
    await guest.run(
      `until [ -e /tmp/stop ]; do
        round=$(($(cat /tmp/rounds) + 1))
        fio --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k --size=256k --randseed=$round \
          --verify=crc32c --verify_fatal=1 --output=/tmp/fio.txt ${jobs} || { cat /tmp/fio.txt; exit 1; }
        echo $round >/tmp/rounds.new && mv /tmp/rounds.new /tmp/rounds
      done`,
      { timeoutMs: LONG_MS },
    );
  }

  /** Acts while disks are written and verified. `goesOn` lasts until a round that began later is over. */
  async function underLoad(disks: readonly GuestDisk[], act: (goesOn: () => Promise<void>) => Promise<void>) {
    await guest.run('rm -f /tmp/stop; echo 0 >/tmp/rounds');
    const load = verifying(...disks);
    const goesOn = async (): Promise<void> => {
      const waiting = `first=$(cat /tmp/rounds); until [ $(cat /tmp/rounds) -ge $((first + 2)) ]; do sleep 0.1; done`;
      await Promise.race([guest.run(waiting, { timeoutMs: LONG_MS }), load]);
    };
    await goesOn();
    await act(goesOn);
    await guest.run('touch /tmp/stop');
    await load;
    expect((await guest.run('dmesg')).stdout).not.toMatch(/I\/O error/);
  }

  beforeAll(async () => {
    const parent = join(import.meta.dirname, '../../build');
    ceph = await CephCluster.start({ osds: 3, hasAuth: true, store: 'disk', parent });
    for (const name of ['blk', 'scsi']) await ceph.createImage(name, SIZE_MIB);
    daemon = await Daemon.start({ coreMask: '0x3' });
    await serveBlk();
    await createDisk('scsi', 4096);
    await daemon.rpc('vhost_create_scsi_controller', { ctrlr: 'vhost.1', cpumask: '0x2' });
    const target = { ctrlr: 'vhost.1', scsi_target_num: 0, bdev_name: 'scsi' };
    await daemon.rpc('vhost_scsi_controller_add_target', target);
    await boot('ringhost-rbd');
  });

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
    await ceph?.close();
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  test('fio verifies 32 deep on four queues', async () => await verifiesUnderLoad(guest, blk));
  test('ext4 keeps its files and is clean, behind scsi', async () => await carriesExt4(guest, scsi));

  test('what is discarded takes no space in the cluster', async () => {
    for (const [name, { path }] of [['blk', blk] as const, ['scsi', scsi] as const]) {
      await guest.run(`head -c 8M /dev/urandom | dd of=${path} bs=1M iflag=fullblock oflag=direct 2>/dev/null`);
      await guest.run(`blkdiscard -f --offset 8M --length ${SIZE_MIB - 8}M ${path}`);
      expect(await ceph.usedBytes(name)).toBe(8 * MIB);
      await guest.run(
        `blkdiscard -f -z --offset 1M --length 1M ${path}; blkdiscard -f --offset 4M --length 4M ${path}`,
      );
      expect(await ceph.usedBytes(name)).toBe(4 * MIB);
      await guest.run(`[ "$(dd if=${path} bs=1M skip=1 count=1 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c)" = 0 ]`);
      await guest.run(`[ "$(dd if=${path} bs=1M skip=4 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c)" = 0 ]`);
    }
  });

  test('images that grow are seen to grow', async () => {
    for (const [name, disk] of [['blk', blk] as const, ['scsi', scsi] as const]) {
      const grow = async (): Promise<void> => void (await ceph.rbd('resize', name, '--size', `${SIZE_MIB + 8}M`));
      await seesResize(guest, disk, (SIZE_MIB + 8) * MIB, grow);
    }
  });

  test('an OSD that dies and comes back, one that stands still and a monitor that is away: no errors, no loss', {
    timeout: LONG_MS,
  }, async () => {
    await underLoad([blk, scsi], async (goesOn) => {
      await ceph.killOsd(0);
      await goesOn();
      ceph.startOsd(0);
      ceph.signalOsd(1, 'SIGSTOP');
      await sleep(FAULT_MS);
      ceph.signalOsd(1, 'SIGCONT');
      await ceph.killMonitor();
      await sleep(FAULT_MS);
      ceph.startMonitor();
      await goesOn();
    });
  });

  test('a guest that is killed under load: the next one finds what it was told is written, and goes on', {
    timeout: LONG_MS,
  }, async () => {
    // Blocks that know their place, one after the other, beside a load that is not looked at.
    const ended = guest.run(
      `fio --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k --time_based --runtime=3600 --offset=8M \
        --size=8M --output=/tmp/fio.txt --name=blk --filename=${blk.path} --name=scsi --filename=${scsi.path} &
      for ((block = 0; block < 2048; block++)); do
        printf '%04096d' $block >/tmp/block
        for disk in ${blk.path} ${scsi.path}; do
          dd if=/tmp/block of=$disk bs=4096 seek=$block oflag=direct conv=notrunc 2>/dev/null
        done
        echo "is written: $((block + 1))" >/dev/console
      done
      wait`,
      { timeoutMs: LONG_MS },
    );
    const written = (): number => Number([...guest.console.matchAll(/is written: (\d+)/g)].at(-1)?.[1] ?? 0);
    await Promise.race([waitUntil(() => written() >= BLOCKS_MIN, LONG_MS, 'blocks'), ended]);
    await guest.kill();
    await expect(ended).rejects.toThrow();
    const blocks = written();
    await guest.close();
    await boot('ringhost-rbd-next');
    await guest.run(
      `for ((block = 0; block < ${blocks}; block++)); do printf '%04096d' $block; done >/tmp/blocks
      for disk in ${blk.path} ${scsi.path}; do
        dd if=$disk bs=4096 count=${blocks} iflag=direct 2>/dev/null | cmp - /tmp/blocks
      done`,
      { timeoutMs: LONG_MS },
    );
    await underLoad([blk, scsi], async () => {});
    console.info(`${blocks} blocks of each disk were written when the guest was killed`);
  });

  test('a daemon that is killed under load leaves its lock to its successor, and the guest goes on', {
    timeout: LONG_MS,
  }, async () => {
    const inFlight = `/sys/block/${blk.path.replace('/dev/', '')}/inflight`;
    const each = (signal: NodeJS.Signals): void => {
      for (const id of [0, 1, 2]) ceph.signalOsd(id, signal);
    };
    const takenUp: number[] = [];
    await underLoad([blk], async (goesOn) => {
      for (let kill = 0; kill < KILLS; kill++) {
        // What the guest has sent stays with the daemon, which has it in librbd.
        each('SIGSTOP');
        await guest.run(
          `for ((looks = 0; looks < 5; )); do
            sleep 0.1
            if [ "$(awk '{ print ($1 + $2 > 0) }' ${inFlight})" = 1 ]; then looks=$((looks + 1)); else looks=0; fi
          done`,
          { timeoutMs: LONG_MS },
        );
        await daemon.crash();
        each('SIGCONT');
        await serveBlk();
        await goesOn();
        expect(daemon.log()).toContain('took the lock from');
        const lines = daemon.log().matchAll(/takes up (\d+) requests/g);
        takenUp.push([...lines].reduce((sum, [, count]) => sum + Number(count), 0));
      }
    });
    console.info(`requests in flight at each kill: ${takenUp}`);
    expect(Math.min(...takenUp)).toBeGreaterThan(0);
  });
});
