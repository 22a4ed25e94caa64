/** What the calls say about latencies and places: of all reactors, and in SPDK's form. */
import { beforeEach, describe, expect, it } from 'vitest';
import { bucketOf } from '../base/log-linear.ts';
import { METHODS, type Params, type RpcContext } from '../rpc/methods.ts';
import { STAMP_NS } from '../sys/thread.ts';
import { IoType } from './bdev-io.ts';
import { REGIONS, StatsRow } from './bdev-stats.ts';
import { latencyRpc } from './latency.rpc.ts';
import { NullBdev } from './modules/null/null.ts';
import { type BdevEntry, BdevRegistry } from './registry.ts';

const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
let registry: BdevRegistry;
let rpc: ReturnType<typeof latencyRpc>;

beforeEach(() => {
  registry = new BdevRegistry(2);
  rpc = latencyRpc(registry);
});

function create(name: string): BdevEntry {
  return registry.create(name, undefined, () => new NullBdev({ name, blockCount: 8, blockSizeBytes: 512 }));
}

/** `weight` requests that took so long. */
function took(entry: BdevEntry, type: IoType, ns: number, weight = 1, reactor = 0): void {
  new StatsRow(entry.stats, reactor).latencies.add(type, Math.round(ns / STAMP_NS), weight);
}

describe('bdev_get_latency', () => {
  it('adds up all reactors, of each type that there was', async () => {
    const entry = create('A');
    create('B');
    for (const reactor of [0, 1]) {
      took(entry, IoType.read, 1_000, 490, reactor);
      took(entry, IoType.read, 200_000, 9, reactor);
      took(entry, IoType.read, 5_000_000, 1, reactor);
    }
    took(entry, IoType.flush, 32, 1);
    const result = await rpc.bdev_get_latency({}, context);
    expect(METHODS.bdev_get_latency.result.parse(result)).toEqual(result);
    const [read, flush] = result.bdevs[0]?.latencies ?? [];
    expect(read).toMatchObject({ type: 'read', count: 1000 });
    for (const [given, exact] of [
      [read?.p50_ns, 1_000],
      [read?.p99_ns, 200_000],
      [read?.p999_ns, 5_000_000],
    ] as const) {
      expect(given).toBeGreaterThanOrEqual(exact - STAMP_NS);
      expect(given).toBeLessThan(exact * 1.035);
    }
    expect(read?.sum_ns).toBeCloseTo(980 * 1_000 + 18 * 200_000 + 2 * 5_000_000, -5);
    expect(flush).toMatchObject({ type: 'flush', buckets: [[32, 1]] });
    expect(result.bdevs[1]).toEqual({ name: 'B', latencies: [] });
    await expect(async () => rpc.bdev_get_latency({ names: ['C'] }, context)).rejects.toMatchObject({ code: 'ENODEV' });
  });
});

describe('bdev_get_regions', () => {
  it('adds up all reactors', async () => {
    const entry = create('A');
    for (const reactor of [0, 1]) new StatsRow(entry.stats, reactor).addPlace(IoType.read, 7, 3);
    new StatsRow(entry.stats, 0).addPlace(IoType.write, REGIONS - 1, 1);
    const result = await rpc.bdev_get_regions({ names: ['A'] }, context);
    expect(METHODS.bdev_get_regions.result.parse(result)).toEqual(result);
    expect(result.bdevs).toEqual([{ name: 'A', regions: REGIONS, reads: [[7, 6]], writes: [[REGIONS - 1, 1]] }]);
  });
});

describe("SPDK's histogram", () => {
  const enable = (params: Partial<Params<'bdev_enable_histogram'>> = {}) =>
    rpc.bdev_enable_histogram({ name: 'A', enable: true, granularity: 7, min_nsec: 0, ...params }, context);

  /** What scripts/histogram.py makes of it: the bounds in ticks of each bucket that is not empty, and its count. */
  async function decoded() {
    const result = await rpc.bdev_get_histogram({ name: 'A' }, context);
    expect(METHODS.bdev_get_histogram.result.parse(result)).toEqual(result);
    const bytes = Buffer.from(result.histogram, 'base64');
    const perRange = 1 << result.granularity;
    expect(bytes.length).toBe((result.max_range - result.min_range + 1) * perRange * 8);
    const found: { lower: number; upper: number; count: number }[] = [];
    for (let at = 0; at < bytes.length / 8; at++) {
      const count = Number(bytes.readBigUInt64LE(at * 8));
      const range = Math.floor(at / perRange) + result.min_range;
      const width = 2 ** Math.max(0, range - 1);
      const lower = (range === 0 ? 0 : 2 ** (range + result.granularity - 1)) + (at % perRange) * width;
      if (count > 0) found.push({ lower, upper: lower + width - 1, count });
    }
    return { ...result, found };
  }

  it('counts what ended since it was begun, where scripts/histogram.py looks for it', async () => {
    const entry = create('A');
    took(entry, IoType.read, 1_000, 5);
    enable();
    took(entry, IoType.read, 80_000, 7);
    took(entry, IoType.write, 48, 2, 1);
    const { found, ...shape } = await decoded();
    expect(shape).toMatchObject({ granularity: 7, bucket_shift: 7, min_range: 0, max_range: 57, tsc_rate: 62_500_000 });
    expect(found.map(({ count }) => count)).toEqual([2, 7]);
    expect(found[0]).toMatchObject({ lower: 3, upper: 3 });
    // 5000 ticks, to the precision of a 32nd.
    expect(found[1]?.lower).toBeGreaterThan(5000 * (1 - 1 / 32));
    expect(found[1]?.upper).toBeLessThan(5000 * (1 + 1 / 32));
  });

  it('may be of one type, and of a part of the latencies only', async () => {
    const entry = create('A');
    enable({ opc: 'write', granularity: 5, min_nsec: 1_000, max_nsec: 1_000_000 });
    took(entry, IoType.read, 5_000, 9);
    for (const [ns, weight] of [
      [16, 1],
      [5_000, 2],
      [1e9, 3],
    ] as const) {
      took(entry, IoType.write, ns, weight);
    }
    const { found, min_range: first, max_range: last } = await decoded();
    // 62 and 62 499 ticks: of 6 and 16 bits, of which 5 are within a range.
    expect([first, last]).toEqual([1, 11]);
    expect(found.map(({ count }) => count)).toEqual([1, 2, 3]);
    expect(found[0]?.lower).toBe(32);
    expect(found[2]?.upper).toBe(2 ** 16 - 1);
  });

  it('lies in the buckets of its own precision as it was counted', async () => {
    const entry = create('A');
    enable({ granularity: 5 });
    for (const ticks of [0, 31, 32, 63, 64, 1000, 123_456, 2 ** 32 - 1]) took(entry, IoType.read, ticks * STAMP_NS);
    const { found } = await decoded();
    for (const [index, ticks] of [0, 31, 32, 63, 64, 1000, 123_456, 2 ** 32 - 1].entries()) {
      const bucket = found[index];
      expect(bucketOf(bucket?.lower ?? -1, 5)).toBe(bucketOf(ticks, 5));
      expect(bucketOf(bucket?.upper ?? -1, 5)).toBe(bucketOf(ticks, 5));
    }
  });

  it('begins anew when it is begun again, and is not there before and after', async () => {
    const entry = create('A');
    expect(() => rpc.bdev_get_histogram({ name: 'A' }, context)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
    enable();
    took(entry, IoType.read, 1_000);
    enable();
    expect((await decoded()).found).toEqual([]);
    enable({ enable: false });
    expect(() => rpc.bdev_get_histogram({ name: 'A' }, context)).toThrow(expect.objectContaining({ code: 'EFAULT' }));
  });

  it('refuses bounds that hold nothing', () => {
    create('A');
    expect(() => enable({ min_nsec: 10, max_nsec: 10 })).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});
