/** The RPC methods about how long requests take, and where on the disk they go. */
import { TargetError } from '../base/errors.ts';
import { percentileOf } from '../base/percentile.ts';
import { TIMED_TYPES } from '../rpc/methods/latency.ts';
import type { Handlers, Params, Result } from '../rpc/methods.ts';
import { STAMP_NS } from '../sys/thread.ts';
import { IoType } from './bdev-io.ts';
import { REGIONS, readLatencies, readRegions, readStats, statsRows } from './bdev-stats.ts';
import { boundsOf, type LatencyBuckets } from './latencies.ts';
import type { BdevEntry, BdevRegistry } from './registry.ts';

type LatencyHandlers = Pick<
  Handlers,
  'bdev_get_latency' | 'bdev_get_regions' | 'bdev_enable_histogram' | 'bdev_get_histogram'
>;
type TimedType = (typeof TIMED_TYPES)[number];

const TYPE_BY_NAME: Readonly<Record<TimedType, IoType>> = {
  read: IoType.read,
  write: IoType.write,
  flush: IoType.flush,
  unmap: IoType.unmap,
  write_zeroes: IoType.writeZeroes,
};
/** Of SPDK's form of a histogram: a tick is a step of the clock's stamps. */
const TICKS_A_SECOND = 1e9 / STAMP_NS;
const VALUE_BITS = 64;

export function latencyRpc(registry: BdevRegistry): LatencyHandlers {
  /** By bdev id. */
  const histograms = new Map<number, SpdkHistogram>();
  registry.on('deleted', (entry) => histograms.delete(entry.id));
  const entriesOf = (names: readonly string[] | undefined): readonly BdevEntry[] => {
    return names === undefined ? registry.list() : names.map((name) => registry.get(name));
  };
  return {
    bdev_get_latency({ names }) {
      return { bdevs: entriesOf(names).map((entry) => ({ name: entry.name, latencies: latenciesOf(entry) })) };
    },

    bdev_get_regions({ names }) {
      const bdevs = entriesOf(names).map(({ name, stats }) => ({
        name,
        regions: REGIONS,
        reads: notEmpty(readRegions(stats, 'reads')),
        writes: notEmpty(readRegions(stats, 'writes')),
      }));
      return { bdevs };
    },

    bdev_enable_histogram({ name, enable, ...params }) {
      const entry = registry.get(name);
      if (enable) histograms.set(entry.id, new SpdkHistogram(entry, params));
      else histograms.delete(entry.id);
      return true;
    },

    bdev_get_histogram({ name }) {
      const histogram = histograms.get(registry.get(name).id);
      if (histogram !== undefined) return histogram.encode();
      throw new TargetError('EFAULT', `bdev "${name}" has no histogram: bdev_enable_histogram begins one`);
    },
  };
}

function latenciesOf({ stats }: BdevEntry): DescribedLatency[] {
  return describeLatencies((type) => {
    let sumNs = 0;
    for (let row = 0; row < statsRows(stats); row++) sumNs += readStats(stats, row, type).latencyNs;
    return { sumNs, buckets: readLatencies(stats, type) };
  });
}

type DescribedLatency = Result<'bdev_get_latency'>['bdevs'][number]['latencies'][number];

/** On the wire: the types that there were. */
export function describeLatencies(
  read: (type: IoType) => { readonly sumNs: number; readonly buckets: LatencyBuckets },
): DescribedLatency[] {
  return TIMED_TYPES.flatMap((type) => {
    const counted = read(TYPE_BY_NAME[type]);
    const buckets = notEmpty(counted.buckets).map(([bucket, count]): [number, number] => {
      return [boundsOf(bucket).upper * STAMP_NS, count];
    });
    if (buckets.length === 0) return [];
    const count = buckets.reduce((sum, bucket) => sum + bucket[1], 0);
    const percentile = (percent: number): number => percentileOf(buckets, percent);
    return [
      {
        ...{ type, count, sum_ns: Math.round(counted.sumNs), buckets },
        ...{ p50_ns: percentile(50), p99_ns: percentile(99), p999_ns: percentile(99.9) },
      },
    ];
  });
}

/** What was counted, by its place in the array. */
function notEmpty(counts: Float64Array): [number, number][] {
  return Array.from(counts).flatMap((count, index): [number, number][] => (count > 0 ? [[index, count]] : []));
}

/** A histogram in the form of SPDK (include/spdk/histogram_data.h), of what ended after it was begun. */
class SpdkHistogram {
  readonly #stats: SharedArrayBuffer;
  readonly #types: readonly IoType[];
  readonly #before: readonly LatencyBuckets[];
  readonly #granularity: number;
  readonly #minRange: number;
  readonly #maxRange: number;

  constructor(
    { stats }: BdevEntry,
    { opc, granularity, min_nsec: minNs, max_nsec: maxNs }: Omit<Params<'bdev_enable_histogram'>, 'name' | 'enable'>,
  ) {
    if (maxNs !== undefined && minNs >= maxNs) {
      throw new TargetError('EINVAL', `min_nsec ${minNs} must be below max_nsec ${maxNs}`);
    }
    this.#stats = stats;
    this.#types = TIMED_TYPES.filter((name) => opc === undefined || name === opc).map((name) => TYPE_BY_NAME[name]);
    this.#before = this.#types.map((type) => readLatencies(stats, type));
    this.#granularity = granularity;
    this.#minRange = this.#rangeOf(Math.floor(minNs / STAMP_NS));
    this.#maxRange =
      maxNs === undefined ? VALUE_BITS - granularity : this.#rangeOf(Math.max(0, Math.ceil(maxNs / STAMP_NS) - 1));
  }

  encode(): Result<'bdev_get_histogram'> {
    const counts = new BigUint64Array((this.#maxRange - this.#minRange + 1) << this.#granularity);
    this.#types.forEach((type, index) => {
      const before = this.#before[index] as LatencyBuckets;
      for (const [bucket, count] of notEmpty(readLatencies(this.#stats, type))) {
        const { lower, upper } = boundsOf(bucket);
        const place = this.#placeOf(Math.floor((lower + upper) / 2));
        counts[place] = (counts[place] as bigint) + BigInt(count - (before[bucket] as number));
      }
    });
    return {
      histogram: Buffer.from(counts.buffer).toString('base64'),
      bucket_shift: this.#granularity,
      granularity: this.#granularity,
      min_range: this.#minRange,
      max_range: this.#maxRange,
      tsc_rate: TICKS_A_SECOND,
    };
  }

  #rangeOf(ticks: number): number {
    const bits = ticks === 0 ? 0 : BigInt(ticks).toString(2).length;
    return Math.max(0, bits - this.#granularity);
  }

  #placeOf(ticks: number): number {
    const perRange = 1 << this.#granularity;
    const range = this.#rangeOf(ticks);
    if (range < this.#minRange) return 0;
    if (range > this.#maxRange) return (this.#maxRange - this.#minRange + 1) * perRange - 1;
    const within = Math.floor(ticks / 2 ** Math.max(0, range - 1)) % perRange;
    return (range - this.#minRange) * perRange + within;
  }
}
