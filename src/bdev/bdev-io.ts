/** One block request and the per-reactor handle that takes it: the data-path half of the bdev interface. */
import { DOUBLE } from '../base/double.ts';
import type { BdevDescription } from './bdev.ts';
import type { Sharer } from './fair-shares.ts';

/**
 * `resync`, of mirrors alone and never a guest's: brings blocks of legs that are being rebuilt into line, by way of the
 * buffers of the request.
 */
export const IoType = { read: 0, write: 1, flush: 2, unmap: 3, writeZeroes: 4, resync: 5 } as const;
export type IoType = (typeof IoType)[keyof typeof IoType];
/** What a guest can ask for. */
export type GuestIoType = Exclude<IoType, typeof IoType.resync>;
export const GUEST_IO_TYPES = Object.values(IoType).filter((type) => type !== IoType.resync);

/**
 * `gone`: the device behind the bdev is not there any more, and the bdev goes with it. `noSpace`: a thin disk has no
 * room for what is written. `withdrawn`: the owner took it back, and no device was given it.
 */
export const IoStatus = { success: 0, failed: -1, aborted: -7, gone: -19, noSpace: -28, withdrawn: -125 } as const;
export type IoStatus = (typeof IoStatus)[keyof typeof IoStatus];

/** No segments. */
export const NO_SEGMENTS = -1;

/** `wakeFd` of a channel whose completions need polling. */
export const NO_WAKE_FD = -1;

/** `wakeFd` of a channel whose completions come from channels below, which the reactor polls or watches as well. */
export const WOKEN_FROM_BELOW = -2;

/** Counts how long requests took: in steps of the clock's stamps, and for how many requests each stands. */
export interface LatencyCounter {
  add(type: IoType, steps: number, weight: number): void;
}

/** Whoever submitted a request. Called on the reactor's thread, possibly from inside `submit`. */
export interface IoOwner {
  /** Where else the latencies of its requests are counted: those of a guest's queue. */
  readonly latencies?: LatencyCounter | null;
  /** Whose they are where a limit is shared. Default: the daemon's. */
  readonly sharer?: Sharer | null;
  ioDone(io: BdevIo): void;
}

/** What a channel tells the core about each finished request, before its owner hears of it. */
export interface IoAccount {
  ioFinished(io: BdevIo): void;
}

/** Pooled: neither a module nor its channel keeps it after `complete`. */
export class BdevIo {
  type: IoType = IoType.read;
  offsetBlocks = DOUBLE;
  countBlocks = DOUBLE;
  lengthBytes = DOUBLE;
  /** First iovec entry in the reactor's arena, or `NO_SEGMENTS`. The segments hold at least `lengthBytes`. */
  iovFirst = NO_SEGMENTS;
  iovCount = 0;
  status: IoStatus = IoStatus.success;
  /** The owner's own. */
  tag = 0;
  owner: IoOwner;
  account: IoAccount | null = null;
  /** The channel's: how many requests this one stands for in what is sampled, and when it was taken. 0: it is not. */
  weight = 0;
  stamp = 0;
  /** Of a request that a stacked bdev makes: the one that it is for. */
  parent: BdevIo | null = null;
  /** Of a list of those that wait for a limit: the next, and how many came before. */
  next: BdevIo | null = null;
  arrival = DOUBLE;

  constructor(owner: IoOwner) {
    this.owner = owner;
  }

  /** The module's last word. Guest memory may be written up to here, not after. */
  complete(status: IoStatus): void {
    this.status = status;
    if (this.account !== null) this.account.ioFinished(this);
    this.owner.ioDone(this);
  }
}

/** A module's handle in one reactor. Everything here runs on that reactor's thread, so nothing locks. */
export interface IoChannel {
  /** Takes a request whose range and type were checked. Completes it now, or in a later `poll`. */
  submit(io: BdevIo): void;
  /** Carries out what was submitted since the last call and reaps completions. Returns how many. */
  poll(): number;
  /**
   * Threads of this machine do its work, of this process or another: who spins while it has requests may take their
   * core from them. Default: false. Such a channel has a `wakeFd`.
   */
  readonly sharesCores?: boolean;
  /** It has a connection of its own, which its first request makes: a flush is one that takes nothing from others. */
  readonly hasConnection?: boolean;
  /**
   * Readable, from `arm` to `disarm`, when a request may have completed, so that a reactor with nothing but waiting I/O
   * can sleep. `NO_WAKE_FD`: completions need polling. `WOKEN_FROM_BELOW`: this channel needs neither. The channel's
   * own: watched, never read or closed by others.
   */
  readonly wakeFd: number;
  /** Asks for `wakeFd`. True when `poll` has something to do already: then it must not be waited for. */
  arm(): boolean;
  disarm(): void;
  /** Set by whoever polls it: to be called when it needs that again, and no request, `wakeFd` or base says so. */
  wake?: () => void;
  /**
   * Lets others have the core until something completes, or for so long, when requests need that to come to their end.
   * Returns the nanoseconds that it took, 0 when they do not.
   */
  rest?(timeoutNs: number): number;
  /** The bdev is going away: what waits for its device to come back fails now. */
  abandon?(): void;
  /**
   * Ends as `withdrawn` what the owners with this very `sharer` submitted and no device was given yet, as far as it can
   * tell. What a stacked bdev made of a request counts as given.
   */
  withdraw?(sharer: Sharer): void;
  /**
   * For an upgrade: another process serves the bdev next, by a connection of its own. What was written has been
   * flushed, and nothing is in flight. Gives up what only one of them can have, until the next request. Left out where
   * a flush by that one counts for this one's writes.
   */
  letGo?: () => void;
  /** The bdev's size or place changed. */
  update(description: BdevDescription): void;
  /** Nothing is in flight. */
  close(): void;
}

/** The channel of a bdev under a stacked one. The reactor drives it, and others may use it as well. */
export interface BaseChannel {
  /** Of the bdev. */
  readonly id: number;
  /** Takes a request; `io.owner` hears of its end, now or later. */
  submit(io: BdevIo): void;
  /** The base's size or place changed. */
  update(description: BdevDescription): void;
}

/** Where stacked channels get those under them. */
export interface BaseChannels {
  take(description: BdevDescription): BaseChannel;
  /** The caller's bdev is going away: once that is so for every user, what waits for the base's device fails. */
  abandon(base: BaseChannel): void;
  /** Nothing of the caller is in flight on it. */
  release(base: BaseChannel): void;
}
