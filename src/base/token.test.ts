import { describe, expect, it } from 'vitest';
import { bearerToken, checkToken, isSameToken } from './token.ts';

describe('a token', () => {
  it.each([
    '',
    'short',
    '123456789012345',
    'one that has spaces',
    'two-lines-of-it\nanother-line',
    'ümlaute-in-it-too',
  ])('%j is refused', (token) => {
    expect(() => checkToken(token, '--file')).toThrow(/^--file: the token has \d+ characters.*openssl rand -hex 32/);
  });

  it('of 16 characters will do', () => {
    expect(checkToken('1234567890123456', '--file')).toBe('1234567890123456');
  });

  it('is found behind the word Bearer', () => {
    expect(bearerToken('Bearer abc')).toBe('abc');
    expect(bearerToken('bearer  abc ')).toBe('abc');
    for (const header of [undefined, '', 'Bearer', 'Bearer ', 'Basic abc', 'Bearer a b', 'XBearer abc']) {
      expect(bearerToken(header)).toBe('');
    }
  });

  it('is the same only when all of it is', () => {
    expect(isSameToken('abc', 'abc')).toBe(true);
    for (const other of ['', 'ab', 'abcd', 'abd', 'ABC']) expect(isSameToken('abc', other)).toBe(false);
  });
});
