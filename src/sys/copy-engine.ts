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

  constructor(arena: IovArena, capacity: number) {
    this.capacity = capacity;
    this.#memory = Mapping.anonymous(capacity * OPERATION_BYTES);
    const buffer = this.#views.view(this.#memory, 0, this.#memory.lengthBytes);
    this.#doubles = new Float64Array(buffer);
    this.#words = new Uint32Array(buffer);
    const id = native.copyEngineCreate(arena.address, arena.capacity, this.#memory.address, capacity);
    this.#id = checkErrno(id, 'cannot create a copy engine');
  }

  /** Copies `lengthBytes` from `address` into the segments. */
  read(address: number, lengthBytes: number, iovFirst: number, iovCount: number): void {
    this.#add(address, lengthBytes, Kind.read, iovFirst, iovCount);
  }

  /** Copies `lengthBytes` from the segments to `address`. */
  write(address: number, lengthBytes: number, iovFirst: number, iovCount: number): void {
    this.#add(address, lengthBytes, Kind.write, iovFirst, iovCount);
  }

  /** Zeroes `lengthBytes` at `address`; whole pages of a shared file mapping go back to the system. */
  zero(address: number, lengthBytes: number): void {
    this.#add(address, lengthBytes, Kind.zero, 0, 0);
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

  #add(address: number, lengthBytes: number, kind: number, iovFirst: number, iovCount: number): void {
    if (this.count === this.capacity) this.run();
    assert(address > 0 && lengthBytes >= 0, 'a copy has an address and a length');
    const at = this.count++;
    this.#doubles[at * 4] = address;
    this.#doubles[at * 4 + 1] = lengthBytes;
    this.#words[at * 8 + 4] = kind;
    this.#words[at * 8 + 5] = iovFirst;
    this.#words[at * 8 + 6] = iovCount;
  }
}
