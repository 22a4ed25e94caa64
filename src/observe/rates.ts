/**
 * What happened a second between two samples. What appeared between them counts from 0, and so does a count that went
 * down: its owner was made anew, or its counts were reset.
 */
import type { Bucket } from '../base/percentile.ts';
import { heatOf } from './heat.ts';
import { growthOf, type LatencyRate, latencyRate, mergeBuckets } from './latency.ts';
import {
  type BdevSample,
  type ControllerSample,
  IO_KINDS,
  type IoKind,
  LATENCY_KINDS,
  type LatencyCount,
  type LatencyCounts,
  type QueueSample,
  type RegionCount,
  type Sample,
} from './sample.ts';

interface IoRate {
  /** Since the bdev was made, or its counts were reset. */
  readonly operations: number;
  readonly bytes: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly latency: LatencyRate;
}

type ReadWriteLatency = Readonly<Record<'read' | 'write', LatencyRate>>;

interface BdevRates {
  readonly name: string;
  readonly alias?: string;
  readonly product: string;
  readonly condition?: string;
  readonly sizeBytes: number;
  readonly io: Readonly<Record<IoKind, IoRate>>;
  readonly errorsPerSecond: number;
  /** Requests in between by their latency: rows of the heat map (heat.ts), and how many. */
  readonly heat: readonly Bucket[];
  /** Where on the disk they began. */
  readonly places: RegionCount;
}

interface QueueRates {
  readonly index: number;
  readonly core: number;
  readonly inFlight: number;
  /** Since the front-end connected. */
  readonly requests: number;
  readonly iops: number;
  readonly kicksPerSecond: number;
  readonly callsPerSecond: number;
  readonly callsSavedPerSecond: number;
  readonly faults: number;
  readonly latency: ReadWriteLatency;
  /** As of bdevs. */
  readonly heat: readonly Bucket[];
}

interface ControllerRates extends Omit<ControllerSample, 'queues'> {
  readonly iops: number;
  readonly inFlight: number;
  /** Of all its queues. */
  readonly latency: ReadWriteLatency;
  readonly queues: readonly QueueRates[];
}

interface ReactorRates {
  readonly core: number;
  /** Share of the time in rounds, 0 to 1; the rest it slept. */
  readonly busy: number;
  readonly isSleeping: boolean;
  /** Requests a second of the queues on it. */
  readonly iops: number;
}

export interface Rates {
  /** CLOCK_MONOTONIC of the daemon, at the later sample. */
  readonly atSeconds: number;
  readonly version: string;
  readonly reactors: readonly ReactorRates[];
  readonly controllers: readonly ControllerRates[];
  readonly bdevs: readonly BdevRates[];
  /** Of the bdevs that controllers serve, together: those under them would count the same requests again. */
  readonly served: Readonly<Record<'read' | 'write', ServedRate>>;
}

interface ServedRate extends Pick<IoRate, 'iops' | 'bytesPerSecond'> {
  readonly latency: LatencyRate;
}

export function ratesBetween(before: Sample, now: Sample): Rates {
  const seconds = Math.max(now.atSeconds - before.atSeconds, 1e-9);
  // Another process: nothing of it was seen before.
  const earlier = before.pid === now.pid ? before : { ...before, reactors: [], controllers: [], bdevs: [] };
  const controllers = now.controllers.map((controller) => {
    return controllerRates(
      earlier.controllers.find(({ name }) => name === controller.name),
      controller,
      seconds,
    );
  });
  const iopsOf = (core: number): number => {
    const queues = controllers.flatMap((controller) => controller.queues.filter((queue) => queue.core === core));
    return queues.reduce((sum, { iops }) => sum + iops, 0);
  };
  const bdevs = now.bdevs.map((bdev) =>
    bdevRates(
      earlier.bdevs.find(({ name }) => name === bdev.name),
      bdev,
      seconds,
    ),
  );
  return {
    atSeconds: now.atSeconds,
    version: now.version,
    reactors: now.reactors.map((reactor) => {
      const old = earlier.reactors.find(({ core }) => core === reactor.core);
      const busy = growth(old?.busySeconds, reactor.busySeconds);
      const total = busy + growth(old?.idleSeconds, reactor.idleSeconds);
      const { core, isSleeping } = reactor;
      return { core, isSleeping, busy: total > 0 ? busy / total : 0, iops: iopsOf(core) };
    }),
    controllers,
    bdevs,
    served: servedRates(bdevs, earlier, now),
  };
}

function servedRates(rates: readonly BdevRates[], before: Sample, now: Sample): Rates['served'] {
  const names = new Set(now.controllers.flatMap(({ bdevs }) => bdevs));
  const of = <B extends { readonly name: string }>(bdevs: readonly B[]): readonly B[] => {
    return bdevs.filter(({ name }) => names.has(name));
  };
  const latency = readWriteLatency(of(before.bdevs), of(now.bdevs));
  const rate = (kind: 'read' | 'write'): ServedRate => {
    const sum = (field: 'iops' | 'bytesPerSecond') => of(rates).reduce((total, { io }) => total + io[kind][field], 0);
    return { iops: sum('iops'), bytesPerSecond: sum('bytesPerSecond'), latency: latency[kind] };
  };
  return { read: rate('read'), write: rate('write') };
}

interface Timed {
  readonly latencies: LatencyCounts;
}

/** Of several, as one. */
function readWriteLatency(before: readonly Timed[], now: readonly Timed[]): ReadWriteLatency {
  const sum = (timed: readonly Timed[], kind: 'read' | 'write'): LatencyCount => {
    const counts = timed.flatMap(({ latencies }) => latencies[kind] ?? []);
    return {
      sumSeconds: counts.reduce((total, { sumSeconds }) => total + sumSeconds, 0),
      buckets: mergeBuckets(counts.map(({ buckets }) => buckets)),
    };
  };
  const rate = (kind: 'read' | 'write'): LatencyRate => latencyRate(sum(before, kind), sum(now, kind));
  return { read: rate('read'), write: rate('write') };
}

function heatBetween(before: Timed | undefined, now: Timed): readonly Bucket[] {
  const ended = LATENCY_KINDS.flatMap((kind) => {
    return growthOf(before?.latencies[kind]?.buckets ?? [], now.latencies[kind]?.buckets ?? []);
  });
  return heatOf(ended);
}

function growth(before: number | undefined, now: number): number {
  return before === undefined || now < before ? now : now - before;
}

function controllerRates(
  before: ControllerSample | undefined,
  now: ControllerSample,
  seconds: number,
): ControllerRates {
  const queues = now.queues.map((queue) => {
    return queueRates(
      before?.queues.find(({ index }) => index === queue.index),
      queue,
      seconds,
    );
  });
  const sum = (field: 'iops' | 'inFlight'): number => queues.reduce((total, queue) => total + queue[field], 0);
  const latency = readWriteLatency(before?.queues ?? [], now.queues);
  return { ...now, queues, iops: sum('iops'), inFlight: sum('inFlight'), latency };
}

function queueRates(before: QueueSample | undefined, now: QueueSample, seconds: number): QueueRates {
  const rate = (field: 'requests' | 'kicks' | 'calls' | 'callsSaved'): number => {
    return growth(before?.[field], now[field]) / seconds;
  };
  return {
    index: now.index,
    core: now.core,
    inFlight: now.inFlight,
    requests: now.requests,
    iops: rate('requests'),
    kicksPerSecond: rate('kicks'),
    callsPerSecond: rate('calls'),
    callsSavedPerSecond: rate('callsSaved'),
    faults: now.faults,
    latency: readWriteLatency(before === undefined ? [] : [before], [now]),
    heat: heatBetween(before, now),
  };
}

function bdevRates(before: BdevSample | undefined, now: BdevSample, seconds: number): BdevRates {
  const io = Object.fromEntries(
    IO_KINDS.map((kind): [IoKind, IoRate] => {
      const [old, newest] = [before?.io[kind], now.io[kind]];
      return [
        kind,
        {
          operations: newest.operations,
          bytes: newest.bytes,
          iops: growth(old?.operations, newest.operations) / seconds,
          bytesPerSecond: growth(old?.bytes, newest.bytes) / seconds,
          latency: latencyRate(before?.latencies[kind], now.latencies[kind]),
        },
      ];
    }),
  ) as Record<IoKind, IoRate>;
  const { name, alias, product, condition, sizeBytes } = now;
  const called = { name, ...(alias === undefined ? {} : { alias }) };
  const state = condition === undefined ? {} : { condition };
  const errorsPerSecond = growth(before?.errors, now.errors) / seconds;
  const places = {
    regions: now.places.regions,
    reads: growthOf(before?.places.reads ?? [], now.places.reads),
    writes: growthOf(before?.places.writes ?? [], now.places.writes),
  };
  return { ...called, product, ...state, sizeBytes, io, errorsPerSecond, heat: heatBetween(before, now), places };
}
