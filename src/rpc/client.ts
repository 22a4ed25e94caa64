/** A client of the RPC server, typed by the method table. */
import { TargetError } from '../base/errors.ts';
import { encodeJson } from './framing.ts';
import { HttpsLink } from './https-link.ts';
import type { Link, LinkEvents } from './link.ts';
import type { CallParams, MethodName, Result } from './methods.ts';
import { SocketLink } from './socket-link.ts';

export const DEFAULT_SOCKET_PATH = '/var/tmp/ringhost.sock';

/** Where a client looks for a daemon when it is not told: a path, or `https://HOST:PORT`. */
export function clientSocketPath(env: Readonly<Record<string, string | undefined>> = process.env): string {
  return env['RINGHOST_RPC_SOCKET'] ?? DEFAULT_SOCKET_PATH;
}

const DEFAULT_TIMEOUT_MS = 60_000;

/** The daemon answered a call with an error. */
export class RpcCallError extends Error {
  override readonly name = 'RpcCallError';
  /** As in JSON-RPC and SPDK: `-32602`, `-19`, … */
  readonly code: number;
  /** The `error` member of the answer as it came. */
  readonly response: Readonly<Record<string, unknown>>;

  constructor(response: Readonly<Record<string, unknown>>) {
    const { code, message, data } = response;
    const detail = typeof data === 'object' && data !== null && 'detail' in data ? `: ${String(data.detail)}` : '';
    super(`${String(message)}${detail}`);
    this.code = typeof code === 'number' ? code : 0;
    this.response = response;
  }
}

export interface RpcClientOptions {
  /** How long a call may take. Default: 60 s, as in rpc.py. */
  readonly timeoutMs?: number | undefined;
  /** For `https:`: what the daemon's `--rpc-token-file` has. */
  readonly token?: string | undefined;
  /** For `https:`: certificates (PEM) of who may have signed the daemon's. Default: those that Node.js trusts. */
  readonly ca?: string | undefined;
}

interface PendingCall {
  resolve(result: unknown): void;
  reject(error: Error): void;
  readonly timer: NodeJS.Timeout;
}

/** Parameters may be left out when the method needs none. */
type CallArguments<N extends MethodName> =
  Record<never, never> extends CallParams<N> ? [params?: CallParams<N>] : [params: CallParams<N>];

export class RpcClient {
  readonly #timeoutMs: number;
  readonly #pending = new Map<number, PendingCall>();
  #link: Link | null = null;
  #lastId = 0;
  #closed: TargetError | null = null;

  private constructor(options: RpcClientOptions) {
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  }

  /**
   * Connects to a daemon: to the path of its socket, or to `https://HOST:PORT` (`--rpc-https`) with its token.
   *
   * @throws TargetError `ENOENT`, `ECONNREFUSED`, `EACCES`, … with a message that says what to look at.
   */
  static async connect(where: string = DEFAULT_SOCKET_PATH, options: RpcClientOptions = {}): Promise<RpcClient> {
    const client = new RpcClient(options);
    const events: LinkEvents = {
      value: (value) => client.#onAnswer(value),
      lost: (error) => client.#fail(error),
    };
    if (where.startsWith('https:')) {
      client.#link = new HttpsLink(checkUrl(where), { ca: options.ca, token: requireToken(options.token) }, events);
      // What is wrong with the address, the certificate or the token is said now, not at the first call.
      await client.call('spdk_get_version').catch((error: Error) => {
        client.close();
        throw error;
      });
    } else {
      refuseAddress(where);
      client.#link = await SocketLink.connect(where, events);
    }
    return client;
  }

  /**
   * Calls a method and waits for its result.
   *
   * @throws RpcCallError when the daemon refuses; TargetError when the connection is lost or the time is up.
   */
  call<N extends MethodName>(method: N, ...params: CallArguments<N>): Promise<Result<N>> {
    return this.request(method, params[0]) as Promise<Result<N>>;
  }

  /** Calls a method by any name, without types. */
  request(method: string, params?: Readonly<Record<string, unknown>>): Promise<unknown> {
    const closed = this.#closed;
    if (closed !== null) return Promise.reject(closed);
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        const detail = `${method} was not answered within ${this.#timeoutMs / 1000} s: allow it more time with -t`;
        reject(new TargetError('ETIMEDOUT', detail, { fields: { method } }));
      }, this.#timeoutMs);
      this.#pending.set(id, { resolve, reject, timer });
      const hasParams = params !== undefined && Object.keys(params).length > 0;
      this.#link?.send(encodeJson({ jsonrpc: '2.0', method, id, ...(hasParams ? { params } : {}) }));
    });
  }

  /** Ends the connection. Calls that have not been answered fail. */
  close(): void {
    this.#fail(new TargetError('EPIPE', 'the connection was closed here'));
    this.#link?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #onAnswer(value: unknown): void {
    if (typeof value !== 'object' || value === null) return;
    const { id, result, error } = value as Readonly<Record<string, unknown>>;
    const refusal = typeof error === 'object' && error !== null ? new RpcCallError({ ...error }) : null;
    if (typeof id !== 'number') {
      // An error without an id is about the connection itself.
      const detail = `the daemon refused the connection: ${refusal?.message}`;
      if (refusal !== null) this.#fail(new TargetError('EPIPE', detail, { cause: refusal }));
      return;
    }
    const call = this.#pending.get(id);
    if (call === undefined) return;
    this.#pending.delete(id);
    clearTimeout(call.timer);
    if (refusal === null) call.resolve(result);
    else call.reject(refusal);
  }

  #fail(reason: TargetError): void {
    this.#closed ??= reason;
    for (const call of this.#pending.values()) {
      clearTimeout(call.timer);
      call.reject(this.#closed);
    }
    this.#pending.clear();
  }
}

function checkUrl(text: string): string {
  const url = URL.parse(text);
  if (url !== null && url.pathname === '/' && url.search === '' && url.username === '') return url.origin;
  throw new TargetError('EINVAL', `${text}: give https://HOST:PORT`);
}

function requireToken(token: string | undefined): string {
  if (token !== undefined && token !== '') return token;
  throw new TargetError(
    'EINVAL',
    'a daemon over TCP wants its token: give --token-file FILE with that of its operator',
  );
}

/** What rpc.py would take for TCP in plain text. */
function refuseAddress(where: string): void {
  if (!/^([a-z]+:\/\/|(\[[\da-f:]+\]|[^/:]+):\d+$)/i.test(where)) return;
  throw new TargetError('EINVAL', `${where}: RPC goes over TCP with TLS and a token only: https://HOST:PORT`);
}
