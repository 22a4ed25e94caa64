/** The dirty log that a front-end shares while its guest migrates (docs/interop/vhost-user.rst, "Migration"). */
import { TargetError } from '../base/errors.ts';
import { WINDOW_BYTES } from '../base/limits.ts';
import { closeFd } from '../sys/events.ts';
import { fileInfo, Mapping } from '../sys/mapping.ts';
import { NO_FD, type VringLog } from './device.ts';

/** A log for 32 TiB of guest memory. */
const LOG_BYTES_MAX = WINDOW_BYTES;

export class SharedLog {
  #mapping: Mapping | null = null;
  /** Where the log is in the mapping of its file. */
  #offset = 0;
  #sizeBytes = 0;
  #fd = NO_FD;

  /** True when the front-end cut off the log's file. */
  get wasTruncated(): boolean {
    return this.#mapping?.wasTruncated === true;
  }

  /**
   * Maps `sizeBytes` of a file, and gives what puts them in the place of the last log, once no ring runs. The
   * descriptor stays the caller's. Throws `VHOST_LOG` when the file does not hold them.
   */
  map(fd: number, { sizeBytes, offset }: { readonly sizeBytes: number; readonly offset: number }): () => void {
    const info = fileInfo(fd);
    if (sizeBytes === 0 || sizeBytes > LOG_BYTES_MAX || offset + sizeBytes > info.sizeBytes) {
      const range = `${sizeBytes} bytes at ${offset}`;
      throw new TargetError('VHOST_LOG', `a dirty log of ${range} does not fit in its file of ${info.sizeBytes} bytes`);
    }
    const mapping = Mapping.shared(fd, offset + sizeBytes, info);
    return () => {
      this.#mapping?.close();
      this.#mapping = mapping;
      this.#offset = offset;
      this.#sizeBytes = sizeBytes;
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
    this.#mapping?.close();
    this.#mapping = null;
    this.replaceFd(NO_FD);
  }
}
