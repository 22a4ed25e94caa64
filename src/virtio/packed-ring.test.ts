/** The device's packed ring against the driver's, and what it makes of rings that no honest driver writes. */
import assert from 'node:assert/strict';
import { afterEach, describe, expect, it } from 'vitest';
import { PackedRingRig } from '../../test/support/packed-ring-rig.ts';
import { RIG_GUEST_ADDRESS, type RingRigOptions } from '../../test/support/ring-rig.ts';
import { AssertionError } from '../base/assert.ts';
import { DescriptorFlag, NO_HEAD } from '../initiator/driver-ring.ts';
import { Chain, RingFault } from './chain.ts';
import { PACKED_BASE_FIRST, packedSlotsInFlight, ringBytes } from './ring-shape.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
const { next: NEXT, write: WRITE, indirect: INDIRECT } = DescriptorFlag;
const AVAIL = 0x80;
const USED = 0x8000;
/** Somewhere in the rig's memory that the ring does not use. */
const SPACE = RIG_GUEST_ADDRESS + (2 << 20);
const OUTSIDE = RIG_GUEST_ADDRESS + (8 << 20);

const rigs: PackedRingRig[] = [];
afterEach(() => {
  for (const rig of rigs.splice(0)) rig.close();
});

function rigOf(options: RingRigOptions = {}): PackedRingRig {
  const rig = new PackedRingRig(options);
  rigs.push(rig);
  return rig;
}

const readable = (gpa: number, lengthBytes = 16) => ({ gpa, lengthBytes, isWritable: false });
const writable = (gpa: number, lengthBytes = 16) => ({ gpa, lengthBytes, isWritable: true });

function buffersOf(chain: Chain): { gpa: number; lengthBytes: number; isWritable: boolean }[] {
  return Array.from({ length: chain.count }, (_, i) => ({
    gpa: chain.addresses[i] as number,
    lengthBytes: chain.lengths[i] as number,
    isWritable: i >= chain.readableCount,
  }));
}

/** Both halves of a base alike. */
const both = (half: number): number => (half | (half << 16)) >>> 0;

describe('what a driver does right', () => {
  it.each([1, 2, 3, 5, 7, 8, 100, 127, 255, 1000, 32_768])('fills and drains a ring of %i, turn by turn', (size) => {
    const rig = rigOf({ size });
    const chain = new Chain();
    for (let turn = 0; turn < 3; turn++) {
      const heads = Array.from({ length: size }, (_, i) => rig.submit([readable(SPACE + i, i + 1)]));
      for (const [i, head] of heads.entries()) {
        const isTaken = rig.device.pop(chain);
        assert(isTaken && chain.head === head && chain.addresses[0] === SPACE + i, `head ${head}`);
      }
      expect([rig.device.pop(chain), rig.device.inFlightCount]).toEqual([false, size]);
      for (const head of heads.toReversed()) rig.device.push(head, head);
      rig.device.publish();
      for (const head of heads.toReversed()) {
        assert(rig.driver.popUsed() === head && rig.driver.usedLen === head, `head ${head}`);
        rig.driver.freeChain(head);
      }
      expect(rig.driver.popUsed()).toBe(NO_HEAD);
      expect(rig.device.base).toBe(both(turn % 2 === 0 ? 0 : 0x8000));
    }
    expect(rig.device.fault).toBe(RingFault.none);
  });

  it('takes a chain of 1024 descriptors, direct, over the end of the ring, or in a table', () => {
    const segments = Array.from({ length: 1024 }, (_, i) => (i < 500 ? readable(i, i) : writable(i, i)));
    const chain = new Chain();
    for (const base of [PACKED_BASE_FIRST, both(0x8000 | 600), both(1023)]) {
      const rig = rigOf({ size: 1024, base });
      rig.submit(segments);
      expect(rig.device.pop(chain)).toBe(true);
      expect(buffersOf(chain)).toEqual(segments);
    }
    const small = rigOf({ size: 1 });
    small.submit(segments, SPACE);
    expect(small.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual(segments);
  });

  it('takes 515 descriptors without a table, as Windows sends them', () => {
    const rig = rigOf({ size: 1024 });
    const segments = [readable(1, 16), ...Array.from({ length: 513 }, (_, i) => writable(i, PAGE)), writable(9, 1)];
    const chain = new Chain();
    for (let i = 0; i < 5; i++) {
      const head = rig.submit(segments);
      expect(rig.device.pop(chain)).toBe(true);
      expect(buffersOf(chain)).toEqual(segments);
      rig.device.push(head, 1);
      rig.device.publish();
      expect(rig.driver.popUsed()).toBe(head);
      rig.driver.freeChain(head);
    }
  });

  it('minds only WRITE in a table, in the order of its entries', () => {
    const rig = rigOf();
    const words = rig.memory.uint32s(SPACE, 12);
    words.set([10, 0, 1, (NEXT | INDIRECT | AVAIL) << 16, 20, 0, 2, 0xffff, 30, 0, 3, (WRITE << 16) | 7]);
    rig.write(0, SPACE, 48, 5, INDIRECT | WRITE | AVAIL);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(chain.head).toBe(5);
    expect(buffersOf(chain)).toEqual([readable(10, 1), readable(20, 2), writable(30, 3)]);
  });

  it('may have its id in the last descriptor alone', () => {
    const rig = rigOf();
    rig.write(1, 20, 2, 3, WRITE | AVAIL);
    rig.write(0, 10, 1, 0xffff, NEXT | AVAIL);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(chain.head).toBe(3);
  });

  it.each([1, 2, 4, 8, 15])('reads a table that is %i bytes off its alignment', (off) => {
    const rig = rigOf();
    const segments = [readable(0x1_2345_6789_abcd, 0xffff), writable(7, 1)];
    rig.submit(segments, SPACE + off);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual(segments);
  });

  it.each([1, 16, 17, 47])('reads a table of which %i bytes lie in the region before', (before) => {
    const border = 4 * PAGE;
    const rig = rigOf({
      regions: [
        { guestAddress: 0, sizeBytes: border },
        { guestAddress: border, sizeBytes: PAGE },
      ],
    });
    const segments = [readable(1, 2), readable(3, 4), writable(5, 6)];
    rig.submit(segments, border - before);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual(segments);
  });

  it('reads a table across the border of two windows of one region', () => {
    const rig = rigOf({ regions: [{ guestAddress: 0, sizeBytes: GIB + PAGE }] });
    const segments = [readable(1, 2), readable(3, 4), writable(5, 6)];
    rig.submit(segments, GIB - 24);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual(segments);
  });

  it('accepts zero-length buffers and a total of exactly 2^32 bytes', () => {
    const rig = rigOf();
    const segments = [readable(1, 0), readable(2, 0xffff_ffff), writable(3, 1), writable(4, 0)];
    rig.submit(segments);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual(segments);
  });

  it.each([0, 1])('says that something was written, also when no more than %i bytes can be counted', (lengthBytes) => {
    const rig = rigOf();
    const head = rig.submit([readable(1), writable(2, 513)]);
    rig.device.pop(new Chain());
    rig.device.push(head, lengthBytes);
    rig.device.publish();
    expect((rig.driver.ring32[3] as number) >>> 16).toBe(WRITE | AVAIL | USED);
    expect([rig.driver.popUsed(), rig.driver.usedLen]).toEqual([head, lengthBytes]);
  });

  it('shows all chains of a batch by the flags of its first', () => {
    const rig = rigOf();
    const heads = [1, 2, 3].map((gpa) => rig.driver.addChain([readable(gpa)]));
    for (const head of heads) rig.driver.expose(head);
    expect([rig.device.look(), rig.device.hasAvailable()]).toEqual([0, false]);
    rig.driver.publish();
    expect(rig.device.look()).toBe(3);
  });
});

describe('a popped chain', () => {
  it('does not change when the driver rewrites its descriptors and its table afterwards', () => {
    for (const tableAddress of [undefined, SPACE]) {
      const rig = rigOf();
      const segments = [readable(1, 2), readable(3, 4), writable(5, 6), writable(7, 8)];
      const head = rig.submit(segments, tableAddress);
      const chain = new Chain();
      expect(rig.device.pop(chain)).toBe(true);
      rig.driver.ring32.fill(0xffff_ffff);
      rig.memory.bytes(SPACE, PAGE).fill(0xff);
      expect(buffersOf(chain)).toEqual(segments);
      expect([chain.head, chain.readableBytes, chain.writableBytes, chain.readableCount]).toEqual([head, 6, 14, 2]);
      // How many places it goes on by was remembered too.
      rig.device.push(head, 14);
      rig.device.publish();
      expect(rig.driver.popUsed()).toBe(head);
      const slots = tableAddress === undefined ? 4 : 1;
      expect(rig.device.base).toBe(both(0x8000 | slots));
    }
  });

  it('can be put back, over the end of the ring too, and comes again as the driver has it then', () => {
    const rig = rigOf({ size: 4, base: both(0x8000 | 3) });
    const first = rig.submit([readable(1), readable(2)]);
    const second = rig.submit([readable(3)]);
    const chain = new Chain();
    rig.device.pop(chain);
    expect(rig.device.base & 0xffff).toBe(1);
    rig.device.unpop(first);
    expect([rig.device.base, rig.device.inFlightCount]).toEqual([both(0x8000 | 3), 0]);
    rig.write(0, 9, 9, first, WRITE | USED);
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual([readable(1), writable(9, 9)]);
    expect(rig.device.pop(chain)).toBe(true);
    rig.device.unpop(second);
    expect(rig.device.pop(chain)).toBe(true);
    expect([chain.head, rig.device.pop(chain)]).toEqual([second, false]);
  });

  it('is returned or put back once: more is our own mistake', () => {
    const rig = rigOf();
    const head = rig.submit([readable(1)]);
    const chain = new Chain();
    expect(() => rig.device.push(head, 0)).toThrow(AssertionError);
    rig.device.pop(chain);
    rig.device.push(head, 0);
    expect(() => rig.device.push(head, 0)).toThrow(AssertionError);
    expect(() => rig.device.unpop(head)).toThrow(AssertionError);
  });
});

interface Misuse {
  readonly name: string;
  readonly fault: RingFault;
  /** `marks`: what makes a descriptor available. `place`: the next. */
  readonly commit: (rig: PackedRingRig, place: number, marks: number) => void;
}

const SIZE = 8;
const marksAt = (place: number, marks: number): number => (place < SIZE ? marks : marks ^ (AVAIL | USED));

/** Descriptors one after another, available in their turn. The first is written last. */
function direct(rows: readonly (readonly [gpa: number, length: number, id: number, flags: number])[]) {
  return (rig: PackedRingRig, place: number, marks: number): void => {
    for (const [i, [gpa, length, id, flags]] of [...rows.entries()].toReversed()) {
      rig.write((place + i) % SIZE, gpa, length, id, flags | marksAt(place + i, marks));
    }
  };
}

/** A table of `rows`; `length` overrides that of the table. */
function table(rows: readonly (readonly [gpa: number, length: number, flags: number])[], length = 16 * rows.length) {
  return (rig: PackedRingRig, place: number, marks: number): void => {
    rows.forEach(([gpa, bytes, flags], i) => {
      rig.memory.uint32s(SPACE + 16 * i, 4).set([gpa, 0, bytes, flags << 16]);
    });
    direct([[SPACE, length, 0, INDIRECT]])(rig, place, marks);
  };
}

const MISUSES: readonly Misuse[] = [
  { name: 'an id just outside the ring', fault: RingFault.headOutOfRange, commit: direct([[0, 1, SIZE, 0]]) },
  { name: 'an id of 0xffff', fault: RingFault.headOutOfRange, commit: direct([[0, 1, 0xffff, 0]]) },
  { name: 'an id that is in flight', fault: RingFault.headInFlight, commit: direct([[0, 1, 7, 0]]) },
  {
    name: 'a chain as long as the ring, of which a part is in flight',
    fault: RingFault.chainTooLong,
    commit: direct(Array.from({ length: SIZE }, () => [0, 1, 0, NEXT] as const)),
  },
  {
    name: 'NEXT through the whole ring, without end',
    fault: RingFault.chainTooLong,
    commit: (rig, place, marks) => {
      for (let i = SIZE - 1; i >= 0; i--) rig.write((place + i) % SIZE, 0, 1, 0, NEXT | marks);
    },
  },
  {
    name: 'more than 1024 descriptors with those of a table',
    fault: RingFault.chainTooLong,
    commit: (rig, place, marks) => {
      rig.memory.uint32s(SPACE, 4 * 1024).fill(0);
      direct([
        [0, 1, 0, NEXT],
        [SPACE, 16 * 1024, 0, INDIRECT],
      ])(rig, place, marks);
    },
  },
  {
    name: 'a readable after a writable',
    fault: RingFault.readableAfterWritable,
    commit: direct([
      [0, 1, 0, NEXT | WRITE],
      [0, 1, 0, 0],
    ]),
  },
  {
    name: 'a readable after a writable in a table',
    fault: RingFault.readableAfterWritable,
    commit: table([
      [0, 1, 0],
      [0, 1, WRITE],
      [0, 1, 0],
    ]),
  },
  {
    name: 'INDIRECT with NEXT',
    fault: RingFault.indirectWithNext,
    commit: direct([
      [SPACE, 16, 0, INDIRECT | NEXT],
      [0, 1, 0, 0],
    ]),
  },
  { name: 'a table of no bytes', fault: RingFault.indirectLength, commit: table([[0, 1, 0]], 0) },
  { name: 'a table of 15 bytes', fault: RingFault.indirectLength, commit: table([[0, 1, 0]], 15) },
  { name: 'a table of 17 bytes', fault: RingFault.indirectLength, commit: table([[0, 1, 0]], 17) },
  { name: 'a table of 1025 entries', fault: RingFault.indirectLength, commit: table([[0, 1, 0]], 16 * 1025) },
  { name: 'a table of almost 4 GiB', fault: RingFault.indirectLength, commit: table([[0, 1, 0]], 0xffff_fff0) },
  {
    name: 'a table outside the memory',
    fault: RingFault.indirectAddress,
    commit: direct([[OUTSIDE, 16, 0, INDIRECT]]),
  },
  {
    name: 'a table that ends outside the memory',
    fault: RingFault.indirectAddress,
    commit: direct([[RIG_GUEST_ADDRESS + (4 << 20) - 16, 32, 0, INDIRECT]]),
  },
  {
    name: 'a table at the end of the address space',
    fault: RingFault.indirectAddress,
    commit: direct([[2 ** 64 - 2048, 2048, 0, INDIRECT]]),
  },
  {
    name: 'buffers of more than 2^32 bytes',
    fault: RingFault.lengthOverflow,
    commit: direct([
      [0, 0xffff_ffff, 0, NEXT],
      [0, 2, 0, WRITE],
    ]),
  },
];

/** From the first place, and so that what is taken before the misuse ends a turn. */
describe.each([0x8000, 0x8007, 7])('a driver that misbehaves, from place 0x%s', (half) => {
  const place = ((half & 0x7fff) + 1) % SIZE;
  const wrap = (half >>> 15) ^ (place === 0 ? 1 : 0);
  const marks = wrap === 1 ? AVAIL : USED;

  it.each(MISUSES)('breaks its ring with $name, for good, and gets back what was taken before', (misuse) => {
    const rig = rigOf({ base: both(half) });
    direct([[SPACE, 16, 7, 0]])(rig, half & 0x7fff, half >>> 15 === 1 ? AVAIL : USED);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    misuse.commit(rig, place, marks);
    const takenBefore = rig.device.base;
    expect([rig.device.pop(chain), rig.device.fault]).toEqual([false, misuse.fault]);
    // It cannot be repaired from the guest: whatever the ring holds now, nothing is taken.
    direct([[SPACE, 16, 0, 0]])(rig, place, marks);
    expect(rig.device.pop(chain)).toBe(false);
    expect([rig.device.hasAvailable(), rig.device.armKick(), rig.device.look()]).toEqual([false, false, 0]);
    expect([rig.device.fault, rig.device.base]).toEqual([misuse.fault, takenBefore]);
    rig.device.push(7, 5);
    expect(rig.device.publish()).toBe(true);
    expect([rig.driver.popUsed(), rig.driver.usedLen]).toEqual([7, 5]);
  });

  it.each([
    ['none of the marks', 0],
    ['both marks', AVAIL | USED],
    ['the marks of the other turn', marks ^ (AVAIL | USED)],
  ])('makes nothing available with %s', (_, wrong) => {
    const rig = rigOf({ base: both(half) });
    direct([[SPACE, 16, 7, 0]])(rig, half & 0x7fff, half >>> 15 === 1 ? AVAIL : USED);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    rig.write(place, SPACE, 16, 0, wrong);
    expect([rig.device.hasAvailable(), rig.device.look(), rig.device.pop(chain)]).toEqual([false, 0, false]);
    expect(rig.device.fault).toBe(RingFault.none);
  });
});

describe('a place to go on at', () => {
  it('has descriptors in flight as far as its sides are apart', () => {
    expect(packedSlotsInFlight(PACKED_BASE_FIRST, 8)).toBe(0);
    expect(packedSlotsInFlight(0x8003_8005, 8)).toBe(2);
    expect(packedSlotsInFlight(0x8006_0001, 8)).toBe(3);
    expect(packedSlotsInFlight(0x8003_0003, 8)).toBe(8);
  });

  it('may be given by its available side alone, as DPDK does', () => {
    expect(packedSlotsInFlight(0x8005, 8)).toBe(0);
    expect(packedSlotsInFlight(0, 8)).toBe(0);
    expect(packedSlotsInFlight(0x0007, 8)).toBe(0);
    const rig = rigOf({ base: 0x8005 });
    expect(rig.device.base).toBe(both(0x8005));
  });

  it.each([0x8008_8000, 0x8000_8008, 0x8000_ffff, 0x8005_8003, 0x8003_0005, 0x8008])(
    'lies in the ring, and no more than a turn behind: not 0x%s',
    (base) => {
      expect(packedSlotsInFlight(base, 8)).toBe(-1);
      const rig = rigOf();
      expect(() => rig.startDevice(base)).toThrow(AssertionError);
    },
  );

  it('leaves no room for what a device before it has in flight', () => {
    const rig = rigOf({ size: 4 });
    const chain = new Chain();
    rig.submit([readable(1), readable(2)]);
    rig.device.pop(chain);
    const { base } = rig.device;
    rig.device.close();
    rig.device = rig.startDevice(base);
    expect([rig.device.base, rig.device.inFlightCount]).toEqual([base, 0]);
    rig.write(2, 1, 1, 3, NEXT | AVAIL);
    rig.write(3, 1, 1, 3, NEXT | AVAIL);
    rig.write(0, 1, 1, 3, USED);
    expect([rig.device.pop(chain), rig.device.fault]).toEqual([false, RingFault.chainTooLong]);
  });

  it('has the sizes of the specification', () => {
    expect(ringBytes(true, 3)).toEqual({ descriptor: 48, available: 4, used: 4 });
  });
});
