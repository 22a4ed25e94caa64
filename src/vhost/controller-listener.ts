/** The listening socket of a controller: made safely, removed at the end. */
import { lstatSync, unlinkSync } from 'node:fs';
import { Errno, errnoName, strerror, TargetError } from '../base/errors.ts';
import { bindWithAccess, giveAccess, OWNER_ONLY, type SocketAccess } from '../base/socket-access.ts';
import { closeFd, type FdSet } from '../sys/events.ts';
import { acceptUnix, connectUnix, listenUnix } from '../sys/socket.ts';

/** Time until accepting is tried again after it failed, most likely for want of descriptors. */
const ACCEPT_RETRY_MS = 200;

export interface ListenerHandlers {
  /** Takes the descriptor over. */
  onConnection(fd: number): void;
  /** A connection waits, and cannot be accepted yet. */
  onError(error: TargetError): void;
}

export class ControllerListener {
  readonly path: string;
  readonly #fd: number;
  readonly #fdSet: FdSet;
  readonly #handlers: ListenerHandlers;
  #retry: NodeJS.Timeout | null = null;

  /**
   * Throws `EADDRINUSE` when a living process listens on `path`, `EEXIST` when the file is not a socket. `inheritedFd`:
   * a socket that listens there already; nobody is accepted on it before `resume`.
   */
  constructor(
    path: string,
    fdSet: FdSet,
    handlers: ListenerHandlers,
    access: SocketAccess = OWNER_ONLY,
    inheritedFd?: number,
  ) {
    this.path = path;
    this.#fd = inheritedFd ?? bindNew(path, access);
    this.#fdSet = fdSet;
    this.#handlers = handlers;
    fdSet.add(this.#fd, () => this.#accept());
    if (inheritedFd !== undefined) this.pause();
  }

  /** The descriptor stays the listener's. */
  get fd(): number {
    return this.#fd;
  }

  /** Whoever connects waits, until `resume`. */
  pause(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#fdSet.change(this.#fd, { readable: false });
  }

  resume(): void {
    this.#fdSet.change(this.#fd, {});
  }

  #accept(): void {
    let fd = acceptUnix(this.#fd);
    for (; fd >= 0; fd = acceptUnix(this.#fd)) this.#handlers.onConnection(fd);
    if (fd === Errno.EAGAIN) return;
    // The connection stays in the backlog and the socket readable: watching on would keep the thread busy for nothing.
    this.#handlers.onError(new TargetError(errnoName(fd), `cannot accept a front-end: ${strerror(fd)}`, { errno: fd }));
    this.#fdSet.change(this.#fd, { readable: false });
    this.#retry = setTimeout(() => this.#fdSet.change(this.#fd, {}), ACCEPT_RETRY_MS);
  }

  close(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#fdSet.remove(this.#fd);
    closeFd(this.#fd);
    try {
      unlinkSync(this.path);
    } catch {
      // Somebody removed it already: that is what was wanted.
    }
  }
}

function bindNew(path: string, access: SocketAccess): number {
  removeStaleSocket(path);
  const fd = bindWithAccess(() => listenUnix(path));
  giveAccess(path, access);
  return fd;
}

/** Removes the socket file of a dead daemon. */
function removeStaleSocket(path: string): void {
  let isSocket: boolean;
  try {
    isSocket = lstatSync(path).isSocket();
  } catch {
    return;
  }
  if (!isSocket) throw new TargetError('EEXIST', `${path} exists and is not a socket: remove it or choose another -S`);
  if (!isDead(path)) {
    throw new TargetError('EADDRINUSE', `another process serves ${path}: stop it, or choose another -S directory`);
  }
  unlinkSync(path);
}

/** Any answer but a refusal, such as that of a full backlog, comes from a living process. */
function isDead(path: string): boolean {
  try {
    closeFd(connectUnix(path));
    return false;
  } catch (error) {
    return error instanceof TargetError && error.code === 'ECONNREFUSED';
  }
}
