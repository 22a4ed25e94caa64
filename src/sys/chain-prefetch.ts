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

export class ChainPrefetch {
  #id: number;

  /** Addresses are host addresses: of the descriptor table, and of the available ring's entries. */
  constructor(descriptorAddress: number, entriesAddress: number, size: number, regions: readonly HostRegion[]) {
    const flat = regions.flatMap(({ guestAddress, sizeBytes, hostAddress }) => [guestAddress, sizeBytes, hostAddress]);
    const id = native.prefetchCreate(descriptorAddress, entriesAddress, size, new Float64Array(flat));
    this.#id = checkErrno(id, 'cannot prepare a ring');
  }

  /** Of `count` available entries, from position `first` on, modulo the size of the ring. */
  run(first: number, count: number): void {
    // SAFETY: reads only inside the ring and the regions, which stay mapped until `close`.
    native.prefetchRun(this.#id, first, count);
  }

  /** May be called again. */
  close(): void {
    if (this.#id !== CLOSED) native.prefetchClose(this.#id);
    this.#id = CLOSED;
  }
}
