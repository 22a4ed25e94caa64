/** Who may connect to a socket of ours: the mode and the owners of its file, and a second look at who did connect. */
import { chmodSync, chownSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

export interface SocketAccess {
  /** Of the socket file; writing is what connecting needs. */
  readonly mode: number;
  /** Owner and group of the file. -1: those of this process. */
  readonly uid: number;
  readonly gid: number;
}

/** Who is at the other end, as the kernel noted when it connected (SO_PEERCRED). */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export const OWNER_ONLY: SocketAccess = { mode: 0o600, uid: -1, gid: -1 };

const WRITABLE_BY_OTHERS = 0o022;
const ROOT = 0;

/**
 * Makes a socket file that nobody else can connect to before it has its owners and its mode. `bind` makes the file, and
 * must do it before it returns.
 */
export function bindWithAccess<T>(bind: () => T): T {
  // Only the main thread may change the mask, and only it makes sockets outside of tests.
  if (!isMainThread) return bind();
  const mask = process.umask(0o177);
  try {
    return bind();
  } finally {
    process.umask(mask);
  }
}

export function giveAccess(path: string, { mode, uid, gid }: SocketAccess): void {
  if (uid >= 0 || gid >= 0) chownSync(path, uid, gid);
  chmodSync(path, mode);
}

/**
 * Whether a peer can have come in by the mode of the file: a socket for its owner alone serves its owner, this
 * process's user and root, even when somebody opened the file to others since. Groups are the kernel's to check:
 * SO_PEERCRED knows only one of a process's groups.
 */
export function isPeerAllowed({ mode, uid }: SocketAccess, peer: PeerCredentials): boolean {
  if ((mode & WRITABLE_BY_OTHERS) !== 0) return true;
  return peer.uid === ROOT || peer.uid === uid || peer.uid === process.geteuid?.();
}
