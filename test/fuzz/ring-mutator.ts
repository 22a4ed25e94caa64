/**
 * A second thread that writes to shared memory while the code under test reads it, as a guest's other processors can:
 * what was checked may have changed when it is used. Every change is a word replaced or one of its bits turned over,
 * mostly put back at once, so that what it lies in stays plausible.
 */
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { MappingViews } from '../../src/sys/mapping.ts';

/** Words of the control block. The address and the length in bytes are doubles, behind it. */
const Control = { state: 0, seed: 1, changes: 2, words: 4 } as const;
const State = { idle: 0, running: 1, stopping: 2, ended: 3 } as const;
/** Changes between two looks at the control block. */
const CHANGES_PER_LOOK = 64;

export class RingMutator {
  readonly #block = new SharedArrayBuffer(4 * Control.words + 16);
  readonly #control = new Int32Array(this.#block, 0, Control.words);
  readonly #place = new Float64Array(this.#block, 4 * Control.words, 2);
  readonly #worker = new Worker(new URL(import.meta.url), { workerData: { mutatorBlock: this.#block } });

  /** Changes memory of this process, which stays mapped, until `stop`. Returns when it has begun. */
  start(seed: number, address: number, lengthBytes: number): void {
    const before = Atomics.load(this.#control, Control.changes);
    this.#place[0] = address;
    this.#place[1] = lengthBytes;
    Atomics.store(this.#control, Control.seed, seed);
    Atomics.store(this.#control, Control.state, State.running);
    Atomics.notify(this.#control, Control.state);
    while (Atomics.load(this.#control, Control.changes) === before) {
      Atomics.wait(this.#control, Control.changes, before, 100);
    }
  }

  /** Returns when nothing is changed any more. */
  stop(): void {
    Atomics.store(this.#control, Control.state, State.stopping);
    while (Atomics.load(this.#control, Control.state) !== State.idle) {
      Atomics.wait(this.#control, Control.state, State.stopping, 100);
    }
  }

  /** Changes made so far, modulo 2^32. */
  get changes(): number {
    return Atomics.load(this.#control, Control.changes) >>> 0;
  }

  async close(): Promise<void> {
    Atomics.store(this.#control, Control.state, State.ended);
    Atomics.notify(this.#control, Control.state);
    await this.#worker.terminate();
  }
}

function serve(block: SharedArrayBuffer): void {
  const control = new Int32Array(block, 0, Control.words);
  const place = new Float64Array(block, 4 * Control.words, 2);
  for (;;) {
    Atomics.wait(control, Control.state, State.idle);
    if (Atomics.load(control, Control.state) === State.ended) return;
    const views = new MappingViews();
    const [address = 0, lengthBytes = 0] = place;
    change(control, new Uint32Array(views.view({ address, lengthBytes }, 0, lengthBytes)));
    views.close();
    Atomics.compareExchange(control, Control.state, State.stopping, State.idle);
    Atomics.notify(control, Control.state);
  }
}

function change(control: Int32Array, words: Uint32Array): void {
  let random = Atomics.load(control, Control.seed) | 1;
  while (Atomics.load(control, Control.state) === State.running) {
    for (let i = 0; i < CHANGES_PER_LOOK; i++) {
      // xorshift32
      random ^= random << 13;
      random ^= random >>> 17;
      random ^= random << 5;
      const at = (random >>> 8) % words.length;
      const before = words[at] as number;
      words[at] = (random & 1) !== 0 ? before ^ (1 << (random >>> 27)) : random;
      // Sometimes it stays.
      if ((random & 0x7e) !== 0) words[at] = before;
    }
    Atomics.add(control, Control.changes, CHANGES_PER_LOOK);
    Atomics.notify(control, Control.changes);
  }
}

const start = workerData as { readonly mutatorBlock?: SharedArrayBuffer } | null;
if (!isMainThread && start?.mutatorBlock !== undefined) serve(start.mutatorBlock);
