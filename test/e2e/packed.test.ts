/** A Linux guest whose virtqueues are packed: disks of both kinds of controllers, under load and after a reboot. */
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { VirtioFeature } from '../../src/virtio/features.ts';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import {
  carriesExt4,
  type GuestDisk,
  keepsPattern,
  survivesReboot,
  verifiesUnderLoad,
  zeroesRanges,
} from './guest-cases.ts';
import { whyNoGuests } from './requirements.ts';

const MIB = 1 << 20;
/** Enough for the jobs of fio, and for a discard of all that takes more than one request. */
const SIZE_MIB = 40;
const QUEUES = 4;
const LONG_MS = 300_000;
/** Below the slots that `Guest` gives to its disks. */
const SCSI_SLOT = 0x0f;

describe.skipIf(whyNoGuests() !== null)('a guest with packed virtqueues', () => {
  let daemon: Daemon;
  let guest: Guest;
  let disk: GuestDisk;

  beforeAll(async () => {
    daemon = await Daemon.start();
    for (const name of ['blk', 'scsi', 'odd']) {
      await daemon.rpc('bdev_malloc_create', { name, num_blocks: (SIZE_MIB * MIB) / 512, block_size: 512 });
    }
    await daemon.rpc('vhost_create_blk_controller', { ctrlr: 'blk', dev_name: 'blk' });
    await daemon.rpc('vhost_create_blk_controller', { ctrlr: 'odd', dev_name: 'odd' });
    await daemon.rpc('vhost_create_scsi_controller', { ctrlr: 'scsi' });
    await daemon.rpc('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 0, bdev_name: 'scsi' });
    guest = await Guest.start({
      name: 'ringhost-packed',
      cpus: QUEUES,
      disks: [
        { id: 'blk', socketPath: daemon.socketPath('blk'), queues: QUEUES, properties: ['packed=on'] },
        {
          id: 'odd',
          socketPath: daemon.socketPath('odd'),
          properties: ['packed=on', 'event_idx=off', 'indirect_desc=off', 'queue-size=256'],
        },
      ],
      qemuArgs: [
        ...['-chardev', `socket,id=scsi,path=${daemon.socketPath('scsi')}`],
        ...[
          '-device',
          `vhost-user-scsi-pci,chardev=scsi,num_queues=${QUEUES},packed=on,addr=${SCSI_SLOT.toString(16)}`,
        ],
      ],
    });
    disk = { path: await guest.devicePath('blk'), sizeBytes: SIZE_MIB * MIB };
  });

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  /** The features that the driver of a block device acked, as its kernel shows them. */
  async function featuresOf(path: string): Promise<string> {
    const { stdout } = await guest.run(
      `device=$(readlink -f /sys/block/${path.replace('/dev/', '')})
      cat "\${device%%/virtio*}"/virtio*/features`,
    );
    return stdout.trim();
  }

  async function scsiPath(): Promise<string> {
    const pattern = '/sys/class/scsi_device/*:0:0:0/device/block/*';
    const { stdout } = await guest.run(`until ls -d ${pattern} 2>/dev/null; do sleep 0.1; done`);
    return `/dev/${stdout.trim().split('/').at(-1)}`;
  }

  test('they are what the guest has negotiated', async () => {
    for (const path of [disk.path, await guest.devicePath('odd'), await scsiPath()]) {
      expect({ path, bit: (await featuresOf(path))[VirtioFeature.RING_PACKED] }).toEqual({ path, bit: '1' });
    }
    expect((await featuresOf(await guest.devicePath('odd')))[VirtioFeature.EVENT_IDX]).toBe('0');
  });

  test('a pattern written by O_DIRECT reads back', async () => {
    await keepsPattern(guest, disk);
  });
  test('fio verifies 32 deep on four queues', async () => await verifiesUnderLoad(guest, disk));

  test('fio verifies on scsi, and on blk without EVENT_IDX and indirect tables', async () => {
    for (const path of [await scsiPath(), await guest.devicePath('odd')]) {
      await guest.run(
        `fio --name=verify --filename=${path} --direct=1 --ioengine=libaio --iodepth=32 --size=8M --rw=randwrite \\
          --bsrange=4k-64k --verify=crc32c --verify_fatal=1 --output=/tmp/fio.txt || { cat /tmp/fio.txt; exit 1; }`,
        { timeoutMs: LONG_MS },
      );
    }
  });

  test('ext4 keeps its files and is clean', async () => await carriesExt4(guest, disk));
  test('discarded and zeroed ranges read as zeroes', async () => await zeroesRanges(guest, disk));
  test('the disk is used again after a reboot', async () => await survivesReboot(guest, 'blk'));
});
