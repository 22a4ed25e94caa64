/**
 * What users write their own disks with (docs/write-a-bdev.md). A file with a disk is loaded into a thread of its own;
 * its default export is what `defineDisk` returns.
 */

type Awaitable<T> = T | Promise<T>;

/**
 * A disk. Each function may be asynchronous; then several requests are under way at once, in any order. What a
 * function throws, or rejects with, fails its request: the guest sees an I/O error, the log has the stack.
 */
export interface Disk {
  /** Bytes: a multiple of `blockSize`. */
  readonly size: number;
  /** Bytes: 512, 1024, 2048 or 4096. Default: 512. Offsets and lengths are multiples of it. */
  readonly blockSize?: number;
  /**
   * The content is in this thread and nowhere else. Then a thread that crashed or hung is not started again, as a disk
   * that forgot what was written would be: every further request fails. Default: false.
   */
  readonly isVolatile?: boolean;
  /**
   * Fill `buffers`, one after the other, with what the disk holds from `offset` (bytes) on. They are the guest's own
   * memory: nothing is copied. They are yours until the function returns or its promise is settled; afterwards they
   * have length 0. The guest may change them meanwhile: what you check, copy first.
   */
  read(offset: number, buffers: readonly Uint8Array[]): Awaitable<void>;
  /** Keep the bytes of `buffers`, one after the other, from `offset` on. Without it the disk is read-only. */
  write?(offset: number, buffers: readonly Uint8Array[]): Awaitable<void>;
  /** Make stable what was written. Without it every write is taken to be stable when it ends. */
  flush?(): Awaitable<void>;
  /** The guest does not need these bytes any more. Whatever they read as afterwards is right. */
  discard?(offset: number, length: number): Awaitable<void>;
  /** These bytes read as zeroes from now on. Default: `write` with zeroes. */
  writeZeroes?(offset: number, length: number): Awaitable<void>;
  /** Take a new size in bytes, for `bdev_module_resize`. Without it the size is fixed. */
  resize?(size: number): Awaitable<void>;
  /** The disk was deleted, or the daemon ends: let go of everything. No request is under way. */
  close?(): Awaitable<void>;
}

export interface DiskContext {
  /** Of the bdev. */
  readonly name: string;
  /** A line in the daemon's log. */
  log(message: string): void;
}

/** Makes the disk. `options` are the `key=value` of the command. What it throws is the error of the create call. */
export type DiskSetup = (options: Readonly<Record<string, string>>, context: DiskContext) => Awaitable<Disk>;

/** What the file with a disk exports. */
export interface DiskDefinition {
  readonly setUp: DiskSetup;
}

/** A disk, or a function that makes one of the options it is given. */
export function defineDisk(disk: Disk | DiskSetup): DiskDefinition {
  return { setUp: typeof disk === 'function' ? disk : () => disk };
}
