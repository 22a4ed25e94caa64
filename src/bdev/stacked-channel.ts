/**
 * The channel of a bdev over others: what every stacked module does. Requests go down as requests of its own, from a
 * pool; their ends come up, on the same thread, through `baseDone`. A module says what happens in between.
 *
 * The channels below belong to the reactor, which polls or watches them: a stacked channel has nothing to poll, unless
 * the module has something of its own.
 */
import { assert } from '../base/assert.ts';
import type { BdevDescription, ChannelContext } from './bdev.ts';
import {
  type BaseChannel,
  type BaseChannels,
  BdevIo,
  type IoChannel,
  type IoOwner,
  IoStatus,
  WOKEN_FROM_BELOW,
} from './bdev-io.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { failed: FAILED, gone: GONE } = IoStatus;

/** `tag` of a request below to which the module gave none. */
export const NO_TAG = -1;

export abstract class StackedChannel implements IoChannel, IoOwner {
  readonly wakeFd: number = WOKEN_FROM_BELOW;
  protected readonly bases: readonly BaseChannel[];
  readonly #table: BaseChannels;
  /** Requests for the channels below that are not in flight. */
  readonly #free: BdevIo[] = [];

  constructor(description: BdevDescription, { bases: table }: ChannelContext) {
    assert(table !== undefined, 'whoever opens stacked bdevs opens those below');
    this.#table = table;
    this.bases = description.bases.map((base) => table.take(base));
  }

  abstract submit(io: BdevIo): void;

  /** A request below has ended: by default so has that above. `tag`: what the module gave the one below. */
  protected baseDone(io: BdevIo, status: IoStatus, _tag: number): void {
    io.complete(status);
  }

  /** Sends a request to a bdev below: the blocks and buffers of `io`, from another block on where that is given. */
  protected forward(io: BdevIo, base: number, offsetBlocks: number = io.offsetBlocks): void {
    const below = this.below(io);
    below.offsetBlocks = offsetBlocks;
    (this.bases[base] as BaseChannel).submit(below);
  }

  /** A request for a bdev below, on behalf of `io`: its owner is this channel. */
  protected below(io: BdevIo): BdevIo {
    const below = this.#free.pop() ?? new BdevIo(this);
    below.parent = io;
    below.type = io.type;
    below.offsetBlocks = io.offsetBlocks;
    below.countBlocks = io.countBlocks;
    below.lengthBytes = io.lengthBytes;
    below.iovFirst = io.iovFirst;
    below.iovCount = io.iovCount;
    below.tag = NO_TAG;
    return below;
  }

  /** A request below is not sent after all. */
  protected giveBack(below: BdevIo): void {
    below.parent = null;
    this.#free.push(below);
  }

  ioDone(below: BdevIo): void {
    const io = below.parent as BdevIo;
    const { status, tag } = below;
    this.giveBack(below);
    // A device that is gone takes its own bdev away, and that one the bdevs over it.
    this.baseDone(io, status === GONE ? FAILED : status, tag);
  }

  poll(): number {
    return 0;
  }

  arm(): boolean {
    return false;
  }

  disarm(): void {}

  abandon(): void {
    for (const base of this.bases) this.#table.abandon(base);
  }

  update(description: BdevDescription): void {
    for (const [i, base] of description.bases.entries()) this.bases[i]?.update(base);
  }

  close(): void {
    for (const base of this.bases) this.#table.release(base);
  }
}
