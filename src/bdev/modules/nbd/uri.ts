/** NBD URIs (the NBD project's doc/uri.md): `nbd://host:port/export`, `nbd+unix:///export?socket=path`, or `nbds`. */
import { TargetError } from '../../../base/errors.ts';

export interface NbdUri {
  readonly isTls: boolean;
  /** A socket file; empty: `host` and `port`. */
  readonly path: string;
  readonly host: string;
  readonly port: number;
  /** May be empty: the server's default. */
  readonly exportName: string;
}

const DEFAULT_PORT = 10_809;
const SCHEMES: Readonly<Record<string, { readonly isTls: boolean; readonly isUnix: boolean }>> = {
  'nbd:': { isTls: false, isUnix: false },
  'nbds:': { isTls: true, isUnix: false },
  'nbd+unix:': { isTls: false, isUnix: true },
  'nbds+unix:': { isTls: true, isUnix: true },
};

/** Throws `EINVAL` with what a URI looks like. */
export function parseNbdUri(text: string): NbdUri {
  const url = URL.canParse(text) ? new URL(text) : null;
  const scheme = url === null ? undefined : SCHEMES[url.protocol];
  if (url === null || scheme === undefined) {
    throw new TargetError(
      'EINVAL',
      `"${text}" is no NBD URI: write nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH (nbds for TLS)`,
    );
  }
  const path = url.searchParams.get('socket') ?? '';
  const host = decodeURIComponent(url.hostname).replace(/^\[(.*)\]$/, '$1');
  if (scheme.isUnix && path === '') throw new TargetError('EINVAL', `"${text}" names no socket: add ?socket=PATH`);
  if (!scheme.isUnix && host === '') throw new TargetError('EINVAL', `"${text}" names no host`);
  return {
    isTls: scheme.isTls,
    path: scheme.isUnix ? path : '',
    host: scheme.isUnix ? '' : host,
    port: url.port === '' ? DEFAULT_PORT : Number(url.port),
    exportName: decodeURIComponent(url.pathname.replace(/^\//, '')),
  };
}
