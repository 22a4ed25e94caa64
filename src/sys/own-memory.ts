/** Zeroed memory of our own that segments may point into, seen as bytes and words. */
import { Mapping, MappingViews } from './mapping.ts';

export class OwnMemory {
  readonly address: number;
  readonly lengthBytes: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly view: DataView;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();

  constructor(lengthBytes: number) {
    this.#memory = Mapping.anonymous(lengthBytes);
    this.lengthBytes = lengthBytes;
    this.address = this.#memory.address;
    const buffer = this.#views.view(this.#memory, 0, lengthBytes);
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer);
    this.view = new DataView(buffer);
  }

  close(): void {
    this.#views.close();
    this.#memory.close();
  }
}
