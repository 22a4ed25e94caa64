/**
 * Copies the chains of a round out of the guest, all with one call (native/gather.c): those of the usual shape into
 * records, private memory of this thread. The others are left to whoever asked.
 */
import { checkErrno } from '../base/errors.ts';
import { CHAINS_PER_ROUND_MAX } from '../base/limits.ts';
import { Mapping, MappingViews } from './mapping.ts';
import { native } from './native.ts';

/** Chains of one call: BATCH_MAX there. */
export const GATHERED_MAX = CHAINS_PER_ROUND_MAX;
/** Words of a record. */
export const RECORD_WORDS = 32;
/**
 * Where in a record they are. `count`: buffers, at most 4; 0 for a chain of another shape, of which only that is known.
 * `header0` and the two after it: words 0, 2 and 3 of the readable part. `head` of a packed ring: the chain's id in the
 * lower half, and how many descriptors of the ring it has in the upper.
 */
export const RecordWord = {
  head: 0,
  count: 1,
  readableCount: 2,
  readableBytes: 3,
  writableBytes: 4,
  header0: 5,
  header2: 6,
  header3: 7,
  buffers: 8,
} as const;
/** Words of each buffer of a record, and where in them its guest address, its place in this process and its window. */
export const BUFFER_WORDS = 6;
export const BufferWord = { guestLow: 0, guestHigh: 1, length: 2, hostLow: 3, hostHigh: 4, window: 5 } as const;

const MEMORY = Mapping.anonymous(GATHERED_MAX * RECORD_WORDS * 4);
/** One for all rings of a thread: they are for the round that asked for them. */
export const RECORDS = new Int32Array(new MappingViews().view(MEMORY, 0, MEMORY.lengthBytes));

/** Where a range of guest addresses is in this process. */
interface HostWindow {
  readonly start: number;
  readonly end: number;
  readonly hostAddress: number;
}

const CLOSED = -1;
/** In place of the available ring's entries: the descriptors are those of a packed ring. */
const IS_PACKED = 0;
const { gatherRun, gatherLook } = native;
/** Whose chains the records are. */
let owner = CLOSED;

export class ChainGather {
  #id: number;

  private constructor(descriptorAddress: number, entriesAddress: number, size: number, windows: readonly HostWindow[]) {
    const flat = new Float64Array(windows.flatMap(({ start, end, hostAddress }) => [start, end - start, hostAddress]));
    const id = native.gatherCreate(descriptorAddress, entriesAddress, size, flat, MEMORY.address);
    this.#id = checkErrno(id, 'cannot prepare a ring');
  }

  /** Addresses are host addresses: of the descriptor table, and of the available ring's entries. */
  static ofSplit(descriptors: number, entries: number, size: number, windows: readonly HostWindow[]): ChainGather {
    return new ChainGather(descriptors, entries, size, windows);
  }

  /** The host address of the descriptor ring. */
  static ofPacked(descriptors: number, size: number, windows: readonly HostWindow[]): ChainGather {
    return new ChainGather(descriptors, IS_PACKED, size, windows);
  }

  /** The records are of the last chains that this ring asked for. */
  get isOwner(): boolean {
    return owner === this.#id;
  }

  /** Split ring: of `count` available entries, from position `first` on, modulo the size of the ring. */
  run(first: number, count: number): void {
    owner = this.#id;
    // SAFETY: reads only inside the ring and the windows, which stay mapped until `close`; writes only the records.
    gatherRun(this.#id, first, count);
  }

  /**
   * Packed ring: how many chains are available from place `first` on, in the turn with this wrap counter; at most
   * `GATHERED_MAX`, each with its record. What the driver wrote before it made them available is seen by the reads that
   * follow.
   */
  look(first: number, wrap: number): number {
    owner = this.#id;
    // SAFETY: as above.
    return gatherLook(this.#id, first, wrap);
  }

  /** May be called again. */
  close(): void {
    if (this.isOwner) owner = CLOSED;
    if (this.#id !== CLOSED) native.gatherClose(this.#id);
    this.#id = CLOSED;
  }
}
