/** The device's packed ring against a model in plain arrays, over random operations of both sides. */
import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { PackedRingRig } from '../../test/support/packed-ring-rig.ts';
import { RIG_GUEST_ADDRESS } from '../../test/support/ring-rig.ts';
import { NO_HEAD, type Segment } from '../initiator/driver-ring.ts';
import { Chain } from './chain.ts';

/** A table for every chain in the driver's hands: at most `SEGMENTS_MAX` buffers, and it may be unaligned. */
const SEGMENTS_MAX = 12;
const TABLE_STRIDE = 16 * SEGMENTS_MAX + 16;
const TABLES = RIG_GUEST_ADDRESS + (1 << 20);

interface Request {
  readonly head: number;
  readonly segments: readonly Segment[];
  /** Descriptors in the ring. */
  readonly slots: number;
}

interface Returned {
  readonly request: Request;
  readonly length: number;
}

/** Both sides of a ring, and what they should see of each other. Places count on without end. */
class Model {
  readonly rig: PackedRingRig;
  /** Shown by the driver, not taken. */
  readonly #waiting: Request[] = [];
  /** Taken, not returned. */
  readonly #taken: Request[] = [];
  /** Returned, not yet shown to the driver. */
  readonly #returned: Returned[] = [];
  /** Shown to the driver, not consumed. */
  readonly #shown: Returned[] = [];
  readonly #tables = new Map<number, number>();
  readonly #chain = new Chain();
  #availPlace: number;
  /** Of what was returned, and of what was shown. */
  #returnedPlace: number;
  #shownPlace: number;
  #hasSignalled = false;
  /** Null: no calls; -1: all. */
  #wish: number | null = -1;
  /** The request of the last pop, while it can be put back. */
  #last: Request | null = null;

  constructor(rig: PackedRingRig, place: number) {
    this.rig = rig;
    this.#availPlace = place;
    this.#returnedPlace = place;
    this.#shownPlace = place;
  }

  submit(segments: readonly Segment[], isIndirect: boolean, offset: number): void {
    const { driver } = this.rig;
    const slots = isIndirect ? 1 : segments.length;
    if (slots > driver.freeCount) return;
    const table = this.#freeTable();
    const head = this.rig.submit(segments, isIndirect ? TABLES + table * TABLE_STRIDE + offset : undefined);
    assert.notEqual(head, NO_HEAD);
    this.#tables.set(head, table);
    this.#waiting.push({ head, segments, slots });
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
    this.#availPlace += request.slots;
  }

  look(): void {
    const seen = this.rig.device.look();
    assert.ok(this.#waiting.length === 0 ? seen === 0 : seen >= 1 && seen <= this.#waiting.length);
  }

  unpop(): void {
    const last = this.#last;
    if (last === null || !this.#taken.includes(last)) return;
    this.rig.device.unpop(last.head);
    this.#taken.splice(this.#taken.indexOf(last), 1);
    this.#waiting.unshift(last);
    this.#last = null;
    this.#availPlace -= last.slots;
  }

  push(which: number, length: number): void {
    const [request] = this.#taken.splice(which % Math.max(this.#taken.length, 1), 1);
    if (request === undefined) return;
    this.rig.device.push(request.head, length);
    this.#returned.push({ request, length });
    this.#returnedPlace += request.slots;
  }

  publish(): void {
    const shown = this.#returned.splice(0);
    const before = this.#shownPlace;
    this.#shownPlace = this.#returnedPlace;
    let isWanted = this.#wish === -1;
    // What is written down is a position and a wrap counter: two turns later it means the next place with both.
    const turns = 2 * this.rig.size;
    if (this.#wish !== null && this.#wish >= 0) {
      const next = before + ((((this.#wish - before) % turns) + turns) % turns);
      isWanted = next < this.#shownPlace;
    }
    if (this.rig.hasEventIdx && !this.#hasSignalled && this.#wish !== null) isWanted = true;
    assert.equal(this.rig.device.publish(), shown.length > 0 && isWanted);
    if (shown.length > 0) this.#hasSignalled = true;
    this.#shown.push(...shown);
  }

  consume(): void {
    const { driver } = this.rig;
    for (const { request, length } of this.#shown.splice(0)) {
      assert.deepEqual([driver.popUsed(), driver.usedLen], [request.head, length]);
      driver.freeChain(request.head);
      this.#tables.delete(request.head);
    }
    assert.equal(driver.popUsed(), NO_HEAD);
  }

  /** A place that comes within the next turn. */
  wantCallAt(distance: number): void {
    if (!this.rig.hasEventIdx) return;
    // Only a driver that has seen everything knows what comes.
    this.consume();
    this.#wish = this.#shownPlace + (distance % this.rig.size);
    this.rig.driver.wantCallAt(halfOf(this.#wish, this.rig.size));
  }

  refuseCalls(isRefused: boolean): void {
    this.#wish = isRefused ? null : -1;
    if (isRefused) this.rig.driver.refuseCalls();
    else if (this.rig.hasEventIdx) this.rig.driver.driverEvent[1] = 0;
    else this.rig.driver.wantCalls();
  }

  /** A stop and a start of the device, as around a new memory table: only with nothing in flight. */
  restart(): void {
    if (this.#taken.length + this.#returned.length > 0) return;
    const { device } = this.rig;
    const { base } = device;
    device.close();
    this.rig.device = this.rig.startDevice(base);
    this.#hasSignalled = false;
    this.#last = null;
  }

  /** What must hold after every operation. */
  check(): void {
    const { device, driver, size } = this.rig;
    assert.equal(device.fault, 0);
    const half = [halfOf(this.#availPlace, size), halfOf(this.#returnedPlace, size)] as const;
    assert.equal(device.base, half[0] + half[1] * 2 ** 16);
    assert.equal(device.inFlightCount, this.#taken.length);
    // Nothing is visible to the driver before it is published.
    assert.equal(driver.hasUsed(), this.#shown.length > 0);
    assert.equal(driver.usedBase & 0xffff, halfOf(this.#shownPlace, size));
  }

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

/** Half of a base: a place that counts on without end, the first turn being that of wrap counter 1. */
function halfOf(place: number, size: number): number {
  return (place % size) + (Math.floor(place / size) % 2 === 0 ? 0x8000 : 0);
}

type Step = (model: Model) => void;

const buffer = fc.record({ gpa: fc.maxSafeNat(), lengthBytes: fc.integer({ min: 0, max: 2 ** 28 - 1 }) });
const segmentList = fc
  .tuple(fc.array(buffer, { minLength: 1, maxLength: SEGMENTS_MAX }), fc.nat(SEGMENTS_MAX))
  .map(([buffers, readableCount]) => buffers.map((one, i): Segment => ({ ...one, isWritable: i >= readableCount })));

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.tuple(segmentList, fc.boolean(), fc.nat(15)).map(
      ([segments, isIndirect, offset]): Step =>
        (model) =>
          model.submit(segments, isIndirect, offset),
    ),
  },
  { weight: 6, arbitrary: fc.constant<Step>((model) => model.pop()) },
  { weight: 2, arbitrary: fc.constant<Step>((model) => model.look()) },
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
    weight: 2,
    arbitrary: fc.nat(40).map(
      (distance): Step =>
        (model) =>
          model.wantCallAt(distance),
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
    fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(64, 255, 1024)),
    fc.boolean(),
    fc.nat(2048),
    fc.array(step, { minLength: 20, maxLength: 250, size: 'max' }),
    (size, hasEventIdx, start, steps) => {
      const place = start % (2 * size);
      const half = halfOf(place, size);
      const rig = new PackedRingRig({ size, hasEventIdx, base: half + half * 2 ** 16 });
      try {
        const model = new Model(rig, place);
        for (const one of steps) {
          one(model);
          model.check();
        }
      } finally {
        rig.close();
      }
    },
  );
  expect(() => fc.assert(property, { numRuns: 200 })).not.toThrow();
});
