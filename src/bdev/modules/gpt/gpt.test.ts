/** Disks of partitions: made of what a table says, together, and gone with the disk that they are on. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DiskRig } from '../../../../test/support/disk-rig.ts';
import { gptImage, LINUX_TYPE, SPDK_TYPE } from '../../../../test/support/gpt-image.ts';
import { SILENT } from '../../../base/log.ts';
import type { RpcContext } from '../../../rpc/methods.ts';
import { IoStatus, IoType } from '../../bdev-io.ts';
import { BdevRegistry } from '../../registry.ts';
import { MallocBdev, MemoryBudget } from '../malloc/malloc.ts';
import { gptRpc } from './gpt.rpc.ts';
import { GptBdev } from './gpt.ts';

const { success, failed } = IoStatus;
const GUIDS = ['0a000000-0000-4000-8000-000000000001', '0a000000-0000-4000-8000-000000000002'] as const;
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
const IMAGE = gptImage({
  entries: [
    { type: LINUX_TYPE, guid: GUIDS[0], first: 40, last: 79, name: 'root' },
    { type: SPDK_TYPE, guid: GUIDS[1], first: 100, last: 199 },
  ],
});

let registry: BdevRegistry;
let image: Buffer;
/** While a table is read. */
let meanwhile: () => void;
let rpc: ReturnType<typeof gptRpc>;

beforeEach(() => {
  registry = new BdevRegistry(1);
  image = IMAGE;
  meanwhile = () => {};
  const read = async (_: unknown, first: number, count: number): Promise<Buffer> => {
    meanwhile();
    return image.subarray(first * 512, (first + count) * 512);
  };
  rpc = gptRpc(registry, { read }, SILENT);
  disk('Base');
});
afterEach(async () => {
  for (const entry of registry.list().toReversed()) await registry.delete(entry);
});

function disk(name: string): void {
  const budget = new MemoryBudget(Number.POSITIVE_INFINITY);
  registry.create(name, undefined, () => new MallocBdev({ name, blockCount: 256, blockSizeBytes: 512 }, budget));
}

const create = (types?: string[]): Promise<string[]> | string[] =>
  rpc.bdev_gpt_create({ base_bdev: 'Base', types }, context);

describe('bdev_gpt_create', () => {
  it('makes a disk of each partition, with its name and its UUID', async () => {
    expect(await create()).toEqual(['Basep1', 'Basep2']);
    const { bdev } = registry.get(GUIDS[1]);
    expect([bdev.name, bdev.blockCount, bdev.productName]).toEqual(['Basep2', 100, 'GPT Disk']);
    expect(registry.get('Basep1').bdev.driverSpecific()).toEqual({
      gpt: {
        ...{ base_bdev: 'Base', offset_blocks: 40, partition_name: 'root' },
        ...{ partition_type_guid: LINUX_TYPE, unique_partition_guid: GUIDS[0] },
      },
    });
    expect(() => registry.get('Base').checkUnclaimed()).toThrow(/claimed by "partitions of Base"/);
  });

  it('makes only those of some types, however they are written', async () => {
    expect(await create([SPDK_TYPE.toUpperCase()])).toEqual(['Basep2']);
    await rpc.bdev_gpt_delete({ base_bdev: 'Base' }, context);
    await expect(create([GUIDS[0]])).rejects.toMatchObject({ code: 'ENOENT' });
    image = gptImage({ entries: [] });
    await expect(create()).rejects.toMatchObject({ code: 'ENOENT' });
    expect(registry.list()).toHaveLength(1);
  });

  it('says whose table it is that cannot be used', async () => {
    image = Buffer.alloc(256 * 512);
    await expect(create()).rejects.toThrow(/bdev "Base" has no usable GPT: there is no partition table/);
  });

  it('makes nothing when a name or a UUID is taken, or there are partitions already', async () => {
    disk('Basep2');
    await expect(create()).rejects.toMatchObject({ code: 'EEXIST' });
    await registry.delete(registry.get('Basep2'));
    await create();
    await expect(create()).rejects.toMatchObject({ code: 'EEXIST' });
    expect(registry.list()).toHaveLength(3);
  });

  it('makes nothing on a disk that was deleted, made again or claimed while its table was read', async () => {
    meanwhile = () => {
      meanwhile = () => {};
      registry.get('Base').claim('other', { bdevChanged: async () => {}, bdevRemoved: async () => {} });
    };
    await expect(create()).rejects.toMatchObject({ code: 'EPERM' });
    await registry.delete(registry.get('Base'));
    disk('Base');
    let deletion = Promise.resolve();
    meanwhile = () => {
      meanwhile = () => {};
      deletion = registry.delete(registry.get('Base'));
    };
    await expect(create()).rejects.toMatchObject({ code: 'ENODEV' });
    await deletion;
    expect(registry.list()).toEqual([]);
  });

  it('is saved once, by whichever partition there is, and gone with the disk', async () => {
    await create();
    const configs = () =>
      registry
        .list()
        .slice(1)
        .flatMap(({ bdev }) => bdev.toConfig());
    const saved = [{ method: 'bdev_gpt_create', params: { base_bdev: 'Base' } }];
    expect(configs()).toEqual(saved);
    await registry.delete(registry.get('Basep1'));
    expect(configs()).toEqual(saved);
    await registry.delete(registry.get('Base'));
    expect(registry.list()).toEqual([]);
  });
});

describe('bdev_gpt_delete', () => {
  it('takes all of them away, and leaves the disk', async () => {
    await create();
    expect(await rpc.bdev_gpt_delete({ base_bdev: 'Base' }, context)).toBe(true);
    expect(registry.list().map(({ name, holder }) => [name, holder])).toEqual([['Base', null]]);
    await expect(rpc.bdev_gpt_delete({ base_bdev: 'Base' }, context)).rejects.toMatchObject({ code: 'ENODEV' });
  });
});

describe('a partition', () => {
  it('has the blocks of its own, and no others, whatever becomes of the disk', async () => {
    const base = registry.get('Base');
    const partition = { number: 1, firstBlock: 40, blockCount: 40, typeGuid: LINUX_TYPE, guid: GUIDS[0], name: '' };
    const rig = new DiskRig(new GptBdev({ base, types: undefined, bdevs: new Set() }, partition), undefined, registry);
    const block = [{ offset: 0, length: 512 }];
    rig.guest.fill(7, 0, 512);
    expect(await rig.run(IoType.write, 39, 1, block)).toBe(success);
    expect(await rig.run(IoType.write, 40, 1, block)).toBe(failed);
    (base.bdev as MallocBdev).resize(512);
    await registry.changed(base);
    expect(rig.blocks).toBe(40);
    expect(await rig.run(IoType.write, 40, 1, block)).toBe(failed);
    await rig.close();
  });
});
