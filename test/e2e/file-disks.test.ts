/** A Linux guest on disks over files: what it does with any disk, space given back, a file system that fills up. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFailed, test } from 'vitest';
import { Daemon } from './daemon.ts';
import { Guest } from './guest.ts';
import {
  carriesExt4,
  type GuestDisk,
  keepsPattern,
  refusesWrites,
  reportsErrors,
  seesResize,
  verifiesUnderLoad,
  zeroesRanges,
} from './guest-cases.ts';
import { whyNoGuests, whyNoLoopDevices } from './requirements.ts';

const MIB = 1 << 20;
/** Enough for the jobs of fio, and for a discard of all that takes more than one request. */
const SIZE_MIB = 40;
/** Of the file system that fills up. */
const ROOM_MIB = 8;
const LONG_MS = 120_000;

const canMount = whyNoLoopDevices() === null;

describe.skipIf(whyNoGuests() !== null)('a guest on file disks', () => {
  const directory = mkdtempSync(join(import.meta.dirname, '../../build/file-disks-'));
  const room = join(directory, 'small');
  const main = join(directory, 'main');
  let daemon: Daemon;
  let guest: Guest;
  let disk: GuestDisk;

  async function serve(name: string, filename: string, bytes: number, params: Readonly<Record<string, unknown>> = {}) {
    writeFileSync(filename, '');
    truncateSync(filename, bytes);
    await daemon.rpc('bdev_aio_create', { name, filename, ...params });
    await daemon.rpc('vhost_create_blk_controller', { ctrlr: name, dev_name: name });
    return { id: name, socketPath: daemon.socketPath(name) };
  }

  beforeAll(async () => {
    daemon = await Daemon.start();
    const disks = [
      { ...(await serve('main', main, SIZE_MIB * MIB)), queues: 4 },
      await serve('cached', join(directory, 'cached'), SIZE_MIB * MIB, { direct: false, block_size: 4096 }),
      await serve('fixed', join(directory, 'fixed'), 16 * MIB, { readonly: true }),
      await serve('doomed', join(directory, 'doomed'), 16 * MIB),
    ];
    if (canMount) {
      mkdirSync(room);
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${ROOM_MIB}m`, 'none', room]);
      disks.push(await serve('full', join(room, 'full'), SIZE_MIB * MIB));
    }
    guest = await Guest.start({ name: 'ringhost-files', disks });
    disk = { path: await guest.devicePath('main'), sizeBytes: SIZE_MIB * MIB };
  });

  afterAll(async () => {
    await guest?.close();
    await daemon?.close();
    if (canMount) execFileSync('umount', [room]);
    rmSync(directory, { recursive: true });
  });

  beforeEach(() => {
    onTestFailed(() => console.log(`--- the end of the daemon's log\n${daemon.log()}`));
  });

  test('a pattern written by O_DIRECT reads back', async () => {
    await keepsPattern(guest, disk);
  });
  test('ext4 keeps its files and is clean', async () => await carriesExt4(guest, disk));
  test('fio verifies 32 deep on four queues', async () => await verifiesUnderLoad(guest, disk));
  test('discarded and zeroed ranges read as zeroes', async () => await zeroesRanges(guest, disk));

  test('discarded space goes back to the file system of the host', async () => {
    await guest.run(
      `head -c 32M /dev/urandom | dd of=${disk.path} bs=1M iflag=fullblock oflag=direct conv=notrunc,fsync 2>/dev/null`,
    );
    const before = statSync(main).blocks;
    await guest.run(`blkdiscard --offset 0 --length 32M ${disk.path}`);
    expect((before - statSync(main).blocks) * 512).toBeGreaterThanOrEqual(31 * MIB);
    expect(statSync(main).size).toBe(SIZE_MIB * MIB);
  });

  test('a file through the page cache, of 4096-byte blocks, works as well', async () => {
    const cached = { path: await guest.devicePath('cached'), sizeBytes: SIZE_MIB * MIB, blockSizeBytes: 4096 };
    await keepsPattern(guest, cached);
  });

  test('a read-only file refuses writes', async () => {
    await refusesWrites(guest, { path: await guest.devicePath('fixed'), sizeBytes: 16 * MIB, isReadonly: true });
  });

  test('a file that grew is seen', async () => {
    await seesResize(guest, disk, (SIZE_MIB + 16) * MIB, async () => {
      truncateSync(main, (SIZE_MIB + 16) * MIB);
      await daemon.rpc('bdev_aio_rescan', { name: 'main' });
    });
  });

  test.skipIf(!canMount)('a full file system of the host gives I/O errors, not a hang', async () => {
    const path = await guest.devicePath('full');
    const { stdout } = await guest.tryRun(`dd if=/dev/zero of=${path} bs=64k oflag=direct 2>&1`, {
      timeoutMs: LONG_MS,
    });
    expect(stdout).toMatch(/error writing .*(Input\/output error|No space left)/);
    await guest.run(`dd if=${path} of=/dev/null bs=64k count=16 iflag=direct`);
    await guest.run(`blkdiscard --offset 0 --length 4M ${path}`);
    await guest.run(`dd if=/dev/urandom of=${path} bs=64k count=16 oflag=direct conv=notrunc`);
  });

  test('a disk deleted under I/O gives errors, not a hang', async () => {
    await reportsErrors(guest, { path: await guest.devicePath('doomed'), sizeBytes: 16 * MIB }, async () => {
      await daemon.rpc('bdev_aio_delete', { name: 'doomed' });
    });
  });
});
