/** What a daemon has done so far and does now: counts and levels at one moment. */

/** Counts of one kind of request. */
export interface IoCount {
  readonly operations: number;
  readonly bytes: number;
  /** Sum over all operations. */
  readonly latencySeconds: number;
}

export const IO_KINDS = ['read', 'write', 'unmap'] as const;
export type IoKind = (typeof IO_KINDS)[number];

export interface BdevSample {
  readonly name: string;
  readonly product: string;
  readonly sizeBytes: number;
  readonly io: Readonly<Record<IoKind, IoCount>>;
  readonly errors: number;
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
}

export interface ControllerSample {
  readonly name: string;
  readonly kind: 'blk' | 'scsi';
  readonly socket: string;
  readonly mode: string;
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
