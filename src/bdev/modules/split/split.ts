/** A disk cut into equal parts, each a disk of its own. */
import type { BdevConfig, PlainParams } from '../../bdev.ts';
import type { BdevEntry } from '../../registry.ts';
import { StackedBdev } from '../../stacked.ts';

/** What the parts of one disk have in common. */
export interface Split {
  readonly base: BdevEntry;
  /** As they were asked for. */
  readonly count: number;
  readonly sizeMib: number;
  /** In blocks. */
  readonly partBlocks: number;
  readonly parts: Set<SplitBdev>;
}

export class SplitBdev extends StackedBdev {
  readonly kind = 'split';
  readonly productName = 'Split Disk';
  readonly firstBlock: number;
  readonly #split: Split;

  constructor(split: Split, index: number) {
    super({ name: partName(split.base, index), base: split.base });
    this.#split = split;
    this.firstBlock = index * split.partBlocks;
    split.parts.add(this);
  }

  /** Whatever the size of the base becomes. */
  override get blockCount(): number {
    return this.#split.partBlocks;
  }

  override params(): PlainParams {
    return { firstBlock: this.firstBlock };
  }

  override driverSpecific(): Readonly<Record<string, unknown>> {
    return { split: { base_bdev: this.base.name, offset_blocks: this.firstBlock } };
  }

  /** One call makes them all: the first that there is says it. */
  override toConfig(): readonly BdevConfig[] {
    const [first] = this.#split.parts;
    if (first !== this) return [];
    const { base, count, sizeMib } = this.#split;
    const params = { base_bdev: base.name, split_count: count, split_size_mb: sizeMib };
    return [{ method: 'bdev_split_create', params }];
  }

  override async destruct(): Promise<void> {
    this.#split.parts.delete(this);
  }
}

export function partName(base: BdevEntry, index: number): string {
  return `${base.name}p${index}`;
}
