/** A null disk's channel: every request succeeds at once; what a read leaves in the buffers is what was there. */
import { type BdevIo, type IoChannel, IoStatus, NO_WAKE_FD } from '../../bdev-io.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const SUCCESS = IoStatus.success;

export class NullChannel implements IoChannel {
  readonly wakeFd = NO_WAKE_FD;

  submit(io: BdevIo): void {
    io.complete(SUCCESS);
  }

  poll(): number {
    return 0;
  }

  arm(): boolean {
    return false;
  }

  disarm(): void {}

  update(): void {}

  close(): void {}
}
