/**
 * The region in which a back-end keeps what its rings have in flight (QEMU docs/interop/vhost-user.rst, "Inflight I/O
 * tracking"). The back-end makes it (GET_INFLIGHT_FD), the front-end keeps it and gives it to whoever serves it next
 * (SET_INFLIGHT_FD): one part a queue, each aligned to a cache line.
 */
import { TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { closeFd } from '../sys/events.ts';
import { createMemoryFile, fileInfo, Mapping } from '../sys/mapping.ts';
import { QUEUE_SIZE_MAX } from '../virtio/features.ts';
import { type InflightArea, inflightBytes } from '../virtio/ring-shape.ts';
import type { InflightDescription as Description } from './messages.ts';

const PART_ALIGNMENT = 64;
/** Counters are 8 bytes. */
const OFFSET_ALIGNMENT = 8;

/** A new region, zeroed: its descriptor, and what the reply says of it. Throws when the numbers are not possible. */
export function createInflightFile(
  asked: Description,
  queuesMax: number,
  isPacked: boolean,
): { fd: number; description: Description } {
  checkCounts(asked, queuesMax);
  const { queueCount, queueSize } = asked;
  const mmapSize = queueCount * partBytes(isPacked, queueSize);
  const fd = createMemoryFile('ringhost-inflight', mmapSize);
  return { fd, description: { mmapSize, mmapOffset: 0, queueCount, queueSize } };
}

/** A region as it is handed over. */
export interface InflightRecord {
  readonly description: Description;
  readonly fd: number;
}

export class InflightRegion {
  readonly #queueCount: number;
  readonly #queueSize: number;
  readonly #address: number;
  readonly #lengthBytes: number;
  readonly #mapping: Mapping;
  readonly #description: Description;
  /** Kept for whoever serves the front-end after us. */
  readonly #fd: number;

  /**
   * Takes the descriptor, whatever happens. Throws when the file does not hold what is said of it (CVE-2021-3839).
   * `isPacked`: the layout that was negotiated so far.
   */
  constructor(description: Description, queuesMax: number, isPacked: boolean, fd: number) {
    try {
      checkCounts(description, queuesMax);
      const { queueCount, queueSize, mmapSize, mmapOffset } = description;
      const needed = queueCount * partBytes(isPacked, queueSize);
      const info = fileInfo(fd);
      // Above 2^53 a sum is rounded, and no file is as large.
      if (mmapSize < needed || mmapOffset % OFFSET_ALIGNMENT !== 0 || mmapOffset + needed > info.sizeBytes) {
        const range = `${mmapSize} bytes at ${mmapOffset} of a file of ${info.sizeBytes}`;
        throw new TargetError('VHOST_INFLIGHT', `${range} are no in-flight region of ${needed} bytes`);
      }
      // The other layout may yet be negotiated.
      const useful = queueCount * partBytes(true, queueSize);
      this.#lengthBytes = Math.min(mmapSize, info.sizeBytes - mmapOffset, useful);
      this.#mapping = Mapping.shared(fd, mmapOffset + this.#lengthBytes, info);
      this.#address = this.#mapping.address + mmapOffset;
      this.#queueCount = queueCount;
      this.#queueSize = queueSize;
      this.#description = description;
      this.#fd = fd;
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  static load({ description, fd }: InflightRecord, queuesMax: number, fds: FdList): InflightRegion {
    // Which layout it was given for was checked then; it serves both.
    return new InflightRegion(description, queuesMax, false, fds.take(fd));
  }

  save(fds: FdList): InflightRecord {
    return { description: this.#description, fd: fds.put(this.#fd) };
  }

  /** The part of a ring of `size` entries; null when the region has none for it, or one that is too short. */
  part(index: number, size: number, isPacked: boolean): InflightArea | null {
    const entries = this.#queueSize;
    const bytes = partBytes(isPacked, entries);
    if (index >= this.#queueCount || size > entries || (index + 1) * bytes > this.#lengthBytes) return null;
    return { address: this.#address + index * bytes, entries };
  }

  /** True when the front-end cut off what it shares. */
  get wasTruncated(): boolean {
    return this.#mapping.wasTruncated;
  }

  /** No ring may use it. */
  close(): void {
    this.#mapping.close();
    closeFd(this.#fd);
  }
}

function checkCounts({ queueCount, queueSize }: Description, queuesMax: number): void {
  if (queueCount > 0 && queueCount <= queuesMax && queueSize > 0 && queueSize <= QUEUE_SIZE_MAX) return;
  throw new TargetError(
    'VHOST_INFLIGHT',
    `an in-flight region for ${queueCount} queues of ${queueSize} entries: at most ${queuesMax} of ${QUEUE_SIZE_MAX}`,
  );
}

function partBytes(isPacked: boolean, queueSize: number): number {
  return Math.ceil(inflightBytes(isPacked, queueSize) / PART_ALIGNMENT) * PART_ALIGNMENT;
}
