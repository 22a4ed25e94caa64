/**
 * Where the blocks of a RAID disk are, as SPDK has them. raid0: strips of equal size go to the bases in turn. concat:
 * one base after the other. A range of the disk is, on each base, one range.
 */

export type RaidLevel = 'raid0' | 'concat';

export interface RaidGeometry {
  readonly level: RaidLevel;
  readonly bases: number;
  /** raid0. */
  readonly stripBlocks: number;
  /** concat: where each base starts on the disk, and behind them where the last one ends. */
  readonly starts: Float64Array;
}

/** What the last call found. */
export class RaidLayout {
  base = 0;
  firstBlock = 0;
  blockCount = 0;
  readonly #geometry: RaidGeometry;

  constructor(geometry: RaidGeometry) {
    this.#geometry = geometry;
  }

  /** The base that a block is on, where there, and how many blocks follow there before the next base. */
  find(block: number): void {
    const { level, bases, stripBlocks, starts } = this.#geometry;
    if (level === 'raid0') {
      const strip = Math.floor(block / stripBlocks);
      const inStrip = block - strip * stripBlocks;
      this.base = strip % bases;
      this.firstBlock = Math.floor(strip / bases) * stripBlocks + inStrip;
      this.blockCount = stripBlocks - inStrip;
      return;
    }
    let base = 0;
    while (block >= (starts[base + 1] as number)) base++;
    this.base = base;
    this.firstBlock = block - (starts[base] as number);
    this.blockCount = (starts[base + 1] as number) - block;
  }

  /** The part of a range that is on a base: perhaps nothing. */
  findOn(base: number, firstBlock: number, blockCount: number): void {
    const { level, starts } = this.#geometry;
    this.base = base;
    if (level === 'raid0') {
      this.firstBlock = this.#before(base, firstBlock);
      this.blockCount = this.#before(base, firstBlock + blockCount) - this.firstBlock;
      return;
    }
    const [start, end] = [starts[base] as number, starts[base + 1] as number];
    const first = Math.max(firstBlock, start);
    this.firstBlock = first - start;
    this.blockCount = Math.max(0, Math.min(firstBlock + blockCount, end) - first);
  }

  /** How many of the blocks before `block` are on a base. */
  #before(base: number, block: number): number {
    const { bases, stripBlocks } = this.#geometry;
    const row = Math.floor(block / (stripBlocks * bases));
    const inRow = block - row * stripBlocks * bases;
    return row * stripBlocks + Math.min(stripBlocks, Math.max(0, inRow - base * stripBlocks));
  }
}
