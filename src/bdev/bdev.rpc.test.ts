/** The calls that every kind of bdev has: listing, waiting for one, counters, deletion. */
import { beforeEach, describe, expect, it } from 'vitest';
import { turns } from '../../test/support/waiting.ts';
import { METHODS, type Params, type RpcContext } from '../rpc/methods.ts';
import { STAMP_NS } from '../sys/thread.ts';
import { bdevRpc, TICK_RATE } from './bdev.rpc.ts';
import { IoType } from './bdev-io.ts';
import { StatsRow } from './bdev-stats.ts';
import { NullBdev } from './modules/null/null.ts';
import { type BdevEntry, BdevRegistry } from './registry.ts';

const UUID = '4bdc0aa3-6a6d-4d4f-8a7d-6e2ea5c6b5d1';

let registry: BdevRegistry;
let rpc: ReturnType<typeof bdevRpc>;
let controller: AbortController;
let context: RpcContext;

beforeEach(() => {
  registry = new BdevRegistry(2);
  rpc = bdevRpc(registry);
  controller = new AbortController();
  context = { signal: controller.signal, calledAs: 'test', connection: 1 };
});

function create(name: string, uuid?: string): BdevEntry {
  return registry.create(name, uuid, () => new NullBdev({ name, blockCount: 8, blockSizeBytes: 512, uuid }));
}

const list = (name?: string, timeout = 0) => rpc.bdev_get_bdevs({ name, timeout }, context);

describe('bdev_get_bdevs', () => {
  it('lists all, in the order of creation, in the form of the table', async () => {
    create('B', UUID);
    create('A');
    const result = await list();
    expect(result.map(({ name }) => name)).toEqual(['B', 'A']);
    expect(METHODS.bdev_get_bdevs.result.parse(result)).toEqual(result);
    expect(result[0]).toMatchObject({
      name: 'B',
      aliases: [UUID],
      uuid: UUID,
      product_name: 'Null disk',
      num_blocks: 8,
    });
    expect(result[0]?.supported_io_types).toMatchObject({
      read: true,
      write: true,
      unmap: false,
      flush: true,
      reset: false,
    });
  });

  it('finds one by name or UUID, or says that there is none', async () => {
    create('A', UUID);
    expect((await list('A')).map(({ name }) => name)).toEqual(['A']);
    expect((await list(UUID.toUpperCase())).map(({ name }) => name)).toEqual(['A']);
    await expect(list('B')).rejects.toMatchObject({ code: 'ENODEV' });
    expect(await list()).toHaveLength(1);
  });

  it('waits for one to appear, and is not misled by another', async () => {
    const waiting = list('Late', 60_000);
    create('Other');
    await turns();
    create('Late');
    expect((await waiting).map(({ name }) => name)).toEqual(['Late']);
    expect(registry.listenerCount('created')).toBe(0);
  });

  it('answers at once when it is there already', async () => {
    create('A');
    expect(await list('A', 60_000)).toHaveLength(1);
  });

  it('gives up when the time is over or the client is gone', async () => {
    await expect(list('Never', 1)).rejects.toMatchObject({ code: 'ENODEV' });
    const waiting = list('Never', Number.MAX_SAFE_INTEGER);
    controller.abort();
    await expect(waiting).rejects.toMatchObject({ code: 'ENODEV' });
    expect(registry.listenerCount('created')).toBe(0);
  });

  it('gives up at once for a client that is gone already', async () => {
    controller.abort();
    await expect(list('Never', 60_000)).rejects.toMatchObject({ code: 'ENODEV' });
  });
});

describe('bdev_get_iostat', () => {
  const iostat = (params: Partial<Params<'bdev_get_iostat'>> = {}) =>
    rpc.bdev_get_iostat({ per_channel: false, reset_mode: 'none', ...params }, context);

  function count(entry: BdevEntry, reactor: number): void {
    const row = new StatsRow(entry.stats, reactor);
    row.add(IoType.read, 4096, false);
    row.add(IoType.read, 512, false);
    row.add(IoType.write, 1024, false);
    row.add(IoType.unmap, 2048, false);
    row.add(IoType.writeZeroes, 8192, true);
    row.add(IoType.write, 99, true);
  }

  const COUNTED = {
    num_read_ops: 2,
    bytes_read: 4608,
    num_write_ops: 1,
    bytes_written: 1024,
    num_unmap_ops: 1,
    bytes_unmapped: 2048,
    io_error: { failed: 2 },
  };

  it('adds up all reactors, of all bdevs or of those that are named', async () => {
    const [a, b] = [create('A'), create('B')];
    count(a, 0);
    count(a, 1);
    count(b, 1);
    const all = await iostat();
    expect(METHODS.bdev_get_iostat.result.parse(all)).toEqual(all);
    const twice = { ...COUNTED, num_read_ops: 4, bytes_read: 9216, io_error: { failed: 4 } };
    expect(all).toMatchObject({
      tick_rate: TICK_RATE,
      bdevs: [
        { name: 'A', num_read_ops: 4, io_error: twice.io_error },
        { name: 'B', ...COUNTED },
      ],
    });
    expect(await iostat({ names: ['B'] })).toMatchObject({ bdevs: [{ name: 'B' }] });
    expect(await iostat({ name: 'A' })).toMatchObject({ bdevs: [{ name: 'A' }] });
    expect(() => iostat({ names: ['A', 'C'] })).toThrow(expect.objectContaining({ code: 'ENODEV' }));
  });

  it('shows nothing where nothing happened', async () => {
    create('A');
    expect(await iostat()).toMatchObject({ bdevs: [{ num_read_ops: 0, bytes_written: 0, io_error: {} }] });
  });

  it('shows each reactor apart, of one bdev', async () => {
    const a = create('A');
    create('B');
    count(a, 1);
    const result = await iostat({ name: 'A', per_channel: true });
    expect(METHODS.bdev_get_iostat.result.parse(result)).toEqual(result);
    expect(result).toMatchObject({
      name: 'A',
      channels: [
        { thread_id: 1, num_read_ops: 0 },
        { thread_id: 2, ...COUNTED },
      ],
    });
    for (const params of [{}, { names: ['A', 'B'] }, { names: [] }]) {
      expect(() => iostat({ ...params, per_channel: true })).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
  });

  it('counts from 0 again after a reset of all, of these bdevs only', async () => {
    const [a, b] = [create('A'), create('B')];
    count(a, 0);
    count(b, 0);
    expect(await iostat({ name: 'A', reset_mode: 'all' })).toMatchObject({ bdevs: [COUNTED] });
    expect(await iostat()).toMatchObject({ bdevs: [{ num_read_ops: 0, io_error: {} }, COUNTED] });
    count(a, 1);
    expect(await iostat({ name: 'A' })).toMatchObject({ bdevs: [COUNTED] });
    expect(await iostat({ name: 'A', per_channel: true })).toMatchObject({ channels: [{ num_read_ops: 0 }, COUNTED] });
  });

  it('shows how long requests took, of each type together', async () => {
    const entry = create('A');
    const row = new StatsRow(entry.stats, 1);
    for (let i = 0; i < 3; i++) row.add(IoType.read, 512, false);
    row.latencies.add(IoType.read, 700 / STAMP_NS, 3);
    row.add(IoType.unmap, 512, false);
    row.latencies.add(IoType.unmap, 96 / STAMP_NS, 1);
    const before = { read_latency_ticks: 2100, write_latency_ticks: 0, unmap_latency_ticks: 96 };
    expect(await iostat({ reset_mode: 'all' })).toMatchObject({ bdevs: [before] });
    row.add(IoType.read, 512, false);
    row.latencies.add(IoType.read, 1024 / STAMP_NS, 1);
    const after = { read_latency_ticks: 1024, write_latency_ticks: 0, unmap_latency_ticks: 0 };
    expect(await iostat()).toMatchObject({ bdevs: [after] });
  });

  it('does not remember a reset beyond the bdev', async () => {
    count(create('A'), 0);
    await iostat({ reset_mode: 'all' });
    await rpc.delete_bdev({ name: 'A' }, context);
    count(create('A'), 0);
    expect(await iostat()).toMatchObject({ bdevs: [COUNTED] });
  });
});

describe('delete_bdev', () => {
  it('deletes a bdev of any kind, by name or UUID', async () => {
    create('A');
    create('B', UUID);
    expect(await rpc.delete_bdev({ name: 'A' }, context)).toBe(true);
    expect(await rpc.delete_bdev({ name: UUID }, context)).toBe(true);
    expect(registry.list()).toEqual([]);
    await expect(rpc.delete_bdev({ name: 'A' }, context)).rejects.toMatchObject({ code: 'ENODEV' });
  });
});
