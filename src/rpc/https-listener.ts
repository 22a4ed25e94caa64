/**
 * RPC over TCP: JSON-RPC 2.0 as the body of HTTPS POST requests, one value each, from those who have the token
 * (`Authorization: Bearer TOKEN`, RFC 6750). There is no way without TLS, and none without the token: who has it has
 * the rights of the daemon. Requests of one connection are answered one after the other.
 *
 * Whoever has no token costs a connection for some seconds: time for the handshake and for a request's headers is
 * limited, its body is not read, and connections are limited in number.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { createSecureContext } from 'node:tls';
import { TargetError } from '../base/errors.ts';
import { LimitedLog, type Logger } from '../base/log.ts';
import { hostInUrl, type NetworkAddress } from '../base/network-address.ts';
import { descriptorOf, startListening } from '../base/node-handle.ts';
import { bearerToken, isSameToken } from '../base/token.ts';
import type { Dispatcher } from './dispatch.ts';
import { RpcCode, standardError } from './errors.ts';
import { encodeJson, JsonStreamParser } from './framing.ts';

export interface HttpsSecrets {
  /** PEM, with the intermediate certificates behind it. */
  readonly certificate: string;
  /** PEM, without a passphrase. */
  readonly key: string;
  readonly token: string;
}

export interface HttpsOptions extends HttpsSecrets {
  readonly address: NetworkAddress;
  /** A socket that listens already. Default: a new one, on the address. */
  readonly inheritedFd?: number | undefined;
}

export interface HttpsLimits {
  readonly httpsConnectionsMax: number;
  readonly requestMaxBytes: number;
  /** For the handshake, and for the headers of the first request and of each that follows once it has begun. */
  readonly httpsHeadersMs: number;
  /** For a whole request. */
  readonly httpsRequestMs: number;
  /** A connection without a request is closed after this time. */
  readonly httpsIdleMs: number;
  /** An answer that was not taken after this time ends the connection. */
  readonly outputStallMs: number;
}

export interface HttpsContext {
  readonly dispatcher: Dispatcher;
  readonly log: Logger;
  readonly limits: HttpsLimits;
  /** 1-based number of a caller, never used twice. */
  readonly nextNumber: () => number;
}

const MIN_VERSION = 'TLSv1.2';
/** The status codes of RFC 9110 that are used. */
const Status = { ok: 200, noContent: 204, badRequest: 400, unauthorized: 401, notAllowed: 405, tooLarge: 413 } as const;

export class HttpsListener {
  readonly #server: Server;
  readonly #context: HttpsContext;
  #token: string;
  readonly #faults: LimitedLog;
  /** Set when it listens no more: when the last connection has ended. */
  #closed: Promise<void> | null = null;

  private constructor(server: Server, { token }: HttpsOptions, context: HttpsContext) {
    this.#server = server;
    this.#context = context;
    this.#token = token;
    this.#faults = new LimitedLog(context.log);
    server.on('request', (request: IncomingMessage, response: ServerResponse) => void this.#handle(request, response));
    server.on('tlsClientError', (error: Error, socket: Socket) => {
      this.#warn('tls', `no RPC client over TLS: ${error.message}`, socket);
    });
    server.on('drop', () => this.#faults.warn('full', 'RPC clients over TCP are turned away: too many are connected'));
    server.on('error', (error) => context.log.error('RPC over TCP cannot be served', { error: error.message }));
  }

  /**
   * Starts to listen.
   *
   * @throws TargetError `EINVAL` for a certificate or key that cannot be used, `EADDRINUSE`, `EACCES`, …
   */
  static async listen(options: HttpsOptions, context: HttpsContext): Promise<HttpsListener> {
    const { address, certificate, key } = options;
    const { limits, log } = context;
    checkCertificate(certificate, key);
    const server = createServer({
      cert: certificate,
      key,
      minVersion: MIN_VERSION,
      handshakeTimeout: limits.httpsHeadersMs,
      headersTimeout: limits.httpsHeadersMs,
      requestTimeout: limits.httpsRequestMs,
      keepAliveTimeout: limits.httpsIdleMs,
      connectionsCheckingInterval: Math.ceil(limits.httpsHeadersMs / 4),
    });
    server.maxConnections = limits.httpsConnectionsMax;
    try {
      await startListening(server, address, options.inheritedFd);
    } catch (error) {
      const { code = 'EIO', message } = error as NodeJS.ErrnoException;
      const where = `--rpc-https ${hostInUrl(address.host)}:${address.port}`;
      throw new TargetError(code, `${where}: ${message}: choose another address or port`);
    }
    const listener = new HttpsListener(server, options, context);
    log.info(`RPC over TCP with TLS on ${listener.url}`);
    return listener;
  }

  get url(): string {
    const { address, port } = this.#server.address() as AddressInfo;
    return `https://${hostInUrl(address)}:${port}`;
  }

  /** For whoever listens on it next; it stays the listener's. */
  get listeningFd(): number {
    return descriptorOf(this.#server);
  }

  /**
   * From now on new connections get this certificate, and every request needs this token.
   *
   * @throws TargetError `EINVAL` for a certificate or key that cannot be used: nothing has changed.
   */
  renew({ certificate, key, token }: HttpsSecrets): void {
    checkCertificate(certificate, key);
    this.#server.setSecureContext({ cert: certificate, key, minVersion: MIN_VERSION });
    this.#token = token;
  }

  /** Accepts nobody any more. Resolves when the last connection has ended. */
  stopListening(): Promise<void> {
    this.#closed ??= new Promise<void>((resolve) => this.#server.close(() => resolve()));
    return this.#closed;
  }

  /** Takes no more requests and lets those that run finish, for at most `graceMs`. */
  async close(graceMs: number): Promise<void> {
    const closed = this.stopListening();
    this.#server.closeIdleConnections();
    const timer = setTimeout(() => this.#server.closeAllConnections(), graceMs);
    await closed;
    clearTimeout(timer);
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { limits, dispatcher, nextNumber } = this.#context;
    const abort = new AbortController();
    // A client may vanish at any time.
    request.on('error', () => undefined);
    response.on('error', () => undefined);
    response.once('close', () => abort.abort());
    if (!isSameToken(this.#token, bearerToken(request.headers.authorization))) {
      this.#warn('token', 'refused an RPC client without the token', request.socket);
      response.setHeader('www-authenticate', 'Bearer');
      this.#refuse(response, Status.unauthorized, 'the token is missing or wrong: send Authorization: Bearer TOKEN');
    } else if (request.method !== 'POST') {
      response.setHeader('allow', 'POST');
      this.#refuse(response, Status.notAllowed, 'send JSON-RPC requests by POST');
    } else {
      const body = await readBody(request, limits.requestMaxBytes);
      if (body === null) return this.#refuse(response, Status.tooLarge, `more than ${limits.requestMaxBytes} bytes`);
      const { value, problem } = parseBody(body, limits.requestMaxBytes);
      if (problem !== null) return this.#refuse(response, Status.badRequest, problem);
      const caller = { connection: nextNumber(), signal: abort.signal, beginWait: () => () => undefined };
      this.#answer(response, await dispatcher.start(value, caller).answer);
    }
  }

  #refuse(response: ServerResponse, status: number, detail: string): void {
    // What the client still sends of its request is not read.
    response.setHeader('connection', 'close');
    const code = status === Status.badRequest ? RpcCode.parseError : RpcCode.invalidRequest;
    this.#send(response, status, { jsonrpc: '2.0', id: null, error: standardError(code, detail) });
  }

  #answer(response: ServerResponse, answer: unknown): void {
    if (answer === null) {
      response.writeHead(Status.noContent).end();
      return;
    }
    this.#send(response, Status.ok, answer);
  }

  #send(response: ServerResponse, status: number, value: unknown): void {
    const text = `${encodeJson(value)}\n`;
    const { socket } = response;
    const stalled = setTimeout(() => {
      if (socket !== null) this.#warn('stalled', 'an RPC client is disconnected: it does not read its answer', socket);
      socket?.destroy();
    }, this.#context.limits.outputStallMs).unref();
    response.once('close', () => clearTimeout(stalled));
    response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
    response.end(text);
  }

  #warn(kind: string, message: string, socket: Socket): void {
    this.#faults.warn(kind, message, { peer: `${socket.remoteAddress ?? '?'}` });
  }
}

/** @throws TargetError `EINVAL` that says which file is wrong, and how to make one that is not. */
function checkCertificate(cert: string, key: string): void {
  const tryPart = (option: string, part: { readonly cert?: string; readonly key?: string }): void => {
    try {
      createSecureContext({ ...part, minVersion: MIN_VERSION });
    } catch (error) {
      const remedy = hintFor(option, (error as Error).message);
      throw new TargetError('EINVAL', `${option}: ${(error as Error).message}: ${remedy}`, { cause: error });
    }
  };
  tryPart('--rpc-cert', { cert });
  tryPart('--rpc-key', { key });
  tryPart('--rpc-cert and --rpc-key', { cert, key });
}

function hintFor(option: string, message: string): string {
  if (/mismatch/i.test(message)) return 'the key is not that of the certificate: give the two that were made together';
  if (/password|passphrase|interrupted or cancelled|bad decrypt/i.test(message)) {
    return 'the key has a passphrase: openssl pkey -in KEY -out KEY.plain takes it away';
  }
  const what = option === '--rpc-key' ? '-----BEGIN PRIVATE KEY-----' : '-----BEGIN CERTIFICATE-----';
  return `give a PEM file, with a line ${what}`;
}

/** Null when it is longer than allowed. A client that vanishes before its end leaves this waiting for nobody. */
function readBody(request: IncomingMessage, maxBytes: number): Promise<Uint8Array | null> {
  return new Promise((resolve) => {
    const pieces: Uint8Array[] = [];
    let bytes = 0;
    request.on('data', (piece: Uint8Array) => {
      bytes += piece.length;
      if (bytes <= maxBytes) pieces.push(piece);
      else resolve(null);
    });
    request.on('end', () => resolve(Buffer.concat(pieces)));
  });
}

function parseBody(body: Uint8Array, maxBytes: number): { readonly value: unknown; readonly problem: string | null } {
  const parser = new JsonStreamParser({ maxBytes });
  const first = parser.push(body);
  const last = parser.end();
  const values = [...first.values, ...last.values];
  const problem = first.error?.detail ?? last.error?.detail ?? null;
  if (problem !== null) return { value: null, problem };
  if (values.length === 1 && !parser.isPartial) return { value: values[0], problem: null };
  const what = parser.isPartial ? 'the body ends within a value' : `the body has ${values.length} values`;
  return { value: null, problem: `${what}: send one request, or an array of them` };
}
