/**
 * What a session needs of the device behind it. Implemented in vhost/, which knows blk and scsi; a session does not.
 */
import type { MemoryRegionInfo } from '../memory/guest-memory.ts';
import type { MappingInfo } from '../sys/mapping.ts';
import type { RingFormat, RingSetup } from '../virtio/ring-shape.ts';

/** No descriptor: for a kick, poll; for a call or an error, nobody listens. */
export const NO_FD = -1;

/** A virtqueue ready to run, as plain data. Addresses are host addresses inside the regions. */
export interface VringStart extends RingSetup, RingFormat {
  readonly index: number;
  readonly kickFd: number;
  readonly callFd: number;
  readonly errFd: number;
  readonly regions: readonly MemoryRegionInfo[];
  /** Where dirty pages are marked while the guest migrates; null otherwise. */
  readonly log: VringLog | null;
}

/** The front-end's dirty log, mapped here, and what of a ring's own writes goes into it. */
export interface VringLog extends MappingInfo {
  /** Guest physical addresses of what the device writes in the ring; null when those writes are not logged. */
  readonly ring: {
    /** Of the used ring; of a packed ring's descriptors. */
    readonly used: number;
    /** Of the used ring; of a packed ring's device event suppression. */
    readonly notification: number;
  } | null;
  /** Signalled when pages were marked, or `NO_FD`. */
  readonly fd: number;
}

/** How a ring is stopped. */
export interface StopOptions {
  /** Throws `ETIMEDOUT` when it takes longer: then the ring runs on. Default: no limit. */
  readonly withinMs?: number;
  /**
   * What no device was given yet is left in the ring's in-flight area, which it has, for the next back-end. Not with a
   * limit. Default: everything is carried out.
   */
  readonly leaves?: boolean;
}

/** One front-end's view of a device. Descriptors and memory stay the session's. */
export interface SessionDevice {
  /** Virtio features offered, without VHOST_USER_F_PROTOCOL_FEATURES. */
  readonly features: bigint;
  readonly queueCount: number;
  /** The configuration space; null when the device has none over vhost-user. */
  readonly config: SessionConfig | null;
  /** The front-end acked these. */
  setFeatures(features: bigint): void;
  startVring(vring: VringStart): Promise<void>;
  /** Resolves with where the ring stands (its base) when nothing is in flight and the memory is not used any more. */
  stopVring(index: number, options?: StopOptions): Promise<number>;
  setVringCall(index: number, callFd: number): Promise<void>;
  /** Back to the state after connecting. Every queue is stopped. */
  reset(): void;
  /** The connection is over; every queue is stopped and the memory unmapped. */
  ended(): void;
}

export interface SessionConfig {
  /** The whole configuration space now. */
  read(): Uint8Array;
  /** Throws a TargetError when the field may not be written. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
}
