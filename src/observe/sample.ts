/** What a daemon has done so far and does now: counts and levels at one moment. */
import type { Bucket } from '../base/percentile.ts';

/** Counts of one kind of request. */
export interface IoCount {
  readonly operations: number;
  readonly bytes: number;
}

export const IO_KINDS = ['read', 'write', 'unmap'] as const;
export type IoKind = (typeof IO_KINDS)[number];

/** The kinds of requests whose latencies are known. */
export const LATENCY_KINDS = ['read', 'write', 'flush', 'unmap', 'write_zeroes'] as const;
type LatencyKind = (typeof LATENCY_KINDS)[number];

export interface LatencyCount {
  /** Sum over all requests. */
  readonly sumSeconds: number;
  /** By their upper bounds in nanoseconds, ascending, none of them empty. */
  readonly buckets: readonly Bucket[];
}

/** Of kinds that there were. */
export type LatencyCounts = Readonly<Partial<Record<LatencyKind, LatencyCount>>>;

/** Requests by where on the disk they began: the number of the region, and how many. */
export type Places = readonly (readonly [region: number, count: number])[];

export interface RegionCount {
  /** How many regions of the same size there are. */
  readonly regions: number;
  readonly reads: Places;
  readonly writes: Places;
}

export interface BdevSample {
  readonly name: string;
  /** What people call it, where that is not its name: `store/volume` of a volume, whose name is a UUID. */
  readonly alias?: string;
  readonly product: string;
  /** What goes on in it by itself, or is wrong with it; left out when nothing is. */
  readonly condition?: string;
  readonly sizeBytes: number;
  readonly io: Readonly<Record<IoKind, IoCount>>;
  readonly errors: number;
  readonly latencies: LatencyCounts;
  readonly places: RegionCount;
}

export interface QueueSample {
  readonly index: number;
  /** Core of its reactor. */
  readonly core: number;
  readonly requests: number;
  /** A level. */
  readonly inFlight: number;
  readonly kicks: number;
  readonly calls: number;
  readonly callsSaved: number;
  readonly faults: number;
  /** Of its requests in the disk. */
  readonly latencies: LatencyCounts;
}

export interface ControllerSample {
  readonly name: string;
  readonly kind: 'blk' | 'scsi';
  readonly socket: string;
  readonly mode: string;
  /** Of limits that it shares with others. */
  readonly weight: number;
  readonly bdevs: readonly string[];
  readonly isConnected: boolean;
  readonly queues: readonly QueueSample[];
}

export interface ReactorSample {
  readonly core: number;
  readonly busySeconds: number;
  readonly idleSeconds: number;
  readonly isSleeping: boolean;
}

export interface Sample {
  /** CLOCK_MONOTONIC of the daemon. */
  readonly atSeconds: number;
  readonly pid: number;
  readonly version: string;
  readonly reactors: readonly ReactorSample[];
  readonly controllers: readonly ControllerSample[];
  readonly bdevs: readonly BdevSample[];
}
