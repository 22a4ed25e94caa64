/**
 * The memory that a front-end shares with us: regions mapped from its descriptors, after every number in them was
 * checked (CVE-2018-1059, DPDK c6420a3632: overflow of offset and size).
 */
import { TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { MEMORY_SLOTS_MAX } from '../base/limits.ts';
import type { MemoryRegionInfo } from '../memory/guest-memory.ts';
import { sharedMemory } from '../sys/dma.ts';
import { closeFd } from '../sys/events.ts';
import { fileInfo, Mapping } from '../sys/mapping.ts';

/** As it stands in a message. */
export interface RegionDescription {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  readonly userAddress: number;
  readonly mmapOffset: number;
}

/** A region as it is handed over. */
export interface RegionRecord extends RegionDescription {
  readonly fd: number;
}

class MappedRegion implements MemoryRegionInfo {
  readonly #mmapOffset: number;
  /** Kept for whoever serves the front-end after us. */
  readonly #fd: number;
  readonly guestAddress: number;
  readonly sizeBytes: number;
  readonly userAddress: number;
  readonly hostAddress: number;
  readonly mapping: Mapping;

  constructor(description: RegionDescription, mapping: Mapping, fd: number) {
    this.#mmapOffset = description.mmapOffset;
    this.#fd = fd;
    this.guestAddress = description.guestAddress;
    this.sizeBytes = description.sizeBytes;
    this.userAddress = description.userAddress;
    this.hostAddress = mapping.address + description.mmapOffset;
    this.mapping = mapping;
    sharedMemory.add(mapping);
  }

  save(fds: FdList): RegionRecord {
    const { guestAddress, sizeBytes, userAddress } = this;
    return { guestAddress, sizeBytes, userAddress, mmapOffset: this.#mmapOffset, fd: fds.put(this.#fd) };
  }

  close(): void {
    sharedMemory.remove(this.mapping);
    this.mapping.close();
    closeFd(this.#fd);
  }
}

const S_IFMT = 0o170000;
const S_IFREG = 0o100000;

export class MemoryTable {
  #regions: MappedRegion[] = [];

  /** As plain data, for the reactors. */
  get regions(): MemoryRegionInfo[] {
    return this.#regions.map(({ guestAddress, sizeBytes, userAddress, hostAddress }) => ({
      guestAddress,
      sizeBytes,
      userAddress,
      hostAddress,
    }));
  }

  get count(): number {
    return this.#regions.length;
  }

  get totalBytes(): number {
    return this.#regions.reduce((sum, region) => sum + region.sizeBytes, 0);
  }

  /** True when a front-end cut off memory that it shares. */
  get wasTruncated(): boolean {
    return this.#regions.some((region) => region.mapping.wasTruncated);
  }

  /** Maps one more region. Takes the descriptor, whatever happens. */
  add(description: RegionDescription, fd: number): void {
    try {
      if (this.#regions.length >= MEMORY_SLOTS_MAX) {
        throw new TargetError('VHOST_MEM_SLOTS', `more than ${MEMORY_SLOTS_MAX} memory regions`);
      }
      this.#check(description);
      this.#regions.push(new MappedRegion(description, mapRegion(description, fd), fd));
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  save(fds: FdList): RegionRecord[] {
    return this.#regions.map((region) => region.save(fds));
  }

  load(records: readonly RegionRecord[], fds: FdList): void {
    for (const record of records) this.add(record, fds.take(record.fd));
  }

  /** Throws when no region has exactly these addresses and this size. No queue may use the memory. */
  remove(description: RegionDescription): void {
    const index = this.#regions.findIndex((region) => isSame(region, description));
    if (index < 0) throw new TargetError('VHOST_MEM_REGION', `there is no memory region ${format(description)}`);
    this.#regions[index]?.close();
    this.#regions.splice(index, 1);
  }

  has(description: RegionDescription): boolean {
    return this.#regions.some((region) => isSame(region, description));
  }

  /** No queue may use the memory. */
  clear(): void {
    for (const region of this.#regions) region.close();
    this.#regions = [];
  }

  #check(description: RegionDescription): void {
    const { guestAddress, sizeBytes, userAddress, mmapOffset } = description;
    const ends = [guestAddress + sizeBytes, userAddress + sizeBytes, mmapOffset + sizeBytes];
    if (sizeBytes === 0 || ends.some((end) => end > Number.MAX_SAFE_INTEGER)) {
      throw new TargetError('VHOST_MEM_REGION', `memory region ${format(description)} has an impossible size`);
    }
    for (const other of this.#regions) {
      const isApart =
        guestAddress + sizeBytes <= other.guestAddress || other.guestAddress + other.sizeBytes <= guestAddress;
      if (!isApart) {
        throw new TargetError('VHOST_MEM_REGION', `memory region ${format(description)} overlaps ${format(other)}`);
      }
    }
  }
}

function mapRegion(description: RegionDescription, fd: number): Mapping {
  const info = fileInfo(fd);
  const needed = description.mmapOffset + description.sizeBytes;
  if ((info.mode & S_IFMT) === S_IFREG && needed > info.sizeBytes) {
    throw new TargetError(
      'VHOST_MEM_REGION',
      `memory region ${format(description)} ends at byte ${needed} of a file of ${info.sizeBytes} bytes`,
    );
  }
  return Mapping.shared(fd, needed, info);
}

function isSame(region: MemoryRegionInfo, description: RegionDescription): boolean {
  return (
    region.guestAddress === description.guestAddress &&
    region.userAddress === description.userAddress &&
    region.sizeBytes === description.sizeBytes
  );
}

function format(region: { guestAddress: number; sizeBytes: number }): string {
  return `0x${region.guestAddress.toString(16)}+0x${region.sizeBytes.toString(16)}`;
}
