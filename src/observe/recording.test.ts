import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TargetError } from '../base/errors.ts';
import { RecordingWriter, readRecording } from './recording.ts';
import type { Request } from './trace-events.ts';

const HEAD = { controller: 'vhost.0', startedMs: 1_700_000_000_000, diskBytes: 2 ** 40, hasHashes: true };

function fileOf(requests: readonly Request[], dropped = 0, hasHashes = true): Uint8Array {
  const pieces: Uint8Array[] = [];
  const writer = new RecordingWriter({ ...HEAD, hasHashes }, (bytes) => pieces.push(bytes));
  // In any pieces.
  for (let at = 0; at < requests.length; at += 7) writer.add(requests.slice(at, at + 7));
  writer.end(dropped);
  return Buffer.concat(pieces);
}

const anyRequest: fc.Arbitrary<Request> = fc.record({
  controller: fc.constant('vhost.0'),
  queue: fc.integer({ min: 0, max: 255 }),
  type: fc.constantFrom('read', 'write', 'flush', 'unmap', 'write_zeroes', 'other'),
  startNs: fc.integer({ min: 0, max: 2 ** 50 }),
  durationNs: fc.integer({ min: 0, max: 2 ** 40 }),
  offsetBytes: fc.integer({ min: 0, max: 2 ** 42 }).map((sector) => sector * 512),
  lengthBytes: fc.integer({ min: 0, max: 2 ** 32 }),
  status: fc.constantFrom(0, 0, 0, 1),
  hash: fc.option(fc.integer({ min: 0, max: 2 ** 32 - 1 })),
});
const requestsOf = fc.array(anyRequest, { maxLength: 60 });

describe('a recording', () => {
  it('holds every request that succeeded, by its start', () => {
    fc.assert(
      fc.property(requestsOf, fc.nat(), fc.boolean(), (requests, dropped, hasHashes) => {
        const recording = readRecording(fileOf(requests, dropped, hasHashes));
        const good = requests.filter(({ type, status }) => type !== 'other' && status === 0);
        const firstNs = Math.min(...good.map(({ startNs }) => startNs));
        const expected = good
          .toSorted((a, b) => a.startNs - b.startNs)
          .map(({ type, queue, startNs, durationNs, offsetBytes, lengthBytes, hash }) => {
            const own = { type, queue, startNs: startNs - firstNs, durationNs, offsetBytes, lengthBytes };
            return { ...own, hash: hasHashes && type === 'read' ? hash : null };
          });
        const failed = requests.length - good.length;
        expect(recording).toEqual({ head: { ...HEAD, hasHashes }, requests: expected, dropped, failed });
      }),
    );
  });

  it('is compact: sequential reads take 10 bytes each', () => {
    const kind = { controller: 'vhost.0', queue: 0, type: 'read', status: 0, hash: null };
    const read = { ...kind, durationNs: 90_000, lengthBytes: 4096 };
    const requests = Array.from({ length: 1000 }, (_, index) => {
      return { ...read, startNs: 1e12 + index * 100_000, offsetBytes: index * 4096 };
    });
    expect(fileOf(requests, 0, false).length / 1000).toBeLessThan(10.2);
  });

  it('is refused with a clear word when it is cut off anywhere, and never read as another', () => {
    const file = fileOf(fc.sample(anyRequest, { numRuns: 30, seed: 1 }));
    for (let length = 0; length < file.length; length++) {
      expect(() => readRecording(file.subarray(0, length))).toThrow(TargetError);
    }
    expect(() => readRecording(file.subarray(0, file.length - 20))).toThrow(/ends in the middle|damaged/);
  });

  it('is refused when a bit of it is another', () => {
    const file = fileOf(fc.sample(anyRequest, { numRuns: 30, seed: 2 }));
    for (let at = 0; at < file.length; at++) {
      const wrong = Uint8Array.from(file);
      wrong[at] = (wrong[at] as number) ^ (1 << (at % 8));
      expect(() => readRecording(wrong), `byte ${at}`).toThrow(TargetError);
    }
  });

  it('says what it is not', () => {
    expect(() => readRecording(Buffer.from('{"traceEvents":[]}'))).toThrow('it is not a recording');
    const newer = fileOf([]);
    newer[8] = 3;
    expect(() => readRecording(newer)).toThrow('version 3 of the format');
  });
});
