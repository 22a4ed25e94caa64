/** Error objects of JSON-RPC 2.0 (section 5.1) with the codes and texts that SPDK's clients expect. */
import { Errno, errnoName, strerror, TargetError } from '../base/errors.ts';
import type { ErrorStyle } from './define.ts';

export const RpcCode = {
  parseError: -32700,
  invalidRequest: -32600,
  methodNotFound: -32601,
  invalidParams: -32602,
  internalError: -32603,
  /** Of this server: a limit is reached. */
  busy: -32000,
  /** SPDK: the method may not be called in the present state. */
  invalidState: -1,
} as const;

const TEXT_BY_CODE: ReadonlyMap<number, string> = new Map([
  [RpcCode.parseError, 'Parse error'],
  [RpcCode.invalidRequest, 'Invalid request'],
  [RpcCode.methodNotFound, 'Method not found'],
  [RpcCode.invalidParams, 'Invalid parameters'],
  [RpcCode.internalError, 'Internal error'],
  [RpcCode.busy, 'Server busy'],
  [RpcCode.invalidState, 'Method may not be called in the current state'],
]);

/** The `error` member of an answer. `message` is what SPDK would say; `data` is what Ringhost adds. */
export interface ErrorObject {
  readonly code: number;
  readonly message: string;
  readonly data?: {
    /** A sentence that says what is wrong and what to do. */
    readonly detail: string;
    /** Name of the errno behind `message`. */
    readonly errno?: string;
  };
}

/** Thrown by a handler that must give a certain code and text, which no errno has. */
export class RpcError extends Error {
  override readonly name = 'RpcError';
  readonly code: number;
  readonly detail: string | undefined;

  constructor(code: number, message: string, detail?: string) {
    super(message);
    this.code = code;
    this.detail = detail;
  }
}

/** One of the standard errors, with a sentence for the operator. */
export function standardError(code: number, detail?: string): ErrorObject {
  const message = TEXT_BY_CODE.get(code) ?? 'Error';
  return detail === undefined ? { code, message } : { code, message, data: { detail } };
}

const CODE_BY_STYLE: Readonly<Record<Exclude<ErrorStyle, 'errno'>, number>> = {
  invalid_params: RpcCode.invalidParams,
  internal: RpcCode.internalError,
};

/** The error object for a negative errno in the habit of the method. */
export function errnoError(errno: number, style: ErrorStyle, detail: string): ErrorObject {
  const code = style === 'errno' ? errno : CODE_BY_STYLE[style];
  return { code, message: strerror(errno), data: { errno: errnoName(errno), detail } };
}

/** What a handler threw, as an error object; null for an exception that nobody foresaw. */
export function thrownError(thrown: unknown, style: ErrorStyle): ErrorObject | null {
  if (thrown instanceof RpcError) {
    const { code, message, detail } = thrown;
    return detail === undefined ? { code, message } : { code, message, data: { detail } };
  }
  if (thrown instanceof TargetError) return errnoError(thrown.errno, style, thrown.message);
  return null;
}

/** Parameters that have the right types but values that the method cannot take. */
export function invalidArgument(style: ErrorStyle, detail: string): ErrorObject {
  return errnoError(Errno.EINVAL, style, detail);
}
