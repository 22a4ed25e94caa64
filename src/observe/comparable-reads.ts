/**
 * Which reads of a recording can be compared with those of a disk that holds what the recorded one held at the begin:
 * those of places that the guest had not changed before they ended.
 */
import type { RecordedRequest } from './recording.ts';

/** `requests` are in the order in which they started. */
export function comparableReads(requests: readonly RecordedRequest[]): ReadonlySet<RecordedRequest> {
  const changed = new RangeSet();
  const changes = requests.filter(({ type }) => type !== 'read' && type !== 'flush');
  const endNs = ({ startNs, durationNs }: RecordedRequest): number => startNs + durationNs;
  const reads = requests.filter(({ type, hash }) => type === 'read' && hash !== null);
  const comparable = new Set<RecordedRequest>();
  let next = 0;
  for (const read of reads.toSorted((a, b) => endNs(a) - endNs(b))) {
    for (let change = changes[next]; change !== undefined && change.startNs <= endNs(read); change = changes[++next]) {
      changed.add(change.offsetBytes, change.offsetBytes + change.lengthBytes);
    }
    if (!changed.overlaps(read.offsetBytes, read.offsetBytes + read.lengthBytes)) comparable.add(read);
  }
  return comparable;
}

/** Ranges of bytes, apart from each other and ascending. */
class RangeSet {
  readonly #ranges: [from: number, to: number][] = [];

  add(from: number, to: number): void {
    if (from >= to) return;
    // Those that touch it become one with it.
    const first = this.#firstThatEndsAt(from);
    let last = first;
    let [start, end] = [from, to];
    for (let range = this.#ranges[last]; range !== undefined && range[0] <= to; range = this.#ranges[++last]) {
      start = Math.min(start, range[0]);
      end = Math.max(end, range[1]);
    }
    this.#ranges.splice(first, last - first, [start, end]);
  }

  overlaps(from: number, to: number): boolean {
    const range = this.#ranges[this.#firstThatEndsAt(from + 1)];
    return range !== undefined && range[0] < to;
  }

  /** Number of the first that ends at `place` or behind it. */
  #firstThatEndsAt(place: number): number {
    let [low, high] = [0, this.#ranges.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ranges[middle]?.[1] ?? 0) < place) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
