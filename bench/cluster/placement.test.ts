import { describe, expect, it } from 'vitest';
import { Placement } from './placement.ts';
import { SHAPE } from './room.ts';

const nodeOf = (osd: number): number => Math.floor(osd / SHAPE.osdsPerNode);
const isOut = (osd: number): boolean => nodeOf(osd) === 4;

describe('placement', () => {
  const all = new Placement(SHAPE);

  it('puts the copies of a group on different nodes', () => {
    for (const osds of all.osdsOf) expect(new Set(osds.map(nodeOf)).size).toBe(SHAPE.copies);
  });

  it('gives every OSD about as many groups, as a fair draw does', () => {
    const counts = new Float64Array(SHAPE.nodes * SHAPE.osdsPerNode);
    for (const osd of all.osdsOf.flat()) counts[osd] = (counts[osd] as number) + 1;
    const mean = (SHAPE.groups * SHAPE.copies) / counts.length;
    const deviation = Math.sqrt(counts.reduce((sum, one) => sum + (one - mean) ** 2, 0) / counts.length);
    // Of independent draws it would be the root of the mean.
    expect(deviation).toBeLessThan(1.2 * Math.sqrt(mean));
    expect(Math.min(...counts)).toBeGreaterThan(0.5 * mean);
  });

  it('spreads the objects of an image over all groups', () => {
    const small = new Placement({ ...SHAPE, groups: 64 });
    const counts = new Float64Array(64);
    for (let object = 0; object < 6400; object++) {
      const group = small.groupOf(7, object);
      counts[group] = (counts[group] as number) + 1;
    }
    expect(Math.min(...counts)).toBeGreaterThan(60);
    expect(Math.max(...counts)).toBeLessThan(140);
  });

  it('moves nothing but what was on a node that is out', () => {
    const without = new Placement(SHAPE, isOut);
    without.osdsOf.forEach((osds, group) => {
      const before = all.osdsOf[group] as readonly number[];
      expect(osds).toHaveLength(SHAPE.copies);
      expect(osds.some(isOut)).toBe(false);
      for (const osd of before) if (!isOut(osd)) expect(osds).toContain(osd);
    });
  });

  it('keeps copies on different OSDs of a cluster that has one node', () => {
    const { osdsOf } = new Placement({ nodes: 1, osdsPerNode: 3, copies: 3, groups: 8 });
    for (const osds of osdsOf) expect(osds.toSorted()).toEqual([0, 1, 2]);
  });
});
