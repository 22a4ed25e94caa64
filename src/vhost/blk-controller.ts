/** A vhost-user-blk controller: one bdev behind one socket, on the main thread. */
import { TargetError } from '../base/errors.ts';
import { IoType } from '../bdev/bdev-io.ts';
import type { BdevEntry, BdevUser } from '../bdev/registry.ts';
import { NO_NODE, type QueuePlacement } from '../reactor/placement.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { hasBit } from '../vhost-user/messages.ts';
import { BLK_CONFIG_WRITEBACK_OFFSET, BLK_ID_BYTES, BlkFeature } from '../virtio/blk.ts';
import { QUEUES_MAX } from '../virtio/features.ts';
import { type BlkDeviceParams, blkConfig, blkFeatures } from './blk-device.ts';
import { Controller, type ControllerOptions, DeviceSession } from './controller.ts';
import { type QueueDevice, type SetWriteThroughCall, VringService } from './vring-service.ts';

/** What DISCARD and WRITE_ZEROES need of a bdev. */
const RANGE_TYPES = [IoType.unmap, IoType.writeZeroes];

export interface BlkControllerOptions extends ControllerOptions {
  readonly bdev: BdevEntry;
  readonly isReadonly: boolean;
  readonly serial: string | undefined;
}

/** What is handed over. */
interface BlkRecord {
  readonly chosenWriteBack: boolean | null;
}

export class BlkController extends Controller<BlkSession> implements BdevUser {
  readonly kind = 'blk';
  protected override readonly featureNames = BlkFeature;
  readonly isReadonly: boolean;
  /** As configured; without one the bdev's name is shown. */
  readonly configuredSerial: string | undefined;
  readonly bdev: BdevEntry;
  /** The bdev was deleted: requests fail, the capacity is 0. */
  isBdevRemoved = false;

  /** Listens at once. */
  constructor(options: BlkControllerOptions) {
    super(options);
    this.configuredSerial = options.serial;
    this.bdev = options.bdev;
    this.bdev.checkUnclaimed();
    this.isReadonly = options.isReadonly || !this.bdev.bdev.ioTypes.includes(IoType.write);
    this.listen();
    this.bdev.users.add(this);
  }

  override get bdevs(): readonly BdevEntry[] {
    return [this.bdev];
  }

  get serial(): string {
    return (this.configuredSerial ?? this.bdev.name).slice(0, BLK_ID_BYTES);
  }

  async bdevChanged(): Promise<void> {
    await this.broadcast(VringService.bdevChanged, this.bdev.describe());
    this.session?.session.notifyConfigChange();
  }

  /** Resolves when the session's queues run in their new places. */
  async setPlacement(reactors: readonly ReactorThread[], placement: QueuePlacement): Promise<void> {
    const { session } = this;
    const moving = this.places.change(reactors, placement, session?.node ?? NO_NODE);
    await session?.session.restartVrings(moving);
  }

  /** The guest is not told of a size of 0: reads that end at once, without an error, would hide what happened. */
  async bdevRemoved(): Promise<void> {
    this.isBdevRemoved = true;
    await this.broadcast(VringService.bdevRemoved, this.bdev.id);
    this.log.info(`bdev ${this.bdev.name} is gone: requests of the guest fail from now on`);
  }

  /** What the queues and the configuration space are made of. */
  deviceParams(isWriteThrough: boolean): BlkDeviceParams {
    return {
      isReadonly: this.isReadonly,
      hasRanges: !this.isReadonly && RANGE_TYPES.every((type) => this.bdev.bdev.ioTypes.includes(type)),
      isWriteThrough,
      serial: this.serial,
    };
  }

  protected override async saveDevice(): Promise<BlkRecord> {
    return { chosenWriteBack: this.session?.chosenWriteBack ?? null };
  }

  protected override async loadDevice({ chosenWriteBack }: BlkRecord): Promise<void> {
    if (this.session !== null) this.session.chosenWriteBack = chosenWriteBack;
  }

  protected override createSession(): BlkSession {
    return new BlkSession(this);
  }

  protected override async releaseBdevs(): Promise<void> {
    this.bdev.users.delete(this);
  }

  protected override async detachGuest({ id }: BlkSession): Promise<void> {
    this.isBdevRemoved = true;
    await this.broadcast(VringService.detach, id);
  }
}

/** The controller as one front-end sees it. */
export class BlkSession extends DeviceSession {
  override readonly features: bigint;
  override readonly config = { read: () => this.#readConfig(), write: this.#writeConfig.bind(this) };
  /** What the driver wrote to the configuration space; null before that. */
  chosenWriteBack: boolean | null = null;
  readonly #controller: BlkController;

  constructor(controller: BlkController) {
    super(controller);
    this.#controller = controller;
    this.features = blkFeatures(controller.deviceParams(false));
  }

  get isWriteThrough(): boolean {
    const hasFlush = hasBit(this.acked, BlkFeature.FLUSH);
    const hasWce = hasBit(this.acked, BlkFeature.CONFIG_WCE);
    return hasWce ? !this.#isWriteBack : !hasFlush;
  }

  /** The writeback field: on at first, but off for a driver that cannot flush (virtio 1.3 §5.2.5.2). */
  get #isWriteBack(): boolean {
    const canSwitch = hasBit(this.acked, BlkFeature.CONFIG_WCE);
    return this.chosenWriteBack ?? !(canSwitch && !hasBit(this.acked, BlkFeature.FLUSH));
  }

  override reset(): void {
    super.reset();
    this.chosenWriteBack = null;
  }

  protected override queueDevice(): QueueDevice {
    const controller = this.#controller;
    return {
      kind: 'blk',
      bdev: controller.bdev.describe(),
      isDetached: controller.isBdevRemoved,
      params: controller.deviceParams(this.isWriteThrough),
    };
  }

  #readConfig(): Uint8Array {
    const { bdev, isBdevRemoved } = this.#controller;
    return blkConfig(bdev.bdev, isBdevRemoved, QUEUES_MAX, this.#isWriteBack);
  }

  async #writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    const value = bytes[0];
    if (offset !== BLK_CONFIG_WRITEBACK_OFFSET || bytes.length !== 1 || (value !== 0 && value !== 1)) {
      throw new TargetError(
        'VHOST_CONFIG',
        `only the writeback field may be written, not ${bytes.length} bytes at ${offset}`,
      );
    }
    this.chosenWriteBack = value === 1;
    const call: SetWriteThroughCall = { sessionId: this.id, isWriteThrough: this.isWriteThrough };
    await this.#controller.broadcast(VringService.setWriteThrough, call);
  }
}
