/** What guests get wrong is logged, but not without end. */
import { describe, expect, it, vi } from 'vitest';
import { LimitedLog, type LogFields, type Logger, SILENT } from './log.ts';

interface Line {
  readonly message: string;
  readonly fields: LogFields | undefined;
}

function recorder(): { log: Logger; lines: Line[] } {
  const lines: Line[] = [];
  return { lines, log: { ...SILENT, warn: (message, fields) => lines.push({ message, fields }) } };
}

describe('LimitedLog', () => {
  it('shows the first lines of a key, says that it stops, and stops', () => {
    const { log, lines } = recorder();
    const limited = new LimitedLog(log, 3);
    for (let i = 1; i <= 10; i++) limited.warn('ring', `fault ${i}`);
    expect(lines.map((line) => line.message)).toEqual([
      'fault 1',
      'fault 2',
      'fault 3 (more of this kind within a minute are not shown)',
    ]);
  });

  it('counts every key by itself', () => {
    const { log, lines } = recorder();
    const limited = new LimitedLog(log, 2);
    for (let i = 0; i < 5; i++) for (const key of ['a', 'b', '__proto__']) limited.warn(key, key);
    expect(lines.filter((line) => line.message.startsWith('a'))).toHaveLength(2);
    expect(lines).toHaveLength(6);
  });

  it('shows a kind again after a minute', () => {
    vi.useFakeTimers();
    try {
      const { log, lines } = recorder();
      const limited = new LimitedLog(log, 2);
      for (let i = 0; i < 5; i++) limited.warn('key', 'text');
      vi.advanceTimersByTime(60_000);
      limited.warn('key', 'again');
      expect(lines.map((line) => line.message)).toEqual([
        'text',
        'text (more of this kind within a minute are not shown)',
        'again',
      ]);
    } finally {
      vi.useRealTimers();
    }
  });

  it('hands the fields on', () => {
    const { log, lines } = recorder();
    new LimitedLog(log).warn('key', 'text', { queue: 3 });
    expect(lines).toEqual([{ message: 'text', fields: { queue: 3 } }]);
  });

  it('may show a single line', () => {
    const { log, lines } = recorder();
    const limited = new LimitedLog(log, 1);
    for (let i = 0; i < 3; i++) limited.warn('key', 'text');
    expect(lines.map((line) => line.message)).toEqual(['text (more of this kind within a minute are not shown)']);
  });
});
