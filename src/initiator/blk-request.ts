/**
 * One virtio-blk request in guest memory (virtio 1.3 §5.2.6), cut into descriptors in any way. Buffers stand between
 * guard bytes, and what the device may only read is compared afterwards: a device that writes where it must not is
 * found.
 */
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import { BLK_HEADER_BYTES } from '../virtio/blk.ts';
import type { OwnedMemory } from './owned-memory.ts';
import type { Segment } from './split-driver-ring.ts';

export interface BlkRequest {
  readonly type: number;
  /** Second word of the header: reserved, formerly a priority. Default 0. */
  readonly ioprio?: number;
  /** In 512-byte units. Default 0. */
  readonly sector?: number | bigint;
  /** Data for the device. */
  readonly out?: Uint8Array;
  /** Room for data from the device, in bytes. */
  readonly inBytes?: number;
  /** Bytes at the end of the writable part; the last is the status. Default 1. */
  readonly statusBytes?: number;
  /** Replaces the 16-byte header. */
  readonly header?: Uint8Array;
  /** Lengths of the readable descriptors. Default: the header, then the data if there is any. */
  readonly readable?: readonly number[];
  /** Lengths of the writable descriptors. Default: the data if there is any, then the status. */
  readonly writable?: readonly number[];
  /** Put the descriptors in an indirect table. Default false. */
  readonly isIndirect?: boolean;
  /** Queue that carries the request. Default 0. */
  readonly queue?: number;
  /** Guest physical address for a descriptor's buffer. It stays the caller's. Default: allocated. */
  readonly place?: (lengthBytes: number, isWritable: boolean) => number;
}

export interface BlkResult {
  /** Last byte of the writable part; `STATUS_UNTOUCHED` when the device did not write it. */
  readonly status: number;
  readonly usedLen: number;
  /** The data-in part. */
  readonly data: Uint8Array;
  /** The whole writable part. */
  readonly writable: Uint8Array;
  /** Place in the order in which the queue's requests completed. */
  readonly order: number;
}

/** What the status byte holds before the device writes it. */
export const STATUS_UNTOUCHED = 0xff;
/** What the rest of the writable part holds before. */
const DATA_UNTOUCHED = 0xa5;
const GUARD_BYTES = 32;
const GUARD = 0x5c;

export class BlkRequestBuffers {
  readonly segments: Segment[] = [];
  readonly #memory: OwnedMemory;
  readonly #request: BlkRequest;
  readonly #readable: Uint8Array;
  readonly #writableBytes: number;
  /** Allocations to give back, and where each one's buffer starts and ends. */
  readonly #owned: { gpa: number; sizeBytes: number }[] = [];

  constructor(memory: OwnedMemory, request: BlkRequest) {
    this.#memory = memory;
    this.#request = request;
    const header = request.header ?? encodeHeader(request);
    const out = request.out ?? new Uint8Array(0);
    this.#readable = new Uint8Array(header.length + out.length);
    this.#readable.set(header);
    this.#readable.set(out, header.length);
    const { inBytes = 0, statusBytes = 1 } = request;
    this.#writableBytes = inBytes + statusBytes;
    this.#cut(request.readable ?? nonZero(header.length, out.length), this.#readable.length, false);
    this.#cut(request.writable ?? nonZero(inBytes, statusBytes), this.#writableBytes, true);
    let at = 0;
    for (const { gpa, lengthBytes, isWritable } of this.segments) {
      const untouched = new Uint8Array(lengthBytes).fill(DATA_UNTOUCHED);
      this.#memory.write(gpa, isWritable ? untouched : this.#readable.subarray(at, at + lengthBytes));
      if (!isWritable) at += lengthBytes;
    }
    this.#pokeLastWritable(STATUS_UNTOUCHED);
  }

  /** What the device made of it. Throws `BLK_STRAY_WRITE` when it wrote outside the writable part. */
  collect(usedLen: number, order: number): BlkResult {
    const writable = new Uint8Array(this.#writableBytes);
    const readable = new Uint8Array(this.#readable.length);
    let readAt = 0;
    let writeAt = 0;
    for (const { gpa, lengthBytes, isWritable } of this.segments) {
      const bytes = this.#memory.read(gpa, lengthBytes);
      if (isWritable) {
        writable.set(bytes, writeAt);
        writeAt += lengthBytes;
      } else {
        readable.set(bytes, readAt);
        readAt += lengthBytes;
      }
    }
    if (!isEqual(readable, this.#readable)) throw strayWrite('into its readable part');
    this.#checkGuards();
    const status = writable.at(-1) ?? STATUS_UNTOUCHED;
    return { status, usedLen, order, writable, data: writable.subarray(0, this.#request.inBytes ?? 0) };
  }

  /** Call when the device has given the chain back. */
  release(): void {
    for (const { gpa } of this.#owned.splice(0)) this.#memory.release(gpa);
  }

  #cut(lengths: readonly number[], totalBytes: number, isWritable: boolean): void {
    const sum = lengths.reduce((a, b) => a + b, 0);
    assert(sum === totalBytes, `the cuts add up to the ${isWritable ? 'writable' : 'readable'} part`);
    for (const lengthBytes of lengths) {
      const gpa = this.#request.place?.(lengthBytes, isWritable) ?? this.#allocate(lengthBytes);
      this.segments.push({ gpa, lengthBytes, isWritable });
    }
  }

  #allocate(sizeBytes: number): number {
    const gpa = this.#memory.allocate(sizeBytes + 2 * GUARD_BYTES);
    this.#owned.push({ gpa, sizeBytes });
    this.#memory.bytes(gpa, GUARD_BYTES).fill(GUARD);
    this.#memory.bytes(gpa + GUARD_BYTES + sizeBytes, GUARD_BYTES).fill(GUARD);
    return gpa + GUARD_BYTES;
  }

  #checkGuards(): void {
    for (const { gpa, sizeBytes } of this.#owned) {
      const before = this.#memory.bytes(gpa, GUARD_BYTES);
      const after = this.#memory.bytes(gpa + GUARD_BYTES + sizeBytes, GUARD_BYTES);
      if (before.some((byte) => byte !== GUARD)) throw strayWrite('before a buffer');
      if (after.some((byte) => byte !== GUARD)) throw strayWrite('past the end of a buffer');
    }
  }

  #pokeLastWritable(value: number): void {
    const last = this.segments.findLast(({ isWritable, lengthBytes }) => isWritable && lengthBytes > 0);
    if (last !== undefined) this.#memory.write(last.gpa + last.lengthBytes - 1, Uint8Array.of(value));
  }
}

function encodeHeader({ type, ioprio = 0, sector = 0 }: BlkRequest): Uint8Array {
  const header = new Uint8Array(BLK_HEADER_BYTES);
  const view = new DataView(header.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, ioprio, true);
  view.setBigUint64(8, BigInt(sector), true);
  return header;
}

function nonZero(...lengths: number[]): number[] {
  return lengths.filter((length) => length > 0);
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function strayWrite(where: string): TargetError {
  return new TargetError('BLK_STRAY_WRITE', `the device wrote ${where}`);
}
