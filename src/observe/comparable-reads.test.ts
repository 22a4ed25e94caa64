import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { comparableReads } from './comparable-reads.ts';
import type { RecordedRequest } from './recording.ts';

const anyRequest = fc.record({
  type: fc.constantFrom('read', 'read', 'write', 'unmap', 'flush'),
  queue: fc.constant(0),
  startNs: fc.nat({ max: 1000 }),
  durationNs: fc.nat({ max: 100 }),
  offsetBytes: fc.nat({ max: 40 }).map((sector) => sector * 512),
  lengthBytes: fc.integer({ min: 1, max: 8 }).map((sectors) => sectors * 512),
  hash: fc.option(fc.constant(7)),
}) as fc.Arbitrary<RecordedRequest>;

describe('reads that can be compared', () => {
  it('are those with a hash, of places that nothing changed that began before they ended', () => {
    fc.assert(
      fc.property(fc.array(anyRequest, { maxLength: 40 }), (any) => {
        const requests = any.toSorted((a, b) => a.startNs - b.startNs);
        const touches = (read: RecordedRequest, { offsetBytes, lengthBytes }: RecordedRequest): boolean =>
          offsetBytes < read.offsetBytes + read.lengthBytes && read.offsetBytes < offsetBytes + lengthBytes;
        const expected = requests.filter((read) => {
          if (read.type !== 'read' || read.hash === null) return false;
          return !requests.some((other) => {
            const isChange = other.type !== 'read' && other.type !== 'flush';
            const isEarly = other.startNs <= read.startNs + read.durationNs;
            return isChange && isEarly && touches(read, other);
          });
        });
        expect(new Set(comparableReads(requests))).toEqual(new Set(expected));
      }),
    );
  });
});
