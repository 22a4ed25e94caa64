/**
 * From a JSON value that a client sent to the value that is its answer: JSON-RPC 2.0 requests, notifications and
 * batches (sections 4 and 6), method lookup, parameter checks, aliases, and errors as SPDK words them. Knows nothing of
 * sockets.
 *
 * Where SPDK and the standard differ the standard is followed: a notification is never answered, not even with an
 * error. As in SPDK, a request whose id is null counts as a notification.
 */
import type { Logger } from '../base/log.ts';
import type { RpcState } from './define.ts';
import { type ErrorObject, RpcCode, standardError, thrownError } from './errors.ts';
import { BATCH_MAX } from './limits.ts';
import { type FoundMethod, findMethod, methodNames, nearest } from './lookup.ts';
import type { BuiltinMethodName, DaemonHandlers, Handlers, RpcContext } from './methods.ts';
import { openRpcDocument } from './openrpc.ts';
import { checkParams } from './params.ts';

type RequestId = string | number | bigint | null;

export type Response =
  | { readonly jsonrpc: '2.0'; readonly id: RequestId; readonly result: unknown }
  | { readonly jsonrpc: '2.0'; readonly id: RequestId; readonly error: ErrorObject };

/** Who asks. */
export interface Caller {
  readonly connection: number;
  readonly signal: AbortSignal;
  /** Reserves a place for a call that may wait long, and returns what gives it back; null when there is none left. */
  beginWait(): (() => void) | null;
}

/** A request that has been started. */
export interface StartedRequest {
  /** Settles when the connection's next request may start. */
  readonly turn: Promise<void> | null;
  /** What is to be sent; null: nothing. Never rejects. */
  readonly answer: Promise<AnswerValue> | AnswerValue;
}

export type AnswerValue = Response | readonly Response[] | null;

interface ValidRequest {
  readonly method: string;
  readonly params: unknown;
  /** Undefined for a notification. */
  readonly id: Exclude<RequestId, null> | undefined;
}

export interface DispatcherOptions {
  readonly handlers: DaemonHandlers;
  readonly log: Logger;
  /** Version in the document of `rpc.discover`. */
  readonly version: string;
  readonly state?: () => RpcState;
}

type Handler = (params: Readonly<Record<string, unknown>>, context: RpcContext) => unknown;

const REQUEST_MEMBERS: ReadonlySet<string> = new Set(['jsonrpc', 'method', 'params', 'id']);

export class Dispatcher {
  readonly #handlers: Handlers;
  readonly #log: Logger;
  readonly #state: () => RpcState;

  constructor(options: DispatcherOptions) {
    this.#log = options.log;
    this.#state = options.state ?? (() => 'runtime');
    const builtin: Pick<Handlers, BuiltinMethodName> = {
      rpc_get_methods: ({ current, include_aliases }) =>
        methodNames(include_aliases).filter((name) => !current || this.#isCallable(findMethod(name))),
      'rpc.discover': () => openRpcDocument(options.version),
    };
    this.#handlers = { ...options.handlers, ...builtin };
  }

  /** Starts one top-level value of the stream. */
  start(value: unknown, caller: Caller): StartedRequest {
    if (!Array.isArray(value)) return this.#startSingle(value, caller);
    if (value.length === 0) return refuse(standardError(RpcCode.invalidRequest, 'an empty batch asks for nothing'));
    if (value.length > BATCH_MAX) {
      return refuse(standardError(RpcCode.invalidRequest, `a batch may have at most ${BATCH_MAX} requests`));
    }
    return this.#startBatch(value, caller);
  }

  /** Requests of a batch take their turns one after another; the answers are sent together, in the same order. */
  #startBatch(values: readonly unknown[], caller: Caller): StartedRequest {
    const answers: (Promise<AnswerValue> | AnswerValue)[] = [];
    const turn = (async () => {
      for (const value of values) {
        const started = this.#startSingle(value, caller);
        answers.push(started.answer);
        if (started.turn !== null) await started.turn;
      }
    })();
    const answer = turn.then(async () => {
      const responses = (await Promise.all(answers)).filter((each) => each !== null) as Response[];
      return responses.length === 0 ? null : responses;
    });
    return { turn, answer };
  }

  #startSingle(value: unknown, caller: Caller): StartedRequest {
    const request = readRequest(value);
    if ('error' in request) return { turn: null, answer: request };
    const outcome = this.#call(request, caller);
    if (!(outcome.running instanceof Promise)) return { turn: null, answer: respond(request, outcome.running) };
    const answer = outcome.running.then((settled) => respond(request, settled));
    return { turn: outcome.holdsTurn ? outcome.running.then(() => undefined) : null, answer };
  }

  #call(request: ValidRequest, caller: Caller): Outcome {
    const found = findMethod(request.method);
    if (found === undefined) return failed(unknownMethod(request.method));
    if (!this.#isCallable(found)) return failed(this.#wrongState(found));
    let params: ReturnType<typeof checkParams>;
    try {
      params = this.#params(found, request.params);
    } catch (thrown) {
      return { running: this.#failure(thrown, found), holdsTurn: true };
    }
    if (!params.ok) return failed(params.error);
    if (found.spec.waits?.(params.params) !== true) {
      return { running: this.#invoke(found, params.params, caller), holdsTurn: true };
    }
    const endWait = caller.beginWait();
    if (endWait === null) {
      return failed(standardError(RpcCode.busy, 'too many requests of this connection wait already: use another one'));
    }
    const running = this.#invoke(found, params.params, caller);
    if (running instanceof Promise) void running.then(endWait);
    else endWait();
    return { running, holdsTurn: false };
  }

  #isCallable(found: FoundMethod | undefined): boolean {
    return found?.spec.states.includes(this.#state()) ?? false;
  }

  #wrongState(found: FoundMethod): ErrorObject {
    const detail =
      this.#state() === 'startup'
        ? 'the daemon has not been initialised yet: call framework_start_init first'
        : `the daemon is running already: ${found.name} is for one that waits to be initialised`;
    return standardError(RpcCode.invalidState, detail);
  }

  #params(found: FoundMethod, given: unknown): ReturnType<typeof checkParams> {
    if (Array.isArray(given)) {
      const detail = 'parameters must be given by name, as an object';
      return { ok: false, error: standardError(RpcCode.invalidParams, detail) };
    }
    const byName = given as Readonly<Record<string, unknown>>;
    const current = found.alias?.toParams?.(byName) ?? byName;
    return checkParams(found.spec, found.spec.normalize?.(current) ?? current);
  }

  #invoke(found: FoundMethod, params: Readonly<Record<string, unknown>>, caller: Caller): Running {
    const context: RpcContext = {
      signal: caller.signal,
      calledAs: found.alias?.name ?? found.name,
      connection: caller.connection,
    };
    // The table ties each handler to its parameters; here only the name is known.
    const handler = this.#handlers[found.name] as Handler;
    const useless = found.spec.ignored.filter((name) => isAsking(params[name]));
    if (useless.length > 0) this.#log.warn(`RPC ${found.name}: ${useless.join(', ')} has no effect here`);
    try {
      const result = handler(params, context);
      if (!(result instanceof Promise)) return adapt(found, result);
      return result
        .then((value: unknown) => adapt(found, value))
        .catch((thrown: unknown) => this.#failure(thrown, found));
    } catch (thrown) {
      return this.#failure(thrown, found);
    }
  }

  #failure(thrown: unknown, found: FoundMethod): Settled {
    const error = thrownError(thrown, found.spec.errorStyle);
    if (error !== null) return { error };
    this.#log.error(`RPC ${found.name} failed unexpectedly`, { stack: stackOf(thrown) });
    return { error: standardError(RpcCode.internalError, 'this is a fault of the daemon: its log has the details') };
  }
}

/** Clients send what means nothing too: rpc.py's switches, and numbers for none and any. */
function isAsking(value: unknown): boolean {
  return value !== undefined && value !== false && value !== 0 && value !== -1 && value !== '';
}

function stackOf(thrown: unknown): string {
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
}

type Settled = { readonly result: unknown } | { readonly error: ErrorObject };
type Running = Settled | Promise<Settled>;
interface Outcome {
  readonly running: Running;
  /** Whether the connection's next request waits for this one. */
  readonly holdsTurn: boolean;
}

function failed(error: ErrorObject): Outcome {
  return { running: { error }, holdsTurn: false };
}

function adapt(found: FoundMethod, result: unknown): Settled {
  const adapted = found.alias?.toResult === undefined ? result : found.alias.toResult(result);
  // An answer without `result` would not be one: JSON has no undefined.
  return { result: adapted ?? null };
}

function respond(request: ValidRequest, settled: Settled): Response | null {
  return request.id === undefined ? null : { jsonrpc: '2.0', id: request.id, ...settled };
}

function refuse(error: ErrorObject): StartedRequest {
  return { turn: null, answer: { jsonrpc: '2.0', id: null, error } };
}

function unknownMethod(name: string): ErrorObject {
  const like = nearest(name, methodNames(true));
  const hint = like === null ? 'rpc_get_methods lists the methods' : `did you mean ${like}?`;
  return standardError(RpcCode.methodNotFound, hint);
}

function invalid(detail: string, id: RequestId = null): Response & { readonly error: ErrorObject } {
  return { jsonrpc: '2.0', id, error: standardError(RpcCode.invalidRequest, detail) };
}

/** SPDK takes a request without `jsonrpc`, and no members but the four. */
function readRequest(value: unknown): ValidRequest | (Response & { readonly error: ErrorObject }) {
  if (typeof value !== 'object' || value === null) return invalid('a request is a JSON object');
  const { jsonrpc, method, params, id } = value as Readonly<Record<string, unknown>>;
  const isAnswerable = typeof id === 'string' || typeof id === 'number' || typeof id === 'bigint';
  if (!isAnswerable && id !== undefined && id !== null) return invalid('id must be a number or a string');
  const echo = isAnswerable ? id : null;
  if (jsonrpc !== undefined && jsonrpc !== '2.0') return invalid('jsonrpc must be "2.0"', echo);
  if (typeof method !== 'string') return invalid('method must be a string', echo);
  const extra = Object.keys(value).find((key) => !REQUEST_MEMBERS.has(key));
  if (extra !== undefined) return invalid(`unknown member ${JSON.stringify(extra)} of the request`, echo);
  if (params !== undefined && typeof params !== 'object') return invalid('params must be an object', echo);
  return { method, params: params ?? {}, id: isAnswerable ? id : undefined };
}
