/** What a reactor needs to know of an NBD export. */
import { TargetError } from '../../../base/errors.ts';
import type { PlainParams } from '../../bdev.ts';
import type { ExportAddress } from './connection.ts';

export interface NbdChannelParams extends PlainParams {
  /** A socket file; empty: `host` and `port`. */
  readonly path: string;
  /** A numeric address. */
  readonly host: string;
  readonly port: number;
  readonly exportName: string;
  readonly isTls: boolean;
  readonly serverName: string;
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
  /** A connection on which nothing comes for so long is given up; 0: never. */
  readonly ioTimeoutMs: number;
  /** Requests wait so long for a connection; 0: for as long as it takes. */
  readonly holdMs: number;
  /** The server keeps several connections consistent. */
  readonly isShared: boolean;
  /** One word: connections of an export that is not shared. */
  readonly claim: SharedArrayBuffer;
}

export function readAddress(params: NbdChannelParams): ExportAddress {
  const { path, host, port, exportName, isTls, serverName, caFile, certFile, keyFile } = params;
  return {
    server: path === '' ? { host, port } : { path },
    exportName,
    tls: isTls ? { serverName, caFile, certFile, keyFile } : null,
  };
}

/**
 * Without CAN_MULTI_CONN a flush on one connection says nothing of writes on another, so there must be only one. Throws
 * `EBUSY` when another reactor has it.
 */
export function claimExport(name: string, { isShared, claim }: NbdChannelParams): void {
  if (isShared || Atomics.compareExchange(new Int32Array(claim), 0, 0, 1) === 0) return;
  throw new TargetError(
    'EBUSY',
    `bdev "${name}" allows one connection, as its server does not keep several consistent: ` +
      'give its controller a cpumask of one core, or let the server offer multi-conn',
  );
}

export function releaseExport({ isShared, claim }: NbdChannelParams): void {
  if (!isShared) Atomics.store(new Int32Array(claim), 0, 0);
}
