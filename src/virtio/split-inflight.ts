/**
 * What a split ring keeps of its requests in flight (QEMU docs/interop/vhost-user.rst, "Inflight I/O tracking", split
 * virtqueues).
 *
 *   header, 16 bytes                                    entry of a head, 16 bytes
 *   | features | version | entries | batch | used |     | mark | - | next | counter |
 *      u64        u16       u16       u16     u16         u8    5 B   u16      u64
 *
 * A head that is taken gets the next number of the counter, then its mark. Heads that complete are linked, newest
 * first, from `batch`; once the used index shows them to the driver their marks go, and `used` follows the used index.
 * So whoever comes after a crash between the two finds by the difference how many of the list are done.
 *
 * Nothing is read back while the ring runs but links, bounded by a mask.
 */
import { INFLIGHT_VERSION, InflightPart, inflightCounter } from './inflight-part.ts';
import type { Recovery } from './ring.ts';
import type { InflightArea } from './ring-shape.ts';

/** Header fields as u16 elements. */
const VERSION_AT = 4;
const ENTRIES_AT = 5;
const BATCH_AT = 6;
const USED_AT = 7;
/** The fields of entry 0: u32 elements, and one u16. An entry is 4 words, 8 half-words. */
const MARK_AT = 4;
const COUNTER_AT = 6;
const NEXT_AT = 11;

export class SplitInflight extends InflightPart {
  readonly #mask: number;
  #batch = 0;
  /** How many of the list are done and not shown. */
  #batchCount = 0;

  /** `size`: entries of the ring, a power of two, no more than the area has. */
  constructor(area: InflightArea, size: number) {
    super(area, false);
    this.#mask = size - 1;
  }

  /**
   * Takes up what is there. `usedIdx`: the ring's used index. `pendingCount`: heads that the driver made available and
   * the used ring does not show, so more cannot be in flight.
   */
  recover(usedIdx: number, pendingCount: number): Recovery {
    const words = Uint32Array.from(this.words);
    const halves = new Uint16Array(words.buffer);
    const version = halves[VERSION_AT] as number;
    if (version === 0 || !this.#heads().some((head) => isMarked(words, head))) return this.#begin(usedIdx, null);
    if (version !== INFLIGHT_VERSION || halves[ENTRIES_AT] !== this.entries) {
      return this.#begin(usedIdx, `it is of version ${version} for ${halves[ENTRIES_AT]} entries`);
    }
    // A back-end that was killed between its two stores is behind by a batch at most. (A ring that was restored with
    // its guest is ahead of a new area by any number; there is no mark in that one.)
    const behind = (usedIdx - (halves[USED_AT] as number)) & 0xffff;
    if (behind > this.#mask + 1) return this.#begin(usedIdx, `the used ring is ${behind} entries ahead of it`);
    let done = halves[BATCH_AT] as number;
    for (let i = 0; i < behind && done <= this.#mask; i++) {
      words[MARK_AT + 4 * done] = 0;
      done = halves[NEXT_AT + 8 * done] as number;
    }
    const heads = this.#heads().filter((head) => isMarked(words, head));
    if (heads.length > pendingCount || heads.some((head) => head > this.#mask)) {
      return this.#begin(usedIdx, `it has ${heads.length} requests, the ring has ${pendingCount}`);
    }
    heads.sort((a, b) => counterOf(words, a) - counterOf(words, b));
    const last = heads.at(-1);
    this.countFrom(last === undefined ? 0 : counterOf(words, last));
    for (const head of this.#heads()) this.words[MARK_AT + 4 * head] = words[MARK_AT + 4 * head] as number;
    this.halves[USED_AT] = usedIdx;
    return { heads, staleReason: null };
  }

  /** The chain at `head` was taken. */
  take(head: number): void {
    const at = head << 2;
    this.count(COUNTER_AT + at);
    this.words[MARK_AT + at] = 1;
  }

  override untake(head: number): void {
    this.words[MARK_AT + (head << 2)] = 0;
  }

  override done(head: number): void {
    this.halves[NEXT_AT + (head << 3)] = this.#batch;
    this.#batch = head;
    this.#batchCount++;
  }

  override announce(): void {
    this.halves[BATCH_AT] = this.#batch;
  }

  override settle(used: number): void {
    let head = this.#batch;
    for (; this.#batchCount > 0; this.#batchCount--) {
      this.words[MARK_AT + (head << 2)] = 0;
      head = (this.halves[NEXT_AT + (head << 3)] as number) & this.#mask;
    }
    this.halves[USED_AT] = used;
  }

  #heads(): number[] {
    return Array.from({ length: this.entries }, (_, head) => head);
  }

  #begin(usedIdx: number, staleReason: string | null): Recovery {
    this.words.fill(0);
    this.halves[ENTRIES_AT] = this.entries;
    this.halves[USED_AT] = usedIdx;
    this.halves[VERSION_AT] = INFLIGHT_VERSION;
    return { heads: [], staleReason };
  }
}

function isMarked(words: Uint32Array, head: number): boolean {
  return ((words[MARK_AT + 4 * head] as number) & 0xff) !== 0;
}

function counterOf(words: Uint32Array, head: number): number {
  return inflightCounter(words, COUNTER_AT + 4 * head);
}
