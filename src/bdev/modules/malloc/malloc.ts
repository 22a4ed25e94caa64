/**
 * The RAM disk: anonymous memory, which the system backs by huge pages where it has them (they make random access a
 * fifth faster), page by page as it is used. Addresses are reserved beyond its size, so that it grows in place. Writes
 * are stable as far as memory is: there is no write cache to flush.
 */
import { randomUUID } from 'node:crypto';
import { TargetError } from '../../../base/errors.ts';
import { Mapping } from '../../../sys/mapping.ts';
import type { Bdev, BdevConfig, PlainParams } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';

/** Addresses reserved for a disk, as far as there are so many: a multiple of its size, and at least so many bytes. */
const RESERVED_FACTOR = 8;
const RESERVED_BYTES_MIN = 16 * 2 ** 30;

export interface MallocParams {
  readonly name: string;
  readonly blockCount: number;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes?: number | undefined;
  readonly uuid?: string | undefined;
}

/** What is left of the memory reserved for RAM disks (`-s`). */
export class MemoryBudget {
  readonly limitBytes: number;
  #usedBytes = 0;

  /** `Infinity` for no limit. */
  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  /** Throws `ENOMEM` when fewer bytes are left. Negative to give back. */
  take(bytes: number): void {
    if (this.#usedBytes + bytes > this.limitBytes) {
      const leftMib = Math.floor((this.limitBytes - this.#usedBytes) / 2 ** 20);
      throw new TargetError('ENOMEM', `only ${leftMib} MiB are left for RAM disks: start the daemon with a larger -s`);
    }
    this.#usedBytes += bytes;
  }
}

export class MallocBdev implements Bdev {
  readonly kind = 'malloc';
  readonly productName = 'Malloc disk';
  readonly hasWriteCache = false;
  readonly ioTypes = [IoType.read, IoType.write, IoType.flush, IoType.unmap, IoType.writeZeroes] as const;
  /** To unmap is to fill with zeroes. */
  readonly unmapReadsZeroes = true;
  readonly name: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  blockCount: number;
  readonly #budget: MemoryBudget;
  readonly #mapping: Mapping;

  /** Throws `ENOMEM`. */
  constructor(params: MallocParams, budget: MemoryBudget) {
    this.name = params.name;
    this.uuid = params.uuid?.toLowerCase() ?? randomUUID();
    this.blockSizeBytes = params.blockSizeBytes;
    this.physicalBlockSizeBytes = params.physicalBlockSizeBytes ?? params.blockSizeBytes;
    this.blockCount = params.blockCount;
    this.#budget = budget;
    const size = this.blockCount * this.blockSizeBytes;
    budget.take(size);
    try {
      this.#mapping = reserve(size);
    } catch (error) {
      budget.take(-size);
      throw error;
    }
  }

  /** Nobody may use blocks past the new size. Throws `ENOMEM`. */
  resize(blockCount: number): void {
    const before = this.blockCount * this.blockSizeBytes;
    const after = blockCount * this.blockSizeBytes;
    if (after > this.#mapping.lengthBytes) {
      const limitMib = Math.floor(this.#mapping.lengthBytes / 2 ** 20);
      throw new TargetError(
        'ENOMEM',
        `bdev "${this.name}" can grow to ${limitMib} MiB: for more, create it again with a larger size`,
      );
    }
    this.#budget.take(after - before);
    // What comes back by growing is zeroes.
    if (after < before) this.#mapping.giveBackFrom(after);
    this.blockCount = blockCount;
  }

  params(): PlainParams {
    return { address: this.#mapping.address };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    return {};
  }

  toConfig(): BdevConfig {
    return {
      method: 'bdev_malloc_create',
      params: {
        name: this.name,
        num_blocks: this.blockCount,
        block_size: this.blockSizeBytes,
        physical_block_size: this.physicalBlockSizeBytes,
        uuid: this.uuid,
      },
    };
  }

  async destruct(): Promise<void> {
    this.#mapping.close();
    this.#budget.take(-this.blockCount * this.blockSizeBytes);
  }
}

/** Reserves addresses for a disk of `sizeBytes`, and room to grow as far as the address space has it. */
function reserve(sizeBytes: number): Mapping {
  for (let length = Math.max(sizeBytes * RESERVED_FACTOR, RESERVED_BYTES_MIN); ; length /= 2) {
    try {
      const mapping = Mapping.anonymous(Math.max(length, sizeBytes));
      mapping.preferHugePages();
      return mapping;
    } catch (error) {
      if (length <= sizeBytes) throw error;
    }
  }
}
