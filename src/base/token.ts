/** Tokens that let their holders in: read from files, checked once, compared in constant time. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { TargetError } from './errors.ts';

const CHARACTERS_MIN = 16;

/** What `Authorization: Bearer TOKEN` carries; '' when there is none. */
export function bearerToken(authorization: string | undefined): string {
  return /^Bearer +(\S+) *$/i.exec(authorization ?? '')?.[1] ?? '';
}

/** `option` names the token's file in errors. @throws TargetError `EINVAL` for one that could be guessed */
export function checkToken(token: string, option: string): string {
  if (token.length < CHARACTERS_MIN || /[^\x21-\x7e]/.test(token)) {
    const needed = `it needs ${CHARACTERS_MIN} or more printable ones without spaces: openssl rand -hex 32 makes such`;
    throw new TargetError('EINVAL', `${option}: the token has ${token.length} characters: ${needed}`);
  }
  return token;
}

/** In the same time whatever they differ in. */
export function isSameToken(a: string, b: string): boolean {
  const hash = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(hash(a), hash(b));
}
