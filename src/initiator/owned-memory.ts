/**
 * The guest memory that an initiator owns: memfd regions at guest physical addresses of its choice, shared with the
 * back-end by SET_MEM_TABLE or ADD_MEM_REG. Gaps, many regions, hugepages and one memfd behind several regions are
 * possible, as virtual machines have them.
 *
 * Not `src/memory`, which is the back-end's view of memory that somebody else owns.
 */
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import { closeFd } from '../sys/events.ts';
import { createMemoryFile, Mapping, MappingViews, truncateFile } from '../sys/mapping.ts';
import { RangeAllocator } from './range-allocator.ts';

const PAGE_BYTES = 4096;
const DEFAULT_ALIGNMENT = 16;

/** Where a lone region goes by default: above 4 GiB, so that addresses need all their bits. */
const DEFAULT_GUEST_ADDRESS = 2 ** 32;

export interface OwnedRegionOptions {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  /** Back the region by hugepages of this size (2 MiB: 2097152). Default 0: ordinary pages. */
  readonly hugepageSizeBytes?: number;
  /** Bytes of the memfd before the region's first byte, a multiple of the page size. Default 0. */
  readonly mmapOffset?: number;
  /** Use the memfd of this region, which must outlive this one. Give `mmapOffset` too. */
  readonly sameFileAs?: OwnedRegion;
  /** Front-end virtual address announced to the back-end. Default: the real one. */
  readonly userAddress?: number;
  /** Survive `truncate`: lost pages read as zeroes in this process. Default false. */
  readonly isGuarded?: boolean;
  /** Nobody who has its descriptor can change its size: `truncate` fails. Default false. */
  readonly isSealed?: boolean;
}

/** One region as SET_MEM_TABLE describes it, with the descriptor that goes along. */
export interface RegionDescription {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  readonly userAddress: number;
  readonly mmapOffset: number;
  readonly fd: number;
}

export class OwnedRegion implements RegionDescription {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  readonly userAddress: number;
  readonly mmapOffset: number;
  readonly fd: number;
  /** The region's memory. Detached by `close`. */
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array;
  readonly allocator: RangeAllocator;
  readonly #ownsFd: boolean;
  readonly #mapping: Mapping;
  readonly #views = new MappingViews();

  constructor(options: OwnedRegionOptions) {
    const { guestAddress, sizeBytes, hugepageSizeBytes = 0, mmapOffset = 0, sameFileAs } = options;
    assert(guestAddress >= 0 && sizeBytes > 0, 'a region has an address and a size');
    this.guestAddress = guestAddress;
    this.sizeBytes = sizeBytes;
    this.mmapOffset = mmapOffset;
    this.#ownsFd = sameFileAs === undefined;
    const fileBytes = mmapOffset + sizeBytes;
    if (sameFileAs === undefined) {
      this.fd = createMemoryFile('ringhost-initiator', fileBytes, hugepageSizeBytes, options.isSealed);
    } else {
      this.fd = sameFileAs.fd;
      if (fileBytes > sameFileAs.mmapOffset + sameFileAs.sizeBytes) truncateFile(this.fd, fileBytes);
    }
    this.#mapping = Mapping.file(this.fd, mmapOffset, sizeBytes, {
      pageSizeBytes: hugepageSizeBytes === 0 ? PAGE_BYTES : hugepageSizeBytes,
      guarded: options.isGuarded ?? false,
    });
    this.userAddress = options.userAddress ?? this.#mapping.address;
    this.buffer = this.#views.view(this.#mapping, 0, sizeBytes);
    this.bytes = new Uint8Array(this.buffer);
    this.allocator = new RangeAllocator(guestAddress, guestAddress + sizeBytes);
  }

  /**
   * Cuts the memfd, as a hostile guest may. Unless the region is guarded, this process must not touch lost pages again.
   * `sizeBytes` counts from the region's first byte.
   */
  truncate(sizeBytes: number): void {
    truncateFile(this.fd, this.mmapOffset + sizeBytes);
  }

  /** Detaches the views and unmaps. The back-end keeps its own mapping. */
  close(): void {
    this.#views.close();
    this.#mapping.close();
    if (this.#ownsFd) closeFd(this.fd);
  }
}

export class OwnedMemory {
  readonly #regions: OwnedRegion[] = [];

  constructor(regions: readonly OwnedRegionOptions[]) {
    for (const options of regions) this.add(options);
  }

  /** One region of ordinary pages. */
  static single(sizeBytes: number, guestAddress = DEFAULT_GUEST_ADDRESS): OwnedMemory {
    return new OwnedMemory([{ guestAddress, sizeBytes }]);
  }

  get regions(): readonly OwnedRegion[] {
    return this.#regions;
  }

  /** Adds a region (the back-end must be told by SET_MEM_TABLE or ADD_MEM_REG). */
  add(options: OwnedRegionOptions): OwnedRegion {
    const region = new OwnedRegion(options);
    this.#regions.push(region);
    return region;
  }

  /** Unmaps a region in which nothing lives any more. */
  remove(region: OwnedRegion): void {
    const at = this.#regions.indexOf(region);
    assert(at >= 0, 'a region is removed once');
    this.#regions.splice(at, 1);
    region.close();
  }

  /** Guest physical address of `sizeBytes` free bytes in one region. Contents are whatever was there. */
  allocate(sizeBytes: number, options: { alignment?: number; region?: OwnedRegion } = {}): number {
    const { alignment = DEFAULT_ALIGNMENT, region } = options;
    for (const candidate of region === undefined ? this.#regions : [region]) {
      const gpa = candidate.allocator.take(sizeBytes, alignment);
      if (gpa >= 0) return gpa;
    }
    throw new TargetError('ENOMEM', `the initiator's guest memory has no ${sizeBytes} bytes left: give it more`);
  }

  /** Gives back what `allocate` returned. */
  release(gpa: number): void {
    const isOurs = this.regionOf(gpa)?.allocator.release(gpa) ?? false;
    assert(isOurs, 'guest memory is released once, by the address it was allocated at');
  }

  regionOf(gpa: number): OwnedRegion | undefined {
    return this.#regions.find((r) => gpa >= r.guestAddress && gpa < r.guestAddress + r.sizeBytes);
  }

  /** View of bytes that lie in one region. */
  bytes(gpa: number, lengthBytes: number): Uint8Array {
    const region = this.#regionAround(gpa, lengthBytes);
    const offset = gpa - region.guestAddress;
    return region.bytes.subarray(offset, offset + lengthBytes);
  }

  uint16s(gpa: number, count: number): Uint16Array {
    const region = this.#regionAround(gpa, 2 * count);
    return new Uint16Array(region.buffer, gpa - region.guestAddress, count);
  }

  uint32s(gpa: number, count: number): Uint32Array {
    const region = this.#regionAround(gpa, 4 * count);
    return new Uint32Array(region.buffer, gpa - region.guestAddress, count);
  }

  /** Copies in; may cross into an adjacent region. */
  write(gpa: number, data: Uint8Array): void {
    for (let done = 0; done < data.length; ) {
      const part = this.#run(gpa + done, data.length - done);
      part.set(data.subarray(done, done + part.length));
      done += part.length;
    }
  }

  /** Copies out; may cross into an adjacent region. */
  read(gpa: number, lengthBytes: number): Uint8Array {
    const data = new Uint8Array(lengthBytes);
    for (let done = 0; done < lengthBytes; ) {
      const part = this.#run(gpa + done, lengthBytes - done);
      data.set(part, done);
      done += part.length;
    }
    return data;
  }

  /** Front-end virtual address of a guest physical one, as SET_VRING_ADDR wants it. */
  userAddressOf(gpa: number): number {
    const region = this.#regionAround(gpa, 1);
    return region.userAddress + (gpa - region.guestAddress);
  }

  close(): void {
    for (const region of this.#regions.splice(0)) region.close();
  }

  #regionAround(gpa: number, lengthBytes: number): OwnedRegion {
    const region = this.regionOf(gpa);
    const isInside = region !== undefined && gpa + lengthBytes <= region.guestAddress + region.sizeBytes;
    if (!isInside) throw new TargetError('EFAULT', `no region holds ${lengthBytes} bytes at 0x${gpa.toString(16)}`);
    return region;
  }

  /** As many of the bytes from `gpa` on as one region holds. */
  #run(gpa: number, lengthBytes: number): Uint8Array {
    const region = this.#regionAround(gpa, 1);
    return this.bytes(gpa, Math.min(lengthBytes, region.guestAddress + region.sizeBytes - gpa));
  }
}
