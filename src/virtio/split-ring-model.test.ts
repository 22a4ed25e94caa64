/** The device's split ring against a model in plain arrays, over random operations of both sides. */
import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { RIG_GUEST_ADDRESS } from '../../test/support/ring-rig.ts';
import { RingRig } from '../../test/support/split-ring-rig.ts';
import { NO_HEAD, type Segment } from '../initiator/driver-ring.ts';
import { Chain } from './chain.ts';

/** A table for every head: a chain has at most `SEGMENTS_MAX` buffers, and its table may be unaligned. */
const SEGMENTS_MAX = 12;
const TABLE_STRIDE = 16 * SEGMENTS_MAX + 16;
const TABLES = RIG_GUEST_ADDRESS + (1 << 20);

interface Request {
  readonly head: number;
  readonly segments: readonly Segment[];
}

/** Both sides of a ring, and what they should see of each other. */
class Model {
  readonly rig: RingRig;
  /** Shown by the driver, not taken. */
  readonly #waiting: Request[] = [];
  /** Taken, not returned. */
  readonly #taken: Request[] = [];
  /** Returned, not yet shown to the driver. */
  readonly #returned: { readonly head: number; readonly length: number }[] = [];
  /** Shown to the driver, not consumed. */
  readonly #shown: { readonly head: number; readonly length: number }[] = [];
  readonly #chain = new Chain();
  #nextAvail: number;
  #usedIdx: number;
  #hasSignalled = false;
  #refusesCalls = false;
  #usedEvent: number;
  /** The request of the last pop, while it can be put back. */
  #last: Request | null = null;

  constructor(rig: RingRig, base: number) {
    this.rig = rig;
    this.#nextAvail = base;
    this.#usedIdx = base;
    this.#usedEvent = base;
  }

  submit(segments: readonly Segment[], directCount: number, offset: number): void {
    const { driver } = this.rig;
    const needed = Math.min(directCount, segments.length) + (directCount < segments.length ? 1 : 0);
    if (needed > driver.freeCount) return;
    const shape = Math.min(directCount, segments.length);
    const head = this.rig.addMixed(segments, shape, TABLES + this.#freeTable() * TABLE_STRIDE + offset);
    assert.notEqual(head, NO_HEAD);
    this.#tables.set(head, this.#freeTable());
    driver.expose(head);
    driver.publish();
    this.#waiting.push({ head, segments });
  }

  pop(): void {
    const { device } = this.rig;
    assert.equal(device.hasAvailable(), this.#waiting.length > 0);
    const request = this.#waiting.shift();
    assert.equal(device.pop(this.#chain), request !== undefined);
    if (request === undefined) return;
    this.#expectChain(request);
    this.#taken.push(request);
    this.#last = request;
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
  }

  unpop(): void {
    const last = this.#last;
    if (last === null || !this.#taken.includes(last)) return;
    this.rig.device.unpop(last.head);
    this.#taken.splice(this.#taken.indexOf(last), 1);
    this.#waiting.unshift(last);
    this.#last = null;
    this.#nextAvail = (this.#nextAvail - 1) & 0xffff;
  }

  push(which: number, length: number): void {
    const [request] = this.#taken.splice(which % Math.max(this.#taken.length, 1), 1);
    if (request === undefined) return;
    this.rig.device.push(request.head, length);
    this.#returned.push({ head: request.head, length });
  }

  publish(): void {
    const shown = this.#returned.splice(0);
    const indices = shown.map((_, i) => (this.#usedIdx + i) & 0xffff);
    const isWanted = this.rig.hasEventIdx
      ? !this.#hasSignalled || indices.includes(this.#usedEvent)
      : !this.#refusesCalls;
    assert.equal(this.rig.device.publish(), shown.length > 0 && isWanted);
    if (shown.length > 0) this.#hasSignalled = true;
    this.#usedIdx = (this.#usedIdx + shown.length) & 0xffff;
    this.#shown.push(...shown);
  }

  consume(): void {
    const { driver } = this.rig;
    for (const { head, length } of this.#shown.splice(0)) {
      assert.deepEqual([driver.popUsed(), driver.usedLen], [head, length]);
      driver.freeChain(head);
      this.#tables.delete(head);
    }
    assert.equal(driver.popUsed(), NO_HEAD);
  }

  wantCallAt(index: number): void {
    if (!this.rig.hasEventIdx) return;
    this.#usedEvent = (this.#usedIdx + index) & 0xffff;
    this.rig.driver.wantCallAt(this.#usedEvent);
  }

  refuseCalls(isRefused: boolean): void {
    if (this.rig.hasEventIdx) return;
    this.#refusesCalls = isRefused;
    if (isRefused) this.rig.driver.refuseCalls();
    else this.rig.driver.wantCalls();
  }

  /** A stop and a start of the device, as around a new memory table: only with nothing in flight. */
  restart(): void {
    if (this.#taken.length + this.#returned.length > 0) return;
    const { device } = this.rig;
    assert.equal(device.base, this.#nextAvail);
    device.close();
    this.rig.device = this.rig.startDevice(this.#nextAvail);
    this.#hasSignalled = false;
    this.#last = null;
  }

  /** What must hold after every operation. */
  check(): void {
    const { device, driver } = this.rig;
    assert.equal(device.fault, 0);
    assert.equal(device.base, this.#nextAvail);
    assert.equal(device.inFlightCount, this.#taken.length);
    // Nothing is visible to the driver before it is published.
    assert.equal(driver.usedIdx(), this.#usedIdx);
  }

  readonly #tables = new Map<number, number>();

  #freeTable(): number {
    const taken = new Set(this.#tables.values());
    for (let i = 0; ; i++) if (!taken.has(i)) return i;
  }

  #expectChain({ head, segments }: Request): void {
    const chain = this.#chain;
    const sum = (isWritable: boolean) =>
      segments.reduce((total, segment) => total + (segment.isWritable === isWritable ? segment.lengthBytes : 0), 0);
    assert.deepEqual(
      [chain.head, chain.count, chain.readableCount, chain.readableBytes, chain.writableBytes],
      [head, segments.length, segments.filter((segment) => !segment.isWritable).length, sum(false), sum(true)],
    );
    segments.forEach(({ gpa, lengthBytes }, i) => {
      assert.deepEqual([chain.addresses[i], chain.lengths[i]], [gpa, lengthBytes]);
    });
  }
}

type Step = (model: Model) => void;

const buffer = fc.record({ gpa: fc.maxSafeNat(), lengthBytes: fc.integer({ min: 0, max: 2 ** 28 - 1 }) });
const segmentList = fc
  .tuple(fc.array(buffer, { minLength: 1, maxLength: SEGMENTS_MAX }), fc.nat(SEGMENTS_MAX))
  .map(([buffers, readableCount]) => buffers.map((one, i): Segment => ({ ...one, isWritable: i >= readableCount })));

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(segmentList, fc.nat(SEGMENTS_MAX), fc.nat(15)).map(
      ([segments, direct, offset]): Step =>
        (model) =>
          model.submit(segments, direct, offset),
    ),
  },
  { weight: 6, arbitrary: fc.constant<Step>((model) => model.pop()) },
  { weight: 1, arbitrary: fc.constant<Step>((model) => model.unpop()) },
  {
    weight: 5,
    arbitrary: fc.tuple(fc.nat(1023), fc.nat(2 ** 32 - 1)).map(
      ([which, length]): Step =>
        (model) =>
          model.push(which, length),
    ),
  },
  { weight: 3, arbitrary: fc.constant<Step>((model) => model.publish()) },
  { weight: 3, arbitrary: fc.constant<Step>((model) => model.consume()) },
  {
    weight: 1,
    arbitrary: fc.integer({ min: -2, max: 6 }).map(
      (index): Step =>
        (model) =>
          model.wantCallAt(index),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.boolean().map(
      (isRefused): Step =>
        (model) =>
          model.refuseCalls(isRefused),
    ),
  },
  { weight: 1, arbitrary: fc.constant<Step>((model) => model.restart()) },
);

it('hands out, returns and shows what a model in plain arrays does', () => {
  const property = fc.property(
    fc.nat(10),
    fc.boolean(),
    fc.oneof(fc.constant(0), fc.integer({ min: 0xfff0, max: 0xffff })),
    fc.array(step, { minLength: 20, maxLength: 250, size: 'max' }),
    (exponent, hasEventIdx, base, steps) => {
      const rig = new RingRig({ size: 1 << exponent, hasEventIdx, base });
      try {
        const model = new Model(rig, base);
        for (const one of steps) {
          one(model);
          model.check();
        }
      } finally {
        rig.close();
      }
    },
  );
  expect(() => fc.assert(property, { numRuns: 150 })).not.toThrow();
});
