/** RAM disks in shared memory: found again with what was in them, for one disk at a time and for no other user. */
import assert from 'node:assert/strict';
import { chmodSync, existsSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../../../test/support/descriptors.ts';
import { DiskRig } from '../../../../test/support/disk-rig.ts';
import { METHODS, type Params, type RpcContext } from '../../../rpc/methods.ts';
import { MappingViews } from '../../../sys/mapping.ts';
import { bdevRpc } from '../../bdev.rpc.ts';
import { IoType } from '../../bdev-io.ts';
import { BdevRegistry } from '../../registry.ts';
import { mallocRpc } from './malloc.rpc.ts';
import { MallocBdev, MemoryBudget } from './malloc.ts';
import { SharedMemory } from './shared-memory.ts';

const MIB = 2 ** 20;
const NAME = `unit-${process.pid}`;
const PATH = `/dev/shm/ringhost.${NAME}`;
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };

let registry: BdevRegistry;
let rpc: ReturnType<typeof mallocRpc>;
let fdsBefore = 0;

beforeEach(() => {
  fdsBefore = openFdCount();
  registry = new BdevRegistry(1);
  rpc = mallocRpc(registry, new MemoryBudget(16 * MIB));
});
afterEach(async () => {
  await stop();
  rmSync(PATH, { force: true });
  assert.ok(openFdCount() <= fdsBefore, 'no descriptor is left over');
});

const create = async (params: Partial<Params<'bdev_malloc_create'>> = {}) =>
  await rpc.bdev_malloc_create({ name: 'A', num_blocks: 2048, block_size: 512, shm_name: NAME, ...params }, context);
/** As the daemon does. */
const stop = async (): Promise<void> => {
  for (const entry of registry.list()) await registry.delete(entry);
};

/** Writes a text at an offset of the disk, or reads what is there. */
function touch(offset: number, text?: string): string {
  const { bdev } = registry.get('A');
  const views = new MappingViews();
  const address = bdev.params()['address'] as number;
  const bytes = Buffer.from(views.view({ address, lengthBytes: bdev.blockCount * 512 }, offset, 8));
  if (text !== undefined) bytes.write(text, 'latin1');
  const found = bytes.toString('latin1').replaceAll('\0', '');
  views.close();
  return found;
}

describe('a RAM disk in shared memory', () => {
  it('is a file of its own that stays when the daemon ends, and has its content for the next one', async () => {
    await create();
    expect(statSync(PATH)).toMatchObject({ size: MIB, mode: 0o100600 });
    // Every page is there.
    expect(statSync(PATH).blocks * 512).toBeGreaterThanOrEqual(MIB);
    touch(MIB - 8, 'the end');
    const call = registry.get('A').bdev.toConfig();
    expect(call).toMatchObject({ params: { shm_name: NAME } });
    expect(registry.get('A').bdev.driverSpecific()).toEqual({ shm: { name: NAME, path: PATH } });
    await stop();
    expect(readFileSync(PATH).subarray(-8).toString('latin1')).toBe('the end\0');
    await create();
    expect(touch(MIB - 8)).toBe('the end');
    expect(registry.get('A').bdev.toConfig()).toMatchObject({ method: 'bdev_malloc_create' });
  });

  it('reads zeroes where it was unmapped, of any size', async () => {
    const memory = await SharedMemory.open(NAME, MIB);
    const budget = new MemoryBudget(MIB);
    const rig = new DiskRig(new MallocBdev({ name: 'Z', blockCount: 2048, blockSizeBytes: 512, memory }, budget));
    try {
      const whole = [{ offset: 0, length: MIB }];
      rig.guest.fill(0xab, 0, MIB);
      await rig.run(IoType.write, 0, 2048, whole);
      await rig.run(IoType.unmap, 8, 1024);
      await rig.run(IoType.writeZeroes, 1040, 1);
      await rig.run(IoType.read, 0, 2048, whole);
      const isZero = (block: number): boolean =>
        rig.guest.subarray(block * 512, (block + 1) * 512).every((b) => b === 0);
      const zeroes = Array.from({ length: 2048 }, (_, block) => block).filter(isZero);
      expect(zeroes).toEqual([...Array.from({ length: 1024 }, (_, i) => 8 + i), 1040]);
    } finally {
      await rig.close();
    }
  });

  it('is gone when an operator deletes it', async () => {
    await create();
    await rpc.bdev_malloc_delete({ name: 'A' }, context);
    expect(existsSync(PATH)).toBe(false);
    await create();
    await bdevRpc(registry).delete_bdev({ name: 'A' }, context);
    expect(existsSync(PATH)).toBe(false);
  });

  it('grows, with zeroes, and keeps what was there; it does not shrink', async () => {
    await create();
    touch(0, 'begin');
    await rpc.bdev_malloc_resize({ name: 'A', new_size: 3 }, context);
    expect([statSync(PATH).size, touch(0), touch(3 * MIB - 8)]).toEqual([3 * MIB, 'begin', '']);
    touch(3 * MIB - 8, 'new end');
    await expect(rpc.bdev_malloc_resize({ name: 'A', new_size: 2 }, context)).rejects.toMatchObject({ code: 'EINVAL' });
    await stop();
    // A daemon that was killed before it had kept the new size comes back with the old one: nothing is cut off.
    await create();
    expect([statSync(PATH).size, registry.get('A').bdev.blockCount]).toEqual([3 * MIB, 2048]);
    await Promise.all([4, 5, 6].map((size) => rpc.bdev_malloc_resize({ name: 'A', new_size: size }, context)));
    expect([touch(0), touch(3 * MIB - 8), statSync(PATH).size]).toEqual(['begin', 'new end', 6 * MIB]);
  });

  it('belongs to one disk at a time', async () => {
    await create();
    await expect(create({ name: 'B' })).rejects.toMatchObject({ code: 'EBUSY' });
    await expect(create({ name: 'A', shm_name: `${NAME}-2` })).rejects.toMatchObject({ code: 'EEXIST' });
    rmSync(`${PATH}-2`, { force: true });
    expect(registry.list()).toHaveLength(1);
  });

  it('is not one that others can read, and not what a link leads to', async () => {
    writeFileSync(PATH, 'x');
    chmodSync(PATH, 0o644);
    await expect(create()).rejects.toMatchObject({ code: 'EACCES' });
    expect(readFileSync(PATH, 'utf8')).toBe('x');
    rmSync(PATH);
    symlinkSync('/etc/hostname', PATH);
    await expect(create()).rejects.toThrow(`cannot use the memory ${PATH}`);
  });

  it('that does not fit is refused, and nothing is left of it', async () => {
    rpc = mallocRpc(registry, new MemoryBudget(MIB / 2));
    await expect(create()).rejects.toMatchObject({ code: 'ENOMEM' });
    await stop();
  });

  it.each(['', '.', '../x', 'a/b', 'a b', 'x'.repeat(201)])('cannot be called %j', (shm_name) => {
    const { params } = METHODS.bdev_malloc_create;
    expect(params.safeParse({ num_blocks: 8, block_size: 512, shm_name }).success).toBe(false);
  });
});
