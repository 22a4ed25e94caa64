/** A Linux guest uses disks served by Ringhost: the cases that the control passes on qemu-storage-daemon. */
import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { Daemon } from './daemon.ts';
import { Guest, type GuestMemory } from './guest.ts';
import {
  carriesExt4,
  comesAndGoes,
  type GuestDisk,
  keepsPattern,
  refusesWrites,
  reportsErrors,
  seesResize,
  showsDisk,
  survivesReboot,
  takesPartitions,
  verifiesUnderLoad,
  worksWhileMemoryGrows,
  zeroesRanges,
} from './guest-cases.ts';
import { reserveHugepages, whyNoGuests } from './requirements.ts';

const MIB = 1 << 20;
/** Enough for the jobs of fio, and for a discard of all that takes more than one request. */
const SIZE_MIB = 40;

/** Makes a RAM disk and a controller of the same name over it. */
async function serve(
  daemon: Daemon,
  name: string,
  { sizeMiB, blockSize = 512, ...controller }: { sizeMiB: number; blockSize?: number; [option: string]: unknown },
): Promise<void> {
  await daemon.rpc('bdev_malloc_create', { name, num_blocks: (sizeMiB * MIB) / blockSize, block_size: blockSize });
  await daemon.rpc('vhost_create_blk_controller', { ctrlr: name, dev_name: name, ...controller });
}

describe.skipIf(whyNoGuests() !== null)('a guest on Ringhost', () => {
  let daemon: Daemon;
  let guest: Guest;
  let main: GuestDisk;

  beforeAll(async () => {
    daemon = await Daemon.start();
    await serve(daemon, 'main', { sizeMiB: SIZE_MIB, serial: 'RH-0001' });
    await serve(daemon, 'fixed', { sizeMiB: 16, readonly: true });
    await serve(daemon, 'native4k', { sizeMiB: 16, blockSize: 4096 });
    await serve(daemon, 'doomed', { sizeMiB: 16 });
    await serve(daemon, 'plugged', { sizeMiB: 16 });
    guest = await Guest.start({
      name: 'ringhost',
      disks: [
        { id: 'main', socketPath: daemon.socketPath('main'), queues: 4 },
        { id: 'fixed', socketPath: daemon.socketPath('fixed') },
        { id: 'native4k', socketPath: daemon.socketPath('native4k') },
        { id: 'doomed', socketPath: daemon.socketPath('doomed') },
      ],
    });
    main = { path: await guest.devicePath('main'), sizeBytes: SIZE_MIB * MIB, serial: 'RH-0001' };
  });

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  test('lsblk shows the disk', async () => await showsDisk(guest, main));
  test('a pattern written by O_DIRECT reads back', async () => {
    await keepsPattern(guest, main);
  });
  test('partitions are where the table says', async () => await takesPartitions(guest, main));
  test('ext4 keeps its files and is clean', async () => await carriesExt4(guest, main));
  test('fio verifies 32 deep on four queues', async () => await verifiesUnderLoad(guest, main));
  test('discarded and zeroed ranges read as zeroes', async () => await zeroesRanges(guest, main));

  test('a read-only controller refuses writes', async () => {
    const disk = { path: await guest.devicePath('fixed'), sizeBytes: 16 * MIB, isReadonly: true, serial: 'fixed' };
    await showsDisk(guest, disk);
    await refusesWrites(guest, disk);
  });

  test('a disk of 4096-byte blocks works', async () => {
    const disk = { path: await guest.devicePath('native4k'), sizeBytes: 16 * MIB, blockSizeBytes: 4096 };
    await showsDisk(guest, disk);
    await keepsPattern(guest, disk);
    await takesPartitions(guest, disk);
    await carriesExt4(guest, disk);
  });

  test('a resize by RPC is seen', async () => {
    await seesResize(guest, main, (SIZE_MIB + 16) * MIB, async () => {
      await daemon.rpc('bdev_malloc_resize', { name: 'main', new_size: SIZE_MIB + 16 });
    });
  });

  test('a bdev deleted under I/O gives errors, not a hang', async () => {
    const disk = { path: await guest.devicePath('doomed'), sizeBytes: 16 * MIB };
    await reportsErrors(guest, disk, async () => {
      await daemon.rpc('bdev_malloc_delete', { name: 'doomed' });
    });
  });

  test('a disk can be plugged and unplugged while the guest runs', async () => {
    await comesAndGoes(guest, { id: 'plugged', socketPath: daemon.socketPath('plugged') }, 16 * MIB);
  });

  test('memory plugged into the busy guest is served too', async () => await worksWhileMemoryGrows(guest, main));

  test('the disk is used again after a reboot', async () => await survivesReboot(guest, 'main'));

  test('the daemon ends in order when it is asked to, with the guest still there', async () => {
    expect(await daemon.stop()).toEqual({ code: 0, signal: null });
    expect(readdirSync(daemon.directory)).toEqual([]);
  });
});

const HUGE_GUEST_MIB = 448;

describe.skipIf(whyNoGuests() !== null)('guest memory in huge pages', () => {
  test.for(['memfd', 'hugetlbfs'])('by %s', async (kind, { skip }) => {
    const hugepages = reserveHugepages(HUGE_GUEST_MIB);
    if (typeof hugepages === 'string') return skip(hugepages);
    const memory: GuestMemory = kind === 'memfd' ? 'hugetlb-memfd' : { hugetlbfs: hugepages.mountPoint };
    const daemon = await Daemon.start();
    try {
      await serve(daemon, 'main', { sizeMiB: 16 });
      const disks = [{ id: 'main', socketPath: daemon.socketPath('main'), queues: 2 }];
      const guest = await Guest.start({
        name: `ringhost-huge-${kind}`,
        memory,
        memoryMiB: HUGE_GUEST_MIB,
        cpus: 2,
        disks,
      });
      try {
        const disk = { path: await guest.devicePath('main'), sizeBytes: 16 * MIB };
        await keepsPattern(guest, disk);
      } finally {
        await guest.close();
      }
    } finally {
      await daemon.close();
      hugepages.release();
    }
  });
});
