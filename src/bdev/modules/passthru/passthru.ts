/** The pass-through disk: another name for a disk. The least that a stacked bdev can be: where to start a new one. */
import type { BdevConfig } from '../../bdev.ts';
import { StackedBdev } from '../../stacked.ts';

export class PassthruBdev extends StackedBdev {
  readonly kind = 'passthru';
  readonly productName = 'passthru';

  override driverSpecific(): Readonly<Record<string, unknown>> {
    return { passthru: { name: this.name, base_bdev_name: this.base.name } };
  }

  override toConfig(): BdevConfig {
    return {
      method: 'bdev_passthru_create',
      params: { base_bdev_name: this.base.name, name: this.name, uuid: this.uuid },
    };
  }
}
