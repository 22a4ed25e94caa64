/** The calls that make, rescan and delete file disks. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../../../test/support/descriptors.ts';
import type { RpcContext } from '../../../rpc/methods.ts';
import { BdevRegistry, type BdevUser } from '../../registry.ts';
import { NullBdev } from '../null/null.ts';
import { fileRpc } from './file.rpc.ts';

const MIB = 2 ** 20;
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };

let directory: string;
let registry: BdevRegistry;
let rpc: ReturnType<typeof fileRpc>;
let fdsBefore = 0;

beforeEach(() => {
  fdsBefore = openFdCount();
  directory = mkdtempSync(join(tmpdir(), 'ringhost-file-'));
  registry = new BdevRegistry(1);
  rpc = fileRpc(registry, [0, 2]);
});

afterEach(async () => {
  for (const entry of registry.list()) await registry.delete(entry);
  rmSync(directory, { recursive: true });
  assert.ok(openFdCount() <= fdsBefore, 'no descriptor is left over');
});

function file(name: string, bytes = MIB): string {
  const path = join(directory, name);
  writeFileSync(path, '');
  truncateSync(path, bytes);
  return path;
}

describe('the calls of file disks', () => {
  it.each(['aio', 'uring'] as const)('make, rescan and delete one: %s', async (flavor) => {
    const filename = file('disk');
    expect(await rpc[`bdev_${flavor}_create`]({ name: 'Disk0', filename, block_size: 0 }, context)).toBe('Disk0');
    const entry = registry.get('Disk0');
    expect(entry.sizeBytes).toBe(MIB);
    const told: number[] = [];
    const user: BdevUser = {
      bdevChanged: async ({ sizeBytes }) => void told.push(sizeBytes),
      bdevRemoved: async () => {},
    };
    entry.users.add(user);
    const rescan = async () => await rpc[`bdev_${flavor}_rescan`]({ name: 'Disk0' }, context);
    expect([await rescan(), told]).toEqual([true, []]);
    truncateSync(filename, 2 * MIB + 100);
    expect([await rescan(), told]).toEqual([true, [2 * MIB]]);
    truncateSync(filename, MIB);
    await expect(rescan()).rejects.toMatchObject({ code: 'EBUSY' });
    entry.users.clear();
    expect([await rescan(), entry.sizeBytes]).toEqual([true, MIB]);
    truncateSync(filename, 511);
    await expect(rescan()).rejects.toMatchObject({ code: 'EINVAL' });
    expect(await rpc[`bdev_${flavor}_delete`]({ name: 'Disk0' }, context)).toBe(true);
    expect(registry.list()).toEqual([]);
  });

  it('pass their options on', async () => {
    await rpc.bdev_aio_create(
      { name: 'A', filename: file('a'), readonly: true, fallocate: false, nowait: true, direct: false },
      context,
    );
    const params = { readonly: true, fallocate: false, direct: false };
    expect(registry.get('A').bdev.toConfig()).toMatchObject({ params });
    const core0 = { name: 'B', filename: file('b'), sqpoll_core: 2 };
    await expect(rpc.bdev_uring_create(core0, context)).rejects.toThrow('core 2 has a reactor');
    await rpc.bdev_uring_create({ ...core0, sqpoll_core: 1 }, context);
    expect(registry.get('B').bdev.toConfig()).toMatchObject({ params: { sqpoll_core: 1 } });
  });

  it('refuse a second disk on the same file, unless both only read it or do not lock it', async () => {
    const filename = file('disk');
    const [second, third] = ['4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1', '4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d2'];
    await rpc.bdev_aio_create({ name: 'A', filename }, context);
    await expect(rpc.bdev_uring_create({ name: 'B', filename }, context)).rejects.toMatchObject({ code: 'EEXIST' });
    const link = join(directory, 'link');
    symlinkSync(filename, link);
    for (const readonly of [false, true]) {
      await expect(rpc.bdev_aio_create({ name: 'B', filename: link, readonly }, context)).rejects.toMatchObject({
        code: 'EBUSY',
        message: `${link} is in use, by another bdev`,
      });
    }
    expect(await rpc.bdev_uring_create({ name: 'B', filename: link, unlocked: true }, context)).toBe('B');
    await rpc.bdev_uring_delete({ name: 'B' }, context);
    await rpc.bdev_aio_delete({ name: 'A' }, context);
    for (const [name, uuid] of [
      ['A', second],
      ['B', third],
    ] as const) {
      await rpc.bdev_aio_create({ name, filename, uuid, readonly: true }, context);
    }
    await expect(rpc.bdev_aio_create({ name: 'C', filename }, context)).rejects.toMatchObject({ code: 'EBUSY' });
  });

  it('leave disks of other kinds alone', async () => {
    registry.create('N', undefined, () => new NullBdev({ name: 'N', blockCount: 1, blockSizeBytes: 512 }));
    await rpc.bdev_aio_create({ name: 'A', filename: file('a') }, context);
    for (const name of ['N', 'A']) {
      await expect(rpc.bdev_uring_delete({ name }, context)).rejects.toMatchObject({ code: 'EINVAL' });
      await expect(rpc.bdev_uring_rescan({ name }, context)).rejects.toMatchObject({ code: 'EINVAL' });
    }
    await expect(rpc.bdev_aio_delete({ name: 'absent' }, context)).rejects.toMatchObject({ code: 'ENODEV' });
  });
});
