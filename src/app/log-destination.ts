/**
 * Where lines of the log go: a descriptor that may be a pipe which nobody reads, or a file on a disk that is full.
 * Neither stops the daemon: a write never waits, lines wait up to a limit, and how many were lost is said once lines go
 * through again.
 */
import { Errno } from '../base/errors.ts';
import { writeNow } from '../sys/socket.ts';

/** Of lines that wait to be written. */
const WAITING_BYTES_MAX = 1 << 20;
const RETRY_MS = 100;

export class LogDestination {
  readonly #fd: number;
  /** Makes the line that says how many were lost. */
  readonly #describeLoss: (lines: number) => string;
  readonly #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  /** Bytes of the first waiting line that are written. */
  #written = 0;
  #lost = 0;
  #retry: NodeJS.Timeout | null = null;

  constructor(fd: number, describeLoss: (lines: number) => string) {
    this.#fd = fd;
    this.#describeLoss = describeLoss;
  }

  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#waitingBytes + bytes.length > WAITING_BYTES_MAX) {
      this.#lost++;
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#retry === null) this.#flush();
  }

  #flush(): void {
    for (let line = this.#waiting[0]; line !== undefined; line = this.#waiting[0]) {
      const written = writeNow(this.#fd, line, this.#written);
      if (written === Errno.EAGAIN) {
        this.#retry = setTimeout(() => {
          this.#retry = null;
          this.#flush();
        }, RETRY_MS).unref();
        return;
      }
      this.#written += Math.max(0, written);
      if (written >= 0 && this.#written < line.length) continue;
      this.#waiting.shift();
      this.#waitingBytes -= line.length;
      this.#written = 0;
      if (written < 0) this.#lost++;
      else if (this.#lost > 0) this.#tellLoss();
    }
  }

  #tellLoss(): void {
    const bytes = Buffer.from(this.#describeLoss(this.#lost));
    this.#lost = 0;
    this.#waiting.unshift(bytes);
    this.#waitingBytes += bytes.length;
  }
}
