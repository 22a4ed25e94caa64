/** The null disk: accepts writes, returns whatever the buffers held. It measures what everything but the disk costs. */
import { randomUUID } from 'node:crypto';
import { type Bdev, type BdevConfig, type Handover, NOTHING_TO_HAND_OVER, type PlainParams } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';

export interface NullParams {
  readonly name: string;
  readonly blockCount: number;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes?: number | undefined;
  readonly uuid?: string | undefined;
}

export class NullBdev implements Bdev {
  readonly kind = 'null';
  readonly productName = 'Null disk';
  readonly hasWriteCache = false;
  readonly ioTypes = [IoType.read, IoType.write, IoType.flush, IoType.writeZeroes] as const;
  readonly name: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  blockCount: number;

  constructor(params: NullParams) {
    this.name = params.name;
    this.uuid = params.uuid?.toLowerCase() ?? randomUUID();
    this.blockSizeBytes = params.blockSizeBytes;
    this.physicalBlockSizeBytes = params.physicalBlockSizeBytes ?? params.blockSizeBytes;
    this.blockCount = params.blockCount;
  }

  params(): PlainParams {
    return {};
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    return {};
  }

  toConfig(): BdevConfig {
    return {
      method: 'bdev_null_create',
      params: {
        name: this.name,
        num_blocks: this.blockCount,
        block_size: this.blockSizeBytes,
        physical_block_size: this.physicalBlockSizeBytes,
        uuid: this.uuid,
      },
    };
  }

  handOver(): Handover {
    return NOTHING_TO_HAND_OVER;
  }

  async destruct(): Promise<void> {}
}
