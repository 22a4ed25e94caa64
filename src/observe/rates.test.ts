import { describe, expect, it } from 'vitest';
import { ratesBetween } from './rates.ts';
import type { BdevSample, ControllerSample, IoCount, LatencyCount, QueueSample, Sample } from './sample.ts';

const NOTHING: IoCount = { operations: 0, bytes: 0 };

function bdev(io: Partial<BdevSample['io']>, parts: Partial<BdevSample> = {}): BdevSample {
  const none = { read: NOTHING, write: NOTHING, unmap: NOTHING };
  return {
    name: 'Malloc0',
    product: 'Malloc disk',
    sizeBytes: 2 ** 20,
    errors: 0,
    io: { ...none, ...io },
    latencies: {},
    places: { regions: 256, reads: [], writes: [] },
    ...parts,
  };
}

function queue(requests: number, parts: Partial<QueueSample> = {}): QueueSample {
  const none = { inFlight: 0, kicks: 0, calls: 0, callsSaved: 0, faults: 0, latencies: {} };
  return { index: 0, core: 0, requests, ...none, ...parts };
}

function controller(...queues: QueueSample[]): ControllerSample {
  const socket = '/var/tmp/vhost.0';
  return {
    name: 'vhost.0',
    kind: 'blk',
    socket,
    mode: 'adaptive',
    weight: 100,
    bdevs: ['Malloc0'],
    isConnected: true,
    queues,
  };
}

function sample(atSeconds: number, parts: Partial<Sample> = {}): Sample {
  return { atSeconds, pid: 1, version: 'Ringhost', reactors: [], controllers: [], bdevs: [], ...parts };
}

describe('rates between two samples', () => {
  it('are differences over the time in between', () => {
    const read = (operations: number): IoCount => ({ operations, bytes: operations * 4096 });
    const rates = ratesBetween(
      sample(10, { bdevs: [bdev({ read: read(100) })], controllers: [controller(queue(100))] }),
      sample(12, { bdevs: [bdev({ read: read(300) })], controllers: [controller(queue(300, { inFlight: 3 }))] }),
    );
    expect(rates.bdevs[0]?.io.read).toMatchObject({ operations: 300, iops: 100, bytesPerSecond: 409_600 });
    expect(rates.controllers[0]).toMatchObject({ iops: 100, inFlight: 3 });
  });

  it('have no latency when nothing ended', () => {
    const rates = ratesBetween(sample(1, { bdevs: [bdev({})] }), sample(2, { bdevs: [bdev({})] }));
    const none = { meanSeconds: 0, p50Seconds: 0, p99Seconds: 0, p999Seconds: 0 };
    expect(rates.bdevs[0]?.io.write.latency).toEqual(none);
    expect(rates.served.write.latency).toEqual(none);
  });

  const took = (sumSeconds: number, ...buckets: [ns: number, count: number][]): LatencyCount => {
    return { sumSeconds, buckets };
  };

  it('have the percentiles of what ended in between', () => {
    const before = bdev({}, { latencies: { read: took(1, [1000, 5000], [2_000_000, 3]) } });
    const now = bdev({}, { latencies: { read: took(1.5, [1000, 5980], [5000, 15], [2_000_000, 8]) } });
    const rates = ratesBetween(sample(1, { bdevs: [before] }), sample(2, { bdevs: [now] }));
    expect(rates.bdevs[0]?.io.read.latency).toEqual({
      meanSeconds: 0.5 / 1000,
      p50Seconds: 1e-6,
      p99Seconds: 5e-6,
      p999Seconds: 2e-3,
    });
    // 1 µs, 5 µs and 2 ms, with six rows to a power of ten from 100 ns on.
    expect(rates.bdevs[0]?.heat).toEqual([
      [6, 980],
      [10, 15],
      [25, 5],
    ]);
  });

  it('have the requests of what guests use, and not those of what lies below it', () => {
    const above = bdev(
      { write: { operations: 10, bytes: 40_960 } },
      { latencies: { write: took(3, [3_000_000, 10]) } },
    );
    const inBase = { latencies: { write: took(1, [1000, 1000]) } };
    const below = bdev({ write: { operations: 1000, bytes: 4_096_000 } }, { name: 'Base0', ...inBase });
    const now = sample(2, { bdevs: [below, above], controllers: [controller()] });
    expect(ratesBetween(sample(1), now).served.write).toMatchObject({
      ...{ iops: 10, bytesPerSecond: 40_960 },
      latency: { meanSeconds: 0.3, p50Seconds: 3e-3 },
    });
  });

  it('have the latency of each queue, and of all queues of a controller', () => {
    const timed = (...counts: number[]) =>
      controller(
        ...counts.map((count, index) => queue(0, { index, latencies: { read: took(0, [1000 * 10 ** index, count]) } })),
      );
    const rates = ratesBetween(sample(1, { controllers: [timed(5, 5)] }), sample(2, { controllers: [timed(105, 6)] }));
    const [first] = rates.controllers;
    expect(first?.queues.map(({ latency }) => latency.read.p50Seconds)).toEqual([1e-6, 1e-5]);
    expect(first?.queues.map(({ heat }) => heat)).toEqual([[[6, 100]], [[12, 1]]]);
    expect(first?.latency.read).toMatchObject({ p50Seconds: 1e-6, p999Seconds: 1e-5 });
    expect(first?.latency.write.p50Seconds).toBe(0);
  });

  it('say where on the disk requests went in between, and begin anew with a bdev of the same name', () => {
    const at = (reads: [number, number][]) => bdev({}, { places: { regions: 256, reads, writes: [] } });
    const between = (before: BdevSample, now: BdevSample) =>
      ratesBetween(sample(1, { bdevs: [before] }), sample(2, { bdevs: [now] })).bdevs[0]?.places.reads;
    expect(between(at([[3, 10]]), at([[3, 10], [200, 7]]))).toEqual([[200, 7]]); // biome-ignore format: one line
    expect(between(at([[3, 10]]), at([[3, 4]]))).toEqual([[3, 4]]);
  });

  it('count from 0 what is new, and what was reset', () => {
    const before = sample(1, { controllers: [controller(queue(5000))] });
    const now = sample(2, { controllers: [controller(queue(40), queue(7, { index: 1 }))] });
    expect(ratesBetween(before, now).controllers[0]?.queues.map(({ iops }) => iops)).toEqual([40, 7]);
  });

  it('know nothing of another process', () => {
    const before = sample(100, { controllers: [controller(queue(10))] });
    const now = { ...sample(101, { controllers: [controller(queue(30))] }), pid: 2 };
    expect(ratesBetween(before, now).controllers[0]?.iops).toBe(30);
  });

  it('give a reactor the share of its time, and the requests of its queues', () => {
    const reactor = (busySeconds: number, idleSeconds: number) => ({
      core: 3,
      isSleeping: false,
      busySeconds,
      idleSeconds,
    });
    const rates = ratesBetween(
      sample(1, { reactors: [reactor(1, 1)] }),
      sample(2, { reactors: [reactor(1.75, 1.25)], controllers: [controller(queue(8, { core: 3 }), queue(9))] }),
    );
    expect(rates.reactors).toEqual([{ core: 3, busy: 0.75, isSleeping: false, iops: 8 }]);
  });
});
