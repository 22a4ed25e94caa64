/**
 * By which way writes to a large RAM disk are copied: through the caches, or past them. Past them was twice as fast on
 * one processor and a third slower on another (docs/performance.md); it also depends on how much of what is written the
 * caches hold, and on who else uses the memory. So each way has its turn, the quicker one is used for long, and then
 * both have a turn again.
 *
 * Only the second half of a turn is timed: by then the caches are as full of written blocks as they get. It is timed in
 * slices, and the quickest counts: others take the core, or memory is touched for the first time, in some of them.
 */

/** Bytes written in a turn: with half of them the last-level caches of large processors are full, or nearly so. */
const TURN_BYTES = 64 * 2 ** 20;
const SLICE_BYTES = 2 ** 20;
/** Bytes for which the choice holds. Both turns together are a sixty-fourth of it. */
const CHOICE_BYTES = 64 * 2 * TURN_BYTES;

/** Of what is being written; in their order. */
const Phase = { throughTurn: 0, pastTurn: 1, chosen: 2 } as const;

/** Costs are in steps of any clock for a block; blocks are of the disk. */
export class WriteWay {
  /** The next run writes past the caches. */
  isPastCaches = false;
  readonly #turnBlocks: number;
  readonly #sliceBlocks: number;
  readonly #choiceBlocks: number;
  #phase: number = Phase.chosen;
  /** To be written until this phase ends. */
  #leftBlocks = 0;
  #blocksInSlice = 0;
  #stepsInSlice = 0;
  /** Of a block in the quickest slice of the turn of each way. */
  readonly #costs = new Float64Array(2);

  constructor(blockSizeBytes: number) {
    this.#turnBlocks = TURN_BYTES / blockSizeBytes;
    this.#sliceBlocks = SLICE_BYTES / blockSizeBytes;
    this.#choiceBlocks = CHOICE_BYTES / blockSizeBytes;
    this.#nextPhase();
  }

  /** The next run is to be timed, if it writes: `timed` is told. */
  get isTimed(): boolean {
    return this.#phase !== Phase.chosen && this.#leftBlocks * 2 <= this.#turnBlocks;
  }

  /** A run that was to be timed took so long for all blocks that it copied, written ones among them. */
  timed(blocks: number, steps: number): void {
    this.#blocksInSlice += blocks;
    this.#stepsInSlice += steps;
    if (this.#blocksInSlice < this.#sliceBlocks) return;
    const cost = this.#stepsInSlice / this.#blocksInSlice;
    if (cost < (this.#costs[this.#phase] as number)) this.#costs[this.#phase] = cost;
    this.#blocksInSlice = 0;
    this.#stepsInSlice = 0;
  }

  /** So many blocks were written by a run. */
  wrote(blocks: number): void {
    this.#leftBlocks -= blocks;
    if (this.#leftBlocks <= 0) this.#nextPhase();
  }

  #nextPhase(): void {
    this.#blocksInSlice = 0;
    this.#stepsInSlice = 0;
    this.#phase = (this.#phase + 1) % 3;
    if (this.#phase === Phase.chosen) {
      this.#leftBlocks = this.#choiceBlocks;
      this.isPastCaches = (this.#costs[Phase.pastTurn] as number) < (this.#costs[Phase.throughTurn] as number);
    } else {
      this.#leftBlocks = this.#turnBlocks;
      this.isPastCaches = this.#phase === Phase.pastTurn;
      this.#costs[this.#phase] = Infinity;
    }
  }
}
