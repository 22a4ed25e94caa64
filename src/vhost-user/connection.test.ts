/** A vhost-user socket, however its stream is cut, and no descriptor lost on the way. */
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { TargetError } from '../base/errors.ts';
import { MessageReader } from '../initiator/message-reader.ts';
import { closeFd, createEventFd, type FdHandler, FdSet, signalEventFd, type WatchOptions } from '../sys/events.ts';
import { sendMessage, socketPair } from '../sys/socket.ts';
import { Connection, type Message } from './connection.ts';
import { encodeMessage, Header, HeaderFlag, PAYLOAD_BYTES_MAX } from './messages.ts';

/** Counts what it reports. */
class CountingFdSet extends FdSet {
  events = 0;

  override add(fd: number, handler: FdHandler, options?: WatchOptions): void {
    const counting: FdHandler = (events) => {
      this.events++;
      handler(events);
    };
    super.add(fd, counting, options);
  }
}

/** One connection with a bare socket at the other end. */
class Rig {
  readonly fdSet = new CountingFdSet();
  readonly messages: { code: number; flags: number; payload: number[]; fdCount: number }[] = [];
  readonly closes: (TargetError | undefined)[] = [];
  readonly connection: Connection;
  /** The peer's end. */
  readonly peer: number;
  handler: (message: Message) => Promise<void> = async () => {};
  #isPeerOpen = true;

  constructor() {
    const [own, peer] = socketPair();
    this.peer = peer;
    this.connection = new Connection(own, this.fdSet, {
      onMessage: async (message) => {
        const { code, flags, payload, fdCount } = message;
        this.messages.push({ code, flags, payload: [...payload], fdCount });
        await this.handler(message);
      },
      onClose: (error) => this.closes.push(error),
    });
  }

  async closed(): Promise<TargetError | undefined> {
    await until(() => this.closes.length > 0, 'close');
    return this.closes[0];
  }

  closePeer(): void {
    if (this.#isPeerOpen) closeFd(this.peer);
    this.#isPeerOpen = false;
  }

  close(): void {
    this.connection.close();
    this.closePeer();
    this.fdSet.close();
  }
}

/** How many messages of `size` bytes a socket takes from a writer whose peer does not read. */
function messagesUntilFull(size: number): number {
  const pair = socketPair();
  let count = 0;
  while (sendMessage(pair[0], new Uint8Array(size)) === size) count++;
  for (const fd of pair) closeFd(fd);
  return count;
}

let rig: Rig;
let fdsBefore = 0;

beforeEach(async () => {
  // A set closes its epoll descriptor at the next turn of the loop.
  await turns();
  fdsBefore = openFdCount();
  rig = new Rig();
});

afterEach(async () => {
  rig.close();
  await until(() => openFdCount() === fdsBefore, 'end without a descriptor left over');
  assert.equal(rig.closes.length, 1);
});

const bytesOf = (length: number, seed = 0): Uint8Array => Uint8Array.from({ length }, (_, i) => i + seed);

function header(request: number, flags: number, size: number): Uint8Array {
  return Header.encode({ request, flags, size });
}

describe('reading', () => {
  it('makes the same messages of a stream however it is cut', async () => {
    const message = fc.record({ code: fc.nat(0xffff), size: fc.oneof(fc.nat(60), fc.constant(PAYLOAD_BYTES_MAX)) });
    const cuts = fc.array(fc.integer({ min: 1, max: 80 }), { minLength: 1, maxLength: 20, size: 'max' });
    await fc.assert(
      fc.asyncProperty(fc.array(message, { minLength: 1, maxLength: 5 }), cuts, async (sent, lengths) => {
        rig.messages.length = 0;
        const stream = Buffer.concat(sent.map(({ code, size }) => encodeMessage(code, 8, bytesOf(size, code))));
        for (let at = 0, i = 0; at < stream.length; i++) {
          const end = Math.min(stream.length, at + (lengths[i % lengths.length] as number) * (i < 200 ? 1 : 1000));
          expect(sendMessage(rig.peer, stream.subarray(at, end))).toBe(end - at);
          at = end;
          if (i % 3 === 0) await turns(1);
        }
        await until(() => rig.messages.length === sent.length, 'all messages');
        const expected = sent.map(({ code, size }) => ({
          code,
          flags: HeaderFlag.version | 8,
          payload: [...bytesOf(size, code)],
          fdCount: 0,
        }));
        expect(rig.messages).toEqual(expected);
      }),
      { numRuns: 30 },
    );
  });

  it('takes a message that comes byte by byte', async () => {
    const stream = encodeMessage(7, 0, bytesOf(20));
    for (let i = 0; i < stream.length; i++) {
      expect(rig.messages).toHaveLength(0);
      sendMessage(rig.peer, stream.subarray(i, i + 1));
      await turns(2);
    }
    await until(() => rig.messages.length === 1, 'message');
    expect(rig.messages[0]?.payload).toEqual([...bytesOf(20)]);
  });

  it('handles one message at a time, and the next ones after it', async () => {
    const gates: (() => void)[] = [];
    rig.handler = () => new Promise((resolve) => gates.push(resolve));
    sendMessage(rig.peer, Buffer.concat([1, 2, 3].map((code) => encodeMessage(code, 0, bytesOf(4)))));
    for (let handled = 1; handled <= 3; handled++) {
      await until(() => gates.length === handled, `message ${handled}`);
      await turns();
      expect(rig.messages).toHaveLength(handled);
      gates[handled - 1]?.();
    }
  });

  it.each([
    ['a payload of 4097 bytes', header(1, 1, PAYLOAD_BYTES_MAX + 1), 'VHOST_MSG_SIZE'],
    ['a payload of 4 GiB', header(1, 1, 0xffff_ffff), 'VHOST_MSG_SIZE'],
    ['version 0', header(1, 0, 0), 'VHOST_MSG_VERSION'],
    ['version 2', header(1, 2, 8), 'VHOST_MSG_VERSION'],
    ['version 3', header(1, 3, 0), 'VHOST_MSG_VERSION'],
    ['noise', new Uint8Array(12).fill(0xff), 'VHOST_MSG_VERSION'],
  ])('ends the connection at %s, without waiting for more', async (_, bytes, code) => {
    sendMessage(rig.peer, bytes);
    expect((await rig.closed())?.code).toBe(code);
    expect(rig.messages).toHaveLength(0);
  });

  it('ends in peace when the peer goes between messages', async () => {
    sendMessage(rig.peer, encodeMessage(1, 0, bytesOf(0)));
    rig.closePeer();
    expect(await rig.closed()).toBeUndefined();
    expect(rig.messages).toHaveLength(1);
  });

  it.each([1, 11, 12, 15])('ends with an error when the peer goes after %i bytes of a message', async (count) => {
    sendMessage(rig.peer, encodeMessage(1, 0, bytesOf(8)).subarray(0, count));
    rig.closePeer();
    expect((await rig.closed())?.code).toBe('VHOST_MSG_TRUNCATED');
  });

  it('ends with the error of a handler that fails', async () => {
    rig.handler = () => Promise.reject(new TargetError('VHOST_TEST', 'no'));
    sendMessage(rig.peer, Buffer.concat([encodeMessage(1, 0, bytesOf(0)), encodeMessage(2, 0, bytesOf(0))]));
    expect((await rig.closed())?.code).toBe('VHOST_TEST');
    await turns();
    expect(rig.messages).toHaveLength(1);
  });

  it('ends with EIO for an error that is not ours', async () => {
    rig.handler = () => Promise.reject(new TypeError('odd'));
    sendMessage(rig.peer, encodeMessage(1, 0, bytesOf(0)));
    const error = await rig.closed();
    expect([error?.code, (error?.cause as Error | undefined)?.message]).toEqual(['EIO', 'odd']);
  });

  it('stops after the message in whose handler it was closed', async () => {
    rig.handler = async () => rig.connection.close();
    sendMessage(rig.peer, Buffer.concat([encodeMessage(1, 0, bytesOf(0)), encodeMessage(2, 0, bytesOf(0))]));
    expect(await rig.closed()).toBeUndefined();
    await turns();
    expect(rig.messages).toHaveLength(1);
  });

  it('sleeps while a handler works, though the peer is gone', async () => {
    const gate = Promise.withResolvers<void>();
    rig.handler = () => gate.promise;
    sendMessage(rig.peer, encodeMessage(1, 0, bytesOf(4)));
    await until(() => rig.messages.length === 1, 'message');
    rig.closePeer();
    await turns(20);
    // The message, and the hang-up once, not in every turn of the loop.
    expect(rig.fdSet.events).toBeLessThanOrEqual(3);
    expect(rig.closes).toHaveLength(0);
    gate.resolve();
    expect(await rig.closed()).toBeUndefined();
  });

  it('does not read on while a handler works, though the peer is gone', async () => {
    let release = () => {};
    rig.handler = () => new Promise((resolve) => (release = resolve));
    sendMessage(rig.peer, Buffer.concat([encodeMessage(1, 0, bytesOf(0)), encodeMessage(2, 0, bytesOf(0))]));
    await until(() => rig.messages.length === 1, 'message');
    rig.closePeer();
    await turns(20);
    expect([rig.messages.length, rig.closes.length]).toEqual([1, 0]);
    rig.handler = async () => {};
    release();
    // What was sent before the end is still handled.
    await rig.closed();
    expect(rig.messages).toHaveLength(2);
  });
});

describe('descriptors', () => {
  const withFds = (fds: readonly number[], bytes: Uint8Array): void => {
    expect(sendMessage(rig.peer, bytes, 0, fds)).toBe(bytes.length);
  };

  it('go to the message they came with, and are closed when nobody takes them', async () => {
    const event = createEventFd();
    withFds([event, event, event], encodeMessage(5, 0, bytesOf(8)));
    withFds([], encodeMessage(6, 0, bytesOf(8)));
    await until(() => rig.messages.length === 2, 'both messages');
    expect(rig.messages.map(({ fdCount }) => fdCount)).toEqual([3, 0]);
    closeFd(event);
  });

  it('belong to the handler that takes them', async () => {
    const event = createEventFd();
    const taken: number[] = [];
    rig.handler = async (message) => {
      taken.push(message.takeFd(), message.takeFd());
      expect(message.fdCount).toBe(1);
    };
    withFds([event, event, event], encodeMessage(5, 0, bytesOf(0)));
    await until(() => rig.messages.length === 1, 'message');
    await turns();
    for (const fd of taken) expect(signalEventFd(fd)).toBe(0);
    for (const fd of [event, ...taken]) closeFd(fd);
  });

  it('that are none are -1', async () => {
    let fd = 0;
    rig.handler = async (message) => {
      fd = message.takeFd();
    };
    withFds([], encodeMessage(5, 0, bytesOf(0)));
    await until(() => fd !== 0, 'handled message');
    expect(fd).toBe(-1);
  });

  it('may come with any byte of a message', async () => {
    const event = createEventFd();
    const stream = encodeMessage(5, 0, bytesOf(8));
    withFds([event], stream.subarray(0, 3));
    await turns();
    withFds([event], stream.subarray(3, 14));
    await turns();
    withFds([event], stream.subarray(14));
    await until(() => rig.messages.length === 1, 'message');
    expect(rig.messages[0]?.fdCount).toBe(3);
    closeFd(event);
  });

  it.each([
    ['of a message that was cut short', encodeMessage(5, 0, bytesOf(8)).subarray(0, 14)],
    ['of a header that is refused', header(5, 2, 0)],
    ['of a size that is refused', header(5, 1, 9999)],
  ])('%s are closed', async (_, bytes) => {
    const event = createEventFd();
    withFds([event, event], bytes);
    closeFd(event);
    await turns();
    rig.closePeer();
    await rig.closed();
    await until(() => openFdCount() === fdsBefore + 1, 'nothing left but the epoll descriptor');
    expect(rig.messages).toHaveLength(0);
  });

  it('are closed with the message of a handler that fails', async () => {
    const event = createEventFd();
    rig.handler = () => Promise.reject(new TargetError('VHOST_TEST', 'no'));
    withFds([event, event], encodeMessage(5, 0, bytesOf(0)));
    closeFd(event);
    expect((await rig.closed())?.code).toBe('VHOST_TEST');
  });

  it('of which there are too many end the connection', async () => {
    const event = createEventFd();
    withFds(
      Array.from({ length: 65 }, () => event),
      encodeMessage(5, 0, bytesOf(0)),
    );
    closeFd(event);
    expect((await rig.closed())?.code).toBe('VHOST_MSG_FDS');
    expect(rig.messages).toHaveLength(0);
  });

  it('sent bit by bit end the connection too, before they are too many for the process', async () => {
    const event = createEventFd();
    const stream = encodeMessage(5, 0, bytesOf(20));
    for (let i = 0; i < 14; i++)
      sendMessage(
        rig.peer,
        stream.subarray(i, i + 1),
        0,
        Array.from({ length: 8 }, () => event),
      );
    closeFd(event);
    expect((await rig.closed())?.code).toBe('VHOST_MSG_FDS');
  });
});

describe('writing', () => {
  it('sends at once, with descriptors', () => {
    const event = createEventFd();
    rig.connection.send(encodeMessage(3, 4, bytesOf(5)), [event]);
    const reader = new MessageReader(rig.peer);
    const result = reader.read();
    expect(result).toMatchObject({ kind: 'message', message: { request: 3, flags: 5, payload: bytesOf(5) } });
    const fds = result.kind === 'message' ? result.message.fds : [];
    expect(fds).toHaveLength(1);
    for (const fd of fds) closeFd(fd);
  });

  it('keeps what a slow peer has no room for, and sends it in order, descriptors where they belong', async () => {
    const reader = new MessageReader(rig.peer);
    // What a socket holds, then 20 messages more.
    const sizes = Array.from({ length: messagesUntilFull(2000) + 20 }, (_, i) => 2000 + (i % 50));
    sizes.forEach((size, i) => {
      rig.connection.send(encodeMessage(i, 4, bytesOf(size, i)), i % 10 === 0 ? [createEventFd()] : []);
    });
    expect(rig.closes).toHaveLength(0);
    const received: { code: number; size: number; fds: number }[] = [];
    await until(() => {
      for (let result = reader.read(); result.kind === 'message'; result = reader.read()) {
        const { request, payload, fds } = result.message;
        expect(payload).toEqual(bytesOf(payload.length, request));
        received.push({ code: request, size: payload.length, fds: fds.length });
        for (const fd of fds) closeFd(fd);
      }
      return received.length === sizes.length;
    }, 'all messages');
    expect(received).toEqual(sizes.map((size, i) => ({ code: i, size, fds: i % 10 === 0 ? 1 : 0 })));
  });

  it('sends the descriptors of a message that is cut in two only once', async () => {
    const reader = new MessageReader(rig.peer);
    // The socket takes a part of the last one.
    const count = messagesUntilFull(60_000) + 1;
    for (let i = 0; i < count; i++) rig.connection.send(encodeMessage(i, 4, bytesOf(60_000)), [createEventFd()]);
    const fds: number[] = [];
    await until(() => {
      for (let result = reader.read(); result.kind === 'message'; result = reader.read()) {
        fds.push(result.message.fds.length);
        for (const fd of result.message.fds) closeFd(fd);
      }
      return fds.length === count;
    }, 'all messages');
    expect(new Set(fds)).toEqual(new Set([1]));
  });

  it('ends the connection of a peer that never reads, within a bound', () => {
    let sent = 0;
    while (rig.closes.length === 0 && sent < 64 << 20) {
      rig.connection.send(encodeMessage(1, 4, bytesOf(4000)));
      sent += 4012;
    }
    expect(rig.closes[0]?.code).toBe('VHOST_MSG_UNREAD');
  });

  it('still handles requests while replies wait to be read', async () => {
    const count = messagesUntilFull(4000) + 5;
    for (let i = 0; i < count; i++) rig.connection.send(encodeMessage(1, 4, bytesOf(4000)));
    sendMessage(rig.peer, encodeMessage(9, 0, bytesOf(0)));
    await until(() => rig.messages.length === 1, 'message');
    expect(rig.closes).toHaveLength(0);
  });

  it('to a peer that is gone ends the connection, without a signal', async () => {
    rig.closePeer();
    rig.connection.send(encodeMessage(1, 4, bytesOf(0)));
    expect(['VHOST_PEER', undefined]).toContain((await rig.closed())?.code);
    rig.connection.send(encodeMessage(1, 4, bytesOf(0)));
    await delay(1);
  });
});

describe('closing', () => {
  it('is told once, whatever happens twice', async () => {
    rig.connection.close(new TargetError('VHOST_TEST', 'first'));
    rig.connection.close(new TargetError('VHOST_TEST', 'second'));
    rig.closePeer();
    await turns();
    expect(rig.closes.map((error) => error?.message)).toEqual(['first']);
  });
});
