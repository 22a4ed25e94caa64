/** Fetches into the cache what a batch of descriptor chains will be read from (native/prefetch.c). */
import { checkErrno } from '../base/errors.ts';
import { native } from './native.ts';

/** Where a range of guest addresses is in this process. */
interface HostRegion {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  readonly hostAddress: number;
}

const CLOSED = -1;
/** In place of the available ring's entries: the descriptors are those of a packed ring. */
const IS_PACKED = 0;

export class ChainPrefetch {
  #id: number;

  private constructor(descriptorAddress: number, entriesAddress: number, size: number, regions: readonly HostRegion[]) {
    const flat = regions.flatMap(({ guestAddress, sizeBytes, hostAddress }) => [guestAddress, sizeBytes, hostAddress]);
    const id = native.prefetchCreate(descriptorAddress, entriesAddress, size, new Float64Array(flat));
    this.#id = checkErrno(id, 'cannot prepare a ring');
  }

  /** Addresses are host addresses: of the descriptor table, and of the available ring's entries. */
  static ofSplit(descriptors: number, entries: number, size: number, regions: readonly HostRegion[]): ChainPrefetch {
    return new ChainPrefetch(descriptors, entries, size, regions);
  }

  /** The host address of the descriptor ring. */
  static ofPacked(descriptors: number, size: number, regions: readonly HostRegion[]): ChainPrefetch {
    return new ChainPrefetch(descriptors, IS_PACKED, size, regions);
  }

  /** Split ring: of `count` available entries, from position `first` on, modulo the size of the ring. */
  run(first: number, count: number): void {
    // SAFETY: reads only inside the ring and the regions, which stay mapped until `close`.
    native.prefetchRun(this.#id, first, count);
  }

  /**
   * Packed ring: how many chains are available from place `first` on, in the turn with this wrap counter; at most 128.
   * What the driver wrote before it made them available is seen by the reads that follow.
   */
  look(first: number, wrap: number): number {
    // SAFETY: as above.
    return native.prefetchLook(this.#id, first, wrap);
  }

  /** May be called again. */
  close(): void {
    if (this.#id !== CLOSED) native.prefetchClose(this.#id);
    this.#id = CLOSED;
  }
}
