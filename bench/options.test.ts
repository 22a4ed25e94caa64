import { expect, test } from 'vitest';
import { parseOptions } from './options.ts';
import { SCENARIOS } from './scenarios/all.ts';
import { LIMIT, LIMIT_VARIANTS } from './targets/limit.ts';

test('every scenario has a name of its own', () => {
  const names = SCENARIOS.map(({ group, name }) => `${group}: ${name}`);
  expect(new Set(names).size).toBe(names.length);
});

test('--only chooses by group and name, --quick leaves details out', () => {
  const count = (...args: string[]): number => SCENARIOS.filter((one) => parseOptions(args).wants(one)).length;
  expect(count()).toBe(SCENARIOS.filter(({ needs = 'file' }) => needs === 'file').length);
  expect(count('--only', 'RBD image')).toBeGreaterThan(0);
  expect(count('--only', '^BLK, RAM disk: 4 KiB random read, depth 1$')).toBe(1);
  expect(count('--quick')).toBeLessThan(SCENARIOS.length);
});

test('targets that are not measured by default are brought in by name', () => {
  const [variant] = LIMIT_VARIANTS;
  expect(parseOptions([]).wantsTarget(LIMIT)).toBe(true);
  expect(parseOptions([]).wantsTarget(variant ?? LIMIT)).toBe(false);
  expect(parseOptions(['--targets', 'limit']).wantsTarget(variant ?? LIMIT)).toBe(true);
});

test('wrong values are refused by name', () => {
  expect(() => parseOptions(['--rounds', '0'])).toThrow(/^--rounds/);
  expect(() => parseOptions(['--seconds', 'x'])).toThrow(/^--seconds/);
  expect(() => parseOptions(['--only', '('])).toThrow(/^--only/);
  expect(() => parseOptions(['--unknown'])).toThrow();
});
