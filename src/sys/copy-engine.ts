/**
 * The copy engine: one native call a round for all copies between RAM disks and guest memory (native/copy.c).
 *
 * Operation record, 32 bytes: f64 disk address, f64 length, u32 kind, u32 first iovec, u32 iovec count, u32 unused.
 */
import { assert } from '../base/assert.ts';
import { checkErrno } from '../base/errors.ts';
import type { IovArena } from './iov-arena.ts';
import { Mapping, MappingViews } from './mapping.ts';
import { native } from './native.ts';

const OPERATION_BYTES = 32;
const Kind = { read: 0, write: 1, zero: 2 } as const;

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

  constructor(arena: IovArena, capacity: number) {
    this.capacity = capacity;
    this.#memory = Mapping.anonymous(capacity * OPERATION_BYTES);
    const buffer = this.#views.view(this.#memory, 0, this.#memory.lengthBytes);
    this.#doubles = new Float64Array(buffer);
    this.#words = new Uint32Array(buffer);
    const id = native.copyEngineCreate(arena.address, arena.capacity, this.#memory.address, capacity);
    this.#id = checkErrno(id, 'cannot create a copy engine');
  }

  /** Where the disk is. What was queued is carried out first. */
  setDisk(address: number, blockSizeBytes: number): void {
    assert(address > 0 && blockSizeBytes > 0, 'a disk has an address and a block size');
    this.run();
    this.#address = address;
    this.#blockSizeBytes = blockSizeBytes;
  }

  /** Copies blocks from the disk into the segments. */
  read(block: number, blockCount: number, iovFirst: number, iovCount: number): void {
    this.#add(block, blockCount, Kind.read, iovFirst, iovCount);
  }

  /** Copies blocks from the segments to the disk. */
  write(block: number, blockCount: number, iovFirst: number, iovCount: number): void {
    this.#add(block, blockCount, Kind.write, iovFirst, iovCount);
  }

  /** Zeroes blocks; whole pages of a shared file mapping go back to the system. */
  zero(block: number, blockCount: number): void {
    this.#add(block, blockCount, Kind.zero, 0, 0);
  }

  /** Carries out what was queued, in order. */
  run(): void {
    if (this.count === 0) return;
    // SAFETY: bdev offsets were checked against the disk's size, segments come from the memory map.
    native.copyEngineRun(this.#id, this.count);
    this.count = 0;
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
    this.#doubles[at * 4] = this.#address + block * this.#blockSizeBytes;
    this.#doubles[at * 4 + 1] = blockCount * this.#blockSizeBytes;
    this.#words[at * 8 + 4] = kind;
    this.#words[at * 8 + 5] = iovFirst;
    this.#words[at * 8 + 6] = iovCount;
  }
}
