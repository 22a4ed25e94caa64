/** Calls between threads: each has its answer, or the error of whoever could not give it. */
import { setTimeout as delay } from 'node:timers/promises';
import { MessageChannel } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { turns } from '../../test/support/waiting.ts';
import { TargetError } from '../base/errors.ts';
import { MailboxCaller, type MailboxHandler, serveMailbox } from './mailbox.ts';

const channels: MessageChannel[] = [];
afterEach(() => {
  for (const { port1 } of channels.splice(0)) port1.close();
});

function mailbox(handlers: Readonly<Record<string, MailboxHandler>>): {
  caller: MailboxCaller;
  channel: MessageChannel;
} {
  const channel = new MessageChannel();
  channels.push(channel);
  serveMailbox(channel.port2, handlers);
  return { caller: new MailboxCaller(channel.port1), channel };
}

describe('a call', () => {
  it('is answered with the result of its handler, now or later', async () => {
    const { caller } = mailbox({
      double: (value: number) => value * 2,
      later: async (value: string) => {
        await delay(1);
        return `${value}!`;
      },
      nothing: () => undefined,
    });
    expect(await caller.call('double', 21)).toBe(42);
    expect(await caller.call('later', 'yes')).toBe('yes!');
    expect(await caller.call('nothing', null)).toBeUndefined();
  });

  it('gets its own answer, in whatever order they come', async () => {
    const releases = new Map<number, () => void>();
    const { caller } = mailbox({
      wait: (id: number) => new Promise((resolve) => releases.set(id, () => resolve(`answer ${id}`))),
    });
    const answers = [0, 1, 2, 3].map((id) => caller.call('wait', id));
    while (releases.size < 4) await turns(1);
    for (const id of [2, 0, 3, 1]) releases.get(id)?.();
    expect(await Promise.all(answers)).toEqual(['answer 0', 'answer 1', 'answer 2', 'answer 3']);
  });

  it('carries plain data, shared memory and nothing by reference', async () => {
    const { caller } = mailbox({
      echo: (value: { list: number[]; shared: SharedArrayBuffer }) => {
        new Uint8Array(value.shared)[0] = 7;
        value.list.push(4);
        return value.list;
      },
    });
    const payload = { list: [1, 2, 3], shared: new SharedArrayBuffer(1) };
    expect(await caller.call('echo', payload)).toEqual([1, 2, 3, 4]);
    expect([payload.list, new Uint8Array(payload.shared)[0]]).toEqual([[1, 2, 3], 7]);
  });

  it('fails with code, number and text of its handler’s error', async () => {
    const { caller } = mailbox({
      fail: () => {
        throw new TargetError('VHOST_MEM_SLOTS', 'no slot left', { errno: -28 });
      },
      failLater: () => Promise.reject(new TargetError('EBUSY', 'in use')),
    });
    await expect(caller.call('fail', null)).rejects.toMatchObject({
      name: 'TargetError',
      code: 'VHOST_MEM_SLOTS',
      errno: -28,
      message: 'no slot left',
    });
    await expect(caller.call('failLater', null)).rejects.toMatchObject({ code: 'EBUSY', errno: -16 });
  });

  it('fails with EIO and the place for any other error', async () => {
    const { caller } = mailbox({
      fail: () => {
        throw new TypeError('our own mistake');
      },
      odd: () => Promise.reject('a text'),
      unsendable: () => () => 'a function',
    });
    await expect(caller.call('fail', null)).rejects.toMatchObject({ code: 'EIO', errno: -5 });
    await expect(caller.call('fail', null)).rejects.toThrow(/our own mistake[\s\S]*mailbox\.test/);
    await expect(caller.call('odd', null)).rejects.toThrow('a text');
    await expect(caller.call('unsendable', null)).rejects.toMatchObject({ code: 'EIO' });
  });

  it('that nobody handles fails with ENOSYS', async () => {
    const { caller } = mailbox({});
    await expect(caller.call('vring.start', null)).rejects.toMatchObject({ code: 'ENOSYS' });
  });

  it('with a payload that cannot be sent fails at once', async () => {
    const { caller } = mailbox({ take: () => 1 });
    await expect(caller.call('take', () => 'a function')).rejects.toThrow();
    expect(await caller.call('take', 1)).toBe(1);
  });

  it('is not disturbed by other messages on the port', async () => {
    const { caller, channel } = mailbox({ one: () => 1 });
    channel.port2.postMessage({ log: 'info', message: 'a line' });
    channel.port2.postMessage({ id: 999, result: 'of nothing' });
    expect(await caller.call('one', null)).toBe(1);
  });
});

describe('the death of the other thread', () => {
  it('fails every call that waits, and every later one', async () => {
    const { caller } = mailbox({ wait: () => new Promise(() => {}) });
    const waiting = [caller.call('wait', 1), caller.call('wait', 2)];
    const outcomes = Promise.allSettled(waiting);
    const error = new TargetError('EIO', 'the reactor is gone');
    caller.close(error);
    expect(await outcomes).toEqual([
      { status: 'rejected', reason: error },
      { status: 'rejected', reason: error },
    ]);
    await expect(caller.call('wait', 3)).rejects.toBe(error);
  });

  it('makes answers that still come meaningless', async () => {
    let release = () => {};
    const { caller } = mailbox({ wait: () => new Promise<void>((resolve) => (release = resolve)) });
    const outcome = caller.call('wait', null).catch((error: Error) => error.message);
    await turns(20);
    caller.close(new Error('gone'));
    release();
    await turns();
    expect(await outcome).toBe('gone');
  });
});
