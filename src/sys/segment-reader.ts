/**
 * The segment lists of a reactor's arena as another thread of the process reads them: where a request's buffers become
 * bytes for JavaScript. The reactor writes a list before it hands it over, and keeps it until the request is over.
 */
import type { IovMemory } from './copy-engine.ts';
import { MappingViews } from './mapping.ts';

const IOVEC_BYTES = 16;
const WORDS = IOVEC_BYTES / 4;
const TWO_32 = 2 ** 32;

export class SegmentReader {
  readonly #words: Uint32Array;
  readonly #views = new MappingViews();

  constructor(arena: IovMemory) {
    const lengthBytes = arena.capacity * IOVEC_BYTES;
    this.#words = new Uint32Array(this.#views.view({ address: arena.address, lengthBytes }, 0, lengthBytes));
  }

  /**
   * The first `lengthBytes` of a list's segments, those that touch as one. They are gone, with length 0, once `views`
   * is closed, which must be before the request is over.
   */
  open(views: MappingViews, first: number, count: number, lengthBytes: number): Uint8Array[] {
    const words = this.#words;
    const opened: Uint8Array[] = [];
    let address = 0;
    let length = 0;
    let left = lengthBytes;
    for (let at = first * WORDS; at < (first + count) * WORDS && left > 0; at += WORDS) {
      const nextAddress = (words[at + 1] as number) * TWO_32 + (words[at] as number);
      const nextLength = Math.min(words[at + 2] as number, left);
      left -= nextLength;
      if (length > 0 && address + length === nextAddress) {
        length += nextLength;
        continue;
      }
      if (length > 0) opened.push(viewOf(views, address, length));
      [address, length] = [nextAddress, nextLength];
    }
    if (length > 0) opened.push(viewOf(views, address, length));
    return opened;
  }

  close(): void {
    this.#views.close();
  }
}

function viewOf(views: MappingViews, address: number, lengthBytes: number): Uint8Array {
  return new Uint8Array(views.view({ address, lengthBytes }, 0, lengthBytes));
}
