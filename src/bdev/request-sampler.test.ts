/** Which requests are timed, and how many each stands for. */
import { describe, expect, it } from 'vitest';
import { RecordingOwner } from '../../test/support/bdev-rig.ts';
import { STAMP_NS } from '../sys/thread.ts';
import { IoType } from './bdev-io.ts';
import { RequestSampler } from './request-sampler.ts';

const io = new RecordingOwner().io(IoType.read);

/** Requests that come every `everyNs`: the number, and the weight, of those that are chosen. */
function choose(sampler: RequestSampler, requests: number, everyNs: number, type: IoType = IoType.read) {
  const chosen: { at: number; weight: number }[] = [];
  for (let at = 0; at < requests; at++) {
    if (!sampler.isChosen(type)) continue;
    io.type = type;
    sampler.begin(io, ((at * everyNs) / STAMP_NS) | 0);
    chosen.push({ at, weight: io.weight });
  }
  return chosen;
}

describe('the sampler', () => {
  it('chooses every request while there are few', () => {
    const chosen = choose(new RequestSampler(), 1000, 20_000);
    expect(chosen).toHaveLength(1000);
    expect(chosen.every(({ weight }) => weight === 1)).toBe(true);
  });

  it('chooses about one in 32 when there are many, at distances that vary, each for those before it', () => {
    const chosen = choose(new RequestSampler(), 100_000, 100);
    expect(chosen.length).toBeGreaterThan(100_000 / 36);
    expect(chosen.length).toBeLessThan(100_000 / 30);
    for (const [index, { at, weight }] of chosen.entries()) {
      expect(weight).toBe(at - (chosen[index - 1]?.at ?? -1));
    }
    expect(new Set(chosen.map(({ weight }) => weight)).size).toBeGreaterThan(20);
  });

  it('goes back to every request when there are few again', () => {
    const sampler = new RequestSampler();
    choose(sampler, 10_000, 100);
    expect(choose(sampler, 1000, 20_000).length).toBeGreaterThan(900);
  });

  it('knows the types apart: a rare one beside many of another is always chosen', () => {
    const sampler = new RequestSampler();
    choose(sampler, 10_000, 100);
    expect(choose(sampler, 20, 1e6, IoType.flush)).toHaveLength(20);
  });

  it('counts slow requests as often as they are: what is chosen does not depend on what went before', () => {
    // One in 100 is slow. A sampler that waited for the slow ones to end would find them in every second place.
    const chosen = choose(new RequestSampler(), 1_000_000, 100);
    const slow = chosen.filter(({ at }) => at % 100 === 0).reduce((sum, { weight }) => sum + weight, 0);
    expect(slow / 1_000_000).toBeGreaterThan(0.005);
    expect(slow / 1_000_000).toBeLessThan(0.02);
  });
});
