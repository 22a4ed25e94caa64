/** A partition of a disk with a GUID partition table (table.ts): a disk of its own. */
import type { BdevConfig, PlainParams } from '../../bdev.ts';
import type { BdevEntry } from '../../registry.ts';
import { StackedBdev } from '../../stacked.ts';
import type { Partition } from './table.ts';

/** What the partitions of one disk have in common. */
export interface PartitionedDisk {
  readonly base: BdevEntry;
  /** As they were asked for. */
  readonly types: readonly string[] | undefined;
  readonly bdevs: Set<GptBdev>;
}

export class GptBdev extends StackedBdev {
  readonly kind = 'gpt';
  readonly productName = 'GPT Disk';
  readonly #disk: PartitionedDisk;
  readonly #partition: Partition;

  constructor(disk: PartitionedDisk, partition: Partition) {
    super({ name: partitionName(disk.base, partition), base: disk.base, uuid: partition.guid });
    this.#disk = disk;
    this.#partition = partition;
    disk.bdevs.add(this);
  }

  /** Whatever the size of the base becomes. */
  override get blockCount(): number {
    return this.#partition.blockCount;
  }

  override params(): PlainParams {
    return { firstBlock: this.#partition.firstBlock };
  }

  override driverSpecific(): Readonly<Record<string, unknown>> {
    const { firstBlock, typeGuid, guid, name } = this.#partition;
    return {
      gpt: {
        base_bdev: this.base.name,
        offset_blocks: firstBlock,
        partition_type_guid: typeGuid,
        unique_partition_guid: guid,
        partition_name: name,
      },
    };
  }

  /** One call makes them all: the first that there is says it. */
  override toConfig(): readonly BdevConfig[] {
    const { base, types, bdevs } = this.#disk;
    const [first] = bdevs;
    if (first !== this) return [];
    const params = { base_bdev: base.name, ...(types === undefined ? {} : { types }) };
    return [{ method: 'bdev_gpt_create', params }];
  }

  override async destruct(): Promise<void> {
    this.#disk.bdevs.delete(this);
  }
}

export function partitionName(base: BdevEntry, { number }: Partition): string {
  return `${base.name}p${number}`;
}
