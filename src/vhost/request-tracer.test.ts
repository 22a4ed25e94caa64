/** Traced requests on their way from the reactors: nothing is lost or told twice, and what does not fit is counted. */
import { describe, expect, it, vi } from 'vitest';
import { RequestTracer } from './request-tracer.ts';
import { createTraceRing, TraceReader, TraceWriter } from './trace-ring.ts';
import { type TraceCall, type TraceQueues, TraceServiceCall } from './trace-service.ts';

const ALL = { types: 0xff, fromBytes: 0, toBytes: Number.POSITIVE_INFINITY, slowestNs: 0, hashesReads: false };

describe('the ring', () => {
  it('gives requests in their order, once, around its end and around the counts', () => {
    const ring = createTraceRing(8);
    // As if it had been written and read four billion times.
    new Int32Array(ring).fill(-5, 0, 2);
    const [writer, reader] = [new TraceWriter(ring), new TraceReader(ring)];
    const seen: number[] = [];
    for (let n = 0; n < 50; n++) {
      writer.write(n, n + 1, 0, 1, 2 ** 45 + n, 4096, 0, -1);
      if (n % 3 === 2) seen.push(...reader.read(2).map(({ startNs }) => startNs));
      if (n % 7 === 6) seen.push(...reader.read(100).map(({ startNs }) => startNs));
    }
    seen.push(...reader.read(100).map(({ startNs }) => startNs));
    expect(seen).toEqual(Array.from({ length: 50 }, (_, n) => n));
    expect(reader.dropped).toBe(0);
  });

  it('drops the newest when it is full, and says how many', () => {
    const ring = createTraceRing(4);
    const [writer, reader] = [new TraceWriter(ring), new TraceReader(ring)];
    for (let n = 0; n < 10; n++) writer.write(n, n + 1, 3, 1, 4096, 512, 2, 77);
    expect(reader.dropped).toBe(6);
    const requests = reader.read(100);
    expect(requests.map(({ startNs }) => startNs)).toEqual([0, 1, 2, 3]);
    expect(requests[0]).toMatchObject({
      endNs: 1,
      queue: 3,
      type: 1,
      offsetBytes: 4096,
      lengthBytes: 512,
      status: 2,
      hash: 77,
    });
  });
});

/** A reactor whose queues and requests a test makes. */
class FakeReactor {
  queues: TraceQueues = [];
  writer: TraceWriter | null = null;

  async call(name: string, payload: unknown): Promise<unknown> {
    if (name === TraceServiceCall.start) this.writer = new TraceWriter((payload as TraceCall).ring);
    if (name === TraceServiceCall.stop) this.writer = null;
    return name === TraceServiceCall.queues ? this.queues : undefined;
  }

  write(queue: number, startNs: number): void {
    this.writer?.write(startNs, startNs + 1, queue, 0, 0, 0, 0, -1);
  }
}

describe('the tracer', () => {
  const options = { controllers: null, queue: null, filter: ALL, entries: 5 };

  it('knows the queues of all reactors by one number each, also one that moved', async () => {
    const [a, b] = [new FakeReactor(), new FakeReactor()];
    const tracer = new RequestTracer([a, b]);
    await tracer.start(options);
    a.queues = [['vm', 0]];
    b.queues = [['vm', 1]];
    a.write(0, 10);
    b.write(0, 20);
    const first = await tracer.read(100);
    const names = (batch: typeof first) => batch.requests.map(({ queue }) => batch.queues[queue]);
    expect(names(first)).toEqual([
      ['vm', 0],
      ['vm', 1],
    ]);
    b.queues = [
      ['vm', 1],
      ['vm', 0],
    ];
    b.write(1, 30);
    const second = await tracer.read(100);
    expect(names(second)).toEqual([['vm', 0]]);
    expect(second.queues).toHaveLength(2);
    await tracer.stop();
  });

  it('can be read to its end after it was stopped', async () => {
    const reactor = new FakeReactor();
    const tracer = new RequestTracer([reactor]);
    await expect(tracer.read(1)).rejects.toMatchObject({ code: 'ENOENT' });
    await tracer.start(options);
    await expect(tracer.start(options)).rejects.toMatchObject({ code: 'EBUSY' });
    reactor.queues = [['vm', 3]];
    // Five entries are rounded up to eight.
    for (let n = 0; n < 9; n++) reactor.write(0, n);
    await tracer.stop();
    expect(reactor.writer).toBeNull();
    expect(await tracer.read(100)).toMatchObject({ queues: [['vm', 3]], dropped: 1 });
    await tracer.stop();
    await tracer.start(options);
    await tracer.stop();
  });

  it('ends by itself when nobody reads', async () => {
    vi.useFakeTimers();
    const reactor = new FakeReactor();
    const tracer = new RequestTracer([reactor], 1000);
    await tracer.start(options);
    await vi.advanceTimersByTimeAsync(900);
    await tracer.read(1);
    await vi.advanceTimersByTimeAsync(900);
    expect(reactor.writer).not.toBeNull();
    await vi.advanceTimersByTimeAsync(200);
    expect(reactor.writer).toBeNull();
    await expect(tracer.read(1)).rejects.toMatchObject({ code: 'ENOENT' });
    vi.useRealTimers();
  });
});
