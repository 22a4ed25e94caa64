/**
 * The control: the harness and its cases against a back-end that is not ours. All of them but a reboot, which takes
 * long, and asks nothing of a disk that other cases do not.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Guest } from './guest.ts';
import {
  carriesExt4,
  comesAndGoes,
  type GuestDisk,
  keepsPattern,
  refusesWrites,
  reportsErrors,
  seesResize,
  showsDisk,
  takesPartitions,
  verifiesUnderLoad,
  worksWhileMemoryGrows,
  zeroesRanges,
} from './guest-cases.ts';
import { whyNoGuests } from './requirements.ts';
import { StorageDaemon } from './storage-daemon.ts';

const MIB = 1 << 20;
const SIZE_BYTES = 40 * MIB;
/** PCI slot of the disk that QEMU itself serves. */
const OWN_DISK_SLOT = 0x1e;

describe.skipIf(whyNoGuests() !== null)('a guest on qemu-storage-daemon', () => {
  let daemon: StorageDaemon;
  let guest: Guest;
  let main: GuestDisk;

  beforeAll(async () => {
    daemon = await StorageDaemon.start([
      { id: 'main', sizeBytes: SIZE_BYTES, queues: 4 },
      { id: 'fixed', sizeBytes: 16 * MIB, isReadonly: true },
      { id: 'native4k', sizeBytes: 16 * MIB, blockSizeBytes: 4096 },
      { id: 'broken', sizeBytes: 16 * MIB, badSector: 20_000 },
      { id: 'plugged', sizeBytes: 16 * MIB },
      { id: 'forgetful', sizeBytes: 32 * MIB, queues: 4, isForgetful: true },
    ]);
    const ownFile = daemon.createFile('own', 16 * MIB);
    guest = await Guest.start({
      name: 'qemu-storage-daemon',
      disks: [
        { id: 'main', socketPath: daemon.socketPath('main'), queues: 4 },
        { id: 'fixed', socketPath: daemon.socketPath('fixed') },
        { id: 'native4k', socketPath: daemon.socketPath('native4k') },
        { id: 'broken', socketPath: daemon.socketPath('broken') },
        { id: 'forgetful', socketPath: daemon.socketPath('forgetful'), queues: 4 },
      ],
      qemuArgs: [
        ...['-blockdev', `driver=file,node-name=own,filename=${ownFile}`],
        ...['-device', `virtio-blk-pci,drive=own,addr=${OWN_DISK_SLOT.toString(16)}`],
      ],
    });
    main = { path: await guest.devicePath('main'), sizeBytes: SIZE_BYTES, serial: 'vhost_user_blk' };
  });

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
  });

  test('lsblk shows the disk', async () => await showsDisk(guest, main));

  test('a pattern written by O_DIRECT reads back, in the guest and in the file on the host', async () => {
    const sha256 = await keepsPattern(guest, main);
    expect(
      createHash('sha256')
        .update(readFileSync(daemon.filePath('main')))
        .digest('hex'),
    ).toBe(sha256);
  });

  test('partitions are where the table says', async () => await takesPartitions(guest, main));
  test('ext4 keeps its files and is clean', async () => await carriesExt4(guest, main));
  test('fio verifies 32 deep on four queues', async () => await verifiesUnderLoad(guest, main));
  test('discarded and zeroed ranges read as zeroes', async () => await zeroesRanges(guest, main));

  test('a read-only export refuses writes', async () => {
    const disk = { path: await guest.devicePath('fixed'), sizeBytes: 16 * MIB, isReadonly: true };
    await showsDisk(guest, disk);
    await refusesWrites(guest, disk);
  });

  test('a disk of 4096-byte blocks works', async () => {
    const disk = { path: await guest.devicePath('native4k'), sizeBytes: 16 * MIB, blockSizeBytes: 4096 };
    await showsDisk(guest, disk);
    await keepsPattern(guest, disk);
    await takesPartitions(guest, disk);
  });

  test('a resize is seen', async () => {
    // Not by this storage daemon: it tells its front-end about a new size from QEMU 8.0 on. So by a disk of QEMU's own.
    const disk = { path: await guest.devicePathAt(OWN_DISK_SLOT), sizeBytes: 16 * MIB };
    await showsDisk(guest, disk);
    await seesResize(guest, disk, 24 * MIB, async () => {
      await guest.qmp('block_resize', { 'node-name': 'own', size: 24 * MIB });
    });
  });

  test('a sector that cannot be read gives an error, not a hang', async () => {
    const disk = { path: await guest.devicePath('broken'), sizeBytes: 16 * MIB };
    await reportsErrors(guest, disk, async () => {});
  });

  test('a disk can be plugged and unplugged while the guest runs', async () => {
    await comesAndGoes(guest, { id: 'plugged', socketPath: daemon.socketPath('plugged') }, 16 * MIB);
  });

  test('every case notices a disk that forgets what was written to it', async () => {
    const disk = { path: await guest.devicePath('forgetful'), sizeBytes: 32 * MIB };
    await expect(keepsPattern(guest, disk)).rejects.toThrow(/script ended with/);
    await expect(takesPartitions(guest, disk)).rejects.toThrow(/script ended with/);
    await expect(carriesExt4(guest, disk)).rejects.toThrow(/script ended with/);
    await expect(verifiesUnderLoad(guest, disk)).rejects.toThrow(/script ended with/);
    await expect(zeroesRanges(guest, disk)).rejects.toThrow(/script ended with/);
    await expect(refusesWrites(guest, disk)).rejects.toThrow(/script ended with/);
  });

  test('memory plugged into the busy guest is served too', async () => await worksWhileMemoryGrows(guest, main));
});
