/** Disks over files: which files, how they are opened, and what happens when the file is not as it was. */
import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { whyNoDirectIo } from '../../../../test/e2e/requirements.ts';
import { openFdCount } from '../../../../test/support/descriptors.ts';
import { DiskRig } from '../../../../test/support/disk-rig.ts';
import { Errno } from '../../../base/errors.ts';
import { IoStatus, IoType } from '../../bdev-io.ts';
import { FileBdev, type FileParams } from './file.ts';
import { statusOf } from './file-channel.ts';

const { success, failed } = IoStatus;
const KIB = 1024;
const MIB = 1024 * KIB;
const DIRECTORY = mkdtempSync(join(import.meta.dirname, '../../../../build/file-disks-'));
const MEMORY_DIRECTORY = mkdtempSync('/dev/shm/ringhost-file-disks-');
const canDirect = whyNoDirectIo(DIRECTORY) === null;

afterAll(() => {
  for (const directory of [DIRECTORY, MEMORY_DIRECTORY]) rmSync(directory, { recursive: true });
});

let fdsBefore = 0;
let number = 0;
const open: FileBdev[] = [];

beforeEach(() => {
  fdsBefore = openFdCount();
});

afterEach(async () => {
  for (const bdev of open.splice(0)) await bdev.destruct();
  assert.ok(openFdCount() <= fdsBefore, 'no descriptor is left over');
});

function fileOf(bytes: number, directory = DIRECTORY): string {
  const path = join(directory, `disk${number++}`);
  writeFileSync(path, '');
  truncateSync(path, bytes);
  return path;
}

function bdevOn(filename: string, params: Partial<FileParams> = {}): FileBdev {
  const bdev = new FileBdev({ flavor: 'aio', name: 'Aio0', filename, ...params });
  open.push(bdev);
  return bdev;
}

async function withDisk(filename: string, params: Partial<FileParams>, test: (rig: DiskRig) => Promise<void>) {
  const rig = new DiskRig(new FileBdev({ flavor: 'aio', name: 'Aio0', filename, ...params }));
  try {
    await test(rig);
  } finally {
    await rig.close();
  }
}

describe('a file disk', () => {
  it('is what the file is', () => {
    const path = fileOf(MIB + 700);
    const bdev = bdevOn(path);
    expect(bdev).toMatchObject({ blockSizeBytes: 512, blockCount: 2049, hasWriteCache: true, productName: 'AIO disk' });
    expect(bdev.physicalBlockSizeBytes).toBe(Math.min(4096, statSync(path).blksize));
    expect(bdev.isDirect).toBe(canDirect);
    expect(bdev.ioTypes).toEqual([IoType.read, IoType.write, IoType.flush, IoType.unmap, IoType.writeZeroes]);
    expect(bdev.driverSpecific()).toMatchObject({ aio: { filename: path, readonly: false, fallocate: true } });
    expect(bdev.toConfig()).toEqual({
      method: 'bdev_aio_create',
      params: { name: 'Aio0', filename: path, block_size: 512, uuid: bdev.uuid },
    });
  });

  it('keeps every option it was made with', () => {
    const path = fileOf(MIB);
    const given = { blockSizeBytes: 4096, isReadonly: true, hasRanges: false, isDirect: false, isUnlocked: true };
    const bdev = bdevOn(path, { ...given, uuid: '4BDC0AA3-6a6d-4d4f-8a7d-6e2ea5c6b5d1' });
    expect(bdev.toConfig().params).toEqual({
      name: 'Aio0',
      filename: path,
      block_size: 4096,
      uuid: '4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1',
      readonly: true,
      fallocate: false,
      direct: false,
      unlocked: true,
    });
    expect(bdev.driverSpecific()).toMatchObject({ aio: { block_size_override: true, readonly: true, direct: false } });
    const uring = bdevOn(path, { flavor: 'uring', blockSizeBytes: 512 });
    expect(uring.toConfig().method).toBe('bdev_uring_create');
    expect([uring.productName, uring.driverSpecific()]).toMatchObject(['URING bdev', { uring: { filename: path } }]);
  });

  it('has the same UUID whenever the same path is opened, and another one than other paths', () => {
    const [one, two] = [fileOf(MIB), fileOf(MIB)];
    const isReadonly = true;
    const uuid = bdevOn(one, { isReadonly }).uuid;
    expect(uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(bdevOn(one, { isReadonly }).uuid).toBe(uuid);
    expect(bdevOn(join(DIRECTORY, '.', one.slice(DIRECTORY.length)), { isReadonly }).uuid).toBe(uuid);
    expect(bdevOn(two).uuid).not.toBe(uuid);
  });

  it('in memory has no cache to flush and no O_DIRECT', () => {
    const bdev = bdevOn(fileOf(MIB, MEMORY_DIRECTORY));
    expect([bdev.hasWriteCache, bdev.isDirect, bdev.params().isBlockDevice]).toEqual([false, false, false]);
    const hasSwap = readFileSync('/proc/swaps', 'utf8').trim().includes('\n');
    expect(bdev.params().isAtHand).toBe(!hasSwap);
  });

  it('is not made of what is not a file, is not there, or is too small', () => {
    const directory = join(DIRECTORY, 'directory');
    mkdirSync(directory);
    const loop = join(DIRECTORY, 'loop');
    symlinkSync(loop, loop);
    const cases: readonly (readonly [string, Partial<FileParams>, string, string])[] = [
      [join(DIRECTORY, 'absent'), {}, 'ENOENT', 'No such file'],
      [directory, {}, 'EINVAL', 'neither a file nor a block device'],
      ['/dev/null', {}, 'EINVAL', 'neither a file nor a block device'],
      [fileOf(511), {}, 'EINVAL', 'smaller than a block'],
      [fileOf(2048), { blockSizeBytes: 4096 }, 'EINVAL', 'smaller than a block'],
      [fileOf(MIB, MEMORY_DIRECTORY), { isDirect: true }, 'EINVAL', 'direct I/O'],
      [fileOf(MIB, MEMORY_DIRECTORY), { isPolled: true }, 'EINVAL', 'iopoll'],
    ];
    for (const [path, params, code, message] of cases) {
      const attempt = () => bdevOn(path, params);
      expect(attempt).toThrow(expect.objectContaining({ code, message: expect.stringContaining(message) }));
    }
    expect(() => bdevOn(loop)).toThrow(`cannot open ${loop}`);
  });

  it('serves nothing of a format: an image is its bytes', async () => {
    const path = fileOf(MIB);
    const header = Buffer.alloc(512);
    header.write('QFI\xfb', 'latin1');
    writeFileSync(path, header, { flag: 'r+' });
    await withDisk(path, {}, async (rig) => {
      expect(rig.entry.sizeBytes).toBe(MIB);
      expect(await rig.run(IoType.read, 0, 1, [{ offset: 0, length: 512 }])).toBe(success);
      expect(Buffer.from(rig.guest.subarray(0, 4)).toString('latin1')).toBe('QFI\xfb');
    });
  });

  it('opened for reading only refuses to change', async () => {
    await withDisk(fileOf(MIB), { isReadonly: true }, async (rig) => {
      const segments = [{ offset: 0, length: 512 }];
      expect(await rig.run(IoType.read, 0, 1, segments)).toBe(success);
      expect(await rig.run(IoType.flush, 0, 0)).toBe(success);
      expect(await rig.run(IoType.write, 0, 1, segments)).toBe(failed);
      for (const type of [IoType.unmap, IoType.writeZeroes]) expect(await rig.run(type, 0, 1)).toBe(failed);
    });
  });

  it('gives discarded space back to the file system, and keeps its size', async () => {
    const path = fileOf(4 * MIB);
    await withDisk(path, {}, async (rig) => {
      rig.guest.fill(1);
      expect(await rig.run(IoType.write, 0, 8192, [{ offset: 0, length: 4 * MIB }])).toBe(success);
      expect(await rig.run(IoType.flush, 0, 0)).toBe(success);
      const full = statSync(path).blocks;
      expect(await rig.run(IoType.unmap, 2048, 4096)).toBe(success);
      expect(full - statSync(path).blocks).toBeGreaterThanOrEqual((2 * MIB) / 512);
      expect(await rig.run(IoType.unmap, 0, 8192)).toBe(success);
      expect([statSync(path).size, statSync(path).blocks < full / 4]).toEqual([4 * MIB, true]);
    });
  });
});

describe('while its reactor rests', () => {
  it.skipIf(!canDirect)(
    'the kernel ends direct writes to a file; reads, flushes and nothing want no rest',
    async () => {
      await withDisk(fileOf(MIB), {}, async (rig) => {
        const segments = [{ offset: 0, length: 4096 }];
        const restsWith = async (type: IoType, blocks: number): Promise<boolean> => {
          const request = rig.submit(type, 0, blocks, blocks > 0 ? segments : []);
          const rests = rig.channel.rest(1000) > 0;
          expect(await rig.polled(request)).toBe(success);
          return rests;
        };
        expect(await restsWith(IoType.write, 8)).toBe(true);
        expect(await restsWith(IoType.flush, 0)).toBe(false);
        expect(await restsWith(IoType.read, 8)).toBe(false);
        expect(rig.channel.rest(1000)).toBe(0);
      });
    },
  );
});

describe.for([
  ['with O_DIRECT', DIRECTORY, true],
  ['in the page cache', DIRECTORY, false],
  ['in memory', MEMORY_DIRECTORY, false],
] as const)('a file %s that was cut under us', ([, directory, isDirect]) => {
  it.skipIf(isDirect && !canDirect)('fails reads past its end, and takes writes there', async () => {
    const path = fileOf(MIB, directory);
    await withDisk(path, { isDirect }, async (rig) => {
      const segments = [{ offset: 0, length: 64 * KIB }];
      rig.guest.fill(7);
      expect(await rig.run(IoType.write, 0, 128, segments)).toBe(success);
      // In the middle of a block, and of the request.
      truncateSync(path, 32 * KIB + 100);
      expect(await rig.run(IoType.read, 0, 128, segments)).toBe(failed);
      expect(await rig.run(IoType.read, 64, 1, [{ offset: 0, length: 512 }])).toBe(failed);
      expect(await rig.run(IoType.read, 1024, 64, segments)).toBe(failed);
      expect(await rig.run(IoType.read, 0, 64, [{ offset: 0, length: 32 * KIB }])).toBe(success);
      rig.guest.fill(7);
      expect(await rig.run(IoType.write, 1024, 128, segments)).toBe(success);
      rig.guest.fill(0);
      expect(await rig.run(IoType.read, 1024, 128, segments)).toBe(success);
      expect(rig.guest.subarray(0, 64 * KIB).every((byte) => byte === 7)).toBe(true);
    });
  });
});

describe('the end of a request', () => {
  it('tells a device that was pulled out from an error of one that is there', () => {
    expect([0, 4096, Errno.EIO, Errno.ENOSPC, Errno.ENODEV, Errno.ENXIO].map(statusOf)).toEqual([
      ...[IoStatus.success, IoStatus.success, IoStatus.failed, IoStatus.failed],
      ...[IoStatus.gone, IoStatus.gone],
    ]);
  });
});
