import { describe, expect, it } from 'vitest';
import { ratesBetween } from './rates.ts';
import type { BdevSample, ControllerSample, IoCount, QueueSample, Sample } from './sample.ts';

const NOTHING: IoCount = { operations: 0, bytes: 0, latencySeconds: 0 };

function bdev(io: Partial<BdevSample['io']>, name = 'Malloc0'): BdevSample {
  const none = { read: NOTHING, write: NOTHING, unmap: NOTHING };
  return { name, product: 'Malloc disk', sizeBytes: 2 ** 20, errors: 0, io: { ...none, ...io } };
}

function queue(requests: number, parts: Partial<QueueSample> = {}): QueueSample {
  return { index: 0, core: 0, requests, inFlight: 0, kicks: 0, calls: 0, callsSaved: 0, faults: 0, ...parts };
}

function controller(...queues: QueueSample[]): ControllerSample {
  const socket = '/var/tmp/vhost.0';
  return { name: 'vhost.0', kind: 'blk', socket, mode: 'adaptive', bdevs: ['Malloc0'], isConnected: true, queues };
}

function sample(atSeconds: number, parts: Partial<Sample> = {}): Sample {
  return { atSeconds, pid: 1, version: 'Ringhost', reactors: [], controllers: [], bdevs: [], ...parts };
}

describe('rates between two samples', () => {
  it('are differences over the time in between', () => {
    const read = (operations: number): IoCount => ({
      operations,
      bytes: operations * 4096,
      latencySeconds: operations / 1e5,
    });
    const rates = ratesBetween(
      sample(10, { bdevs: [bdev({ read: read(100) })], controllers: [controller(queue(100))] }),
      sample(12, { bdevs: [bdev({ read: read(300) })], controllers: [controller(queue(300, { inFlight: 3 }))] }),
    );
    expect(rates.bdevs[0]?.io.read).toMatchObject({ operations: 300, iops: 100, bytesPerSecond: 409_600 });
    expect(rates.bdevs[0]?.io.read.latencyMeanSeconds).toBeCloseTo(1e-5);
    expect(rates.controllers[0]).toMatchObject({ iops: 100, inFlight: 3 });
  });

  it('have no latency when nothing ended', () => {
    const rates = ratesBetween(sample(1, { bdevs: [bdev({})] }), sample(2, { bdevs: [bdev({})] }));
    expect(rates.bdevs[0]?.io.write.latencyMeanSeconds).toBe(0);
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
