/**
 * Crypto disks and QEMU read each other's disks: what is in a LUKS image, behind its header, is aes-xts-plain64 over
 * sectors of 512 bytes, as with dm-crypt.
 */
import { execFileSync } from 'node:child_process';
import { createHash, pbkdf2Sync, randomBytes, randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { IoStatus, IoType } from '../../src/bdev/bdev-io.ts';
import { CryptoBdev } from '../../src/bdev/modules/crypto/crypto.ts';
import { CryptoKeys } from '../../src/bdev/modules/crypto/keys.ts';
import { XtsCipher } from '../../src/bdev/modules/crypto/xts.ts';
import { FileBdev } from '../../src/bdev/modules/file/file.ts';
import { BdevRegistry } from '../../src/bdev/registry.ts';
import { whyNoTool } from '../e2e/requirements.ts';
import { DiskRig } from '../support/disk-rig.ts';

const SECTOR = 512;
const SIZE = 3 << 20;
const PASSPHRASE = 'a passphrase';
const directory = mkdtempSync(join(tmpdir(), 'ringhost-luks-'));
const pathOf = (name: string): string => join(directory, name);
afterAll(() => rmSync(directory, { recursive: true }));

const SECRET = ['--object', `secret,id=s,data=${PASSPHRASE}`];
const qemuImg = (...args: readonly string[]): void => void execFileSync('qemu-img', args, { stdio: 'pipe' });

const KEY_BYTES = 64;
const STRIPES = 4000;
const SLOTS = 8;
const SLOT_SECTORS = 504;
const PAYLOAD_SECTOR = 4096;
const ITERATIONS = 1000;

/**
 * The header of a LUKS1 volume (LUKS1 On-Disk Format Specification 1.2.3) for a key. One that QEMU made would take it
 * seconds, in which it measures how many iterations are slow enough.
 */
function luksHeader(volumeKey: Buffer): Buffer {
  const header = Buffer.alloc(PAYLOAD_SECTOR * SECTOR);
  header.write('LUKS\xba\xbe', 'latin1');
  header.writeUInt16BE(1, 6);
  for (const [offset, text] of [
    [8, 'aes'],
    [40, 'xts-plain64'],
    [72, 'sha256'],
    [168, randomUUID()],
  ] as const) {
    header.write(text, offset, 'latin1');
  }
  header.writeUInt32BE(PAYLOAD_SECTOR, 104);
  header.writeUInt32BE(KEY_BYTES, 108);
  const salt = randomBytes(32);
  pbkdf2Sync(volumeKey, salt, ITERATIONS, 20, 'sha256').copy(header, 112);
  salt.copy(header, 132);
  header.writeUInt32BE(ITERATIONS, 164);
  for (let i = 0; i < SLOTS; i++) {
    const at = 208 + i * 48;
    header.writeUInt32BE(i === 0 ? 0x00ac_71f3 : 0x0000_dead, at);
    header.writeUInt32BE(ITERATIONS, at + 4);
    salt.copy(header, at + 8);
    header.writeUInt32BE(8 + i * SLOT_SECTORS, at + 40);
    header.writeUInt32BE(STRIPES, at + 44);
  }
  const slotKey = pbkdf2Sync(PASSPHRASE, salt, ITERATIONS, KEY_BYTES, 'sha256');
  const material = new Int32Array(Uint8Array.from(split(volumeKey)).buffer);
  new XtsCipher(slotKey, SECTOR, 'SIMPLE_LBA').encrypt(material, 0);
  header.set(new Uint8Array(material.buffer), 8 * SECTOR);
  return header;
}

/** The anti-forensic splitter. */
function split(key: Buffer): Buffer {
  const stripes = randomBytes(KEY_BYTES * STRIPES);
  const sum = Buffer.alloc(KEY_BYTES);
  const add = (stripe: Buffer): void => {
    for (let i = 0; i < KEY_BYTES; i++) sum[i] = (sum[i] as number) ^ (stripe[i] as number);
  };
  for (let at = 0; at < stripes.length - KEY_BYTES; at += KEY_BYTES) {
    add(stripes.subarray(at, at + KEY_BYTES));
    for (let block = 0; block * 32 < KEY_BYTES; block++) {
      const hash = createHash('sha256').update(Buffer.from([0, 0, 0, block]));
      hash
        .update(sum.subarray(block * 32, block * 32 + 32))
        .digest()
        .copy(sum, block * 32);
    }
  }
  add(key);
  sum.copy(stripes, stripes.length - KEY_BYTES);
  return stripes;
}

/** A crypto disk over a file. */
async function openDisk(path: string, key: Buffer): Promise<DiskRig> {
  const half = key.length / 2;
  const keys = new CryptoKeys();
  const hex = [key.toString('hex', 0, half), key.toString('hex', half)] as const;
  keys.create({ name: 'K', tweakMode: 'SIMPLE_LBA', hex });
  const registry = new BdevRegistry(1);
  const file = new FileBdev({ flavor: 'aio', name: 'File', filename: path, isDirect: false });
  const base = registry.create('File', undefined, () => file);
  return new DiskRig(new CryptoBdev({ name: 'Crypt', base, key: keys.get('K') }), undefined, registry);
}

describe.skipIf(whyNoTool('nbd') !== null)('a LUKS image of QEMU', () => {
  test('holds what a crypto disk wrote, and a crypto disk reads what QEMU writes', async () => {
    const key = randomBytes(KEY_BYTES);
    const header = luksHeader(key);
    const all = [{ offset: 0, length: SIZE }];
    const luks = `driver=luks,key-secret=s,file.driver=file,file.filename=${pathOf('luks')}`;

    writeFileSync(pathOf('payload'), '');
    truncateSync(pathOf('payload'), SIZE);
    const ours = randomBytes(SIZE);
    let disk = await openDisk(pathOf('payload'), key);
    disk.guest.set(ours);
    expect(await disk.run(IoType.write, 0, SIZE / SECTOR, all)).toBe(IoStatus.success);
    await disk.close();
    writeFileSync(pathOf('luks'), Buffer.concat([header, readFileSync(pathOf('payload'))]));
    qemuImg('convert', ...SECRET, '--image-opts', '-O', 'raw', luks, pathOf('read'));
    expect(Buffer.compare(readFileSync(pathOf('read')), ours)).toBe(0);

    const theirs = randomBytes(SIZE);
    writeFileSync(pathOf('written'), theirs);
    qemuImg('convert', ...SECRET, '-n', '-f', 'raw', '--target-image-opts', pathOf('written'), luks);
    writeFileSync(pathOf('payload'), readFileSync(pathOf('luks')).subarray(header.length));
    disk = await openDisk(pathOf('payload'), key);
    expect(await disk.run(IoType.read, 0, SIZE / SECTOR, all)).toBe(IoStatus.success);
    expect(Buffer.compare(disk.gather(all), theirs)).toBe(0);
    await disk.close();
  });
});
