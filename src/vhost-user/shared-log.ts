/** The dirty log that a front-end shares while its guest migrates (docs/interop/vhost-user.rst, "Migration"). */
import { TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { WINDOW_BYTES } from '../base/limits.ts';
import { closeFd } from '../sys/events.ts';
import { fileInfo, Mapping } from '../sys/mapping.ts';
import { NO_FD, type VringLog } from './device.ts';

/** A log for 32 TiB of guest memory. */
const LOG_BYTES_MAX = WINDOW_BYTES;

/** Where in its file the log is, in bytes. */
interface LogPlace {
  readonly sizeBytes: number;
  readonly offset: number;
}

/** A log as it is handed over. */
export interface LogRecord {
  readonly place: LogPlace | null;
  readonly fileFd: number;
  readonly fd: number;
}

export class SharedLog {
  #mapping: Mapping | null = null;
  /** Kept for whoever serves the front-end after us. */
  #fileFd = NO_FD;
  /** Where the log is in the mapping of its file. */
  #offset = 0;
  #sizeBytes = 0;
  #fd = NO_FD;

  /** True when the front-end cut off the log's file. */
  get wasTruncated(): boolean {
    return this.#mapping?.wasTruncated === true;
  }

  /**
   * Maps `sizeBytes` of a file, and gives what puts them in the place of the last log, once no ring runs. Takes the
   * descriptor, whatever happens. Throws `VHOST_LOG` when the file does not hold them.
   */
  map(fd: number, place: LogPlace): () => void {
    const mapping = mapLog(fd, place);
    return () => {
      this.#unmap();
      this.#mapping = mapping;
      this.#fileFd = fd;
      this.#offset = place.offset;
      this.#sizeBytes = place.sizeBytes;
    };
  }

  /** Takes the descriptor over that is signalled when pages were marked. No ring runs. */
  replaceFd(fd: number): void {
    if (this.#fd !== NO_FD) closeFd(this.#fd);
    this.#fd = fd;
  }

  /** For a ring whose own writes are at `ring` in the guest; null when there is no log. */
  describe(ring: VringLog['ring']): VringLog | null {
    if (this.#mapping === null) return null;
    return { address: this.#mapping.address + this.#offset, lengthBytes: this.#sizeBytes, ring, fd: this.#fd };
  }

  /** No ring runs. */
  close(): void {
    this.#unmap();
    this.replaceFd(NO_FD);
  }

  save(fds: FdList): LogRecord {
    const place = this.#mapping === null ? null : { sizeBytes: this.#sizeBytes, offset: this.#offset };
    return { place, fileFd: fds.put(this.#fileFd), fd: fds.put(this.#fd) };
  }

  /** No ring runs. */
  load({ place, fileFd, fd }: LogRecord, fds: FdList): void {
    if (place !== null) this.map(fds.take(fileFd), place)();
    this.replaceFd(fds.take(fd));
  }

  #unmap(): void {
    if (this.#mapping === null) return;
    this.#mapping.close();
    this.#mapping = null;
    closeFd(this.#fileFd);
    this.#fileFd = NO_FD;
  }
}

/** Closes the descriptor when it throws. */
function mapLog(fd: number, { sizeBytes, offset }: LogPlace): Mapping {
  try {
    const info = fileInfo(fd);
    if (sizeBytes === 0 || sizeBytes > LOG_BYTES_MAX || offset + sizeBytes > info.sizeBytes) {
      const range = `${sizeBytes} bytes at ${offset}`;
      throw new TargetError('VHOST_LOG', `a dirty log of ${range} does not fit in its file of ${info.sizeBytes} bytes`);
    }
    return Mapping.shared(fd, offset + sizeBytes, info);
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}
