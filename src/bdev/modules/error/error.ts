/** The error disk: fails, holds back or corrupts the requests that it is told to (rules.ts). */
import { TargetError } from '../../../base/errors.ts';
import type { BdevConfig, PlainParams } from '../../bdev.ts';
import { StackedBdev } from '../../stacked.ts';
import { FAULT_TABLE_BYTES, type FaultRule, FaultTable } from './rules.ts';

export class ErrorBdev extends StackedBdev {
  readonly kind = 'error';
  readonly productName = 'Error Injection Disk';
  readonly #memory = new SharedArrayBuffer(FAULT_TABLE_BYTES);
  readonly faults = new FaultTable(this.#memory);

  inject(rule: FaultRule): void {
    if (this.faults.add(rule)) return;
    throw new TargetError('ENOSPC', `bdev "${this.name}" has as many rules as it can: drop them with "clear"`);
  }

  override params(): PlainParams {
    return { faults: this.#memory };
  }

  override driverSpecific(): Readonly<Record<string, unknown>> {
    return { error_disk: { base_bdev: this.base.name } };
  }

  /** Faults are not part of it: a daemon that starts again starts without. */
  override toConfig(): BdevConfig {
    return { method: 'bdev_error_create', params: { base_name: this.base.name, uuid: this.uuid } };
  }
}
