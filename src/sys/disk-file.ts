/** Files as disks: what one says of itself, and transfers that do not wait (native/uring.c). */
import { checkErrno } from '../base/errors.ts';
import type { IovArena } from './iov-arena.ts';
import { native } from './native.ts';

export interface DiskInfo {
  readonly sizeBytes: number;
  /** 0 for a file. */
  readonly logicalBlockBytes: number;
  /** 0 for a file. */
  readonly physicalBlockBytes: number;
  /** What O_DIRECT wants of addresses; 0 when it cannot be used or the kernel does not say (before Linux 6.1). */
  readonly memoryAlignment: number;
  /** What O_DIRECT wants of offsets and lengths; 0 likewise. */
  readonly offsetAlignment: number;
  /** The file lives in memory: tmpfs or ramfs. */
  readonly isInMemory: boolean;
}

/** linux/magic.h */
const TMPFS_MAGIC = 0x0102_1994;
const RAMFS_MAGIC = 0x8584_58f6;

export function diskInfo(fd: number): DiskInfo {
  const out = new Float64Array(6);
  checkErrno(native.diskInfo(fd, out), 'cannot inspect the file');
  const [size = 0, logical = 0, physical = 0, memory = 0, offset = 0, fileSystem = 0] = out;
  return {
    sizeBytes: size,
    logicalBlockBytes: logical,
    physicalBlockBytes: physical,
    memoryAlignment: memory,
    offsetAlignment: offset,
    isInMemory: logical === 0 && (fileSystem === TMPFS_MAGIC || fileSystem === RAMFS_MAGIC),
  };
}

const RECORD = 5;
const RWF_NOWAIT = 8;

/** Transfers of one round that are carried out in one call. */
export class TransferBatch {
  count = 0;
  readonly capacity: number;
  readonly #fd: number;
  readonly #flags: number;
  readonly #records: Float64Array;

  /** `mayWait`: also when that means to wait, as it does in a file in memory only for memory itself. */
  constructor(fd: number, capacity: number, mayWait: boolean) {
    this.capacity = capacity;
    this.#fd = fd;
    this.#flags = mayWait ? 0 : RWF_NOWAIT;
    this.#records = new Float64Array(capacity * RECORD);
  }

  /** There is room: `count` is below `capacity`. `offsets[index]` is where in the file. */
  add(
    isWrite: boolean,
    offsets: Float64Array,
    index: number,
    arena: IovArena,
    iovFirst: number,
    iovCount: number,
  ): void {
    const at = this.count++ * RECORD;
    this.#records[at] = isWrite ? 1 : 0;
    arena.storeEntryAddress(iovFirst, this.#records, at + 1);
    this.#records[at + 2] = iovCount;
    this.#records[at + 3] = offsets[index] as number;
  }

  run(): void {
    // SAFETY: segments come from the memory map, and the kernel checks their addresses.
    native.transferNow(this.#fd, this.#flags, this.#records, this.count);
  }

  /** Bytes, or a negative errno: -EAGAIN when it would have to wait, -ENOTSUP when it cannot be asked not to. */
  result(index: number): number {
    return this.#records[index * RECORD + 4] as number;
  }
}
