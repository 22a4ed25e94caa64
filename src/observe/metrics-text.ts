/**
 * A sample as Prometheus reads it (text exposition format 0.0.4). Counts end in `_total`, times are in seconds and
 * sizes in bytes, as its conventions want. docs/observing.md lists the names.
 */
import { Counter, collectDefaultMetrics, Gauge, type Metric, Registry } from 'prom-client';
import { IO_KINDS, LATENCY_KINDS, type LatencyCount, type LatencyCounts, type Sample } from './sample.ts';

export const METRICS_CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

/** Of the daemon's process: CPU time, memory, descriptors, event loop of the main thread. */
const process = new Registry();
collectDefaultMetrics({ register: process });
// Sums of others, whose names say that they were counters.
for (const what of ['handles', 'requests', 'resources']) process.removeSingleMetric(`nodejs_active_${what}_total`);

export async function metricsText(sample: Sample): Promise<string> {
  // A registry for each: what is gone must not be told of again.
  const registry = new Registry();
  const counter = <L extends string>(name: string, help: string, labelNames: readonly L[]): Counter<L> => {
    return new Counter({ name: `ringhost_${name}`, help, labelNames, registers: [registry] });
  };
  const gauge = <L extends string>(name: string, help: string, labelNames: readonly L[]): Gauge<L> => {
    return new Gauge({ name: `ringhost_${name}`, help, labelNames, registers: [registry] });
  };
  gauge('build_info', 'The version, as a label; always 1', ['version']).set({ version: sample.version }, 1);
  addReactors(sample, counter, gauge);
  addControllers(sample, counter, gauge);
  addBdevs(sample, counter, gauge);
  const bdevs = sample.bdevs.map(({ name, latencies }) => ({ labels: { bdev: name }, latencies }));
  const queues = sample.controllers.flatMap(({ name, queues: own }) => {
    return own.map(({ index, latencies }) => ({ labels: { controller: name, queue: String(index) }, latencies }));
  });
  registry.registerMetric(latencyHistogram('bdev_latency_seconds', bdevs));
  registry.registerMetric(latencyHistogram('queue_latency_seconds', queues));
  return `${await registry.metrics()}\n${await process.metrics()}`;
}

type NewCounter = <L extends string>(name: string, help: string, labels: readonly L[]) => Counter<L>;
type NewGauge = <L extends string>(name: string, help: string, labels: readonly L[]) => Gauge<L>;

function addReactors({ reactors }: Sample, counter: NewCounter, gauge: NewGauge): void {
  const busy = counter('reactor_busy_seconds_total', 'Time in rounds that had something to do, or looked', ['core']);
  const idle = counter('reactor_idle_seconds_total', 'Time asleep', ['core']);
  const sleeping = gauge('reactor_sleeping', '1 while the reactor sleeps', ['core']);
  for (const { core, busySeconds, idleSeconds, isSleeping } of reactors) {
    busy.inc({ core }, busySeconds);
    idle.inc({ core }, idleSeconds);
    sleeping.set({ core }, isSleeping ? 1 : 0);
  }
}

function addControllers({ controllers }: Sample, counter: NewCounter, gauge: NewGauge): void {
  const connected = gauge('controller_connected', '1 while a front-end is connected', ['controller', 'kind']);
  const labels = ['controller', 'queue', 'core'] as const;
  const requests = counter('queue_requests_total', 'Requests taken from the driver', labels);
  const inFlight = gauge('queue_in_flight', 'Requests not yet answered', labels);
  const kicks = counter('queue_kicks_total', 'Times that the driver woke the queue', labels);
  const calls = counter('queue_calls_total', 'Interrupts sent to the driver', labels);
  const saved = counter('queue_calls_saved_total', 'Answers that needed no interrupt of their own', labels);
  const faults = counter('queue_faults_total', 'Times that the driver broke the ring', labels);
  for (const { name: controller, kind, isConnected, queues } of controllers) {
    connected.set({ controller, kind }, isConnected ? 1 : 0);
    for (const queue of queues) {
      const at = { controller, queue: queue.index, core: queue.core };
      requests.inc(at, queue.requests);
      inFlight.set(at, queue.inFlight);
      kicks.inc(at, queue.kicks);
      calls.inc(at, queue.calls);
      saved.inc(at, queue.callsSaved);
      faults.inc(at, queue.faults);
    }
  }
}

function addBdevs({ bdevs }: Sample, counter: NewCounter, gauge: NewGauge): void {
  const size = gauge('bdev_size_bytes', 'Size', ['bdev', 'product']);
  const operations = counter('bdev_operations_total', 'Requests that ended without an error', ['bdev', 'type']);
  const bytes = counter('bdev_bytes_total', 'Bytes of those requests', ['bdev', 'type']);
  const errors = counter('bdev_errors_total', 'Requests that failed', ['bdev']);
  for (const bdev of bdevs) {
    size.set({ bdev: bdev.name, product: bdev.product }, bdev.sizeBytes);
    errors.inc({ bdev: bdev.name }, bdev.errors);
    for (const type of IO_KINDS) {
      const count = bdev.io[type];
      operations.inc({ bdev: bdev.name, type }, count.operations);
      bytes.inc({ bdev: bdev.name, type }, count.bytes);
    }
  }
}

/** Bounds of the buckets in seconds, from 1 µs to 5 s. Those of ours that lie across one count as above it. */
const BOUNDS = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2.5, 5].map((step) => (step * 10 ** power) / 1e6));
const NANO = 1e9;

interface MetricValue {
  readonly metricName: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

interface Timed {
  readonly labels: Readonly<Record<string, string>>;
  readonly latencies: LatencyCounts;
}

/** The library's own histogram takes values one at a time: these are counted already. */
function latencyHistogram(suffix: string, timed: readonly Timed[]): Metric {
  const name = `ringhost_${suffix}`;
  const help = 'How long requests that succeeded took, estimated from those that were timed';
  const values = timed.flatMap(({ labels, latencies }) => {
    return LATENCY_KINDS.flatMap((type): MetricValue[] => {
      const latency = latencies[type];
      return latency === undefined ? [] : histogramValues(name, { ...labels, type }, latency);
    });
  });
  return { name, get: async () => ({ name, help, type: 'histogram', values, aggregator: 'sum' }) } as unknown as Metric;
}

function histogramValues(
  name: string,
  labels: Readonly<Record<string, string>>,
  { sumSeconds, buckets }: LatencyCount,
): MetricValue[] {
  const countUpTo = (bound: number): number => {
    return buckets.reduce((sum, [upperNs, count]) => (upperNs / NANO <= bound ? sum + count : sum), 0);
  };
  const count = countUpTo(Number.POSITIVE_INFINITY);
  return [
    ...BOUNDS.map((bound) => ({
      metricName: `${name}_bucket`,
      labels: { ...labels, le: String(bound) },
      value: countUpTo(bound),
    })),
    { metricName: `${name}_bucket`, labels: { ...labels, le: '+Inf' }, value: count },
    { metricName: `${name}_sum`, labels, value: sumSeconds },
    { metricName: `${name}_count`, labels, value: count },
  ];
}
