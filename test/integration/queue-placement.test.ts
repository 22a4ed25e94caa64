/**
 * Queues of one controller on two reactors: where they run, how they move under load, and that whatever concerns the
 * controller reaches both.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { assert } from '../../src/base/assert.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { BlockStamps } from '../../src/initiator/block-stamps.ts';
import { BlkLoadGenerator } from '../../src/initiator/load-generator.ts';
import { allowedCores } from '../../src/sys/thread.ts';
import { MIB, pattern, sameBytes } from './blk-case-helpers.ts';
import { type BlkTarget, RinghostDaemon } from './fixtures/targets.ts';

const QUEUES = 4;
const MOVES = 120;
const BLOCKS = 2048;

const cores = allowedCores().slice(0, 2);
const [low = 0, high = 0] = cores;

let daemon: RinghostDaemon;
let target: BlkTarget;
let disk: BlkInitiator;

beforeAll(async () => {
  assert(cores.length === 2, 'these tests need two cores');
  daemon = await RinghostDaemon.start(['-m', `[${cores}]`]);
});

afterAll(() => daemon.close());

afterEach(async () => {
  disk.close();
  await target.close();
});

async function connect(): Promise<void> {
  target = await daemon.create({ sizeBytes: 16 * MIB });
  disk = await BlkInitiator.connect(target.path, { queues: QUEUES });
}

const ctrlr = (): string => target.path.split('/').at(-1) ?? '';

function place(params: { cpumask?: string; queue_placement?: 'spread' | 'pinned' }) {
  return daemon.rpc.call('vhost_controller_set_placement', { ctrlr: ctrlr(), ...params });
}

async function describeController() {
  const [controller] = await daemon.rpc.call('vhost_get_controllers', { name: ctrlr() });
  expect(controller).toBeDefined();
  return controller as NonNullable<typeof controller>;
}

/** The core of each queue. */
async function coresOfQueues(): Promise<(number | undefined)[]> {
  return (await describeController()).sessions[0]?.queues.map(({ lcore }) => lcore) ?? [];
}

/** Runs a verified load on every queue while `act` happens; returns how many requests there were. */
async function underLoad(act: () => Promise<void>): Promise<number> {
  const stamps = new BlockStamps(BLOCKS, 4096, { isZeroed: true });
  const generator = new BlkLoadGenerator(disk, { depth: 16, writePercent: 50, stamps });
  const run = generator.runAsync({ durationMs: 240_000 });
  run.catch(() => {});
  await sleep(20);
  await act();
  await sleep(20);
  generator.stop();
  const { ios, errors, firstMismatch } = await run;
  expect({ isLoaded: ios > 0, errors, firstMismatch }).toEqual({ isLoaded: true, errors: 0, firstMismatch: null });
  generator.close();
  return ios;
}

/** Reads and writes through every queue, one after the other. */
async function checkEveryQueue(): Promise<void> {
  for (let queue = 0; queue < QUEUES; queue++) {
    const data = pattern(4096, queue + 1);
    await disk.write(queue * 8, data, { queue });
    sameBytes(await disk.read(queue * 8, data.length, { queue }), data, `queue ${queue}`);
  }
}

describe('the queues of a blk controller', () => {
  test('are spread over its reactors, and framework_get_reactors shows where each runs', async () => {
    await connect();
    expect(await coresOfQueues()).toEqual([low, high, low, high]);
    const { reactors } = await daemon.rpc.call('framework_get_reactors');
    const shown = reactors.map(({ lcore, lw_threads }) => [
      lcore,
      lw_threads.map(({ name, queues }) => [name, queues]),
    ]);
    expect(shown).toEqual([
      [low, [[ctrlr(), [0, 2]]]],
      [high, [[ctrlr(), [1, 3]]]],
    ]);
    await checkEveryQueue();
  });

  test('can be pinned, and stay in a cpumask', async () => {
    await connect();
    await place({ queue_placement: 'pinned' });
    expect(new Set(await coresOfQueues()).size).toBe(1);
    await place({ queue_placement: 'spread', cpumask: `[${high}]` });
    expect(await coresOfQueues()).toEqual(Array(QUEUES).fill(high));
    await checkEveryQueue();
    await expect(place({ cpumask: '[1000]' })).rejects.toThrow(/Invalid argument|names core 1000/);
    const { cpumask, queue_placement } = await describeController();
    expect([Number(cpumask), queue_placement]).toEqual([2 ** high, 'spread']);
  });

  test(`move ${MOVES} times under a verified load without a lost or doubled request`, {
    timeout: 300_000,
  }, async () => {
    await connect();
    const places = [
      { cpumask: `[${low}]` },
      { cpumask: `[${high}]` },
      { cpumask: `[${cores}]`, queue_placement: 'spread' as const },
      { queue_placement: 'pinned' as const },
      { queue_placement: 'spread' as const },
    ];
    const ios = await underLoad(async () => {
      for (let i = 0; i < MOVES; i++) await place(places[i % places.length] ?? {});
    });
    const queues = (await describeController()).sessions[0]?.queues ?? [];
    expect(queues.reduce((sum, { requests }) => sum + requests, 0)).toBe(ios);
    expect(queues.map(({ in_flight, faults }) => [in_flight, faults])).toEqual(queues.map(() => [0, 0]));
  });

  test('moved while the memory changes are in the right place, with the right memory', async () => {
    await connect();
    await underLoad(async () => {
      for (let i = 0; i < 10; i++) {
        const moved = place({ cpumask: i % 2 === 0 ? `[${high}]` : `[${low}]` });
        const changed = disk.session.frontend.setMemTable(disk.memory.regions);
        await Promise.all([moved, changed]);
      }
    });
    expect(await coresOfQueues()).toEqual(Array(QUEUES).fill(low));
  });
});

describe('what happens to a controller on two reactors reaches both', () => {
  test('a bdev that grows under load', async () => {
    await connect();
    expect(await underLoad(() => target.resize(32 * MIB))).toBeGreaterThan(0);
    for (let queue = 0; queue < QUEUES; queue++) {
      const data = pattern(512, queue + 50);
      const sector = (24 * MIB) / 512 + queue;
      await disk.write(sector, data, { queue });
      sameBytes(await disk.read(sector, 512, { queue }), data, `queue ${queue}`);
    }
  });

  test('a bdev that is deleted: every queue fails its requests', async () => {
    await connect();
    await checkEveryQueue();
    const bdev = ctrlr().replace('disk.', 'Test');
    await daemon.rpc.call('bdev_malloc_delete', { name: bdev });
    for (let queue = 0; queue < QUEUES; queue++)
      await expect(disk.read(0, 512, { queue })).rejects.toThrow(/IOERR|failed/);
    await daemon.rpc.call('bdev_malloc_create', { name: bdev, num_blocks: 8, block_size: 512 });
    for (let queue = 0; queue < QUEUES; queue++)
      await expect(disk.read(0, 512, { queue })).rejects.toThrow(/IOERR|failed/);
  });

  test('a deletion of the controller: every queue fails its requests, after it was moved too', async () => {
    await connect();
    const other = await daemon.create({ sizeBytes: 16 * MIB });
    await daemon.rpc.call('vhost_delete_controller', { ctrlr: ctrlr(), force: true });
    for (let queue = 0; queue < QUEUES; queue++)
      await expect(disk.read(0, 512, { queue })).rejects.toThrow(/IOERR|failed/);
    disk.close();
    await daemon.rpc.call('bdev_malloc_delete', { name: ctrlr().replace('disk.', 'Test') });
    target = other;
    disk = await BlkInitiator.connect(target.path, { queues: QUEUES });
    await checkEveryQueue();
  });
});

describe('a controller', () => {
  test('is told to poll, and to sleep, while it runs', async () => {
    await connect();
    const sleeping = async () =>
      (await daemon.rpc.call('framework_get_reactors')).reactors.map(({ in_interrupt }) => in_interrupt);
    await daemon.rpc.call('vhost_controller_set_mode', { ctrlr: ctrlr(), mode: 'poll' });
    expect((await describeController()).mode).toBe('poll');
    for (let i = 0; i < 20; i++) {
      await sleep(5);
      expect(await sleeping()).toEqual([false, false]);
    }
    await checkEveryQueue();
    await daemon.rpc.call('vhost_controller_set_mode', { ctrlr: ctrlr(), mode: 'interrupt' });
    await expect.poll(sleeping, { timeout: 20_000 }).toEqual([true, true]);
    await checkEveryQueue();
  });

  test('counts what its queues did', async () => {
    await connect();
    const generator = new BlkLoadGenerator(disk, { depth: 8, queues: [0] });
    const { ios } = await generator.runAsync({ count: 5000 });
    generator.close();
    const [queue] = (await describeController()).sessions[0]?.queues ?? [];
    if (queue === undefined) throw new Error('there is no queue');
    expect([queue.requests, queue.in_flight, queue.faults]).toEqual([ios, 0, 0]);
    // At least the first request woke it.
    expect(queue.kicks).toBeGreaterThanOrEqual(1);
    expect(queue.calls + queue.calls_saved).toBe(ios);
    // A polling driver wants no calls.
    expect(queue.calls_saved).toBeGreaterThan(queue.calls);
  });

  test('takes a coalescing setting, shows and saves it', async () => {
    await connect();
    const settings = { delay_base_us: 50, iops_threshold: 1000 };
    await daemon.rpc.call('vhost_controller_set_coalescing', { ctrlr: ctrlr(), ...settings });
    const { delay_base_us, iops_threshold } = await describeController();
    expect({ delay_base_us, iops_threshold }).toEqual(settings);
    const config = await daemon.rpc.call('framework_get_config', { name: 'vhost_blk' });
    expect(config?.filter(({ method }) => method === 'vhost_controller_set_coalescing')).toEqual([
      { method: 'vhost_controller_set_coalescing', params: { ctrlr: ctrlr(), ...settings } },
    ]);
    await checkEveryQueue();
  });

  test('of the scsi kind stays on one reactor, and says why', async () => {
    await connect();
    const scsi = { ctrlr: 'scsi.0' };
    await expect(
      daemon.rpc.call('vhost_create_scsi_controller', { ...scsi, queue_placement: 'spread' }),
    ).rejects.toThrow(/share the state of its targets|not supported/);
    await daemon.rpc.call('vhost_create_scsi_controller', scsi);
    await expect(daemon.rpc.call('vhost_controller_set_placement', { ...scsi, cpumask: `[${high}]` })).rejects.toThrow(
      /stays on its reactor|not supported/,
    );
    await daemon.rpc.call('vhost_delete_controller', scsi);
  });
});
