/** Cores, names and the clock. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { startThread } from '../../test/support/processes.ts';
import {
  allowedCores,
  clockNs,
  clockStamp,
  nameThread,
  pinToCore,
  STAMP_NS,
  stepsBetween,
  threadId,
} from './thread.ts';

describe('the calling thread', () => {
  it('may run on the cores that the kernel says', () => {
    const list = /Cpus_allowed_list:\s*(\S+)/.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[1] ?? '';
    const expected = list.split(',').flatMap((part) => {
      const [first = 0, last = first] = part.split('-').map(Number);
      return Array.from({ length: last - first + 1 }, (_, i) => first + i);
    });
    expect(allowedCores()).toEqual(expected);
  });

  it('is known to the kernel by the id it has here', () => {
    expect(readFileSync(`/proc/self/task/${threadId()}/status`, 'utf8')).toMatch(/^Name:/);
  });

  it('cannot run on a core that does not exist', () => {
    const before = allowedCores();
    expect(() => pinToCore(1023)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(() => pinToCore(1024)).toThrow(TypeError);
    expect(() => pinToCore(-1)).toThrow(TypeError);
    expect(allowedCores()).toEqual(before);
  });

  it('has a clock that only goes forward', () => {
    let last = clockNs();
    const hrtime = Number(process.hrtime.bigint());
    for (let i = 0; i < 1000; i++) {
      const now = clockNs();
      expect(now).toBeGreaterThanOrEqual(last);
      last = now;
    }
    // The same clock as the runtime's.
    expect(Math.abs(hrtime - last)).toBeLessThan(60e9);
  });
});

describe('another thread', () => {
  it('is pinned and named by itself alone', async () => {
    const core = allowedCores().at(-1) as number;
    const { message, exit } = startThread(`
      const { readFileSync } = await import('node:fs');
      const { allowedCores, nameThread, pinToCore, threadId } = await import(url('sys/thread.ts'));
      pinToCore(${core});
      nameThread('pinned-one');
      const name = readFileSync('/proc/self/task/' + threadId() + '/comm', 'utf8').trim();
      post({ cores: allowedCores(), name });
    `);
    const before = allowedCores();
    expect(await message).toEqual({ cores: [core], name: 'pinned-one' });
    expect(await exit).toBe(0);
    expect(allowedCores()).toEqual(before);
  });

  it('cannot have a name of more than 15 bytes', () => {
    expect(() => nameThread('0123456789abcdef')).toThrow(TypeError);
  });
});

describe('stamps', () => {
  it('lie as far apart as the clock says', () => {
    const [beforeNs, start] = [clockNs(), clockStamp()];
    const innerNs = clockNs();
    while (clockNs() - innerNs < 1_000_000);
    const between = stepsBetween(start, clockStamp()) * STAMP_NS;
    expect(between).toBeGreaterThan(1_000_000 - 32);
    expect(between).toBeLessThan(clockNs() - beforeNs + 32);
  });

  it('may have turned over in between', () => {
    expect(stepsBetween(0x7fff_ffff, -0x8000_0000)).toBe(1);
    expect(stepsBetween(-1, 1)).toBe(2);
    expect(stepsBetween(5, 5)).toBe(0);
  });
});
