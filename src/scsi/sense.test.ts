import { describe, expect, it } from 'vitest';
import { fieldPointer, NO_FIELD, NO_INFORMATION, Sense, WHOLE_BYTE, writeSense } from './sense.ts';

function bytes(...rest: [code: number, isDescriptor: boolean, information?: number, field?: number]): number[] {
  const target = new Uint8Array(96).fill(0xaa);
  return [...target.subarray(0, writeSense(target, ...rest))];
}

describe('sense data', () => {
  it('has 18 bytes in fixed format', () => {
    expect(bytes(Sense.invalidOpcode, false)).toEqual([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]);
  });

  it('carries information of four bytes in fixed format, and leaves out what is longer', () => {
    const fits = bytes(Sense.miscompare, false, 0x01020304);
    expect(fits.slice(0, 7)).toEqual([0xf0, 0, 0x0e, 1, 2, 3, 4]);
    expect(bytes(Sense.miscompare, false, 2 ** 32).slice(0, 7)).toEqual([0x70, 0, 0x0e, 0, 0, 0, 0]);
  });

  it('points at a field in fixed format', () => {
    const cdb = bytes(Sense.invalidFieldInCdb, false, NO_INFORMATION, fieldPointer(1, 7, true));
    expect(cdb.slice(12)).toEqual([0x24, 0, 0, 0xcf, 0, 1]);
    const parameter = bytes(
      Sense.invalidFieldInParameters,
      false,
      NO_INFORMATION,
      fieldPointer(258, WHOLE_BYTE, false),
    );
    expect(parameter.slice(12)).toEqual([0x26, 0, 0, 0x80, 1, 2]);
  });

  it('has 8 bytes and its descriptors in descriptor format', () => {
    expect(bytes(Sense.powerOn, true)).toEqual([0x72, 6, 0x29, 0, 0, 0, 0, 0]);
    const all = bytes(Sense.invalidFieldInCdb, true, 2 ** 32 + 5, fieldPointer(2, 3, true));
    expect(all).toEqual([
      ...[0x72, 5, 0x24, 0, 0, 0, 0, 20],
      ...[0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 5],
      ...[2, 6, 0, 0, 0xcb, 0, 2, 0],
    ]);
  });

  it('has no field pointer when there is none', () => {
    expect(bytes(Sense.lbaOutOfRange, true, NO_INFORMATION, NO_FIELD)).toHaveLength(8);
  });
});
