import { expect, test } from 'vitest';
import { plot } from './plot.ts';
import { type Outcome, report, table } from './report.ts';
import type { Scenario } from './scenarios/scenario.ts';

const SCENARIO: Scenario = {
  group: 'disk <1>',
  name: 'read',
  metrics: [
    { key: 'rate', title: 'rate', format: (value) => value.toFixed(0), hasRange: true },
    { key: 'p50', title: 'p50', format: (value) => `${value} ns` },
  ],
  runsOn: () => true,
  measure: async () => ({}),
};

const OUTCOME: Outcome = {
  scenario: SCENARIO,
  samples: new Map([
    [
      'ours',
      [
        { rate: 200, p50: 5 },
        { rate: 100, p50: 7 },
        { rate: 300, p50: 6 },
      ],
    ],
    ['theirs', [{ rate: 100 }, { rate: 100 }, { rate: 100 }]],
    ['absent', []],
  ]),
};

test('the columns of a table stand in line', () => {
  expect(
    table([
      ['a', 'bb'],
      ['ccc', 'd'],
    ]),
  ).toBe('| a   | bb |\n|-----|----|\n| ccc | d  |');
});

test('a report has a line for every target that was measured, with median, range and ratio', () => {
  const lines = report([OUTCOME], 'ours').split('\n');
  const cells = lines.map((line) => line.split('|').map((text) => text.trim()));
  expect(lines[0]).toBe('### disk <1>');
  expect(cells[2]?.slice(1, -1)).toEqual(['workload', 'target', 'rate', 'p50', 'ours is']);
  expect(cells[4]?.slice(1, -1)).toEqual(['read', 'ours', '200 (100–300)', '6 ns', '']);
  expect(cells[5]?.slice(1, -1)).toEqual(['read', 'theirs', '100 (100–100)', '', '2.00× (1.00–3.00)']);
  expect(lines).toHaveLength(6);
});

test('where less is better, the ratio is turned round', () => {
  const text = report([{ ...OUTCOME, scenario: { ...SCENARIO, isLessBetter: true } }], 'ours');
  expect(text).toContain('0.50× (0.33–1.00)');
});

test('a picture has a bar for every target that was measured', () => {
  const svg = plot([OUTCOME], 'a & b');
  // Two bars, two legends besides the third target's, one background.
  expect(svg.match(/<rect /g)).toHaveLength(2 + 3 + 1);
  expect(svg).toContain('a &amp; b');
  expect(svg).toContain('disk &lt;1>');
});
