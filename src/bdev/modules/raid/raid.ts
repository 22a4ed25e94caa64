/** A RAID disk: several disks as one, without redundancy (layout.ts). It goes when one of them goes. */
import { TargetError } from '../../../base/errors.ts';
import { type Bdev, type BdevConfig, type Handover, NOTHING_TO_HAND_OVER, type PlainParams } from '../../bdev.ts';
import { GUEST_IO_TYPES, IoType } from '../../bdev-io.ts';
import type { BdevEntry } from '../../registry.ts';
import { uuidOfText } from '../../text-uuid.ts';
import { commonBlockSize } from './block-size.ts';
import type { RaidLevel } from './layout.ts';

const KIB = 1024;

export interface RaidParams {
  readonly name: string;
  readonly level: RaidLevel;
  readonly bases: readonly BdevEntry[];
  readonly stripKib: number;
  readonly uuid?: string | undefined;
  /** concat: how much of each base is used, in blocks. Default: all of it, in whole strips. */
  readonly baseBlocks?: readonly number[] | undefined;
}

export class RaidBdev implements Bdev {
  readonly kind = 'raid';
  readonly productName = 'Raid Volume';
  readonly name: string;
  readonly uuid: string;
  readonly level: RaidLevel;
  readonly bases: readonly BdevEntry[];
  readonly stripKib: number;
  readonly blockSizeBytes: number;
  readonly #stripBlocks: number;
  readonly #starts: Float64Array<SharedArrayBuffer>;

  /** Throws `EINVAL` when the bases do not fit together. */
  constructor({ name, level, bases, stripKib, uuid, baseBlocks }: RaidParams) {
    this.name = name;
    this.level = level;
    this.bases = bases;
    this.stripKib = stripKib;
    this.uuid = uuid?.toLowerCase() ?? uuidOfText([name, level, ...bases.map(({ bdev }) => bdev.uuid)].join(' over '));
    this.blockSizeBytes = commonBlockSize(bases);
    this.#stripBlocks = (stripKib * KIB) / this.blockSizeBytes;
    if (this.#stripBlocks < 1) {
      throw new TargetError(
        'EINVAL',
        `strips of ${stripKib} KiB are smaller than a block of ${this.blockSizeBytes} bytes`,
      );
    }
    this.#starts = new Float64Array(new SharedArrayBuffer((bases.length + 1) * 8));
    for (const base of baseBlocks === undefined ? bases : []) {
      if (this.#wholeStrips(base) > 0) continue;
      throw new TargetError('EINVAL', `bdev "${base.name}" is smaller than a strip of ${stripKib} KiB`);
    }
    if (level === 'concat') this.#placeBases(baseBlocks);
  }

  /** raid0 grows when all its bases have; concat does not, because what is on the next base would have to move. */
  get blockCount(): number {
    const { bases } = this;
    return this.level === 'concat'
      ? (this.#starts[bases.length] as number)
      : Math.min(...bases.map((base) => this.#wholeStrips(base))) * bases.length;
  }

  get physicalBlockSizeBytes(): number {
    return Math.max(...this.bases.map(({ bdev }) => bdev.physicalBlockSizeBytes));
  }

  get hasWriteCache(): boolean {
    return this.bases.some(({ bdev }) => bdev.hasWriteCache);
  }

  /** A flush reaches those that have something to flush. */
  get ioTypes(): readonly IoType[] {
    return GUEST_IO_TYPES.filter((type) =>
      this.bases.every(({ bdev }) => type === IoType.flush || bdev.ioTypes.includes(type)),
    );
  }

  get unmapReadsZeroes(): boolean {
    return this.bases.every(({ bdev }) => bdev.unmapReadsZeroes ?? false);
  }

  /** Of each base, in blocks. */
  get usedBlocks(): readonly number[] {
    const { bases, level } = this;
    return bases.map((_, i) =>
      level === 'concat'
        ? (this.#starts[i + 1] as number) - (this.#starts[i] as number)
        : this.blockCount / bases.length,
    );
  }

  params(): PlainParams {
    return { level: this.level, stripBlocks: this.#stripBlocks, starts: this.#starts.buffer };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    return { raid: this.info() };
  }

  info() {
    const count = this.bases.length;
    return {
      ...{ uuid: this.uuid, strip_size_kb: this.stripKib, state: 'online' as const, raid_level: this.level },
      ...{ superblock: false, num_base_bdevs: count, num_base_bdevs_discovered: count },
      num_base_bdevs_operational: count,
      base_bdevs_list: this.#baseInfos(),
    };
  }

  #baseInfos() {
    const used = this.usedBlocks;
    return this.bases.map(({ name, bdev }, i) => {
      return { name, uuid: bdev.uuid, is_configured: true, data_offset: 0, data_size: used[i] as number };
    });
  }

  toConfig(): BdevConfig {
    const params = {
      ...{ name: this.name, uuid: this.uuid, strip_size_kb: this.stripKib, raid_level: this.level },
      base_bdevs: this.bases.map(({ name }) => name),
      // A base that grows while the daemon is away must not move what is on the next one.
      ...(this.level === 'concat' ? { base_blocks: this.usedBlocks } : {}),
    };
    return { method: 'bdev_raid_create', params };
  }

  handOver(): Handover {
    return NOTHING_TO_HAND_OVER;
  }

  async destruct(): Promise<void> {}

  #wholeStrips({ bdev }: BdevEntry): number {
    return Math.floor(bdev.blockCount / this.#stripBlocks) * this.#stripBlocks;
  }

  #placeBases(baseBlocks: readonly number[] | undefined): void {
    if (baseBlocks !== undefined && baseBlocks.length !== this.bases.length) {
      throw new TargetError('EINVAL', `base_blocks has ${baseBlocks.length} numbers for ${this.bases.length} bases`);
    }
    for (const [i, base] of this.bases.entries()) {
      const used = baseBlocks?.[i] ?? this.#wholeStrips(base);
      const { blockCount } = base.bdev;
      if (used > blockCount) {
        throw new TargetError('EINVAL', `bdev "${base.name}" has ${blockCount} blocks: ${used} of it cannot be used`);
      }
      this.#starts[i + 1] = (this.#starts[i] as number) + used;
    }
  }
}
