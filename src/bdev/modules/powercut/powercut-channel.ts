/** A power-cut disk's channel: copies as a RAM disk's does, and keeps account of what is stable. */
import { CopyEngine } from '../../../sys/copy-engine.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType, NO_WAKE_FD } from '../../bdev-io.ts';
import { WriteCache } from './write-cache.ts';

const OPERATIONS_PER_RUN_MAX = 1024;

export class PowerCutChannel implements IoChannel {
  readonly wakeFd = NO_WAKE_FD;
  readonly #engine: CopyEngine;
  readonly #cache: WriteCache;
  readonly #blockBytes: number;
  readonly #ignoresFlush: boolean;
  #submitted: BdevIo[] = [];

  constructor({ params, blockSizeBytes, blockCount }: BdevDescription, context: ChannelContext) {
    const [address, lengthBytes] = [params['address'] as number, params['lengthBytes'] as number];
    this.#engine = new CopyEngine(context.arena, OPERATIONS_PER_RUN_MAX);
    // Written with ordinary stores, whatever its size.
    this.#engine.setDisk(address, blockSizeBytes, blockCount, true);
    this.#cache = new WriteCache({ address, lengthBytes }, params['shared'] as SharedArrayBuffer);
    this.#blockBytes = blockSizeBytes;
    this.#ignoresFlush = params['ignoresFlush'] === true;
  }

  submit(io: BdevIo): void {
    const { type, offsetBlocks, countBlocks, iovFirst, iovCount } = io;
    if (type === IoType.read) this.#engine.read(offsetBlocks, countBlocks, iovFirst, iovCount);
    // What has completed is made stable, and nothing that was only submitted.
    else if (type === IoType.flush) this.#flush();
    else {
      this.#cache.overwriting(offsetBlocks * this.#blockBytes, countBlocks * this.#blockBytes);
      if (type === IoType.write) this.#engine.write(offsetBlocks, countBlocks, iovFirst, iovCount);
      else this.#engine.zero(offsetBlocks, countBlocks);
    }
    this.#submitted.push(io);
  }

  poll(): number {
    this.#engine.run();
    const completing = this.#submitted;
    this.#submitted = [];
    for (const io of completing) {
      const isChange = io.type !== IoType.read && io.type !== IoType.flush;
      if (isChange) this.#cache.written(io.offsetBlocks * this.#blockBytes, io.countBlocks * this.#blockBytes);
    }
    for (const io of completing) io.complete(IoStatus.success);
    return completing.length;
  }

  arm(): boolean {
    return this.#submitted.length > 0;
  }

  disarm(): void {}

  /** Between two rounds: nothing is half written. */
  update(): void {
    this.#cache.cutIfWanted();
  }

  close(): void {
    this.#engine.close();
    this.#cache.close();
  }

  #flush(): void {
    if (!this.#ignoresFlush) this.#cache.flush();
  }
}
