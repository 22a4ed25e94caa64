/**
 * Where an object lies, in the manner of CRUSH: a hash takes it to a placement group, and every group draws for hosts,
 * then for an OSD on each, by the largest of a hash for every candidate ("straw2", of equal weights). When an OSD is
 * out, only the groups that had it draw again.
 */
import { hash } from './random.ts';

export interface Shape {
  readonly nodes: number;
  readonly osdsPerNode: number;
  readonly copies: number;
  readonly groups: number;
}

/** Draws beyond the first are for candidates that were taken already. */
const DRAWS_MAX = 50;

export class Placement {
  readonly shape: Shape;
  /** Of each group, the OSDs that have its copies; the first is the primary. */
  readonly osdsOf: readonly (readonly number[])[];

  /** `isOut`: OSDs that get nothing. */
  constructor(shape: Shape, isOut: (osd: number) => boolean = () => false) {
    this.shape = shape;
    this.osdsOf = Array.from({ length: shape.groups }, (_, group) => this.#draw(group, isOut));
  }

  groupOf(image: number, object: number): number {
    return hash(image, object) % this.shape.groups;
  }

  #draw(group: number, isOut: (osd: number) => boolean): number[] {
    const { nodes, osdsPerNode, copies } = this.shape;
    // A cluster of one node keeps copies on different OSDs of it.
    const isSpread = nodes >= copies;
    const osds: number[] = [];
    const taken = new Set<number>();
    for (let draw = 0; draw < DRAWS_MAX && osds.length < copies; draw++) {
      const node = longest(nodes, (one) => hash(hash(group, one), draw));
      const osd =
        node * osdsPerNode + longest(osdsPerNode, (one) => hash(hash(group, node * osdsPerNode + one), ~draw));
      const place = isSpread ? node : osd;
      if (taken.has(place) || isOut(osd)) continue;
      taken.add(place);
      osds.push(osd);
    }
    return osds;
  }
}

function longest(count: number, straw: (candidate: number) => number): number {
  let best = 0;
  for (let candidate = 1; candidate < count; candidate++) if (straw(candidate) > straw(best)) best = candidate;
  return best;
}
