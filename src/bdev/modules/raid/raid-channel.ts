/**
 * A RAID disk's channel. A read or write within a strip goes on as it is, a longer one in pieces; a request without
 * data is one on each base that it touches.
 */
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, IoType } from '../../bdev-io.ts';
import { PieceLists } from '../../piece-lists.ts';
import { NO_ROOM, PiecewiseChannel } from '../../piecewise-channel.ts';
import { RaidLayout, type RaidLevel } from './layout.ts';

const SLOTS = 256;
const { read: READ, write: WRITE, flush: FLUSH } = IoType;

export class RaidChannel extends PiecewiseChannel {
  readonly #layout: RaidLayout;
  readonly #blockBytes: number;
  readonly #baseCount: number;
  readonly #lists: PieceLists;

  constructor(description: BdevDescription, context: ChannelContext) {
    super(description, context, SLOTS);
    const { level, stripBlocks, starts } = description.params;
    this.#lists = new PieceLists(context.arena, SLOTS);
    this.#blockBytes = description.blockSizeBytes;
    this.#baseCount = description.bases.length;
    this.#layout = new RaidLayout({
      level: level as RaidLevel,
      bases: this.#baseCount,
      stripBlocks: stripBlocks as number,
      starts: new Float64Array(starts as SharedArrayBuffer),
    });
  }

  override submit(io: BdevIo): void {
    if (io.type !== READ && io.type !== WRITE) {
      this.start(io, io.type === FLUSH || io.countBlocks > 0 ? this.#baseCount : 0);
      return;
    }
    this.#layout.find(io.offsetBlocks);
    if (io.countBlocks <= this.#layout.blockCount) this.forward(io, this.#layout.base, this.#layout.firstBlock);
    else this.start(io, io.countBlocks);
  }

  protected override preparePiece(io: BdevIo, progress: number, slot: number, below: BdevIo): number {
    if (io.type !== READ && io.type !== WRITE) return this.#prepareOnBase(io, progress, below);
    const layout = this.#layout;
    layout.find(io.offsetBlocks + progress);
    const blocks = Math.min(layout.blockCount, io.countBlocks - progress);
    const bytes = blocks * this.#blockBytes;
    if (!this.#lists.give(slot, below, io, progress * this.#blockBytes, bytes)) return NO_ROOM;
    this.pieceBase = layout.base;
    below.offsetBlocks = layout.firstBlock;
    below.countBlocks = blocks;
    below.lengthBytes = bytes;
    return progress + blocks;
  }

  protected override pieceOver(slot: number): void {
    this.#lists.release(slot);
  }

  /** The progress is the next base. */
  #prepareOnBase(io: BdevIo, progress: number, below: BdevIo): number {
    const layout = this.#layout;
    let base = progress;
    if (io.type !== FLUSH) {
      base = this.#nextTouched(io, base);
      below.offsetBlocks = layout.firstBlock;
      below.countBlocks = layout.blockCount;
      below.lengthBytes = layout.blockCount * this.#blockBytes;
    }
    this.pieceBase = base;
    return io.type === FLUSH ? base + 1 : this.#nextTouched(io, base + 1);
  }

  /** From a base on, the first that has a part of the range, which is left in the layout; else the number of bases. */
  #nextTouched(io: BdevIo, from: number): number {
    let base = from;
    for (; base < this.#baseCount; base++) {
      this.#layout.findOn(base, io.offsetBlocks, io.countBlocks);
      if (this.#layout.blockCount > 0) break;
    }
    return base;
  }
}
