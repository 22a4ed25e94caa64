/**
 * The copy engine: one native call a round for all copies between RAM disks and guest memory (native/copy.c).
 *
 * Operation record, 24 bytes: f64 disk address, f64 length, u32 first iovec, u32 iovec count (less than 2^16) and kind
 * above it.
 */
import { assert } from '../base/assert.ts';
import { checkErrno } from '../base/errors.ts';
import { Mapping, MappingViews } from './mapping.ts';
import { native } from './native.ts';
import { clockStamp, stepsBetween } from './thread.ts';
import { WriteWay } from './write-way.ts';

const OPERATION_BYTES = 24;
const OPERATION_DOUBLES = OPERATION_BYTES / 8;
const OPERATION_WORDS = OPERATION_BYTES / 4;
/** In the upper half of the last word. */
const Kind = { read: 0, write: 1 << 16, zero: 2 << 16, stream: 3 << 16, fill: 4 << 16 } as const;
const { read: READ, write: WRITE, zero: ZERO, stream: STREAM, fill: FILL } = Kind;
/**
 * Writes to a disk that no cache holds may go past the caches. Below this size what was written is likely to be read
 * from a cache soon.
 */
const LARGE_DISK_BYTES_MIN = 64 * 2 ** 20;

/** Where the entries of segment lists are: an arena, perhaps of another thread. */
export interface IovMemory {
  readonly address: number;
  readonly capacity: number;
}

export class CopyEngine {
  readonly capacity: number;
  /** Operations queued since the last `run`. */
  count = 0;
  readonly #id: number;
  readonly #doubles: Float64Array;
  readonly #words: Uint32Array;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();
  #address = 0;
  #blockSizeBytes = 0;
  /** Null for a disk that is not large. */
  #way: WriteWay | null = null;
  /** Copied by what is queued, and written by it. */
  #copiedBlocks = 0;
  #writtenBlocks = 0;
  #zeroKind: number = ZERO;

  constructor(arena: IovMemory, capacity: number) {
    this.capacity = capacity;
    this.#memory = Mapping.anonymous(capacity * OPERATION_BYTES);
    const buffer = this.#views.view(this.#memory, 0, this.#memory.lengthBytes);
    this.#doubles = new Float64Array(buffer);
    this.#words = new Uint32Array(buffer);
    const id = native.copyEngineCreate(arena.address, arena.capacity, this.#memory.address, capacity);
    this.#id = checkErrno(id, 'cannot create a copy engine');
  }

  /** Where the disk is: anonymous memory, private unless it `isShared`. What was queued is carried out first. */
  setDisk(address: number, blockSizeBytes: number, blockCount: number, isShared = false): void {
    assert(address > 0 && blockSizeBytes > 0, 'a disk has an address and a block size');
    this.run();
    this.#address = address;
    this.#blockSizeBytes = blockSizeBytes;
    const isLarge = blockCount * blockSizeBytes >= LARGE_DISK_BYTES_MIN;
    if (!isLarge) this.#way = null;
    else this.#way ??= new WriteWay(blockSizeBytes);
    this.#zeroKind = isShared ? FILL : ZERO;
  }

  /** Copies blocks from the disk into the segments. */
  read(block: number, blockCount: number, iovFirst: number, iovCount: number): void {
    this.#add(block, blockCount, READ, iovFirst, iovCount);
    this.#copiedBlocks += blockCount;
  }

  /** Copies blocks from the segments to the disk. */
  write(block: number, blockCount: number, iovFirst: number, iovCount: number): void {
    this.#add(block, blockCount, this.#way?.isPastCaches === true ? STREAM : WRITE, iovFirst, iovCount);
    this.#copiedBlocks += blockCount;
    this.#writtenBlocks += blockCount;
  }

  /** Zeroes blocks; whole pages of a large range go back to the system, but for shared memory. */
  zero(block: number, blockCount: number): void {
    this.#add(block, blockCount, this.#zeroKind, 0, 0);
  }

  /** Carries out what was queued, in order. */
  run(): void {
    if (this.count === 0) return;
    const way = this.#writtenBlocks > 0 ? this.#way : null;
    const isTimed = way?.isTimed === true;
    const start = isTimed ? clockStamp() : 0;
    // SAFETY: bdev offsets were checked against the disk's size, segments come from the memory map.
    native.copyEngineRun(this.#id, this.count);
    if (isTimed) way.timed(this.#copiedBlocks, stepsBetween(start, clockStamp()));
    if (way !== null) way.wrote(this.#writtenBlocks);
    this.count = 0;
    this.#copiedBlocks = 0;
    this.#writtenBlocks = 0;
  }

  close(): void {
    native.copyEngineClose(this.#id);
    this.#views.close();
    this.#memory.close();
  }

  // Takes blocks, not addresses: those are beyond the engine's small integers and would be boxed on the way here.
  #add(block: number, blockCount: number, kind: number, iovFirst: number, iovCount: number): void {
    if (this.count === this.capacity) this.run();
    const at = this.count++;
    this.#doubles[at * OPERATION_DOUBLES] = this.#address + block * this.#blockSizeBytes;
    this.#doubles[at * OPERATION_DOUBLES + 1] = blockCount * this.#blockSizeBytes;
    this.#words[at * OPERATION_WORDS + 4] = iovFirst;
    this.#words[at * OPERATION_WORDS + 5] = iovCount | kind;
  }
}
