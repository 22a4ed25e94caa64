/**
 * What is in flight survives the device, killed between any two of its stores, and nothing is done twice that the
 * driver saw done: rings of every layout against one model. RINGHOST_RUNS makes it longer.
 */
import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { InflightRig, SPACE } from '../../test/support/inflight-rig.ts';
import { isKilledAfter, killable } from '../../test/support/killable.ts';
import { PackedRingRig } from '../../test/support/packed-ring-rig.ts';
import type { RingRigOptions, TwoSidedRing } from '../../test/support/ring-rig.ts';
import { RingRig } from '../../test/support/split-ring-rig.ts';
import { type DriverRing, NO_HEAD, type Segment } from '../initiator/driver-ring.ts';
import { Chain } from './chain.ts';
import { InOrderRing } from './in-order-ring.ts';
import type { Ring } from './ring.ts';

const SIZE = 8;
const SEGMENTS_MAX = 3;
const LONG = 1000;

interface Layout {
  readonly name: string;
  readonly isPacked: boolean;
  readonly isInOrder: boolean;
  readonly create: (options: RingRigOptions) => TwoSidedRing<DriverRing, Ring>;
  readonly bases: readonly number[];
}

const split = { isPacked: false, create: (options: RingRigOptions) => new RingRig(options), bases: [0, 5, 0xfffa] };
const packed = {
  isPacked: true,
  create: (options: RingRigOptions) => new PackedRingRig(options),
  bases: [0x8000_8000, 0x0003_0003, 0x8006_8006],
};
const LAYOUTS: readonly Layout[] = [
  { name: 'split', isInOrder: false, ...split },
  { name: 'split in-order', isInOrder: true, ...split },
  { name: 'packed', isInOrder: false, ...packed },
  { name: 'packed in-order', isInOrder: true, ...packed },
];

const KINDS = [
  'submit',
  'submit',
  'take',
  'take',
  'push',
  'push',
  'publish',
  'unpop',
  'collect',
  'stop',
  'leave',
  'crash',
];
type Kind = 'submit' | 'take' | 'push' | 'publish' | 'unpop' | 'collect' | 'stop' | 'leave' | 'crash';
/** What is done, a choice in it, and after how many stores it is killed. */
type Step = readonly [Kind, number, number];

/** The driver, the device, and who comes after it. */
class Model {
  readonly #layout: Layout;
  readonly #rig: InflightRig<DriverRing, Ring>;
  readonly #chain = new Chain();
  /** Null: it was killed, and nobody has taken its place. */
  #device: Ring | null = null;
  /** Where the front-end was told last that the ring stands. */
  #base: number;
  readonly #segments = new Map<number, readonly Segment[]>();
  #submitted = 0;
  #waiting: number[] = [];
  /** Taken by any device and not shown to the driver, in the order in which they were taken first. */
  #marked: number[] = [];
  /** Of those, what this device has not taken yet. */
  #again: number[] = [];
  /** In this device's hands, and those of them that it is done with. */
  #taken: number[] = [];
  #pushed: number[] = [];
  /** The driver can see them. */
  #shown: number[] = [];
  /** It was being taken or put back when the device was killed. */
  #unsure: number | null = null;
  /** Was taken by the last step, for the first time or again. */
  #last: 'first' | 'again' | null = null;
  kills = 0;

  constructor(layout: Layout, base: number) {
    this.#layout = layout;
    this.#rig = new InflightRig(layout.create({ size: SIZE, base }), layout.isPacked, SIZE + 2);
    this.#base = base;
  }

  step([kind, choice, stores]: Step): void {
    const last = this.#last;
    this.#last = null;
    if (kind === 'submit') this.#submit((choice % SEGMENTS_MAX) + 1);
    else if (kind === 'collect') this.#collect();
    else if (kind === 'crash') this.#crash();
    else if (this.#device !== null || this.#start(stores, choice)) this.#work(kind, choice, stores, last);
  }

  /** All of it is done in the end. */
  finish(): void {
    if (this.#device === null) this.#start(LONG, 0);
    for (let left = this.#again.length + this.#waiting.length; left > 0; left--) this.#take(LONG);
    assert.deepEqual(this.#waiting, []);
    while (this.#taken.length > this.#pushed.length) this.#push(0, LONG);
    this.#publish(LONG);
    this.#collect();
    assert.equal(this.#rig.driver.freeCount, SIZE);
    assert.equal(this.#device?.inFlightCount, 0);
    this.#crash();
    this.#rig.close();
  }

  #work(kind: Kind, choice: number, stores: number, last: 'first' | 'again' | null): void {
    if (kind === 'take') this.#take(stores);
    if (kind === 'push') this.#push(choice, stores);
    if (kind === 'publish') this.#publish(stores);
    if (kind === 'unpop' && last !== null) this.#unpop(last === 'again', stores);
    if (kind === 'stop' && this.#marked.length === 0) this.#stop();
    if (kind === 'leave') this.#leave(choice, stores);
  }

  #submit(count: number): void {
    if (this.#rig.driver.freeCount < count) return;
    const gpa = SPACE + 64 * this.#submitted++;
    const segments = Array.from({ length: count }, (_, i) => {
      return { gpa: gpa + 16 * i, lengthBytes: i + 1, isWritable: i > 0 };
    });
    const head = this.#rig.ring.submit(segments);
    this.#segments.set(head, segments);
    this.#waiting.push(head);
  }

  #collect(): void {
    assert.deepEqual(this.#rig.collect(), this.#shown);
    this.#shown = [];
  }

  #crash(): void {
    this.#device?.close();
    this.#device = null;
  }

  /** False when it was killed in `work`, after so many stores. */
  #survives(stores: number, work: () => void): boolean {
    if (!isKilledAfter(stores, work)) return true;
    this.kills++;
    this.#crash();
    return false;
  }

  /** True when a device is there again. */
  #start(stores: number, choice: number): boolean {
    const { isPacked, isInOrder } = this.#layout;
    // A front-end whose back-end has vanished knows what the driver can see, or what it was told before.
    const base = isPacked && choice % 2 === 0 ? this.#base : this.#rig.driver.usedBase;
    const start = (): Ring => this.#rig.ring.startDevice(base, this.#rig.area);
    let device: Ring | null = null;
    if (!this.#survives(stores, () => (device = killable(start)))) return false;
    this.#device = isInOrder ? new InOrderRing(device as unknown as Ring) : device;
    const { heads, staleReason } = (this.#device as unknown as Ring).recovery;
    assert.equal(staleReason, null);
    if (this.#unsure !== null && heads.includes(this.#unsure)) {
      this.#marked.push(this.#unsure);
      this.#waiting.shift();
    }
    this.#unsure = null;
    // What it had not shown is taken again, before all that waits.
    assert.deepEqual(heads, this.#marked);
    this.#again = [...heads];
    this.#taken = [];
    this.#pushed = [];
    return true;
  }

  #take(stores: number): void {
    const device = this.#device as Ring;
    const expected = this.#again[0] ?? this.#waiting[0] ?? NO_HEAD;
    let head = NO_HEAD;
    const isAlive = this.#survives(stores, () => {
      if (device.pop(this.#chain)) head = this.#chain.head;
    });
    if (!isAlive) {
      this.#unsure = this.#again.length > 0 ? null : expected;
      return;
    }
    assert.equal(head, expected);
    if (head === NO_HEAD) return;
    this.#expectChain(head);
    this.#last = this.#again.length > 0 ? 'again' : 'first';
    if (this.#again.length > 0) this.#again.shift();
    else this.#marked.push(this.#waiting.shift() as number);
    this.#taken.push(head);
  }

  #unpop(isAgain: boolean, stores: number): void {
    const head = this.#taken.pop() as number;
    const isAlive = this.#survives(stores, () => (this.#device as Ring).unpop(head));
    if (isAgain) {
      this.#again.unshift(head);
      return;
    }
    this.#waiting.unshift(this.#marked.pop() as number);
    if (!isAlive) this.#unsure = head;
  }

  #push(choice: number, stores: number): void {
    const left = this.#taken.filter((head) => !this.#pushed.includes(head));
    if (left.length === 0) return;
    const head = left[choice % left.length] as number;
    if (this.#survives(stores, () => (this.#device as Ring).push(head, 0))) this.#pushed.push(head);
  }

  #publish(stores: number): void {
    const isDone = (head: number): boolean => this.#pushed.includes(head);
    const end = this.#taken.findIndex((head) => !isDone(head));
    const inOrder = end < 0 ? this.#taken : this.#taken.slice(0, end);
    const batch = this.#layout.isInOrder ? inOrder : this.#pushed;
    const isAlive = this.#survives(stores, () => (this.#device as Ring).publish());
    if (!isAlive) {
      // All of it was shown or none.
      const seen = this.#rig.collect();
      const isShown = seen.length > this.#shown.length;
      assert.deepEqual(seen, isShown ? [...this.#shown, ...batch] : this.#shown);
      this.#shown = [];
      if (!isShown) return;
    } else {
      this.#shown.push(...batch);
    }
    this.#marked = this.#marked.filter((head) => !batch.includes(head));
    this.#taken = this.#taken.filter((head) => !batch.includes(head));
    this.#pushed = this.#pushed.filter((head) => !batch.includes(head));
  }

  /** A stop that carries out some of what it has, and leaves the rest to whoever comes next. */
  #leave(choice: number, stores: number): void {
    const isLeft = (head: number): boolean => !this.#pushed.includes(head);
    const left = this.#taken.filter(isLeft);
    // One that is still with its disk ends after the others were left.
    const last = choice % 2 === 0 ? undefined : left[choice % left.length];
    for (const head of left) {
      if (head === last) continue;
      if (!this.#survives(stores, () => (this.#device as Ring).leave(head))) return;
    }
    if (last !== undefined) this.#push(left.indexOf(last), stores);
    if (this.#device !== null) this.#publish(stores);
    if (this.#device === null) return;
    assert.equal(this.#device.inFlightCount, 0);
    this.#stop();
  }

  #stop(): void {
    this.#base = (this.#device as Ring).base;
    this.#crash();
  }

  #expectChain(head: number): void {
    const segments = this.#segments.get(head) ?? [];
    const { addresses, lengths, count } = this.#chain;
    const found = Array.from({ length: count }, (_, i) => [addresses[i], lengths[i]]);
    assert.deepEqual(
      found,
      segments.map(({ gpa, lengthBytes }) => [gpa, lengthBytes]),
    );
  }
}

describe.each(LAYOUTS)('a $name ring', (layout) => {
  it('does everything once, whatever it did and wherever it was killed', () => {
    const stores = fc.oneof({ weight: 2, arbitrary: fc.constant(LONG) }, { weight: 1, arbitrary: fc.nat(16) });
    const step = fc.tuple(fc.constantFrom(...(KINDS as Kind[])), fc.nat(7), stores);
    let kills = 0;
    fc.assert(
      fc.property(fc.constantFrom(...layout.bases), fc.array(step, { maxLength: 100, size: 'max' }), (base, steps) => {
        const model = new Model(layout, base);
        for (const one of steps) model.step(one);
        model.finish();
        kills += model.kills;
      }),
      { numRuns: Number(process.env['RINGHOST_RUNS'] ?? 300) },
    );
    expect(kills).toBeGreaterThan(100);
  });
});
