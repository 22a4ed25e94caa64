/** A bdev over one other, on the main thread: as large as that one, and able to do what it can. */
import { TargetError } from '../base/errors.ts';
import { type Bdev, type BdevConfig, type Handover, NOTHING_TO_HAND_OVER, type PlainParams } from './bdev.ts';
import type { IoType } from './bdev-io.ts';
import type { BdevEntry } from './registry.ts';
import { uuidOfText } from './text-uuid.ts';

export interface StackedParams {
  readonly name: string;
  readonly base: BdevEntry;
  /** Default: made of the base's, so that it is the same next time. */
  readonly uuid?: string | undefined;
}

export abstract class StackedBdev implements Bdev {
  abstract readonly kind: string;
  abstract readonly productName: string;
  readonly name: string;
  readonly uuid: string;
  protected readonly base: BdevEntry;

  constructor({ name, base, uuid }: StackedParams) {
    this.name = name;
    this.base = base;
    this.uuid = uuid?.toLowerCase() ?? uuidOfText(`${name} over ${base.bdev.uuid}`);
  }

  get blockSizeBytes(): number {
    return this.base.bdev.blockSizeBytes;
  }

  get physicalBlockSizeBytes(): number {
    return this.base.bdev.physicalBlockSizeBytes;
  }

  get blockCount(): number {
    return this.base.bdev.blockCount;
  }

  get hasWriteCache(): boolean {
    return this.base.bdev.hasWriteCache;
  }

  get ioTypes(): readonly IoType[] {
    return this.base.bdev.ioTypes;
  }

  get unmapReadsZeroes(): boolean {
    return this.base.bdev.unmapReadsZeroes ?? false;
  }

  params(): PlainParams {
    return {};
  }

  abstract driverSpecific(): Readonly<Record<string, unknown>>;
  abstract toConfig(): BdevConfig | readonly BdevConfig[];

  handOver(): Handover {
    return NOTHING_TO_HAND_OVER;
  }

  async destruct(): Promise<void> {}
}

/** The bdev of an entry, when it is of a kind; throws `EINVAL` otherwise. */
export function bdevOf<B extends Bdev>(entry: BdevEntry, kind: new (...args: never[]) => B, what: string): B {
  if (entry.bdev instanceof kind) return entry.bdev;
  throw new TargetError('EINVAL', `bdev "${entry.name}" is a ${entry.bdev.productName}, not ${what}`);
}
