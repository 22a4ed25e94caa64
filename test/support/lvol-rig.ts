/** Stores of volumes with reactors of this thread: the main thread's side and the channels, as the daemon has them. */

import { SILENT } from '../../src/base/log.ts';
import type { Bdev } from '../../src/bdev/bdev.ts';
import { Jobs } from '../../src/bdev/jobs.ts';
import { Lvols } from '../../src/bdev/modules/lvol/lvols.ts';
import { MallocBdev, MemoryBudget } from '../../src/bdev/modules/malloc/malloc.ts';
import { type BdevEntry, BdevRegistry } from '../../src/bdev/registry.ts';
import type { ReactorBlocks } from '../../src/vhost/block-service.ts';
import { MainThreadIo } from './main-thread-io.ts';

export const CLUSTER_BYTES = 16 * 1024;

export class LvolRig {
  readonly registry: BdevRegistry;
  readonly lvols: Lvols;
  readonly jobs = new Jobs();
  readonly #sides: readonly MainThreadIo[];

  constructor(registry = new BdevRegistry(2), reactors = 2) {
    this.registry = registry;
    this.#sides = Array.from({ length: reactors }, () => new MainThreadIo(registry));
    this.lvols = new Lvols(registry, this.blocks(0), this.jobs, SILENT);
  }

  /** What a guest on this reactor does. */
  blocks(reactor = 1): ReactorBlocks {
    return (this.#sides[reactor % this.#sides.length] as MainThreadIo).blocks;
  }

  add(bdev: Bdev): BdevEntry {
    return this.registry.create(bdev.name, bdev.uuid, () => bdev);
  }

  addMalloc(name: string, bytes: number, blockSizeBytes = 512): BdevEntry {
    const budget = new MemoryBudget(Number.POSITIVE_INFINITY);
    return this.add(new MallocBdev({ name, blockCount: bytes / blockSizeBytes, blockSizeBytes }, budget));
  }

  async close(): Promise<void> {
    await this.jobs.close();
    for (const entry of this.registry.list().toReversed()) if (!entry.isRemoving) await this.registry.delete(entry);
    for (const side of this.#sides) side.close();
  }
}
