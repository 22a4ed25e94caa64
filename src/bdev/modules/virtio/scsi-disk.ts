/** A unit of a virtio-scsi target as a disk. */
import type { Bdev, BdevConfig } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { uuidOfText } from '../../text-uuid.ts';
import type { ControllerParams, ScsiChannelParams } from './layout.ts';
import type { UnitIdentity } from './scsi-scan.ts';

export class VirtioScsiBdev implements Bdev {
  readonly kind = 'virtio-scsi';
  readonly productName = 'Virtio SCSI Disk';
  readonly name: string;
  readonly uuid: string;
  /** As it was found first, but for the size. */
  readonly unit: UnitIdentity;
  blockCount: number;
  /** False: the target came back, and did not have this unit yet. */
  isPresent = true;
  readonly #path: string;
  readonly #controller: () => ControllerParams;

  /** `controller` says how the controller is now. */
  constructor(name: string, path: string, unit: UnitIdentity, controller: () => ControllerParams) {
    this.name = name;
    this.uuid = uuidOfText(`${path}/${unit.target}/${unit.lun}`);
    this.unit = unit;
    this.blockCount = unit.blockCount;
    this.#path = path;
    this.#controller = controller;
  }

  get blockSizeBytes(): number {
    return this.unit.blockSizeBytes;
  }

  get physicalBlockSizeBytes(): number {
    return this.unit.physicalBlockSizeBytes;
  }

  get hasWriteCache(): boolean {
    return this.unit.hasWriteCache;
  }

  get ioTypes(): readonly IoType[] {
    const { isReadonly, unmapBlocksMax, zeroBlocksMax } = this.unit;
    return [
      IoType.read,
      IoType.flush,
      ...(isReadonly ? [] : [IoType.write]),
      ...(!isReadonly && unmapBlocksMax > 0 ? [IoType.unmap] : []),
      ...(!isReadonly && zeroBlocksMax > 0 ? [IoType.writeZeroes] : []),
    ];
  }

  params(): ScsiChannelParams {
    const { target, lun, dataBytesMax, unmapBlocksMax, zeroBlocksMax, zeroMayUnmap } = this.unit;
    const { isPresent } = this;
    const limits = { dataBytesMax, unmapBlocksMax, zeroBlocksMax, zeroMayUnmap };
    return { ...this.#controller(), target, lun, isPresent, ...limits };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const { target, lun, vendor, model, serial } = this.unit;
    const { isConnected } = this.#controller();
    const connected = isConnected && this.isPresent;
    return { virtio: { type: 'user', socket: this.#path, target, lun, vendor, model, serial, connected } };
  }

  /** The call that attaches its controller makes it. */
  toConfig(): readonly BdevConfig[] {
    return [];
  }

  async destruct(): Promise<void> {}
}

/** Whether this is the unit that was there before. Units without a name of their own are told by what they are. */
export function isSameUnit(one: UnitIdentity, other: UnitIdentity): boolean {
  const key = (unit: UnitIdentity): string =>
    [unit.vendor, unit.model, unit.serial, unit.designators, unit.blockSizeBytes].join('|');
  return key(one) === key(other);
}
