/** Unix sockets that carry descriptors, and no descriptor lost on the way. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import { until } from '../../test/support/waiting.ts';
import { Errno } from '../base/errors.ts';
import { closeFd, createEventFd, readEventFd, signalEventFd } from './events.ts';
import {
  acceptUnix,
  connectUnix,
  createFdBuffer,
  FDS_PER_MESSAGE_MAX,
  listenUnix,
  peerCredentials,
  receiveMessage,
  sendMessage,
  setNonBlocking,
  socketPair,
} from './socket.ts';

const toClose: number[] = [];
let fdsBefore = 0;

beforeEach(() => {
  fdsBefore = openFdCount();
});

afterEach(() => {
  for (const fd of toClose.splice(0)) closeFd(fd);
  assert.ok(openFdCount() <= fdsBefore, 'no descriptor is left over');
});

function owned(fd: number): number {
  toClose.push(fd);
  return fd;
}

function pair(): [number, number] {
  const [a, b] = socketPair();
  return [owned(a), owned(b)];
}

function closeNow(fd: number): void {
  toClose.splice(toClose.indexOf(fd), 1);
  closeFd(fd);
}

/** The descriptors that the last receive brought, to be closed at the end of the test. */
function takeFds(buffer: Int32Array): number[] {
  return Array.from(buffer.subarray(1, 1 + (buffer[0] as number)), owned);
}

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

describe('messages', () => {
  it('arrive as they were sent, where they were asked for', () => {
    const [a, b] = pair();
    expect(sendMessage(a, text('..hello'), 2)).toBe(5);
    const bytes = new Uint8Array(10);
    expect(receiveMessage(b, bytes, 3, 4, createFdBuffer())).toBe(4);
    expect(new TextDecoder().decode(bytes)).toBe('\0\0\0hell\0\0\0');
    expect(receiveMessage(b, bytes, 0, 10, createFdBuffer())).toBe(1);
  });

  it('that are not there yet are EAGAIN, and the end of the stream is 0', () => {
    const [a, b] = pair();
    const bytes = new Uint8Array(1);
    expect(receiveMessage(b, bytes, 0, 1, createFdBuffer())).toBe(Errno.EAGAIN);
    closeNow(a);
    expect(receiveMessage(b, bytes, 0, 1, createFdBuffer())).toBe(0);
  });

  it('to a peer that is gone are EPIPE, not a signal', () => {
    const [a, b] = pair();
    closeNow(b);
    expect(sendMessage(a, text('x'))).toBe(Errno.EPIPE);
  });

  it('to a peer that does not read are cut, then EAGAIN', () => {
    const [a] = pair();
    const large = new Uint8Array(4 << 20);
    const sent = sendMessage(a, large);
    expect(sent).toBeGreaterThan(0);
    expect(sent).toBeLessThan(large.length);
    expect(sendMessage(a, large)).toBe(Errno.EAGAIN);
  });

  it('are refused when they are outside their array', () => {
    const [a, b] = pair();
    const fds = createFdBuffer();
    expect(() => receiveMessage(b, new Uint8Array(4), 2, 3, fds)).toThrow(TypeError);
    expect(() => receiveMessage(b, new Uint8Array(4), 5, 0, fds)).toThrow(TypeError);
    expect(() => sendMessage(a, new Uint8Array(4), 5)).toThrow(TypeError);
  });
});

describe('descriptors', () => {
  it('arrive as new ones for the same thing, closed on exec', () => {
    const [a, b] = pair();
    const event = owned(createEventFd());
    expect(sendMessage(a, text('x'), 0, [event])).toBe(1);
    const fds = createFdBuffer();
    expect(receiveMessage(b, new Uint8Array(8), 0, 8, fds)).toBe(1);
    const [received] = takeFds(fds);
    expect(received).not.toBe(event);
    signalEventFd(received as number);
    expect(readEventFd(event)).toBe(1);
  });

  it('come in the order in which they were sent, as many as the kernel passes', () => {
    const [a, b] = pair();
    const events = Array.from({ length: FDS_PER_MESSAGE_MAX }, () => owned(createEventFd()));
    expect(sendMessage(a, text('x'), 0, events)).toBe(1);
    const fds = createFdBuffer();
    expect(receiveMessage(b, new Uint8Array(1), 0, 1, fds)).toBe(1);
    const received = takeFds(fds);
    expect(received).toHaveLength(FDS_PER_MESSAGE_MAX);
    received.forEach((fd, i) => {
      for (let signals = 0; signals <= i % 7; signals++) signalEventFd(fd);
    });
    expect(events.map((event) => readEventFd(event))).toEqual(events.map((_, i) => (i % 7) + 1));
  });

  it('belong to the message they came with', () => {
    const [a, b] = pair();
    const event = owned(createEventFd());
    sendMessage(a, text('first'), 0, [event]);
    sendMessage(a, text('second'));
    const fds = createFdBuffer();
    expect(receiveMessage(b, new Uint8Array(20), 0, 5, fds)).toBe(5);
    expect(takeFds(fds)).toHaveLength(1);
    expect(receiveMessage(b, new Uint8Array(20), 0, 6, fds)).toBe(6);
    expect(fds[0]).toBe(0);
  });

  it('that no array has room for are closed, all of them, and the message is refused', () => {
    const [a, b] = pair();
    const event = owned(createEventFd());
    const before = openFdCount();
    sendMessage(a, text('x'), 0, [event, event, event]);
    const small = new Int32Array(3);
    expect(receiveMessage(b, new Uint8Array(1), 0, 1, small)).toBe(-90);
    expect(small[0]).toBe(0);
    expect(openFdCount()).toBe(before);
  });

  it('that were never received are closed with the socket', () => {
    const [a, b] = pair();
    const event = owned(createEventFd());
    sendMessage(a, text('x'), 0, [event, event]);
    closeNow(a);
    closeNow(b);
    expect(openFdCount()).toBe(fdsBefore + 1);
  });

  it('cannot be more than the kernel passes, nor ones that are not open', () => {
    const [a] = pair();
    const event = owned(createEventFd());
    expect(() =>
      sendMessage(
        a,
        text('x'),
        0,
        Array.from({ length: 254 }, () => event),
      ),
    ).toThrow(TypeError);
    expect(sendMessage(a, text('x'), 0, [99_999])).toBe(Errno.EBADF);
  });
});

describe('listening sockets', () => {
  let directory = '';
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'ringhost-socket-'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it('accept connections and know who is there', async () => {
    const listener = owned(listenUnix(join(directory, 'a')));
    expect(acceptUnix(listener)).toBe(Errno.EAGAIN);
    const client = owned(connectUnix(join(directory, 'a')));
    let server = -1;
    await until(() => {
      server = acceptUnix(listener);
      return server >= 0;
    }, 'connection');
    owned(server);
    const me = { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() };
    expect(peerCredentials(server)).toEqual(me);
    expect(peerCredentials(client)).toEqual(me);
    sendMessage(client, text('hi'));
    expect(receiveMessage(server, new Uint8Array(2), 0, 2, createFdBuffer())).toBe(2);
  });

  it('are refused where something is already, or where no path may be', () => {
    const path = join(directory, 'a');
    owned(listenUnix(path));
    expect(() => listenUnix(path)).toThrow(expect.objectContaining({ code: 'EADDRINUSE' }));
    expect(() => listenUnix(join(directory, 'no', 'such'))).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    expect(() => listenUnix(join(directory, 'x'.repeat(108)))).toThrow(
      expect.objectContaining({ code: 'ENAMETOOLONG' }),
    );
  });

  it('that nobody listens on any more are ECONNREFUSED, and those that never were ENOENT', () => {
    const path = join(directory, 'a');
    closeNow(owned(listenUnix(path)));
    expect(() => connectUnix(path)).toThrow(
      expect.objectContaining({ code: 'ECONNREFUSED', errno: Errno.ECONNREFUSED }),
    );
    expect(() => connectUnix(join(directory, 'b'))).toThrow(
      expect.objectContaining({ code: 'ENOENT', errno: Errno.ENOENT }),
    );
  });

  it('that have no room for one more connection are EAGAIN, by that name', () => {
    const path = join(directory, 'a');
    owned(listenUnix(path, 0));
    const fill = () => {
      for (let i = 0; i < 10; i++) owned(connectUnix(path));
    };
    expect(fill).toThrow(expect.objectContaining({ code: 'EAGAIN', errno: Errno.EAGAIN }));
  });
});

describe('other descriptors', () => {
  it('are made non-blocking when they are open', () => {
    expect(setNonBlocking(owned(createEventFd()))).toBe(0);
    expect(setNonBlocking(99_999)).toBe(Errno.EBADF);
  });

  it('that are no sockets have no peer', () => {
    const event = owned(createEventFd());
    expect(() => peerCredentials(event)).toThrow(expect.objectContaining({ name: 'TargetError', errno: -88 }));
    expect(sendMessage(event, text('x'))).toBe(-88);
    expect(receiveMessage(event, new Uint8Array(1), 0, 1, createFdBuffer())).toBe(-88);
  });
});
