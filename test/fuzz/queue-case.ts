/**
 * Requests to a queue as cases of a fuzzer: bytes for the device and room for its answer, cut into descriptors that lie
 * anywhere, and what must hold however the device answers: every chain comes back once, no byte outside of the
 * device-writable descriptors is written.
 */
import { ok } from 'node:assert/strict';
import * as fc from 'fast-check';
import { NO_HEAD, type Segment } from '../../src/initiator/driver-ring.ts';
import type { RingRig } from '../support/split-ring-rig.ts';
import { BUFFERS_ADDRESS, gpas, TABLE_ADDRESS } from './hostile-ring.ts';

/** One indirect table a request: 32 entries. */
const TABLE_BYTES = 32 * 16;
const BYTES_PER_REQUEST = 8192;
export const REQUESTS_MAX = 6;
const UNTOUCHED = 0xa5;

export interface ChainShape {
  /** Lengths of device-readable and of device-writable descriptors; what they leave over is one more. */
  readonly readableCuts: readonly number[];
  readonly writableCuts: readonly number[];
  /** Bytes that the readable part has more or less than it should. */
  readonly excess: number;
  /** Descriptors of the ring before the others go into a table. */
  readonly direct: number;
  /** Replaces the address of a descriptor: which (modulo their number), and where to; -1: none. */
  readonly astray: readonly [which: number, gpa: number];
}

const cuts = fc.array(fc.oneof(fc.nat(40), fc.constantFrom(0, 1, 8, 16, 51, 108, 512)), { maxLength: 5 });
export const chainShapes: fc.Arbitrary<ChainShape> = fc.record({
  readableCuts: cuts,
  writableCuts: cuts,
  excess: fc.oneof(
    { weight: 8, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.integer({ min: -60, max: 60 }) },
  ),
  direct: fc.oneof(fc.constant(99), fc.nat(6)),
  astray: fc.oneof(
    { weight: 8, arbitrary: fc.constant([-1, 0] as [number, number]) },
    { weight: 1, arbitrary: fc.tuple(fc.nat(10), gpas) },
  ),
});

function cut(total: number, lengths: readonly number[]): number[] {
  const parts: number[] = [];
  let left = total;
  for (const length of lengths) {
    parts.push(Math.min(length, left));
    left -= Math.min(length, left);
  }
  if (left > 0) parts.push(left);
  return parts;
}

export class QueueCase {
  readonly #rig: RingRig;
  readonly #sent = new Map<number, readonly Segment[]>();
  #placed = 0;

  constructor(rig: RingRig) {
    this.#rig = rig;
    for (const region of rig.memory.regions) region.bytes.fill(UNTOUCHED);
  }

  /** Lays a request out and shows it. False when the ring is full. */
  submit(out: Uint8Array, roomBytes: number, shape: ChainShape): boolean {
    const at = BUFFERS_ADDRESS + this.#placed * BYTES_PER_REQUEST;
    const outBytes = Math.max(0, Math.min(out.length + shape.excess, BYTES_PER_REQUEST / 2));
    this.#rig.memory.write(at, out.subarray(0, outBytes));
    const segments: Segment[] = [];
    let gpa = at;
    const add = (lengthBytes: number, isWritable: boolean): void => {
      segments.push({ gpa, lengthBytes, isWritable });
      gpa += lengthBytes;
    };
    for (const length of cut(outBytes, shape.readableCuts)) add(length, false);
    gpa = at + BYTES_PER_REQUEST / 2;
    for (const length of cut(Math.min(roomBytes, BYTES_PER_REQUEST / 2), shape.writableCuts)) add(length, true);
    if (segments.length === 0) add(0, false);
    const [which, elsewhere] = shape.astray;
    const strayed = segments.map((one, i) =>
      which >= 0 && i === which % segments.length ? { ...one, gpa: elsewhere } : one,
    );
    const head = this.#rig.addMixed(
      strayed,
      Math.min(shape.direct, strayed.length),
      TABLE_ADDRESS + this.#placed * TABLE_BYTES,
    );
    if (head === NO_HEAD) return false;
    this.#placed++;
    this.#sent.set(head, strayed);
    this.#rig.show(head);
    return true;
  }

  /** Takes back what was completed; each is checked. Returns how many are still with the device. */
  collect(): number {
    const { driver } = this.#rig;
    for (let head = driver.popUsed(); head !== NO_HEAD; head = driver.popUsed()) {
      const segments = this.#sent.get(head);
      ok(segments !== undefined, 'a chain comes back once');
      const room = segments.reduce((sum, { lengthBytes, isWritable }) => sum + (isWritable ? lengthBytes : 0), 0);
      ok(driver.usedLen <= room, `${driver.usedLen} bytes are said to be written to ${room}`);
      this.#sent.delete(head);
    }
    return this.#sent.size;
  }

  /** Across `work` the memory may change in writable descriptors and in the used ring only. */
  checkUntouched(work: () => void): void {
    const { memory, driver } = this.#rig;
    const before = memory.regions.map(({ bytes }) => Buffer.from(bytes));
    const writable = [...this.#sent.values()].flat().filter(({ isWritable }) => isWritable);
    work();
    const used = { gpa: driver.usedAddress, lengthBytes: 8 + 8 * driver.size };
    memory.regions.forEach((region, i) => {
      const expected = before[i] as Buffer;
      for (const { gpa, lengthBytes } of [...writable, used]) {
        const start = Math.max(0, gpa - region.guestAddress);
        const end = Math.min(region.sizeBytes, gpa + lengthBytes - region.guestAddress);
        if (start < end) expected.set(region.bytes.subarray(start, end), start);
      }
      if (expected.equals(region.bytes)) return;
      const at = region.bytes.findIndex((byte, place) => byte !== expected[place]);
      ok(false, `the device wrote to 0x${(region.guestAddress + at).toString(16)}, which no descriptor gave it`);
    });
  }
}
