/**
 * The bdev interface: what a block device is to the rest of Ringhost.
 *
 * A bdev lives on the main thread (`Bdev`: identity, size, configuration). Reactors are other threads, so it is
 * described to them by plain data (`BdevDescription`), from which each opens its own channel with the factory
 * registered for the description's kind (`ChannelFactory`, module-channels.ts). Nothing of a channel is shared between
 * threads.
 */

import type { IovArena } from '../sys/iov-arena.ts';
import type { BaseChannels, IoChannel, IoType } from './bdev-io.ts';

/** Values that structured cloning carries to another thread. */
export type PlainParams = Readonly<Record<string, string | number | boolean | SharedArrayBuffer>>;

/** A bdev as a reactor knows it. */
export interface BdevDescription {
  /** Unique for the life of the daemon; a name may be used again. */
  readonly id: number;
  readonly name: string;
  /** Names the channel factory. */
  readonly kind: string;
  readonly blockSizeBytes: number;
  readonly blockCount: number;
  /** True when a completed write may be lost until a flush. */
  readonly hasWriteCache: boolean;
  /** What the module does itself; the rest is emulated or refused. */
  readonly ioTypes: readonly IoType[];
  /** Blocks read as zeroes once they were unmapped, always. */
  readonly unmapReadsZeroes: boolean;
  /** What the kind's factory needs: addresses, descriptors, paths. */
  readonly params: PlainParams;
  /** Limits on what it may do in a second (`createLimits`), once there were any. */
  readonly limits: SharedArrayBuffer | null;
  /** Of a stacked bdev: those under it. */
  readonly bases: readonly BdevDescription[];
  /** The bdev is being deleted: a channel may be opened, and refuses everything. */
  readonly isRemoved: boolean;
  /** Counters: one row a reactor, see bdev-stats.ts. */
  readonly stats: SharedArrayBuffer;
}

/** The RPC that would create a bdev again. */
export interface BdevConfig {
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>>;
}

/** What the next daemon needs to have the same disk (docs/upgrade.md). */
export interface Inheritance {
  /** The next daemon gets copies. */
  readonly fds: readonly number[];
  /** What a call does not tell, as JSON has it. */
  readonly about?: unknown;
}

/** How a disk is handed over. It serves until guests wait, and again when that fails. */
export interface Handover extends Inheritance {
  /** Guests will wait soon: what can be done before that. */
  catchUp?(): Promise<void>;
  /** Guests wait, with nothing in flight, and the next daemon is ready. Throws when it cannot be handed over. */
  settle?(): void | Promise<void>;
  /** It failed: the disk stays. */
  keep?(): void;
  /** The next daemon has it: what that one waits for is given up. */
  leave?(): Promise<void>;
}

/** A disk of which the next daemon needs nothing but the call that makes it. */
export const NOTHING_TO_HAND_OVER: Handover = { fds: [] };

/** What a module gives the registry for each of its bdevs. Runs on the main thread. */
export interface Bdev {
  readonly name: string;
  readonly kind: string;
  /** As `bdev_get_bdevs` shows it: "Malloc disk". */
  readonly productName: string;
  /** Lower-case, with dashes. */
  readonly uuid: string;
  /** Another name by which it is found. */
  readonly alias?: string;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  readonly blockCount: number;
  readonly hasWriteCache: boolean;
  readonly ioTypes: readonly IoType[];
  /** One channel has the device, of one process: nobody else may open one meanwhile. Default: false. */
  readonly isExclusive?: boolean;
  /** Unmapped blocks read as zeroes, always. Left out by a module that cannot promise it. */
  readonly unmapReadsZeroes?: boolean;
  /** For the description. */
  params(): PlainParams;
  /** `driver_specific` of `bdev_get_bdevs`. */
  driverSpecific(): Readonly<Record<string, unknown>>;
  /** One call, or several, or none when those that make another bdev make this one too. */
  toConfig(): BdevConfig | readonly BdevConfig[];
  /** Every channel is closed: give everything back. */
  destruct(): Promise<void>;
  /**
   * For an upgrade (docs/upgrade.md): what the next daemon needs to have the disk while this one still has it. `tell`
   * resolves when every reactor has the new `params`. Throws when it cannot. Left out by a module whose disks two
   * daemons cannot have at a time.
   */
  handOver?(tell: () => Promise<void>): Handover | Promise<Handover>;
  /** What a channel of its told it (`ChannelContext.tell`). */
  hear?(what: unknown): void;
  /**
   * For an upgrade: from now on nothing but guests' requests changes the disk. Throws when something about it is
   * otherwise than when it was handed over. A disk that was handed over begins like that, in the next daemon.
   */
  freeze?(): Promise<void>;
  /** Goes on, with what is there now. */
  thaw?(): Promise<void>;
  /** After `destruct`, when an operator deleted it: what outlives the daemon shall not outlive that. */
  forget?(): void;
}

/** What a reactor lends to the channels it opens. */
export interface ChannelContext {
  /** Where the segment lists of requests live. */
  readonly arena: IovArena;
  /** For stacked bdevs. */
  readonly bases?: BaseChannels;
  /** What a channel has to tell its bdev, on the main thread (`Bdev.hear`). */
  readonly tell?: (bdevId: number, what: unknown) => void;
  /** Hears, once a channel, that the device behind a bdev is gone (`IoStatus.gone`). */
  readonly onGone?: (bdevId: number) => void;
}

/** Opens a module's channel in a reactor thread. */
export type ChannelFactory = (description: BdevDescription, context: ChannelContext) => IoChannel;
