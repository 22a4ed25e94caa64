/**
 * A disk over another vhost-user target (virtio-blk): SPDK's, qemu-storage-daemon's, another Ringhost's. The main
 * thread is its front-end; reactors drive the queues.
 */
import { TargetError } from '../../../base/errors.ts';
import type { VhostUserFrontend } from '../../../initiator/vhost-user-frontend.ts';
import { hasBit, maskOf, ProtocolFeature } from '../../../vhost-user/messages.ts';
import { BlkConfig, BlkFeature, SECTOR_BYTES } from '../../../virtio/blk.ts';
import type { Bdev, BdevConfig } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { uuidOfText } from '../../text-uuid.ts';
import { BLK_FORM, type BlkChannelParams, BUFFER_BYTES } from './layout.ts';
import { Link, type LinkDevice, type Negotiated, type VirtioParams } from './link.ts';

type Configuration = ReturnType<typeof BlkConfig.decode>;

const BLOCK_BYTES_MAX = 4096;
const FEATURES =
  maskOf(BlkFeature.SIZE_MAX, BlkFeature.RO, BlkFeature.BLK_SIZE, BlkFeature.FLUSH, BlkFeature.TOPOLOGY) |
  maskOf(BlkFeature.MQ, BlkFeature.DISCARD, BlkFeature.WRITE_ZEROES);

/** What the target says of its disk, checked. */
interface Disk {
  readonly features: bigint;
  readonly config: Configuration;
  readonly blockSizeBytes: number;
  readonly blockCount: number;
  readonly dataBytesMax: number;
}

export class VirtioBlkBdev implements Bdev, LinkDevice {
  readonly kind = 'virtio-blk';
  readonly productName = 'VirtioBlk Disk';
  readonly name: string;
  readonly uuid: string;
  readonly form = BLK_FORM;
  readonly queuesWithoutMq = 1;
  readonly regions = [];
  /** Called when the target went, came back, or has a new size; resolves when every channel knows. */
  onChange: () => Promise<void> = async () => {};
  /** What happened to the target. */
  onNews: (news: string) => void = () => {};
  readonly #params: VirtioParams;
  readonly #link: Link;
  /** As at the first connection, but for the size. */
  #disk: Disk | null = null;
  #isOver = false;
  #isReading = false;
  #isStale = false;

  private constructor(params: VirtioParams) {
    this.#params = params;
    this.#link = new Link(params, this);
    this.name = params.name;
    this.uuid = uuidOfText(params.path);
  }

  /** Connects and sets everything up. Throws what the target refuses. */
  static async open(params: VirtioParams): Promise<VirtioBlkBdev> {
    const bdev = new VirtioBlkBdev(params);
    try {
      await bdev.#link.connect();
      return bdev;
    } catch (error) {
      await bdev.destruct();
      throw error;
    }
  }

  /** What it once had is all that it needs. */
  get features(): bigint {
    return this.#disk?.features ?? FEATURES;
  }

  get blockSizeBytes(): number {
    return this.#disk?.blockSizeBytes ?? SECTOR_BYTES;
  }

  get physicalBlockSizeBytes(): number {
    const exponent = this.#has(BlkFeature.TOPOLOGY) ? (this.#disk?.config.physicalBlockExponent ?? 0) : 0;
    return this.blockSizeBytes * 2 ** Math.min(exponent, 16);
  }

  get blockCount(): number {
    return this.#disk?.blockCount ?? 0;
  }

  get hasWriteCache(): boolean {
    return this.#has(BlkFeature.FLUSH);
  }

  get ioTypes(): readonly IoType[] {
    const isReadonly = this.#has(BlkFeature.RO);
    return [
      IoType.read,
      IoType.flush,
      ...(isReadonly ? [] : [IoType.write]),
      ...(!isReadonly && this.#has(BlkFeature.DISCARD) ? [IoType.unmap] : []),
      ...(!isReadonly && this.#has(BlkFeature.WRITE_ZEROES) ? [IoType.writeZeroes] : []),
    ];
  }

  params(): BlkChannelParams {
    const { config, dataBytesMax } = this.#disk as Disk;
    return {
      ...this.#link.params(),
      dataBytesMax,
      discardSectorsMax: config.maxDiscardSectors,
      zeroSectorsMax: config.maxWriteZeroesSectors,
      zeroMayUnmap: config.writeZeroesMayUnmap === 1,
    };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const { queueCount, queueSize, isConnected } = this.#link;
    const { path } = this.#params;
    return { virtio: { type: 'user', socket: path, vq_count: queueCount, vq_size: queueSize, connected: isConnected } };
  }

  toConfig(): BdevConfig {
    const { name, path } = this.#params;
    const { queueCount, queueSize } = this.#link;
    const queues = { vq_count: queueCount, vq_size: queueSize };
    return {
      method: 'bdev_virtio_attach_controller',
      params: { name, trtype: 'user', traddr: path, dev_type: 'blk', ...queues },
    };
  }

  async destruct(): Promise<void> {
    this.#isOver = true;
    await this.#link.close();
  }

  async check({ frontend, features, protocol, queuesMax }: Negotiated): Promise<number> {
    const { path } = this.#params;
    if (!hasBit(protocol, ProtocolFeature.CONFIG)) {
      throw new TargetError('ENOTSUP', `${path} has no configuration to read: is it a virtio-blk target?`);
    }
    const { queueCount } = this.#link;
    if (queueCount > queuesMax) {
      throw new TargetError('EINVAL', `${path} has ${queuesMax} queues, not the ${queueCount} of vq_count`);
    }
    const disk = readDisk(path, features, BlkConfig.decode(await frontend.getConfig(0, BlkConfig.size)));
    const known = this.#disk;
    if (known !== null && (known.features !== features || known.blockSizeBytes !== disk.blockSizeBytes)) {
      throw new TargetError('EINVAL', `${path} came back as another kind of disk: detach ${this.name} and attach it`);
    }
    this.#disk = disk;
    // A target that comes back smaller refuses what is beyond its end by itself.
    if (known !== null) this.#disk = { ...disk, blockCount: Math.max(known.blockCount, disk.blockCount) };
    return 0;
  }

  async begin(): Promise<void> {}

  unitsChanged(): void {}

  /** However often it says so, one reading at a time. */
  configChanged(frontend: VhostUserFrontend): void {
    this.#isStale = true;
    if (!this.#isReading) void this.#readConfig(frontend);
  }

  ended(reason: string): void {
    this.onNews(reason);
    void this.#reconnect();
  }

  refused(reason: string): void {
    this.onNews(reason);
  }

  #has(bit: number): boolean {
    return hasBit(this.#disk?.features ?? 0n, bit);
  }

  /** Tells the channels, and tries until the target is back. */
  async #reconnect(): Promise<void> {
    if (this.#isOver) return;
    await this.onChange();
    await this.#link.reconnect();
    if (this.#isOver) return;
    this.onNews('it is back');
    await this.onChange();
  }

  async #readConfig(frontend: VhostUserFrontend): Promise<void> {
    this.#isReading = true;
    while (this.#isStale && !this.#isOver) {
      this.#isStale = false;
      try {
        const config = BlkConfig.decode(await frontend.getConfig(0, BlkConfig.size));
        await this.#resized(config);
      } catch {
        // The connection ended meanwhile, or nothing usable was said: the disk stays as it is.
      }
    }
    this.#isReading = false;
  }

  async #resized(config: Configuration): Promise<void> {
    const disk = this.#disk;
    if (disk === null) return;
    const { blockCount } = readDisk(this.#params.path, disk.features, config);
    if (blockCount <= disk.blockCount) return;
    this.#disk = { ...disk, blockCount };
    this.onNews(`it has ${blockCount} blocks now`);
    await this.onChange();
  }
}

/** Throws `EINVAL` for what is no disk. */
function readDisk(path: string, features: bigint, config: Configuration): Disk {
  const blockSizeBytes = hasBit(features, BlkFeature.BLK_SIZE) ? config.blockSizeBytes : SECTOR_BYTES;
  const isPowerOfTwo = blockSizeBytes >= SECTOR_BYTES && (blockSizeBytes & (blockSizeBytes - 1)) === 0;
  if (!isPowerOfTwo || blockSizeBytes > BLOCK_BYTES_MAX) {
    throw new TargetError(
      'EINVAL',
      `${path} has blocks of ${blockSizeBytes} bytes: 512 to ${BLOCK_BYTES_MAX} are served`,
    );
  }
  const capacityBytes = config.capacitySectors * SECTOR_BYTES;
  const blockCount = Math.floor(capacityBytes / blockSizeBytes);
  if (blockCount === 0 || !Number.isSafeInteger(capacityBytes)) {
    throw new TargetError('EINVAL', `${path} says that it has ${config.capacitySectors} sectors`);
  }
  // qemu-storage-daemon offers a limit and says 0: none.
  const sizeMax = hasBit(features, BlkFeature.SIZE_MAX) && config.sizeMax > 0 ? config.sizeMax : BUFFER_BYTES;
  if (sizeMax < blockSizeBytes) {
    throw new TargetError('EINVAL', `${path} takes ${sizeMax} bytes at once, less than a block`);
  }
  const dataBytesMax = Math.min(BUFFER_BYTES, sizeMax - (sizeMax % blockSizeBytes));
  return { features, config, blockSizeBytes, blockCount, dataBytesMax };
}
