/**
 * What a reactor does to give volumes clusters, or to take them away: one batch at a time, with the store's lock.
 *
 * Clusters that are ready are zeroed already. One that takes the place of a parent's gets what that one has, and this
 * is made stable before the log says whose the cluster is: after a power cut a volume has what it had, or what was
 * written, and nothing of another one. The log is written before the requests go on, so that nothing they write is lost
 * when the daemon is killed.
 */
import { type IovArena, NO_LIST } from '../../../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../../../sys/mapping.ts';
import { type BaseChannel, BdevIo, type IoOwner, IoStatus, IoType, NO_SEGMENTS } from '../../bdev-io.ts';
import { LogPage, PAGE_BYTES } from './format.ts';
import type { StoreMemory } from './store-memory.ts';

/** What is copied at a time. */
const COPY_BYTES = 256 * 1024;
/** Copies under way at a time. */
const COPIES = 4;
const { success: SUCCESS } = IoStatus;

/** Cluster `logical` of the volume becomes `entry`. */
export interface Change {
  readonly logical: number;
  readonly entry: number;
  /** Cluster whose content it gets, or -1. */
  readonly copyOf: number;
  readonly cluster: number;
}

export interface BatchGeometry {
  readonly blockBytes: number;
  readonly clusterBytes: number;
  readonly dataPage: number;
}

/** How it ended: `isUnsure` when nobody knows whether the log has it. */
export type BatchEnd = (isDone: boolean, isUnsure: boolean) => void;

class Copier {
  readonly io: BdevIo;
  readonly list: number;
  change: Change | null = null;
  doneBytes = 0;

  constructor(owner: IoOwner, list: number) {
    this.io = new BdevIo(owner);
    this.list = list;
  }
}

export class ClusterBatch implements IoOwner {
  readonly page: LogPage;
  changes: readonly Change[] = [];
  readonly #memory = Mapping.anonymous(PAGE_BYTES + COPIES * COPY_BYTES);
  readonly #views = new MappingViews();
  readonly #arena: IovArena;
  readonly #base: BaseChannel;
  readonly #store: StoreMemory;
  readonly #geometry: BatchGeometry;
  readonly #copyBytes: number;
  readonly #copiers: Copier[] = [];
  readonly #io: BdevIo;
  #list = NO_LIST;
  #nextCopy = 0;
  #copying = 0;
  #hasFailed = false;
  #isLogging = false;
  #isFlushing = false;
  #onEnd: BatchEnd = () => {};

  constructor(base: BaseChannel, arena: IovArena, store: StoreMemory, geometry: BatchGeometry) {
    this.#base = base;
    this.#arena = arena;
    this.#store = store;
    this.#geometry = geometry;
    this.#copyBytes = Math.min(COPY_BYTES, geometry.clusterBytes);
    this.page = new LogPage(new Uint8Array(this.#views.view(this.#memory, 0, PAGE_BYTES)));
    this.#io = new BdevIo(this);
  }

  /** Takes the segment lists that it needs, once; false when there are none now. */
  prepare(): boolean {
    if (this.#list === NO_LIST) this.#list = this.#arena.takeShort();
    while (this.#list !== NO_LIST && this.#copiers.length < COPIES) {
      const list = this.#arena.takeShort();
      if (list === NO_LIST) return false;
      const address = this.#memory.address + PAGE_BYTES + this.#copiers.length * COPY_BYTES;
      this.#arena.set(list, address, this.#copyBytes);
      this.#copiers.push(new Copier(this, list));
    }
    return this.#list !== NO_LIST;
  }

  /** With the lock, and `page` filled. */
  run(changes: readonly Change[], onEnd: BatchEnd): void {
    this.changes = changes;
    this.#onEnd = onEnd;
    this.#hasFailed = false;
    this.#nextCopy = 0;
    this.#copying = COPIES;
    for (const copier of this.#copiers) this.#copyNext(copier);
  }

  ioDone(io: BdevIo): void {
    if (io === this.#io) {
      this.#stepDone(io.status);
      return;
    }
    const copier = this.#copiers[io.tag] as Copier;
    if (io.status !== SUCCESS) {
      this.#hasFailed = true;
      this.#copierDone();
    } else if (io.type === IoType.read) this.#transfer(copier, IoType.write, (copier.change as Change).cluster);
    else {
      copier.doneBytes += this.#copyBytes;
      if (copier.doneBytes < this.#geometry.clusterBytes) this.#copyPart(copier);
      else this.#copyNext(copier);
    }
  }

  close(): void {
    if (this.#list !== NO_LIST) this.#arena.release(this.#list);
    for (const { list } of this.#copiers) this.#arena.release(list);
    this.#views.close();
    this.#memory.close();
  }

  #copyNext(copier: Copier): void {
    while (this.#nextCopy < this.changes.length && !this.#hasFailed) {
      const change = this.changes[this.#nextCopy++] as Change;
      if (change.copyOf < 0) continue;
      copier.change = change;
      copier.doneBytes = 0;
      this.#copyPart(copier);
      return;
    }
    this.#copierDone();
  }

  #copyPart(copier: Copier): void {
    this.#transfer(copier, IoType.read, (copier.change as Change).copyOf);
  }

  #transfer(copier: Copier, type: IoType, cluster: number): void {
    const { blockBytes, clusterBytes, dataPage } = this.#geometry;
    const { io } = copier;
    io.type = type;
    io.tag = this.#copiers.indexOf(copier);
    io.offsetBlocks = (dataPage * PAGE_BYTES + cluster * clusterBytes + copier.doneBytes) / blockBytes;
    io.countBlocks = this.#copyBytes / blockBytes;
    io.lengthBytes = this.#copyBytes;
    io.iovFirst = copier.list;
    io.iovCount = 1;
    this.#base.submit(io);
  }

  #copierDone(): void {
    if (--this.#copying > 0) return;
    if (this.#hasFailed) this.#onEnd(false, false);
    else if (this.changes.some(({ copyOf }) => copyOf >= 0)) this.#flush();
    else this.#writeLog();
  }

  #flush(): void {
    this.#isLogging = false;
    this.#isFlushing = true;
    const io = this.#io;
    io.type = IoType.flush;
    io.offsetBlocks = 0;
    io.countBlocks = 0;
    io.lengthBytes = 0;
    io.iovFirst = NO_SEGMENTS;
    io.iovCount = 0;
    this.#base.submit(io);
  }

  #writeLog(): void {
    this.#isFlushing = false;
    this.#isLogging = true;
    const { blockBytes } = this.#geometry;
    const store = this.#store;
    this.page.end(store.generation, store.logSequence);
    this.#arena.set(this.#list, this.#memory.address, PAGE_BYTES);
    const io = this.#io;
    io.type = IoType.write;
    io.offsetBlocks = (store.nextLogPage * PAGE_BYTES) / blockBytes;
    io.countBlocks = PAGE_BYTES / blockBytes;
    io.lengthBytes = PAGE_BYTES;
    io.iovFirst = this.#list;
    io.iovCount = 1;
    this.#base.submit(io);
  }

  #stepDone(status: IoStatus): void {
    if (this.#isFlushing && status === SUCCESS) {
      this.#writeLog();
      return;
    }
    const isDone = status === SUCCESS;
    if (isDone) this.#store.logWritten();
    this.#onEnd(isDone, !isDone && this.#isLogging);
  }
}
