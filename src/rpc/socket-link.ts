/** The way of an RPC client to a daemon on this machine: JSON values back and forth on a Unix socket. */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../base/errors.ts';
import { JsonStreamParser } from './framing.ts';
import { RESPONSE_MAX_BYTES } from './limits.ts';
import type { Link, LinkEvents } from './link.ts';

const BACKLOG_ATTEMPTS_MAX = 50;
const BACKLOG_RETRY_MS = 20;

export class SocketLink implements Link {
  readonly #socket: Socket;

  private constructor(socket: Socket, path: string, events: LinkEvents) {
    this.#socket = socket;
    // The daemon's counters are doubles: a large one is exact as it is, and the table says number.
    const parser = new JsonStreamParser({ maxBytes: RESPONSE_MAX_BYTES, exactIntegers: false });
    socket.on('data', (chunk: Buffer) => {
      const { values, error } = parser.push(chunk);
      for (const value of values) events.value(value);
      if (error === null) return;
      const detail = `what answers on ${path} does not speak JSON-RPC: ${error.detail}`;
      events.lost(new TargetError('EPIPE', detail, { fields: { path } }));
      socket.destroy();
    });
    const lost = (cause?: Error): void => {
      const message = `the daemon closed the connection to ${path}`;
      events.lost(new TargetError('EPIPE', message, { cause, fields: { path } }));
    };
    // A reset or a broken pipe says no more than that the daemon is gone.
    socket.on('error', lost);
    socket.on('close', () => lost());
  }

  /** @throws TargetError `ENOENT`, `ECONNREFUSED`, `EACCES`, … with a message that says what to look at */
  static async connect(path: string, events: LinkEvents): Promise<SocketLink> {
    for (let attempt = 1; ; attempt++) {
      try {
        return new SocketLink(await openSocket(path), path, events);
      } catch (error) {
        // The daemon lives, but more clients want to connect than its backlog holds.
        const isFull = (error as NodeJS.ErrnoException).code === 'EAGAIN';
        if (!isFull || attempt === BACKLOG_ATTEMPTS_MAX) throw connectError(path, error as NodeJS.ErrnoException);
        await sleep(BACKLOG_RETRY_MS);
      }
    }
  }

  send(text: string): void {
    this.#socket.write(text);
  }

  close(): void {
    this.#socket.destroy();
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
