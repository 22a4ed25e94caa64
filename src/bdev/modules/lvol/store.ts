/**
 * A store of volumes on a bdev, on the main thread: its metadata on the disk, and the clusters that are kept ready.
 *
 * What changes is a record in the log (volumes.ts), which is stable before anything comes of it. When the log is full,
 * or cannot be written, all is written anew as a checkpoint into the other half, and a superblock says so.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../../../base/errors.ts';
import { LimitedLog, type Logger } from '../../../base/log.ts';
import type { BdevEntry } from '../../registry.ts';
import { clusterOf, HOLE, isOwn, NOTHING } from './entries.ts';
import {
  type Checkpoint,
  checkpointPage,
  decodeCheckpoint,
  decodeLogPage,
  decodeSuperblock,
  encodeCheckpoint,
  encodeSuperblock,
  type Geometry,
  isPlausible,
  LogPage,
  logPage,
  PAGE_BYTES,
  type StoredVolume,
  type SuperblockFields,
  superblockPage,
  VolumeFlag,
} from './format.ts';
import type { PageIo } from './page-io.ts';
import { ClusterState, READY_MAX, StoreMemory } from './store-memory.ts';
import { findFaults, type LogRecord, type Volume, Volumes } from './volumes.ts';

/** Clusters that are kept ready: so many bytes of them, and so many at least and at most. */
const READY_BYTES = 64 * 2 ** 20;
const READY_MIN = 4;
const SUPERBLOCKS = 2;
const LOOK_MS = 1;
/** For a change that somebody asked for. */
const QUIET_MS_MAX = 30_000;
/** For clusters to come back: guests wait meanwhile, and are let go on in between. */
const RECLAIM_MS_MAX = 1000;
/** Below this share of its clusters a store warns. */
const LOW_SHARE = 0.1;

/** A store as another daemon has it, in a form that JSON carries. */
export interface StoreRecord {
  readonly fields: SuperblockFields;
  /** A checkpoint that is nowhere on the disk, in base 64. */
  readonly checkpoint: string;
}

export interface StoreParts {
  readonly base: BdevEntry;
  readonly io: PageIo;
  readonly log: Logger;
}

/** What a store is told to do with the bdevs of its volumes. */
export interface StoreHost {
  /** Tells every reactor of what has changed. */
  refresh(volume: Volume): Promise<void>;
  /** The bdev of a volume is gone, whoever wanted that. */
  gone(volume: Volume): void;
}

const NOBODY: StoreHost = { refresh: async () => {}, gone: () => {} };

export class LvolStore {
  readonly base: BdevEntry;
  readonly uuid: string;
  readonly geometry: Geometry;
  readonly memory: StoreMemory;
  readonly volumes: Volumes;
  host: StoreHost = NOBODY;
  readonly #io: PageIo;
  readonly #log: Logger;
  readonly #limitedLog: LimitedLog;
  #generation: number;
  #half: number;
  #serial: Promise<unknown> = Promise.resolve();
  #tending: Promise<void> | null = null;
  #isTold = false;
  #isClosed = false;
  /** Nothing is changed, also when reactors ask for it. */
  #isFrozen = false;
  #refusals = 0;
  #hasWarned = false;
  #cursor = 0;

  private constructor({ base, io, log }: StoreParts, fields: SuperblockFields) {
    this.base = base;
    this.uuid = fields.uuid;
    this.geometry = fields;
    this.memory = StoreMemory.create(fields.clusterCount);
    this.volumes = new Volumes(this.memory);
    this.#io = io;
    this.#log = log;
    this.#limitedLog = new LimitedLog(log);
    this.#generation = fields.generation;
    this.#half = fields.half;
  }

  /** Makes a store without volumes. @throws TargetError `EIO` */
  static async format(parts: StoreParts, geometry: Geometry, uuid: string, name: string): Promise<LvolStore> {
    const nothing = new Uint8Array(SUPERBLOCKS * PAGE_BYTES);
    await parts.io.write(0, nothing);
    await parts.io.flush();
    const blockBytes = parts.base.bdev.blockSizeBytes;
    const empty = { checkpointBytes: 0, checkpointCrc: 0, half: 1, generation: 0 };
    const store = new LvolStore(parts, { ...geometry, ...empty, uuid, blockBytes });
    store.volumes.name = name;
    await store.#checkpoint();
    return store;
  }

  /** @throws TargetError `ENOENT` when there is no store on the disk, `EINVAL` when it cannot be used, `EIO` */
  static async load(parts: StoreParts): Promise<LvolStore> {
    const fields = await readSuperblock(parts);
    const store = new LvolStore(parts, fields);
    await readInto(store.volumes, parts.io, fields);
    for (const [cluster, state] of store.memory.states.entries()) {
      if (state === ClusterState.going) store.memory.setFree(cluster);
    }
    const [fault, ...others] = findFaults(store.volumes);
    if (fault !== undefined) {
      throw unusable(parts.base, `${fault}${others.length > 0 ? `, and ${others.length} more` : ''}`);
    }
    // What of the log was not stable may be there or not: nobody shall see it later.
    await store.#checkpoint();
    return store;
  }

  /** That of a daemon which still has it: nothing is read from the disk or written to it, until `thaw`. */
  static inherit(parts: StoreParts, record: StoreRecord): LvolStore {
    const store = new LvolStore(parts, record.fields);
    store.#isFrozen = true;
    const checkpoint = decoded(record);
    for (const stored of checkpoint.volumes) add(store.volumes, stored);
    store.#become(record.fields, checkpoint);
    return store;
  }

  /** It was inherited, and the other daemon has changed it since. @throws TargetError `EINVAL` */
  renew(record: StoreRecord): void {
    const checkpoint = decoded(record);
    if (idsOf(checkpoint.volumes) !== idsOf(this.volumes.list())) {
      throw unusable(this.base, 'it has other volumes than it had');
    }
    this.#become(record.fields, checkpoint);
  }

  /** The volumes of the checkpoint are there already. */
  #become({ generation, half }: SuperblockFields, checkpoint: Checkpoint): void {
    const { volumes, memory } = this;
    memory.reset();
    for (const volume of volumes.list()) volume.map.fill(NOTHING);
    for (const stored of checkpoint.volumes) fill(volumes, volumes.get(stored.id), stored);
    volumes.resolve();
    volumes.name = checkpoint.name;
    volumes.nextId = checkpoint.nextId;
    this.#generation = generation;
    this.#half = half;
  }

  /** For the next daemon. */
  save(): Promise<StoreRecord> {
    return this.#alone(() =>
      this.#locked(async () => {
        const { fields, pages } = this.#encoded(this.#generation, this.#half);
        return { fields, checkpoint: Buffer.from(pages).toString('base64') };
      }),
    );
  }

  /** Guests wait: when this resolves nothing changes any more. */
  async freeze(): Promise<void> {
    this.#isFrozen = true;
    await this.#tending;
    await this.#serial.catch(() => undefined);
  }

  thaw(): void {
    this.#isFrozen = false;
    this.attend();
  }

  /** Whether there is a store on the disk, of whatever version. @throws TargetError `EIO` */
  static async isOn(parts: StoreParts): Promise<boolean> {
    try {
      await readSuperblock(parts);
      return true;
    } catch (error) {
      if (error instanceof TargetError && error.code === 'ENOENT') return false;
      if (error instanceof TargetError && error.code === 'EINVAL') return true;
      throw error;
    }
  }

  get name(): string {
    return this.volumes.name;
  }

  familyOf(volume: Volume): { readonly parent: Volume | null; readonly children: readonly Volume[] } {
    return { parent: this.volumes.parentOf(volume), children: this.volumes.childrenOf(volume) };
  }

  bdevGone(volume: Volume): void {
    this.host.gone(volume);
  }

  /**
   * Makes one change, after those that were asked for before; it is stable when this resolves. `make` checks and says
   * what it is, and of which volumes nothing may be under way meanwhile.
   *
   * @throws TargetError what `make` throws, `EIO`, or `ETIMEDOUT` when requests do not end
   */
  change(make: () => { readonly record: LogRecord; readonly held?: readonly Volume[] }): Promise<void> {
    return this.#alone(async () => {
      const { record, held = [] } = make();
      await this.#quiet(held, QUIET_MS_MAX, () =>
        this.#locked(async () => {
          await this.#write(record);
          this.volumes.apply(record);
        }),
      );
      this.attend();
    });
  }

  /** Looks at what is on the disk, and compares it with what is known. Returns what is wrong. */
  check(): Promise<string[]> {
    return this.#alone(() =>
      this.#locked(async () => {
        const parts = { base: this.base, io: this.#io, log: this.#log };
        const fields = await readSuperblock(parts);
        const found = new LvolStore(parts, fields);
        await readInto(found.volumes, this.#io, fields);
        const faults = [...findFaults(this.volumes), ...findFaults(found.volumes).map((fault) => `on disk: ${fault}`)];
        if (fields.generation !== this.#generation) faults.push(`on disk is generation ${fields.generation}`);
        if (JSON.stringify(found.#stored()) !== JSON.stringify(this.#stored())) {
          faults.push('what is on disk is not what the daemon has');
        }
        return faults;
      }),
    );
  }

  /** Does away with what says that there is a store. */
  async erase(): Promise<void> {
    await this.#alone(() =>
      this.#locked(async () => {
        this.memory.shut();
        this.#isClosed = true;
        await this.#io.write(0, new Uint8Array(SUPERBLOCKS * PAGE_BYTES));
        await this.#io.flush();
      }),
    );
    await this.close();
  }

  /** Nothing is under way any more when this resolves. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#tending;
    await this.#serial.catch(() => undefined);
    // Whoever still waits for a cluster waits in vain.
    this.memory.breakDown();
  }

  /** Resolves when clusters are ready, or there are none. */
  async ready(): Promise<void> {
    this.attend();
    while (this.#tending !== null) await this.#tending;
  }

  /** A reactor asks for it: the log is full, or clusters are needed. */
  attend(): void {
    this.#isTold = true;
    if (this.#isStopped) return;
    this.#tending ??= this.#tend().finally(() => {
      this.#tending = null;
    });
  }

  get #isStopped(): boolean {
    return this.#isClosed || this.#isFrozen;
  }

  async #tend(): Promise<void> {
    try {
      while (this.#isTold && !this.#isStopped) {
        this.#isTold = false;
        this.memory.told();
        if (this.memory.isShut) await this.#alone(() => this.#locked(() => this.#checkpoint()));
        this.#reportSpace();
        await this.#refill();
      }
    } catch (error) {
      // Requests that wait for it fail; the next one has it tried again.
      this.memory.breakDown();
      if (!this.#isClosed) this.#limitedLog.warn('disk', `lvol store ${this.name}: ${(error as Error).message}`);
    }
  }

  #reportSpace(): void {
    const { available, refusals } = this.memory;
    const { clusterCount } = this.geometry;
    if (refusals !== this.#refusals) {
      this.#refusals = refusals;
      const text = `lvol store ${this.name} is full: writes to its thin volumes fail. Delete volumes or snapshots`;
      this.#limitedLog.warn('full', text, { lvs: this.name });
    }
    const isLow = available < clusterCount * LOW_SHARE;
    if (isLow && !this.#hasWarned) {
      this.#log.warn(`lvol store ${this.name}: ${available} of ${clusterCount} clusters are left`, { lvs: this.name });
    }
    this.#hasWarned = isLow;
  }

  // ---- clusters -----------------------------------------------------------------------------------------------------

  async #refill(): Promise<void> {
    const { clusterBytes, clusterCount } = this.geometry;
    const wanted = Math.max(READY_MIN, Math.floor(READY_BYTES / clusterBytes));
    const target = Math.min(READY_MAX, clusterCount, wanted);
    // Many at a time: each time costs a flush.
    if (this.memory.readyCount > target / 2) return;
    while (!this.#isStopped && this.memory.readyCount < target) {
      const clusters = this.#findFree(target - this.memory.readyCount);
      if (clusters.length > 0) await this.#prepare(clusters);
      else if (this.memory.going === 0) return;
      else if (!(await this.#reclaim())) {
        await sleep(RECLAIM_MS_MAX);
        return;
      }
    }
  }

  #findFree(most: number): number[] {
    const { states } = this.memory;
    const found: number[] = [];
    for (let i = 0; i < states.length && found.length < most; i++) {
      const cluster = (this.#cursor + i) % states.length;
      if (states[cluster] === ClusterState.free) found.push(cluster);
    }
    const last = found.at(-1);
    if (last !== undefined) this.#cursor = last + 1;
    return found.toSorted((a, b) => a - b);
  }

  async #prepare(clusters: readonly number[]): Promise<void> {
    const { clusterBytes, dataPage } = this.geometry;
    const pages = clusterBytes / PAGE_BYTES;
    // That nobody has them may not be stable yet: then what is lost with it is zeroes where a guest has unmapped all or
    // written zeroes, in a change that it has not flushed. It is stable by the flush behind the zeroes, before they are
    // given to another.
    await this.#io.zero(clusters.map((cluster) => ({ page: dataPage + cluster * pages, pages })));
    for (const cluster of clusters) this.memory.putReady(cluster);
  }

  /** Clusters that were given back are free once no request that still knew them is under way; false: they are not. */
  #reclaim(): Promise<boolean> {
    return this.#alone(async () => {
      const { clusters, volumes } = await this.#locked(async () => ({
        clusters: [...this.memory.states.keys()].filter((one) => this.memory.states[one] === ClusterState.going),
        volumes: this.volumes.list().filter(({ memory }) => memory.takeFreed()),
      }));
      try {
        await this.#quiet(volumes, RECLAIM_MS_MAX, async () => {
          for (const cluster of clusters) this.memory.setFree(cluster);
        });
        return true;
      } catch (error) {
        for (const { memory } of volumes) memory.freed();
        if (!(error instanceof TargetError && error.code === 'ETIMEDOUT')) throw error;
        this.#limitedLog.warn('going', `${error.message}; ${clusters.length} clusters wait for that`, {
          lvs: this.name,
        });
        return false;
      }
    });
  }

  // ---- one at a time ------------------------------------------------------------------------------------------------

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#serial.catch(() => undefined).then(work);
    this.#serial = next;
    return next;
  }

  /** Does `work` while nothing of the volumes is under way: what guests ask for meanwhile waits. */
  async #quiet<T>(volumes: readonly Volume[], maxMs: number, work: () => Promise<T>): Promise<T> {
    const deadlineMs = Date.now() + maxMs;
    for (const { memory } of volumes) memory.hold();
    try {
      await Promise.all(volumes.map((volume) => this.host.refresh(volume)));
      while (!volumes.every(({ memory }) => memory.isQuiet)) {
        if (Date.now() > deadlineMs) {
          throw new TargetError('ETIMEDOUT', `requests of lvol store "${this.name}" do not end: look at its disk`);
        }
        await sleep(LOOK_MS);
      }
      return await work();
    } finally {
      for (const { memory } of volumes) memory.letGo();
      await Promise.all(volumes.map((volume) => this.host.refresh(volume)));
    }
  }

  /** Does `work` with the lock of the store, which reactors have for as long as a batch takes. */
  async #locked<T>(work: () => Promise<T>): Promise<T> {
    while (!this.memory.tryMainLock()) await sleep(LOOK_MS);
    try {
      return await work();
    } finally {
      this.memory.unlock();
    }
  }

  // ---- metadata -----------------------------------------------------------------------------------------------------

  async #write(record: LogRecord): Promise<void> {
    const { memory } = this;
    if (memory.isShut || !memory.hasLogRoom) {
      memory.shut();
      await this.#checkpoint();
    }
    const page = new LogPage();
    page.begin();
    page.add(record);
    page.end(memory.generation, memory.logSequence);
    try {
      await this.#io.write(memory.nextLogPage, page.bytes);
      await this.#io.flush();
    } catch (error) {
      // It may be there or not: a new log begins before anything else is written.
      memory.shut();
      throw error;
    }
    memory.logWritten();
  }

  async #checkpoint(): Promise<void> {
    const { geometry } = this;
    const generation = this.#generation + 1;
    const half = 1 - this.#half;
    const { fields, pages } = this.#encoded(generation, half);
    await this.#io.write(checkpointPage(geometry, half), pages);
    await this.#io.flush();
    await this.#io.write(superblockPage(generation), encodeSuperblock(fields));
    await this.#io.flush();
    this.#generation = generation;
    this.#half = half;
    this.memory.openLog(generation, logPage(geometry, half), geometry.logPages);
  }

  /** A checkpoint of what is now, and the superblock that goes with it. */
  #encoded(generation: number, half: number): { fields: SuperblockFields; pages: Uint8Array } {
    const { name, uuid, geometry, volumes, base } = this;
    const checkpoint = { generation, nextId: volumes.nextId, name, volumes: this.#stored() };
    const { pages, lengthBytes: checkpointBytes, crc: checkpointCrc } = encodeCheckpoint(checkpoint);
    const blockBytes = base.bdev.blockSizeBytes;
    return { fields: { ...geometry, uuid, generation, half, blockBytes, checkpointBytes, checkpointCrc }, pages };
  }

  #stored(): StoredVolume[] {
    return this.volumes.list().map((volume) => {
      const { id, parent, uuid, name, isReadonly, isThin, isSnapshot, map } = volume;
      const flags =
        (isReadonly ? VolumeFlag.readonly : 0) |
        (isThin ? VolumeFlag.thin : 0) |
        (isSnapshot ? VolumeFlag.snapshot : 0);
      const entries: [number, number][] = [];
      for (const [logical, entry] of map.entries()) if (isOwn(entry) || entry === HOLE) entries.push([logical, entry]);
      return { id, parent, clusters: map.length, flags, uuid, name, entries };
    });
  }
}

function unusable({ name }: BdevEntry, why: string): TargetError {
  return new TargetError('EINVAL', `the lvol store on bdev "${name}" cannot be used: ${why}`);
}

/** The later one that is whole. */
async function readSuperblock({ base, io }: StoreParts): Promise<SuperblockFields> {
  const diskBytes = base.bdev.blockCount * base.bdev.blockSizeBytes;
  const pages = await io.read(0, SUPERBLOCKS);
  const copies = [0, 1].map((at) => decodeSuperblock(pages.subarray(at * PAGE_BYTES, (at + 1) * PAGE_BYTES)));
  const foreign = copies.find((copy) => typeof copy === 'number');
  if (foreign !== undefined) throw unusable(base, `it has version ${String(foreign)}: use a newer Ringhost`);
  const [first, second] = copies.filter((copy) => copy !== null && typeof copy !== 'number');
  if (first === undefined) {
    throw new TargetError(
      'ENOENT',
      `there is no lvol store on bdev "${base.name}": bdev_lvol_create_lvstore makes one`,
    );
  }
  const latest = second !== undefined && second.generation > first.generation ? second : first;
  if (!isPlausible(latest, diskBytes)) throw unusable(base, `the disk of ${diskBytes} bytes is too small for it`);
  if (latest.blockBytes !== base.bdev.blockSizeBytes) {
    throw unusable(base, `it was made with blocks of ${latest.blockBytes} bytes`);
  }
  return latest;
}

/** Brings everything back: the checkpoint, and what the log says since. */
async function readInto(volumes: Volumes, io: PageIo, fields: SuperblockFields): Promise<void> {
  const { generation, half, logPages } = fields;
  const pages = await io.read(checkpointPage(fields, half), Math.ceil(fields.checkpointBytes / PAGE_BYTES));
  const checkpoint = decodeCheckpoint(pages, fields);
  if (checkpoint === null) throw new TargetError('EINVAL', 'the checkpoint of the lvol store is damaged');
  try {
    restore(volumes, checkpoint.volumes);
    volumes.name = checkpoint.name;
    volumes.nextId = checkpoint.nextId;
    const log = await io.read(logPage(fields, half), logPages);
    for (let sequence = 0; sequence < logPages; sequence++) {
      const page = log.subarray(sequence * PAGE_BYTES, (sequence + 1) * PAGE_BYTES);
      const records = decodeLogPage(page, generation, sequence);
      if (records === null) break;
      for (const record of records) volumes.apply(record);
    }
  } catch (error) {
    if (error instanceof TargetError) throw error;
    throw new TargetError('EINVAL', `the lvol store contradicts itself: ${(error as Error).message}`, { cause: error });
  }
}

function restore(volumes: Volumes, stored: readonly StoredVolume[]): void {
  for (const one of stored) fill(volumes, add(volumes, one), one);
  volumes.resolve();
}

function add(volumes: Volumes, stored: StoredVolume): Volume {
  const { flags, entries: _, ...fields } = stored;
  return volumes.add({ ...fields, isThin: (flags & VolumeFlag.thin) !== 0 });
}

function fill(volumes: Volumes, volume: Volume, { flags, entries }: StoredVolume): void {
  volume.isReadonly = (flags & VolumeFlag.readonly) !== 0;
  volume.isSnapshot = (flags & VolumeFlag.snapshot) !== 0;
  volume.share();
  for (const [logical, entry] of entries) {
    if (isOwn(entry) && volumes.memory.states[clusterOf(entry)] === ClusterState.used) {
      throw new Error(`cluster ${clusterOf(entry)} is of two volumes`);
    }
    volumes.setEntry(volume, logical, entry);
  }
}

function idsOf(volumes: readonly { readonly id: number }[]): string {
  return volumes.map(({ id }) => id).join();
}

function decoded({ fields, checkpoint }: StoreRecord): Checkpoint {
  const found = decodeCheckpoint(Buffer.from(checkpoint, 'base64'), fields);
  if (found === null) throw new TargetError('EINVAL', 'the lvol store of the daemon before is damaged');
  return found;
}
