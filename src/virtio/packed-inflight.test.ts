/** What a packed ring keeps of its requests in flight, and makes of what it finds. See inflight-model.test.ts. */
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { BUFFER, InflightRig, SPACE } from '../../test/support/inflight-rig.ts';
import { isKilledAfter, killable } from '../../test/support/killable.ts';
import { PackedRingRig } from '../../test/support/packed-ring-rig.ts';
import { NO_HEAD } from '../initiator/driver-ring.ts';
import type { PackedDriverRing } from '../initiator/packed-driver-ring.ts';
import { RingFault } from './chain.ts';
import type { PackedRing } from './packed-ring.ts';
import { PACKED_BASE_FIRST } from './ring-shape.ts';

const SIZE = 8;
const HEADER_BYTES = 32;
const ENTRY_BYTES = 32;
const WRAP = 0x8000;
/** A request of several descriptors. */
const chainOf = (count: number) => Array.from({ length: count }, () => BUFFER);
const both = (half: number): number => (half | (half << 16)) >>> 0;

const rigs: Rig[] = [];
afterEach(() => {
  for (const rig of rigs.splice(0)) rig.close();
});

class Rig extends InflightRig<PackedDriverRing, PackedRing> {
  constructor({ base = PACKED_BASE_FIRST, entries = SIZE, hasEventIdx = false } = {}) {
    super(new PackedRingRig({ size: SIZE, base, hasEventIdx }), true, entries);
    rigs.push(this);
    this.restart(base);
  }

  /** As after a crash: the front-end knows nothing. */
  override restart(base = PACKED_BASE_FIRST): PackedRing {
    return super.restart(base);
  }

  entry(index: number) {
    const at = HEADER_BYTES + ENTRY_BYTES * index;
    const half = (offset: number): number => this.view.getUint16(at + offset, true);
    return {
      mark: this.view.getUint8(at),
      next: half(2),
      last: half(4),
      count: half(6),
      counter: this.view.getBigUint64(at + 8, true),
      id: half(16),
      flags: half(18) & 0x7f,
      length: this.view.getUint32(at + 20, true),
      address: Number(this.view.getBigUint64(at + 24, true)),
    };
  }

  get header() {
    const half = (at: number): number => this.view.getUint16(at, true);
    return {
      version: half(8),
      entries: half(10),
      free: [half(12), half(14)],
      used: [half(16), half(18)],
      wraps: [this.view.getUint8(20), this.view.getUint8(21)],
    };
  }

  /** Requests that are taken and given back at once. */
  pass(...counts: number[]): void {
    for (const count of counts) {
      this.submit(1, chainOf(count));
      this.device.push(this.take(), 0);
      this.device.publish();
      this.collect();
    }
  }
}

describe('the area', () => {
  it('is begun by the first ring that uses it', () => {
    const rig = new Rig({ base: both(5), entries: 16 });
    expect(rig.header).toEqual({ version: 1, entries: 16, free: [0, 0], used: [5, 5], wraps: [0, 0] });
    expect(Array.from({ length: 16 }, (_, i) => rig.entry(i).next)).toEqual(
      Array.from({ length: 16 }, (_, i) => i + 1),
    );
    expect(rig.device.recovery).toMatchObject({ heads: [], staleReason: null });
    expect(rig.device.base).toBe(both(5));
  });

  it('has the layout of the specification', () => {
    const rig = new Rig();
    const buffers = [
      { gpa: SPACE, lengthBytes: 16, isWritable: false },
      { gpa: SPACE + 64, lengthBytes: 512, isWritable: true },
    ];
    const [first = 0] = rig.submit(1, buffers);
    const [second = 0] = rig.submit(1);
    rig.takeAll();
    expect([0, 1, 2].map((index) => rig.entry(index))).toEqual([
      { mark: 1, next: 1, last: 1, count: 2, counter: 1n, id: first, flags: 1, length: 16, address: SPACE },
      { mark: 0, next: 2, last: 0, count: 0, counter: 0n, id: first, flags: 2, length: 512, address: SPACE + 64 },
      { mark: 1, next: 3, last: 2, count: 1, counter: 2n, id: second, flags: 2, length: 16, address: SPACE },
    ]);
    expect(rig.header).toMatchObject({ free: [3, 3], used: [0, 0], wraps: [1, 1] });
    rig.device.push(first, 0);
    expect([rig.entry(0).mark, rig.header.used]).toEqual([1, [0, 0]]);
    rig.device.publish();
    expect([rig.entry(0).mark, rig.entry(2).mark, rig.entry(1).next]).toEqual([0, 1, 3]);
    expect(rig.header).toMatchObject({ free: [0, 0], used: [2, 2], wraps: [1, 1] });
  });

  it('turns with the ring, also when a batch is a whole turn', () => {
    const rig = new Rig();
    const heads = rig.submit(SIZE);
    rig.takeAll();
    for (const head of heads) rig.device.push(head, 0);
    rig.device.publish();
    expect(rig.header).toMatchObject({ used: [0, 0], wraps: [0, 0] });
    expect(rig.restart().base).toBe(both(0));
  });

  it('does not keep a chain that was put back', () => {
    const rig = new Rig();
    const [head = NO_HEAD] = rig.submit(1, chainOf(3));
    rig.take();
    rig.device.unpop(head);
    expect([rig.entry(0).mark, rig.header.free]).toEqual([0, [0, 0]]);
    expect(rig.restart().recovery.heads).toEqual([]);
    expect(rig.take()).toBe(head);
  });
});

describe('a device after a crash', () => {
  it('takes what was in flight first, in the order in which it was taken, then what comes next', () => {
    const rig = new Rig({ base: both(6 | WRAP) });
    const heads = [2, 1, 1, 1].flatMap((count) => rig.submit(1, chainOf(count)));
    const [late = NO_HEAD] = rig.submit(1, chainOf(2));
    for (let i = 0; i < 4; i++) rig.take();
    // The first two descriptors are written over.
    rig.device.push(heads[1] as number, 0);
    rig.device.push(heads[2] as number, 0);
    rig.device.publish();
    const device = rig.restart();
    const expected = [heads[0], heads[3]];
    expect(device.recovery).toMatchObject({ heads: expected, staleReason: null });
    expect([device.againCount, device.look(), device.hasAvailable()]).toEqual([2, 2, true]);
    expect([rig.take(), rig.chain.count, rig.chain.addresses[0]]).toEqual([heads[0], 2, SPACE]);
    expect(rig.takeAll()).toEqual([heads[3], late]);
    expect(device.base).toBe((0 << 16) | 5);
    // The counter goes on: a second crash keeps the order.
    expect(rig.restart().recovery.heads).toEqual([...expected, late]);
  });

  it('takes up what another left when it was stopped, and counts it in its base', () => {
    const rig = new Rig({ base: both(6 | WRAP) });
    const heads = [1, 2, 1, 1].flatMap((count) => rig.submit(1, chainOf(count)));
    for (let i = 0; i < 3; i++) rig.take();
    rig.device.push(heads[0] as number, 0);
    rig.device.publish();
    expect(rig.device.base).toBe((((7 | WRAP) << 16) | 2) >>> 0);
    expect(rig.restart(rig.device.base).recovery.heads).toEqual([heads[1], heads[2]]);
    expect(rig.takeAll()).toEqual(heads.slice(1));
  });

  it('puts one that it takes again back to the front', () => {
    const rig = new Rig();
    const heads = [1, 2, 3].flatMap((count) => rig.submit(1, chainOf(count)));
    rig.takeAll();
    rig.restart();
    for (const head of heads) {
      for (let i = 0; i < 2; i++) {
        expect(rig.take()).toBe(head);
        rig.device.unpop(head);
      }
      expect(rig.take()).toBe(head);
    }
    const [last = NO_HEAD] = rig.submit(1);
    expect(rig.take()).toBe(last);
    rig.device.unpop(last);
    expect(rig.takeAll()).toEqual([last]);
  });

  it('goes on where the ring stood, whatever base it is told: QEMU knows that of the last stop only', () => {
    const rig = new Rig();
    rig.pass(3, 2, 1, 3);
    for (const base of [PACKED_BASE_FIRST, both(3 | WRAP), rig.driver.usedBase]) {
      expect(rig.restart(base).base).toBe(both(1));
    }
  });

  it('does not show what the one before had done and not shown', () => {
    const rig = new Rig();
    const heads = rig.submit(3);
    rig.takeAll();
    for (const head of heads) rig.device.push(head, 0);
    rig.restart();
    rig.device.push(rig.take(), 0);
    rig.device.publish();
    expect(rig.collect()).toEqual([heads[0]]);
  });

  it.each([
    ['went on meanwhile', true],
    ['waits', false],
  ])('finds what was shown wherever it was killed while the ring turned, and the driver %s', (_, goesOn) => {
    let shownCount = 0;
    for (let stores = 0; stores < 20; stores++) {
      const rig = new Rig();
      rig.pass(3, 3);
      rig.device.close();
      rig.ring.device = killable(() => rig.ring.startDevice(PACKED_BASE_FIRST, rig.area));
      // The place after it, 1, was inside of a chain in the turn before, and looks as it did then.
      const [head = NO_HEAD] = rig.submit(1, chainOf(3));
      rig.device.push(rig.take(), 0);
      const isKilled = isKilledAfter(stores, () => rig.device.publish());
      const isShown = rig.driver.hasUsed();
      shownCount += isShown && isKilled ? 1 : 0;
      expect(rig.collect()).toEqual(isShown ? [head] : []);
      if (goesOn) rig.submit(rig.driver.freeCount);
      expect(rig.restart().recovery).toMatchObject({ heads: isShown ? [] : [head], staleReason: null });
      expect(rig.device.base).toBe(isShown ? both(1) : (((6 | WRAP) << 16) | 1) >>> 0);
    }
    // Otherwise nothing was tested.
    expect(shownCount).toBeGreaterThan(3);
  });

  it('calls the driver at its first completion, and is kicked where it stands', () => {
    const rig = new Rig({ hasEventIdx: true });
    rig.submit(2);
    rig.take();
    rig.device.disarmKick();
    rig.driver.wantCallAt(7 | WRAP);
    const device = rig.restart();
    device.push(rig.take(), 0);
    expect(device.publish()).toBe(true);
    rig.takeAll();
    expect(device.armKick()).toBe(false);
    expect([...rig.driver.deviceEvent]).toEqual([2 | WRAP, 2]);
  });
});

describe('an area that is not of its ring', () => {
  it('is the chain that was taken, in as many descriptors, whatever the driver made of them meanwhile', () => {
    const rig = new Rig();
    const [id = -1] = rig.submit(1, chainOf(3));
    const [next = -1] = rig.submit(1, chainOf(2));
    expect(rig.device.look()).toBe(2);
    const ring = rig.ring as PackedRingRig;
    for (let place = 0; place < 5; place++) ring.write(place, SPACE + 64, 32, 7, 0x80 | (place === 2 ? 1 : 0));
    expect(rig.takeAll()).toEqual([id, next]);
    expect(rig.restart().recovery).toMatchObject({ heads: [id, next], staleReason: null });
    expect([rig.take(), rig.chain.count, rig.take(), rig.chain.count]).toEqual([id, 3, next, 2]);
  });

  it('is no matter when nothing is in flight and the ring was begun anew: it begins at its base', () => {
    for (const counts of [[3], [3, 3], [3, 3, 3], [2, 2, 2, 2, 3]]) {
      const rig = new Rig();
      rig.pass(...counts);
      rig.driver.reset();
      expect(rig.restart().base).toBe(PACKED_BASE_FIRST);
      expect(rig.header).toMatchObject({ used: [0, 0], wraps: [1, 1] });
      // Nothing that is taken now is lost by it (SPDK #3766).
      const heads = rig.submit(2);
      rig.takeAll();
      expect(rig.restart().recovery.heads).toEqual(heads);
    }
  });

  it.each<[string, (rig: Rig) => void, RegExp]>([
    ['another version', (rig) => rig.view.setUint16(8, 2, true), /version 2/],
    ['another number of entries', (rig) => rig.view.setUint16(10, 4, true), /for 4 entries/],
    ['a place outside of the ring', (rig) => rig.view.setUint32(16, 0x0800_0800, true), /ends at/],
    ['a place where the ring does not stand', (rig) => rig.view.setUint32(16, 0x0004_0004, true), /does not stand/],
    ['more descriptors than the driver made', (rig) => rig.driver.ring16.fill(0, 8, 16), /does not stand/],
    ['a chain without an end', (rig) => rig.view.setUint16(HEADER_BYTES + 2, 0, true), /lists/],
    ['a chain of no descriptors', (rig) => rig.view.setUint16(HEADER_BYTES + 6, 0, true), /lists/],
    ['a chain with the id of another', (rig) => rig.view.setUint16(HEADER_BYTES + 2 * 32 + 16, 0, true), /lists/],
    ['an id outside of the ring', (rig) => rig.view.setUint16(HEADER_BYTES + 2 * 32 + 16, SIZE, true), /lists/],
    ['flags that do not end a chain', (rig) => rig.view.setUint8(HEADER_BYTES + 32 + 18, 1), /lists/],
  ])('with %s is begun anew, and nothing of it is done', (_, spoil, reason) => {
    const rig = new Rig();
    rig.submit(1, chainOf(2));
    rig.submit(1);
    rig.takeAll();
    spoil(rig);
    const { recovery } = rig.restart();
    expect(recovery.heads).toEqual([]);
    expect(recovery.staleReason).toMatch(reason);
    expect(rig.header).toEqual({ version: 1, entries: SIZE, free: [0, 0], used: [0, 0], wraps: [1, 1] });
  });

  /** Whatever is found goes back to the driver. Returns what is in flight then. */
  function takesAll(rig: Rig, noise: Uint8Array): number {
    const { heads } = rig.restart().recovery;
    expect(new Set(heads).size).toBe(heads.length);
    expect(heads.length).toBeLessThanOrEqual(SIZE);
    for (const head of rig.takeAll()) rig.device.push(head, 0);
    rig.restore(noise);
    rig.device.publish();
    const { inFlightCount } = rig.device;
    rigs.pop()?.close();
    return inFlightCount;
  }

  it('filled with anything harms nobody', () => {
    const bytes = HEADER_BYTES + SIZE * ENTRY_BYTES;
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: bytes, maxLength: bytes, size: 'max' }),
        fc.boolean(),
        fc.nat(4),
        (noise, isPlain, count) => {
          const rig = new Rig();
          rig.submit(count);
          // Past the first checks, more often than chance has it.
          if (isPlain) noise.set([1, 0, SIZE, 0, SIZE, 0, SIZE, 0, 0, 0, 0, 0, 1, 1], 8);
          rig.restore(noise);
          expect(takesAll(rig, noise)).toBe(0);
        },
      ),
    );
  });

  it('with some bytes that are others harms nobody', () => {
    const byte = fc.tuple(
      fc.nat(HEADER_BYTES + 4 * ENTRY_BYTES - 1),
      fc.oneof(fc.nat(SIZE + 1), fc.nat(0xff), fc.constant(0xff)),
    );
    let found = 0;
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 3 }),
        fc.array(byte, { minLength: 1, maxLength: 4 }),
        (counts, others) => {
          const rig = new Rig({ base: both(5 | WRAP) });
          for (const count of counts) rig.submit(1, chainOf(Math.min(count, rig.driver.freeCount || 1)));
          rig.takeAll();
          for (const [at, value] of others) rig.view.setUint8(at, value);
          const noise = rig.snapshot();
          found += rig.restart(both(5 | WRAP)).recovery.heads.length;
          rig.restore(noise);
          expect(takesAll(rig, noise)).toBe(0);
        },
      ),
      { numRuns: 1000 },
    );
    expect(found).toBeGreaterThan(0);
  });

  it('with a chain that is broken breaks the ring, once', () => {
    const rig = new Rig();
    rig.submit(1);
    rig.take();
    rig.view.setUint16(HEADER_BYTES + 18, 0x84, true);
    rig.view.setUint32(HEADER_BYTES + 20, 3, true);
    const device = rig.restart();
    expect([rig.take(), device.fault]).toEqual([NO_HEAD, RingFault.indirectLength]);
    expect([device.againCount, device.hasAvailable(), device.look()]).toEqual([0, false, 0]);
  });
});
