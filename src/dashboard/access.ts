/**
 * Who may look. On a loopback address everybody on this machine may, but no page of another site: the request must
 * name a loopback host (DNS rebinding). On any other address a token is needed, as `Authorization: Bearer TOKEN`, or
 * once as `?token=TOKEN`, which a browser then keeps as a cookie.
 */
import type { MiddlewareHandler } from 'hono';
import { getCookie, setCookie } from 'hono/cookie';
import { TargetError } from '../base/errors.ts';
import { isLoopback, type NetworkAddress } from '../base/network-address.ts';
import { bearerToken, isSameToken } from '../base/token.ts';

const COOKIE = 'ringhost-token';

/** @throws TargetError `EINVAL` when others could look without a token. */
export function requireToken({ host }: NetworkAddress, token: string | null): void {
  if (token !== null || isLoopback(host)) return;
  throw new TargetError(
    'EINVAL',
    `--http ${host}: other machines can reach this address: give --http-token-file FILE, or listen on 127.0.0.1`,
  );
}

/** `tokenOf`: the token as it is now; null: none is needed. */
export function guard(tokenOf: () => string | null): MiddlewareHandler {
  return async (context, next) => {
    const token = tokenOf();
    return await (token === null ? loopbackOnly : tokenHolders(token))(context, next);
  };
}

const loopbackOnly: MiddlewareHandler = async (context, next) => {
  const host = new URL(context.req.url).hostname.replace(/^\[|\]$/g, '');
  if (isLoopback(host)) return await next();
  return context.text(`this server answers to localhost, not to ${host}\n`, 403);
};

/** What costs the daemon something is not for pages of other sites, which a browser names. */
export const sameOriginOnly: MiddlewareHandler = async (context, next) => {
  const origin = context.req.header('origin');
  if (origin === undefined || URL.parse(origin)?.host === context.req.header('host')) return await next();
  return context.text(`this is not for pages of ${origin}\n`, 403);
};

function tokenHolders(token: string): MiddlewareHandler {
  return async (context, next) => {
    const offered = context.req.query('token');
    const bearer = bearerToken(context.req.header('authorization'));
    if (!isSameToken(token, offered ?? (bearer || (getCookie(context, COOKIE) ?? '')))) {
      context.header('www-authenticate', 'Bearer');
      return context.text('a token is needed: ?token=TOKEN, or the header Authorization: Bearer TOKEN\n', 401);
    }
    if (offered === undefined) return await next();
    setCookie(context, COOKIE, token, { httpOnly: true, sameSite: 'Strict', path: '/' });
    return context.redirect(context.req.path);
  };
}
