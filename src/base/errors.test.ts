/** Error numbers, their names and texts. */
import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';
import { describe, expect, it } from 'vitest';
import { checkErrno, Errno, type ErrnoName, errnoName, strerror, TargetError } from './errors.ts';

const names = Object.keys(Errno) as ErrnoName[];

describe('errno table', () => {
  it("has the kernel's numbers", () => {
    // Each of the runtime's two tables lacks one that we have: ESHUTDOWN, and EDQUOT.
    const posix: Readonly<Record<string, number>> = constants.errno;
    const system = new Map([...getSystemErrorMap()].map(([number, [name]]) => [name, -number]));
    for (const name of names) {
      const numbers = [posix[name], system.get(name)].filter((number) => number !== undefined);
      expect([name, ...new Set(numbers)]).toEqual([name, -Errno[name]]);
    }
  });

  it('names every number it has and calls the rest EIO', () => {
    for (const name of names) expect(errnoName(Errno[name])).toBe(name);
    expect(errnoName(-4095)).toBe('EIO');
    expect(errnoName(0)).toBe('EIO');
  });

  it('has a text of its own for each number', () => {
    const texts = names.map((name) => strerror(Errno[name]));
    expect(new Set(texts).size).toBe(names.length);
    expect(strerror(Errno.EBUSY)).toBe('Device or resource busy');
    expect(strerror(Errno.EINVAL)).toBe('Invalid argument');
    expect(strerror(Errno.ENODEV)).toBe('No such device');
    expect(strerror(-4095)).toBe('Unknown error 4095');
  });
});

describe('TargetError', () => {
  it('takes its errno from the code, from the options, or is EINVAL', () => {
    expect(new TargetError('EBUSY', 'in use').errno).toBe(-16);
    expect(new TargetError('VHOST_MSG_SIZE', 'too long').errno).toBe(-22);
    expect(new TargetError('VHOST_PEER', 'gone', { errno: -32 }).errno).toBe(-32);
    // Not a name of the table, although every object has it.
    expect(new TargetError('constructor', 'odd').errno).toBe(-22);
  });

  it('keeps its cause and its fields', () => {
    const cause = new Error('below');
    const error = new TargetError('EIO', 'above', { cause, fields: { ctrlr: 'vhost.0', queue: 3 } });
    expect(error.cause).toBe(cause);
    expect(error.fields).toEqual({ ctrlr: 'vhost.0', queue: 3 });
    expect(error.name).toBe('TargetError');
    expect(new TargetError('EIO', 'alone').fields).toEqual({});
    expect('cause' in new TargetError('EIO', 'alone')).toBe(false);
  });
});

describe('checkErrno', () => {
  it('passes what is not an error', () => {
    expect(checkErrno(0, 'nothing')).toBe(0);
    expect(checkErrno(4711, 'a descriptor')).toBe(4711);
  });

  it('throws with the name, the number and the text', () => {
    expect(() => checkErrno(-16, 'cannot bind')).toThrow(
      expect.objectContaining({ code: 'EBUSY', errno: -16, message: 'cannot bind: Device or resource busy' }),
    );
  });

  it('keeps a number that it has no name for', () => {
    expect(() => checkErrno(-71, 'cannot talk')).toThrow(expect.objectContaining({ code: 'EIO', errno: -71 }));
  });
});
