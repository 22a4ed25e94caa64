/**
 * A Linux guest on two images of Ceph, one as a blk disk and one behind a SCSI target, of a cluster of three OSDs with
 * keys: what a guest does with its disks, space given back, resize, a cluster that fails in parts, a daemon that dies.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { CephCluster, RBD_USER } from '../support/ceph-cluster.ts';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { carriesExt4, type GuestDisk, seesResize, verifiesUnderLoad } from './guest-cases.ts';
import { whyNoGuests, whyNoTool } from './requirements.ts';

const MIB = 1 << 20;
const SIZE_MIB = 32;
const QUEUES = 4;
const LONG_MS = 900_000;
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
    guest = await Guest.start({
      name: 'ringhost-rbd',
      disks: [{ id: 'blk', socketPath: daemon.socketPath('vhost.0'), queues: QUEUES, reconnectS: 1 }],
      qemuArgs: [
        ...['-chardev', `socket,id=scsi,path=${daemon.socketPath('vhost.1')}`],
        ...['-device', `vhost-user-scsi-pci,chardev=scsi,num_queues=2,addr=${SCSI_SLOT.toString(16)}`],
      ],
    });
    blk = { path: await guest.devicePath('blk'), sizeBytes: SIZE_MIB * MIB };
    scsi = { path: await guest.scsiDevicePath(0), sizeBytes: SIZE_MIB * MIB, blockSizeBytes: 4096 };
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
    await guest.run('rm -f /tmp/stop; echo 0 >/tmp/rounds');
    const verifying = guest.run(
      `until [ -e /tmp/stop ]; do
        round=$(($(cat /tmp/rounds) + 1))
        fio --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k --size=256k --randseed=$round \\
          --verify=crc32c --verify_fatal=1 --output=/tmp/fio.txt --name=blk --filename=${blk.path} \\
          --name=scsi --filename=${scsi.path} || { cat /tmp/fio.txt; exit 1; }
        echo $round >/tmp/rounds.new && mv /tmp/rounds.new /tmp/rounds
      done`,
      { timeoutMs: LONG_MS },
    );
    /** Until a round that began later is over. */
    const goesOn = async (): Promise<void> => {
      const waiting = `first=$(cat /tmp/rounds); until [ $(cat /tmp/rounds) -ge $((first + 2)) ]; do sleep 0.1; done`;
      await Promise.race([guest.run(waiting, { timeoutMs: LONG_MS }), verifying]);
    };
    await goesOn();
    await ceph.killOsd(0);
    await goesOn();
    ceph.startOsd(0);
    ceph.signalOsd(1, 'SIGSTOP');
    await goesOn();
    ceph.signalOsd(1, 'SIGCONT');
    await ceph.killMonitor();
    await goesOn();
    ceph.startMonitor();
    await guest.run('touch /tmp/stop');
    await verifying;
    const { stdout } = await guest.run('dmesg');
    expect(stdout).not.toMatch(/I\/O error/);
  });

  test('a daemon that is killed leaves its lock to its successor, and the guest goes on', async () => {
    await guest.run(
      `dd if=/dev/urandom of=/tmp/data bs=1M count=1 2>/dev/null
      dd if=/tmp/data of=${blk.path} bs=64k oflag=direct 2>/dev/null`,
    );
    await daemon.crash();
    await serveBlk();
    const begin = Date.now();
    await guest.run(
      `dd if=${blk.path} bs=1M count=1 iflag=direct 2>/dev/null | cmp - /tmp/data
      dd if=/tmp/data of=${blk.path} bs=1M seek=1 oflag=direct 2>/dev/null
      dd if=${blk.path} bs=1M skip=1 count=1 iflag=direct 2>/dev/null | cmp - /tmp/data`,
      { timeoutMs: LONG_MS },
    );
    console.log(`the guest read and wrote ${Date.now() - begin} ms after its disk was back`);
    expect(daemon.log()).toContain('took the lock from');
  });
});
