/**
 * The RAM disk: a memfd, so that it can grow in place and, later, outlive the daemon. Writes are stable as far as
 * memory is: there is no write cache to flush.
 */
import { randomUUID } from 'node:crypto';
import { TargetError } from '../../../base/errors.ts';
import { closeFd } from '../../../sys/events.ts';
import { createMemoryFile, Mapping, truncateFile } from '../../../sys/mapping.ts';
import type { Bdev, BdevConfig, PlainParams } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';

/** UTF-16 units of a memfd's name that surely fit, with up to 3 bytes each. It is seen in /proc only. */
const FILE_NAME_MAX = 64;

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
  readonly #fd: number;
  readonly #budget: MemoryBudget;
  #mapping: Mapping;
  /** Replaced by a resize; reactors may use it until they were told of the new one. */
  #oldMapping: Mapping | null = null;

  constructor(params: MallocParams, budget: MemoryBudget) {
    this.name = params.name;
    this.uuid = params.uuid?.toLowerCase() ?? randomUUID();
    this.blockSizeBytes = params.blockSizeBytes;
    this.physicalBlockSizeBytes = params.physicalBlockSizeBytes ?? params.blockSizeBytes;
    this.blockCount = params.blockCount;
    this.#budget = budget;
    const size = this.blockCount * this.blockSizeBytes;
    budget.take(size);
    let fd = -1;
    try {
      fd = createMemoryFile(`ringhost-${params.name}`.slice(0, FILE_NAME_MAX), size);
      this.#mapping = mapDisk(fd, size);
    } catch (error) {
      if (fd >= 0) closeFd(fd);
      budget.take(-size);
      throw error;
    }
    this.#fd = fd;
  }

  /** Changes the size. Call `finishResize` when every reactor uses the new description. Throws `EBUSY` before that. */
  beginResize(blockCount: number): void {
    if (this.#oldMapping !== null) {
      throw new TargetError('EBUSY', `bdev "${this.name}" is being resized: try again when that is done`);
    }
    const before = this.blockCount * this.blockSizeBytes;
    const after = blockCount * this.blockSizeBytes;
    this.#budget.take(after - before);
    try {
      truncateFile(this.#fd, after);
      const mapping = mapDisk(this.#fd, after);
      this.#oldMapping = this.#mapping;
      this.#mapping = mapping;
    } catch (error) {
      this.#budget.take(before - after);
      throw error;
    }
    this.blockCount = blockCount;
  }

  finishResize(): void {
    this.#oldMapping?.close();
    this.#oldMapping = null;
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
    this.finishResize();
    this.#mapping.close();
    closeFd(this.#fd);
    this.#budget.take(-this.blockCount * this.blockSizeBytes);
  }
}

function mapDisk(fd: number, lengthBytes: number): Mapping {
  const mapping = Mapping.file(fd, 0, lengthBytes);
  mapping.preferHugePages();
  return mapping;
}
