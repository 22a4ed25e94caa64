import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { metricsText } from './metrics-text.ts';
import type { LatencyCounts, Sample } from './sample.ts';

const LATENCIES: LatencyCounts = {
  read: {
    sumSeconds: 0.25,
    buckets: [
      [2000, 3],
      [2600, 1],
      [7_000_000_000, 1],
    ],
  },
};

const SAMPLE: Sample = {
  atSeconds: 1,
  pid: 1,
  version: 'Ringhost v1.2.3',
  reactors: [{ core: 0, busySeconds: 1.5, idleSeconds: 2.5, isSleeping: true }],
  controllers: [
    {
      name: 'vhost "0"',
      kind: 'blk',
      socket: '/var/tmp/vhost.0',
      mode: 'adaptive',
      weight: 100,
      bdevs: ['Malloc0'],
      isConnected: true,
      queues: [
        {
          index: 1,
          core: 0,
          requests: 7,
          inFlight: 2,
          kicks: 3,
          calls: 4,
          callsSaved: 1,
          faults: 0,
          latencies: LATENCIES,
        },
      ],
    },
  ],
  bdevs: [
    {
      name: 'Malloc0',
      product: 'Malloc disk',
      sizeBytes: 1_048_576,
      errors: 1,
      io: {
        read: { operations: 5, bytes: 20_480 },
        write: { operations: 2, bytes: 8192 },
        unmap: { operations: 0, bytes: 0 },
      },
      latencies: LATENCIES,
      places: { regions: 256, reads: [], writes: [] },
    },
  ],
};

describe('the metrics text', () => {
  it('has a line for each count and level', async () => {
    const lines = (await metricsText(SAMPLE)).split('\n');
    for (const line of [
      'ringhost_build_info{version="Ringhost v1.2.3"} 1',
      'ringhost_reactor_busy_seconds_total{core="0"} 1.5',
      'ringhost_reactor_sleeping{core="0"} 1',
      'ringhost_bdev_operations_total{bdev="Malloc0",type="read"} 5',
      'ringhost_bdev_bytes_total{bdev="Malloc0",type="write"} 8192',
      'ringhost_bdev_errors_total{bdev="Malloc0"} 1',
      'ringhost_bdev_size_bytes{bdev="Malloc0",product="Malloc disk"} 1048576',
    ]) {
      expect(lines).toContain(line);
    }
  });

  it('has latencies as a histogram, in seconds', async () => {
    const lines = (await metricsText(SAMPLE)).split('\n').filter((line) => line.includes('bdev_latency_seconds'));
    const bucket = (le: string): string =>
      `ringhost_bdev_latency_seconds_bucket{bdev="Malloc0",type="read",le="${le}"}`;
    expect(lines).toContain('# TYPE ringhost_bdev_latency_seconds histogram');
    for (const [le, count] of [
      ['0.000001', 0],
      ['0.0000025', 3],
      ['0.000005', 4],
      ['5', 4],
      ['+Inf', 5],
    ]) {
      expect(lines).toContain(`${bucket(String(le))} ${count}`);
    }
    expect(lines).toContain('ringhost_bdev_latency_seconds_sum{bdev="Malloc0",type="read"} 0.25');
    expect(lines).toContain('ringhost_bdev_latency_seconds_count{bdev="Malloc0",type="read"} 5');
    // The same of the queue that they came by.
    const ofQueue = 'ringhost_queue_latency_seconds_count{controller="vhost \\"0\\"",queue="1",type="read"} 5';
    expect((await metricsText(SAMPLE)).split('\n')).toContain(ofQueue);
    // None of a type that there was none of.
    expect(lines.filter((line) => line.includes('type="write"'))).toEqual([]);
  });

  it('escapes what names may hold', async () => {
    expect(await metricsText(SAMPLE)).toContain('{controller="vhost \\"0\\"",queue="1",core="0"} 7');
  });

  it('tells of nothing that is gone', async () => {
    await metricsText(SAMPLE);
    const text = await metricsText({ ...SAMPLE, controllers: [], bdevs: [] });
    expect(text).not.toContain('Malloc0');
    expect(text).toContain('process_cpu_seconds_total');
  });

  const namesIn = (text: string): string[] => [...new Set(text.match(/ringhost_[a-z_]+/g))].sort();
  const names = async (): Promise<string[]> => namesIn((await metricsText(SAMPLE)).replaceAll(/^ringhost_.*$/gm, ''));

  it('is described in the document, metric by metric', async () => {
    expect(namesIn(readFileSync('docs/observing.md', 'utf8'))).toEqual(await names());
  });
});
