/** Partition tables of the tools that people use: what they make, also on disks that were damaged, grown and mended. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { afterAll, describe, expect, test } from 'vitest';
import { type PartitionTable, readPartitionTable } from '../../src/bdev/modules/gpt/table.ts';
import { whyNoTool } from '../e2e/requirements.ts';

const MIB = 2 ** 20;
const directory = mkdtempSync(join(tmpdir(), 'ringhost-gpt-'));
const path = join(directory, 'disk');
afterAll(() => rmSync(directory, { recursive: true }));

const IMAGE_OF_SGDISK = join(import.meta.dirname, 'fixtures', 'sgdisk-1.0.9.img.br');
const GUIDS = ['11111111-2222-4333-8444-555555555555', 'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee'] as const;
const EFI = 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b';
const LINUX = '0fc63daf-8483-4772-8e79-3d69d8477de4';
const WANTED = [
  { number: 1, firstBlock: 2048, blockCount: 8192, typeGuid: EFI, guid: GUIDS[0], name: 'boot' },
  { number: 2, firstBlock: 10_240, blockCount: 20_480, typeGuid: LINUX, guid: GUIDS[1], name: 'Daten für uns' },
] as const;

function newDisk(sizeBytes: number): void {
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
}

async function read(blockBytes = 512): Promise<PartitionTable> {
  const fd = openSync(path, 'r');
  const blocks = fstatSync(fd).size / blockBytes;
  const reader = async (first: number, count: number): Promise<Buffer> => {
    const bytes = Buffer.alloc(count * blockBytes);
    expect(readSync(fd, bytes, 0, bytes.length, first * blockBytes)).toBe(bytes.length);
    return bytes;
  };
  try {
    return await readPartitionTable(reader, blockBytes, blocks);
  } finally {
    closeSync(fd);
  }
}

function damage(offset: number): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.alloc(16, 0x5a), 0, 16, offset);
  closeSync(fd);
}

/** Without a word to the kernel, before which it would wait until every disk of the machine has what is written. */
function sfdisk(args: readonly string[], script = ''): void {
  execFileSync('sfdisk', ['-q', '--no-tell-kernel', ...args], { input: script, stdio: 'pipe' });
}

/** What sgdisk 1.0.9 made: it always waits for every disk of the machine, which may take minutes. */
function takeImageOfSgdisk(): void {
  writeFileSync(path, brotliDecompressSync(readFileSync(IMAGE_OF_SGDISK)));
}

describe.skipIf(whyNoTool('partitions') !== null)('a partition table', () => {
  test('of sgdisk is read', async () => {
    takeImageOfSgdisk();
    expect(await read()).toMatchObject({ primaryFault: null, partitions: WANTED });
  });

  test('of sfdisk is read, also with more entries than usual', async () => {
    newDisk(32 * MIB);
    sfdisk(
      [path],
      [
        ...['label: gpt', 'table-length: 200'],
        `start=2048, size=4MiB, type=${EFI}, name=boot, uuid=${GUIDS[0]}`,
        `start=10240, size=10MiB, type=${LINUX}, name="Daten für uns", uuid=${GUIDS[1]}`,
      ].join('\n'),
    );
    expect(await read()).toMatchObject({ primaryFault: null, partitions: WANTED });
  });

  test('that is damaged is read from its backup, until sfdisk has mended it', async () => {
    takeImageOfSgdisk();
    damage(512 + 32);
    expect(await read()).toMatchObject({ primaryFault: 'the checksum of its header is wrong', partitions: WANTED });
    sfdisk(['--disk-id', path, GUIDS[0]]);
    expect(await read()).toMatchObject({ primaryFault: null, partitions: WANTED });
    damage(512 + 32);
    damage(32 * MIB - 512 + 32);
    await expect(read()).rejects.toThrow(/its table: .* the backup at its end: /);
  });

  test('of a disk that has grown since is read: its backup is not at the end any more', async () => {
    takeImageOfSgdisk();
    truncateSync(path, 48 * MIB);
    expect(await read()).toMatchObject({ primaryFault: null, partitions: WANTED });
  });

  test('is not found in blocks of another size than it was made for', async () => {
    takeImageOfSgdisk();
    await expect(read(4096)).rejects.toMatchObject({ code: 'EINVAL' });
  });
});
