/** Core masks as operators write them. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatCpumask, parseCpuset } from './cpuset.ts';
import { TargetError } from './errors.ts';

const cores = fc.uniqueArray(fc.integer({ min: 0, max: 1023 }), { minLength: 1, maxLength: 40 });
const ascending = (list: readonly number[]): number[] => list.toSorted((a, b) => a - b);

function refusal(text: string): string {
  try {
    return `accepted as ${parseCpuset(text).join()}`;
  } catch (error) {
    expect(error).toBeInstanceOf(TargetError);
    expect((error as TargetError).code).toBe('EINVAL');
    return (error as TargetError).message;
  }
}

describe('parseCpuset', () => {
  it.each([
    ['0x3', [0, 1]],
    ['0X10', [4]],
    ['F', [0, 1, 2, 3]],
    ['5', [0, 2]],
    ['  0x1\n', [0]],
    [`0x8${'0'.repeat(255)}`, [1023]],
  ])('reads the mask %j', (text, expected) => {
    expect(parseCpuset(text)).toEqual(expected);
  });

  it.each([
    ['0-3,8', [0, 1, 2, 3, 8]],
    ['[0,1]', [0, 1]],
    ['[5]', [5]],
    ['[ 2 - 4 , 0 ]', [0, 2, 3, 4]],
    ['3,1,3,1-2', [1, 2, 3]],
    ['7-7', [7]],
    ['0-1023', Array.from({ length: 1024 }, (_, core) => core)],
  ])('reads the list %j', (text, expected) => {
    expect(parseCpuset(text)).toEqual(expected);
  });

  it.each([
    ['', 'hexadecimal'],
    ['0x', 'hexadecimal'],
    ['0xg', 'hexadecimal'],
    ['zero', 'hexadecimal'],
    ['0x3 0x4', 'hexadecimal'],
    ['0', 'names no core'],
    ['0x000', 'names no core'],
    [`0x1${'0'.repeat(256)}`, 'up to 1023'],
    ['[0,1', 'not closed'],
    ['[]', 'neither a core nor a range'],
    ['0,,1', 'neither a core nor a range'],
    ['1-', 'neither a core nor a range'],
    ['-1', 'neither a core nor a range'],
    ['1-2-3', 'neither a core nor a range'],
    ['[0x1]', 'neither a core nor a range'],
    ['3-1', 'is not valid'],
    ['0-1024', 'is not valid'],
    ['0,99999999999999999999', 'is not valid'],
  ])('refuses %j and says why', (text, reason) => {
    const message = refusal(text);
    expect(message).toContain(reason);
    expect(message).toContain('give 0x3, 0-3,8 or [0,1]');
  });
});

describe('formatCpumask', () => {
  it('writes a mask that reads back as the same cores', () => {
    fc.assert(
      fc.property(cores, (list) => {
        expect(parseCpuset(formatCpumask(list))).toEqual(ascending(list));
      }),
    );
  });

  it('agrees with every way to write a list', () => {
    fc.assert(
      fc.property(cores, (list) => {
        const asList = parseCpuset(`[${list.join(', ')}]`);
        const asRanges = parseCpuset(`${list.map((core) => `${core}-${core}`).join()}`);
        expect(asList).toEqual(ascending(list));
        expect(asRanges).toEqual(asList);
        expect(formatCpumask(asList)).toBe(formatCpumask(list));
      }),
    );
  });

  it("has SPDK's form", () => {
    expect(formatCpumask([0])).toBe('0x1');
    expect(formatCpumask([8, 1, 0])).toBe('0x103');
    expect(formatCpumask([64])).toBe('0x10000000000000000');
  });
});
