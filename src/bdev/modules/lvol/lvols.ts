/** All stores, and what operators do to their volumes. Every change is stable when its call resolves. */
import { randomUUID } from 'node:crypto';
import { withinDeadline } from '../../../base/deadline.ts';
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { BdevConfig } from '../../bdev.ts';
import type { BlockAccess } from '../../block-access.ts';
import type { Job, Jobs } from '../../jobs.ts';
import { type BdevEntry, type BdevHandover, type BdevRegistry, type BdevUser, checkResize } from '../../registry.ts';
import { isInherited, isOwn, NOTHING } from './entries.ts';
import { CLUSTER_BYTES_MAX, CLUSTER_BYTES_MIN, NAME_BYTES_MAX, PAGE_BYTES, planGeometry } from './format.ts';
import { LvolBdev } from './lvol.ts';
import { PageIo } from './page-io.ts';
import { LvolStore, type StoreRecord } from './store.ts';
import { RecordKind, record, type Volume } from './volumes.ts';

/** Clusters that an inflation asks for at a time. */
const TOUCHES = 16;
const MIB = 2 ** 20;

export interface VolumeRef {
  readonly store: LvolStore;
  readonly volume: Volume;
}

/** A store on its way to the next daemon. */
export interface SavedStore {
  /** The bdev that it is on. */
  readonly base: string;
  readonly record: StoreRecord;
}

interface Served {
  readonly store: LvolStore;
  readonly entries: Map<Volume, BdevEntry>;
  readonly claimant: BdevUser;
}

export class Lvols {
  readonly #registry: BdevRegistry;
  readonly #blocks: BlockAccess;
  readonly #jobs: Jobs;
  readonly #log: Logger;
  readonly #served = new Map<BdevEntry, Served>();
  /** What is being done to a volume that nothing else may be done to meanwhile. */
  readonly #busy = new Map<Volume, string>();

  constructor(registry: BdevRegistry, blocks: BlockAccess, jobs: Jobs, log: Logger) {
    this.#registry = registry;
    this.#blocks = blocks;
    this.#jobs = jobs;
    this.#log = log;
  }

  get stores(): readonly LvolStore[] {
    return [...this.#served.values()].map(({ store }) => store);
  }

  /** By name or UUID. Throws `ENODEV`. */
  store(wanted: { readonly uuid?: string | undefined; readonly lvs_name?: string | undefined }): LvolStore {
    const { uuid, lvs_name: name } = wanted;
    const store = this.stores.find((one) => (uuid === undefined ? one.name === name : one.uuid === uuid.toLowerCase()));
    if (store !== undefined) return store;
    const what = String(uuid ?? name);
    throw new TargetError('ENODEV', `there is no lvol store "${what}": bdev_lvol_get_lvstores lists those there are`);
  }

  /** By alias (`store/name`) or UUID. Throws `ENODEV`. */
  find(name: string): VolumeRef {
    for (const store of this.stores) {
      for (const volume of store.volumes.list()) {
        if (volume.uuid === name.toLowerCase() || `${store.name}/${volume.name}` === name) return { store, volume };
      }
    }
    throw new TargetError('ENODEV', `there is no volume "${name}": bdev_lvol_get_lvols lists those there are`);
  }

  /** The call that brings back the store on a bdev; none when there is none. */
  configOn(base: BdevEntry): BdevConfig[] {
    return this.#served.has(base) ? [{ method: 'bdev_lvol_load_lvstore', params: { bdev_name: base.name } }] : [];
  }

  // ---- upgrades -----------------------------------------------------------------------------------------------------

  /** Its stores as they are now; they may change until `freeze`. */
  async handOver(): Promise<BdevHandover[]> {
    const records = await this.save();
    return records.map(({ base, record: about }) => ({ name: holderOn(base), handover: { fds: [], about } }));
  }

  async save(): Promise<SavedStore[]> {
    return await Promise.all(this.stores.map(async (store) => ({ base: store.base.name, record: await store.save() })));
  }

  /** They were inherited, and are otherwise now. */
  load(saved: readonly SavedStore[]): void {
    for (const one of saved) this.stores.find(({ base }) => base.name === one.base)?.renew(one.record);
  }

  /** Guests wait: from now on nothing changes, until `thaw`. Throws `ETIMEDOUT`. */
  async freeze(withinMs: number): Promise<void> {
    const late = () => new TargetError('ETIMEDOUT', 'an lvol store still makes clusters ready: look at its disk');
    await withinDeadline(Promise.all(this.stores.map((store) => store.freeze())), Math.max(0, withinMs), late);
  }

  thaw(): void {
    for (const store of this.stores) store.thaw();
  }

  // ---- stores -------------------------------------------------------------------------------------------------------

  async createStore(base: BdevEntry, name: string, clusterBytes: number): Promise<LvolStore> {
    checkName(name);
    this.#checkStoreName(name);
    const { blockCount, blockSizeBytes } = base.bdev;
    if (clusterBytes < CLUSTER_BYTES_MIN || clusterBytes > CLUSTER_BYTES_MAX || !isPowerOfTwo(clusterBytes)) {
      throw new TargetError(
        'EINVAL',
        `cluster_sz is a power of two from ${CLUSTER_BYTES_MIN} to ${CLUSTER_BYTES_MAX}, not ${clusterBytes}`,
      );
    }
    const geometry = planGeometry(blockCount * blockSizeBytes, clusterBytes);
    if (geometry.clusterCount === 0) {
      throw new TargetError('ENOSPC', `bdev "${base.name}" has no room for a cluster: make cluster_sz smaller`);
    }
    return await this.#claimed(base, async (io) => {
      if (await LvolStore.isOn({ base, io, log: this.#log })) {
        const advice = 'load it with bdev_lvol_load_lvstore, or erase the disk (bdev_erase)';
        throw new TargetError('EEXIST', `bdev "${base.name}" has an lvol store already: ${advice}`);
      }
      return await LvolStore.format({ base, io, log: this.#log }, geometry, randomUUID(), name);
    });
  }

  /** Makes bdevs of the volumes of a store. */
  async loadStore(base: BdevEntry): Promise<LvolStore> {
    return await this.#claimed(base, async (io) => {
      const parts = { base, io, log: this.#log };
      const inherited = this.#registry.takeInherited(holderOn(base.name))?.about as StoreRecord | undefined;
      const store = inherited === undefined ? await LvolStore.load(parts) : LvolStore.inherit(parts, inherited);
      this.#checkStoreName(store.name);
      for (const { uuid } of store.volumes.list()) this.#registry.checkFree(uuid, undefined);
      return store;
    });
  }

  /** The bdevs go; what is on the disk stays. */
  async unloadStore(store: LvolStore): Promise<void> {
    const served = this.#servedOf(store);
    this.#checkIdle(store);
    await Promise.all([...served.entries.values()].map((entry) => this.#registry.delete(entry)));
    await store.close();
    this.#letGo(served);
  }

  /** With all its volumes. */
  async deleteStore(store: LvolStore): Promise<void> {
    const served = this.#servedOf(store);
    this.#checkIdle(store);
    await Promise.all([...served.entries.values()].map((entry) => this.#registry.delete(entry)));
    await store.erase();
    this.#letGo(served);
  }

  async renameStore(store: LvolStore, name: string): Promise<void> {
    checkName(name);
    await store.change(() => {
      this.#checkStoreName(name);
      return { record: record(RecordKind.renameStore, 0, 0, 0, { name }) };
    });
  }

  // ---- volumes ------------------------------------------------------------------------------------------------------

  async create(store: LvolStore, name: string, sizeMib: number, isThin: boolean): Promise<string> {
    const clusters = clustersFor(store, sizeMib);
    const uuid = randomUUID();
    await store.change(() => {
      this.#checkNew(store, name);
      if (!isThin) checkRoom(store, clusters);
      return { record: record(RecordKind.create, store.volumes.nextId, clusters, isThin ? 1 : 0, { uuid, name }) };
    });
    const ref = this.find(uuid);
    this.#serve(ref);
    if (!isThin) await this.#exclusively(ref.volume, 'being filled', () => this.#fill(ref, (entry) => !isOwn(entry)));
    return uuid;
  }

  async snapshot({ store, volume }: VolumeRef, name: string): Promise<string> {
    const uuid = randomUUID();
    await store.change(() => {
      this.#checkIdleVolume(volume);
      this.#checkNew(store, name);
      if (volume.isReadonly) {
        throw new TargetError('EINVAL', `"${volume.name}" is read-only: clone it instead of making a snapshot`);
      }
      return {
        record: record(RecordKind.snapshot, volume.id, store.volumes.nextId, 0, { uuid, name }),
        held: [volume],
      };
    });
    this.#serve(this.find(uuid));
    return uuid;
  }

  async clone({ store, volume }: VolumeRef, name: string): Promise<string> {
    const uuid = randomUUID();
    await store.change(() => {
      this.#checkIdleVolume(volume);
      this.#checkNew(store, name);
      if (!volume.isReadonly) {
        throw new TargetError('EINVAL', `"${volume.name}" can be written: clone a snapshot of it (bdev_lvol_snapshot)`);
      }
      return { record: record(RecordKind.clone, volume.id, store.volumes.nextId, 0, { uuid, name }) };
    });
    this.#serve(this.find(uuid));
    return uuid;
  }

  async delete(ref: VolumeRef): Promise<void> {
    const { store, volume } = ref;
    const check = (): void => {
      const names = store.familyOf(volume).children.map((child) => child.name);
      if (names.length <= 1) return;
      const text = `"${volume.name}" has several clones (${names.join(', ')}): delete or decouple all but one of them`;
      throw new TargetError('EBUSY', text);
    };
    check();
    await this.#exclusively(volume, 'being deleted', async () => {
      const { entries } = this.#servedOf(store);
      const entry = entries.get(volume);
      if (entry !== undefined) await this.#registry.delete(entry);
      try {
        await store.change(() => {
          check();
          const { children } = store.familyOf(volume);
          for (const child of children) this.#checkIdleVolume(child);
          return { record: record(RecordKind.remove, volume.id), held: children };
        });
      } catch (error) {
        this.#serve(ref);
        throw error;
      }
    });
  }

  async resize({ store, volume }: VolumeRef, sizeMib: number): Promise<void> {
    const clusters = clustersFor(store, sizeMib);
    const entry = this.#entryOf({ store, volume });
    await store.change(() => {
      this.#checkIdleVolume(volume);
      if (volume.isReadonly) throw new TargetError('EINVAL', `"${volume.name}" is read-only, and keeps its size`);
      checkResize(entry, (clusters * store.geometry.clusterBytes) / entry.bdev.blockSizeBytes);
      if (!volume.isThin && clusters > volume.clusterCount) checkRoom(store, clusters - volume.clusterCount);
      return { record: record(RecordKind.resize, volume.id, clusters), held: [volume] };
    });
    if (volume.isThin) return;
    await this.#exclusively(volume, 'being filled', () => this.#fill({ store, volume }, (one) => one === NOTHING));
  }

  async rename({ store, volume }: VolumeRef, name: string): Promise<void> {
    await store.change(() => {
      this.#checkNew(store, name);
      return { record: record(RecordKind.rename, volume.id, 0, 0, { name }) };
    });
  }

  async setReadonly({ store, volume }: VolumeRef): Promise<void> {
    await store.change(() => {
      this.#checkIdleVolume(volume);
      return { record: record(RecordKind.setReadonly, volume.id), held: [volume] };
    });
  }

  /**
   * Gives a volume what it has of its parent: all of it, and clusters for what nobody wrote (inflate), or what its
   * parent itself wrote (decouple), whose parent is the next one then. A job.
   */
  inflate({ store, volume }: VolumeRef, isComplete: boolean): Job {
    this.#checkIdleVolume(volume);
    const parent = store.volumes.parentOf(volume);
    if (parent === null && !isComplete) throw new TargetError('EINVAL', `"${volume.name}" has no parent`);
    const entry = this.#entryOf({ store, volume });
    const isWanted = (one: number, logical: number): boolean => {
      if (isComplete) return !isOwn(one);
      return isInherited(one) && isOwn(parent?.map[logical] ?? NOTHING);
    };
    const clusters = [...volume.map].filter((one, logical) => isWanted(one, logical)).length;
    checkRoom(store, clusters);
    if (volume.isReadonly) throw new TargetError('EINVAL', `"${volume.name}" is read-only, and stays as it is`);
    const totalBytes = clusters * store.geometry.clusterBytes;
    const type = isComplete ? 'inflate' : 'decouple';
    return this.#jobs.start({ type, bdev: entry.name, totalBytes }, (control) =>
      this.#exclusively(volume, 'being inflated', async () => {
        await this.#fill({ store, volume }, isWanted, () => {
          control.doneBytes += store.geometry.clusterBytes;
          return control.isCancelled;
        });
        if (control.isCancelled) return;
        const next = isComplete ? 0 : (parent?.parent ?? 0);
        await store.change(() => ({
          record: record(RecordKind.reparent, volume.id, next, isComplete ? 1 : 0),
          held: [volume],
        }));
      }),
    );
  }

  // ---- inside -------------------------------------------------------------------------------------------------------

  /** Has the clusters allocated whose entries are wanted: a write of nothing makes a cluster the volume's own. */
  async #fill(
    { store, volume }: VolumeRef,
    isWanted: (entry: number, logical: number) => boolean,
    onDone: () => boolean = () => false,
  ): Promise<void> {
    const entry = this.#entryOf({ store, volume });
    const clusterBlocks = store.geometry.clusterBytes / entry.bdev.blockSizeBytes;
    let [next, isOver] = [0, false];
    const lane = async (): Promise<void> => {
      while (!isOver && next < volume.clusterCount) {
        const logical = next++;
        if (!isWanted(volume.map[logical] as number, logical)) continue;
        await this.#blocks.write(entry, logical * clusterBlocks, new Uint8Array(0));
        if (onDone()) isOver = true;
      }
    };
    const lanes = await Promise.allSettled(Array.from({ length: TOUCHES }, lane));
    const failed = lanes.find((one) => one.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    await this.#blocks.flush(entry);
  }

  async #claimed(base: BdevEntry, open: (io: PageIo) => Promise<LvolStore>): Promise<LvolStore> {
    const holder = holderOn(base.name);
    if (this.#served.has(base)) throw new TargetError('EEXIST', `the lvol store on "${base.name}" is loaded already`);
    base.checkClaim(holder);
    if (PAGE_BYTES % base.bdev.blockSizeBytes !== 0) {
      throw new TargetError('EINVAL', `bdev "${base.name}" has blocks of ${base.bdev.blockSizeBytes} bytes`);
    }
    let served: Served | null = null;
    const claimant: BdevUser = {
      bdevChanged: async () => {},
      bdevRemoved: async () => {
        if (served !== null) await this.#baseGone(served);
      },
    };
    if (base.holder !== null) throw new TargetError('EBUSY', `bdev "${base.name}" is being looked at: try again`);
    base.claim(holder, claimant);
    try {
      const store = await open(new PageIo(this.#blocks, base));
      if (base.isRemoving) throw new TargetError('ENODEV', `bdev "${base.name}" was deleted meanwhile`);
      served = { store, entries: new Map(), claimant };
      this.#served.set(base, served);
      const { entries } = served;
      store.host = {
        refresh: async (volume) => {
          const entry = entries.get(volume);
          if (entry !== undefined) await this.#registry.changed(entry);
        },
        gone: (volume) => void entries.delete(volume),
      };
      for (const volume of store.volumes.list()) this.#serve({ store, volume });
      store.attend();
      return store;
    } catch (error) {
      base.unclaim(claimant);
      throw error;
    }
  }

  #serve({ store, volume }: VolumeRef): void {
    const { entries } = this.#servedOf(store);
    const { base } = store;
    const foundation = { bases: [base], holder: holderOn(base.name) };
    entries.set(
      volume,
      this.#registry.create(volume.uuid, undefined, () => new LvolBdev(store, volume), foundation),
    );
  }

  async #baseGone(served: Served): Promise<void> {
    await served.store.close();
    this.#served.delete(served.store.base);
  }

  #letGo({ store, claimant }: Served): void {
    this.#served.delete(store.base);
    store.base.unclaim(claimant);
  }

  #servedOf(store: LvolStore): Served {
    const served = this.#served.get(store.base);
    if (served?.store !== store) throw new TargetError('ENODEV', `lvol store "${store.name}" is gone`);
    return served;
  }

  #entryOf({ store, volume }: VolumeRef): BdevEntry {
    const entry = this.#servedOf(store).entries.get(volume);
    if (entry !== undefined) return entry;
    throw new TargetError('ENODEV', `the bdev of "${volume.name}" was deleted: unload the store, and load it again`);
  }

  async #exclusively<T>(volume: Volume, what: string, work: () => Promise<T>): Promise<T> {
    this.#checkIdleVolume(volume);
    this.#busy.set(volume, what);
    try {
      return await work();
    } finally {
      this.#busy.delete(volume);
    }
  }

  #checkIdleVolume(volume: Volume): void {
    const what = this.#busy.get(volume);
    if (what !== undefined) throw new TargetError('EBUSY', `"${volume.name}" is ${what}: wait until that is over`);
  }

  #checkIdle({ volumes }: LvolStore): void {
    for (const volume of volumes.list()) this.#checkIdleVolume(volume);
  }

  #checkStoreName(name: string): void {
    if (this.stores.some((store) => store.name === name)) {
      throw new TargetError('EEXIST', `there is an lvol store "${name}" already: choose another name`);
    }
  }

  #checkNew({ volumes, geometry }: LvolStore, name: string): void {
    checkName(name);
    if (volumes.list().some((volume) => volume.name === name)) {
      throw new TargetError('EEXIST', `there is a volume "${name}" in the store already: choose another name`);
    }
    if (volumes.list().length < geometry.volumesMax) return;
    throw new TargetError('ENOSPC', `the store has room for ${geometry.volumesMax} volumes and snapshots: delete some`);
  }
}

function holderOn(base: string): string {
  return `lvol store on ${base}`;
}

function clustersFor({ geometry }: LvolStore, sizeMib: number): number {
  const clusters = Math.ceil((sizeMib * MIB) / geometry.clusterBytes);
  if (clusters < 1) throw new TargetError('EINVAL', 'a volume has at least one cluster');
  if (clusters > 2 ** 26)
    throw new TargetError('EINVAL', `${sizeMib} MiB are too many clusters: make cluster_sz larger`);
  return clusters;
}

function checkRoom({ memory, geometry }: LvolStore, clusters: number): void {
  if (clusters <= memory.available) return;
  const size = geometry.clusterBytes / MIB;
  throw new TargetError('ENOSPC', `that takes ${clusters} clusters of ${size} MiB, and ${memory.available} are free`);
}

function checkName(name: string): void {
  if (name !== '' && !name.includes('/') && Buffer.byteLength(name) <= NAME_BYTES_MAX) return;
  throw new TargetError('EINVAL', `a name has 1 to ${NAME_BYTES_MAX} bytes, and no slash: "${name}"`);
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && (value & (value - 1)) === 0;
}
