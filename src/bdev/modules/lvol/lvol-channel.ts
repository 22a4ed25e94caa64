/**
 * A volume's channel. What is mapped goes on as it is: one look into the map, and a request below. A write to a cluster
 * that the volume does not have yet, and the end of one, waits for a batch (cluster-batch.ts), which all that wait at
 * the time have together.
 */
import { CopyEngine } from '../../../sys/copy-engine.ts';
import { Mapping } from '../../../sys/mapping.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BaseChannel, type BdevIo, IoStatus, IoType } from '../../bdev-io.ts';
import { PieceLists } from '../../piece-lists.ts';
import { NO_ROOM, PiecewiseChannel } from '../../piecewise-channel.ts';
import { type Change, ClusterBatch } from './cluster-batch.ts';
import { clusterOf, HOLE, isInherited, isMapped, isOwn, NOTHING, ownEntry } from './entries.ts';
import { PAGE_BYTES } from './format.ts';
import { NO_CLUSTER, StoreMemory, VolumeMemory } from './store-memory.ts';

const SLOTS = 256;
// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE, flush: FLUSH, unmap: UNMAP } = IoType;
const { success: SUCCESS, failed: FAILED, noSpace: NO_SPACE } = IoStatus;
const UNTOUCHED = NOTHING;
const ZEROES = HOLE;

export class LvolChannel extends PiecewiseChannel {
  readonly #id: number;
  readonly #base: BaseChannel;
  readonly #tell: (bdevId: number, what: unknown) => void;
  readonly #store: StoreMemory;
  readonly #volume: VolumeMemory;
  readonly #clusterBlocks: number;
  readonly #clusterBytes: number;
  readonly #blockBytes: number;
  /** Where the clusters begin. */
  readonly #dataBlock: number;
  readonly #holesMax: number;
  readonly #baseCanUnmap: boolean;
  readonly #lists: PieceLists;
  readonly #batch: ClusterBatch;
  /** Never written. */
  readonly #zeroes: Mapping;
  readonly #zeroer: CopyEngine;
  #map: Int32Array<SharedArrayBuffer>;
  /** Requests under way below. */
  #active = 0;
  #isHolding = false;
  #isCounted = false;
  #held: BdevIo[] = [];
  /** What waits for a batch, and what is in one. */
  #slow: BdevIo[] = [];
  #inBatch: BdevIo[] = [];
  #isBatching = false;

  constructor(description: BdevDescription, context: ChannelContext) {
    super(description, context, SLOTS);
    const { params, blockSizeBytes, bases } = description;
    this.#id = description.id;
    this.#lists = new PieceLists(context.arena, SLOTS);
    this.#base = this.bases[0] as BaseChannel;
    this.#tell = context.tell ?? (() => {});
    this.#store = new StoreMemory(params['store'] as SharedArrayBuffer);
    this.#volume = new VolumeMemory(params['volume'] as SharedArrayBuffer);
    this.#map = new Int32Array(params['map'] as SharedArrayBuffer);
    this.#blockBytes = blockSizeBytes;
    this.#clusterBytes = params['clusterBytes'] as number;
    this.#clusterBlocks = this.#clusterBytes / blockSizeBytes;
    this.#holesMax = params['holesMax'] as number;
    this.#baseCanUnmap = bases[0]?.ioTypes.includes(UNMAP) ?? false;
    const dataPage = params['dataPage'] as number;
    this.#dataBlock = (dataPage * PAGE_BYTES) / blockSizeBytes;
    const geometry = { blockBytes: blockSizeBytes, clusterBytes: this.#clusterBytes, dataPage };
    this.#batch = new ClusterBatch(this.#base, context.arena, this.#store, geometry);
    this.#zeroes = Mapping.anonymous(this.#clusterBytes);
    this.#zeroer = new CopyEngine(context.arena, 1);
    this.#zeroer.setDisk(this.#zeroes.address, blockSizeBytes, this.#clusterBlocks);
    this.#volume.addChannel(1);
    this.#look();
  }

  override submit(io: BdevIo): void {
    if (io.type === FLUSH) {
      this.#active++;
      this.forward(io, 0);
      return;
    }
    const inCluster = io.offsetBlocks % this.#clusterBlocks;
    if (inCluster + io.countBlocks <= this.#clusterBlocks) this.submitPiece(this.below(io));
    else this.start(io, io.countBlocks);
  }

  protected override preparePiece(io: BdevIo, progress: number, slot: number, below: BdevIo): number {
    const offset = io.offsetBlocks + progress;
    const left = this.#clusterBlocks - (offset % this.#clusterBlocks);
    const blocks = Math.min(left, io.countBlocks - progress);
    const bytes = blocks * this.#blockBytes;
    below.offsetBlocks = offset;
    below.countBlocks = blocks;
    below.lengthBytes = bytes;
    if (io.type !== READ && io.type !== WRITE) return progress + blocks;
    const hasList = this.#lists.give(slot, below, io, progress * this.#blockBytes, bytes);
    return hasList ? progress + blocks : NO_ROOM;
  }

  protected override pieceOver(slot: number): void {
    this.#lists.release(slot);
  }

  /** A request that is within a cluster, by its place in the volume. */
  protected override submitPiece(below: BdevIo): void {
    if (this.#isHolding) {
      this.#held.push(below);
      return;
    }
    const cluster = this.#clusterAt(below);
    if (cluster >= this.#map.length) {
      // It was held back while the volume became smaller; so may be what waits for a batch.
      this.#end(below, FAILED);
      return;
    }
    // Another reactor may have changed it: what its guest then saw done must be seen here.
    const entry = Atomics.load(this.#map, cluster);
    if (below.type === READ) {
      if (isMapped(entry)) this.#send(below, cluster, entry);
      else this.#readZeroes(below);
    } else if (this.#volume.isReadonly) this.#end(below, FAILED);
    else if (below.type === WRITE) {
      if (isOwn(entry)) this.#send(below, cluster, entry);
      else this.#wait(below);
    } else this.#clear(below, cluster, entry);
  }

  /** A discard, or zeroes. */
  #clear(below: BdevIo, cluster: number, entry: number): void {
    if (!isMapped(entry) || below.countBlocks === 0) this.#end(below, SUCCESS);
    else if (this.#givesBack(below)) this.#wait(below);
    else if (isInherited(entry)) {
      if (below.type === UNMAP) this.#end(below, SUCCESS);
      else this.#wait(below);
    } else if (below.type === UNMAP && !this.#baseCanUnmap) this.#end(below, SUCCESS);
    else this.#send(below, cluster, entry);
  }

  /** Whether a request does away with its cluster. */
  #givesBack(below: BdevIo): boolean {
    if (below.type === WRITE || below.countBlocks < this.#clusterBlocks || !this.#volume.isThin) return false;
    return !this.#volume.hasParent || this.#store.holes < this.#holesMax;
  }

  #clusterAt(below: BdevIo): number {
    return Math.floor(below.offsetBlocks / this.#clusterBlocks);
  }

  #send(below: BdevIo, cluster: number, entry: number): void {
    this.#active++;
    if (below.countBlocks === 0) {
      this.#finish(below, SUCCESS);
      return;
    }
    below.offsetBlocks += this.#dataBlock + (clusterOf(entry) - cluster) * this.#clusterBlocks;
    this.#base.submit(below);
  }

  #readZeroes(below: BdevIo): void {
    this.#zeroer.read(0, below.countBlocks, below.iovFirst, below.iovCount);
    this.#zeroer.run();
    this.#end(below, SUCCESS);
  }

  #end(below: BdevIo, status: IoStatus): void {
    this.#active++;
    this.#finish(below, status);
  }

  /** Ends a request here that no bdev below heard of. */
  #finish(below: BdevIo, status: IoStatus): void {
    below.account = null;
    below.complete(status);
  }

  override ioDone(below: BdevIo): void {
    this.#active--;
    super.ioDone(below);
    if (this.#isHolding) this.#countWhenQuiet();
  }

  // ---- batches ------------------------------------------------------------------------------------------------------

  #wait(below: BdevIo): void {
    this.#slow.push(below);
    if (!this.#isBatching) this.settleWake();
  }

  protected override get isStalled(): boolean {
    return this.#slow.length > 0 && !this.#isBatching && !this.#isHolding;
  }

  override poll(): number {
    if (this.isStalled) this.#beginBatch();
    return super.poll();
  }

  #beginBatch(): void {
    if (!this.#batch.prepare()) return;
    const store = this.#store;
    if (!store.tryLock()) {
      if (store.isShut) this.#tellMain();
      if (store.isBroken) this.#failSlow();
      return;
    }
    if (!store.hasLogRoom) {
      store.shut();
      store.unlock();
      this.#tellMain();
      return;
    }
    this.#isBatching = true;
    const changes = this.#gather();
    this.#tellMain();
    if (changes.length === 0) {
      store.unlock();
      this.#batchOver();
    } else this.#batch.run(changes, (isDone, isUnsure) => this.#batchEnded(isDone, isUnsure));
  }

  /** Goes through what waits: what to do about it is known only now. */
  #gather(): Change[] {
    const { page } = this.#batch;
    const changes: Change[] = [];
    const changed = new Set<number>();
    const waiting = this.#slow;
    this.#slow = [];
    page.begin();
    for (const below of waiting) {
      const cluster = this.#clusterAt(below);
      if (cluster >= this.#map.length) {
        this.#end(below, FAILED);
        continue;
      }
      const entry = Atomics.load(this.#map, cluster);
      if (changed.has(cluster)) {
        // Two writes to a cluster share it. What gives it back comes after them, and they after that.
        if (this.#givesBack(below) || this.#inBatch.some((other) => this.#isGivingBack(other, cluster))) {
          this.#slow.push(below);
        } else this.#inBatch.push(below);
        continue;
      }
      const isSimple = this.#givesBack(below) ? !isMapped(entry) : isOwn(entry);
      if (isSimple) {
        if (isMapped(entry)) this.#send(below, cluster, entry);
        else this.#end(below, SUCCESS);
        continue;
      }
      if (!page.hasRoom) {
        this.#slow.push(below);
        continue;
      }
      const change = this.#changeOf(below, cluster, entry);
      if (change === null) continue;
      changed.add(cluster);
      changes.push(change);
      page.addMap(this.#volume.id, cluster, change.entry);
      this.#inBatch.push(below);
    }
    return changes;
  }

  #isGivingBack(below: BdevIo, cluster: number): boolean {
    return this.#clusterAt(below) === cluster && this.#givesBack(below);
  }

  /** Null: it waits on, or has ended. */
  #changeOf(below: BdevIo, logical: number, entry: number): Change | null {
    if (this.#givesBack(below)) {
      const after = this.#volume.hasParent ? ZEROES : UNTOUCHED;
      return { logical, entry: after, copyOf: NO_CLUSTER, cluster: NO_CLUSTER };
    }
    const cluster = this.#store.takeReady();
    if (cluster === NO_CLUSTER) {
      if (this.#store.available > 0) this.#slow.push(below);
      else {
        this.#store.addRefusal();
        this.#tellMain();
        this.#end(below, NO_SPACE);
      }
      return null;
    }
    const copyOf = isInherited(entry) ? clusterOf(entry) : NO_CLUSTER;
    return { logical, entry: ownEntry(cluster), copyOf, cluster };
  }

  #batchEnded(isDone: boolean, isUnsure: boolean): void {
    const store = this.#store;
    const { changes } = this.#batch;
    if (isDone) for (const { logical, entry } of changes) this.#apply(logical, entry);
    else if (isUnsure) {
      // A log that ends in something that nobody knows is left: the main thread begins a new one. The clusters are
      // nobody's until the store is loaded again.
      store.shut();
      this.#tellMain();
    } else for (const { cluster } of changes) if (cluster !== NO_CLUSTER) store.setGoing(cluster);
    store.unlock();
    const done = this.#inBatch;
    this.#inBatch = [];
    for (const below of done) {
      if (!isDone) this.#end(below, FAILED);
      else this.#goOn(below);
    }
    this.#batchOver();
  }

  #goOn(below: BdevIo): void {
    const cluster = this.#clusterAt(below);
    const entry = Atomics.load(this.#map, cluster);
    if (isOwn(entry)) this.#send(below, cluster, entry);
    else this.#end(below, SUCCESS);
  }

  #apply(logical: number, entry: number): void {
    const store = this.#store;
    const before = this.#map[logical] as number;
    if (before === ZEROES) store.addHoles(-1);
    if (entry === ZEROES) store.addHoles(1);
    Atomics.store(this.#map, logical, entry);
    if (!isOwn(before)) return;
    store.setGoing(clusterOf(before));
    this.#volume.freed();
  }

  #batchOver(): void {
    this.#isBatching = false;
    this.settleWake();
    if (this.#isHolding) this.#countWhenQuiet();
  }

  #tellMain(): void {
    if (this.#store.tell()) this.#tell(this.#id, null);
  }

  #failSlow(): void {
    const waiting = this.#slow;
    this.#slow = [];
    for (const below of waiting) this.#end(below, FAILED);
    this.settleWake();
  }

  // ---- holding back -------------------------------------------------------------------------------------------------

  override update(description: BdevDescription): void {
    super.update(description);
    const map = description.params['map'] as SharedArrayBuffer;
    if (map !== this.#map.buffer) this.#map = new Int32Array(map);
    this.#look();
  }

  /** Whether the main thread wants what comes to be held back. */
  #look(): void {
    const { isHeld } = this.#volume;
    if (isHeld === this.#isHolding) return;
    this.#isHolding = isHeld;
    if (isHeld) {
      this.settleWake();
      this.#countWhenQuiet();
      return;
    }
    this.#isCounted = false;
    const waiting = this.#held;
    this.#held = [];
    for (const below of waiting) this.submitPiece(below);
    this.settleWake();
  }

  #countWhenQuiet(): void {
    if (this.#active > 0 || this.#isBatching || this.#isCounted) return;
    this.#isCounted = true;
    this.#volume.addHeld(1);
  }

  override close(): void {
    if (this.#isCounted) this.#volume.addHeld(-1);
    this.#volume.addChannel(-1);
    this.#batch.close();
    this.#zeroer.close();
    this.#zeroes.close();
    super.close();
  }
}
