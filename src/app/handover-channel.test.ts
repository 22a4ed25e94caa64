import { afterEach, describe, expect, it } from 'vitest';
import { FdList } from '../base/fd-list.ts';
import { closeFd, createEventFd, readEventFd, signalEventFd } from '../sys/events.ts';
import { sendMessage, socketPair } from '../sys/socket.ts';
import { HandoverChannel } from './handover-channel.ts';

const open: HandoverChannel[] = [];
afterEach(() => {
  for (const channel of open.splice(0)) channel.close();
});

function pair(): [HandoverChannel, HandoverChannel] {
  const [a, b] = socketPair();
  const channels: [HandoverChannel, HandoverChannel] = [new HandoverChannel(a), new HandoverChannel(b)];
  open.push(...channels);
  return channels;
}

describe('a handover channel', () => {
  it('carries messages larger than a socket holds, with more descriptors than a message of the kernel', async () => {
    const [old, next] = pair();
    const own = createEventFd();
    const list = new FdList();
    const places = Array.from({ length: 600 }, () => list.put(own));
    const name = 'x'.repeat(3 << 20);
    const controllers = [{ name, session: null, device: { places, none: list.put(-1) } }];
    const sent = old.send({ type: 'state', stores: [], controllers }, list);
    const { message, list: received } = await next.receive('state');
    await sent;
    expect(message.controllers).toEqual(controllers);
    expect(received.fds).toHaveLength(600);
    signalEventFd(own);
    // Each is the same eventfd.
    expect(readEventFd(received.take(599))).toBe(1);
    expect([received.take(-1), received.find(-1)]).toEqual([-1, undefined]);
    expect(() => received.take(600)).toThrow(expect.objectContaining({ code: 'EPROTO' }));
    for (const fd of [own, ...received.fds]) closeFd(fd);
  });

  it('keeps messages apart, whatever the pieces they come in', async () => {
    const [a, b] = socketPair();
    const channel = new HandoverChannel(b);
    open.push(channel);
    const text = Buffer.from(JSON.stringify({ type: 'go' }));
    const head = Buffer.alloc(8);
    head.writeUInt32LE(text.length, 0);
    const both = Buffer.concat([head, text, head, text]);
    const first = channel.receive('go');
    for (let i = 0; i < both.length; i++) {
      sendMessage(a, both.subarray(i, i + 1));
      if (i % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    expect((await first).message).toEqual({ type: 'go' });
    expect((await channel.receive('go')).message).toEqual({ type: 'go' });
    closeFd(a);
    await expect(channel.receive('go')).rejects.toMatchObject({ code: 'EPIPE' });
  });

  it('says why the other side failed, that it is gone, and what it did not expect', async () => {
    const [old, next] = pair();
    await next.send({ type: 'failed', reason: 'no such disk' });
    await expect(old.receive('prepared')).rejects.toThrow('the new version failed: no such disk');
    await next.send({ type: 'ready' });
    await expect(old.receive('prepared')).rejects.toMatchObject({ code: 'EPROTO' });
    const waiting = old.receive('prepared');
    next.close();
    await expect(waiting).rejects.toMatchObject({ code: 'EPIPE' });
    await expect(old.send({ type: 'go' })).rejects.toMatchObject({ code: 'EPIPE' });
    old.close();
    await expect(old.receive('prepared')).rejects.toMatchObject({ code: 'EPIPE' });
  });
});
