/** What goes over a connection, against Node's own sockets: over TCP, IPv6 and Unix sockets. */
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../../../test/support/descriptors.ts';
import { until } from '../../../../test/support/waiting.ts';
import { closeFd } from '../../../sys/events.ts';
import { IovArena } from '../../../sys/iov-arena.ts';
import { createMemoryFile, Mapping, MappingViews, truncateFile, truncationEventFd } from '../../../sys/mapping.ts';
import type { StreamAddress } from '../../../sys/stream-socket.ts';
import { NbdStream } from './nbd-stream.ts';

const KIB = 1024;
const MEMORY_BYTES = 1024 * KIB;
const OWN_BYTES = 1024;

const memory = Mapping.anonymous(MEMORY_BYTES);
const views = new MappingViews();
const bytes = new Uint8Array(views.view(memory, 0, MEMORY_BYTES));

let arena: IovArena;
let stream: NbdStream;
let server: Server;
let peers: Socket[];

beforeEach(() => {
  bytes.fill(0);
  arena = new IovArena(4, 1);
  stream = new NbdStream(OWN_BYTES);
  peers = [];
  server = createServer((socket) => peers.push(socket));
});

afterEach(() => {
  stream.free();
  arena.close();
  for (const peer of peers) peer.destroy();
  server.close();
});

async function polled(condition: () => boolean, what: string): Promise<void> {
  await until(() => {
    stream.flush();
    return condition();
  }, what);
}

/** Receives until there are so many bytes. */
async function received(count: number): Promise<void> {
  await polled(() => {
    if (stream.available < count) stream.receive();
    return stream.available === count;
  }, `${count} bytes`);
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
  await polled(() => peers.length > 0, 'connection');
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

describe('a stream', () => {
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
    await received(6);
    expect(Buffer.from(stream.input.subarray(stream.start, stream.end)).toString()).toBe('answer');
    if ('path' in address) rmSync(address.path, { force: true });
  });

  it('takes payloads out of what was received, and has the rest placed where it belongs', async () => {
    const peer = await connect();
    const payload = Buffer.from(Array.from({ length: 300 * KIB }, (_, i) => (i * 31 + (i >> 8)) & 0xff));
    peer.write(Buffer.concat([Buffer.from('headhead'), payload, Buffer.from('next')]));
    const lengths = [1000, 64 * KIB, 1, 300 * KIB - 1000 - 64 * KIB - 1];
    const first = list(0, lengths);
    await polled(() => {
      stream.receive();
      return stream.available >= 8;
    }, 'the head');
    stream.start += 8;
    let done = Math.min(stream.available, payload.length);
    stream.take(arena, first, lengths.length, 0, done);
    while (done < payload.length) {
      if (stream.available > 0) expect.fail('what is expected is not in the buffer');
      stream.expect(arena, first, lengths.length, done, payload.length - done);
      await polled(() => {
        stream.receive();
        return stream.placed > 0;
      }, 'the rest');
      done += stream.placed;
    }
    await received(4);
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
    for (let i = 0; i < 50; i++) stream.flush();
    let count = 0;
    const chunks: Buffer[] = [];
    peer.on('data', (chunk) => {
      chunks.push(chunk);
      count += chunk.length;
    });
    peer.resume();
    await polled(() => count === total, 'all of it');
    expect(Buffer.compare(Buffer.concat(chunks), Buffer.concat(wanted))).toBe(0);
    expect(stream.isFlushed).toBe(true);
  });

  it('keeps what was not taken when it receives more', async () => {
    const peer = await connect();
    peer.write('abcdef');
    await received(6);
    stream.start += 4;
    peer.write('ghi');
    await received(5);
    expect(Buffer.from(stream.input.subarray(stream.start, stream.end)).toString()).toBe('efghi');
  });

  it('has nothing of a connection that ended when it connects again', async () => {
    const before = openFdCount();
    for (let i = 0; i < 3; i++) {
      const peer = await connect();
      peer.write('left over');
      await received(9);
      peer.pause();
      const first = list(0, [512 * KIB]);
      for (let n = 0; n < 32; n++) stream.queueSegments(arena, first, 1, 0, 512 * KIB);
      stream.flush();
      expect(stream.isFlushed).toBe(false);
      arena.close();
      arena = new IovArena(4, 1);
      stream.socket.close();
      peer.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      server = createServer((socket) => peers.push(socket));
      peers = [];
    }
    await until(() => openFdCount() <= before, 'descriptors given back');
    const peer = await connect();
    expect([stream.available, stream.isFlushed]).toEqual([0, true]);
    peer.write('new');
    await received(3);
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
    let all = Buffer.alloc(0);
    peer.on('data', (data) => {
      all = Buffer.concat([all, data]);
    });
    const { first, close } = halfList();
    stream.bytes.set(Buffer.from('head'));
    stream.queue(0, 4);
    stream.queueSegments(arena, first, 2, 0, LENGTH);
    stream.queue(0, 4);
    await polled(() => all.length === LENGTH + 8, 'everything');
    const wanted = ['head', Buffer.alloc(LENGTH / 2), Buffer.alloc(LENGTH / 2, 7), 'head'];
    expect(all.equals(Buffer.concat(wanted.map((part) => Buffer.from(part))))).toBe(true);
    expect(stream.socket.error).toBe(0);
    close();
  });

  it('is received into, and the stream goes on', async () => {
    const peer = await connect();
    const { first, bytes: guestBytes, close } = halfList();
    peer.write(Buffer.concat([Buffer.alloc(LENGTH, 9), Buffer.from('next')]));
    let placed = 0;
    await polled(() => {
      stream.expect(arena, first, 2, placed, LENGTH - placed);
      stream.receive();
      placed += stream.placed;
      return placed === LENGTH;
    }, 'all of the payload');
    await received(4);
    expect([stream.socket.error, guestBytes.every((byte) => byte === 9)]).toEqual([0, true]);
    expect(Buffer.from(stream.input.subarray(stream.start, stream.end)).toString()).toBe('next');
    close();
  });
});
