/** The choice between two ways to copy, with copies that take as long as the tests say. */
import { describe, expect, it } from 'vitest';
import { WriteWay } from './write-way.ts';

const BLOCK_BYTES = 512;
const MIB_BLOCKS = 2 ** 20 / BLOCK_BYTES;
const GIB_BLOCKS = 1024 * MIB_BLOCKS;
const BLOCKS_PER_RUN = 256;

interface Costs {
  readonly through: number;
  readonly past: number;
}

/** Writes so much; a block takes so many steps, by each way. Returns the share of it that went past the caches. */
function write(way: WriteWay, blocks: number, costs: Costs | ((at: number) => Costs)): number {
  let past = 0;
  for (let at = 0; at < blocks; at += BLOCKS_PER_RUN) {
    const { through, past: pastCost } = typeof costs === 'function' ? costs(at) : costs;
    if (way.isPastCaches) past += BLOCKS_PER_RUN;
    if (way.isTimed) way.timed(BLOCKS_PER_RUN, BLOCKS_PER_RUN * (way.isPastCaches ? pastCost : through));
    way.wrote(BLOCKS_PER_RUN);
  }
  return past / blocks;
}

describe('writes to a large disk', () => {
  it.each([
    { quicker: 'past', costs: { through: 20, past: 10 }, isPast: true },
    { quicker: 'through', costs: { through: 10, past: 13 }, isPast: false },
    { quicker: 'neither past nor through', costs: { through: 10, past: 10 }, isPast: false },
  ])('go $quicker the caches when that is quicker, for all but a turn of the other way', ({ costs, isPast }) => {
    const way = new WriteWay(BLOCK_BYTES);
    expect(write(way, GIB_BLOCKS / 8, costs)).toBe(0.5);
    expect(write(way, 4 * GIB_BLOCKS, costs)).toBe(isPast ? 1 : 0);
    const share = write(way, 64 * GIB_BLOCKS, costs);
    expect(Math.abs(share - (isPast ? 1 : 0))).toBeLessThan(0.02);
  });

  it('go the other way when that has become quicker', () => {
    const way = new WriteWay(BLOCK_BYTES);
    write(way, GIB_BLOCKS, { through: 10, past: 20 });
    write(way, 10 * GIB_BLOCKS, { through: 20, past: 10 });
    expect(write(way, 4 * GIB_BLOCKS, { through: 20, past: 10 })).toBe(1);
  });

  it('are timed in the second half of a turn, and never once the way is chosen', () => {
    const way = new WriteWay(BLOCK_BYTES);
    const timed: boolean[] = [];
    for (let mib = 0; mib < 192; mib++) {
      timed.push(way.isTimed);
      write(way, MIB_BLOCKS, { through: 10, past: 20 });
    }
    const half = (isTimed: boolean) => Array(32).fill(isTimed);
    expect(timed).toEqual([half(false), half(true), half(false), half(true), half(false), half(false)].flat());
  });

  it('are judged by the quickest of the slices: what comes between does not count', () => {
    const way = new WriteWay(BLOCK_BYTES);
    // Every other MiB was held up while it went past the caches.
    const held = (at: number) => ({ through: 20, past: Math.floor(at / MIB_BLOCKS) % 2 === 0 ? 10 : 1000 });
    write(way, GIB_BLOCKS / 8, held);
    expect(way.isPastCaches).toBe(true);
  });
});
