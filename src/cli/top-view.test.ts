import { renderToString } from 'ink';
import { createElement as h } from 'react';
import { describe, expect, it } from 'vitest';
import type { Rates } from '../observe/rates.ts';
import { type Choice, NOTHING_CHOSEN, PrintedView, press, TopView } from './top-view.ts';

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
    heat: [
      [12, 90],
      [14, 9],
    ],
    places: { regions: 256, reads: [], writes: [] },
  };
}

function controller(name: string, iops: number): Rates['controllers'][number] {
  const latency = { read: NO_LATENCY, write: NO_LATENCY };
  const queue = { index: 0, core: 0, inFlight: 4, requests: 10, iops, kicksPerSecond: 2, callsPerSecond: 3 };
  return {
    ...{
      name,
      kind: 'blk' as const,
      socket: `/var/tmp/${name}`,
      mode: 'adaptive',
      weight: 100,
      bdevs: ['A'],
      isConnected: true,
    },
    ...{ iops, inFlight: 4, queues: [{ ...queue, callsSavedPerSecond: 1, faults: 0, latency, heat: [] }], latency },
  };
}

const RATES: Rates = {
  atSeconds: 1,
  version: 'Ringhost v1',
  reactors: [{ core: 0, busy: 0.5, isSleeping: false, iops: 3000 }],
  controllers: [controller('vm-web', 1000), controller('vm-db', 2000)],
  bdevs: [bdev('Alpha', 10), bdev('Beta', 300_000), bdev('Gamma', 2000)],
  served: {
    read: { iops: 3000, bytesPerSecond: 3000 * 4096, latency: NO_LATENCY },
    write: { iops: 0, bytesPerSecond: 0, latency: NO_LATENCY },
  },
};

const lines = (choice: Choice, rates = RATES, height = 40, columns = 200): string[] =>
  renderToString(h(TopView, { rates, choice, lines: height, columns }), { columns }).split('\n');
const having = (...keys: (string | Parameters<typeof press>[2])[]): Choice => {
  return keys.reduce<Choice>((choice, key) => {
    return typeof key === 'string' ? press(choice, key, {}, RATES) : press(choice, '', key, RATES);
  }, NOTHING_CHOSEN);
};
/** First cells of the table. */
const rowNames = (choice: Choice): string[] => {
  const all = lines(choice);
  const from = all.indexOf('') + 3;
  return all.slice(from, all.indexOf('', from)).map((line) => line.trim().split(/\s{2,}/)[0] ?? '');
};

describe('ringhost top', () => {
  it('shows totals, reactors and bdevs', () => {
    const [first, second, , groups, head] = lines(NOTHING_CHOSEN);
    expect(first).toContain('3.0 k IOPS');
    expect(first).toContain('8 in flight');
    expect(second).toMatch(/^core 0 +█{10}░{10} +50 % +awake +3\.0 k IOPS$/);
    expect(groups).toMatch(/^ +─+ read ─+ +─+ write ─+$/);
    expect(head).toMatch(/^bdev▴ +kind +size +total +IOPS +B\/s +p50 +p99 +p99\.9 +total +IOPS/);
    expect(lines(NOTHING_CHOSEN)[6]).toMatch(
      /^Beta +Malloc disk +256 MiB +9\.0 k +300 k +1\.1 GiB +12\.0 µs +1\.5 ms +200 ms/,
    );
  });

  it('prints all three tables for one look, and no keys', () => {
    const text = renderToString(h(PrintedView, { rates: RATES, columns: 200 }), { columns: 200 });
    expect(text.match(/IOPS +read /g)).toHaveLength(1);
    for (const head of ['controller▴', 'queue▴', 'bdev▴']) expect(text).toContain(head);
    expect(text).not.toContain('q quit');
  });

  it('has three tables', () => {
    expect(rowNames(having('1'))).toEqual(['vm-db', 'vm-web']);
    expect(rowNames(having('2'))).toEqual(['vm-db queue 0', 'vm-web queue 0']);
    expect(rowNames(having('3'))).toEqual(['Alpha', 'Beta', 'Gamma']);
  });

  it('shows volumes by the names that people give them, whose own names are UUIDs', () => {
    const volume = { ...bdev('8f2d1a34-0000-4000-8000-000000000001', 10), alias: 'store/disk' };
    const rates = { ...RATES, bdevs: [volume], controllers: [{ ...controller('vm', 1), bdevs: [volume.name] }] };
    for (const keys of ['1', '3']) {
      const text = lines(press(NOTHING_CHOSEN, keys, {}, rates), rates).join('\n');
      expect(text).toContain('store/disk');
      expect(text).not.toContain(volume.name);
    }
    const opened = press(NOTHING_CHOSEN, '', { return: true }, rates);
    expect(lines(opened, rates)[3]).toMatch(/^store\/disk +requests by latency$/);
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

  it('opens a controller: its queues, and not those of another whose name begins so', () => {
    const down = { downArrow: true };
    expect(rowNames(having('1', down, { return: true }))).toEqual(['vm-web queue 0']);
    expect(rowNames(having('1', down, { upArrow: true }, { return: true }, { escape: true }))).toHaveLength(2);
    const rates = { ...RATES, controllers: [controller('vm', 1), controller('vm-1', 1)] };
    const opened = press(press(NOTHING_CHOSEN, '1', {}, rates), '', { return: true }, rates);
    expect(lines(opened, rates).join('\n')).not.toContain('vm-1');
  });

  it('opens a bdev: all that is known of it, and how long its requests took', () => {
    const opened = having({ downArrow: true }, { return: true });
    const text = lines(opened);
    expect(text[3]).toMatch(/^Beta +requests by latency$/);
    const figure = (name: string): string | undefined => text.find((line) => line.startsWith(name));
    expect(figure('read p99.9')).toMatch(/^read p99\.9 +200 ms/);
    expect(figure('errors/s')).toMatch(/^errors\/s +0/);
    // 10 µs: 90 requests; a row further none; then 9.
    expect(text.slice(4, 7).map((line) => line.slice(36))).toEqual([
      ' 10.0 µs ████████████████████ 90',
      ' 14.7 µs ░░░░░░░░░░░░░░░░░░░░ 0',
      ' 21.5 µs ██░░░░░░░░░░░░░░░░░░ 9',
    ]);
    expect(rowNames(press(opened, '', { escape: true }, RATES))).toHaveLength(3);
    expect(lines(opened, { ...RATES, bdevs: [] }).join('\n')).toContain('Beta is not there any more');
  });

  it('shows in a narrow terminal the columns that fit, and always the one that is sorted by', () => {
    const right = { rightArrow: true };
    const narrow = lines(NOTHING_CHOSEN, RATES, 24, 80);
    expect(narrow[4]).toMatch(/^bdev▴ .*IOPS/);
    const byErrors = { ...NOTHING_CHOSEN, order: { column: 15, isAscending: false } };
    const moved = lines(byErrors, RATES, 24, 80);
    expect(moved[4]).toMatch(/^bdev .* errors\/s▾$/);
    expect(moved[5]).toMatch(/^Alpha /);
    for (const line of [...narrow, ...moved, ...lines(having(right), RATES, 24, 20)]) {
      expect(line.length).toBeLessThanOrEqual(80);
    }
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
