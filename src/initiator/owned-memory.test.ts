import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { OwnedMemory, OwnedRegion } from './owned-memory.ts';
import { RangeAllocator } from './range-allocator.ts';

const MIB = 1 << 20;
const open: OwnedMemory[] = [];

function memoryOf(...regions: ConstructorParameters<typeof OwnedMemory>[0]): OwnedMemory {
  const memory = new OwnedMemory(regions);
  open.push(memory);
  return memory;
}

afterEach(() => {
  for (const memory of open.splice(0)) memory.close();
});

describe('range allocator', () => {
  it('never hands out a byte twice, and has everything back in the end', () => {
    const step = fc.record({
      size: fc.integer({ min: 1, max: 300 }),
      alignment: fc.constantFrom(1, 16, 64),
      free: fc.nat(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const allocator = new RangeAllocator(1000, 3000);
        const owner = new Uint8Array(4000);
        const taken: { start: number; size: number }[] = [];
        for (const { size, alignment, free } of steps) {
          const start = allocator.take(size, alignment);
          const isTaken = start >= 0;
          expect(isTaken ? start % alignment : 0).toBe(0);
          expect(isTaken ? start >= 1000 && start + size <= 3000 : true).toBe(true);
          expect(isTaken ? owner.subarray(start, start + size).every((byte) => byte === 0) : true).toBe(true);
          if (isTaken) {
            owner.fill(1, start, start + size);
            taken.push({ start, size });
          }
          const gone = free % 3 === 0 ? taken.splice(free % (taken.length + 1), 1) : [];
          for (const range of gone) {
            expect(allocator.release(range.start)).toBe(true);
            owner.fill(0, range.start, range.start + range.size);
          }
        }
        for (const { start } of taken) allocator.release(start);
        expect(allocator.take(2000, 1)).toBe(1000);
      }),
    );
  });

  it('refuses to take back what it did not give', () => {
    const allocator = new RangeAllocator(0, 100);
    const start = allocator.take(10, 1);
    expect(allocator.release(start + 1)).toBe(false);
    expect(allocator.release(start)).toBe(true);
    expect(allocator.release(start)).toBe(false);
  });
});

describe('owned memory', () => {
  it('keeps what is written, across the border of adjacent regions', () => {
    const memory = memoryOf({ guestAddress: 0, sizeBytes: MIB }, { guestAddress: MIB, sizeBytes: MIB });
    const data = Uint8Array.from({ length: 5000 }, (_, i) => i % 251);
    memory.write(MIB - 2500, data);
    expect(memory.read(MIB - 2500, 5000)).toEqual(data);
    expect(memory.bytes(MIB, 2500)).toEqual(data.subarray(2500));
    expect(() => memory.bytes(MIB - 1, 2)).toThrow(/no region holds 2 bytes/);
  });

  it('has gaps where no region is', () => {
    const memory = memoryOf({ guestAddress: 0, sizeBytes: MIB }, { guestAddress: 2 * MIB, sizeBytes: MIB });
    expect(memory.regionOf(MIB - 1)).toBe(memory.regions[0]);
    expect(memory.regionOf(MIB)).toBeUndefined();
    expect(memory.regionOf(2 * MIB)).toBe(memory.regions[1]);
    expect(() => memory.read(MIB - 1, 2)).toThrow(/no region/);
  });

  it('allocates from the next region when one is full, or from the one asked for', () => {
    const memory = memoryOf({ guestAddress: 0, sizeBytes: MIB }, { guestAddress: 2 * MIB, sizeBytes: MIB });
    const first = memory.allocate(MIB);
    const second = memory.allocate(16);
    expect([first, second]).toEqual([0, 2 * MIB]);
    memory.release(first);
    const [, region] = memory.regions;
    expect(memory.allocate(16, { region: region as OwnedRegion })).toBe(2 * MIB + 16);
    expect(() => memory.allocate(4 * MIB)).toThrow(/no 4194304 bytes left/);
  });

  it('puts two regions into one memfd', () => {
    const low = new OwnedRegion({ guestAddress: 0, sizeBytes: MIB });
    const high = new OwnedRegion({ guestAddress: 4 * MIB, sizeBytes: MIB, sameFileAs: low, mmapOffset: MIB });
    expect(high.fd).toBe(low.fd);
    low.bytes.fill(1);
    expect(high.bytes[0]).toBe(0);
    const alias = new OwnedRegion({ guestAddress: 8 * MIB, sizeBytes: MIB, sameFileAs: low });
    expect(alias.bytes[12345]).toBe(1);
    for (const region of [alias, high, low]) region.close();
  });

  it('survives the truncation of a guarded region', () => {
    const memory = memoryOf({ guestAddress: 0, sizeBytes: MIB, isGuarded: true });
    const [region] = memory.regions as [OwnedRegion];
    region.bytes.fill(7);
    region.truncate(4096);
    expect(region.bytes[4095]).toBe(7);
    expect(region.bytes[4096]).toBe(0);
  });

  it('detaches its views when closed', () => {
    const region = new OwnedRegion({ guestAddress: 0, sizeBytes: MIB });
    const { bytes } = region;
    region.close();
    expect(bytes.length).toBe(0);
  });

  it('tells front-end virtual addresses', () => {
    const memory = memoryOf({ guestAddress: MIB, sizeBytes: MIB, userAddress: 0x7000_0000_0000 });
    expect(memory.userAddressOf(MIB + 5)).toBe(0x7000_0000_0005);
  });
});
