/**
 * Requests that one reactor traced, on their way to the main thread: a ring in shared memory with one writer and one
 * reader. When it is full, requests are dropped, and counted.
 */
import { assert } from '../base/assert.ts';

/** What is known of a request. Times are CLOCK_MONOTONIC; 0 in `status` is success, whatever the device. */
export interface TracedRequest {
  readonly startNs: number;
  readonly endNs: number;
  /** Number of its queue, as the reactor gave it. */
  readonly queue: number;
  /** Number in `TRACED_TYPES`. */
  readonly type: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly status: number;
  /** CRC-32 of what a read brought, or `NO_HASH`. */
  readonly hash: number;
}

export const NO_HASH = -1;

/** Doubles of a request. */
const FIELDS = 8;
const HEADER_BYTES = 64;
const Header = { written: 0, read: 1, dropped: 2 } as const;

/** `capacity` is a power of two. */
export function createTraceRing(capacity: number): SharedArrayBuffer {
  assert((capacity & (capacity - 1)) === 0, 'the capacity of a trace ring is a power of two');
  return new SharedArrayBuffer(HEADER_BYTES + capacity * FIELDS * 8);
}

abstract class TraceRing {
  protected readonly header: Int32Array;
  protected readonly cells: Float64Array;
  protected readonly capacity: number;

  constructor(memory: SharedArrayBuffer) {
    this.header = new Int32Array(memory, 0, HEADER_BYTES / 4);
    this.cells = new Float64Array(memory, HEADER_BYTES);
    this.capacity = this.cells.length / FIELDS;
  }
}

export class TraceWriter extends TraceRing {
  write(
    startNs: number,
    endNs: number,
    queue: number,
    type: number,
    offsetBytes: number,
    lengthBytes: number,
    status: number,
    hash: number,
  ): void {
    const { header, cells } = this;
    const written = header[Header.written] as number;
    if (((written - Atomics.load(header, Header.read)) | 0) >= this.capacity) {
      header[Header.dropped] = (header[Header.dropped] as number) + 1;
      return;
    }
    const at = (written & (this.capacity - 1)) * FIELDS;
    cells[at] = startNs;
    cells[at + 1] = endNs;
    cells[at + 2] = queue;
    cells[at + 3] = type;
    cells[at + 4] = offsetBytes;
    cells[at + 5] = lengthBytes;
    cells[at + 6] = status;
    cells[at + 7] = hash;
    // What was written above is seen before this.
    Atomics.store(header, Header.written, (written + 1) | 0);
  }
}

export class TraceReader extends TraceRing {
  /** Since the ring was made. */
  get dropped(): number {
    return (this.header[Header.dropped] as number) >>> 0;
  }

  /** The oldest requests, at most `max`. */
  read(max: number): TracedRequest[] {
    const { header, cells } = this;
    const first = header[Header.read] as number;
    const count = Math.min((Atomics.load(header, Header.written) - first) | 0, max);
    const requests = Array.from({ length: count }, (_, index): TracedRequest => {
      const at = ((first + index) & (this.capacity - 1)) * FIELDS;
      const cell = (field: number): number => cells[at + field] as number;
      return {
        startNs: cell(0),
        endNs: cell(1),
        queue: cell(2),
        type: cell(3),
        offsetBytes: cell(4),
        lengthBytes: cell(5),
        status: cell(6),
        hash: cell(7),
      };
    });
    // Only now may the writer use their places again.
    Atomics.store(header, Header.read, (first + count) | 0);
    return requests;
  }
}
