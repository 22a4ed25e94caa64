/** The attached virtio controllers: a blk one is its disk, under the same name; scsi ones are kept here by name. */
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { BdevConfig } from '../../bdev.ts';
import type { BdevEntry, BdevRegistry } from '../../registry.ts';
import { VirtioBlkBdev } from './blk.ts';
import type { VirtioParams } from './link.ts';
import { VirtioScsiController } from './scsi-controller.ts';

export class VirtioControllers {
  readonly #registry: BdevRegistry;
  readonly #log: Logger;
  readonly #scsi = new Map<string, VirtioScsiController>();

  constructor(registry: BdevRegistry, log: Logger) {
    this.#registry = registry;
    this.#log = log;
    registry.on('deleted', (entry) => this.#diskDeleted(entry));
  }

  /** Those with units, in the order in which they were attached. */
  listScsi(): VirtioScsiController[] {
    return [...this.#scsi.values()];
  }

  /** The calls that attach the scsi ones again; a blk one's is its disk's. */
  toConfig(): BdevConfig[] {
    return this.listScsi().flatMap((controller) => (controller.isDetaching ? [] : [controller.toConfig()]));
  }

  /** Resolves with the name of the disk. */
  async attachBlk(params: VirtioParams): Promise<string[]> {
    const { name, path } = params;
    this.#checkFree(name);
    const bdev = await VirtioBlkBdev.open(params);
    let entry: BdevEntry;
    try {
      entry = this.#registry.create(name, bdev.uuid, () => bdev);
    } catch (error) {
      await bdev.destruct();
      throw error;
    }
    bdev.onNews = (news) => this.#log.warn(`bdev ${name}: its target at ${path}: ${news}`);
    bdev.onChange = () => this.#registry.changed(entry).catch((error: Error) => this.#log.error(error.message));
    return [name];
  }

  /** Resolves with the names of the disks. */
  async attachScsi(params: VirtioParams): Promise<string[]> {
    const { name, path } = params;
    this.#checkFree(name);
    const same = this.listScsi().find((controller) => controller.path === path);
    if (same !== undefined) throw new TargetError('EEXIST', `${path} is attached already, as "${same.name}"`);
    const controller = new VirtioScsiController(params, this.#registry, this.#log);
    this.#scsi.set(name, controller);
    try {
      return await controller.attach();
    } catch (error) {
      this.#scsi.delete(name);
      throw error;
    }
  }

  /** Takes its disks from their users, then ends the connection. Throws `ENODEV` when there is none. */
  async detach(name: string): Promise<void> {
    const controller = this.#scsi.get(name);
    if (controller !== undefined && !controller.isDetaching) {
      await this.#detachScsi(controller);
      return;
    }
    const entry = this.#registry.find(name);
    if (entry === undefined || entry.isRemoving) {
      throw new TargetError('ENODEV', `there is no virtio controller "${name}": bdev_get_bdevs lists the disks`);
    }
    if (!(entry.bdev instanceof VirtioBlkBdev)) {
      throw new TargetError('EINVAL', `"${name}" is a ${entry.bdev.productName}, not a virtio controller`);
    }
    await this.#registry.delete(entry);
  }

  /** For an upgrade. Throws `ENOTSUP` when there is a controller: its target has one front-end at a time. */
  checkHandOver(): void {
    const [scsi] = this.#scsi.values();
    const blk = this.#registry.list().find(({ bdev }) => bdev instanceof VirtioBlkBdev);
    const name = scsi?.name ?? blk?.name;
    if (name === undefined) return;
    throw new TargetError('ENOTSUP', `"${name}" is the front-end of a target that has one at a time: detach it first`);
  }

  /** Everything, when the daemon stops. */
  async close(): Promise<void> {
    for (const controller of this.listScsi()) {
      if (controller.isDetaching) continue;
      await this.#detachScsi(controller).catch((error: Error) => this.#log.error(error.message));
    }
  }

  #checkFree(name: string): void {
    this.#registry.checkFree(name, undefined);
    if (this.#scsi.has(name)) {
      throw new TargetError('EEXIST', `a virtio controller "${name}" exists already: choose another name`);
    }
  }

  async #detachScsi(controller: VirtioScsiController): Promise<void> {
    controller.isDetaching = true;
    const disks = [...controller.disks.values()].filter(({ isRemoving }) => !isRemoving);
    const outcomes = await Promise.allSettled(disks.map((disk) => this.#registry.delete(disk)));
    if (controller.disks.size === 0) await this.#closeScsi(controller);
    const failure = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failure !== undefined) throw failure.reason;
  }

  #diskDeleted(entry: BdevEntry): void {
    for (const controller of this.listScsi()) {
      for (const [key, disk] of controller.disks) if (disk === entry) controller.disks.delete(key);
      // What took too long for the call that asked for it ends here.
      if (controller.isDetaching && controller.disks.size === 0) {
        this.#closeScsi(controller).catch((error: Error) => this.#log.error(error.message));
      }
    }
  }

  async #closeScsi(controller: VirtioScsiController): Promise<void> {
    if (!this.#scsi.delete(controller.name)) return;
    await controller.close();
  }
}
