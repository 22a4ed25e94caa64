import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Request, TraceEvents } from './trace-events.ts';

interface Event {
  readonly ph: 'M' | 'X';
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly dur: number;
  readonly args: { readonly name: string; readonly offset: number; readonly bytes: number };
}

function fileOf(requests: readonly Request[]): { traceEvents: Event[]; otherData: object } {
  const events = new TraceEvents();
  const inOrder = requests.toSorted((a, b) => a.startNs + a.durationNs - (b.startNs + b.durationNs));
  const text = [events.begin(), ...inOrder.map((request) => events.add(request)), events.end({ dropped: 3 })].join('');
  return JSON.parse(text);
}

const anyRequest = fc.record({
  controller: fc.constantFrom('vhost.0', 'a "b"\n'),
  queue: fc.integer({ min: 0, max: 3 }),
  type: fc.constantFrom('read', 'write', 'flush'),
  startNs: fc.integer({ min: 0, max: 100_000 }),
  durationNs: fc.integer({ min: 1, max: 30_000 }),
  offsetBytes: fc.integer({ min: 0, max: 2 ** 40 }),
  lengthBytes: fc.integer({ min: 0, max: 2 ** 20 }),
  status: fc.integer({ min: 0, max: 2 }),
  hash: fc.constant(null),
});

describe('a trace file', () => {
  it('has an event for each request, none of which overlaps another of its thread', () => {
    fc.assert(
      fc.property(fc.array(anyRequest, { maxLength: 100 }), (requests) => {
        const { traceEvents, otherData } = fileOf(requests);
        const slices = traceEvents.filter(({ ph }) => ph === 'X');
        expect(slices).toHaveLength(requests.length);
        expect(otherData).toEqual({ dropped: 3 });
        for (const [, own] of Map.groupBy(slices, ({ pid, tid }) => `${pid} ${tid}`)) {
          const sorted = own.toSorted((a, b) => a.ts - b.ts);
          for (const [index, { ts }] of sorted.entries()) {
            const before = sorted[index - 1];
            if (before !== undefined) expect(ts).toBeGreaterThanOrEqual(before.ts + before.dur - 1e-6);
          }
        }
        // Everything has a name.
        const named = new Set(traceEvents.filter(({ ph }) => ph === 'M').map(({ pid, tid }) => `${pid} ${tid}`));
        for (const { pid, tid } of slices) {
          expect(named).toContain(`${pid} 0`);
          expect(named).toContain(`${pid} ${tid}`);
        }
      }),
    );
  });

  it('says what a request was, in microseconds', () => {
    const request = {
      controller: 'vm',
      queue: 2,
      type: 'write',
      offsetBytes: 4096,
      lengthBytes: 512,
      status: 1,
      hash: null,
    };
    const { traceEvents } = fileOf([{ ...request, startNs: 5_000_500, durationNs: 1250 }]);
    expect(traceEvents.map(({ ph, args }) => [ph, args])).toEqual([
      ['M', { name: 'vm' }],
      ['M', { name: 'queue 2' }],
      ['X', { offset: 4096, bytes: 512, status: 1 }],
    ]);
    expect(traceEvents[2]).toMatchObject({ name: 'write', ts: 5000.5, dur: 1.25 });
  });
});
