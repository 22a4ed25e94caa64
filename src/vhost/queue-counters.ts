/** What is counted of one virtqueue, in shared memory. */
import { LATENCY_CELLS, Latencies } from '../bdev/latencies.ts';

/** Counters of one virtqueue, written by its reactor and read by anyone. `inFlight` is a level, not a count. */
export const QueueCounter = { requests: 0, kicks: 1, calls: 2, faults: 3, inFlight: 4 } as const;
export const QUEUE_COUNTERS = 8;

export type QueueCounters = Float64Array;

/** What is counted of a queue: the counters, and behind them the latencies of its requests. */
export function createQueueBlock(): SharedArrayBuffer {
  return new SharedArrayBuffer((QUEUE_COUNTERS + LATENCY_CELLS) * 8);
}

export function countersOf(block: SharedArrayBuffer): QueueCounters {
  return new Float64Array(block, 0, QUEUE_COUNTERS);
}

export function latenciesOf(block: SharedArrayBuffer): Latencies {
  return new Latencies(new Float64Array(block, QUEUE_COUNTERS * 8, LATENCY_CELLS));
}
