/**
 * A module's channel with limits on what goes through in a second (rate-limits.ts). Reads and writes that come too
 * early wait here, in their order; everything else passes.
 */
import { closeFd, createEventFd, readEventFd, signalEventFd } from '../sys/events.ts';
import type { BdevDescription } from './bdev.ts';
import { type BdevIo, type IoChannel, IoType } from './bdev-io.ts';
import { RateGate } from './rate-limits.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE } = IoType;
/** How long a sleeping reactor waits until it looks at what waits here. */
const LOOK_MS = 1;

export class LimitedChannel implements IoChannel {
  readonly sharesCores: boolean;
  letGo?: () => void;
  readonly #module: IoChannel;
  readonly #gate: RateGate;
  readonly #held: BdevIo[] = [];
  /** Of `#held`: what is in front of it has gone. */
  #first = 0;
  #isAbandoned = false;
  readonly #fd = createEventFd();
  #timer: NodeJS.Timeout | null = null;

  constructor(module: IoChannel, limits: SharedArrayBuffer) {
    this.#module = module;
    this.#gate = new RateGate(limits);
    this.sharesCores = module.sharesCores ?? false;
    if (module.letGo !== undefined) this.letGo = () => module.letGo?.();
  }

  /** Its own while something waits here: then the module is looked at as often. */
  get wakeFd(): number {
    return this.#first < this.#held.length ? this.#fd : this.#module.wakeFd;
  }

  submit(io: BdevIo): void {
    if ((io.type !== READ && io.type !== WRITE) || (this.#first === this.#held.length && this.#isLetThrough(io))) {
      this.#module.submit(io);
    } else this.#held.push(io);
  }

  poll(): number {
    while (this.#first < this.#held.length && this.#isLetThrough(this.#held[this.#first] as BdevIo)) {
      this.#module.submit(this.#held[this.#first++] as BdevIo);
    }
    if (this.#first === this.#held.length) {
      this.#held.length = 0;
      this.#first = 0;
    }
    return this.#module.poll();
  }

  arm(): boolean {
    if (this.#first < this.#held.length) this.#timer = setTimeout(() => signalEventFd(this.#fd), LOOK_MS);
    return this.#module.arm();
  }

  disarm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    readEventFd(this.#fd);
    this.#module.disarm();
  }

  /** Nobody waits for a disk that goes. */
  abandon(): void {
    this.#isAbandoned = true;
    this.#module.abandon?.();
  }

  update(description: BdevDescription): void {
    this.#module.update(description);
  }

  close(): void {
    this.disarm();
    closeFd(this.#fd);
    this.#module.close();
  }

  #isLetThrough(io: BdevIo): boolean {
    return this.#isAbandoned || this.#gate.take(io.type === WRITE, io.lengthBytes);
  }
}
