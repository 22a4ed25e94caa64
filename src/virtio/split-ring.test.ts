/** The device's split ring against the driver's, and what it makes of rings that no honest driver writes. */
import { afterEach, describe, expect, it } from 'vitest';
import { RIG_GUEST_ADDRESS, type RingRigOptions } from '../../test/support/ring-rig.ts';
import { RingRig } from '../../test/support/split-ring-rig.ts';
import { AssertionError } from '../base/assert.ts';
import { DescriptorFlag, NO_HEAD } from '../initiator/driver-ring.ts';
import { Chain, RING_FAULT_TEXT, RingFault } from './chain.ts';
import { ringBytes } from './ring-shape.ts';
import { SplitRing } from './split-ring.ts';

const GIB = 2 ** 30;
const PAGE = 4096;
const { next: NEXT, write: WRITE, indirect: INDIRECT } = DescriptorFlag;
/** Somewhere in the rig's memory that the ring does not use. */
const SPACE = RIG_GUEST_ADDRESS + (2 << 20);
const OUTSIDE = RIG_GUEST_ADDRESS + (8 << 20);

const rigs: RingRig[] = [];
afterEach(() => {
  for (const rig of rigs.splice(0)) rig.close();
});

function rigOf(options: RingRigOptions = {}): RingRig {
  const rig = new RingRig(options);
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

type RawDescriptor = readonly [gpa: number, lengthBytes: number, flags: number, next: number];

function writeTable(rig: RingRig, gpa: number, rows: readonly RawDescriptor[]): void {
  const bytes = new Uint8Array(16 * rows.length);
  const view = new DataView(bytes.buffer);
  rows.forEach(([address, length, flags, next], i) => {
    view.setBigUint64(16 * i, BigInt(address), true);
    view.setUint32(16 * i + 8, length, true);
    view.setUint16(16 * i + 12, flags, true);
    view.setUint16(16 * i + 14, next, true);
  });
  rig.memory.write(gpa, bytes);
}

describe('what a driver does right', () => {
  it.each([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])(
    'fills and drains a ring of %i across the index wrap',
    (size) => {
      const rig = rigOf({ size, base: 0xfff0 });
      const chain = new Chain();
      const rounds = Math.ceil(40 / size) + 2;
      for (let round = 0; round < rounds; round++) {
        const heads = Array.from({ length: size }, (_, i) => rig.submit([readable(SPACE + i, i + 1)]));
        for (const head of heads) {
          expect(rig.device.pop(chain)).toBe(true);
          expect([chain.head, chain.addresses[0]]).toEqual([head, SPACE + heads.indexOf(head)]);
        }
        expect(rig.device.pop(chain)).toBe(false);
        expect(rig.device.inFlightCount).toBe(size);
        for (const head of heads.toReversed()) rig.device.push(head, head);
        rig.device.publish();
        for (const head of heads.toReversed()) {
          expect([rig.driver.popUsed(), rig.driver.usedLen]).toEqual([head, head]);
          rig.driver.freeChain(head);
        }
        expect(rig.driver.popUsed()).toBe(NO_HEAD);
      }
      expect(rig.device.fault).toBe(RingFault.none);
      expect(rig.device.base).toBe((0xfff0 + rounds * size) & 0xffff);
    },
  );

  it('takes a chain of 1024 descriptors, direct or in a table', () => {
    const rig = rigOf({ size: 1024 });
    const chain = new Chain();
    const segments = Array.from({ length: 1024 }, (_, i) => (i < 500 ? readable(i, i) : writable(i, i)));
    rig.submit(segments);
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual(segments);
    const small = rigOf({ size: 1 });
    small.show(small.driver.addIndirect(segments, SPACE));
    expect(small.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual(segments);
    expect([chain.readableCount, chain.readableBytes, chain.writableBytes]).toEqual([500, 124_750, 399_026]);
  });

  it('follows a table in any order of its entries', () => {
    const rig = rigOf();
    writeTable(rig, SPACE, [
      [10, 1, NEXT, 2],
      [30, 3, WRITE, 0],
      [20, 2, NEXT | WRITE, 1],
    ]);
    rig.driver.writeDescriptor(5, SPACE, 48, INDIRECT, 0);
    rig.show(5);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(chain.head).toBe(5);
    expect(buffersOf(chain)).toEqual([readable(10, 1), writable(20, 2), writable(30, 3)]);
  });

  it('ignores WRITE on the descriptor of a table, and the table past its last entry', () => {
    const rig = rigOf();
    writeTable(rig, SPACE, [
      [10, 1, 0, 99],
      [20, 2, INDIRECT, 77],
    ]);
    rig.driver.writeDescriptor(0, SPACE, 32, INDIRECT | WRITE, 9999);
    rig.show(0);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual([readable(10, 1)]);
  });

  it.each([1, 2, 3, 4, 8, 15])('reads a table that is %i bytes off its alignment', (off) => {
    const rig = rigOf();
    const segments = [readable(0x1_2345_6789_abcd, 0xffff), writable(7, 1)];
    rig.show(rig.driver.addIndirect(segments, SPACE + off));
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual(segments);
  });

  it.each([1, 8, 16, 17, 32, 47])('reads a table of which %i bytes lie in the region before', (before) => {
    const border = 4 * PAGE;
    const rig = rigOf({
      regions: [
        { guestAddress: 0, sizeBytes: border },
        { guestAddress: border, sizeBytes: PAGE },
      ],
    });
    const segments = [readable(1, 2), readable(3, 4), writable(5, 6)];
    rig.show(rig.driver.addIndirect(segments, border - before));
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual(segments);
  });

  it('reads a table across the border of two windows of one region', () => {
    const rig = rigOf({ regions: [{ guestAddress: 0, sizeBytes: GIB + PAGE }] });
    const segments = [readable(1, 2), readable(3, 4), writable(5, 6)];
    rig.show(rig.driver.addIndirect(segments, GIB - 24));
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
    expect(chain.readableBytes + chain.writableBytes).toBe(2 ** 32);
  });

  it('accepts an available index that moved by the whole ring at once', () => {
    const rig = rigOf({ size: 4, base: 0xfffe });
    for (let i = 0; i < 4; i++) rig.driver.expose(rig.driver.addChain([readable(i)]));
    rig.driver.publish();
    const chain = new Chain();
    for (let i = 0; i < 4; i++) expect(rig.device.pop(chain)).toBe(true);
    expect(rig.device.pop(chain)).toBe(false);
    expect(rig.device.fault).toBe(RingFault.none);
  });
});

describe('a popped chain', () => {
  it('does not change when the driver rewrites its descriptors and its table afterwards', () => {
    const rig = rigOf();
    const segments = [readable(1, 2), readable(3, 4), writable(5, 6), writable(7, 8)];
    rig.show(rig.addMixed(segments, 2, SPACE));
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(true);
    rig.driver.descriptors.fill(0xffff_ffff);
    rig.driver.available.fill(0xffff);
    rig.memory.bytes(SPACE, PAGE).fill(0xff);
    expect(buffersOf(chain)).toEqual(segments);
    expect([chain.readableBytes, chain.writableBytes, chain.readableCount]).toEqual([6, 14, 2]);
  });

  it('can be put back, and comes again as the driver has it then', () => {
    const rig = rigOf({ base: 0 });
    const first = rig.submit([readable(1)]);
    const second = rig.submit([readable(2)]);
    const chain = new Chain();
    rig.device.pop(chain);
    rig.device.unpop(first);
    expect([rig.device.base, rig.device.inFlightCount, rig.device.hasAvailable()]).toEqual([0, 0, true]);
    rig.driver.writeDescriptor(first, 9, 9, 0, 0);
    expect(rig.device.pop(chain)).toBe(true);
    expect(buffersOf(chain)).toEqual([readable(9, 9)]);
    expect(rig.device.pop(chain)).toBe(true);
    rig.device.unpop(second);
    expect(rig.device.pop(chain)).toBe(true);
    expect(chain.head).toBe(second);
    expect(rig.device.pop(chain)).toBe(false);
  });

  it('can be put back across the index wrap', () => {
    const rig = rigOf({ base: 0xffff });
    const head = rig.submit([readable(1)]);
    const chain = new Chain();
    rig.device.pop(chain);
    expect(rig.device.base).toBe(0);
    rig.device.unpop(head);
    expect(rig.device.base).toBe(0xffff);
    expect(rig.device.pop(chain)).toBe(true);
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
  readonly options?: RingRigOptions;
  readonly commit: (rig: RingRig) => void;
}

/** A direct chain from descriptor 0 on, as written. */
function direct(rows: readonly RawDescriptor[]): (rig: RingRig) => void {
  return (rig) => {
    for (const [i, row] of rows.entries()) rig.driver.writeDescriptor(i, ...row);
    rig.show(0);
  };
}

/** A chain of one table, as written; `length` overrides that of the table. */
function table(
  rows: readonly RawDescriptor[],
  length = 16 * rows.length,
  flags: number = INDIRECT,
): (rig: RingRig) => void {
  return (rig) => {
    writeTable(rig, SPACE, rows);
    rig.driver.writeDescriptor(0, SPACE, length, flags, 1);
    rig.show(0);
  };
}

function jump(by: number): (rig: RingRig) => void {
  return (rig) => {
    rig.driver.nextAvail = (rig.driver.nextAvail + by) & 0xffff;
    rig.driver.publish();
  };
}

const MISUSES: readonly Misuse[] = [
  { name: 'an available index one too far', fault: RingFault.availIndexJump, commit: jump(9) },
  { name: 'an available index half a turn ahead', fault: RingFault.availIndexJump, commit: jump(0x8000) },
  { name: 'an available index that goes back', fault: RingFault.availIndexJump, commit: jump(-1) },
  { name: 'a head just outside the table', fault: RingFault.headOutOfRange, commit: (rig) => rig.show(8) },
  { name: 'a head of 0xffff', fault: RingFault.headOutOfRange, commit: (rig) => rig.show(0xffff) },
  {
    name: 'a head that is in flight',
    fault: RingFault.headInFlight,
    commit: (rig) => {
      const head = rig.submit([readable(1)]);
      expect(rig.device.pop(new Chain())).toBe(true);
      rig.show(head);
    },
  },
  {
    name: 'a head twice in one batch',
    fault: RingFault.headInFlight,
    commit: (rig) => {
      const head = rig.driver.addChain([readable(1)]);
      rig.driver.expose(head);
      rig.driver.expose(head);
      rig.driver.publish();
      expect(rig.device.pop(new Chain())).toBe(true);
    },
  },
  { name: 'a next just outside the table', fault: RingFault.nextOutOfRange, commit: direct([[0, 1, NEXT, 8]]) },
  { name: 'a next of 0xffff', fault: RingFault.nextOutOfRange, commit: direct([[0, 1, NEXT, 0xffff]]) },
  { name: 'a next outside its indirect table', fault: RingFault.nextOutOfRange, commit: table([[0, 1, NEXT, 1]]) },
  {
    name: 'a next of 0xffff in a table',
    fault: RingFault.nextOutOfRange,
    commit: table([
      [0, 1, NEXT, 0xffff],
      [0, 1, 0, 0],
    ]),
  },
  { name: 'a descriptor that follows itself', fault: RingFault.chainTooLong, commit: direct([[0, 1, NEXT, 0]]) },
  {
    name: 'a loop of descriptors',
    fault: RingFault.chainTooLong,
    commit: direct([
      [0, 1, NEXT, 1],
      [0, 1, NEXT, 2],
      [0, 1, NEXT, 1],
    ]),
  },
  {
    name: 'a loop in a table',
    fault: RingFault.chainTooLong,
    commit: table([
      [0, 1, NEXT, 1],
      [0, 1, NEXT, 0],
    ]),
  },
  {
    name: 'more than 1024 descriptors with those of a table',
    fault: RingFault.chainTooLong,
    commit: (rig) => {
      const segments = Array.from({ length: 1025 }, (_, i) => readable(i));
      rig.show(rig.addMixed(segments, 1, SPACE));
    },
  },
  {
    name: 'a readable after a writable',
    fault: RingFault.readableAfterWritable,
    commit: direct([
      [0, 1, NEXT | WRITE, 1],
      [0, 1, 0, 0],
    ]),
  },
  {
    name: 'a readable after a writable in a table',
    fault: RingFault.readableAfterWritable,
    commit: table([
      [0, 1, NEXT, 1],
      [0, 1, NEXT | WRITE, 2],
      [0, 1, 0, 0],
    ]),
  },
  {
    name: 'a readable in a table after a direct writable',
    fault: RingFault.readableAfterWritable,
    commit: (rig) => {
      writeTable(rig, SPACE, [[0, 1, 0, 0]]);
      direct([
        [0, 1, NEXT | WRITE, 1],
        [SPACE, 16, INDIRECT, 0],
      ])(rig);
    },
  },
  { name: 'INDIRECT with NEXT', fault: RingFault.indirectWithNext, commit: table([[0, 1, 0, 0]], 16, INDIRECT | NEXT) },
  { name: 'a table in a table', fault: RingFault.indirectNested, commit: table([[SPACE, 16, INDIRECT, 0]]) },
  { name: 'a table of no bytes', fault: RingFault.indirectLength, commit: table([[0, 1, 0, 0]], 0) },
  { name: 'a table of 15 bytes', fault: RingFault.indirectLength, commit: table([[0, 1, 0, 0]], 15) },
  { name: 'a table of 17 bytes', fault: RingFault.indirectLength, commit: table([[0, 1, 0, 0]], 17) },
  { name: 'a table of 1025 entries', fault: RingFault.indirectLength, commit: table([[0, 1, 0, 0]], 16 * 1025) },
  { name: 'a table of almost 4 GiB', fault: RingFault.indirectLength, commit: table([[0, 1, 0, 0]], 0xffff_fff0) },
  {
    name: 'a table outside the memory',
    fault: RingFault.indirectAddress,
    commit: direct([[OUTSIDE, 16, INDIRECT, 0]]),
  },
  {
    name: 'a table that ends outside the memory',
    fault: RingFault.indirectAddress,
    commit: direct([[RIG_GUEST_ADDRESS + (4 << 20) - 16, 32, INDIRECT, 0]]),
  },
  {
    name: 'a table at the end of the address space',
    fault: RingFault.indirectAddress,
    commit: (rig) => {
      rig.driver.descriptors.set([0xffff_fff0, 0xffff_ffff, 32, INDIRECT]);
      rig.show(0);
    },
  },
  {
    name: 'buffers of more than 2^32 bytes',
    fault: RingFault.lengthOverflow,
    commit: direct([
      [0, 0xffff_ffff, NEXT, 1],
      [0, 2, WRITE, 0],
    ]),
  },
  {
    name: 'buffers of more than 2^32 bytes in a table',
    fault: RingFault.lengthOverflow,
    commit: table([
      [0, 0xffff_ffff, NEXT, 1],
      [0, 0xffff_ffff, 0, 0],
    ]),
  },
];

describe.each([0, 0xfffd])('a driver that misbehaves, from index %i', (base) => {
  it.each(MISUSES)('breaks its ring with $name, for good', ({ fault, commit, options }) => {
    const rig = rigOf({ base, ...options });
    commit(rig);
    const chain = new Chain();
    const takenBefore = rig.device.base;
    expect(rig.device.pop(chain)).toBe(false);
    expect(rig.device.fault).toBe(fault);
    // It cannot be repaired from the guest: whatever the ring holds now, nothing is taken.
    direct([[SPACE, 16, 0, 0]])(rig);
    expect(rig.device.pop(chain)).toBe(false);
    expect([rig.device.hasAvailable(), rig.device.armKick()]).toEqual([false, false]);
    expect([rig.device.fault, rig.device.base]).toEqual([fault, takenBefore]);
  });

  it.each(MISUSES)('gets back what was taken before $name', ({ fault, commit, options }) => {
    const rig = rigOf({ base, ...options });
    // The last descriptor, which no misuse writes.
    rig.driver.writeDescriptor(7, SPACE, 16, 0, 0);
    rig.show(7);
    const chain = new Chain();
    rig.device.pop(chain);
    commit(rig);
    expect([rig.device.pop(chain), rig.device.fault]).toEqual([false, fault]);
    rig.device.push(7, 5);
    expect(rig.device.publish()).toBe(true);
    expect([rig.driver.popUsed(), rig.driver.usedLen]).toEqual([7, 5]);
  });

  it('is cured by a new start', () => {
    const rig = rigOf({ base });
    rig.show(0xffff);
    const chain = new Chain();
    expect(rig.device.pop(chain)).toBe(false);
    rig.device.close();
    rig.driver.reset(base);
    rig.device = rig.startDevice(base);
    rig.submit([readable(1)]);
    expect(rig.device.pop(chain)).toBe(true);
  });
});

describe('faults', () => {
  it('are all reached above, and all have a text', () => {
    const reached = new Set<RingFault>(MISUSES.map(({ fault }) => fault));
    const all = Object.values(RingFault).filter((fault) => fault !== RingFault.none);
    expect(all.filter((fault) => !reached.has(fault))).toEqual([]);
    expect(new Set(Object.values(RingFault).map((fault) => RING_FAULT_TEXT[fault])).size).toBe(all.length + 1);
  });
});

describe('a ring over memory that was used before', () => {
  it('goes on from the used index that the last device left', () => {
    const rig = rigOf({ size: 4 });
    const chain = new Chain();
    for (let i = 0; i < 3; i++) {
      const head = rig.submit([readable(i)]);
      rig.device.pop(chain);
      rig.device.push(head, i);
      rig.device.publish();
      expect(rig.driver.popUsed()).toBe(head);
      rig.driver.freeChain(head);
    }
    const base = rig.device.base;
    rig.device.close();
    rig.device = rig.startDevice(base);
    const head = rig.submit([readable(9)]);
    expect(rig.device.pop(chain)).toBe(true);
    rig.device.push(head, 77);
    rig.device.publish();
    expect([rig.driver.usedIdx(), rig.driver.popUsed(), rig.driver.usedLen]).toEqual([4, head, 77]);
  });

  it('has no views of it after it was closed', () => {
    const rig = rigOf();
    rig.submit([readable(1)]);
    rig.device.close();
    expect(() => rig.device.hasAvailable()).toThrow();
    rig.device = rig.startDevice(0);
  });

  it('is asserted to have a power of two of entries', () => {
    const rig = rigOf();
    const setup = { descriptorAddress: 16, availableAddress: 16, usedAddress: 16, hasEventIdx: false, base: 0 };
    for (const size of [0, 3, 6, 1023]) {
      expect(() => new SplitRing({ ...setup, size }, rig.guest)).toThrow(AssertionError);
    }
  });

  it('has the sizes of the specification', () => {
    expect(ringBytes(false, 1)).toEqual({ descriptor: 16, available: 8, used: 14 });
    expect(ringBytes(false, 256)).toEqual({ descriptor: 4096, available: 518, used: 2054 });
    expect(ringBytes(false, 1024)).toEqual({ descriptor: 16_384, available: 2054, used: 8198 });
  });
});
