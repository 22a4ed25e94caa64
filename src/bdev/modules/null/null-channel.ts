/** A null disk's channel: every request succeeds at once; what a read leaves in the buffers is what was there. */
import { type BdevIo, type IoChannel, IoStatus } from '../../bdev-io.ts';

export class NullChannel implements IoChannel {
  submit(io: BdevIo): void {
    io.complete(IoStatus.success);
  }

  poll(): number {
    return 0;
  }

  update(): void {}

  close(): void {}
}
