/**
 * The volumes of a store, and which cluster is whose: what the records of its log change, one after the other, in the
 * running daemon and again when the store is loaded. Nothing here knows of disks.
 *
 * A cluster is of one volume. What a volume did not write it has from its parent, a snapshot, which has the rest from
 * its own; each map says so for every cluster, so that nobody climbs from parent to parent to read.
 */
import { clusterOf, HOLE, inheritedEntry, isInherited, isMapped, isOwn, NOTHING, ownEntry } from './entries.ts';
import { ClusterState, type StoreMemory, VolumeMemory } from './store-memory.ts';

export const RecordKind = {
  /** Cluster `b` of volume `a` becomes `c` (entries.ts). */
  map: 1,
  /** Volume `a`, of `b` clusters, thin when `c` is 1. */
  create: 2,
  /** What volume `a` has is a snapshot's from now on, and the volume has number `b`. */
  snapshot: 3,
  /** Volume `b` begins as snapshot `a` is. */
  clone: 4,
  remove: 5,
  /** To `b` clusters. */
  resize: 6,
  rename: 7,
  setReadonly: 8,
  /** Volume `a` has nothing of its parent any more; `b` is the next one, or 0. All its clusters are its own if `c`. */
  reparent: 9,
  renameStore: 10,
} as const;

export interface LogRecord {
  readonly kind: number;
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly uuid?: string;
  readonly name?: string;
}

export function record(kind: number, a = 0, b = 0, c = 0, text: { uuid?: string; name?: string } = {}): LogRecord {
  return { kind, a, b, c, ...text };
}

export class Volume {
  readonly uuid: string;
  readonly memory: VolumeMemory;
  name: string;
  /** Another one after a snapshot: the snapshot has the old one. */
  id: number;
  /** 0: none. */
  parent: number;
  isReadonly: boolean;
  isThin: boolean;
  isSnapshot: boolean;
  map: Int32Array<SharedArrayBuffer>;

  constructor(
    fields: Pick<Volume, 'uuid' | 'name' | 'id' | 'parent' | 'isReadonly' | 'isThin' | 'isSnapshot' | 'map'>,
  ) {
    this.memory = new VolumeMemory();
    this.uuid = fields.uuid;
    this.name = fields.name;
    this.id = fields.id;
    this.parent = fields.parent;
    this.isReadonly = fields.isReadonly;
    this.isThin = fields.isThin;
    this.isSnapshot = fields.isSnapshot;
    this.map = fields.map;
    this.share();
  }

  get clusterCount(): number {
    return this.map.length;
  }

  /** Clusters of its own. */
  get ownCount(): number {
    let count = 0;
    for (const entry of this.map) if (isOwn(entry)) count++;
    return count;
  }

  /** Tells reactors what they need to know besides the map. */
  share(): void {
    this.memory.set({ id: this.id, isReadonly: this.isReadonly, isThin: this.isThin, hasParent: this.parent !== 0 });
  }
}

export class Volumes {
  name = '';
  nextId = 1;
  readonly memory: StoreMemory;
  readonly #byId = new Map<number, Volume>();

  constructor(memory: StoreMemory) {
    this.memory = memory;
  }

  /** In the order of their making. */
  list(): Volume[] {
    return [...this.#byId.values()];
  }

  get(id: number): Volume {
    const volume = this.#byId.get(id);
    if (volume === undefined) throw new Error(`there is no volume ${id}`);
    return volume;
  }

  parentOf(volume: Volume): Volume | null {
    return volume.parent === 0 ? null : this.get(volume.parent);
  }

  childrenOf(volume: Volume): Volume[] {
    return this.list().filter(({ parent }) => parent === volume.id);
  }

  /** Every record succeeds that was checked before it was written; throws on one that makes no sense. */
  apply(one: LogRecord): void {
    const { kind, a, b, c, uuid = '', name = '' } = one;
    if (kind === RecordKind.map) this.setEntry(this.get(a), b, c);
    else if (kind === RecordKind.create) this.add({ id: a, parent: 0, clusters: b, isThin: c === 1, uuid, name });
    else if (kind === RecordKind.snapshot) this.#snapshot(this.get(a), b, uuid, name);
    else if (kind === RecordKind.clone) this.#clone(this.get(a), b, uuid, name);
    else if (kind === RecordKind.remove) this.#remove(this.get(a));
    else if (kind === RecordKind.resize) this.#resize(this.get(a), b);
    else if (kind === RecordKind.rename) this.get(a).name = name;
    else if (kind === RecordKind.setReadonly) {
      this.get(a).isReadonly = true;
      this.get(a).share();
    } else if (kind === RecordKind.reparent) this.#reparent(this.get(a), b, c === 1);
    else if (kind === RecordKind.renameStore) this.name = name;
    else throw new Error(`there are no records of kind ${kind}`);
  }

  /** A volume of which nothing was written. */
  add(fields: { id: number; parent: number; clusters: number; isThin: boolean; uuid: string; name: string }): Volume {
    const { clusters, ...rest } = fields;
    if (this.#byId.has(rest.id) || rest.id === 0) throw new Error(`volume ${rest.id} is there already`);
    const volume = new Volume({ ...rest, isReadonly: false, isSnapshot: false, map: newMap(clusters) });
    this.#byId.set(volume.id, volume);
    this.nextId = Math.max(this.nextId, volume.id + 1);
    return volume;
  }

  /** By whoever has the lock of the store: the reactor that wrote the record, or the main thread. */
  setEntry(volume: Volume, logical: number, entry: number): void {
    if (logical >= volume.clusterCount || (isOwn(entry) && clusterOf(entry) >= this.memory.states.length)) {
      throw new Error(`volume ${volume.id} has no cluster ${logical}, or the store none ${clusterOf(entry)}`);
    }
    const before = volume.map[logical] as number;
    if (isOwn(before)) this.#free(before);
    if (before === HOLE) this.memory.addHoles(-1);
    if (entry === HOLE) this.memory.addHoles(1);
    if (isOwn(entry)) this.memory.setUsed(clusterOf(entry));
    Atomics.store(volume.map, logical, entry);
  }

  /** After the volumes of a checkpoint were added with their own entries: what they have of their parents. */
  resolve(): void {
    const done = new Set<Volume>();
    const visit = (volume: Volume, depth: number): void => {
      if (done.has(volume)) return;
      if (depth > this.#byId.size) throw new Error(`volume ${volume.id} is its own ancestor`);
      const parent = this.parentOf(volume);
      if (parent !== null) {
        visit(parent, depth + 1);
        inherit(volume, parent);
      }
      done.add(volume);
    };
    for (const volume of this.list()) visit(volume, 0);
  }

  /** The volume keeps its name, its UUID and its guests; what it had so far goes to the snapshot, number and all. */
  #snapshot(volume: Volume, newId: number, uuid: string, name: string): void {
    const { id, parent, map } = volume;
    const old = newMap(map.length);
    old.set(map);
    const flags = { isReadonly: true, isThin: volume.isThin, isSnapshot: true };
    this.#byId.delete(id);
    volume.id = newId;
    volume.parent = id;
    for (let i = 0; i < map.length; i++) map[i] = inheritedEntry(map[i] as number);
    this.#byId.set(id, new Volume({ id, parent, uuid, name, ...flags, map: old }));
    this.#byId.set(newId, volume);
    this.nextId = Math.max(this.nextId, newId + 1);
    volume.isThin = true;
    volume.share();
  }

  #clone(snapshot: Volume, id: number, uuid: string, name: string): void {
    const clusters = snapshot.clusterCount;
    const volume = this.add({ id, parent: snapshot.id, clusters, isThin: true, uuid, name });
    inherit(volume, snapshot);
  }

  /** What a snapshot had goes to its only child, where that one did not write something else. */
  #remove(volume: Volume): void {
    const [child, other] = this.childrenOf(volume);
    if (other !== undefined) throw new Error(`volume ${volume.id} has several children`);
    const parent = this.parentOf(volume);
    for (const [logical, entry] of volume.map.entries()) {
      if (entry === HOLE) this.memory.addHoles(-1);
      if (child === undefined || logical >= child.clusterCount) {
        if (isOwn(entry)) this.#free(entry);
        continue;
      }
      const below = child.map[logical] as number;
      if (isOwn(entry)) {
        if (isInherited(below)) child.map[logical] = entry;
        else this.#free(entry);
      } else if (entry === HOLE && below === NOTHING && isMapped(parent?.map[logical] ?? NOTHING)) {
        child.map[logical] = HOLE;
        this.memory.addHoles(1);
      }
    }
    this.#byId.delete(volume.id);
    if (child === undefined) return;
    child.parent = volume.parent;
    child.share();
  }

  #resize(volume: Volume, clusters: number): void {
    const old = volume.map;
    const parent = this.parentOf(volume);
    const map = newMap(clusters);
    map.set(old.subarray(0, Math.min(old.length, clusters)));
    for (let i = clusters; i < old.length; i++) {
      const entry = old[i] as number;
      if (isOwn(entry)) this.#free(entry);
      if (entry === HOLE) this.memory.addHoles(-1);
    }
    // What it once had there does not come back.
    for (let i = old.length; i < clusters; i++) {
      if (!isMapped(parent?.map[i] ?? NOTHING)) continue;
      map[i] = HOLE;
      this.memory.addHoles(1);
    }
    volume.map = map;
  }

  #reparent(volume: Volume, parentId: number, isThick: boolean): void {
    const before = this.parentOf(volume);
    const parent = parentId === 0 ? null : this.get(parentId);
    for (const [logical, entry] of volume.map.entries()) {
      const above = parent?.map[logical] ?? NOTHING;
      if (entry === HOLE && !isMapped(above)) {
        volume.map[logical] = NOTHING;
        this.memory.addHoles(-1);
      } else if (isInherited(entry) && (isOwn(before?.map[logical] ?? NOTHING) || !isMapped(above))) {
        throw new Error(`volume ${volume.id} still has cluster ${logical} of its parent`);
      } else if (entry === NOTHING && isMapped(above)) {
        volume.map[logical] = HOLE;
        this.memory.addHoles(1);
      }
    }
    volume.parent = parentId;
    if (isThick) volume.isThin = false;
    volume.share();
  }

  #free(entry: number): void {
    this.memory.setGoing(clusterOf(entry));
  }
}

/** Fills what the volume did not write from its parent. */
function inherit(volume: Volume, parent: Volume): void {
  const { map } = volume;
  const length = Math.min(map.length, parent.clusterCount);
  for (let i = 0; i < length; i++) {
    if (map[i] === NOTHING) map[i] = inheritedEntry(parent.map[i] as number);
  }
}

function newMap(clusters: number): Int32Array<SharedArrayBuffer> {
  return new Int32Array(new SharedArrayBuffer(clusters * 4));
}

/**
 * What is wrong with the volumes, one line each; nothing when all is well. Every cluster is of one volume or of none,
 * every volume has of its parents what they have, and the counts are right.
 */
export function findFaults(volumes: Volumes): string[] {
  const faults: string[] = [];
  const owners = new Map<number, Volume>();
  const names = new Set<string>();
  let holes = 0;
  for (const volume of volumes.list()) {
    if (names.has(volume.name)) faults.push(`two volumes are called "${volume.name}"`);
    names.add(volume.name);
    const parent = volume.parent === 0 ? null : volumes.list().find(({ id }) => id === volume.parent);
    if (parent === undefined) {
      faults.push(`volume "${volume.name}" has a parent that is not there`);
      continue;
    }
    if (parent !== null && !parent.isReadonly) faults.push(`the parent of volume "${volume.name}" can be written`);
    for (const [logical, entry] of volume.map.entries()) {
      if (entry === HOLE) holes++;
      if (isOwn(entry)) {
        const owner = owners.get(entry);
        if (owner !== undefined) {
          faults.push(`cluster ${clusterOf(entry)} is of "${owner.name}" and of "${volume.name}"`);
        }
        owners.set(entry, volume);
      } else if (entry !== HOLE && entry !== inheritedEntry(parent?.map[logical] ?? NOTHING)) {
        faults.push(`cluster ${logical} of volume "${volume.name}" is not what its parent has`);
      }
    }
  }
  const { states, available, holes: counted } = volumes.memory;
  const used = states.reduce((count, state) => count + (state === ClusterState.used ? 1 : 0), 0);
  for (const [cluster, state] of states.entries()) {
    if (owners.has(ownEntry(cluster)) === (state === ClusterState.used)) continue;
    faults.push(
      `cluster ${cluster} is ${state === ClusterState.used ? 'of nobody, and not free' : 'in use, and free'}`,
    );
  }
  if (used + available !== states.length)
    faults.push(`${available} clusters count as free, not ${states.length - used}`);
  if (holes !== counted) faults.push(`${counted} holes are counted, not ${holes}`);
  return faults;
}
