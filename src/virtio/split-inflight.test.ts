/** What a split ring keeps of its requests in flight, and makes of what it finds. See inflight-model.test.ts. */
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { InflightRig, SPACE } from '../../test/support/inflight-rig.ts';
import { RingRig } from '../../test/support/split-ring-rig.ts';
import { NO_HEAD } from '../initiator/driver-ring.ts';
import type { SplitDriverRing } from '../initiator/split-driver-ring.ts';
import { RingFault } from './chain.ts';
import type { SplitRing } from './split-ring.ts';

const SIZE = 8;
const HEADER_BYTES = 16;
const ENTRY_BYTES = 16;

const rigs: Rig[] = [];
afterEach(() => {
  for (const rig of rigs.splice(0)) rig.close();
});

class Rig extends InflightRig<SplitDriverRing, SplitRing> {
  constructor({ base = 0, entries = SIZE } = {}) {
    super(new RingRig({ size: SIZE, base }), false, entries);
    rigs.push(this);
    this.restart(base);
  }

  /** As after a crash: the front-end knows only the used index. */
  override restart(base = this.driver.usedIdx()): SplitRing {
    return super.restart(base);
  }

  mark(head: number): number {
    return this.view.getUint8(HEADER_BYTES + ENTRY_BYTES * head);
  }

  counter(head: number): bigint {
    return this.view.getBigUint64(HEADER_BYTES + ENTRY_BYTES * head + 8, true);
  }

  next(head: number): number {
    return this.view.getUint16(HEADER_BYTES + ENTRY_BYTES * head + 6, true);
  }

  get header() {
    const field = (at: number): number => this.view.getUint16(at, true);
    return { version: field(8), entries: field(10), batch: field(12), used: field(14) };
  }
}

describe('the area', () => {
  it('is begun by the first ring that uses it', () => {
    const rig = new Rig({ base: 700, entries: 32 });
    expect(rig.header).toEqual({ version: 1, entries: 32, batch: 0, used: 700 });
    expect(rig.device.recovery).toEqual({ heads: [], staleReason: null });
    expect(rig.device.base).toBe(700);
  });

  it('has the layout of the specification', () => {
    const rig = new Rig();
    const [a = 0, b = 0, c = 0] = rig.submit(3);
    rig.takeAll();
    expect([a, b, c].map((head) => [rig.mark(head), rig.counter(head)])).toEqual([
      [1, 1n],
      [1, 2n],
      [1, 3n],
    ]);
    rig.device.push(b, 0);
    rig.device.push(a, 0);
    expect([rig.next(a), rig.mark(a), rig.mark(b), rig.header.used]).toEqual([b, 1, 1, 0]);
    rig.device.publish();
    expect(rig.header).toMatchObject({ batch: a, used: 2 });
    expect([rig.mark(a), rig.mark(b), rig.mark(c)]).toEqual([0, 0, 1]);
  });

  it('does not keep a chain that was put back', () => {
    const rig = new Rig();
    const [head = NO_HEAD] = rig.submit(1);
    rig.take();
    rig.device.unpop(head);
    expect(rig.mark(head)).toBe(0);
    expect(rig.restart().recovery.heads).toEqual([]);
    expect(rig.take()).toBe(head);
  });
});

describe('a device after a crash', () => {
  it('takes what was in flight first, in the order in which it was taken, then what comes next', () => {
    const rig = new Rig({ base: 0xfffd });
    const heads = rig.submit(6);
    for (let i = 0; i < 5; i++) rig.take();
    rig.device.push(heads[1] as number, 0);
    rig.device.push(heads[3] as number, 0);
    rig.device.publish();
    const device = rig.restart();
    const expected = [heads[0], heads[2], heads[4]];
    expect(device.recovery).toEqual({ heads: expected, staleReason: null });
    expect([device.againCount, device.look(), device.hasAvailable()]).toEqual([3, 3, true]);
    expect(rig.takeAll()).toEqual([...expected, heads[5]]);
    expect(device.base).toBe((0xfffd + 6) & 0xffff);
    // The counter goes on: a second crash keeps the order.
    expect(rig.restart().recovery.heads).toEqual([...expected, heads[5]]);
  });

  it('takes up what another left when it was stopped, and counts it in its base', () => {
    const rig = new Rig({ base: 0xfffe });
    const heads = rig.submit(4);
    for (let i = 0; i < 3; i++) rig.take();
    rig.device.push(heads[1] as number, 0);
    rig.device.publish();
    expect(rig.restart(rig.device.base).recovery.heads).toEqual([heads[0], heads[2]]);
    expect(rig.takeAll()).toEqual([heads[0], heads[2], heads[3]]);
  });

  it('puts one that it takes again back to the front', () => {
    const rig = new Rig();
    const heads = rig.submit(3);
    rig.takeAll();
    rig.restart();
    for (const head of heads) {
      for (let i = 0; i < 2; i++) {
        expect(rig.take()).toBe(head);
        rig.device.unpop(head);
      }
      expect([rig.take(), rig.mark(head)]).toEqual([head, 1]);
    }
    const [last = NO_HEAD] = rig.submit(1);
    expect(rig.take()).toBe(last);
    rig.device.unpop(last);
    expect(rig.takeAll()).toEqual([last]);
  });

  it('finds the same wherever it was killed while it showed a batch to the driver', () => {
    for (const count of [1, 2, 5]) {
      const rig = new Rig({ base: 0xfffe });
      const heads = rig.submit(6);
      rig.takeAll();
      for (const head of heads.slice(0, count)) rig.device.push(head, 0);
      const before = rig.snapshot();
      rig.device.publish();
      const batch = rig.header.batch;
      const left = heads.slice(count);
      // The mark of each is taken away one after another, newest first.
      for (let cleared = 0; cleared <= count; cleared++) {
        rig.restore(before);
        rig.view.setUint16(12, batch, true);
        for (const head of heads.slice(count - cleared, count)) rig.view.setUint8(HEADER_BYTES + 16 * head, 0);
        expect(rig.restart().recovery).toEqual({ heads: left, staleReason: null });
        expect(rig.header.used).toBe((0xfffe + count) & 0xffff);
      }
      // The batch was announced, and the driver does not see it yet.
      rig.restore(before);
      rig.view.setUint16(12, batch, true);
      Atomics.store(rig.driver.used16, 1, 0xfffe);
      expect(rig.restart().recovery).toEqual({ heads, staleReason: null });
    }
  });
});

describe('an area that is not of its ring', () => {
  it('is no matter when nothing is in flight: the ring was restored with its guest, or reset', () => {
    for (const [base, used] of [
      [40_000, 0],
      [0, 40_000],
      [3, 0],
    ] as const) {
      const rig = new Rig({ base });
      rig.view.setUint16(14, used, true);
      expect(rig.restart(base).recovery).toEqual({ heads: [], staleReason: null });
      expect([rig.header.used, rig.device.base]).toEqual([base, base]);
      // Nothing that is taken now is lost by it (SPDK #3766).
      const heads = rig.submit(2);
      rig.takeAll();
      expect(rig.restart().recovery.heads).toEqual(heads);
    }
  });

  it.each([
    ['a used ring far ahead', (rig: Rig) => rig.view.setUint16(14, 30_000, true), /entries ahead/],
    ['another version', (rig: Rig) => rig.view.setUint16(8, 2, true), /version 2/],
    ['another number of entries', (rig: Rig) => rig.view.setUint16(10, 4, true), /for 4 entries/],
    ['more requests than the driver made', (rig: Rig) => rig.view.setUint8(HEADER_BYTES + 7 * 16, 1), /has 3 requests/],
  ])('with %s is begun anew, and nothing of it is done', (_, spoil, reason) => {
    const rig = new Rig();
    rig.submit(2);
    rig.takeAll();
    spoil(rig);
    const { recovery } = rig.restart();
    expect(recovery.heads).toEqual([]);
    expect(recovery.staleReason).toMatch(reason);
    expect(rig.header).toEqual({ version: 1, entries: SIZE, batch: 0, used: 0 });
  });

  it('with heads past the end of a shorter ring is begun anew', () => {
    const rig = new Rig({ entries: 16 });
    rig.submit(2);
    rig.take();
    rig.view.setUint8(HEADER_BYTES + 16 * SIZE, 1);
    expect(rig.restart().recovery.staleReason).not.toBeNull();
  });

  it('filled with anything harms nobody', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 144, maxLength: 144 }),
        fc.boolean(),
        fc.nat(4),
        (noise, isPlain, count) => {
          const rig = new Rig();
          rig.submit(count);
          rig.restore(noise);
          // Past the first checks, more often than chance has it.
          if (isPlain)
            for (const [at, value] of [
              [8, 1],
              [10, SIZE],
              [14, 0],
            ] as const)
              rig.view.setUint16(at, value, true);
          const { heads } = rig.restart().recovery;
          expect(heads.length).toBeLessThanOrEqual(count);
          for (const head of rig.takeAll()) rig.device.push(head, 0);
          rig.restore(noise);
          rig.device.publish();
          expect(rig.device.inFlightCount).toBe(0);
          rigs.pop()?.close();
        },
      ),
    );
  });

  it('with a head whose chain is broken breaks the ring, once', () => {
    const rig = new Rig();
    const [head = 0] = rig.submit(1);
    rig.take();
    rig.driver.writeDescriptor(head, SPACE, 16, 1, 200);
    const device = rig.restart();
    expect([rig.take(), device.fault]).toEqual([NO_HEAD, RingFault.nextOutOfRange]);
    expect([device.againCount, device.hasAvailable(), device.look()]).toEqual([0, false, 0]);
  });
});
