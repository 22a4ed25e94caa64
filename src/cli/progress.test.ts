/** Bars on a terminal, lines elsewhere. */
import { describe, expect, it } from 'vitest';
import { Progress, timeText } from './progress.ts';

const GIB = 2 ** 30;
const ESCAPE = '\u001b';

function shown(output: { isTTY?: boolean; columns?: number }, env: Record<string, string>, shares: readonly number[]) {
  const texts: string[] = [];
  const progress = new Progress('erase Malloc0', { output: { ...output, write: (text) => texts.push(text) }, env });
  for (const share of shares) progress.show({ done: share * GIB, total: GIB, elapsedMs: share * 10_000 });
  progress.end();
  return texts;
}

describe('progress', () => {
  it('is one line on a terminal, drawn again and taken away', () => {
    const texts = shown({ isTTY: true, columns: 80 }, { NO_COLOR: '1' }, [0, 0.25]);
    expect(texts).toEqual([
      `\rerase Malloc0 ▕${' '.repeat(40)}▏ 0 % of 1.0 GiB${ESCAPE}[K`,
      `\rerase Malloc0 ▕${'█'.repeat(6)}${' '.repeat(19)}▏ 25 % of 1.0 GiB, 102 MiB/s, 0:08 left${ESCAPE}[K`,
      `\r${ESCAPE}[K`,
    ]);
    for (const text of texts) expect(text.length - 5).toBeLessThan(80);
  });

  it('has colours unless they are not wanted, and no bar where there is no room', () => {
    expect(shown({ isTTY: true, columns: 80 }, {}, [1])[0]).toContain(`${ESCAPE}[32m`);
    expect(shown({ isTTY: true, columns: 30 }, {}, [1])[0]).toBe(
      `\rerase Malloc0 100 % of 1.0 GiB${ESCAPE}[K`.replace('GiB', 'Gi'),
    );
  });

  it.each([
    ['without a terminal', {}, {}],
    ['on a terminal that can do nothing', { isTTY: true }, { TERM: 'dumb' }],
  ])('is a line every tenth of the way %s', (_, output, env) => {
    const texts = shown(output, env, [0, 0.04, 0.13, 0.17, 0.5, 1]);
    expect(texts).toEqual([
      'erase Malloc0: 0 % of 1.0 GiB\n',
      'erase Malloc0: 13 % of 1.0 GiB, 102 MiB/s, 0:09 left\n',
      'erase Malloc0: 50 % of 1.0 GiB, 102 MiB/s, 0:05 left\n',
      'erase Malloc0: 100 % of 1.0 GiB\n',
    ]);
  });

  it('counts other things than bytes, too', () => {
    const texts: string[] = [];
    const output = { write: (text: string) => texts.push(text) };
    new Progress('bench', { unit: 'measurements', output, env: {} }).show({ done: 30, total: 120, elapsedMs: 60_000 });
    expect(texts).toEqual(['bench: 25 % of 120 measurements, 3:00 left\n']);
  });

  it('says times as people do', () => {
    expect([0, 59, 61, 3_725].map(timeText)).toEqual(['0:00', '0:59', '1:01', '1:02:05']);
  });
});
