/** Disks that are cut into parts: where the parts are, and how they come and go together. */
import { beforeEach, describe, expect, it } from 'vitest';
import { DiskRig } from '../../../../test/support/disk-rig.ts';
import type { RpcContext } from '../../../rpc/methods.ts';
import { IoStatus, IoType } from '../../bdev-io.ts';
import { BdevRegistry } from '../../registry.ts';
import { MallocBdev, MemoryBudget } from '../malloc/malloc.ts';
import { splitRpc } from './split.rpc.ts';
import { type Split, SplitBdev } from './split.ts';

const { success, failed } = IoStatus;
const MIB = 2 ** 20;
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };

let registry: BdevRegistry;
let rpc: ReturnType<typeof splitRpc>;

const malloc = (blockCount: number) => {
  const budget = new MemoryBudget(Number.POSITIVE_INFINITY);
  return registry.create(
    'Base',
    undefined,
    () => new MallocBdev({ name: 'Base', blockCount, blockSizeBytes: 512 }, budget),
  );
};
const create = (count: number, sizeMib = 0) =>
  rpc.bdev_split_create({ base_bdev: 'Base', split_count: count, split_size_mb: sizeMib }, context);

beforeEach(() => {
  registry = new BdevRegistry(1);
  rpc = splitRpc(registry);
});

describe('a part of a disk', () => {
  it('has the blocks of its own, and no others', async () => {
    const base = malloc(100);
    const split: Split = { base, count: 2, sizeMib: 0, partBlocks: 50, parts: new Set() };
    const first = registry.create('Basep0', undefined, () => new SplitBdev(split, 0), {
      bases: [base],
      holder: 'Basep1',
    });
    await registry.delete(first);
    const rig = new DiskRig(new SplitBdev(split, 1), undefined, registry);
    const block = [{ offset: 0, length: 512 }];
    rig.guest.fill(7, 0, 512);
    expect(await rig.run(IoType.write, 49, 1, block)).toBe(success);
    expect(await rig.run(IoType.write, 50, 1, block)).toBe(failed);
    const { bdev } = base;
    expect([rig.blocks, (bdev as MallocBdev).blockCount]).toEqual([50, 100]);
    rig.guest.fill(0, 0, 512);
    expect(await rig.run(IoType.read, 49, 1, block)).toBe(success);
    expect(rig.guest[0]).toBe(7);
    expect(rig.entry.bdev.driverSpecific()).toEqual({ split: { base_bdev: 'Base', offset_blocks: 50 } });
    await rig.close();
  });
});

describe('bdev_split_create', () => {
  it('makes equal parts, or parts of a size, as many as there is room for', async () => {
    malloc((10 * MIB) / 512);
    expect(create(3)).toEqual(['Basep0', 'Basep1', 'Basep2']);
    expect(registry.get('Basep2').bdev.blockCount).toBe(6826);
    await rpc.bdev_split_delete({ base_bdev: 'Base' }, context);
    expect(create(5, 4)).toEqual(['Basep0', 'Basep1']);
    expect(registry.get('Basep1').sizeBytes).toBe(4 * MIB);
    await registry.delete(registry.get('Base'));
    expect(registry.list()).toEqual([]);
  });

  it('is saved once, by whichever part there is', async () => {
    malloc(1000);
    create(2, 0);
    const saved = [{ method: 'bdev_split_create', params: { base_bdev: 'Base', split_count: 2, split_size_mb: 0 } }];
    const configs = () =>
      registry
        .list()
        .slice(1)
        .flatMap(({ bdev }) => bdev.toConfig());
    expect(configs()).toEqual(saved);
    await registry.delete(registry.get('Basep0'));
    expect(configs()).toEqual(saved);
    await registry.delete(registry.get('Base'));
  });

  it('refuses a disk that is cut already, and parts that do not fit', async () => {
    malloc(1000);
    expect(() => create(1, 4)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(() => create(2000)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    create(2);
    expect(() => create(2)).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    await rpc.bdev_split_delete({ base_bdev: 'Base' }, context);
    await expect(rpc.bdev_split_delete({ base_bdev: 'Base' }, context)).rejects.toMatchObject({ code: 'ENODEV' });
    await registry.delete(registry.get('Base'));
  });
});
