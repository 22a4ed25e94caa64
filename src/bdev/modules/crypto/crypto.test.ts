/** Crypto disks and their keys: what is on the disk below, what the guest's memory keeps, and where keys are not. */
import { createCipheriv, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DiskRig } from '../../../../test/support/disk-rig.ts';
import { METHODS, type RpcContext } from '../../../rpc/methods.ts';
import { checkParams } from '../../../rpc/params.ts';
import { MappingViews } from '../../../sys/mapping.ts';
import type { Bdev } from '../../bdev.ts';
import { IoStatus, IoType } from '../../bdev-io.ts';
import { BdevRegistry } from '../../registry.ts';
import { ErrorBdev } from '../error/error.ts';
import { Fault } from '../error/rules.ts';
import { MallocBdev, MemoryBudget } from '../malloc/malloc.ts';
import { cryptoRpc } from './crypto.rpc.ts';
import { CryptoBdev } from './crypto.ts';
import { CryptoKeys } from './keys.ts';

const { success, failed } = IoStatus;
const MIB = 1 << 20;
const HEX = '000102030405060708090a0b0c0d0e0f';
const HEX2 = '101112131415161718191a1b1c1d1e1f';
const KEY = Buffer.from(HEX + HEX2, 'hex');
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
const directory = mkdtempSync(join(tmpdir(), 'ringhost-crypto-'));
afterAll(() => rmSync(directory, { recursive: true }));

let registry: BdevRegistry;
let keys: CryptoKeys;
let rpc: ReturnType<typeof cryptoRpc>;
let rig: DiskRig | undefined;

beforeEach(() => {
  registry = new BdevRegistry(1);
  keys = new CryptoKeys();
  keys.create({ name: 'K', tweakMode: 'SIMPLE_LBA', hex: [HEX, HEX2] });
  rpc = cryptoRpc(registry, keys);
});
afterEach(async () => {
  await rig?.close();
  rig = undefined;
});

function ramDisk(sizeBytes = 4 * MIB): Bdev {
  const budget = new MemoryBudget(Number.POSITIVE_INFINITY);
  return new MallocBdev({ name: 'Base', blockCount: sizeBytes / 512, blockSizeBytes: 512 }, budget);
}

function openRig(bdev: Bdev): DiskRig {
  const base = registry.create(bdev.name, undefined, () => bdev);
  rig = new DiskRig(new CryptoBdev({ name: 'Crypt', base, key: keys.get('K') }), undefined, registry);
  return rig;
}

/** A copy of what is on the disk below. */
function below(base: Bdev): Buffer {
  const lengthBytes = base.blockCount * base.blockSizeBytes;
  const views = new MappingViews();
  const mapping = { address: base.params()['address'] as number, lengthBytes };
  const copy = Buffer.from(Uint8Array.from(new Uint8Array(views.view(mapping, 0, lengthBytes))));
  views.close();
  return copy;
}

/** As dm-crypt has it: aes-xts-plain64. */
function encrypted(data: Buffer, firstSector: number): Buffer {
  const sectors = Array.from({ length: data.length / 512 }, (_, i) => {
    const tweak = Buffer.alloc(16);
    tweak.writeBigUInt64LE(BigInt(firstSector + i));
    return createCipheriv('aes-128-xts', KEY, tweak).update(data.subarray(i * 512, (i + 1) * 512));
  });
  return Buffer.concat(sectors);
}

describe('a crypto disk', () => {
  it('writes each sector as aes-xts-plain64 has it, and leaves the guest its memory', async () => {
    const base = ramDisk();
    const disk = openRig(base);
    // More than a buffer, and no multiple of one.
    const data = randomBytes(3 * 256 * 1024 + 1536);
    disk.guest.set(data);
    // Segments that cut sectors.
    const cuts = [0, 511, 512, 70_000, 300_001, data.length];
    const segments = cuts.slice(1).map((end, i) => ({ offset: cuts[i] as number, length: end - (cuts[i] as number) }));
    expect(await disk.run(IoType.write, 77, data.length / 512, segments)).toBe(success);
    expect(Buffer.compare(disk.guest.subarray(0, data.length), data)).toBe(0);
    const stored = below(base).subarray(77 * 512, 77 * 512 + data.length);
    expect(Buffer.compare(stored, encrypted(data, 77))).toBe(0);
  });

  it('writes zeroes encrypted, however many, and others have their turns meanwhile', async () => {
    const base = ramDisk(64 * MIB);
    const disk = openRig(base);
    const ended: string[] = [];
    const zeroes = disk.submit(IoType.writeZeroes, 0, (63 * MIB) / 512).then((status) => {
      ended.push('zeroes');
      return status;
    });
    disk.guest.fill(7, 0, 512);
    const write = disk.submit(IoType.write, (63 * MIB) / 512, 1, [{ offset: 0, length: 512 }]).then((status) => {
      ended.push('write');
      return status;
    });
    expect(await disk.polled(Promise.all([zeroes, write]))).toEqual([success, success]);
    expect(ended).toEqual(['write', 'zeroes']);
    const stored = below(base);
    for (const first of [0, 5000, (63 * MIB) / 512 - 3]) {
      const wanted = encrypted(Buffer.alloc(3 * 512), first);
      expect(Buffer.compare(stored.subarray(first * 512, (first + 3) * 512), wanted)).toBe(0);
    }
  });

  it('ends a write once, with an error, when a piece of it fails, and goes on', async () => {
    const base = registry.create('Base', undefined, () => ramDisk());
    const bad = new ErrorBdev({ name: 'EE_Base', base });
    bad.inject({
      ...{ types: [IoType.write], fault: Fault.failure, count: 1, queueDepth: 0, nth: 1, probability: 1, seed: 0 },
      ...{ firstBlock: 1024, endBlock: 1025, corruptOffset: 0, corruptValue: 0 },
    });
    const entry = registry.create(bad.name, undefined, () => bad, { bases: [base] });
    const crypt = new CryptoBdev({ name: 'Crypt', base: entry, key: keys.get('K') });
    rig = new DiskRig(crypt, undefined, registry, [entry]);
    const all = [{ offset: 0, length: 4 * MIB }];
    expect(await rig.run(IoType.write, 0, (4 * MIB) / 512, all)).toBe(failed);
    expect(await rig.run(IoType.write, 0, (4 * MIB) / 512, all)).toBe(success);
    expect(await rig.run(IoType.read, 0, (4 * MIB) / 512, all)).toBe(success);
  });

  it('grows with the disk under it', async () => {
    const base = ramDisk(1 * MIB) as MallocBdev;
    const disk = openRig(base);
    const block = [{ offset: 0, length: 512 }];
    expect(await disk.run(IoType.write, 2048, 1, block)).toBe(failed);
    base.resize(4096);
    await registry.changed(registry.get('Base'));
    disk.guest.fill(9, 0, 512);
    expect(await disk.run(IoType.write, 4095, 1, block)).toBe(success);
    expect(Buffer.compare(below(base).subarray(-512), encrypted(Buffer.alloc(512, 9), 4095))).toBe(0);
  });

  it('does not promise zeroes where it discarded', () => {
    expect(openRig(ramDisk()).entry.bdev.unmapReadsZeroes).toBe(false);
  });
});

describe('the key of a crypto disk', () => {
  const create = (params: object): unknown => {
    const checked = checkParams(METHODS.accel_crypto_key_create, { name: 'N', cipher: 'AES_XTS', ...params });
    if (!checked.ok) throw new Error(checked.error.data?.detail);
    return rpc.accel_crypto_key_create(checked.params as never, context);
  };
  const file = (bytes: Uint8Array): string => {
    const path = join(directory, 'key');
    writeFileSync(path, bytes);
    return path;
  };

  it('may come from a file, of which the path is saved, and is the same as the one in hex', async () => {
    expect(create({ key_file: file(KEY), tweak_mode: 'INCR_512_FULL_LBA' })).toBe(true);
    expect(new Uint8Array(keys.get('N').memory)).toEqual(Uint8Array.from(KEY));
    expect(keys.toConfig()).toEqual([
      {
        method: 'accel_crypto_key_create',
        params: {
          ...{ cipher: 'AES_XTS', key_file: join(directory, 'key'), name: 'N', tweak_mode: 'INCR_512_FULL_LBA' },
        },
      },
    ]);
  });

  it.each([
    ['of a length that AES has not', { key: HEX.slice(2), key2: HEX2 }, /32 hex digits/],
    ['that is not hex', { key: 'x'.repeat(32), key2: HEX2 }, /32 hex digits/],
    ['of two lengths', { key: HEX + HEX, key2: HEX2 }, /same length/],
    ['with equal halves', { key: HEX, key2: HEX.toUpperCase() }, /the same/],
    ['without its second half', { key: HEX }, /key_file/],
    ['that is nowhere', {}, /key_file/],
    ['in two places', { key: HEX, key2: HEX2, key_file: '/etc/hostname' }, /key_file/],
    ['in a file that is not there', { key_file: '/nonexistent/key' }, /nonexistent/],
    ['in a directory', { key_file: '/' }, /key_file/],
    ['that is not text', { key: 0x1122_3344, key2: HEX2 }, /expected string/],
    ['that is a name', { key: HEX, key2: HEX2, name: 'K' }, /exists already/],
  ] as const)('is refused when it is one %s, and no error repeats it', (_, params, message) => {
    const attempt = (): unknown => create(params);
    expect(attempt).toThrow(message);
    expect(attempt).not.toThrow(new RegExp([HEX, HEX2, String(0x1122_3344), 'xxx'].join('|')));
    expect(keys.list()).toHaveLength(1);
  });

  it.each([31, 33, 63, 65, 0, 128])('is not a file of %i bytes', (length) => {
    expect(() => create({ key_file: file(randomBytes(length)) })).toThrow(/32 bytes/);
  });

  it('is shown and saved nowhere', () => {
    const base = registry.create('Base', undefined, () => ramDisk());
    rpc.bdev_crypto_create({ name: 'C', base_bdev_name: 'Base', key_name: 'K' }, context);
    const { bdev } = registry.get('C');
    const shown = [rpc.accel_crypto_keys_get({}, context), keys.toConfig(), bdev.toConfig(), bdev.driverSpecific()];
    expect(JSON.stringify([...shown, registry.get('C').describe()])).not.toMatch(/00010203|10111213/i);
    expect(keys.toConfig()).toEqual([]);
    expect(bdev.toConfig()).toEqual({
      method: 'bdev_crypto_create',
      params: { base_bdev_name: base.name, name: 'C', key_name: 'K' },
    });
    return registry.delete(base);
  });

  it('is forgotten when it is destroyed, but not under a disk', async () => {
    const base = registry.create('Base', undefined, () => ramDisk());
    rpc.bdev_crypto_create({ name: 'C', base_bdev_name: 'Base', key_name: 'K' }, context);
    const { memory } = keys.get('K');
    const destroy = (): unknown => rpc.accel_crypto_key_destroy({ key_name: 'K' }, context);
    expect(destroy).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    expect(rpc.accel_crypto_keys_get({ key_name: 'K' }, context)).toMatchObject([{ users: 1 }]);
    await registry.delete(base);
    expect(destroy()).toBe(true);
    expect(new Uint8Array(memory)).toEqual(new Uint8Array(32));
    expect(destroy).toThrow(expect.objectContaining({ code: 'ENOENT' }));
  });

  it('is asked for by a disk: without it, and on a disk that is used, none is made', async () => {
    const base = registry.create('Base', undefined, () => ramDisk());
    const make = (keyName: string, name: string): unknown =>
      rpc.bdev_crypto_create({ name, base_bdev_name: 'Base', key_name: keyName }, context);
    expect(() => make('none', 'C')).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    expect(make('K', 'C')).toBe('C');
    expect(() => make('K', 'D')).toThrow(expect.objectContaining({ code: 'EPERM' }));
    expect(keys.get('K').users).toBe(1);
    await rpc.bdev_crypto_delete({ name: 'C' }, context);
    expect(keys.get('K').users).toBe(0);
    await registry.delete(base);
  });
});
