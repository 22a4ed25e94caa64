/** The null disk: everything succeeds, nothing is kept. */
import { describe, expect, it } from 'vitest';
import { describeBdev, RecordingOwner } from '../../../../test/support/bdev-rig.ts';
import type { RpcContext } from '../../../rpc/methods.ts';
import { IovArena } from '../../../sys/iov-arena.ts';
import { IoStatus, IoType } from '../../bdev-io.ts';
import { BdevChannel } from '../../channel.ts';
import { BdevRegistry, type BdevUser } from '../../registry.ts';
import { CHANNEL_FACTORIES } from '../channels.ts';
import { MallocBdev, MemoryBudget } from '../malloc/malloc.ts';
import { nullRpc } from './null.rpc.ts';
import { NullBdev } from './null.ts';

const MIB = 2 ** 20;
const UUID = '4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1';
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };

describe('a null disk', () => {
  it('ends every request it has at once, and refuses the others', () => {
    const bdev = new NullBdev({ name: 'Null0', blockCount: 100, blockSizeBytes: 512 });
    const owner = new RecordingOwner();
    const factory = CHANNEL_FACTORIES[bdev.kind];
    const arena = new IovArena(1, 1);
    const channel = new BdevChannel(
      describeBdev({ ioTypes: bdev.ioTypes }),
      factory ?? (() => expect.fail()),
      { arena },
      0,
    );
    const types = [IoType.read, IoType.write, IoType.flush, IoType.writeZeroes, IoType.unmap];
    for (const type of types) channel.submit(owner.io(type));
    channel.submit(owner.io(IoType.read, 100));
    const { success, failed } = IoStatus;
    expect(owner.statuses).toEqual([success, success, success, success, failed, failed]);
    expect([channel.inFlight, channel.poll()]).toEqual([0, 0]);
    channel.update(describeBdev());
    channel.close();
    arena.close();
  });

  it('is described as what it is, and by the call that would create it again', () => {
    const bdev = new NullBdev({
      name: 'N',
      blockCount: 8,
      blockSizeBytes: 512,
      physicalBlockSizeBytes: 4096,
      uuid: UUID.toUpperCase(),
    });
    expect([bdev.uuid, bdev.productName, bdev.params(), bdev.driverSpecific()]).toEqual([UUID, 'Null disk', {}, {}]);
    const params = { name: 'N', num_blocks: 8, block_size: 512, physical_block_size: 4096, uuid: UUID };
    expect(bdev.toConfig()).toEqual({ method: 'bdev_null_create', params });
  });
});

describe('the calls of null disks', () => {
  const setUp = () => {
    const registry = new BdevRegistry(1);
    return { registry, rpc: nullRpc(registry) };
  };

  it('make, resize and delete one', async () => {
    const { registry, rpc } = setUp();
    const params = { name: 'Null0', num_blocks: 2048, block_size: 512, physical_block_size: 0, uuid: UUID } as const;
    expect(await rpc.bdev_null_create(params, context)).toBe('Null0');
    expect(registry.get(UUID).bdev).toMatchObject({ blockCount: 2048, physicalBlockSizeBytes: 512 });
    expect(() => rpc.bdev_null_create(params, context)).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    expect(await rpc.bdev_null_resize({ name: 'Null0', new_size: 3 }, context)).toBe(true);
    expect(registry.get('Null0').sizeBytes).toBe(3 * MIB);
    expect(await rpc.bdev_null_delete({ name: 'Null0' }, context)).toBe(true);
    expect(registry.list()).toEqual([]);
  });

  it('tell users of a new size, and do not shrink what is used', async () => {
    const { registry, rpc } = setUp();
    await rpc.bdev_null_create({ name: 'Null0', num_blocks: 4096, block_size: 512 }, context);
    const told: number[] = [];
    const user: BdevUser = {
      bdevChanged: async (entry) => void told.push(entry.sizeBytes),
      bdevRemoved: async () => {},
    };
    registry.get('Null0').users.add(user);
    await rpc.bdev_null_resize({ name: 'Null0', new_size: 4 }, context);
    await expect(rpc.bdev_null_resize({ name: 'Null0', new_size: 3 }, context)).rejects.toMatchObject({
      code: 'EBUSY',
    });
    expect(told).toEqual([4 * MIB]);
  });

  it('refuse other disks', async () => {
    const { registry, rpc } = setUp();
    const budget = new MemoryBudget(MIB);
    const entry = registry.create(
      'M',
      undefined,
      () => new MallocBdev({ name: 'M', blockCount: 1, blockSizeBytes: 512 }, budget),
    );
    await expect(rpc.bdev_null_delete({ name: 'M' }, context)).rejects.toThrow(
      'bdev "M" is a Malloc disk, not a null disk',
    );
    await expect(rpc.bdev_null_resize({ name: 'M', new_size: 1 }, context)).rejects.toMatchObject({ code: 'EINVAL' });
    await registry.delete(entry);
  });
});
