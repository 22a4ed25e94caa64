/** Where blocks of RAID disks are, against a model that deals them out one by one. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type RaidGeometry, RaidLayout } from './layout.ts';

/** By block of the disk: its base, and the block there. */
function deal({ level, bases, stripBlocks, starts }: RaidGeometry, rows: number): [number, number][] {
  if (level === 'concat') {
    return Array.from({ length: bases }, (_, base) => base).flatMap((base) => {
      const length = (starts[base + 1] as number) - (starts[base] as number);
      return Array.from({ length }, (_, block) => [base, block] as [number, number]);
    });
  }
  const blocks: [number, number][] = [];
  for (let row = 0; row < rows; row++) {
    for (let base = 0; base < bases; base++) {
      for (let i = 0; i < stripBlocks; i++) blocks.push([base, row * stripBlocks + i]);
    }
  }
  return blocks;
}

const geometry = fc
  .record({
    level: fc.constantFrom('raid0' as const, 'concat' as const),
    stripBlocks: fc.constantFrom(1, 2, 8),
    sizes: fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 5 }),
  })
  .map(({ level, stripBlocks, sizes }): RaidGeometry => {
    const starts = Float64Array.from([0, ...sizes]);
    for (let i = 1; i < starts.length; i++) starts[i] = (starts[i] as number) + (starts[i - 1] as number);
    return { level, bases: sizes.length, stripBlocks, starts };
  });

describe('the layout of a RAID disk', () => {
  it('has each block in one place, and says how many follow it there', () => {
    fc.assert(
      fc.property(geometry, (shape) => {
        const layout = new RaidLayout(shape);
        const blocks = deal(shape, 4);
        for (const [block, place] of blocks.entries()) {
          layout.find(block);
          expect([layout.base, layout.firstBlock]).toEqual(place);
          const [base, first] = place;
          for (let i = 1; i < layout.blockCount; i++) expect(blocks[block + i]).toEqual([base, first + i]);
        }
      }),
      { numRuns: 60 },
    );
  });

  it('has of each range one part on each base, and no other blocks', () => {
    const range = fc.tuple(fc.nat(1000), fc.nat(1000));
    fc.assert(
      fc.property(geometry, range, (shape, [at, length]) => {
        const blocks = deal(shape, 4);
        const first = at % blocks.length;
        const count = 1 + (length % (blocks.length - first));
        const layout = new RaidLayout(shape);
        for (let base = 0; base < shape.bases; base++) {
          layout.findOn(base, first, count);
          const wanted = blocks.slice(first, first + count).flatMap(([on, block]) => (on === base ? [block] : []));
          const found = Array.from({ length: layout.blockCount }, (_, i) => layout.firstBlock + i);
          expect(found).toEqual(wanted);
        }
      }),
      { numRuns: 200 },
    );
  });

  it('holds beyond what 32 bits count', () => {
    const layout = new RaidLayout({ level: 'raid0', bases: 3, stripBlocks: 128, starts: new Float64Array(4) });
    const row = 2 ** 40;
    layout.find(row * 3 * 128 + 128 + 5);
    expect([layout.base, layout.firstBlock, layout.blockCount]).toEqual([1, row * 128 + 5, 123]);
  });
});
