/**
 * The RAM disk: anonymous memory, or a file in memory that outlives the daemon. The system backs it by huge pages where
 * it has them (they make random access a fifth faster), anonymous memory page by page as it is used. Addresses are
 * reserved beyond its size, so that it grows in place. Writes are stable as far as memory is: there is no write cache
 * to flush.
 */
import { randomUUID } from 'node:crypto';
import { TargetError } from '../../../base/errors.ts';
import { Mapping } from '../../../sys/mapping.ts';
import type { Bdev, BdevConfig, Handover, PlainParams } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { HandedMemory, MemoryCopy, PIECE_BYTES } from './handed-memory.ts';
import { SharedMemory } from './shared-memory.ts';

/** Addresses reserved for a disk, as far as there are so many: a multiple of its size, and at least so many bytes. */
const RESERVED_FACTOR = 8;
const RESERVED_BYTES_MIN = 16 * 2 ** 30;
/** Making huge pages of a memory that was handed over, 2 MiB in some milliseconds, while the daemon before serves. */
const COLLAPSE_MS_MAX = 5_000;

export interface MallocParams {
  readonly name: string;
  readonly blockCount: number;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes?: number | undefined;
  readonly uuid?: string | undefined;
  /** Where its bytes are; it has at least its size. Closed with the disk. Default: memory that goes with the daemon. */
  readonly memory?: SharedMemory | HandedMemory | undefined;
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
  readonly #memory: SharedMemory | HandedMemory | undefined;
  readonly #mapping: Mapping;
  /** While it is handed over, of anonymous memory. */
  #copy: MemoryCopy | null = null;

  /** Throws `ENOMEM`. */
  constructor(params: MallocParams, budget: MemoryBudget) {
    this.name = params.name;
    this.uuid = params.uuid?.toLowerCase() ?? randomUUID();
    this.blockSizeBytes = params.blockSizeBytes;
    this.physicalBlockSizeBytes = params.physicalBlockSizeBytes ?? params.blockSizeBytes;
    this.blockCount = params.blockCount;
    this.#budget = budget;
    this.#memory = params.memory;
    const size = this.blockCount * this.blockSizeBytes;
    budget.take(size);
    try {
      this.#mapping = reserve(size, this.#memory);
    } catch (error) {
      budget.take(-size);
      throw error;
    }
  }

  /** Before `resize`: resolves when the memory for so many blocks is there. Throws `ENOSPC`, `EINVAL`. */
  async prepare(blockCount: number): Promise<void> {
    if (this.#memory === undefined) return;
    if (blockCount < this.blockCount && this.#memory instanceof SharedMemory) {
      // What is beyond the end would come back with the next growth, or the next daemon.
      throw new TargetError('EINVAL', `bdev "${this.name}" is in shared memory, and can only grow`);
    }
    await this.#memory.grow(blockCount * this.blockSizeBytes);
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
    if (this.#memory instanceof HandedMemory) this.#memory.resize(after);
    else if (after < before) this.#mapping.giveBackFrom(after);
    this.blockCount = blockCount;
  }

  params(): PlainParams {
    const written = this.#copy === null ? {} : { written: this.#copy.written.memory };
    return { address: this.#mapping.address, isShared: this.#memory !== undefined, ...written };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const memory = this.#memory;
    return memory instanceof SharedMemory ? { shm: { name: memory.name, path: memory.path } } : {};
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
        ...(this.#memory instanceof SharedMemory ? { shm_name: this.#memory.name } : {}),
      },
    };
  }

  /** Throws `ENOMEM` when there is no room for a copy of what is in the memory of this process. */
  async handOver(tell: () => Promise<void>): Promise<Handover> {
    if (this.#memory !== undefined) return { fds: [this.#memory.fd] };
    const copy = new MemoryCopy(this.name, this.#mapping, this.blockCount * this.blockSizeBytes);
    this.#copy = copy;
    const keep = (): void => {
      this.#copy = null;
      copy.close();
      void tell().catch(() => undefined);
    };
    try {
      await tell();
      await copy.copyAll();
    } catch (error) {
      keep();
      throw new TargetError('ENOMEM', `bdev "${this.name}" cannot be copied: ${(error as Error).message}`);
    }
    const { fd, pieces } = copy;
    return { fds: [fd], about: { pieces }, catchUp: () => copy.catchUp(), settle: () => copy.settle(), keep };
  }

  /** Of memory that was handed over: huge pages for these pieces of it. */
  collapse(pieces: readonly number[]): void {
    const deadline = performance.now() + COLLAPSE_MS_MAX;
    for (const piece of pieces) {
      const [at, end] = [piece * PIECE_BYTES, (piece + 1) * PIECE_BYTES];
      if (end > this.blockCount * this.blockSizeBytes || performance.now() > deadline) return;
      if (!this.#mapping.collapse(at, PIECE_BYTES)) return;
    }
  }

  async destruct(): Promise<void> {
    this.#copy?.close();
    this.#mapping.close();
    this.#memory?.close();
    this.#budget.take(-this.blockCount * this.blockSizeBytes);
  }

  forget(): void {
    if (this.#memory instanceof SharedMemory) this.#memory.remove();
  }
}

/** Reserves addresses for a disk of `sizeBytes`, and room to grow as far as the address space has it. */
function reserve(sizeBytes: number, memory: { readonly fd: number } | undefined): Mapping {
  for (let length = Math.max(sizeBytes * RESERVED_FACTOR, RESERVED_BYTES_MIN); ; length /= 2) {
    try {
      const lengthBytes = Math.max(length, sizeBytes);
      // Whoever truncates the file makes holes of zeroes in the disk, and does not end the daemon.
      const mapping =
        memory === undefined
          ? Mapping.anonymous(lengthBytes)
          : Mapping.file(memory.fd, 0, lengthBytes, { guarded: true });
      mapping.preferHugePages();
      return mapping;
    } catch (error) {
      if (length <= sizeBytes) throw error;
    }
  }
}
