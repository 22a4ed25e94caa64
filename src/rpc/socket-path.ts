/**
 * Takes and gives back the path of a listening Unix socket, so that a path is never stolen from a living daemon, a dead
 * one's is not in the way, and the socket is never there with a mode that lets others in.
 *
 * The socket is made under a temporary name, gets its mode, and is then linked to its path: link(2) fails when the path
 * exists, so of two daemons that start at once one loses, cleanly.
 */
import { existsSync, linkSync, lstatSync, renameSync, type Stats, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { dirname } from 'node:path';
import { TargetError } from '../base/errors.ts';
import { bindWithAccess, giveAccess, type SocketAccess } from '../base/socket-access.ts';
import { SOCKET_PATH_MAX_BYTES } from './limits.ts';

/** A connection attempt to a Unix socket either succeeds or fails at once, unless the other side is stopped. */
const PROBE_MS = 2000;

/** Clients that connect at the same moment; the kernel cuts it to net.core.somaxconn. */
const BACKLOG = 4096;

/** Makes the temporary names of one process distinct. */
let listenCount = 0;

const isNoEntry = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT';

function statOrNull(path: string): Stats | null {
  try {
    return lstatSync(path);
  } catch (error) {
    if (isNoEntry(error)) return null;
    throw asTargetError(error, path);
  }
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (!isNoEntry(error)) throw asTargetError(error, path);
  }
}

function asTargetError(error: unknown, path: string): TargetError {
  const { code, message } = error as NodeJS.ErrnoException;
  let hint = message;
  // Of a directory that is not there libuv says EACCES, too.
  if (!existsSync(dirname(path))) hint = 'its directory does not exist: create it, or choose another path with -r';
  else if (code === 'EACCES') hint = 'this user may not make sockets there: choose another path with -r';
  return new TargetError(code ?? 'EIO', `cannot use RPC socket ${path}: ${hint}`, { cause: error, fields: { path } });
}

function inUse(path: string): TargetError {
  const detail = 'another process answers on it: stop that one, or choose another path with -r';
  return new TargetError('EADDRINUSE', `RPC socket ${path} is in use: ${detail}`, { fields: { path } });
}

/** Whether something accepts connections on the socket. A process that is stopped or too busy counts as living. */
function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = connect(path);
    const settle = (outcome: () => void): void => {
      clearTimeout(timer);
      probe.destroy();
      outcome();
    };
    const timer = setTimeout(() => settle(() => resolve(true)), PROBE_MS);
    probe.once('connect', () => settle(() => resolve(true)));
    probe.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') settle(() => resolve(false));
      else if (error.code === 'EAGAIN') settle(() => resolve(true));
      else settle(() => reject(asTargetError(error, path)));
    });
  });
}

/** The stale socket at `path` that is to be replaced, or null when the path is free. Throws when it is taken. */
async function findStale(path: string): Promise<Stats | null> {
  const present = statOrNull(path);
  if (present === null) return null;
  if (!present.isSocket()) {
    const detail = 'something that is not a socket is there: remove it, or choose another path with -r';
    throw new TargetError('EEXIST', `cannot use RPC socket ${path}: ${detail}`, { fields: { path } });
  }
  if (await isAlive(path)) throw inUse(path);
  return present;
}

/** Removes the socket that was found dead, and no other that came to its place since. */
function removeStale(path: string, aside: string, stale: Stats): void {
  try {
    renameSync(path, aside);
  } catch (error) {
    if (isNoEntry(error)) return;
    throw asTargetError(error, path);
  }
  const moved = statOrNull(aside);
  if (moved !== null && (moved.ino !== stale.ino || moved.dev !== stale.dev)) {
    linkSync(aside, path);
    unlinkIfThere(aside);
    throw inUse(path);
  }
  unlinkIfThere(aside);
}

function listenOn(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    bindWithAccess(() =>
      server.listen({ path, backlog: BACKLOG }, () => {
        server.off('error', reject);
        resolve();
      }),
    );
  });
}

/** A path on which a server listens. */
export interface ClaimedPath {
  readonly path: string;
  /** Removes the socket, unless another process has put its own there. */
  release(): void;
}

/** Makes `server` listen on a socket that listens on `path` already. */
export async function inheritPath(server: Server, path: string, fd: number): Promise<ClaimedPath> {
  const own = lstatSync(path);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ fd, backlog: BACKLOG }, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return claimOf(path, own);
}

/**
 * Makes `server` listen on `path`, whose mode and owners are the protection of the RPC socket.
 *
 * @throws TargetError `EADDRINUSE` when another process answers there, `EEXIST` when the path is no socket,
 * `ENAMETOOLONG`, `ENOENT`, `EACCES`, … when the path cannot be used.
 */
export async function listenOnPath(server: Server, path: string, access: SocketAccess): Promise<ClaimedPath> {
  const temporary = `${path}.${process.pid}.${++listenCount}`;
  if (Buffer.byteLength(temporary) > SOCKET_PATH_MAX_BYTES) {
    const most = SOCKET_PATH_MAX_BYTES - (Buffer.byteLength(temporary) - Buffer.byteLength(path));
    const detail = `the path may have at most ${most} bytes: choose a shorter one with -r`;
    throw new TargetError('ENAMETOOLONG', `cannot use RPC socket ${path}: ${detail}`, { fields: { path } });
  }
  const stale = await findStale(path);
  unlinkIfThere(temporary);
  let own: Stats;
  try {
    await listenOn(server, temporary);
    giveAccess(temporary, access);
    own = lstatSync(temporary);
    if (stale !== null) removeStale(path, `${temporary}~`, stale);
    linkSync(temporary, path);
  } catch (error) {
    server.close();
    if (error instanceof TargetError) throw error;
    throw (error as NodeJS.ErrnoException).code === 'EEXIST' ? inUse(path) : asTargetError(error, path);
  } finally {
    unlinkIfThere(temporary);
  }
  return claimOf(path, own);
}

function claimOf(path: string, own: Stats): ClaimedPath {
  const release = (): void => {
    const present = statOrNull(path);
    if (present !== null && present.ino === own.ino && present.dev === own.dev) unlinkIfThere(path);
  };
  return { path, release };
}
