/**
 * Who may look. On a loopback address everybody on this machine may, but no page of another site: the request must
 * name a loopback host (DNS rebinding). On any other address a token is needed, as `Authorization: Bearer TOKEN`, or
 * once as `?token=TOKEN`, which a browser then keeps as a cookie.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { isIP } from 'node:net';
import type { MiddlewareHandler } from 'hono';
import { getCookie, setCookie } from 'hono/cookie';
import { TargetError } from '../base/errors.ts';

export interface HttpAddress {
  readonly host: string;
  readonly port: number;
}

const COOKIE = 'ringhost-token';
const TOKEN_CHARACTERS_MIN = 16;

/** `127.0.0.1:9009`, `[::1]:9009`, `localhost:9009`. @throws TargetError `EINVAL` */
export function parseHttpAddress(text: string): HttpAddress {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  const isHost = host === 'localhost' || isIP(host ?? '') !== 0;
  if (host === undefined || !isHost || port > 65_535) {
    throw new TargetError('EINVAL', `--http ${text}: give an address and a port, such as 127.0.0.1:9009 or [::1]:9009`);
  }
  return { host, port };
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** @throws TargetError `EINVAL` when others could look without a token, or could guess it. */
export function checkToken({ host }: HttpAddress, token: string | null): void {
  if (token === null && !isLoopback(host)) {
    throw new TargetError(
      'EINVAL',
      `--http ${host}: other machines can reach this address: give --http-token-file FILE, or listen on 127.0.0.1`,
    );
  }
  if (token !== null && token.length < TOKEN_CHARACTERS_MIN) {
    throw new TargetError(
      'EINVAL',
      `the token has ${token.length} characters, and needs ${TOKEN_CHARACTERS_MIN}: openssl rand -hex 32 makes one`,
    );
  }
}

export function guard(token: string | null): MiddlewareHandler {
  return token === null ? loopbackOnly : tokenHolders(token);
}

const loopbackOnly: MiddlewareHandler = async (context, next) => {
  const host = new URL(context.req.url).hostname.replace(/^\[|\]$/g, '');
  if (isLoopback(host)) return await next();
  return context.text(`this server answers to localhost, not to ${host}\n`, 403);
};

function tokenHolders(token: string): MiddlewareHandler {
  return async (context, next) => {
    const offered = context.req.query('token');
    const bearer = /^Bearer (.+)$/.exec(context.req.header('authorization') ?? '')?.[1];
    if (!isSame(token, offered ?? bearer ?? getCookie(context, COOKIE) ?? '')) {
      context.header('www-authenticate', 'Bearer');
      return context.text('a token is needed: ?token=TOKEN, or the header Authorization: Bearer TOKEN\n', 401);
    }
    if (offered === undefined) return await next();
    setCookie(context, COOKIE, token, { httpOnly: true, sameSite: 'Strict', path: '/' });
    return context.redirect(context.req.path);
  };
}

/** In the same time whatever they differ in. */
function isSame(a: string, b: string): boolean {
  const hash = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(hash(a), hash(b));
}
