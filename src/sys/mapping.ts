/**
 * Mapped memory. The only place from which host addresses come: memory/ turns them into segment addresses, and the copy
 * engine, io_uring and DMA consume them.
 */
import { assert } from '../base/assert.ts';
import { checkErrno } from '../base/errors.ts';
import { native } from './native.ts';

/** What a mapping is, as plain data that another thread can make views from. */
export interface MappingInfo {
  /** Host virtual address of the first byte. */
  readonly address: number;
  readonly lengthBytes: number;
}

export interface FileInfo {
  readonly sizeBytes: number;
  /** Granule of mmap offsets and lengths: 4096, or the hugepage size on hugetlbfs. */
  readonly pageSizeBytes: number;
  /** st_mode. */
  readonly mode: number;
}

const NO_FD = -1;
const NO_GUARD = -1;
const PAGE_BYTES = 4096;

/** `madvise` advice values (asm-generic/mman-common.h). */
const Advice = { dontNeed: 4, hugePage: 14, collapse: 25 } as const;

export class Mapping implements MappingInfo {
  readonly address: number;
  readonly lengthBytes: number;
  #guardSlot: number;
  #isOpen = true;

  private constructor(address: number, lengthBytes: number, guardSlot: number) {
    this.address = address;
    this.lengthBytes = lengthBytes;
    this.#guardSlot = guardSlot;
  }

  /** Zeroed private memory, given back to the system by `close`. */
  static anonymous(lengthBytes: number): Mapping {
    return Mapping.#map(NO_FD, 0, lengthBytes, PAGE_BYTES, false);
  }

  /** A shared mapping of a file or memfd. `guarded`: survives a truncation of the file, see `wasTruncated`. */
  static file(
    fd: number,
    offsetBytes: number,
    lengthBytes: number,
    options: { pageSizeBytes?: number; guarded?: boolean } = {},
  ): Mapping {
    return Mapping.#map(fd, offsetBytes, lengthBytes, options.pageSizeBytes ?? PAGE_BYTES, options.guarded ?? false);
  }

  /** The first `lengthBytes` of a file that a peer shares, in whole pages; survives its truncation. */
  static shared(fd: number, lengthBytes: number, { pageSizeBytes }: FileInfo): Mapping {
    // An offset in a file need not be page-aligned, so that mappings start at its start. Hugepages want whole pages.
    const wholeBytes = Math.ceil(lengthBytes / pageSizeBytes) * pageSizeBytes;
    return Mapping.#map(fd, 0, wholeBytes, pageSizeBytes, true);
  }

  static #map(fd: number, offset: number, length: number, pageSize: number, guarded: boolean): Mapping {
    const out = new Float64Array(2);
    checkErrno(native.mapMemory(fd, offset, length, pageSize, guarded, out), `cannot map ${length} bytes`);
    return new Mapping(out[0] as number, length, out[1] as number);
  }

  /** True when pages were lost because the file was truncated; zeroes stand in their place. */
  get wasTruncated(): boolean {
    return this.#guardSlot !== NO_GUARD && native.guardWasHit(this.#guardSlot) === 1;
  }

  /** Asks for huge pages where the kernel allows them; a hint, so its failure is not an error. */
  preferHugePages(): void {
    native.advise(this.address, this.lengthBytes, Advice.hugePage);
  }

  /** Makes huge pages of a range at once, where the kernel can (Linux 6.1). False when it does not. */
  collapse(offsetBytes: number, lengthBytes: number): boolean {
    return native.advise(this.address + offsetBytes, lengthBytes, Advice.collapse) === 0;
  }

  /** Zeroes everything from an offset on: whole pages of anonymous memory go back to the system. */
  giveBackFrom(offsetBytes: number): void {
    const pageOffset = Math.min(Math.ceil(offsetBytes / PAGE_BYTES) * PAGE_BYTES, this.lengthBytes);
    const views = new MappingViews();
    new Uint8Array(views.view(this, offsetBytes, pageOffset - offsetBytes)).fill(0);
    views.close();
    native.advise(this.address + pageOffset, this.lengthBytes - pageOffset, Advice.dontNeed);
  }

  /** Every view must be detached, and every I/O on the memory finished, in every thread. */
  close(): void {
    assert(this.#isOpen, 'a mapping is closed once');
    this.#isOpen = false;
    checkErrno(native.unmapMemory(this.address, this.lengthBytes, this.#guardSlot), 'cannot unmap memory');
  }
}

/**
 * Views of mapped memory that can be taken back: `close` detaches every ArrayBuffer, after which a typed array over it
 * has length 0 and reads `undefined` instead of touching unmapped memory.
 */
export class MappingViews {
  #buffers: ArrayBuffer[] = [];

  /** Bytes `[offset, offset + length)` of the mapping. */
  view(mapping: MappingInfo, offsetBytes: number, lengthBytes: number): ArrayBuffer {
    assert(
      offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= mapping.lengthBytes,
      'a view stays inside its mapping',
    );
    // SAFETY: inside the mapping (asserted); the owner closes views before it closes the mapping.
    const buffer = native.viewMemory(mapping.address + offsetBytes, lengthBytes);
    this.#buffers.push(buffer);
    return buffer;
  }

  close(): void {
    for (const buffer of this.#buffers) native.detachView(buffer);
    this.#buffers = [];
  }
}

/** A new memfd. `hugepageSizeBytes` 0 for ordinary pages. Of a sealed one nobody can change the size. */
export function createMemoryFile(name: string, sizeBytes: number, hugepageSizeBytes = 0, isSealed = false): number {
  const fd = native.createMemoryFile(name, sizeBytes, hugepageSizeBytes, isSealed);
  return checkErrno(fd, `cannot create ${sizeBytes} bytes`);
}

export function truncateFile(fd: number, sizeBytes: number): void {
  checkErrno(native.truncateFile(fd, sizeBytes), `cannot set a file's size to ${sizeBytes} bytes`);
}

export function fileInfo(fd: number): FileInfo {
  const out = new Float64Array(3);
  checkErrno(native.fileInfo(fd, out), 'cannot inspect a file descriptor');
  return { sizeBytes: out[0] as number, pageSizeBytes: out[1] as number, mode: out[2] as number };
}

/**
 * Becomes readable when a guarded mapping of this process lost pages. Owned by the addon: watch it, do not close it.
 */
export function truncationEventFd(): number {
  return checkErrno(native.guardEventFd(), 'cannot install the SIGBUS guard');
}
