/** How a stream socket begins and ends, and the bytes between, against Node's own sockets. */
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { until } from '../../test/support/waiting.ts';
import { Errno } from '../base/errors.ts';
import { closeFd } from './events.ts';
import { IovList } from './iov-list.ts';
import { OwnMemory } from './own-memory.ts';
import { socketPair } from './socket.ts';
import { isOnThisMachine, type StreamAddress, StreamSocket } from './stream-socket.ts';

const memory = new OwnMemory(4096);
const socket = new StreamSocket();
let list: IovList;
let server: Server;
let peer: Promise<Socket>;
let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-stream-'));
  list = new IovList(4);
  server = createServer();
  peer = new Promise((resolve) => server.once('connection', resolve));
});

afterEach(async () => {
  socket.close();
  list.close();
  if (server.listening) {
    server.close();
    server.unref();
  }
  rmSync(directory, { recursive: true });
});

/** The port; 0 for a socket file. */
async function listen(where: { path: string } | { host: string }): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.on('error', reject);
    if ('path' in where) server.listen(where.path, resolve);
    else server.listen(0, where.host, resolve);
  });
  const address = server.address() as AddressInfo | string;
  return typeof address === 'string' ? 0 : address.port;
}

async function sent(text: string): Promise<void> {
  memory.bytes.set(Buffer.from(text));
  list.count = 0;
  list.add(memory.address, text.length);
  await until(() => socket.send(list, 0) === text.length || socket.error !== 0, 'sending');
}

async function received(): Promise<string> {
  list.count = 0;
  list.add(memory.address, memory.lengthBytes);
  let bytes = 0;
  await until(() => {
    bytes = socket.receive(list, 0);
    return bytes > 0 || socket.error !== 0;
  }, 'bytes, or an end');
  return Buffer.from(memory.bytes.subarray(0, bytes)).toString();
}

describe('a stream socket', () => {
  it.each(['IPv4', 'IPv6', 'a Unix socket'])('connects, sends and receives over %s', async (kind) => {
    const path = join(directory, 'socket');
    const host = kind === 'IPv4' ? '127.0.0.1' : '::1';
    const port = await listen(kind === 'a Unix socket' ? { path } : { host });
    socket.open(port === 0 ? { path } : { host, port });
    await sent('question');
    const other = await peer;
    expect(await new Promise<string>((resolve) => other.once('data', (data) => resolve(String(data))))).toBe(
      'question',
    );
    other.write('answer');
    expect(await received()).toBe('answer');
    other.destroy();
    expect([await received(), socket.error]).toEqual(['', Errno.ECONNRESET]);
  });

  it('says that nobody listens, and connects later', async () => {
    const port = await listen({ host: '127.0.0.1' });
    server.close();
    socket.open({ host: '127.0.0.1', port });
    await received();
    expect(socket.error).toBe(Errno.ECONNREFUSED);
    socket.close();
    server = createServer((other) => other.end('late'));
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    socket.open({ host: '127.0.0.1', port });
    expect([await received(), socket.error]).toEqual(['late', 0]);
  });

  it.each([
    [{ path: '/nowhere/socket' }, Errno.ENOENT],
    [{ path: 'x'.repeat(108) }, Errno.ENAMETOOLONG],
    [{ path: 'x'.repeat(1000) }, Errno.ENAMETOOLONG],
    [{ host: 'localhost', port: 1 }, Errno.EINVAL],
    [{ host: '127.0.0.256', port: 1 }, Errno.EINVAL],
    [{ host: '::1::', port: 1 }, Errno.EINVAL],
  ] satisfies [StreamAddress, number][])('does not open for %j', (address, errno) => {
    socket.open(address);
    expect([socket.isOpen, socket.error]).toEqual([false, errno]);
    expect(socket.receive(list, 0)).toBe(0);
  });

  it('takes over a connected socket, and gives it away', async () => {
    const [ours, theirs] = socketPair();
    socket.adopt(ours);
    expect([socket.release(), socket.isOpen]).toEqual([ours, false]);
    socket.adopt(ours);
    closeFd(theirs);
    await received();
    expect(socket.error).toBe(Errno.ECONNRESET);
  });

  it('reports a peer that is gone to who sends, without a signal', async () => {
    const [ours, theirs] = socketPair();
    socket.adopt(ours);
    closeFd(theirs);
    await sent('lost');
    expect(socket.error).toBe(Errno.EPIPE);
  });
});

describe('an address', () => {
  it.each([
    [{ path: '/run/server.sock' }, true],
    [{ host: '127.0.0.9', port: 1 }, true],
    [{ host: '::1', port: 1 }, true],
    [{ host: '192.0.2.1', port: 1 }, false],
    [{ host: '2001:db8::1', port: 1 }, false],
  ])('%j is on this machine: %s', (address, isLocal) => {
    expect(isOnThisMachine(address)).toBe(isLocal);
  });
});
