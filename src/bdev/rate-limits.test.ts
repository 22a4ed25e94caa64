/** Limits on what a bdev does in a second: how much passes when, and what waits. */
import { afterEach, describe, expect, it } from 'vitest';
import { DiskRig } from '../../test/support/disk-rig.ts';
import type { RpcContext } from '../rpc/methods.ts';
import { bdevRpc, limitConfig } from './bdev.rpc.ts';
import { IoStatus, IoType } from './bdev-io.ts';
import { MallocBdev, MemoryBudget } from './modules/malloc/malloc.ts';
import { NO_LIMITS, type RateLimits, RateStores, STORES_BYTES, sectorsOf } from './rate-limits.ts';

const { success } = IoStatus;
const NS_PER_MS = 1e6;
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };

describe('stores', () => {
  const setUp = (limits: Partial<RateLimits>) => {
    const time = { ns: 1e12 };
    const stores = new RateStores(new SharedArrayBuffer(STORES_BYTES), () => time.ns);
    stores.set({ ...NO_LIMITS, ...limits });
    /** How many of `tries` requests pass after so many milliseconds more. */
    const passing = (ms: number, tries: number, isWrite = false, bytes = 512): number => {
      time.ns += ms * NS_PER_MS;
      stores.fill();
      let passed = 0;
      for (; passed < tries && stores.isOpen(isWrite); passed++) stores.spend(isWrite, sectorsOf(bytes));
      return passed;
    };
    return { stores, passing };
  };

  it('let a burst pass, and then what the rate allows', () => {
    const { passing } = setUp({ rwIos: 1000, burstMs: 10 });
    expect([passing(0, 20), passing(0, 20), passing(5, 20), passing(1, 20), passing(60_000, 20)]).toEqual([
      10, 0, 5, 1, 10,
    ]);
  });

  it('add up parts of requests', () => {
    const { passing } = setUp({ rwIos: 1500, burstMs: 1 });
    expect([passing(0, 9), passing(1, 9), passing(1, 9), passing(1, 9)]).toEqual([1, 1, 1, 1]);
    const slow = setUp({ rwIos: 500, burstMs: 10 });
    expect([slow.passing(0, 9), ...Array.from({ length: 6 }, () => slow.passing(1, 9))]).toEqual([5, 0, 1, 0, 1, 0, 1]);
  });

  it('count bytes, and let those wait that come after a large request', () => {
    const { passing } = setUp({ rwMebibytes: 1, burstMs: 10 });
    expect(passing(0, 1, false, 2 ** 20)).toBe(1);
    expect([passing(500, 5), passing(490, 5), passing(10, 5)]).toEqual([0, 0, 5]);
  });

  it('have limits of their own for reads and writes', () => {
    const { passing } = setUp({ readMebibytes: 1, burstMs: 1 });
    expect([passing(0, 9, false), passing(0, 9, true)]).toEqual([2, 9]);
    const writes = setUp({ writeMebibytes: 1, burstMs: 1 });
    expect([writes.passing(0, 9, true), writes.passing(0, 9, false)]).toEqual([2, 9]);
  });

  it('know which limit a request uses up most, and for how long', () => {
    const { stores } = setUp({ rwIos: 1000, rwMebibytes: 100, writeMebibytes: 10 });
    const seconds = (isWrite: boolean, bytes: number): number => stores.secondsOf(isWrite, sectorsOf(bytes));
    expect([seconds(false, 512), seconds(false, 2 ** 20), seconds(true, 2 ** 20)]).toEqual([0.001, 0.01, 0.1]);
    expect(setUp({ readMebibytes: 1 }).stores.secondsOf(true, 1)).toBe(0);
  });

  it('are open without limits, and when they are taken away', () => {
    const { stores, passing } = setUp({ rwIos: 1, burstMs: 1 });
    expect(stores.isOn).toBe(true);
    expect([passing(0, 5), passing(1, 5)]).toEqual([1, 0]);
    stores.set(NO_LIMITS);
    expect(stores.isOn).toBe(false);
    expect(passing(0, 1000, true, 2 ** 20)).toBe(1000);
  });
});

describe('a bdev with limits', () => {
  let rig: DiskRig;
  afterEach(async () => await rig.close());

  const setUp = () => {
    const budget = new MemoryBudget(Number.POSITIVE_INFINITY);
    rig = new DiskRig(new MallocBdev({ name: 'Disk', blockCount: 100, blockSizeBytes: 512 }, budget));
    return bdevRpc(rig.registry);
  };
  const read = () => rig.submit(IoType.read, 0, 1, [{ offset: 0, length: 512 }]);

  it('does no more than it may, in the order of the requests, and everything in the end', async () => {
    const rpc = setUp();
    await rpc.bdev_set_qos_limit({ name: 'Disk', rw_ios_per_sec: 100, burst_ms: 10 }, context);
    const ends: number[] = [];
    const start = performance.now();
    const reads = Array.from({ length: 11 }, (_, i) => read().then(() => ends.push(i)));
    expect(await rig.run(IoType.writeZeroes, 5, 1)).toBe(success);
    await rig.polled(Promise.all(reads));
    expect(performance.now() - start).toBeGreaterThan(95);
    expect(ends).toEqual([...ends.keys()]);
  });

  it('lets go of what waits when the limits are taken away, and when the bdev goes', async () => {
    const rpc = setUp();
    await rpc.bdev_set_qos_limit({ name: 'Disk', rw_ios_per_sec: 1, burst_ms: 60_000 }, context);
    const first = Array.from({ length: 70 }, read);
    await rpc.bdev_set_qos_limit({ name: 'Disk', rw_ios_per_sec: 0 }, context);
    expect(new Set(await rig.polled(Promise.all(first)))).toEqual(new Set([success]));
    await rpc.bdev_set_qos_limit({ name: 'Disk', rw_mbytes_per_sec: 1, burst_ms: 1 }, context);
    const second = Array.from({ length: 5000 / 50 }, read);
    await rig.polled(rig.channel.remove());
    expect(new Set(await Promise.all(second))).toEqual(new Set([success]));
  });

  it('wakes a reactor that sleeps while requests wait', async () => {
    const rpc = setUp();
    const before = rig.channel.wakeFd;
    await rpc.bdev_set_qos_limit({ name: 'Disk', rw_ios_per_sec: 1, burst_ms: 1000 }, context);
    expect(rig.channel.wakeFd).toBe(before);
    const reads = [read(), read()];
    rig.poll();
    expect(rig.channel.wakeFd).not.toBe(before);
    expect(rig.channel.arm()).toBe(false);
    rig.channel.disarm();
    await rpc.bdev_set_qos_limit({ name: 'Disk', rw_ios_per_sec: 0 }, context);
    await rig.polled(Promise.all(reads));
    expect(rig.channel.wakeFd).toBe(before);
  });

  it('shows them, keeps those that a call leaves out, and saves them', async () => {
    const rpc = setUp();
    expect(limitConfig(rig.entry)).toEqual([]);
    await rpc.bdev_set_qos_limit({ name: 'Disk', rw_ios_per_sec: 2000, r_mbytes_per_sec: 5 }, context);
    await rpc.bdev_set_qos_limit({ name: 'Disk', r_mbytes_per_sec: 0 }, context);
    const limits = { rw_ios_per_sec: 2000, rw_mbytes_per_sec: 0, r_mbytes_per_sec: 0, w_mbytes_per_sec: 0 };
    expect(await rpc.bdev_get_bdevs({ name: 'Disk', timeout: 0 }, context)).toMatchObject([
      { assigned_rate_limits: limits },
    ]);
    expect(limitConfig(rig.entry)).toEqual([
      { method: 'bdev_set_qos_limit', params: { name: 'Disk', ...limits, burst_ms: 100 } },
    ]);
  });
});
