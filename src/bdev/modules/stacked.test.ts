/** Bdevs over bdevs: what delay, error and pass-through disks do to the requests of the disk under them. */
import { afterEach, describe, expect, it } from 'vitest';
import { DiskRig } from '../../../test/support/disk-rig.ts';
import type { RpcContext } from '../../rpc/methods.ts';
import { IovArena } from '../../sys/iov-arena.ts';
import { ChannelTable } from '../../vhost/channel-table.ts';
import type { Bdev } from '../bdev.ts';
import { IoStatus, IoType } from '../bdev-io.ts';
import { type BdevEntry, BdevRegistry } from '../registry.ts';
import { delayRpc } from './delay/delay.rpc.ts';
import { DelayBdev } from './delay/delay.ts';
import { errorRpc } from './error/error.rpc.ts';
import { ErrorBdev } from './error/error.ts';
import { FAULT_TABLE_BYTES, Fault, type FaultRule, FaultTable } from './error/rules.ts';
import { MallocBdev, MemoryBudget } from './malloc/malloc.ts';
import { passthruRpc } from './passthru/passthru.rpc.ts';
import { PassthruBdev } from './passthru/passthru.ts';

const { success, failed, aborted } = IoStatus;
const BLOCKS = 1000;
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
const rigs: DiskRig[] = [];

afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
});

function malloc(registry: BdevRegistry, name = 'Base'): BdevEntry {
  const budget = new MemoryBudget(Number.POSITIVE_INFINITY);
  return registry.create(
    name,
    undefined,
    () => new MallocBdev({ name, blockCount: BLOCKS, blockSizeBytes: 512 }, budget),
  );
}

function rigOver<B extends Bdev>(make: (base: BdevEntry) => B): { rig: DiskRig; bdev: B; base: BdevEntry } {
  const registry = new BdevRegistry(1);
  const base = malloc(registry);
  const bdev = make(base);
  const rig = new DiskRig(bdev, undefined, registry);
  rigs.push(rig);
  return { rig, bdev, base };
}

const block = (rig: DiskRig, value: number) => {
  rig.guest.fill(value, 0, 512);
  return [{ offset: 0, length: 512 }];
};

describe('a pass-through disk', () => {
  it('grows with the disk under it', async () => {
    const { rig, base } = rigOver((entry) => new PassthruBdev({ name: 'Pass', base: entry }));
    expect(await rig.run(IoType.read, BLOCKS, 1, block(rig, 0))).toBe(failed);
    (base.bdev as MallocBdev).resize(2 * BLOCKS);
    await rig.registry.changed(base);
    expect(await rig.run(IoType.read, BLOCKS, 1, block(rig, 0))).toBe(success);
    expect(rig.entry.sizeBytes).toBe(2 * BLOCKS * 512);
  });

  it('has the same UUID whenever it is made over the same disk, and is described by the call that makes it', () => {
    const base = malloc(new BdevRegistry(1));
    const [one, two] = [new PassthruBdev({ name: 'P', base }), new PassthruBdev({ name: 'P', base })];
    expect(one.uuid).toBe(two.uuid);
    expect(one.toConfig()).toEqual({
      method: 'bdev_passthru_create',
      params: { base_bdev_name: 'Base', name: 'P', uuid: one.uuid },
    });
  });
});

describe('a delay disk', () => {
  const latency = (us: number) => (base: BdevEntry) =>
    new DelayBdev({ name: 'Slow', base, latenciesUs: [us, us, 0, 0] });

  it('holds reads back for as long as it was told, and nothing else', async () => {
    const { rig } = rigOver(latency(20_000));
    const start = performance.now();
    expect(await rig.run(IoType.write, 0, 1, block(rig, 7))).toBe(success);
    expect(await rig.run(IoType.writeZeroes, 1, 1)).toBe(success);
    const reads = [0, 1, 2].map((i) => rig.submit(IoType.read, i, 1, [{ offset: 512, length: 512 }]));
    expect(await rig.polled(Promise.all(reads))).toEqual([success, success, success]);
    expect(performance.now() - start).toBeGreaterThan(19);
  });

  it('lets waiting requests go when the disk goes', async () => {
    const { rig } = rigOver(latency(3_600_000_000));
    const read = rig.submit(IoType.read, 0, 1, block(rig, 0));
    await rig.polled(rig.channel.remove());
    expect(await read).toBe(success);
  });

  it('takes new latencies for what comes', async () => {
    const { rig, bdev } = rigOver(latency(3_600_000_000));
    bdev.setLatency(0, 0);
    bdev.setLatency(1, 0);
    expect(await rig.run(IoType.read, 0, 1, block(rig, 0))).toBe(success);
    expect(bdev.toConfig().params).toMatchObject({ avg_read_latency: 0, p99_read_latency: 0, base_bdev_name: 'Base' });
  });
});

const RULE: FaultRule = {
  types: [IoType.read],
  fault: Fault.failure,
  count: 1000,
  queueDepth: 0,
  firstBlock: 0,
  endBlock: Number.POSITIVE_INFINITY,
  nth: 1,
  probability: 1,
  seed: 0,
  corruptOffset: 0,
  corruptValue: 0,
};

describe('the faults of an error disk', () => {
  const table = (...rules: Partial<FaultRule>[]): FaultTable => {
    const faults = new FaultTable(new SharedArrayBuffer(FAULT_TABLE_BYTES));
    for (const rule of rules) expect(faults.add({ ...RULE, ...rule })).toBe(true);
    return faults;
  };
  const strikes = (faults: FaultTable, count: number): boolean[] =>
    Array.from({ length: count }, () => faults.strike(IoType.read, 10, 2, 0) !== Fault.none);

  it('strike as often as they say', () => {
    expect(strikes(table({ count: 2 }), 4)).toEqual([true, true, false, false]);
    expect(strikes(table({ count: 0 }), 1)).toEqual([false]);
    expect(strikes(table({ nth: 3 }), 6)).toEqual([false, false, true, false, false, true]);
  });

  it('strike by type, block and requests in flight', () => {
    const faults = table({ firstBlock: 11, endBlock: 12, queueDepth: 3 });
    const at = (type: IoType, first: number, count: number, inFlight = 3): Fault =>
      faults.strike(type, first, count, inFlight);
    expect([at(IoType.read, 11, 1), at(IoType.read, 0, 12), at(IoType.read, 0, 1000)]).toEqual([1, 1, 1]);
    expect([
      at(IoType.read, 0, 11),
      at(IoType.read, 12, 5),
      at(IoType.write, 11, 1),
      at(IoType.read, 11, 1, 2),
    ]).toEqual([0, 0, 0, 0]);
  });

  it('strike by chance as the seed has it, every time the same', () => {
    const runs = [5, 5, 6].map((seed) => strikes(table({ probability: 0.25, seed }), 1000));
    expect(runs[0]).toEqual(runs[1]);
    expect(runs[0]).not.toEqual(runs[2]);
    for (const run of runs) {
      const struck = run.filter((isStruck) => isStruck).length;
      expect(struck).toBeGreaterThan(180);
      expect(struck).toBeLessThan(320);
    }
  });

  it('are replaced by those for the same requests, and dropped together', () => {
    const faults = table({ endBlock: 5 }, { fault: Fault.pending }, { count: 1 });
    expect(strikes(faults, 2)).toEqual([true, false]);
    expect(faults.strike(IoType.read, 0, 1, 0)).toBe(Fault.failure);
    faults.clear();
    expect(faults.strike(IoType.read, 0, 1, 0)).toBe(Fault.none);
    for (let i = 0; i < 64; i++) expect(faults.add({ ...RULE, firstBlock: i })).toBe(true);
    expect(faults.add({ ...RULE, firstBlock: 64 })).toBe(false);
  });
});

describe('an error disk', () => {
  const errorRig = (...rules: Partial<FaultRule>[]) => {
    const made = rigOver((base) => new ErrorBdev({ name: 'EE_Base', base }));
    for (const rule of rules) made.bdev.inject({ ...RULE, ...rule });
    return made;
  };

  it('fails what it was told to, before the disk under it hears of it', async () => {
    const { rig } = errorRig({ types: [IoType.write], count: 1 });
    expect(await rig.run(IoType.write, 3, 1, block(rig, 9))).toBe(failed);
    expect(await rig.run(IoType.read, 3, 1, block(rig, 1))).toBe(success);
    expect(rig.guest[0]).toBe(0);
    expect(await rig.run(IoType.write, 3, 1, block(rig, 9))).toBe(success);
  });

  it('corrupts one byte of what is read', async () => {
    const { rig } = errorRig({ fault: Fault.corruptData, count: 1, corruptOffset: 600, corruptValue: 0x81 });
    const segments = [
      { offset: 0, length: 100 },
      { offset: 1000, length: 924 },
    ];
    expect(await rig.run(IoType.read, 0, 2, segments)).toBe(success);
    const found = rig.gather(segments);
    expect(found[600]).toBe(0x81);
    expect(found.filter((byte) => byte !== 0)).toHaveLength(1);
    expect(await rig.run(IoType.read, 0, 2, segments)).toBe(success);
    expect(rig.gather(segments).every((byte) => byte === 0)).toBe(true);
  });

  it('corrupts one byte of what is written, and leaves the guest its own', async () => {
    const { rig } = errorRig({
      types: [IoType.write],
      fault: Fault.corruptData,
      count: 200,
      corruptOffset: 511,
      corruptValue: 1,
    });
    for (let i = 0; i < 200; i++) expect(await rig.run(IoType.write, 0, 1, block(rig, 0x20))).toBe(success);
    expect(rig.guest[511]).toBe(0x20);
    expect(await rig.run(IoType.read, 0, 1, block(rig, 0))).toBe(success);
    expect([...rig.guest.subarray(0, 511)].every((byte) => byte === 0x20)).toBe(true);
    expect(rig.guest[511]).toBe(0x21);
  });

  it('holds requests back until they are let go on, or the disk goes', async () => {
    const { rig, bdev } = errorRig({ fault: Fault.pending, count: 2 });
    const first = rig.submit(IoType.read, 0, 1, block(rig, 5));
    expect(await rig.run(IoType.write, 1, 1, block(rig, 5))).toBe(success);
    expect(rig.inFlight).toBe(1);
    bdev.faults.resume();
    await rig.registry.changed(rig.entry);
    expect(await rig.polled(first)).toBe(success);
    const second = rig.submit(IoType.read, 0, 1, block(rig, 5));
    await rig.polled(rig.channel.remove());
    expect(await second).toBe(aborted);
  });
});

describe('the channels of stacked bdevs', () => {
  it('abandon what they share when the last of them goes, and close it then', () => {
    const registry = new BdevRegistry(1);
    const base = malloc(registry);
    const [one, two] = ['One', 'Two'].map((name) => {
      const bdev = new PassthruBdev({ name, base });
      return registry.create(name, undefined, () => bdev, { bases: [base], holder: 'both' });
    }) as [BdevEntry, BdevEntry];
    const arena = new IovArena(1, 1);
    const drives = new Set<unknown>();
    const host = { addDrive: drives.add.bind(drives), removeDrive: drives.delete.bind(drives) };
    const table = new ChannelTable(host as never, 0, { arena });
    const tops = [table.take(one.describe()), table.take(two.describe())];
    const below = table.find(base.id);
    let abandons = 0;
    if (below !== undefined) below.abandon = () => void abandons++;
    expect(drives.size).toBe(3);
    tops[0]?.abandon();
    expect(abandons).toBe(0);
    tops[1]?.abandon();
    expect(abandons).toBe(1);
    for (const top of tops) table.release(top);
    expect([drives.size, table.find(base.id)]).toEqual([0, undefined]);
    arena.close();
  });
});

describe('the calls of stacked bdevs', () => {
  const setUp = () => {
    const registry = new BdevRegistry(1);
    malloc(registry);
    const rpc = { ...passthruRpc(registry), ...delayRpc(registry), ...errorRpc(registry) };
    return { registry, rpc };
  };
  const LATENCIES = { avg_read_latency: 1, p99_read_latency: 2, avg_write_latency: 3, p99_write_latency: 4 };
  const INJECT = { num: 1, queue_depth: 0, corrupt_offset: 0, corrupt_value: 0, nth: 1, probability: 1, seed: 0 };

  it('make a tower, and take it down from any floor', async () => {
    const { registry, rpc } = setUp();
    expect(await rpc.bdev_passthru_create({ base_bdev_name: 'Base', name: 'P' }, context)).toBe('P');
    expect(await rpc.bdev_delay_create({ base_bdev_name: 'P', name: 'D', ...LATENCIES }, context)).toBe('D');
    expect(await rpc.bdev_error_create({ base_name: 'D' }, context)).toBe(true);
    expect(registry.list().map(({ name, holder }) => [name, holder])).toEqual([
      ['Base', 'P'],
      ['P', 'D'],
      ['D', 'EE_D'],
      ['EE_D', null],
    ]);
    expect(() => rpc.bdev_error_create({ base_name: 'P' }, context)).toThrow(
      expect.objectContaining({ code: 'EPERM' }),
    );
    await rpc.bdev_passthru_delete({ name: 'P' }, context);
    expect(registry.list().map(({ name }) => name)).toEqual(['Base']);
    await registry.delete(registry.get('Base'));
  });

  it('refuse bdevs of other kinds, and bytes that would not change', async () => {
    const { registry, rpc } = setUp();
    await expect(rpc.bdev_delay_delete({ name: 'Base' }, context)).rejects.toThrow(
      'is a Malloc disk, not a delay disk',
    );
    await rpc.bdev_error_create({ base_name: 'Base' }, context);
    const call = { name: 'EE_Base', io_type: 'all', ...INJECT } as const;
    expect(() => rpc.bdev_error_inject_error({ ...call, error_type: 'corrupt_data' }, context)).toThrow('XORed with 0');
    expect(
      await rpc.bdev_error_inject_error({ ...call, error_type: 'nomem', lba_start: 1, lba_count: 2 }, context),
    ).toBe(true);
    const { faults } = registry.get('EE_Base').bdev as ErrorBdev;
    expect([0, 1, 2, 3].map((at) => faults.strike(IoType.unmap, at, 1, 0))).toEqual([0, 1, 0, 0]);
    expect(await rpc.bdev_error_inject_error({ ...call, io_type: 'clear', error_type: 'failure' }, context)).toBe(true);
    await rpc.bdev_error_delete({ name: 'EE_Base' }, context);
    await registry.delete(registry.get('Base'));
  });
});
