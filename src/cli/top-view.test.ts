import { renderToString } from 'ink';
import { createElement as h } from 'react';
import { describe, expect, it } from 'vitest';
import type { Rates } from '../observe/rates.ts';
import { type Choice, NOTHING_CHOSEN, press, TopView } from './top-view.ts';

const NO_LATENCY = { meanSeconds: 0, p50Seconds: 0, p99Seconds: 0, p999Seconds: 0 };

function bdev(name: string, iops: number): Rates['bdevs'][number] {
  const none = { operations: 0, bytes: 0, iops: 0, bytesPerSecond: 0, latency: NO_LATENCY };
  const latency = { meanSeconds: 13e-6, p50Seconds: 12e-6, p99Seconds: 1.5e-3, p999Seconds: 0.2 };
  const read = { operations: 9000, bytes: 9000 * 4096, iops, bytesPerSecond: iops * 4096, latency };
  return {
    name,
    product: 'Malloc disk',
    sizeBytes: 2 ** 28,
    io: { read, write: none, unmap: none },
    errorsPerSecond: 0,
    heat: [],
    places: { regions: 256, reads: [], writes: [] },
  };
}

function controller(name: string, iops: number): Rates['controllers'][number] {
  const queue = { index: 0, core: 0, inFlight: 4, requests: 10, iops, kicksPerSecond: 2, callsPerSecond: 3 };
  return {
    ...{ name, kind: 'blk', socket: `/var/tmp/${name}`, mode: 'adaptive', bdevs: ['A'], isConnected: true },
    ...{ iops, inFlight: 4, queues: [{ ...queue, callsSavedPerSecond: 1, faults: 0 }] },
  } as Rates['controllers'][number];
}

const RATES: Rates = {
  atSeconds: 1,
  version: 'Ringhost v1',
  reactors: [{ core: 0, busy: 0.5, isSleeping: false, iops: 3000 }],
  controllers: [controller('vm-web', 1000), controller('vm-db', 2000)],
  bdevs: [bdev('Alpha', 10), bdev('Beta', 300_000), bdev('Gamma', 2000)],
  latency: { read: NO_LATENCY, write: NO_LATENCY },
};

const lines = (choice: Choice, rates = RATES, height = 40): string[] =>
  renderToString(h(TopView, { rates, choice, lines: height }), { columns: 200 }).split('\n');
const having = (...keys: (string | Parameters<typeof press>[2])[]): Choice => {
  return keys.reduce<Choice>((choice, key) => {
    return typeof key === 'string' ? press(choice, key, {}, RATES) : press(choice, '', key, RATES);
  }, NOTHING_CHOSEN);
};
/** First cells of the table. */
const rowNames = (choice: Choice): string[] => {
  const all = lines(choice);
  const from = all.indexOf('') + 2;
  return all.slice(from, all.indexOf('', from)).map((line) => line.trim().split(/\s{2,}/)[0] ?? '');
};

describe('ringhost top', () => {
  it('shows totals, reactors and bdevs', () => {
    const [first, second, , head] = lines(NOTHING_CHOSEN);
    expect(first).toContain('3.0 k IOPS');
    expect(first).toContain('8 in flight');
    expect(second).toMatch(/^core 0 +█{10}░{10} +50 % +awake +3\.0 k IOPS$/);
    expect(head).toMatch(/^bdev▴ +kind +size +reads +read IOPS +read B\/s +read p50 +read p99 +read p99\.9/);
    expect(lines(NOTHING_CHOSEN)[5]).toMatch(
      /^Beta +Malloc disk +256 MiB +9\.0 k +300 k +1\.1 GiB +12\.0 µs +1\.5 ms +200 ms/,
    );
  });

  it('has three tables', () => {
    expect(rowNames(having('1'))).toEqual(['vm-db', 'vm-web']);
    expect(rowNames(having('2'))).toEqual(['vm-db queue 0', 'vm-web queue 0']);
    expect(rowNames(having('3'))).toEqual(['Alpha', 'Beta', 'Gamma']);
  });

  it('sorts figures largest first, and the other way round', () => {
    const right = { rightArrow: true };
    const byReadIops = having(right, right, right, right);
    expect(rowNames(byReadIops)).toEqual(['Beta', 'Gamma', 'Alpha']);
    expect(rowNames(press(byReadIops, 'r', {}, RATES))).toEqual(['Alpha', 'Gamma', 'Beta']);
  });

  it('filters by what is typed', () => {
    expect(rowNames(having('/', 'a', 'm', 'q', { backspace: true }, { return: true }))).toEqual(['Gamma']);
    expect(rowNames(having('/', 'x', { escape: true }))).toHaveLength(3);
    expect(lines(having('/', 'x')).join('\n')).toContain('none of the bdevs contains "x"');
  });

  it('opens a controller: its queues', () => {
    const down = { downArrow: true };
    expect(rowNames(having('1', down, { return: true }))).toEqual(['vm-web queue 0']);
    expect(rowNames(having('1', down, { upArrow: true }, { return: true }, { escape: true }))).toHaveLength(2);
  });

  it('keeps the selected row in sight, whatever goes', () => {
    const many = { ...RATES, bdevs: Array.from({ length: 50 }, (_, i) => bdev(`B${String(i).padStart(2, '0')}`, i)) };
    expect(lines({ ...NOTHING_CHOSEN, selected: 30 }, many, 20).join('\n')).toContain('B30');
    expect(lines({ ...NOTHING_CHOSEN, selected: 30 }, many, 20).length).toBeLessThanOrEqual(20);
    expect(lines({ ...NOTHING_CHOSEN, selected: 30 }).join('\n')).toContain('Gamma');
  });

  it('says how to begin when there is nothing', () => {
    const nothing = { ...RATES, controllers: [], bdevs: [] };
    expect(lines(NOTHING_CHOSEN, nothing).join('\n')).toContain('bdev_malloc_create makes one');
  });
});
