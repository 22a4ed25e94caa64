/**
 * A vhost-user-scsi controller: SCSI targets with LUNs behind one socket, on the main thread. The targets themselves
 * live in the controller's reactor (scsi-service.ts); here is what is configured, and the way of every LUN that comes
 * or goes.
 *
 * A LUN goes in one way, whether its target is removed, its bdev is deleted, the bdev vanishes or the controller is
 * deleted: the reactor refuses new commands, ends those in flight, and tells the driver.
 */
import { withinDeadline } from '../base/deadline.ts';
import { TargetError } from '../base/errors.ts';
import { REMOVAL_MS_MAX } from '../base/limits.ts';
import type { BdevEntry, BdevUser } from '../bdev/registry.ts';
import { hasBit, maskOf } from '../vhost-user/messages.ts';
import { FEATURES_OFFERED } from '../virtio/features.ts';
import { SCSI_LUNS_MAX, SCSI_TARGETS_MAX, ScsiFeature } from '../virtio/scsi.ts';
import { Controller, DeviceSession } from './controller.ts';
import type { ScsiDeviceRecord } from './scsi-device.ts';
import { type AddLunCall, type LoadDeviceCall, type LunCall, ScsiCall } from './scsi-service.ts';
import { type QueueDevice, VringService } from './vring-service.ts';

/** What initiators see of a LUN when nothing else is configured: the vendor as SPDK has it, the model is the bdev's. */
const DEFAULT_VENDOR = 'INTEL';
/** Give the first free target number. */
const ANY_TARGET = -1;

export interface LunConfig {
  /** As configured; undefined for the defaults. */
  readonly vendor: string | undefined;
  readonly model: string | undefined;
  readonly serial: string | undefined;
  /** Writes are refused. */
  readonly isReadonly: boolean;
  /** The guest may eject the medium and load it again. */
  readonly isRemovable: boolean;
}

export interface AddTargetParams extends LunConfig {
  /** 0 to 255, or `ANY_TARGET`. */
  readonly target: number;
  readonly lun: number;
  readonly bdev: BdevEntry;
}

let nextControllerId = 1;

/** One LUN of a target, and what connects it with its bdev. */
export class ScsiLun implements BdevUser {
  readonly target: number;
  readonly lun: number;
  readonly bdev: BdevEntry;
  readonly config: LunConfig;
  /** Set while it goes. */
  removal: Promise<void> | null = null;
  readonly #controller: ScsiController;

  constructor(controller: ScsiController, target: number, params: AddTargetParams) {
    this.#controller = controller;
    this.target = target;
    this.lun = params.lun;
    this.bdev = params.bdev;
    this.config = params;
  }

  bdevChanged(): Promise<void> {
    return this.#controller.lunChanged(this);
  }

  bdevRemoved(): Promise<void> {
    return this.#controller.removeLun(this);
  }
}

export class ScsiController extends Controller<ScsiSession> {
  readonly kind = 'scsi';
  protected override readonly featureNames = ScsiFeature;
  /** In this daemon, for its reactor. */
  readonly id = nextControllerId++;
  /** By target number, then LUN. */
  readonly #targets = new Map<number, Map<number, ScsiLun>>();
  #isOpen = true;

  /** Makes the device in the reactor. Before anything else. */
  async open(): Promise<void> {
    await this.places.home.call(ScsiCall.open, this.id);
  }

  override get bdevs(): readonly BdevEntry[] {
    return this.luns().map(({ bdev }) => bdev);
  }

  /** In ascending order of target and LUN. */
  luns(): ScsiLun[] {
    const all = [...this.#targets.values()].flatMap((luns) => [...luns.values()]);
    return all.sort((a, b) => a.target - b.target || a.lun - b.lun);
  }

  /**
   * Adds a LUN, and its target when that is new. Returns the target's number. Throws `EEXIST` when the place is taken,
   * `ENOSPC` when no target is free, `EINVAL` for numbers out of range.
   */
  async addTarget(params: AddTargetParams): Promise<number> {
    const target = params.target === ANY_TARGET ? this.#firstFreeTarget() : params.target;
    if (target < 0 || target >= SCSI_TARGETS_MAX || params.lun >= SCSI_LUNS_MAX) {
      throw new TargetError('EINVAL', `targets go from 0 to ${SCSI_TARGETS_MAX - 1}, LUNs to ${SCSI_LUNS_MAX - 1}`);
    }
    const luns = this.#targets.get(target) ?? new Map<number, ScsiLun>();
    if (luns.has(params.lun)) {
      throw new TargetError('EEXIST', `target ${target} of "${this.name}" has a LUN ${params.lun} already`);
    }
    params.bdev.checkUnclaimed();
    const lun = new ScsiLun(this, target, params);
    luns.set(lun.lun, lun);
    this.#targets.set(target, luns);
    lun.bdev.users.add(lun);
    try {
      await this.places.home.call(ScsiCall.addLun, this.#describe(lun));
    } catch (error) {
      this.#forget(lun);
      throw error;
    }
    this.log.info(`added target ${target} LUN ${lun.lun} with bdev ${lun.bdev.name}`);
    return target;
  }

  /**
   * Removes a target, or only one of its LUNs. Resolves when nothing of it is in flight. Throws `ENODEV` when there is
   * none, `EBUSY` when it is being removed, `ENOTSUP` when the driver could not be told, `ETIMEDOUT` when commands do
   * not end: they keep their buffers until the bdev gives them back, because until then it may use them.
   */
  async removeTarget(target: number, lun: number | undefined): Promise<void> {
    const all = [...(this.#targets.get(target)?.values() ?? [])];
    const wanted = lun === undefined ? all : all.filter((one) => one.lun === lun);
    if (wanted.length === 0) {
      const what = lun === undefined ? `target ${target}` : `LUN ${lun} of target ${target}`;
      throw new TargetError('ENODEV', `"${this.name}" has no ${what}: vhost_get_controllers lists what there is`);
    }
    if (wanted.some((one) => one.removal !== null)) {
      throw new TargetError('EBUSY', `target ${target} of "${this.name}" is being removed already`);
    }
    if (this.session?.isUnawareOfHotplug === true) {
      throw new TargetError('ENOTSUP', "the guest's driver does not know removal: end its use of the controller first");
    }
    await withinDeadline(
      Promise.all(wanted.map((one) => this.removeLun(one))),
      REMOVAL_MS_MAX,
      () =>
        new TargetError(
          'ETIMEDOUT',
          `the bdev of target ${target} still works on commands of the guest after ${REMOVAL_MS_MAX / 1000} s: ` +
            'new ones are refused, and the target goes when they are over',
        ),
    );
  }

  /** Every way out of a LUN ends here. */
  removeLun(lun: ScsiLun): Promise<void> {
    lun.removal ??= this.#remove(lun);
    return lun.removal;
  }

  async lunChanged(lun: ScsiLun): Promise<void> {
    await this.places.home.call(VringService.bdevChanged, lun.bdev.describe());
    if (lun.removal === null) await this.places.home.call(ScsiCall.lunChanged, this.#call(lun));
  }

  protected override saveDevice(): Promise<unknown> {
    return this.places.home.call(ScsiCall.save, this.id);
  }

  protected override async loadDevice(record: unknown): Promise<void> {
    const call: LoadDeviceCall = { controllerId: this.id, record: record as ScsiDeviceRecord };
    await this.places.home.call(ScsiCall.load, call);
  }

  protected override createSession(): ScsiSession {
    return new ScsiSession(this);
  }

  protected override async releaseBdevs(): Promise<void> {
    await this.#removeAll();
    if (!this.#isOpen) return;
    this.#isOpen = false;
    await this.places.home.call(ScsiCall.close, this.id);
  }

  protected override async detachGuest(): Promise<void> {
    await this.#removeAll();
  }

  async #removeAll(): Promise<void> {
    await Promise.all(this.luns().map((lun) => this.removeLun(lun)));
  }

  async #remove(lun: ScsiLun): Promise<void> {
    try {
      await this.places.home.call(ScsiCall.removeLun, this.#call(lun));
    } finally {
      this.#forget(lun);
    }
    this.log.info(`removed target ${lun.target} LUN ${lun.lun} with bdev ${lun.bdev.name}`);
  }

  #forget(lun: ScsiLun): void {
    lun.bdev.users.delete(lun);
    const luns = this.#targets.get(lun.target);
    luns?.delete(lun.lun);
    if (luns?.size === 0) this.#targets.delete(lun.target);
  }

  #firstFreeTarget(): number {
    for (let target = 0; target < SCSI_TARGETS_MAX; target++) if (!this.#targets.has(target)) return target;
    throw new TargetError('ENOSPC', `all ${SCSI_TARGETS_MAX} targets of "${this.name}" are in use`);
  }

  #call(lun: ScsiLun): LunCall {
    return { controllerId: this.id, target: lun.target, lun: lun.lun };
  }

  #describe(lun: ScsiLun): AddLunCall {
    const { bdev } = lun.bdev;
    return {
      ...this.#call(lun),
      bdev: lun.bdev.describe(),
      identity: {
        vendor: lun.config.vendor ?? DEFAULT_VENDOR,
        productName: lun.config.model ?? bdev.productName,
        serial: lun.config.serial ?? bdev.name,
        uuid: bdev.uuid,
        physicalBlockSizeBytes: bdev.physicalBlockSizeBytes,
        isReadonly: lun.config.isReadonly,
        isRemovable: lun.config.isRemovable,
      },
    };
  }
}

/** The controller as one front-end sees it. */
export class ScsiSession extends DeviceSession {
  override readonly features: bigint = scsiFeatures();
  /** A QEMU front-end fills the configuration space itself, and SPDK does not offer it either. */
  override readonly config = null;
  readonly #controller: ScsiController;

  constructor(controller: ScsiController) {
    super(controller);
    this.#controller = controller;
    // Messages to a reactor keep their order: this comes before the first queue.
    void controller.places.home.call(ScsiCall.newSession, controller.id).catch(() => undefined);
  }

  /** A running driver that would not understand that a disk is gone. */
  get isUnawareOfHotplug(): boolean {
    return this.session.runningVrings.length > 0 && !hasBit(this.acked, ScsiFeature.HOTPLUG);
  }

  protected override queueDevice(): QueueDevice {
    return {
      kind: 'scsi',
      controllerId: this.#controller.id,
      hasHotplug: hasBit(this.acked, ScsiFeature.HOTPLUG),
      hasChange: hasBit(this.acked, ScsiFeature.CHANGE),
    };
  }
}

/** Without VHOST_USER_F_PROTOCOL_FEATURES. INOUT is not offered: no command of a disk has data in both directions. */
function scsiFeatures(): bigint {
  return maskOf(ScsiFeature.HOTPLUG, ScsiFeature.CHANGE, ...FEATURES_OFFERED);
}
