/** The delay disk: what a slow disk does to whoever uses it. Latencies may change while requests wait. */
import type { BdevConfig, PlainParams } from '../../bdev.ts';
import { StackedBdev, type StackedParams } from '../../stacked.ts';
import { LATENCIES, Latency } from './latency.ts';

const NS_PER_US = 1000;

export interface DelayParams extends StackedParams {
  /** Microseconds, in the order of `Latency`. */
  readonly latenciesUs: readonly number[];
}

export class DelayBdev extends StackedBdev {
  readonly kind = 'delay';
  readonly productName = 'delay';
  readonly #latencies = new SharedArrayBuffer(LATENCIES * 8);
  readonly #latenciesNs = new Float64Array(this.#latencies);

  constructor(params: DelayParams) {
    super(params);
    this.#latenciesNs.set(params.latenciesUs.map((us) => us * NS_PER_US));
  }

  /** For what ends below from now on. */
  setLatency(which: Latency, us: number): void {
    this.#latenciesNs[which] = us * NS_PER_US;
  }

  override params(): PlainParams {
    return { latencies: this.#latencies };
  }

  override driverSpecific(): Readonly<Record<string, unknown>> {
    return { delay: { name: this.name, base_bdev_name: this.base.name, ...this.#latenciesUs() } };
  }

  override toConfig(): BdevConfig {
    return {
      method: 'bdev_delay_create',
      params: { base_bdev_name: this.base.name, name: this.name, uuid: this.uuid, ...this.#latenciesUs() },
    };
  }

  #latenciesUs(): Readonly<Record<string, number>> {
    const us = (which: Latency): number => (this.#latenciesNs[which] as number) / NS_PER_US;
    return {
      avg_read_latency: us(Latency.averageRead),
      p99_read_latency: us(Latency.p99Read),
      avg_write_latency: us(Latency.averageWrite),
      p99_write_latency: us(Latency.p99Write),
    };
  }
}
