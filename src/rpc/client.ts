/** A client of the RPC server, typed by the method table. */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../base/errors.ts';
import { encodeJson, JsonStreamParser } from './framing.ts';
import { RESPONSE_MAX_BYTES } from './limits.ts';
import type { CallParams, MethodName, Result } from './methods.ts';

export const DEFAULT_SOCKET_PATH = '/var/tmp/ringhost.sock';

/** Where a client looks for a daemon when it is not told. */
export function clientSocketPath(env: Readonly<Record<string, string | undefined>> = process.env): string {
  return env['RINGHOST_RPC_SOCKET'] ?? DEFAULT_SOCKET_PATH;
}

const DEFAULT_TIMEOUT_MS = 60_000;

const BACKLOG_ATTEMPTS_MAX = 50;
const BACKLOG_RETRY_MS = 20;

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
  readonly timeoutMs?: number;
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
  readonly #socket: Socket;
  readonly #path: string;
  readonly #timeoutMs: number;
  /** The daemon's counters are doubles: a large one is exact as it is, and the table says number. */
  readonly #parser = new JsonStreamParser({ maxBytes: RESPONSE_MAX_BYTES, exactIntegers: false });
  readonly #pending = new Map<number, PendingCall>();
  #lastId = 0;
  #closed: TargetError | null = null;

  private constructor(socket: Socket, path: string, options: RpcClientOptions) {
    this.#socket = socket;
    this.#path = path;
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    // A reset or a broken pipe says no more than that the daemon is gone.
    socket.on('error', (error) => this.#fail(`the daemon closed the connection to ${path}`, error));
    socket.on('close', () => this.#fail(`the daemon closed the connection to ${path}`));
  }

  /**
   * Connects to a daemon.
   *
   * @throws TargetError `ENOENT`, `ECONNREFUSED`, `EACCES`, … with a message that says what to look at.
   */
  static async connect(path: string = DEFAULT_SOCKET_PATH, options: RpcClientOptions = {}): Promise<RpcClient> {
    for (let attempt = 1; ; attempt++) {
      try {
        return new RpcClient(await openSocket(path), path, options);
      } catch (error) {
        // The daemon lives, but more clients want to connect than its backlog holds.
        const isFull = (error as NodeJS.ErrnoException).code === 'EAGAIN';
        if (!isFull || attempt === BACKLOG_ATTEMPTS_MAX) throw connectError(path, error as NodeJS.ErrnoException);
        await sleep(BACKLOG_RETRY_MS);
      }
    }
  }

  /**
   * Calls a method and waits for its result.
   *
   * @throws RpcCallError when the daemon refuses; TargetError when the connection is lost or the time is up.
   */
  call<N extends MethodName>(method: N, ...[params]: CallArguments<N>): Promise<Result<N>> {
    return this.request(method, params) as Promise<Result<N>>;
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
      this.#socket.write(encodeJson({ jsonrpc: '2.0', method, id, ...(hasParams ? { params } : {}) }));
    });
  }

  /** Ends the connection. Calls that have not been answered fail. */
  close(): void {
    this.#fail('the connection was closed here');
    this.#socket.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #onData(chunk: Buffer): void {
    const { values, error } = this.#parser.push(chunk);
    for (const value of values) this.#onAnswer(value);
    if (error !== null) {
      this.#fail(`what answers on ${this.#path} does not speak JSON-RPC: ${error.detail}`);
      this.#socket.destroy();
    }
  }

  #onAnswer(value: unknown): void {
    if (typeof value !== 'object' || value === null) return;
    const { id, result, error } = value as Readonly<Record<string, unknown>>;
    const refusal = typeof error === 'object' && error !== null ? new RpcCallError({ ...error }) : null;
    if (typeof id !== 'number') {
      // An error without an id is about the connection itself.
      if (refusal !== null) this.#fail(`the daemon refused the connection: ${refusal.message}`, refusal);
      return;
    }
    const call = this.#pending.get(id);
    if (call === undefined) return;
    this.#pending.delete(id);
    clearTimeout(call.timer);
    if (refusal === null) call.resolve(result);
    else call.reject(refusal);
  }

  #fail(message: string, cause?: Error): void {
    this.#closed ??= new TargetError('EPIPE', message, { cause, fields: { path: this.#path } });
    const error = this.#closed;
    for (const call of this.#pending.values()) {
      clearTimeout(call.timer);
      call.reject(error);
    }
    this.#pending.clear();
  }
}

function openSocket(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(socket);
    });
  });
}

function connectError(path: string, error: NodeJS.ErrnoException): TargetError {
  const hints: Readonly<Record<string, string>> = {
    ENOENT: 'it does not exist. Is ringhost running? Start it with -r PATH, and name the same path with -s PATH',
    ECONNREFUSED: 'nobody answers on it. Is ringhost running? Its socket may be elsewhere: name it with -s PATH',
    EACCES: 'permission denied. The socket belongs to the user who started ringhost: use that account, or root',
    EPERM: 'permission denied. The socket belongs to the user who started ringhost: use that account, or root',
  };
  const hint = hints[error.code ?? ''] ?? error.message;
  return new TargetError(error.code ?? 'EIO', `cannot connect to ${path}: ${hint}`, { cause: error, fields: { path } });
}
