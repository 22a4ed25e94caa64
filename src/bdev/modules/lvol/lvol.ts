/** A volume of a store as a bdev. */
import { type Bdev, type Handover, NOTHING_TO_HAND_OVER, type PlainParams } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import type { BdevEntry } from '../../registry.ts';
import { holesMax } from './format.ts';
import type { LvolStore } from './store.ts';
import type { Volume } from './volumes.ts';

const CHANGING: readonly IoType[] = [IoType.write, IoType.unmap, IoType.writeZeroes];

export class LvolBdev implements Bdev {
  readonly kind = 'lvol';
  readonly productName = 'Logical Volume';
  readonly store: LvolStore;
  readonly volume: Volume;

  constructor(store: LvolStore, volume: Volume) {
    this.store = store;
    this.volume = volume;
  }

  /** As SPDK has it: the name that people give is the alias. */
  get name(): string {
    return this.volume.uuid;
  }

  get uuid(): string {
    return this.volume.uuid;
  }

  get alias(): string {
    return `${this.store.name}/${this.volume.name}`;
  }

  get blockSizeBytes(): number {
    return this.#base.bdev.blockSizeBytes;
  }

  get physicalBlockSizeBytes(): number {
    return this.#base.bdev.physicalBlockSizeBytes;
  }

  get blockCount(): number {
    return (this.volume.clusterCount * this.store.geometry.clusterBytes) / this.blockSizeBytes;
  }

  get hasWriteCache(): boolean {
    return this.#base.bdev.hasWriteCache;
  }

  get ioTypes(): readonly IoType[] {
    const types = [...this.#base.bdev.ioTypes, IoType.unmap];
    const isServed = (type: IoType): boolean => !this.volume.isReadonly || !CHANGING.includes(type);
    return Object.values(IoType).filter((type) => types.includes(type) && isServed(type));
  }

  params(): PlainParams {
    const { store, volume } = this;
    const { clusterBytes, dataPage } = store.geometry;
    return {
      ...{ store: store.memory.buffer, volume: volume.memory.buffer, map: volume.map.buffer },
      ...{ clusterBytes, dataPage, holesMax: holesMax(store.geometry) },
    };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const { store, volume } = this;
    const { parent, children } = store.familyOf(volume);
    return {
      lvol: {
        lvol_store_uuid: store.uuid,
        base_bdev: store.base.name,
        thin_provision: volume.isThin,
        num_allocated_clusters: volume.ownCount,
        snapshot: volume.isSnapshot,
        clone: parent !== null,
        ...(parent === null ? {} : { base_snapshot: parent.name }),
        ...(children.length === 0 ? {} : { clones: children.map(({ name }) => name) }),
        esnap_clone: false,
      },
    };
  }

  /** The store brings its volumes back. */
  toConfig(): readonly [] {
    return [];
  }

  /** The store hands over all there is to know. */
  handOver(): Handover {
    return NOTHING_TO_HAND_OVER;
  }

  /** A channel needs the log, or clusters. */
  hear(): void {
    this.store.attend();
  }

  async destruct(): Promise<void> {
    this.store.bdevGone(this.volume);
  }

  get #base(): BdevEntry {
    return this.store.base;
  }
}
