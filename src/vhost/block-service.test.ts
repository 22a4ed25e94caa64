/** Blocks that a reactor reads, writes, erases and copies for the main thread. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { until } from '../../test/support/waiting.ts';
import { SILENT } from '../base/log.ts';
import { IoType } from '../bdev/bdev-io.ts';
import { JobControl } from '../bdev/job-control.ts';
import { jobsRpc } from '../bdev/jobs.rpc.ts';
import { Jobs } from '../bdev/jobs.ts';
import { DelayBdev } from '../bdev/modules/delay/delay.ts';
import { ErrorBdev } from '../bdev/modules/error/error.ts';
import { Fault } from '../bdev/modules/error/rules.ts';
import { MallocBdev, MemoryBudget } from '../bdev/modules/malloc/malloc.ts';
import { PassthruBdev } from '../bdev/modules/passthru/passthru.ts';
import { type BdevEntry, BdevRegistry } from '../bdev/registry.ts';
import { REACTOR_COUNTERS, Reactor } from '../reactor/reactor.ts';
import type { RpcContext } from '../rpc/methods.ts';
import { MappingViews } from '../sys/mapping.ts';
import { ReactorBlocks } from './block-service.ts';
import { createVringService } from './vring-service.ts';

const HOUR_US = 3_600_000_000;

let reactor: Reactor;
let thread: { call(name: string, payload: unknown): Promise<unknown> };
let registry: BdevRegistry;
let base: BdevEntry;

beforeEach(() => {
  reactor = new Reactor('interrupt', new Float64Array(REACTOR_COUNTERS));
  const service = createVringService(reactor, 0, SILENT);
  thread = { call: async (name, payload) => await (service[name] as (payload: unknown) => unknown)(payload) };
  registry = new BdevRegistry(1);
  base = disk('Base', 4096);
});
afterEach(async () => {
  for (const entry of registry.list().toReversed()) await registry.delete(entry);
  reactor.close();
});

function disk(name: string, blockCount: number, blockSizeBytes = 512): BdevEntry {
  const budget = new MemoryBudget(Number.POSITIVE_INFINITY);
  return registry.create(name, undefined, () => new MallocBdev({ name, blockCount, blockSizeBytes }, budget));
}

describe('I/O of the main thread', () => {
  it('reads blocks of a disk, and leaves nothing open', async () => {
    const views = new MappingViews();
    const address = base.bdev.params()['address'] as number;
    new Uint8Array(views.view({ address, lengthBytes: 4096 * 512 }, 3 * 512, 1024)).fill(7);
    views.close();
    const bytes = await new ReactorBlocks(thread).read(base, 2, 3);
    expect(Buffer.compare(bytes, Buffer.concat([Buffer.alloc(512), Buffer.alloc(1024, 7)]))).toBe(0);
    expect(base.users.size).toBe(0);
    base.checkClaim('somebody');
  });

  it('refuses what is beyond the disk, and too much at once', async () => {
    await expect(new ReactorBlocks(thread).read(base, 4095, 2)).rejects.toMatchObject({ code: 'EIO' });
    await expect(new ReactorBlocks(thread).read(base, 0, 2049)).rejects.toMatchObject({ code: 'EINVAL' });
    expect((await new ReactorBlocks(thread).read(base, 4095, 1)).length).toBe(512);
  });

  it('writes what is read again', async () => {
    const blocks = new ReactorBlocks(thread);
    await blocks.write(base, 7, Buffer.alloc(1024, 9));
    await blocks.flush(base);
    const wanted = Buffer.concat([Buffer.alloc(512), Buffer.alloc(1024, 9), Buffer.alloc(512)]);
    expect(Buffer.compare(await blocks.read(base, 6, 4), wanted)).toBe(0);
  });

  it('ends when the disk is deleted under it', async () => {
    const latenciesUs = [HOUR_US, HOUR_US, 0, 0];
    const slow = registry.create('Slow', undefined, () => new DelayBdev({ name: 'Slow', base, latenciesUs }), {
      bases: [base],
    });
    const reading = new ReactorBlocks(thread).read(slow, 0, 1).catch(() => null);
    await until(() => slow.users.size === 1, 'it is read');
    await registry.delete(slow);
    await reading;
    expect(registry.list()).toEqual([base]);
  });
});

describe('a transfer', () => {
  const MIB_BLOCKS = 2 ** 20 / 512;
  let blocks: ReactorBlocks;
  let source: BdevEntry;
  let target: BdevEntry;

  beforeEach(async () => {
    blocks = new ReactorBlocks(thread);
    [source, target] = ['Source', 'Target'].map((name) => disk(name, 5 * MIB_BLOCKS + 3)) as [BdevEntry, BdevEntry];
    for (let i = 0; i < 5; i++) await blocks.write(source, i * MIB_BLOCKS, Buffer.alloc(2 ** 20, i + 1));
  });

  const fillOf = async (entry: BdevEntry, block: number): Promise<number> =>
    (await blocks.read(entry, block, 1))[0] as number;

  it('copies all of the ranges, and nothing beside them', async () => {
    const control = new JobControl();
    const ranges = [
      [0, MIB_BLOCKS],
      [2 * MIB_BLOCKS - 1, MIB_BLOCKS + 1],
    ] as const;
    await blocks.transfer({ type: IoType.write, source, target, ranges }, control);
    expect(control.doneBytes).toBe((2 * MIB_BLOCKS + 1) * 512);
    const places = [0, MIB_BLOCKS - 1, MIB_BLOCKS, 2 * MIB_BLOCKS - 1, 3 * MIB_BLOCKS - 1, 3 * MIB_BLOCKS];
    expect(await Promise.all(places.map((place) => fillOf(target, place)))).toEqual([1, 1, 0, 2, 3, 0]);
    expect([source.users.size, target.users.size]).toEqual([0, 0]);
  });

  it('zeroes, and goes no faster than it may', async () => {
    const control = new JobControl();
    control.bytesPerSec = 10 * 2 ** 20;
    const begin = performance.now();
    await blocks.transfer({ type: IoType.write, source, target, ranges: [[0, 5 * MIB_BLOCKS]] }, control);
    // All but the last pieces, of which there is one a lane, have waited for those before them.
    expect(performance.now() - begin).toBeGreaterThan(100);
    await blocks.transfer({ type: IoType.writeZeroes, target, ranges: [[1, 5 * MIB_BLOCKS]] }, new JobControl());
    expect([await fillOf(target, 0), await fillOf(target, 1), await fillOf(target, 5 * MIB_BLOCKS)]).toEqual([1, 0, 0]);
  });

  it('ends early when it is cancelled, also while it waits', async () => {
    const control = new JobControl();
    control.bytesPerSec = 1;
    const moving = blocks.transfer({ type: IoType.write, source, target, ranges: [[0, 5 * MIB_BLOCKS]] }, control);
    await until(() => control.doneBytes > 0, 'something is done');
    control.cancel();
    await moving;
    expect(control.doneBytes).toBeLessThan(5 * 2 ** 20);
  });

  it('fails with the disk', async () => {
    const bad = new ErrorBdev({ name: 'EE', base: target });
    bad.inject({
      ...{ types: [IoType.write], fault: Fault.failure, count: 1, queueDepth: 0, nth: 1, probability: 1, seed: 0 },
      ...{ firstBlock: MIB_BLOCKS, endBlock: MIB_BLOCKS + 1, corruptOffset: 0, corruptValue: 0 },
    });
    const over = registry.create('EE', undefined, () => bad, { bases: [target] });
    const ranges = [[0, 5 * MIB_BLOCKS]] as const;
    const moving = blocks.transfer({ type: IoType.write, source, target: over, ranges }, new JobControl());
    await expect(moving).rejects.toThrow(/"EE" failed a request \(write of 1024 blocks from block 2048 on\)/);
  });
});

describe('jobs', () => {
  const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };
  let jobs: Jobs;
  let rpc: ReturnType<typeof jobsRpc>;

  beforeEach(() => {
    jobs = new Jobs();
    rpc = jobsRpc(jobs, registry, new ReactorBlocks(thread));
  });

  it('erase a disk that nobody else may use meanwhile', async () => {
    const blocks = new ReactorBlocks(thread);
    await blocks.write(base, 4095, Buffer.alloc(512, 1));
    const id = await rpc.bdev_erase({ name: 'Base', method: 'write_zeroes', max_bandwidth_mb_sec: 0 }, context);
    expect(() => base.checkUnclaimed()).toThrow(/claimed by "a job: erase"/);
    await jobs.get(id).ended;
    base.checkUnclaimed();
    expect((await blocks.read(base, 4095, 1))[0]).toBe(0);
    expect(rpc.bdev_get_jobs({ id }, context)).toMatchObject([
      { id, type: 'erase', bdev: 'Base', state: 'done', total_bytes: 2 ** 21, done_bytes: 2 ** 21, percent: 100 },
    ]);
  });

  it('copy a disk, and end when they are told to', async () => {
    const large = disk('Large', 8192);
    const params = { source: 'Base', destination: 'Large', max_bandwidth_mb_sec: 1 };
    const id = await rpc.bdev_copy(params, context);
    rpc.bdev_job_set_options({ id, max_bandwidth_mb_sec: 0 }, context);
    await jobs.get(id).ended;
    expect(rpc.bdev_get_jobs({}, context)).toMatchObject([
      { type: 'copy', source: 'Base', bdev: 'Large', state: 'done' },
    ]);
    const next = jobs.start({ type: 'wait', bdev: 'Large', totalBytes: 1 }, async (control) => {
      await until(() => control.isCancelled, 'it is cancelled');
    });
    await rpc.bdev_job_cancel({ id: next.id }, context);
    expect([next.state, large.users.size]).toEqual(['cancelled', 0]);
  });

  it.each([
    ['the same disk twice', 'Base', 'Base', /not copied to itself/],
    ['a smaller destination', 'Base', 'Small', /"Small" only 8: take a larger one/],
    ['blocks of several sizes', 'Base', 'Wide', /blocks of one size/],
    ['a disk that is not there', 'Base', 'None', /there is no bdev "None"/],
    ['a disk that another one stands on', 'Base', 'Under', /claimed by "Over"/],
  ])('do not copy %s', async (_, source, destination, message) => {
    disk('Small', 8);
    disk('Wide', 4096, 4096);
    const under = disk('Under', 4096);
    registry.create('Over', undefined, () => new PassthruBdev({ name: 'Over', base: under }), { bases: [under] });
    const copy = async () => await rpc.bdev_copy({ source, destination, max_bandwidth_mb_sec: 0 }, context);
    await expect(copy()).rejects.toThrow(message);
    expect(jobs.list()).toEqual([]);
  });

  it('end when their disk is deleted', async () => {
    const id = await rpc.bdev_copy(
      { source: 'Base', destination: disk('Other', 4096).name, max_bandwidth_mb_sec: 1 },
      context,
    );
    jobs.get(id).control.bytesPerSec = 1;
    await registry.delete(registry.get('Other'));
    await jobs.get(id).ended;
    expect(jobs.get(id).state).toBe('cancelled');
    expect(base.users.size).toBe(0);
  });

  it('say why they failed, and are forgotten one day', async () => {
    const failing = async (): Promise<void> => {
      throw new Error('no');
    };
    for (let i = 0; i < 80; i++) await jobs.start({ type: 'fail', bdev: 'Base', totalBytes: 0 }, failing).ended;
    expect(jobs.list().length).toBeLessThan(70);
    expect(rpc.bdev_get_jobs({ id: 80 }, context)).toMatchObject([{ state: 'failed', error: 'no', percent: 100 }]);
    expect(() => rpc.bdev_get_jobs({ id: 1 }, context)).toThrow(/no job 1/);
  });
});
