/**
 * I/O of the main thread, which has no channels of its own: a reactor does it as it does that of guests. The room that
 * has the reactors implements it (vhost/block-service.ts).
 */
import type { BdevDescription } from './bdev.ts';
import type { IoType } from './bdev-io.ts';
import type { JobControl } from './job-control.ts';
import type { BdevEntry } from './registry.ts';

/** Of one read or write. */
export const ACCESS_BYTES_MAX = 2 ** 20;

/** First block and how many. */
export type BlockRange = readonly [first: number, count: number];

/** Something that is done to all blocks of some ranges. */
export interface Transfer {
  /** `write` copies what `source` has in the same blocks; other types have no data. */
  readonly type: IoType;
  readonly target: BdevEntry;
  readonly source?: BdevEntry;
  readonly ranges: readonly BlockRange[];
}

/** Every call rejects with `EIO` when the bdev fails it; one that is deleted meanwhile waits for the end of it. */
export interface BlockAccess {
  read(entry: BdevEntry, firstBlock: number, blockCount: number): Promise<Buffer>;
  write(entry: BdevEntry, firstBlock: number, bytes: Uint8Array): Promise<void>;
  flush(entry: BdevEntry): Promise<void>;
  /** Piece by piece, then a flush of the target. Ends early, without an error, when it is cancelled. */
  transfer(transfer: Transfer, control: JobControl): Promise<void>;
}

// What goes to a reactor.

export interface AccessCall {
  readonly bdev: BdevDescription;
  readonly type: IoType;
  readonly firstBlock: number;
  readonly blockCount: number;
  /** Of a write. */
  readonly bytes: Uint8Array | null;
}

export interface TransferCall {
  readonly type: IoType;
  readonly target: BdevDescription;
  readonly source: BdevDescription | null;
  readonly ranges: readonly BlockRange[];
  /** Of a `JobControl`. */
  readonly control: SharedArrayBuffer;
}
