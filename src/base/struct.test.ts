/** Wire layouts: what the tables promise about sizes, byte order and round trips. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionError } from './assert.ts';
import { addr64, type FieldType, struct, u8, u16, u32, u64 } from './struct.ts';

const Sample = struct('sample', 23, { one: u8, two: u16, four: u32, mask: u64, address: addr64 });

const sampleValue = fc.record({
  one: fc.integer({ min: 0, max: 0xff }),
  two: fc.integer({ min: 0, max: 0xffff }),
  four: fc.integer({ min: 0, max: 0xffff_ffff }),
  mask: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  address: fc.maxSafeNat(),
});

function bytesOf<T>(type: FieldType<T>, value: T): number[] {
  const bytes = new Uint8Array(type.size);
  type.write(new DataView(bytes.buffer), 0, value);
  return [...bytes];
}

function readBack<T>(type: FieldType<T>, bytes: readonly number[]): T {
  return type.read(new DataView(Uint8Array.from(bytes).buffer), 0);
}

describe('struct', () => {
  it('refuses fields that do not add up to the size of the specification', () => {
    expect(() => struct('short', 8, { value: u32 })).toThrow(AssertionError);
    expect(() => struct('short', 8, { value: u32 })).toThrow('short: fields take 4 bytes, not 8');
    expect(() => struct('long', 1, { value: u16 })).toThrow(AssertionError);
  });

  it('gives back what was encoded, at any offset, and touches no other byte', () => {
    fc.assert(
      fc.property(sampleValue, fc.nat(20), fc.nat(20), (value, before, after) => {
        const bytes = new Uint8Array(before + Sample.size + after).fill(0xa5);
        Sample.encode(value, bytes, before);
        expect(Sample.decode(bytes, before)).toEqual(value);
        const around = [...bytes.subarray(0, before), ...bytes.subarray(before + Sample.size)];
        expect(around.every((byte) => byte === 0xa5)).toBe(true);
      }),
    );
  });

  it('reads and writes through a view that does not start its buffer', () => {
    const whole = new Uint8Array(64);
    const value = { one: 1, two: 0x0203, four: 0x0405_0607, mask: 0x0809_0a0b_0c0d_0e0fn, address: 0x10_1112_1314 };
    Sample.encode(value, whole.subarray(7, 7 + Sample.size));
    expect(Sample.decode(whole, 7)).toEqual(value);
  });

  it('is little-endian without padding', () => {
    const bytes = Sample.encode({ one: 1, two: 0x0302, four: 0x0706_0504, mask: 0x0f0en, address: 0x1716 });
    expect([...bytes]).toEqual([1, 2, 3, 4, 5, 6, 7, 0x0e, 0x0f, 0, 0, 0, 0, 0, 0, 0x16, 0x17, 0, 0, 0, 0, 0, 0]);
  });

  it('throws a RangeError when the bytes do not hold the struct', () => {
    expect(() => Sample.decode(new Uint8Array(Sample.size - 1))).toThrow(RangeError);
    expect(() => Sample.decode(new Uint8Array(Sample.size), 1)).toThrow(RangeError);
    // The bytes behind a short view are not the view's, though the buffer has them.
    expect(() => Sample.decode(new Uint8Array(Sample.size).subarray(1))).toThrow(RangeError);
  });
});

describe('addr64', () => {
  it('writes what u64 writes, for every number that is exact', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        expect(bytesOf(addr64, value)).toEqual(bytesOf(u64, BigInt(value)));
        expect(readBack(addr64, bytesOf(addr64, value))).toBe(value);
      }),
      { examples: [[0], [2 ** 32 - 1], [2 ** 32], [2 ** 32 + 1], [Number.MAX_SAFE_INTEGER]] },
    );
  });

  it('reads a value from 2^53 up as something that fails every range check', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n }), (value) => {
        const read = readBack(addr64, bytesOf(u64, value));
        expect(read).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
        expect(read).toBeLessThanOrEqual(2 ** 64);
      }),
      { examples: [[2n ** 53n], [2n ** 53n + 1n], [2n ** 64n - 1n]] },
    );
  });
});
