/**
 * One request in guest memory, whatever the device: a readable and a writable part, each cut into descriptors in any
 * way. Buffers stand between guard bytes, and what the device may only read is compared afterwards: a device that
 * writes where it must not is found.
 */
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import type { Completion, DriverQueue } from './driver-queue.ts';
import { NO_HEAD, type Segment } from './driver-ring.ts';
import type { OwnedMemory } from './owned-memory.ts';

/** How the parts are cut and placed. */
export interface RequestShape {
  /** Lengths of the readable descriptors. */
  readonly readable?: readonly number[];
  /** Lengths of the writable descriptors. */
  readonly writable?: readonly number[];
  /** Put the descriptors in an indirect table. Default false. */
  readonly isIndirect?: boolean;
  /** Guest physical address for a descriptor's buffer. It stays the caller's. Default: allocated. */
  readonly place?: (lengthBytes: number, isWritable: boolean) => number;
}

/** What the writable part holds before the device writes it. */
const DATA_UNTOUCHED = 0xa5;
const GUARD_BYTES = 32;
const GUARD = 0x5c;

export class RequestBuffers {
  readonly segments: Segment[] = [];
  readonly #memory: OwnedMemory;
  readonly #shape: RequestShape;
  readonly #readable: Uint8Array;
  readonly #writableBytes: number;
  /** Allocations to give back, and where each one's buffer starts and ends. */
  readonly #owned: { gpa: number; sizeBytes: number }[] = [];

  /** `readableCuts` and `writableCuts` count where the shape names none. */
  constructor(
    memory: OwnedMemory,
    readable: Uint8Array,
    writableBytes: number,
    shape: RequestShape,
    [readableCuts, writableCuts]: readonly [readable: readonly number[], writable: readonly number[]],
  ) {
    this.#memory = memory;
    this.#shape = shape;
    this.#readable = readable;
    this.#writableBytes = writableBytes;
    this.#cut(shape.readable ?? nonZero(readableCuts), readable.length, false);
    this.#cut(shape.writable ?? nonZero(writableCuts), writableBytes, true);
    let at = 0;
    for (const { gpa, lengthBytes, isWritable } of this.segments) {
      const untouched = new Uint8Array(lengthBytes).fill(DATA_UNTOUCHED);
      this.#memory.write(gpa, isWritable ? untouched : readable.subarray(at, at + lengthBytes));
      if (!isWritable) at += lengthBytes;
    }
  }

  /** Submits and waits. After a failure the device may still write to the buffers: they are not given back. */
  async exchange(queue: DriverQueue, timeoutMs: number): Promise<Completion & { readonly writable: Uint8Array }> {
    const { segments } = this;
    const { ring } = queue;
    const tableAddress = this.#shape.isIndirect === true ? this.#memory.allocate(16 * segments.length) : null;
    const head = tableAddress === null ? ring.addChain(segments) : ring.addIndirect(segments, tableAddress);
    assert(head !== NO_HEAD, 'the ring has room for the chain: make fewer requests at once');
    const { usedLen, order } = await queue.submit(head, timeoutMs);
    try {
      return { usedLen, order, writable: this.collect() };
    } finally {
      this.release();
      if (tableAddress !== null) this.#memory.release(tableAddress);
    }
  }

  /** The writable part as the device left it. Throws `STRAY_WRITE` when it wrote elsewhere too. */
  collect(): Uint8Array {
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
    if (Buffer.compare(readable, this.#readable) !== 0) throw strayWrite('into its readable part');
    this.#checkGuards();
    return writable;
  }

  /** Call when the device has given the chain back. */
  release(): void {
    for (const { gpa } of this.#owned.splice(0)) this.#memory.release(gpa);
  }

  /** Changes the last byte of the writable part, before the request is submitted. */
  pokeLastWritable(value: number): void {
    const last = this.segments.findLast(({ isWritable, lengthBytes }) => isWritable && lengthBytes > 0);
    if (last !== undefined) this.#memory.write(last.gpa + last.lengthBytes - 1, Uint8Array.of(value));
  }

  #cut(lengths: readonly number[], totalBytes: number, isWritable: boolean): void {
    const sum = lengths.reduce((a, b) => a + b, 0);
    assert(sum === totalBytes, `the cuts add up to the ${isWritable ? 'writable' : 'readable'} part`);
    for (const lengthBytes of lengths) {
      const gpa = this.#shape.place?.(lengthBytes, isWritable) ?? this.#allocate(lengthBytes);
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
}

/** Several pieces as one. */
export function concatenate(...pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

function nonZero(lengths: readonly number[]): number[] {
  return lengths.filter((length) => length > 0);
}

function strayWrite(where: string): TargetError {
  return new TargetError('STRAY_WRITE', `the device wrote ${where}`);
}
