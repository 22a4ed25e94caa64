/** The parts that `npm run bench` measures with: what they measure must have happened. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Load, LoadClient } from '../../bench/client.ts';
import { makeFile, removeFile } from '../../bench/file.ts';
import { BARE_URINGS } from '../../bench/targets/bare-uring.ts';
import { FIO } from '../../bench/targets/fio.ts';
import { LIMIT, LIMIT_VARIANTS } from '../../bench/targets/limit.ts';
import { QEMU_STORAGE_DAEMON } from '../../bench/targets/qemu.ts';
import { RINGHOST } from '../../bench/targets/ringhost.ts';
import { SLEEPER, SLEEPER_VARIANTS } from '../../bench/targets/sleeper.ts';
import { cpuTimeNs, type Endpoint, memoryOf, type Target } from '../../bench/targets/target.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { LatencyHistogram } from '../../src/initiator/latency-histogram.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { allowedCores } from '../../src/sys/thread.ts';
import { whyNoTool } from '../e2e/requirements.ts';

const RAM: Endpoint = { protocol: 'blk', disk: 'ram' };
const FILE_DISK: Endpoint = { protocol: 'blk', disk: 'file' };
const NULL: Endpoint = { protocol: 'blk', disk: 'null' };
const LOAD: Load = {
  protocol: 'blk',
  format: 'indirect',
  queues: 1,
  depth: 32,
  blockBytes: 4096,
  pattern: 'random',
  writePercent: 0,
};
const MEASURED_MS = 100;
const FILE_MIB = 16;
const [FIRST_CORE = 0, SECOND_CORE = FIRST_CORE] = allowedCores();
const FILE = makeFile(FILE_MIB << 20);
const PLACE = { client: FIRST_CORE, target: SECOND_CORE, file: FILE };

afterAll(() => removeFile(FILE));

async function withClient<T>(path: string, load: Partial<Load>, work: (client: LoadClient) => T): Promise<T> {
  const client = await LoadClient.connect(path, { ...LOAD, ...load });
  try {
    return work(client);
  } finally {
    await client.close();
  }
}

function bucketOf(ns: number): number {
  const histogram = new LatencyHistogram();
  histogram.record(ns);
  return histogram.counts.indexOf(1);
}

describe.each([RINGHOST, LIMIT])('the load client and $name', (kind) => {
  let target: Target;
  beforeAll(async () => {
    target = await kind.start(PLACE);
  });
  afterAll(() => target?.stop());

  test.each<[string, Partial<Load>]>([
    ['indirect descriptors', {}],
    ['direct descriptors', { format: 'direct', depth: 128 }],
    ['four queues', { queues: 4 }],
    ['one request at a time', { depth: 1 }],
    ['sectors', { blockBytes: 512, depth: 128 }],
    ['large blocks', { blockBytes: 131_072 }],
  ])('move data with %s', async (_, load) => {
    await withClient(target.path(RAM), load, (client) => {
      client.verify();
      // Positions of the rings go on from one run to the next, and round their end.
      for (let i = 0; i < 3; i++) expect(client.measure(MEASURED_MS, 10).latency.count).toBeGreaterThan(0);
      client.verify();
    });
  });

  test('serve a mix of reads and writes', async () => {
    const { requests, iops, latency } = await withClient(target.path(RAM), { writePercent: 30 }, (client) =>
      client.measure(MEASURED_MS, 10),
    );
    // A busy machine may make it longer, never shorter.
    expect(iops).toBeLessThanOrEqual((1.001 * requests * 1000) / MEASURED_MS);
    // Those in flight at the end are completed after it, and recorded: there are some, however busy the machine is.
    expect(latency.count).toBeGreaterThan(0);
    expect(latency.count).toBeGreaterThanOrEqual(requests);
    const percentiles = [50, 99, 99.9, 99.99, 100].map((percent) => latency.percentile(percent));
    expect(percentiles).toEqual(percentiles.toSorted((a, b) => a - b));
    // The native loop's buckets are those of the histogram: the lowest value is where the lowest percentile is.
    expect(latency.minNs).toBeGreaterThan(0);
    expect(latency.percentile(1e-9)).toBeGreaterThanOrEqual(latency.minNs);
    expect(latency.percentile(1e-9)).toBeLessThanOrEqual(latency.minNs * (1 + 1 / 64) + 1);
    expect(latency.counts.findLastIndex((count) => count > 0)).toBe(bucketOf(latency.maxNs));
    expect(latency.meanNs).toBeLessThan(latency.maxNs);
  });

  test('leave the blocks that the initiator reads', async () => {
    const disk = await BlkInitiator.connect(target.path(RAM));
    const data = Uint8Array.from({ length: 8192 }, (_, i) => i * 7 + (i >> 8));
    await disk.write(24, data);
    expect(Buffer.from(await disk.read(24, 8192)).equals(data)).toBe(true);
    expect(Buffer.from(await disk.read(32, 512)).equals(data.subarray(4096, 4608))).toBe(true);
    disk.close();
  });

  test('find out a target that answers without moving data', async () => {
    await withClient(target.path(NULL), {}, (client) => {
      expect(() => client.verify()).toThrow(/^512 of 512 blocks did not read as they were written$/);
      expect(client.measure(MEASURED_MS, 10).latency.count).toBeGreaterThan(0);
    });
  });

  test('take processor time and memory', () => {
    const before = cpuTimeNs(target.pid);
    expect(before).toBeGreaterThan(0);
    const { rss, pss } = memoryOf(target.pid);
    expect(rss).toBeGreaterThanOrEqual(pss);
    expect(pss).toBeGreaterThan(2 ** 20);
  });
});

test.skipIf(whyNoTool('qemu') !== null)(
  'qemu-storage-daemon serves what was written, in memory and on disk',
  async () => {
    const target = await QEMU_STORAGE_DAEMON.start(PLACE);
    try {
      for (const endpoint of [RAM, FILE_DISK]) {
        expect(await withClient(target.path(endpoint), {}, (client) => client.verify())).toBe(512);
      }
    } finally {
      await target.stop();
    }
  },
);

test.skipIf(whyNoTool('fio') !== null)('fio is measured on the same file', async () => {
  const target = await FIO.start(PLACE);
  const sample = (await target.measureAlone?.(LOAD, { durationMs: MEASURED_MS, warmUpMs: 10 })) ?? {};
  expect(sample['iops']).toBeGreaterThan(0);
  expect(sample['p99']).toBeGreaterThanOrEqual(sample['p50'] as number);
});

test.each(BARE_URINGS)('$name reads and writes the file', async (kind) => {
  const target = await kind.start(PLACE);
  for (const writePercent of [0, 100]) {
    const sample = await target.measureAlone?.({ ...LOAD, writePercent }, { durationMs: MEASURED_MS, warmUpMs: 10 });
    expect(sample?.['iops']).toBeGreaterThan(0);
  }
});

test.each([SLEEPER, ...SLEEPER_VARIANTS])('$name is woken, again and again', async (kind) => {
  const target = await kind.start(PLACE);
  const { p50 = 0, p90 } = (await target.measureAlone?.(LOAD, { durationMs: 0, warmUpMs: 0 })) ?? {};
  expect(p50).toBeGreaterThan(0);
  expect(p90).toBeGreaterThanOrEqual(p50);
});

test.each(LIMIT_VARIANTS)('$name serves what was written', async (kind) => {
  const target = await kind.start(PLACE);
  try {
    for (const load of [{}, { blockBytes: 512, depth: 128 }]) {
      expect(await withClient(target.path(RAM), load, (client) => client.verify())).toBe(512);
    }
  } finally {
    await target.stop();
  }
});

describe('the load client', () => {
  let target: Target;
  beforeAll(async () => {
    target = await RINGHOST.start(PLACE);
  });
  afterAll(() => target?.stop());

  test('moves data of a file', async () => {
    expect(await withClient(target.path(FILE_DISK), {}, (client) => client.verify())).toBe(512);
  });

  test.each([1, 4])('moves data over scsi with %i queues', async (queues) => {
    const path = target.path({ protocol: 'scsi', disk: 'ram' });
    await withClient(path, { protocol: 'scsi', queues, writePercent: 30 }, (client) => {
      client.verify();
      expect(client.measure(MEASURED_MS, 10).latency.count).toBeGreaterThan(0);
      client.verify();
    });
  });

  test('says with which status requests failed', async () => {
    using rpc = await RpcClient.connect(join(dirname(target.path(RAM)), 'rpc'));
    await rpc.call('vhost_create_blk_controller', { ctrlr: 'readonly', dev_name: 'Malloc0', readonly: true });
    await withClient(join(dirname(target.path(RAM)), 'readonly'), { writePercent: 100 }, (client) => {
      expect(() => client.measure(MEASURED_MS, 10)).toThrow(/^\d+ requests failed \(status 1: \d+ times\)$/);
    });
  });

  test('ends when the target completes nothing any more', async () => {
    const client = await LoadClient.connect(target.path(RAM), LOAD);
    target.suspend();
    expect(() => client.measure(MEASURED_MS, 10)).toThrow(/completed nothing for 5 s/);
    target.resume();
    await client.close();
  });
});

test('a run that is stopped shows and writes what it measured until then', { timeout: 120_000 }, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'ringhost-bench-test-'));
  const json = join(directory, 'results.json');
  const plot = join(directory, 'plot.svg');
  const only = ['--only', '^blk, RAM disk: 4 KiB random read, depth 1$', '--targets', `^${LIMIT.name}$`];
  const args = [...only, '--rounds', '100000', '--seconds', '0.05', '--json', json, '--plot', plot];
  const main = join(import.meta.dirname, '..', '..', 'bench', 'main.ts');
  // Those that measure without a program of their own have left this thread on one core.
  const around = ['-c', `${PLACE.client},${PLACE.target}`, process.execPath];
  // A terminal's signal reaches the targets as well: it is for the group.
  const child = spawn('taskset', [...around, main, ...args], { detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  let output = '';
  for await (const chunk of child.stdout) {
    const isFirst = !output.includes('round 2 of');
    output += String(chunk);
    if (isFirst && output.includes('round 2 of')) process.kill(-(child.pid as number), 'SIGINT');
  }
  expect(await exited).toEqual([130, null]);
  const { stoppedBy, results, noise } = JSON.parse(readFileSync(json, 'utf8'));
  expect(stoppedBy).toBe('SIGINT');
  expect(results).toHaveLength(1);
  expect(results[0].samples[LIMIT.name].length).toBeGreaterThanOrEqual(2);
  expect(noise.length).toBeGreaterThanOrEqual(2);
  expect(output).toContain(`| 4 KiB random read, depth 1 | ${LIMIT.name}`);
  expect(output).toContain('Stopped by SIGINT: these are the rounds until then.');
  expect(readFileSync(plot, 'utf8')).toContain('<svg');
  rmSync(directory, { recursive: true });
});
