/** The calls that make, resize and delete RAM disks. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { turns } from '../../../../test/support/waiting.ts';
import type { Params, RpcContext } from '../../../rpc/methods.ts';
import { BdevRegistry, type BdevUser } from '../../registry.ts';
import { NullBdev } from '../null/null.ts';
import { mallocRpc } from './malloc.rpc.ts';
import { MallocBdev, MemoryBudget } from './malloc.ts';

const MIB = 2 ** 20;
const UUID = '4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1';
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };

let registry: BdevRegistry;
let rpc: ReturnType<typeof mallocRpc>;

beforeEach(() => {
  registry = new BdevRegistry(1);
  rpc = mallocRpc(registry, new MemoryBudget(16 * MIB));
});

afterEach(async () => {
  for (const entry of registry.list()) if (!entry.isRemoving) await registry.delete(entry);
});

const create = (params: Partial<Params<'bdev_malloc_create'>> = {}) =>
  rpc.bdev_malloc_create({ num_blocks: 2048, block_size: 512, ...params }, context);
const resize = (name: string, mebibytes: number) => rpc.bdev_malloc_resize({ name, new_size: mebibytes }, context);
const bdevOf = (name: string) => registry.get(name).bdev;

/** A controller that takes its time to hear of a change. */
class SlowUser implements BdevUser {
  readonly sizes: number[] = [];
  release = (): void => {};

  bdevChanged(): Promise<void> {
    this.sizes.push(registry.get('Malloc0').bdev.blockCount);
    return new Promise((resolve) => {
      this.release = resolve;
    });
  }

  async bdevRemoved(): Promise<void> {}
}

describe('bdev_malloc_create', () => {
  it('makes a disk of the name and size it says', async () => {
    expect(await create({ name: 'Ram', num_blocks: 100, block_size: 4096, uuid: UUID.toUpperCase() })).toBe('Ram');
    expect(bdevOf('Ram')).toMatchObject({
      blockCount: 100,
      blockSizeBytes: 4096,
      physicalBlockSizeBytes: 4096,
      uuid: UUID,
    });
  });

  it('counts names up when it says none', async () => {
    expect([await create(), await create(), await create({ name: 'X' }), await create()]).toEqual([
      'Malloc0',
      'Malloc1',
      'X',
      'Malloc2',
    ]);
  });

  it.each([
    [undefined, 512],
    [0, 512],
    [4096, 4096],
  ])('takes %s for the physical block size as %i', async (size, expected) => {
    await create({ physical_block_size: size });
    expect(bdevOf('Malloc0').physicalBlockSizeBytes).toBe(expected);
  });

  it('refuses a name or UUID that is taken', async () => {
    await create({ name: 'Ram', uuid: UUID });
    expect(() => create({ name: 'Ram' })).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    expect(() => create({ uuid: UUID })).toThrow(expect.objectContaining({ code: 'EEXIST' }));
  });

  it('refuses more than the budget, and more than any machine has', async () => {
    await create({ num_blocks: (12 * MIB) / 512 });
    expect(() => create({ num_blocks: (5 * MIB) / 512 })).toThrow('only 4 MiB are left');
    expect(() => create({ num_blocks: Number.MAX_SAFE_INTEGER })).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(registry.list()).toHaveLength(1);
  });

  it('takes a NUMA node that exists, or any', async () => {
    await create({ numa_id: -1 });
    await create({ numa_id: 0 });
    expect(() => create({ numa_id: 1000 })).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});

describe('bdev_malloc_delete', () => {
  it('deletes the disk and gives its memory back', async () => {
    await create({ num_blocks: (16 * MIB) / 512 });
    expect(await rpc.bdev_malloc_delete({ name: 'Malloc0' }, context)).toBe(true);
    expect(await create({ num_blocks: (16 * MIB) / 512 })).toBe('Malloc0');
  });

  it('finds it by UUID, and nothing else', async () => {
    await create({ uuid: UUID });
    registry.create('Null0', undefined, () => new NullBdev({ name: 'Null0', blockCount: 1, blockSizeBytes: 512 }));
    await expect(rpc.bdev_malloc_delete({ name: 'Null0' }, context)).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(rpc.bdev_malloc_delete({ name: 'None' }, context)).rejects.toMatchObject({ code: 'ENODEV' });
    expect(await rpc.bdev_malloc_delete({ name: UUID }, context)).toBe(true);
  });
});

describe('bdev_malloc_resize', () => {
  it('changes the size when every user has heard of it', async () => {
    await create();
    const user = new SlowUser();
    registry.get('Malloc0').users.add(user);
    let isOver = false;
    const done = Promise.resolve(resize('Malloc0', 8)).then((result) => {
      isOver = true;
      return result;
    });
    await turns();
    expect([user.sizes, isOver]).toEqual([[(8 * MIB) / 512], false]);
    user.release();
    expect(await done).toBe(true);
  });

  it('shrinks a disk that nobody uses, and no other', async () => {
    await create({ num_blocks: (4 * MIB) / 512 });
    await resize('Malloc0', 2);
    expect(bdevOf('Malloc0').blockCount).toBe((2 * MIB) / 512);
    const user = new SlowUser();
    registry.get('Malloc0').users.add(user);
    await expect(resize('Malloc0', 1)).rejects.toMatchObject({ code: 'EBUSY' });
    expect([bdevOf('Malloc0').blockCount, user.sizes]).toEqual([(2 * MIB) / 512, []]);
  });

  it('may come while another one goes on', async () => {
    await create();
    const user = new SlowUser();
    registry.get('Malloc0').users.add(user);
    const first = resize('Malloc0', 4);
    await turns();
    const releaseFirst = user.release;
    const second = resize('Malloc0', 8);
    await turns();
    releaseFirst();
    user.release();
    expect([await first, await second]).toEqual([true, true]);
    expect([bdevOf('Malloc0').blockCount, user.sizes.at(-1)]).toEqual([(8 * MIB) / 512, (8 * MIB) / 512]);
  });

  it('refuses more than the budget, and leaves the disk as it was', async () => {
    await create();
    await expect(resize('Malloc0', 17)).rejects.toMatchObject({ code: 'ENOMEM' });
    await expect(resize('Malloc0', 2 ** 27)).rejects.toMatchObject({ code: 'EINVAL' });
    expect(bdevOf('Malloc0').blockCount).toBe(2048);
    expect(await resize('Malloc0', 16)).toBe(true);
  });

  it('refuses what is not a RAM disk', async () => {
    registry.create('Null0', undefined, () => new NullBdev({ name: 'Null0', blockCount: 1, blockSizeBytes: 512 }));
    await expect(resize('Null0', 1)).rejects.toThrow('bdev "Null0" is a Null disk, not a RAM disk');
    await expect(resize('None', 1)).rejects.toMatchObject({ code: 'ENODEV' });
    expect(bdevOf('Null0')).not.toBeInstanceOf(MallocBdev);
  });
});
