/** A pass-through disk's channel: every request goes on as it is. */
import type { BdevIo } from '../../bdev-io.ts';
import { StackedChannel } from '../../stacked-channel.ts';

export class PassthruChannel extends StackedChannel {
  override submit(io: BdevIo): void {
    this.forward(io, 0);
  }
}
