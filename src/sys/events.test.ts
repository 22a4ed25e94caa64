/** Watched descriptors and the loop's turn, in this thread and in threads that end. */
import { spawnSync } from 'node:child_process';
import { closeSync, constants, openSync, readFileSync, writeSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import { startThread } from '../../test/support/processes.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { Errno } from '../base/errors.ts';
import { closeFd, createEventFd, type FdEvents, FdSet, LoopTurn, readEventFd, signalEventFd } from './events.ts';
import { sendMessage, socketPair } from './socket.ts';

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).toReversed()) cleanup();
});

function fdSet(): FdSet {
  const set = new FdSet();
  cleanups.push(() => set.close());
  return set;
}

function eventFd(): number {
  const fd = createEventFd();
  cleanups.push(() => closeFd(fd));
  return fd;
}

function sockets(): [number, number] {
  const [a, b] = socketPair();
  cleanups.push(
    () => closeFd(a),
    () => closeFd(b),
  );
  return [a, b];
}

describe('event descriptors', () => {
  it('count signals until they are read', () => {
    const fd = eventFd();
    expect(readEventFd(fd)).toBe(Errno.EAGAIN);
    for (let i = 0; i < 3; i++) expect(signalEventFd(fd)).toBe(0);
    expect(readEventFd(fd)).toBe(3);
    expect(readEventFd(fd)).toBe(Errno.EAGAIN);
  });

  it('are signalled without waiting even when a peer has filled the counter', () => {
    const fd = eventFd();
    writeSync(fd, Uint8Array.from([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
    expect(signalEventFd(fd)).toBe(0);
  });

  it('are signalled without waiting even when the peer has made them blocking, too', async () => {
    const fd = eventFd();
    // A process gets its standard input in blocking mode: the flag belongs to the description, which both share.
    spawnSync('true', { stdio: [fd, 'ignore', 'ignore'] });
    const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
    expect(Number.parseInt(flags ?? '', 8) & constants.O_NONBLOCK).toBe(0);
    writeSync(fd, Uint8Array.from([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
    const { message, exit } = startThread(`
      const { signalEventFd } = await import(url('sys/events.ts'));
      let worst = 0;
      for (let i = 0; i < 1000; i++) worst = Math.min(worst, signalEventFd(${fd}));
      post(worst);
    `);
    const waited = new Promise((resolve) => setTimeout(resolve, 20_000, 'it waits').unref());
    const outcome = await Promise.race([message, waited]);
    // Lets a thread go that waits.
    readEventFd(fd);
    expect(outcome).toBe(0);
    expect(await exit).toBe(0);
  });

  it('that are something else give an error, not an exception', () => {
    const file = openSync('/dev/null', 'r+');
    cleanups.push(() => closeSync(file));
    expect(signalEventFd(file)).toBe(Errno.EINVAL);
    expect(signalEventFd(99_999)).toBe(Errno.EBADF);
    expect(readEventFd(99_999)).toBe(Errno.EBADF);
  });
});

describe('a watched descriptor', () => {
  it('is reported for as long as there is something to read', async () => {
    const set = fdSet();
    const fd = eventFd();
    let calls = 0;
    set.add(fd, () => calls++);
    await turns();
    expect(calls).toBe(0);
    signalEventFd(fd);
    await until(() => calls >= 3, 'repeated event');
    readEventFd(fd);
    await turns();
    const after = calls;
    await turns();
    expect(calls).toBe(after);
  });

  it('is reported once a signal with `edge`, although nobody reads it', async () => {
    const set = fdSet();
    const fd = eventFd();
    let calls = 0;
    set.add(fd, () => calls++, { edge: true });
    for (let signals = 1; signals <= 4; signals++) {
      signalEventFd(fd);
      await until(() => calls === signals, `event ${signals}`);
      await turns();
      expect(calls).toBe(signals);
    }
  });

  it('that was signalled before it was added is reported, with `edge` too', async () => {
    const set = fdSet();
    const fd = eventFd();
    signalEventFd(fd);
    let calls = 0;
    set.add(fd, () => calls++, { edge: true });
    await until(() => calls > 0, 'event');
    await turns();
    expect(calls).toBe(1);
  });

  it('tells what happened', async () => {
    const set = fdSet();
    const [a, b] = sockets();
    let last: FdEvents | null = null;
    set.add(a, (events) => (last = events), { writable: true });
    await until(() => last !== null, 'event');
    expect(last).toEqual({ isReadable: false, isWritable: true, isBroken: false });
    sendMessage(b, Uint8Array.of(1));
    await until(() => last?.isReadable === true, 'readable event');
    expect(last).toEqual({ isReadable: true, isWritable: true, isBroken: false });
    set.change(a, {});
    cleanups.splice(cleanups.length - 1, 1);
    closeFd(b);
    await until(() => last?.isBroken === true, 'hang-up');
    expect(last).toEqual({ isReadable: true, isWritable: false, isBroken: true });
  });

  it('is not reported while nothing is watched for, and is again after a change', async () => {
    const set = fdSet();
    const fd = eventFd();
    let calls = 0;
    set.add(fd, () => calls++, { readable: false });
    signalEventFd(fd);
    await turns();
    expect(calls).toBe(0);
    set.change(fd, { readable: true });
    await until(() => calls > 0, 'event');
  });

  it('is refused when it is no descriptor, watched already, or a plain file', () => {
    const set = fdSet();
    const fd = eventFd();
    const file = openSync(import.meta.filename, 'r');
    cleanups.push(() => closeSync(file));
    set.add(fd, () => {});
    expect(() => set.add(99_999, () => {})).toThrow(expect.objectContaining({ code: 'EBADF' }));
    expect(() => set.add(fd, () => {})).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    expect(() => set.add(file, () => {})).toThrow(expect.objectContaining({ code: 'EPERM' }));
  });
});

describe('removal', () => {
  it('inside a handler silences the others that were reported with it', async () => {
    const set = fdSet();
    const fds = Array.from({ length: 10 }, () => eventFd());
    const called: number[] = [];
    for (const fd of fds) {
      set.add(fd, () => {
        called.push(fd);
        for (const other of fds) set.remove(other);
      });
    }
    for (const fd of fds) signalEventFd(fd);
    await until(() => called.length > 0, 'event');
    await turns();
    expect(called).toHaveLength(1);
  });

  it('and a new watch of the same number are two different things', async () => {
    const set = fdSet();
    const [first, second] = [eventFd(), eventFd()];
    const called: string[] = [];
    const handler = (name: string, fd: number, other: number) => () => {
      called.push(name);
      readEventFd(fd);
      // The other was reported along with this one: its event belongs to the watch that is gone.
      set.remove(other);
      readEventFd(other);
      set.add(other, () => called.push('new'));
    };
    set.add(first, handler('old', first, second));
    set.add(second, handler('old', second, first));
    signalEventFd(first);
    signalEventFd(second);
    await until(() => called.length > 0, 'event');
    await turns();
    expect(called).toEqual(['old']);
  });

  it('of what was never added, or twice, does nothing', () => {
    const set = fdSet();
    const fd = eventFd();
    set.remove(fd);
    set.change(fd, {});
    set.add(fd, () => {});
    set.remove(fd);
    set.remove(fd);
    expect(() => set.add(fd, () => {})).not.toThrow();
  });
});

describe('a set', () => {
  it('watches many descriptors, more than it reports at a time, and starves none', async () => {
    const set = fdSet();
    const fds = Array.from({ length: 500 }, () => eventFd());
    const calls = new Map(fds.map((fd) => [fd, 0]));
    for (const fd of fds) set.add(fd, () => calls.set(fd, (calls.get(fd) ?? 0) + 1), { edge: true });
    for (const fd of fds) signalEventFd(fd);
    await until(() => [...calls.values()].every((count) => count > 0), 'event of each');
    expect(new Set(calls.values())).toEqual(new Set([1]));
    // Level-triggered, every one is ready all the time.
    for (const fd of fds) {
      set.remove(fd);
      set.add(fd, () => calls.set(fd, (calls.get(fd) ?? 0) + 1));
    }
    await until(() => [...calls.values()].every((count) => count >= 3), 'repeated event of each');
  });

  it('can be closed inside a handler', async () => {
    const set = new FdSet();
    const fds = [eventFd(), eventFd()];
    let calls = 0;
    for (const fd of fds) {
      set.add(fd, () => {
        calls++;
        set.close();
      });
      signalEventFd(fd);
    }
    await until(() => calls > 0, 'event');
    await turns();
    expect(calls).toBe(1);
  });

  it('gives its own descriptor back when it is closed', async () => {
    const before = openFdCount();
    for (let i = 0; i < 10; i++) {
      const set = new FdSet();
      set.add(eventFd(), () => {});
      set.close();
    }
    await until(() => openFdCount() <= before + 10, 'descriptors given back');
    expect(openFdCount()).toBe(before + 10);
  });
});

describe('the turn of the loop', () => {
  it('comes once in every turn, between start and stop', async () => {
    let count = 0;
    const turn = new LoopTurn(() => count++);
    cleanups.push(() => turn.close());
    await turns();
    expect(count).toBe(0);
    turn.start();
    turn.start();
    await nextTurn();
    const before = count;
    await turns(10);
    expect(count - before).toBe(10);
    turn.stop();
    turn.stop();
    const after = count;
    await turns();
    expect(count).toBe(after);
    turn.start();
    await until(() => count > after, 'turn after a second start');
  });

  it('can be stopped, started again and closed from inside', async () => {
    const seen: string[] = [];
    const turn = new LoopTurn(() => {
      seen.push('turn');
      turn.stop();
      if (seen.length < 3) turn.start();
      else turn.close();
    });
    turn.start();
    await until(() => seen.length === 3, 'third turn');
    await turns();
    expect(seen).toHaveLength(3);
  });

  it('leaves timers, promises and descriptors their share', async () => {
    const set = fdSet();
    const fd = eventFd();
    let calls = 0;
    set.add(fd, () => calls++, { edge: true });
    const turn = new LoopTurn(() => {});
    cleanups.push(() => turn.close());
    turn.start();
    signalEventFd(fd);
    await new Promise((resolve) => setTimeout(resolve, 1));
    await until(() => calls > 0, 'event');
    expect(calls).toBe(1);
  });
});

describe('a thread with open watches', () => {
  const prelude = `
    const { FdSet, LoopTurn, createEventFd, signalEventFd } = await import(url('sys/events.ts'));
    const set = new FdSet();
    const fd = createEventFd();
    let calls = 0;
    let count = 0;
    const turn = new LoopTurn(() => { if (++count === 100) post('turning'); });
  `;

  it('ends cleanly by its own exit, in the middle of everything', async () => {
    const { exit } = startThread(`${prelude}
      set.add(fd, () => process.exit(7));
      turn.start();
      signalEventFd(fd);
    `);
    expect(await exit).toBe(7);
  });

  it('ends cleanly by an exit inside a turn', async () => {
    const { exit } = startThread(`${prelude}
      new LoopTurn(() => process.exit(3)).start();
      turn.start();
    `);
    expect(await exit).toBe(3);
  });

  it('ends cleanly when it is terminated while it turns', async () => {
    const before = openFdCount();
    for (let i = 0; i < 3; i++) {
      const { worker, message } = startThread(`${prelude}
        set.add(fd, () => calls++);
        signalEventFd(fd);
        turn.start();
      `);
      expect(await message).toBe('turning');
      expect(await worker.terminate()).toBe(1);
    }
    // The event descriptor of each thread is its own to close; its epoll descriptor went with the thread.
    await until(() => openFdCount() <= before + 3, 'descriptors given back');
  });

  it('ends by itself once its watches are closed', async () => {
    const { exit } = startThread(`${prelude}
      set.add(fd, () => { set.close(); turn.stop(); turn.close(); });
      turn.start();
      signalEventFd(fd);
    `);
    expect(await exit).toBe(0);
  });

  it('ends by an error of a handler, which is not swallowed', async () => {
    const { exit, errors } = startThread(`${prelude}
      set.add(fd, () => { throw new Error('from a handler'); });
      signalEventFd(fd);
    `);
    expect(await exit).toBe(1);
    expect(errors).toEqual(['from a handler']);
  });
});
