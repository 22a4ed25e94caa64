/** RAID disks: what they are made of, how they fail, grow and go. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DiskRig } from '../../../../test/support/disk-rig.ts';
import { MainThreadIo } from '../../../../test/support/main-thread-io.ts';
import { METHODS, type RpcContext } from '../../../rpc/methods.ts';
import { checkParams } from '../../../rpc/params.ts';
import { NO_LIST } from '../../../sys/iov-arena.ts';
import { GUEST_IO_TYPES, IoStatus, IoType, NO_WAKE_FD, WOKEN_FROM_BELOW } from '../../bdev-io.ts';
import { BdevRegistry } from '../../registry.ts';
import { ErrorBdev } from '../error/error.ts';
import { Fault } from '../error/rules.ts';
import { MallocBdev, MemoryBudget } from '../malloc/malloc.ts';
import { raidOptionsConfig, raidRpc } from './raid.rpc.ts';
import { RaidBdev } from './raid.ts';

const { success, failed } = IoStatus;
const MIRROR = { raid_level: 'raid1' };
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
const budget = new MemoryBudget(Number.POSITIVE_INFINITY);

let registry: BdevRegistry;
let io: MainThreadIo;
let rpc: ReturnType<typeof raidRpc>;

beforeEach(() => {
  registry = new BdevRegistry(1);
  io = new MainThreadIo(registry);
  rpc = raidRpc(io);
});
afterEach(async () => {
  for (const entry of registry.list().toReversed()) await registry.delete(entry);
  io.close();
});

function disk(name: string, blockCount: number, blockSizeBytes = 512) {
  return registry.create(name, undefined, () => new MallocBdev({ name, blockCount, blockSizeBytes }, budget));
}

async function create(params: object): Promise<unknown> {
  const checked = checkParams(METHODS.bdev_raid_create, { name: 'R', raid_level: 'raid0', ...params });
  if (!checked.ok) throw new Error(checked.error.data?.detail);
  return await rpc.bdev_raid_create(checked.params as never, context);
}

const blocksOf = (name: string): number => registry.get(name).bdev.blockCount;

describe('bdev_raid_create', () => {
  it('uses whole strips: of raid0 as many as the smallest base has, of concat all', async () => {
    disk('A', 100);
    disk('B', 260);
    expect(await create({ base_bdevs: ['A', 'B'], strip_size_kb: 8 })).toBe(true);
    expect(blocksOf('R')).toBe(2 * 96);
    expect(rpc.bdev_raid_get_bdevs({ category: 'online' }, context)).toMatchObject([
      {
        ...{ name: 'R', raid_level: 'raid0', strip_size_kb: 8, num_base_bdevs: 2 },
        base_bdevs_list: [
          { name: 'A', data_size: 96 },
          { name: 'B', data_size: 96 },
        ],
      },
    ]);
    expect(rpc.bdev_raid_get_bdevs({ category: 'offline' }, context)).toEqual([]);
  });

  it('puts bases behind one another, and saves how much of each is used', async () => {
    disk('A', 100);
    disk('B', 260);
    await create({ base_bdevs: ['A', 'B'], strip_size_kb: 8, raid_level: 'concat' });
    expect(blocksOf('R')).toBe(96 + 256);
    const { params } = (registry.get('R').bdev as RaidBdev).toConfig();
    expect(params).toMatchObject({ raid_level: 'concat', base_bdevs: ['A', 'B'], base_blocks: [96, 256] });
    await rpc.bdev_raid_delete({ name: 'R', clear_sb: false }, context);
    // Meanwhile the first has grown.
    (registry.get('A').bdev as MallocBdev).resize(500);
    await create(params);
    expect(blocksOf('R')).toBe(96 + 256);
  });

  it.each([
    ['bases with blocks of several sizes', { base_bdevs: ['A', 'K'] }, /"A" has blocks of 512 bytes, "K" of 4096/],
    ['a base that is smaller than a strip', { base_bdevs: ['A', 'S'] }, /"S" is smaller than a strip of 64 KiB/],
    ['a base twice', { base_bdevs: ['A', 'A'] }, /named twice/],
    ['a base that is not there', { base_bdevs: ['A', 'none'] }, /there is no bdev "none"/],
    ['no base', { base_bdevs: [] }, /base_bdevs/],
    ['strips that are no power of two', { base_bdevs: ['A'], strip_size_kb: 12 }, /power of two/],
    ['strips smaller than a block', { base_bdevs: ['K'], strip_size_kb: 2 }, /smaller than a block/],
    ['raid5f', { base_bdevs: ['A'], raid_level: 'raid5f' }, /raid5f is not served: use raid1, raid0 or concat/],
    ['a superblock of raid0', { base_bdevs: ['A'], superblock: true }, /raid0 is served without superblocks only/],
    ['places of raid0', { base_bdevs: ['A'], num_base_bdevs: 2 }, /raid0 needs all of its bases/],
    ['a mirror with too few places', { ...MIRROR, base_bdevs: ['A', 'S'], num_base_bdevs: 1 }, /num_base_bdevs is 1/],
    [
      'a mirror of several block sizes',
      { ...MIRROR, base_bdevs: ['A', 'K'] },
      /"A" has blocks of 512 bytes, "K" of 4096/,
    ],
    [
      'a mirror of a base that is not there',
      { ...MIRROR, base_bdevs: ['A', 'none'] },
      /"none": for a mirror that begins/,
    ],
    [
      'a base that is too small',
      { ...MIRROR, base_bdevs: ['A', 'S'], superblock: true },
      /too small: the superblock takes/,
    ],
    ['blocks of raid0 bases', { base_bdevs: ['A'], base_blocks: [128] }, /base_blocks is for concat/],
    ['too few numbers', { base_bdevs: ['A'], raid_level: 'concat', base_blocks: [1, 2] }, /2 numbers for 1 bases/],
    ['more than there is', { base_bdevs: ['A'], raid_level: 'concat', base_blocks: [2049] }, /2048 blocks: 2049/],
  ] as const)('refuses %s', async (_, params, message) => {
    disk('A', 2048);
    disk('K', 256, 4096);
    disk('S', 100);
    await expect(create(params)).rejects.toThrow(message);
    expect(registry.list().map(({ name, holder }) => [name, holder])).toEqual([
      ['A', null],
      ['K', null],
      ['S', null],
    ]);
  });

  it('claims its bases together', async () => {
    disk('A', 2048);
    disk('B', 2048);
    await create({ base_bdevs: ['A', 'B'] });
    await expect(create({ name: 'Q', base_bdevs: ['B'] })).rejects.toThrow(/claimed by "R"/);
    expect(registry.find('Q')).toBeUndefined();
  });
});

describe('the calls of a mirror', () => {
  it('make, show, change and save it', async () => {
    for (const name of ['A', 'B', 'C']) disk(name, 8192);
    await create({ ...MIRROR, base_bdevs: ['A', 'B'], superblock: true });
    const until = async (operational: number): Promise<void> => {
      const info = () =>
        rpc.bdev_raid_get_bdevs({ category: 'all' }, context) as { num_base_bdevs_operational: number }[];
      while (info()[0]?.num_base_bdevs_operational !== operational)
        await new Promise((resolve) => setTimeout(resolve, 1));
    };
    await until(2);
    expect(await rpc.bdev_raid_get_bdevs({ category: 'all' }, context)).toMatchObject([
      {
        ...{ name: 'R', state: 'online', raid_level: 'raid1', superblock: true, num_base_bdevs: 2 },
        base_bdevs_list: [
          { name: 'A', state: 'in_sync', data_offset: 2048, data_size: 6144 },
          { name: 'B', state: 'in_sync' },
        ],
      },
    ]);
    await expect(rpc.bdev_raid_remove_base_bdev({ name: 'C' }, context)).rejects.toThrow(/"C" is no leg/);
    await rpc.bdev_raid_remove_base_bdev({ name: 'A' }, context);
    await rpc.bdev_raid_add_base_bdev({ raid_bdev: 'R', base_bdev: 'C' }, context);
    await until(2);
    const saved = registry.get('R').bdev.toConfig();
    const { uuid } = registry.get('R').bdev;
    const params = { name: 'R', uuid, raid_level: 'raid1', superblock: true, base_bdevs: ['C', 'B'] };
    expect(saved).toEqual({ method: 'bdev_raid_create', params });
    await rpc.bdev_raid_delete({ name: 'R', clear_sb: false }, context);
    await create(params);
    expect(registry.get('R').bdev.driverSpecific()).toMatchObject({ raid: { num_base_bdevs_operational: 2 } });
  });

  it('limit what rebuilding takes', async () => {
    for (const name of ['A', 'B']) disk(name, 8192);
    await rpc.bdev_raid_set_options({ process_max_bandwidth_mb_sec: 1 }, context);
    expect(raidOptionsConfig(io.options)).toHaveLength(1);
    await create({ ...MIRROR, base_bdevs: ['A', 'B'] });
    expect(io.jobs.list()[0]?.control.bytesPerSec).toBe(2 ** 20);
    expect(await rpc.bdev_raid_get_bdevs({ category: 'all' }, context)).toMatchObject([
      { process: { type: 'rebuild', target: 'B', progress: {} }, num_base_bdevs_operational: 1 },
    ]);
  });
});

describe('a RAID disk', () => {
  it('goes when one of its bases goes, and leaves the others', async () => {
    disk('A', 2048);
    disk('B', 2048);
    await create({ base_bdevs: ['A', 'B'] });
    await registry.delete(registry.get('A'));
    expect(registry.list().map(({ name, holder }) => [name, holder])).toEqual([['B', null]]);
  });

  it('grows, as raid0, when all of its bases have grown', async () => {
    const bases = [disk('A', 2048), disk('B', 2048)];
    const rig = new DiskRig(new RaidBdev({ name: 'R', level: 'raid0', bases, stripKib: 64 }), undefined, registry);
    for (const [i, base] of bases.entries()) {
      (base.bdev as MallocBdev).resize(4096);
      await registry.changed(base);
      expect(rig.blocks).toBe(i === 0 ? 4096 : 8192);
    }
    expect(await rig.run(IoType.write, 8191, 1, [{ offset: 0, length: 512 }])).toBe(success);
    await rig.close();
  });

  it('ends a request once, with an error, when a base fails a piece of it', async () => {
    const base = disk('A', 2048);
    const bad = new ErrorBdev({ name: 'EE_A', base });
    bad.inject({
      ...{ types: GUEST_IO_TYPES, fault: Fault.failure, count: 3, queueDepth: 0, nth: 1, probability: 1 },
      ...{ seed: 0, firstBlock: 256, endBlock: 257, corruptOffset: 0, corruptValue: 0 },
    });
    const bases = [registry.create('EE_A', undefined, () => bad, { bases: [base] }), disk('B', 2048)];
    const raid = new RaidBdev({ name: 'R', level: 'raid0', bases, stripKib: 64 });
    const rig = new DiskRig(raid, undefined, registry, bases);
    const all = [{ offset: 0, length: 4096 * 512 }];
    for (const type of [IoType.read, IoType.write]) expect(await rig.run(type, 0, 4096, all)).toBe(failed);
    expect(await rig.run(IoType.unmap, 0, 4096)).toBe(failed);
    for (const type of [IoType.read, IoType.write]) expect(await rig.run(type, 0, 4096, all)).toBe(success);
    await rig.close();
  });

  it('stays awake while others have all segment lists, and goes on when there are some', async () => {
    const bases = [disk('A', 2048), disk('B', 2048)];
    const rig = new DiskRig(new RaidBdev({ name: 'R', level: 'raid0', bases, stripKib: 4 }), undefined, registry);
    const taken: number[] = [];
    for (let list = rig.arena.takeLong(); list !== NO_LIST; list = rig.arena.takeLong()) taken.push(list);
    // For the request itself.
    rig.arena.release(taken.pop() as number);
    const segments = Array.from({ length: 1024 }, (_, i) => ({ offset: i * 512, length: 512 }));
    rig.guest.fill(7);
    const write = rig.submit(IoType.write, 0, 1024, segments);
    for (let i = 0; i < 10; i++) rig.poll();
    expect([rig.inFlight, rig.channel.wakeFd]).toEqual([1, NO_WAKE_FD]);
    for (const list of taken) rig.arena.release(list);
    expect(await rig.polled(write)).toBe(success);
    expect(rig.channel.wakeFd).toBe(WOKEN_FROM_BELOW);
    rig.guest.fill(0);
    expect(await rig.run(IoType.read, 0, 1024, segments)).toBe(success);
    expect(rig.guest.subarray(0, 1024 * 512).every((byte) => byte === 7)).toBe(true);
    await rig.close();
  });
});
