/**
 * A RAM disk with a volatile write cache, for tests: what it would hold were the power cut now can be looked at, again
 * and again, while its guest goes on.
 */
import { randomUUID } from 'node:crypto';
import { Mapping } from '../../../sys/mapping.ts';
import type { Bdev, BdevConfig, PlainParams } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import type { MemoryBudget } from '../malloc/malloc.ts';
import { sharedStateOf, WriteCache } from './write-cache.ts';

/** As it is seen, as it is stable, and as a cut would leave it. */
const COPIES = 3;

export interface PowerCutParams {
  readonly name: string;
  readonly blockCount: number;
  readonly blockSizeBytes: number;
  readonly uuid?: string | undefined;
  /** Flushes succeed and do nothing, as with disks that lie. */
  readonly ignoresFlush: boolean;
}

export class PowerCutBdev implements Bdev {
  readonly kind = 'powercut';
  readonly productName = 'Power-cut disk';
  readonly hasWriteCache = true;
  readonly ioTypes = [IoType.read, IoType.write, IoType.flush, IoType.unmap, IoType.writeZeroes] as const;
  readonly unmapReadsZeroes = true;
  readonly name: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  readonly blockCount: number;
  readonly #ignoresFlush: boolean;
  readonly #budget: MemoryBudget;
  readonly #mapping: Mapping;
  readonly #shared: SharedArrayBuffer;
  readonly cache: WriteCache;

  /** Throws `ENOMEM`. */
  constructor(params: PowerCutParams, budget: MemoryBudget) {
    this.name = params.name;
    this.uuid = params.uuid?.toLowerCase() ?? randomUUID();
    this.blockSizeBytes = params.blockSizeBytes;
    this.physicalBlockSizeBytes = params.blockSizeBytes;
    this.blockCount = params.blockCount;
    this.#ignoresFlush = params.ignoresFlush;
    this.#budget = budget;
    const sizeBytes = this.blockCount * this.blockSizeBytes;
    budget.take(COPIES * sizeBytes);
    this.#mapping = Mapping.anonymous(COPIES * sizeBytes);
    this.#shared = sharedStateOf(sizeBytes);
    this.cache = new WriteCache(this.#mapping, this.#shared);
  }

  params(): PlainParams {
    const { address, lengthBytes } = this.#mapping;
    return { address, lengthBytes, shared: this.#shared, ignoresFlush: this.#ignoresFlush };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    return { powercut: { ignore_flush: this.#ignoresFlush } };
  }

  toConfig(): BdevConfig {
    const { name, blockCount, blockSizeBytes, uuid } = this;
    const params = { name, num_blocks: blockCount, block_size: blockSizeBytes, uuid, ignore_flush: this.#ignoresFlush };
    return { method: 'bdev_powercut_create', params };
  }

  async destruct(): Promise<void> {
    this.cache.close();
    this.#mapping.close();
    this.#budget.take(-COPIES * this.blockCount * this.blockSizeBytes);
  }
}
