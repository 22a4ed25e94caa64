/**
 * A ring's part of the in-flight region, whatever the ring's layout (QEMU docs/interop/vhost-user.rst, "Inflight I/O
 * tracking"): memory that the front-end holds, in which the ring notes what it has in flight, so that a back-end that
 * was killed can be started again.
 *
 * Only the process may be killed, not the machine: what it stored in some order is there in that order, and no barrier
 * is needed. The front-end may write here whatever it likes: what is found at the start is copied once, then checked.
 */
import { MappingViews } from '../sys/mapping.ts';
import { type InflightArea, inflightBytes } from './ring-shape.ts';

export const INFLIGHT_VERSION = 1;
const TWO_32 = 2 ** 32;

export abstract class InflightPart {
  /** Chains, or descriptors of a packed ring, that there is room for. */
  protected readonly entries: number;
  protected readonly words: Uint32Array;
  protected readonly halves: Uint16Array;
  readonly #views = new MappingViews();
  /** The number given last, in two halves. */
  #counterLow = 0;
  #counterHigh = 0;

  constructor(area: InflightArea, isPacked: boolean) {
    const bytes = inflightBytes(isPacked, area.entries);
    const buffer = this.#views.view({ address: area.address, lengthBytes: bytes }, 0, bytes);
    this.entries = area.entries;
    this.words = new Uint32Array(buffer);
    this.halves = new Uint16Array(buffer);
  }

  /** The last chain that was taken was put back. */
  abstract untake(head: number): void;
  /** The chain at `head` is done; the driver does not see it yet. */
  abstract done(head: number): void;
  /** Before the driver sees those that are done. `used`: where the used side will stand. */
  abstract announce(used: number): void;
  /** After it does. */
  abstract settle(used: number): void;

  /** Takes back the views. */
  close(): void {
    this.#views.close();
  }

  /** Gives the next number, to the two words at `at`. */
  protected count(at: number): void {
    this.#counterLow = (this.#counterLow + 1) | 0;
    if (this.#counterLow === 0) this.#counterHigh++;
    this.words[at] = this.#counterLow;
    this.words[at + 1] = this.#counterHigh;
  }

  protected countFrom(number: number): void {
    this.#counterLow = number | 0;
    this.#counterHigh = Math.floor(number / TWO_32) | 0;
  }
}

/** The number in the two words at `at`. */
export function inflightCounter(words: Uint32Array, at: number): number {
  return (words[at + 1] as number) * TWO_32 + (words[at] as number);
}
