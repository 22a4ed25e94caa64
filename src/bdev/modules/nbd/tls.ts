/**
 * TLS around a connection, by Node's own: one end of a socket pair stands in for the connection, and this thread's
 * event loop carries the bytes between it and the TLS socket. That costs two more copies and the encryption; without
 * TLS none of this is there.
 */
import { readFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { connect } from 'node:tls';
import { socketPair } from '../../../sys/socket.ts';

export interface TlsSettings {
  /** What the server's certificate must be for. */
  readonly serverName: string;
  /** Files in PEM; empty: the system's authorities, no certificate of our own. */
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
}

export interface WrappedStream {
  /** The descriptor to use in place of the connection; the receiver's. Rejects when TLS fails. */
  readonly ready: Promise<number>;
  /** Takes it all apart. */
  end(): void;
}

/** Takes over a connected socket. */
export function wrapInTls(fd: number, settings: TlsSettings): WrappedStream {
  const socket = new Socket({ fd });
  let inner: Socket | null = null;
  const ready = new Promise<number>((resolve, reject) => {
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the server ended the connection')));
    const file = (path: string): Buffer | undefined => (path === '' ? undefined : readFileSync(path));
    const outer = connect({
      socket,
      servername: settings.serverName,
      ca: file(settings.caFile),
      cert: file(settings.certFile),
      key: file(settings.keyFile),
    });
    outer.on('error', (error) => {
      reject(error);
      socket.destroy();
      inner?.destroy();
    });
    outer.once('secureConnect', () => {
      const [ours, theirs] = socketPair();
      inner = new Socket({ fd: theirs });
      inner.on('error', () => socket.destroy());
      inner.on('close', () => socket.destroy());
      outer.on('close', () => inner?.destroy());
      outer.pipe(inner).pipe(outer);
      resolve(ours);
    });
  });
  return {
    ready,
    end() {
      socket.destroy();
      inner?.destroy();
    },
  };
}
