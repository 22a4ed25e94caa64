import { expect, test } from 'vitest';
import { benchNative } from './native.ts';
import { describeNoise, stealTicks } from './noise.ts';

test('a machine that lost time to others is called noisy', () => {
  expect(describeNoise([{ 0: 0.001, 1: 0.003 }], 0, 1000)).toBe(
    'Quiet machine: others took 0.2 % of the cores before the rounds (0.3 % at worst), the host 0.0 % of one core.',
  );
  expect(describeNoise([{ 0: 0.0, 1: 0.1 }], 0, 1000)).toMatch(/^THE MACHINE WAS NOISY: others took 5.0 %/);
  expect(describeNoise([{ 0: 0.0 }], 10, 1000)).toMatch(/^THE MACHINE WAS NOISY: .*the host 10.0 % of one core/);
});

test('stolen time is the eighth field of /proc/stat', () => {
  expect(stealTicks('cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n')).toBe(88);
  expect(stealTicks()).toBeGreaterThanOrEqual(0);
});

test('what others take of a core is a share', () => {
  const share = benchNative.stolenShare(5e6);
  expect(share).toBeGreaterThanOrEqual(0);
  expect(share).toBeLessThanOrEqual(1);
});
