/** The socket of a controller: made where nothing else is, gone when it is closed. */
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFdCount } from '../../test/support/descriptors.ts';
import { runModule, sourceUrl } from '../../test/support/processes.ts';
import { turns, until } from '../../test/support/waiting.ts';
import { closeFd, FdSet } from '../sys/events.ts';
import { connectUnix, listenUnix } from '../sys/socket.ts';
import { ControllerListener } from './controller-listener.ts';

let directory: string;
let path: string;
let fdSet: FdSet;
const fds: number[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-listener-'));
  path = join(directory, 'vhost.0');
  fdSet = new FdSet();
});

afterEach(() => {
  for (const fd of fds.splice(0)) closeFd(fd);
  fdSet.close();
  rmSync(directory, { recursive: true });
});

function owned(fd: number): number {
  fds.push(fd);
  return fd;
}

/** A listener that keeps the connections it gets. */
function listen(): { listener: ControllerListener; accepted: number[] } {
  const accepted: number[] = [];
  const handlers = { onConnection: (fd: number) => accepted.push(owned(fd)), onError: () => {} };
  return { accepted, listener: new ControllerListener(path, fdSet, handlers) };
}

describe('a controller’s socket', () => {
  it('takes every connection, is for its owner alone, and is gone when it is closed', async () => {
    const { listener, accepted } = listen();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    for (let i = 0; i < 5; i++) owned(connectUnix(path));
    await until(() => accepted.length === 5, 'connections');
    const before = openFdCount();
    listener.close();
    expect([existsSync(path), openFdCount()]).toEqual([false, before - 1]);
  });

  it('replaces the socket of a process that is gone', () => {
    closeFd(listenUnix(path));
    expect(existsSync(path)).toBe(true);
    const { listener } = listen();
    owned(connectUnix(path));
    listener.close();
    expect(existsSync(path)).toBe(false);
  });

  it('does not replace the socket of a living process', async () => {
    const other = listen();
    const inUse = expect.objectContaining({ code: 'EADDRINUSE' });
    expect(() => listen()).toThrow(inUse);
    expect(() => listen()).toThrow('another process serves');
    await turns();
    owned(connectUnix(path));
    await until(() => other.accepted.length > 0, 'connection');
    other.listener.close();
  });

  it('does not replace the socket of a living process that has no room for one more connection', () => {
    owned(listenUnix(path, 0));
    for (let isFull = false; !isFull; ) {
      try {
        owned(connectUnix(path));
      } catch {
        isFull = true;
      }
    }
    const { ino } = statSync(path);
    expect(() => listen()).toThrow(expect.objectContaining({ code: 'EADDRINUSE' }));
    expect(statSync(path).ino).toBe(ino);
  });

  it('does not replace a file, a directory or a link', () => {
    writeFileSync(path, 'precious');
    expect(() => listen()).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    expect(readFileSync(path, 'utf8')).toBe('precious');
    rmSync(path);
    symlinkSync(join(directory, 'elsewhere'), path);
    expect(() => listen()).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    path = directory;
    expect(() => listen()).toThrow(expect.objectContaining({ code: 'EEXIST' }));
    path = join(directory, 'vhost.0');
  });

  it('cannot be where there is no directory', () => {
    path = join(directory, 'none', 'vhost.0');
    const before = openFdCount();
    expect(() => listen()).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    expect(openFdCount()).toBe(before);
    path = join(directory, 'vhost.0');
  });

  it('waits, rather than spins, while there are no descriptors for a connection, and takes it then', () => {
    const { stdout, stderr } = runModule(
      `
      import { setTimeout as delay } from 'node:timers/promises';
      const { closeFd, createEventFd, FdSet } = await import('${sourceUrl('sys/events.ts')}');
      const { connectUnix } = await import('${sourceUrl('sys/socket.ts')}');
      const { ControllerListener } = await import('${sourceUrl('vhost/controller-listener.ts')}');
      const errors = [];
      let connections = 0;
      const fdSet = new FdSet();
      const listener = new ControllerListener('${path}', fdSet, {
        onConnection: () => connections++,
        onError: (error) => errors.push(error.code),
      });
      connectUnix('${path}');
      const fillers = [];
      try {
        for (;;) fillers.push(createEventFd());
      } catch {}
      await delay(1000);
      const during = { connections, errors: errors.length, codes: [...new Set(errors)] };
      for (const fd of fillers) closeFd(fd);
      while (connections === 0) await delay(10);
      listener.close();
      fdSet.close();
      console.log(JSON.stringify({ during, connections }));
    `,
      100,
    );
    expect(stderr).toBe('');
    const { during, connections } = JSON.parse(stdout) as {
      during: { connections: number; errors: number; codes: string[] };
      connections: number;
    };
    expect([during.connections, during.codes, connections]).toEqual([0, ['EMFILE'], 1]);
    // A thread that spins tries tens of thousands of times in a second.
    expect(during.errors).toBeLessThan(50);
  });

  it('may be gone already when it is closed', () => {
    const { listener } = listen();
    rmSync(path);
    expect(() => listener.close()).not.toThrow();
  });
});
