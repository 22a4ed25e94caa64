/** Limits of a bdev whose controller has queues on two reactors: both draw on one store, and both hear of changes. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { assert } from '../../src/base/assert.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { BlkLoadGenerator } from '../../src/initiator/load-generator.ts';
import { allowedCores } from '../../src/sys/thread.ts';
import { MIB } from './blk-case-helpers.ts';
import { type BlkTarget, RinghostDaemon } from './fixtures/targets.ts';

const QUEUES = 4;
const RATE = 2000;
const BURST_MS = 100;
const REQUESTS = 1400;

const cores = allowedCores().slice(0, 2);
let daemon: RinghostDaemon;
let target: BlkTarget;
let disk: BlkInitiator;
let generator: BlkLoadGenerator;

beforeAll(async () => {
  assert(cores.length === 2, 'these tests need two cores');
  daemon = await RinghostDaemon.start(['-m', `[${cores}]`]);
});
afterAll(() => daemon.close());

afterEach(async () => {
  generator.close();
  disk.close();
  await target.close();
});

/** Returns the name of the bdev. */
async function connect(depth: number): Promise<string> {
  target = await daemon.create({ sizeBytes: 16 * MIB });
  disk = await BlkInitiator.connect(target.path, { queues: QUEUES });
  generator = new BlkLoadGenerator(disk, { depth, writePercent: 50, stallMs: 60_000 });
  const [bdev] = await daemon.rpc.call('bdev_get_bdevs');
  return bdev?.name ?? '';
}

/** Requests that each reactor has carried out. */
async function shares(name: string): Promise<number[]> {
  const counted = await daemon.rpc.call('bdev_get_iostat', { name, per_channel: true });
  const channels = 'channels' in counted ? counted.channels : [];
  return channels.map(({ num_read_ops, num_write_ops }) => num_read_ops + num_write_ops);
}

describe('limits of a bdev on two reactors', () => {
  test('hold for both of them together', async () => {
    const name = await connect(8);
    await daemon.rpc.call('bdev_set_qos_limit', { name, rw_ios_per_sec: RATE, burst_ms: BURST_MS });
    const before = await shares(name);
    const started = performance.now();
    const { ios, errors } = await generator.runAsync({ count: REQUESTS });
    const elapsedS = (performance.now() - started) / 1000;
    expect([ios, errors]).toEqual([REQUESTS, 0]);
    // What was saved up passes at once, and a request that two reactors took for the last one may be two.
    const passed = elapsedS * RATE + (RATE * BURST_MS) / 1000 + cores.length;
    expect(passed).toBeGreaterThanOrEqual(REQUESTS);
    const done = (await shares(name)).map((count, i) => count - (before[i] ?? 0));
    expect(done.reduce((sum, count) => sum + count)).toBeGreaterThanOrEqual(REQUESTS);
    expect(Math.min(...done)).toBeGreaterThan(0);
  });

  test('let go at once of what waits in either of them when they are taken away', async () => {
    const name = await connect(32);
    await daemon.rpc.call('bdev_set_qos_limit', { name, rw_ios_per_sec: 1000, burst_ms: 1 });
    // At this rate it would take an hour.
    const run = generator.runAsync({ count: 3_600_000 });
    run.catch(() => {});
    await daemon.rpc.call('bdev_set_qos_limit', { name, rw_ios_per_sec: 0 });
    const before = await shares(name);
    for (let now = before; now.some((count, i) => count < (before[i] ?? 0) + 5000); ) now = await shares(name);
    generator.stop();
    const { errors } = await run;
    expect(errors).toBe(0);
  });
});
