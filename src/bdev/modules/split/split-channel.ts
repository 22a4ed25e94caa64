/** A part's channel: the same requests, so many blocks further on. */
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import type { BdevIo } from '../../bdev-io.ts';
import { StackedChannel } from '../../stacked-channel.ts';

export class SplitChannel extends StackedChannel {
  readonly #firstBlock: number;

  constructor(description: BdevDescription, context: ChannelContext) {
    super(description, context);
    this.#firstBlock = description.params.firstBlock as number;
  }

  override submit(io: BdevIo): void {
    this.forward(io, 0, this.#firstBlock + io.offsetBlocks);
  }
}
