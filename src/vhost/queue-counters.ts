/** Counters of one virtqueue, written by its reactor and read by anyone. `inFlight` is a level, not a count. */
export const QueueCounter = { requests: 0, kicks: 1, calls: 2, faults: 3, inFlight: 4 } as const;
export const QUEUE_COUNTERS = 8;

export type QueueCounters = Float64Array;
