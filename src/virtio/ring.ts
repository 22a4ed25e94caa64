/** What a device does with a virtqueue, whatever its layout in memory: split or packed (virtio 1.3 §2.7, §2.8). */
import type { DirtyLog } from '../memory/dirty-log.ts';
import type { Chain, RingFault } from './chain.ts';

/** What the back-end before this one left in flight. */
export interface Recovery {
  /** Heads, in the order in which they were taken. */
  readonly heads: readonly number[];
  /** Why what was found is not of this ring, and was begun anew; null when it was of it, or nothing was found. */
  readonly staleReason: string | null;
}

export const NOTHING_RECOVERED: Recovery = { heads: [], staleReason: null };

/**
 * `pop` takes chains, `push` gives them back, `publish` makes what was given back visible. Between `pop` and `push` a
 * chain is known by its head, which is below `size`.
 */
export interface Ring {
  readonly size: number;
  /** What the driver broke; nothing is taken from a broken ring. */
  readonly fault: RingFault;
  /**
   * Where the ring stands once nothing is in flight, as GET_VRING_BASE reports it. Split: the available index. Packed:
   * 15 bits of position and a wrap counter, of the available side in the lower half and of the used side in the upper.
   */
  readonly base: number;
  readonly inFlightCount: number;
  readonly recovery: Recovery;
  /** Chains of `recovery` that are still to be taken. They come first. */
  readonly againCount: number;
  /** True when the driver has made chains available that were not taken. */
  hasAvailable(): boolean;
  /**
   * How many chains there are to take at least, by one look at what the driver wrote unless some are left of the last.
   * A round takes no more than that: looking again after each chain would take them one by one from a driver that keeps
   * up.
   */
  look(): number;
  /** Takes one chain. False when there is none, or when the driver broke the ring (`fault` is then set). */
  pop(chain: Chain): boolean;
  /** Puts the chain of the last `pop` back: it is taken again later. */
  unpop(head: number): void;
  /** Returns a chain to the driver. `lengthBytes`: bytes written to its device-writable part. Not yet visible. */
  push(head: number, lengthBytes: number): void;
  /**
   * Before a stop: a chain that was taken is not carried out here. What is noted in the in-flight area of it stays, and
   * whoever takes the ring up from there takes it again. Nothing else is taken afterwards.
   */
  leave(head: number): void;
  /** Makes the pushed chains visible. True when the driver is to be called. */
  publish(): boolean;
  /** Asks the driver not to kick. */
  disarmKick(): void;
  /** Asks for a kick at the next chain. True when chains came meanwhile: then poll on, the kick may never come. */
  armKick(): boolean;
  /**
   * Marks what the last `publish` wrote, to the used ring at `gpa` in the guest, or to the descriptor ring of a packed
   * one.
   */
  markUsed(log: DirtyLog, gpa: number): void;
  /** Marks what `armKick` and `disarmKick` wrote, to the used ring at `gpa`, or to a packed ring's device event. */
  markNotification(log: DirtyLog, gpa: number): void;
  /** Takes back the views. The ring must not be used afterwards. */
  close(): void;
}
