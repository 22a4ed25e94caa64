/** When a call to the guest is put off. Time is given, not taken. */
import { describe, expect, it } from 'vitest';
import { CallCoalescing, DEFAULT_COALESCING } from './call-coalescing.ts';

const US_PER_MS = 1000;
const NS_PER_US = 1000;

/**
 * Answers `perMs` requests in each of 120 milliseconds, with a call due every microsecond. Returns the calls made in
 * the last 100 of them: what is done in one window of 10 ms decides on the next.
 */
function callsOf(coalescing: CallCoalescing, perMs: number): number {
  let calls = 0;
  for (let us = 1; us <= 120 * US_PER_MS; us++) {
    const isAllowed = coalescing.allows(us * NS_PER_US, (us * perMs) / US_PER_MS);
    if (isAllowed && us > 20 * US_PER_MS) calls++;
  }
  return calls;
}

function coalescingOf(delayBaseUs: number, iopsThreshold: number): CallCoalescing {
  const coalescing = new CallCoalescing();
  coalescing.set({ delayBaseUs, iopsThreshold });
  return coalescing;
}

describe('coalescing', () => {
  it('is off at first', () => {
    expect([new CallCoalescing().isOn, DEFAULT_COALESCING.delayBaseUs]).toEqual([false, 0]);
  });

  it('puts nothing off up to the threshold', () => {
    const coalescing = coalescingOf(100, 10_000);
    expect(coalescing.isOn).toBe(true);
    expect(callsOf(coalescing, 10)).toBe(100_000);
  });

  it.each([
    [2, 100],
    [3, 200],
  ])('at %i times the threshold calls every %i microseconds', (times, delayUs) => {
    const calls = callsOf(coalescingOf(100, 10_000), 10 * times);
    expect(calls).toBeGreaterThan((0.95 * 100_000) / delayUs);
    expect(calls).toBeLessThan((1.05 * 100_000) / delayUs);
  });

  it('calls at once again when it is switched off', () => {
    const coalescing = coalescingOf(1000, 100);
    callsOf(coalescing, 100);
    coalescing.set(DEFAULT_COALESCING);
    expect([coalescing.isOn, coalescing.allows(121e6, 12_000)]).toEqual([false, true]);
  });
});
