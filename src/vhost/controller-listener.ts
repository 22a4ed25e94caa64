/** The listening socket of a controller: made safely, removed at the end. */
import { chmodSync, lstatSync, unlinkSync } from 'node:fs';
import { TargetError } from '../base/errors.ts';
import { closeFd, type FdSet } from '../sys/events.ts';
import { acceptUnix, connectUnix, listenUnix } from '../sys/socket.ts';

const SOCKET_MODE = 0o600;

export class ControllerListener {
  readonly path: string;
  readonly #fd: number;
  readonly #fdSet: FdSet;

  /** Throws `EADDRINUSE` when a living process listens on `path`, `EEXIST` when the file is not a socket. */
  constructor(path: string, fdSet: FdSet, onConnection: (fd: number) => void) {
    removeStaleSocket(path);
    this.path = path;
    this.#fd = listenUnix(path);
    chmodSync(path, SOCKET_MODE);
    this.#fdSet = fdSet;
    fdSet.add(this.#fd, () => {
      for (let fd = acceptUnix(this.#fd); fd >= 0; fd = acceptUnix(this.#fd)) onConnection(fd);
    });
  }

  close(): void {
    this.#fdSet.remove(this.#fd);
    closeFd(this.#fd);
    try {
      unlinkSync(this.path);
    } catch {
      // Somebody removed it already: that is what was wanted.
    }
  }
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
