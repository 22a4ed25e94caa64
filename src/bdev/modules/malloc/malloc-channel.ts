/** A RAM disk's channel: every request becomes one operation of the copy engine, run once a round. */
import { CopyEngine } from '../../../sys/copy-engine.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType, NO_WAKE_FD } from '../../bdev-io.ts';
import { WrittenBlocks } from './written-blocks.ts';

/** Operations between two runs; the engine runs by itself when more come in one round. */
const OPERATIONS_PER_RUN_MAX = 1024;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE } = IoType;
const SUCCESS = IoStatus.success;

export class MallocChannel implements IoChannel {
  readonly wakeFd = NO_WAKE_FD;
  readonly #engine: CopyEngine;
  /** Submitted since the last poll, and the list of the poll before it: they change places. */
  #submitted: BdevIo[] = [];
  #completing: BdevIo[] = [];
  #count = 0;
  #blockSizeBytes = 0;
  /** Null but for an upgrade. */
  #written: WrittenBlocks | null = null;

  constructor(description: BdevDescription, context: ChannelContext) {
    this.#engine = new CopyEngine(context.arena, OPERATIONS_PER_RUN_MAX);
    this.update(description);
  }

  submit(io: BdevIo): void {
    const engine = this.#engine;
    if (io.type === READ) engine.read(io.offsetBlocks, io.countBlocks, io.iovFirst, io.iovCount);
    else if (io.type === WRITE) engine.write(io.offsetBlocks, io.countBlocks, io.iovFirst, io.iovCount);
    else engine.zero(io.offsetBlocks, io.countBlocks);
    this.#submitted[this.#count++] = io;
  }

  poll(): number {
    const count = this.#count;
    this.#engine.run();
    // Completing may submit more: those belong to the next round.
    const completing = this.#submitted;
    this.#submitted = this.#completing;
    this.#completing = completing;
    this.#count = 0;
    if (this.#written !== null) this.#note(this.#written, completing, count);
    for (let i = 0; i < count; i++) (completing[i] as BdevIo).complete(SUCCESS);
    return count;
  }

  arm(): boolean {
    return this.#count > 0;
  }

  disarm(): void {}

  update(description: BdevDescription): void {
    const { params, blockSizeBytes, blockCount } = description;
    this.#blockSizeBytes = blockSizeBytes;
    this.#engine.setDisk(params.address as number, blockSizeBytes, blockCount, params.isShared === true);
    const { written } = params;
    this.#written = written instanceof SharedArrayBuffer ? new WrittenBlocks(written) : null;
  }

  close(): void {
    this.#engine.close();
  }

  /** After the bytes are where they belong: whoever copies a block before that copies it again. */
  #note(written: WrittenBlocks, done: readonly BdevIo[], count: number): void {
    for (let i = 0; i < count; i++) {
      const io = done[i] as BdevIo;
      if (io.type !== READ) written.note(io.offsetBlocks * this.#blockSizeBytes, io.countBlocks * this.#blockSizeBytes);
    }
  }
}
