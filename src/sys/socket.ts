/** Unix stream sockets that carry file descriptors. All are non-blocking; a call that would block returns `-EAGAIN`. */
import { checkErrno, Errno, errnoName, strerror, TargetError } from '../base/errors.ts';
import type { PeerCredentials } from '../base/socket-access.ts';
import { native } from './native.ts';

/** Most descriptors the kernel passes in one message (SCM_MAX_FD). */
export const FDS_PER_MESSAGE_MAX = 253;

/** What one receive brought: `received[0]` descriptors, in `received[1…]`. The receiver owns them. */
export function createFdBuffer(): Int32Array {
  return new Int32Array(1 + FDS_PER_MESSAGE_MAX);
}

const NO_FDS = new Int32Array(0);

export function listenUnix(path: string, backlog = 128): number {
  return checkErrno(native.socketListen(path, backlog), `cannot listen on ${path}`);
}

export function connectUnix(path: string): number {
  const fd = native.socketConnect(path);
  if (fd >= 0) return fd;
  const hint = fd === Errno.ECONNREFUSED || fd === Errno.ENOENT ? ' (is the target running?)' : '';
  throw new TargetError(errnoName(fd), `cannot connect to ${path}: ${strerror(fd)}${hint}`, { errno: fd });
}

/** A connection, or a negative errno (`-EAGAIN` when none waits). */
export const acceptUnix = native.socketAccept;

/** Two connected sockets. */
export function socketPair(): [number, number] {
  const out = new Int32Array(2);
  checkErrno(native.socketPair(out), 'cannot create a socket pair');
  return [out[0] as number, out[1] as number];
}

/**
 * Bytes read into `bytes[offset…]`, 0 at the end of the stream, or a negative errno. Descriptors arrive in `fds`.
 * The kernel may join a message without descriptors to the next one that has them when more is asked for than the first
 * message holds: ask for exactly one header, then for exactly its payload.
 */
export const receiveMessage = native.receiveMessage;

/** Bytes sent or a negative errno. Descriptors go with the first byte. */
export function sendMessage(fd: number, bytes: Uint8Array, offset = 0, fds: readonly number[] = []): number {
  const array = fds.length === 0 ? NO_FDS : Int32Array.from(fds);
  return native.sendMessage(fd, bytes, offset, bytes.length - offset, array, fds.length);
}

/**
 * Writes `bytes` from `offset` on to a socket, pipe, terminal or file: bytes written, perhaps not all, or a negative
 * errno, `-EAGAIN` where it would have to wait.
 */
export const writeNow = native.writeNow;

export function peerCredentials(fd: number): PeerCredentials {
  const out = new Int32Array(3);
  checkErrno(native.peerCredentials(fd, out), 'cannot read who the peer is');
  return { pid: out[0] as number, uid: out[1] as number, gid: out[2] as number };
}

/** 0 or a negative errno. */
export const setNonBlocking = native.setNonBlocking;
