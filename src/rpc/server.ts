/** The RPC server: a Unix socket on which clients call the methods of the table, and HTTPS when it is asked for. */
import { createServer, type Server, type Socket } from 'node:net';
import { assert } from '../base/assert.ts';
import type { Logger } from '../base/log.ts';
import { descriptorOf } from '../base/node-handle.ts';
import { isPeerAllowed, OWNER_ONLY, type PeerCredentials, type SocketAccess } from '../base/socket-access.ts';
import { Connection, type ConnectionLimits } from './connection.ts';
import type { RpcState } from './define.ts';
import { Dispatcher } from './dispatch.ts';
import { RpcCode, standardError } from './errors.ts';
import { encodeJson } from './framing.ts';
import { type HttpsLimits, HttpsListener, type HttpsOptions, type HttpsSecrets } from './https-listener.ts';
import {
  CONNECTIONS_MAX,
  HALF_CLOSED_MS,
  HTTPS_CONNECTIONS_MAX,
  HTTPS_HEADERS_MS,
  HTTPS_IDLE_MS,
  HTTPS_REQUEST_MS,
  OUTPUT_MAX_BYTES,
  OUTPUT_PAUSE_BYTES,
  OUTPUT_STALL_MS,
  REQUEST_MAX_BYTES,
} from './limits.ts';
import type { DaemonHandlers } from './methods.ts';
import { type ClaimedPath, inheritPath, listenOnPath } from './socket-path.ts';

export interface RpcServerLimits extends ConnectionLimits, HttpsLimits {
  readonly connectionsMax: number;
}

const DEFAULT_LIMITS: RpcServerLimits = {
  connectionsMax: CONNECTIONS_MAX,
  requestMaxBytes: REQUEST_MAX_BYTES,
  outputPauseBytes: OUTPUT_PAUSE_BYTES,
  outputMaxBytes: OUTPUT_MAX_BYTES,
  outputStallMs: OUTPUT_STALL_MS,
  halfClosedMs: HALF_CLOSED_MS,
  httpsConnectionsMax: HTTPS_CONNECTIONS_MAX,
  httpsHeadersMs: HTTPS_HEADERS_MS,
  httpsRequestMs: HTTPS_REQUEST_MS,
  httpsIdleMs: HTTPS_IDLE_MS,
};

export interface RpcServerOptions {
  /** One for each method of the table but those that the server answers itself. */
  readonly handlers: DaemonHandlers;
  readonly log: Logger;
  /** Version of the daemon, for `rpc.discover`. */
  readonly version: string;
  /** Which methods may be called now. Default: always `runtime`. */
  readonly state?: () => RpcState;
  readonly limits?: Partial<RpcServerLimits>;
  /** Who may connect. Default: this process's user alone. */
  readonly access?: SocketAccess;
  /** Who is at the other end of the socket with this descriptor. Default: nobody asks. */
  readonly peerOf?: (fd: number) => PeerCredentials;
}

/** How long `close` lets running requests finish. */
const CLOSE_GRACE_MS = 1000;

export class RpcServer {
  readonly #dispatcher: Dispatcher;
  readonly #log: Logger;
  readonly #limits: RpcServerLimits;
  readonly #access: SocketAccess;
  readonly #peerOf: ((fd: number) => PeerCredentials) | undefined;
  readonly #server: Server;
  readonly #connections = new Map<Socket, Connection>();
  #path: ClaimedPath | null = null;
  #https: HttpsListener | null = null;
  /** Set when it listens no more: when the last connection has ended. */
  #closed: Promise<void> | null = null;
  #connectionNumber = 0;
  #wasFull = false;

  constructor(options: RpcServerOptions) {
    this.#dispatcher = new Dispatcher(options);
    this.#log = options.log;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#access = options.access ?? OWNER_ONLY;
    this.#peerOf = options.peerOf;
    // A client may end its side after its last request and still wait for the answer, as `nc -N` does.
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /**
   * Opens the socket, by default for its owner only. The socket of a dead daemon is replaced. `inheritedFd`: one that
   * listens there already, of a daemon that left it.
   *
   * @throws TargetError `EADDRINUSE` when another process answers there; others when the path cannot be used.
   */
  async listen(path: string, inheritedFd?: number): Promise<void> {
    assert(this.#path === null, 'an RpcServer listens once');
    if (inheritedFd === undefined) this.#path = await listenOnPath(this.#server, path, this.#access);
    else this.#path = await inheritPath(this.#server, path, inheritedFd);
    this.#server.on('error', (error) =>
      this.#log.error('the RPC socket cannot accept connections', { error: error.message }),
    );
    this.#log.info(`RPC socket ${path} is open`);
  }

  /** Serves those, too, who come over TCP. @throws TargetError `EINVAL` for a bad certificate, `EADDRINUSE`, … */
  async listenHttps(options: HttpsOptions): Promise<void> {
    assert(this.#https === null, 'an RpcServer listens once');
    const nextNumber = (): number => ++this.#connectionNumber;
    const context = { dispatcher: this.#dispatcher, log: this.#log, limits: this.#limits, nextNumber };
    this.#https = await HttpsListener.listen(options, context);
  }

  /** As `HttpsListener.renew`, when there is RPC over TCP. */
  renewHttps(secrets: HttpsSecrets): void {
    this.#https?.renew(secrets);
  }

  /** Where clients over TCP connect; null: nowhere. */
  get httpsUrl(): string | null {
    return this.#https?.url ?? null;
  }

  /** The listening sockets for whoever answers on them next; they stay the server's. -1: there is none. */
  get listeningFds(): { readonly unix: number; readonly https: number } {
    return { unix: descriptorOf(this.#server), https: this.#https?.listeningFd ?? -1 };
  }

  /** Accepts nobody any more, and leaves the sockets to somebody else. Clients that are connected are served on. */
  leave(): void {
    this.#path = null;
    void this.#stopListening();
    void this.#https?.stopListening();
  }

  /** Stops listening, removes the socket file, lets running requests finish for a second, disconnects all clients. */
  async close(): Promise<void> {
    this.#path?.release();
    this.#path = null;
    const closed = this.#stopListening();
    for (const connection of this.#connections.values()) connection.close(false);
    const timer = setTimeout(() => {
      for (const connection of this.#connections.values()) connection.close(true);
    }, CLOSE_GRACE_MS);
    await Promise.all([closed, this.#https?.close(CLOSE_GRACE_MS)]);
    clearTimeout(timer);
    this.#connections.clear();
  }

  #stopListening(): Promise<void> {
    this.#closed ??= new Promise<void>((resolve) => {
      if (!this.#server.listening) resolve();
      else this.#server.close(() => resolve());
    });
    return this.#closed;
  }

  #accept(socket: Socket): void {
    if (this.#connections.size >= this.#limits.connectionsMax) {
      this.#turnAway(socket);
      return;
    }
    this.#wasFull = false;
    const number = ++this.#connectionNumber;
    if (!this.#isWelcome(socket, number)) {
      socket.on('error', () => undefined);
      socket.destroy();
      return;
    }
    const connection = new Connection(socket, {
      number,
      dispatcher: this.#dispatcher,
      log: this.#log,
      limits: this.#limits,
    });
    this.#connections.set(socket, connection);
    socket.once('close', () => this.#connections.delete(socket));
  }

  #isWelcome(socket: Socket, number: number): boolean {
    const fd = descriptorOf(socket);
    if (this.#peerOf === undefined || fd < 0) return true;
    const peer = this.#peerOf(fd);
    const isAllowed = isPeerAllowed(this.#access, peer);
    if (isAllowed) this.#log.debug(`RPC client ${number} is connected`, { ...peer });
    else this.#log.warn('refused an RPC client of a user for whom the socket is not', { ...peer });
    return isAllowed;
  }

  #turnAway(socket: Socket): void {
    const most = this.#limits.connectionsMax;
    if (!this.#wasFull) {
      this.#log.warn(`RPC clients are turned away: ${most} are connected already`);
    }
    this.#wasFull = true;
    const error = standardError(RpcCode.busy, `${most} clients are connected already: try again later`);
    socket.on('error', () => undefined);
    socket.end(`${encodeJson({ jsonrpc: '2.0', id: null, error })}\n`);
    socket.once('finish', () => socket.destroy());
  }
}
