/** Which reactor a controller goes to. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { placeController } from './placement.ts';

const reactorsOf = (...counts: readonly number[]) => counts.map((controllerCount, core) => ({ core, controllerCount }));

describe('placeController', () => {
  it('takes the reactor with the fewest controllers, and the first of those that have as few', () => {
    expect(placeController(reactorsOf(2, 1, 1, 3), [0, 1, 2, 3]).core).toBe(1);
    expect(placeController(reactorsOf(0, 0, 0), [0, 1, 2]).core).toBe(0);
  });

  it('looks only at the cores of the mask', () => {
    expect(placeController(reactorsOf(0, 5, 4), [1, 2]).core).toBe(2);
    expect(placeController(reactorsOf(0, 5, 4), [1]).core).toBe(1);
  });

  it('agrees with a search of all reactors, for any load and mask', () => {
    const reactors = fc.uniqueArray(fc.record({ core: fc.nat(63), controllerCount: fc.nat(5) }), {
      minLength: 1,
      selector: ({ core }) => core,
    });
    fc.assert(
      fc.property(
        reactors.chain((all) => fc.tuple(fc.constant(all), fc.shuffledSubarray(all, { minLength: 1 }))),
        ([all, allowed]) => {
          const placed = placeController(
            all,
            allowed.map(({ core }) => core),
          );
          expect(allowed).toContain(placed);
          expect(placed.controllerCount).toBe(Math.min(...allowed.map(({ controllerCount }) => controllerCount)));
          const ties = all.filter((one) => allowed.includes(one) && one.controllerCount === placed.controllerCount);
          expect(placed).toBe(ties[0]);
        },
      ),
    );
  });

  it('refuses a mask with a core that no reactor runs on, and names it', () => {
    const place = () => placeController(reactorsOf(0, 0), [1, 2, 5]);
    expect(place).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(place).toThrow('cpumask 0x26 names core 2, 5, but the daemon runs on 0x3 (see -m)');
  });

  it('refuses a mask without a core', () => {
    expect(() => placeController(reactorsOf(0), [])).toThrow('names no core');
  });
});
