/** Requests in the order in which they came, each with the time at which it ends. */
import type { BdevIo } from '../../bdev-io.ts';

export class DueQueue {
  count = 0;
  #ios: (BdevIo | null)[] = [null];
  #dueNs = new Float64Array(1);
  #head = 0;

  push(io: BdevIo, dueNs: number): void {
    if (this.count === this.#ios.length) this.#grow();
    const at = (this.#head + this.count++) % this.#ios.length;
    this.#ios[at] = io;
    this.#dueNs[at] = dueNs;
  }

  /** When the oldest one ends, or infinity. */
  get nextNs(): number {
    return this.count === 0 ? Number.POSITIVE_INFINITY : (this.#dueNs[this.#head] as number);
  }

  /** Takes out the oldest one. There is one. */
  shift(): BdevIo {
    const io = this.#ios[this.#head] as BdevIo;
    this.#ios[this.#head] = null;
    this.#head = (this.#head + 1) % this.#ios.length;
    this.count--;
    return io;
  }

  #grow(): void {
    const size = this.#ios.length;
    const dueNs = new Float64Array(2 * size);
    const ios: (BdevIo | null)[] = [];
    for (let i = 0; i < size; i++) {
      const at = (this.#head + i) % size;
      dueNs[i] = this.#dueNs[at] as number;
      ios.push(this.#ios[at] as BdevIo);
    }
    for (let i = 0; i < size; i++) ios.push(null);
    [this.#ios, this.#dueNs, this.#head] = [ios, dueNs, 0];
  }
}
