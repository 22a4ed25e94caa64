/** Streams whose bytes an io_uring moves, against Node's own sockets: over TCP, IPv6 and Unix sockets. */
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import { until } from '../../test/support/waiting.ts';
import { Errno } from '../base/errors.ts';
import { closeFd } from './events.ts';
import { IoUring, NO_FILE } from './io-uring.ts';
import { IovArena } from './iov-arena.ts';
import { createMemoryFile, Mapping, MappingViews, truncateFile, truncationEventFd } from './mapping.ts';
import { socketPair } from './socket.ts';
import { isOnThisMachine, STREAM_TAGS, type StreamAddress, StreamSocket } from './stream-socket.ts';

const KIB = 1024;
const MEMORY_BYTES = 1024 * KIB;
const OWN_BYTES = 1024;
const FIRST_TAG = 3;

const memory = Mapping.anonymous(MEMORY_BYTES);
const views = new MappingViews();
const bytes = new Uint8Array(views.view(memory, 0, MEMORY_BYTES));

let ring: IoUring;
let arena: IovArena;
let stream: StreamSocket;
let server: Server;
let peers: Socket[];

beforeEach(() => {
  bytes.fill(0);
  ring = new IoUring(NO_FILE, { entries: 16 });
  arena = new IovArena(4, 1);
  stream = new StreamSocket(ring, { firstTag: FIRST_TAG, ownBytes: OWN_BYTES });
  peers = [];
  server = createServer((socket) => peers.push(socket));
});

afterEach(() => {
  ring.cancelAll();
  stream.free();
  ring.close();
  arena.close();
  for (const peer of peers) peer.destroy();
  server.close();
});

function round(): void {
  stream.flush();
  ring.enter();
  for (let tag = ring.next(); tag >= 0; tag = ring.next()) {
    expect(tag - FIRST_TAG).toBeLessThan(STREAM_TAGS);
    stream.completed(tag, ring.result);
  }
}

async function polled(condition: () => boolean, what: string): Promise<void> {
  await until(() => {
    round();
    return condition();
  }, what);
}

async function listen(address: { path: string } | { host: string }): Promise<StreamAddress> {
  await new Promise<void>((resolve, reject) => {
    server.on('error', reject);
    if ('path' in address) server.listen(address.path, resolve);
    else server.listen(0, address.host, resolve);
  });
  return 'path' in address ? address : { host: address.host, port: (server.address() as AddressInfo).port };
}

async function connect(address: { path: string } | { host: string } = { host: '127.0.0.1' }): Promise<Socket> {
  stream.open(await listen(address));
  await polled(() => stream.isConnected && peers.length > 0, 'connection');
  return peers[0] as Socket;
}

/** A list of segments of `lengths` in the memory, one after another from `offset` on with a gap of 16 bytes. */
function list(offset: number, lengths: readonly number[]): number {
  const first = lengths.length <= 8 ? arena.takeShort() : arena.takeLong();
  let at = offset;
  lengths.forEach((length, i) => {
    arena.set(first + i, memory.address + at, length);
    at += length + 16;
  });
  return first;
}

describe('a stream socket', () => {
  it.each([
    ['IPv4', { host: '127.0.0.1' }],
    ['IPv6', { host: '::1' }],
    ['a Unix socket', { path: join(mkdtempSync(join(tmpdir(), 'ringhost-stream-')), 'socket') }],
  ])('sends pieces of its own and segments, and receives, over %s', async (_, address) => {
    const peer = await connect(address);
    stream.bytes.set(Buffer.from('head|'));
    bytes.set(Buffer.from('one'), 0);
    bytes.set(Buffer.from('two and more'), 3 + 16);
    stream.queue(0, 5);
    stream.queueSegments(arena, list(0, [3, 12]), 2, 0, 6);
    stream.queue(4, 1);
    const chunks: Buffer[] = [];
    peer.on('data', (chunk) => chunks.push(chunk));
    await polled(() => Buffer.concat(chunks).length === 12, 'what was sent');
    expect(Buffer.concat(chunks).toString()).toBe('head|onetwo|');
    expect(stream.isFlushed).toBe(true);
    peer.write('answer');
    stream.receive();
    await polled(() => stream.available === 6, 'the answer');
    expect(Buffer.from(stream.input.subarray(stream.start, stream.end)).toString()).toBe('answer');
    if ('path' in address) rmSync(address.path, { force: true });
  });

  it('takes payloads out of what was received, and has the rest placed where it belongs', async () => {
    const peer = await connect();
    const payload = Buffer.from(Array.from({ length: 300 * KIB }, (_, i) => (i * 31 + (i >> 8)) & 0xff));
    peer.write(Buffer.concat([Buffer.from('headhead'), payload, Buffer.from('next')]));
    const lengths = [1000, 64 * KIB, 1, 300 * KIB - 1000 - 64 * KIB - 1];
    const first = list(0, lengths);
    stream.receive();
    await polled(() => stream.available >= 8, 'the head');
    stream.start += 8;
    let done = Math.min(stream.available, payload.length);
    stream.take(arena, first, lengths.length, 0, done);
    while (done < payload.length) {
      if (stream.available > 0) expect.fail('what is expected is not in the buffer');
      stream.expect(arena, first, lengths.length, done, payload.length - done);
      stream.placed = 0;
      stream.receive();
      await polled(() => stream.placed > 0, 'the rest');
      done += stream.placed;
    }
    stream.receive();
    await polled(() => stream.available === 4, 'what follows');
    expect(Buffer.from(stream.input.subarray(stream.start, stream.end)).toString()).toBe('next');
    let at = 0;
    let from = 0;
    for (const length of lengths) {
      expect(Buffer.compare(bytes.subarray(at, at + length), payload.subarray(from, from + length))).toBe(0);
      expect(bytes.subarray(at + length, at + length + 16).every((byte) => byte === 0)).toBe(true);
      at += length + 16;
      from += length;
    }
  });

  it('zeroes a part of a list and nothing beside it', async () => {
    await connect();
    bytes.fill(7);
    stream.zero(arena, list(0, [100, 200 * KIB]), 2, 50, 150 * KIB);
    expect(bytes.subarray(0, 50).every((byte) => byte === 7)).toBe(true);
    expect(bytes.subarray(50, 100).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(100, 116).every((byte) => byte === 7)).toBe(true);
    expect(bytes.subarray(116, 116 + 150 * KIB - 50).every((byte) => byte === 0)).toBe(true);
    expect(bytes[116 + 150 * KIB - 50]).toBe(7);
  });

  it('sends long lists and much, to a peer that takes its time', async () => {
    const peer = await connect();
    peer.pause();
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = (i * 13) & 0xff;
    const lengths = Array.from({ length: 1080 }, () => 700);
    const first = list(0, lengths);
    const wanted: Uint8Array[] = [];
    const total = 3 * 1080 * 700;
    for (let i = 0; i < 3; i++) {
      stream.queueSegments(arena, first, lengths.length, 0, 1080 * 700);
      for (let at = 0; at < 1080 * 716; at += 716) wanted.push(bytes.subarray(at, at + 700));
    }
    expect(stream.room).toBeLessThan(1088 * 2);
    for (let i = 0; i < 50; i++) round();
    let received = 0;
    const chunks: Buffer[] = [];
    peer.on('data', (chunk) => {
      chunks.push(chunk);
      received += chunk.length;
    });
    peer.resume();
    await polled(() => received === total, 'all of it');
    expect(Buffer.compare(Buffer.concat(chunks), Buffer.concat(wanted))).toBe(0);
    expect(stream.isFlushed).toBe(true);
  });

  it('keeps what was not taken when it receives more', async () => {
    const peer = await connect();
    peer.write('abcdef');
    stream.receive();
    await polled(() => stream.available === 6, 'bytes');
    stream.start += 4;
    peer.write('ghi');
    stream.receive();
    await polled(() => stream.available === 5, 'more bytes');
    expect(Buffer.from(stream.input.subarray(stream.start, stream.end)).toString()).toBe('efghi');
  });

  it('says that nobody listens, and that the peer has gone', async () => {
    const address = await listen({ host: '127.0.0.1' });
    server.close();
    stream.open(address);
    await polled(() => stream.error !== 0, 'error');
    expect(stream.error).toBe(Errno.ECONNREFUSED);
    stream.close();
    await polled(() => !stream.isOpen, 'end');
    server = createServer((socket) => peers.push(socket));
    const peer = await connect();
    stream.receive();
    peer.end();
    await polled(() => stream.error !== 0, 'end of the stream');
    expect(stream.error).toBe(Errno.ECONNRESET);
  });

  it('ends with a receive and a send under way, and connects again', async () => {
    const before = openFdCount();
    for (let i = 0; i < 3; i++) {
      const peer = await connect();
      peer.pause();
      stream.receive();
      for (let n = 0; n < 8; n++) stream.queueSegments(arena, list(0, [512 * KIB]), 1, 0, 512 * KIB);
      arena.close();
      arena = new IovArena(4, 1);
      round();
      stream.close();
      await polled(() => !stream.isOpen, 'end');
      peer.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      server = createServer((socket) => peers.push(socket));
      peers = [];
    }
    await until(() => openFdCount() <= before, 'descriptors given back');
    expect(stream.isOpen).toBe(false);
  });

  it('takes over a connected socket', async () => {
    const [ours, theirs] = socketPair();
    stream.adopt(ours);
    stream.bytes.set(Buffer.from('ping'));
    stream.queue(0, 4);
    stream.receive();
    await polled(() => stream.isFlushed, 'sending');
    closeFd(theirs);
    await polled(() => stream.error !== 0, 'end');
    expect(stream.error).toBe(Errno.ECONNRESET);
  });

  it.each([
    [{ host: 'localhost', port: 1 }, /numeric/],
    [{ path: 'x'.repeat(108) }, /too long/],
  ])('refuses %j as an address', (address, message) => {
    expect(() => stream.open(address)).toThrow(message);
  });
});

describe('memory that a guest takes away', () => {
  const LENGTH = 64 * KIB;

  /** A list whose second half is gone. */
  function halfList(): { first: number; bytes: Uint8Array; close: () => void } {
    truncationEventFd();
    const fd = createMemoryFile('test', LENGTH);
    const mapping = Mapping.file(fd, 0, LENGTH, { guarded: true });
    const ownViews = new MappingViews();
    const guestBytes = new Uint8Array(ownViews.view(mapping, 0, LENGTH)).fill(7);
    const first = arena.takeShort();
    arena.set(first, mapping.address + LENGTH / 2, LENGTH / 2);
    arena.set(first + 1, mapping.address, LENGTH / 2);
    truncateFile(fd, LENGTH / 2);
    const close = (): void => {
      ownViews.close();
      mapping.close();
      closeFd(fd);
    };
    return { first, bytes: guestBytes, close };
  }

  it('is sent as zeroes, and the stream goes on', async () => {
    const peer = await connect();
    let received = Buffer.alloc(0);
    peer.on('data', (data) => {
      received = Buffer.concat([received, data]);
    });
    const { first, close } = halfList();
    stream.bytes.set(Buffer.from('head'));
    stream.queue(0, 4);
    stream.queueSegments(arena, first, 2, 0, LENGTH);
    stream.queue(0, 4);
    await polled(() => received.length === LENGTH + 8, 'everything');
    const wanted = ['head', Buffer.alloc(LENGTH / 2), Buffer.alloc(LENGTH / 2, 7), 'head'];
    expect(received.equals(Buffer.concat(wanted.map((part) => Buffer.from(part))))).toBe(true);
    expect(stream.error).toBe(0);
    close();
  });

  it('is received into, and the stream goes on', async () => {
    const peer = await connect();
    const { first, bytes: guestBytes, close } = halfList();
    peer.write(Buffer.concat([Buffer.alloc(LENGTH, 9), Buffer.from('next')]));
    let placed = 0;
    await polled(() => {
      placed += stream.placed;
      stream.placed = 0;
      if (placed < LENGTH && !stream.isReceiving) stream.expect(arena, first, 2, placed, LENGTH - placed);
      if (placed < LENGTH) stream.receive();
      return placed === LENGTH;
    }, 'all of the payload');
    await polled(() => {
      if (stream.available < 4) stream.receive();
      return stream.available === 4;
    }, 'what follows');
    expect([stream.error, guestBytes.every((byte) => byte === 9)]).toEqual([0, true]);
    expect(Buffer.from(stream.input.subarray(stream.start, stream.end)).toString()).toBe('next');
    close();
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
