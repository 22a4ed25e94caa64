/**
 * What the map of a volume says of a cluster, in 32 bits. Maps are in memory that threads share: reactors look clusters
 * up, and whoever has the lock of the store (store-memory.ts) changes them.
 */

/** Nobody wrote it: it reads as zeroes. */
export const NOTHING = 0;
/** It reads as zeroes, whatever the parent has there. */
export const HOLE = 0x7fff_ffff;
/** Clusters that a store may have: below `HOLE`. */
export const CLUSTERS_MAX = HOLE - 1;
/** The sign: the cluster is of a parent, to be read and not to be written. */
const INHERITED = -0x8000_0000;
const CLUSTER_BITS = 0x7fff_ffff;

/** A cluster of the volume's own. */
export function ownEntry(cluster: number): number {
  return cluster + 1;
}

export function isOwn(entry: number): boolean {
  return entry > NOTHING && entry !== HOLE;
}

export function isInherited(entry: number): boolean {
  return entry < 0;
}

/** Whether there is a cluster to read from, whoever has it. */
export function isMapped(entry: number): boolean {
  return entry !== NOTHING && entry !== HOLE;
}

export function clusterOf(entry: number): number {
  return (entry & CLUSTER_BITS) - 1;
}

/** What a child has that wrote nothing, where its parent has `entry`. */
export function inheritedEntry(entry: number): number {
  return isMapped(entry) ? entry | INHERITED : NOTHING;
}
