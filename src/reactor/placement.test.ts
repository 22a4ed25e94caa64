/** Which reactors the queues of controllers go to. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NO_NODE, QueuePlaces, reactorsOf } from './placement.ts';

/** A reactor a node of the list, with no load. */
const reactorsOn = (...nodes: readonly number[]) => nodes.map((node, core) => ({ core, node, load: 0 }));
const loadsOf = (reactors: readonly { load: number }[]) => reactors.map(({ load }) => load);

/** Starts queues 0 to `count` - 1; returns their cores. */
function start(places: QueuePlaces<{ core: number; node: number; load: number }>, count: number, node = NO_NODE) {
  return Array.from({ length: count }, (_, queue) => places.start(queue, node).core);
}

describe('a cpumask', () => {
  it('names reactors, in their order', () => {
    expect(reactorsOf(reactorsOn(0, 0, 0), [2, 0]).map(({ core }) => core)).toEqual([0, 2]);
  });

  it('with a core that no reactor runs on is refused, and the core named', () => {
    const find = () => reactorsOf(reactorsOn(0, 0), [1, 2, 5]);
    expect(find).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(find).toThrow('cpumask 0x26 names core 2, 5, but the daemon runs on 0x3 (see -m)');
  });

  it('without a core is refused', () => {
    expect(() => reactorsOf(reactorsOn(0), [])).toThrow('names no core');
  });
});

describe('a pinned controller', () => {
  it('has all its queues on one reactor, the one with the fewest queues of others', () => {
    const reactors = reactorsOn(0, 0, 0);
    const first = new QueuePlaces(reactors, 'pinned');
    expect(start(first, 4)).toEqual([0, 0, 0, 0]);
    const second = new QueuePlaces(reactors, 'pinned');
    expect(start(second, 2)).toEqual([1, 1]);
    expect(loadsOf(reactors)).toEqual([5, 3, 0]);
    expect(new QueuePlaces(reactors, 'pinned').home.core).toBe(2);
  });

  it('gives its place back', () => {
    const reactors = reactorsOn(0, 0);
    const places = new QueuePlaces(reactors, 'pinned');
    start(places, 3);
    for (const queue of [0, 1, 2, 2, 7]) places.stop(queue);
    places.close();
    expect([loadsOf(reactors), places.running()]).toEqual([[0, 0], []]);
  });
});

describe('a spread controller', () => {
  it('has its queues evenly on all reactors', () => {
    const reactors = reactorsOn(0, 0, 0);
    const places = new QueuePlaces(reactors, 'spread');
    expect(start(places, 7)).toEqual([0, 1, 2, 0, 1, 2, 0]);
    expect(places.queuesOf(reactors[0] as (typeof reactors)[0])).toEqual([0, 3, 6]);
  });

  it('begins where others have the fewest queues', () => {
    const reactors = reactorsOn(0, 0);
    start(new QueuePlaces(reactors, 'spread'), 1);
    expect(start(new QueuePlaces(reactors, 'spread'), 3)).toEqual([1, 0, 1]);
  });

  it('with one reactor is as one that is pinned', () => {
    expect(start(new QueuePlaces(reactorsOn(0), 'spread'), 4)).toEqual([0, 0, 0, 0]);
  });

  it('is even and stays in its mask, whatever else runs and in whatever order queues start and stop', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(9), { minLength: 1, maxLength: 8 }),
        fc.uniqueArray(fc.nat(15), { minLength: 1 }),
        (loads, queues) => {
          const all = loads.map((load, core) => ({ core, node: 0, load }));
          const mask = all.filter(({ core }) => core % 2 === 0);
          const places = new QueuePlaces(mask, 'spread');
          for (const queue of queues) places.start(queue, 0);
          const counts = mask.map((reactor) => places.queuesOf(reactor).length);
          expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
          for (const queue of queues) places.stop(queue);
          // One that starts again is where it was.
          const before = queues.map((queue) => places.start(queue, 0).core);
          for (const queue of queues) places.stop(queue);
          expect(queues.map((queue) => places.start(queue, 0).core)).toEqual(before);
          for (const queue of queues) places.stop(queue);
          places.close();
          expect(loadsOf(all)).toEqual(loads);
        },
      ),
    );
  });
});

describe('the NUMA node of the guest’s memory', () => {
  it('decides before the load does, as far as the mask goes', () => {
    const reactors = reactorsOn(0, 0, 1, 1);
    expect(start(new QueuePlaces(reactors, 'spread'), 4, 1)).toEqual([2, 3, 2, 3]);
    expect(start(new QueuePlaces(reactorsOn(0, 0), 'spread'), 2, 1)).toEqual([0, 1]);
  });

  it('moves a pinned controller before its first queue runs, and not while one does', () => {
    const places = new QueuePlaces(reactorsOn(0, 1), 'pinned');
    expect(places.home.core).toBe(0);
    expect(places.start(0, 1).core).toBe(1);
    expect(places.start(1, 0).core).toBe(1);
  });

  it('that is not known decides nothing', () => {
    const reactors = reactorsOn(NO_NODE, 0);
    expect(start(new QueuePlaces(reactors, 'spread'), 2, NO_NODE)).toEqual([0, 1]);
  });
});

describe('a change of placement', () => {
  it('names the queues that have to move, and sends each to its new place when it starts again', () => {
    const reactors = reactorsOn(0, 0);
    const places = new QueuePlaces(reactors, 'pinned');
    start(places, 4);
    expect(places.change(reactors, 'spread', NO_NODE)).toEqual([1, 3]);
    // Until it stopped, a queue is where it was.
    expect(places.reactorOf(1)?.core).toBe(0);
    for (const queue of [1, 3]) {
      places.stop(queue);
      expect(places.start(queue, NO_NODE).core).toBe(1);
    }
    expect(loadsOf(reactors)).toEqual([3, 2]);
    expect(places.change(reactors.slice(1), 'pinned', NO_NODE)).toEqual([0, 2]);
    expect([places.home.core, places.policy, loadsOf(reactors)]).toEqual([1, 'pinned', [2, 3]]);
  });

  it('moves nothing that is well placed', () => {
    const reactors = reactorsOn(0, 0, 0);
    const places = new QueuePlaces(reactors, 'spread');
    start(places, 5);
    expect(places.change(reactors, 'spread', NO_NODE)).toEqual([]);
  });

  it('may be taken back before anything moved', () => {
    const reactors = reactorsOn(0, 0);
    const places = new QueuePlaces(reactors.slice(0, 1), 'spread');
    start(places, 2);
    expect(places.change(reactors.slice(1), 'spread', NO_NODE)).toEqual([0, 1]);
    expect(places.change(reactors.slice(0, 1), 'spread', NO_NODE)).toEqual([]);
    places.stop(0);
    expect(places.start(0, NO_NODE).core).toBe(0);
  });
});

describe('the next session', () => {
  it('is placed anew', () => {
    const reactors = reactorsOn(0, 0);
    const places = new QueuePlaces(reactors, 'spread');
    expect(start(places, 1)).toEqual([0]);
    places.stop(0);
    start(new QueuePlaces(reactors.slice(0, 1), 'spread'), 2);
    expect(places.start(0, NO_NODE).core).toBe(0);
    places.stop(0);
    places.forget();
    expect(places.start(0, NO_NODE).core).toBe(1);
  });
});
