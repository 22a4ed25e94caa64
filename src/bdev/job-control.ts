/**
 * What a job shares with whoever carries it out, perhaps in another thread: how far it is, how fast it may go, and
 * whether it shall end. One writer a word, read without locks.
 */
const Word = { doneBytes: 0, bytesPerSec: 1, isCancelled: 2, count: 3 } as const;

export class JobControl {
  readonly memory: SharedArrayBuffer;
  readonly #words: Float64Array;

  /** `memory`: that of a control in another thread. Default: its own. */
  constructor(memory = new SharedArrayBuffer(Word.count * 8)) {
    this.memory = memory;
    this.#words = new Float64Array(memory);
  }

  get doneBytes(): number {
    return this.#words[Word.doneBytes] as number;
  }

  set doneBytes(bytes: number) {
    this.#words[Word.doneBytes] = bytes;
  }

  /** 0: no limit. */
  get bytesPerSec(): number {
    return this.#words[Word.bytesPerSec] as number;
  }

  set bytesPerSec(limit: number) {
    this.#words[Word.bytesPerSec] = limit;
  }

  get isCancelled(): boolean {
    return this.#words[Word.isCancelled] === 1;
  }

  cancel(): void {
    this.#words[Word.isCancelled] = 1;
  }
}
