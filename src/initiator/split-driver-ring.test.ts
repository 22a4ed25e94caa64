/** The driver's side against a device's side that works on the ring's memory by itself. */
import { isDeepStrictEqual } from 'node:util';
import * as fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { DescriptorFlag, NO_HEAD, type Segment } from './driver-ring.ts';
import { OwnedMemory } from './owned-memory.ts';
import { SplitDriverRing } from './split-driver-ring.ts';

const SEGMENTS_MAX = 6;
const TABLE_BYTES = 16 * SEGMENTS_MAX;
const memory = OwnedMemory.single(16 << 20);
afterAll(() => memory.close());

interface Chain {
  readonly head: number;
  readonly segments: Segment[];
}

/** The device's side, straight from the specification, over the same bytes. */
class TestDevice {
  readonly #view: DataView;
  readonly #ring: SplitDriverRing;
  readonly #start: number;
  nextAvail: number;
  usedIdx: number;

  constructor(ring: SplitDriverRing, base = 0) {
    const region = memory.regions[0];
    if (region === undefined) throw new Error('the memory has a region');
    this.#view = new DataView(region.buffer);
    this.#start = region.guestAddress;
    this.#ring = ring;
    this.nextAvail = base;
    this.usedIdx = base;
  }

  take(): Chain | null {
    const avail = this.#ring.availableAddress - this.#start;
    if (this.#view.getUint16(avail + 2, true) === this.nextAvail) return null;
    const slot = this.nextAvail % this.#ring.size;
    this.nextAvail = (this.nextAvail + 1) % 65536;
    const head = this.#view.getUint16(avail + 4 + 2 * slot, true);
    return { head, segments: this.#walk(this.#ring.descriptorAddress, head) };
  }

  use(head: number, length: number): void {
    const used = this.#ring.usedAddress - this.#start;
    const slot = this.usedIdx % this.#ring.size;
    this.#view.setUint32(used + 4 + 8 * slot, head, true);
    this.#view.setUint32(used + 8 + 8 * slot, length, true);
    this.usedIdx = (this.usedIdx + 1) % 65536;
    this.#view.setUint16(used + 2, this.usedIdx, true);
  }

  setAvailEvent(index: number): void {
    this.#view.setUint16(this.#ring.usedAddress - this.#start + 4 + 8 * this.#ring.size, index, true);
  }

  setUsedFlags(flags: number): void {
    this.#view.setUint16(this.#ring.usedAddress - this.#start, flags, true);
  }

  #walk(table: number, first: number): Segment[] {
    const segments: Segment[] = [];
    for (let index = first; ; ) {
      const at = table - this.#start + 16 * index;
      const gpa = Number(this.#view.getBigUint64(at, true));
      const lengthBytes = this.#view.getUint32(at + 8, true);
      const flags = this.#view.getUint16(at + 12, true);
      if ((flags & DescriptorFlag.indirect) !== 0) return [...segments, ...this.#walk(gpa, 0)];
      segments.push({ gpa, lengthBytes, isWritable: (flags & DescriptorFlag.write) !== 0 });
      if ((flags & DescriptorFlag.next) === 0) return segments;
      index = this.#view.getUint16(at + 14, true);
    }
  }
}

const segment = fc.record({
  gpa: fc.integer({ min: 0, max: 2 ** 52 }),
  lengthBytes: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  isWritable: fc.boolean(),
});
const operation = fc.oneof(
  fc.record({
    kind: fc.constant('add' as const),
    segments: fc.array(segment, { minLength: 1, maxLength: SEGMENTS_MAX }),
    isIndirect: fc.boolean(),
  }),
  fc.record({
    kind: fc.constant('complete' as const),
    which: fc.nat(),
    length: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  }),
);

/** One ring, its device, and what is between them; every step says what it saw. */
class Model {
  readonly ring: SplitDriverRing;
  readonly #device: TestDevice;
  readonly #table: number;
  readonly #inDevice: Chain[] = [];

  constructor(base: number) {
    this.ring = new SplitDriverRing(memory, { size: 16, base });
    this.#device = new TestDevice(this.ring, base);
    this.#table = memory.allocate(16 * TABLE_BYTES);
  }

  get inDevice(): number {
    return this.#inDevice.length;
  }

  /** True when the device saw just what was built, and not before it was published; or when nothing was free. */
  add(segments: readonly Segment[], isIndirect: boolean): boolean {
    const { ring } = this;
    const before = ring.freeCount;
    const tableAddress = this.#table + TABLE_BYTES * (ring.nextAvail % 16);
    const head = isIndirect ? ring.addIndirect(segments, tableAddress) : ring.addChain(segments);
    const needed = isIndirect ? 1 : segments.length;
    if (before < needed) return head === NO_HEAD && ring.freeCount === before;
    ring.expose(head);
    const early = this.#device.take();
    ring.publish();
    const chain = this.#device.take();
    if (chain !== null) this.#inDevice.push(chain);
    // Copies: the generated objects have no prototype.
    const built = { head, segments: segments.map((one) => ({ ...one })) };
    return early === null && ring.freeCount === before - needed && isDeepStrictEqual(chain, built);
  }

  /** True when the driver got back what the device completed. */
  complete(which: number, length: number): boolean {
    const [done] = this.#inDevice.splice(which % (this.#inDevice.length + 1), 1);
    if (done === undefined) return true;
    this.#device.use(done.head, length);
    const isSame = this.ring.popUsed() === done.head && this.ring.usedLen === length;
    this.ring.freeChain(done.head);
    return isSame;
  }

  close(): void {
    for (const { head } of this.#inDevice) this.ring.freeChain(head);
    memory.release(this.#table);
    this.ring.close();
  }
}

describe('driver side of a split virtqueue', () => {
  it('shows the device every chain as built, and gets every completion back once, in any order', () => {
    const run = { base: fc.nat(65535), operations: fc.array(operation, { minLength: 1, maxLength: 100 }) };
    fc.assert(
      fc.property(fc.record(run), ({ base, operations }) => {
        const model = new Model(base);
        for (const step of operations) {
          const isAdd = step.kind === 'add';
          const isRight = isAdd ? model.add(step.segments, step.isIndirect) : model.complete(step.which, step.length);
          expect(isRight).toBe(true);
          expect(model.ring.popUsed()).toBe(NO_HEAD);
          expect(model.ring.inFlight).toBe(model.inDevice);
        }
        model.close();
        expect(model.ring.freeCount).toBe(16);
      }),
    );
  });

  it('runs over the end of the 16-bit indices', () => {
    const ring = new SplitDriverRing(memory, { size: 4, base: 0xfff0 });
    const device = new TestDevice(ring, 0xfff0);
    for (let i = 0; i < 64; i++) {
      const head = ring.addChain([{ gpa: 0x1000 * i, lengthBytes: i, isWritable: true }]);
      ring.expose(head);
      ring.publish();
      const chain = device.take();
      expect(chain?.segments[0]?.lengthBytes).toBe(i);
      device.use(chain?.head as number, i);
      expect(ring.popUsed()).toBe(head);
      ring.freeChain(head);
    }
    expect(ring.nextAvail).toBe(0x30);
    ring.close();
  });

  it('kicks unless told not to, without EVENT_IDX', () => {
    const ring = new SplitDriverRing(memory, { size: 4 });
    const device = new TestDevice(ring);
    ring.expose(0);
    expect(ring.publish()).toBe(true);
    device.setUsedFlags(1);
    ring.expose(0);
    expect(ring.publish()).toBe(false);
    device.setUsedFlags(0);
    ring.expose(0);
    expect(ring.publish()).toBe(true);
    ring.close();
  });

  it('kicks exactly when a publication passes avail_event, with EVENT_IDX', () => {
    const shape = { base: fc.nat(65535), count: fc.integer({ min: 1, max: 200 }), event: fc.nat(65535) };
    const ring = new SplitDriverRing(memory, { size: 256, hasEventIdx: true });
    fc.assert(
      fc.property(fc.record(shape), ({ base, count, event }) => {
        ring.reset(base);
        const device = new TestDevice(ring, base);
        device.setAvailEvent(event);
        for (let i = 0; i < count; i++) ring.expose(0);
        const published = Array.from({ length: count }, (_, i) => (base + i) % 65536);
        // The device asks to be told of the entry that is put at index avail_event.
        expect(ring.publish()).toBe(published.includes(event));
      }),
    );
    ring.close();
  });

  it('asks for calls and refuses them by flag or by event index', () => {
    const plain = new SplitDriverRing(memory, { size: 4 });
    plain.refuseCalls();
    expect(plain.available[0]).toBe(1);
    plain.wantCalls();
    expect(plain.available[0]).toBe(0);
    plain.close();
    const ring = new SplitDriverRing(memory, { size: 4, hasEventIdx: true, base: 10 });
    ring.wantCalls();
    expect(ring.available[6]).toBe(10);
    ring.refuseCalls();
    expect(ring.available[6]).toBe(10 + 0x8000);
    ring.close();
  });

  it('gives its memory back', () => {
    const before = memory.allocate(16);
    memory.release(before);
    const ring = new SplitDriverRing(memory, { size: 1024 });
    ring.close();
    expect(memory.allocate(16)).toBe(before);
    memory.release(before);
  });
});
