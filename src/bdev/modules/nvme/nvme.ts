/** A namespace of an NVMe controller as a disk. */

import { withDashes } from '../../../base/uuid.ts';
import type { NvmeController } from '../../../nvme/controller.ts';
import type { NamespaceIdentity } from '../../../nvme/identify.ts';
import { type Bdev, type BdevConfig, type Handover, NOTHING_TO_HAND_OVER, type PlainParams } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { uuidOfText } from '../../text-uuid.ts';

const BLOCK_BYTES_MAX = 4096;

export interface NvmeBdevOptions {
  readonly name: string;
  readonly controller: NvmeController;
  readonly namespace: NamespaceIdentity;
}

export class NvmeBdev implements Bdev {
  readonly productName = 'NVMe disk';
  readonly name: string;
  readonly kind: string;
  readonly uuid: string;
  readonly nsid: number;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  readonly hasWriteCache: boolean;
  readonly ioTypes: readonly IoType[];
  readonly unmapReadsZeroes: boolean;
  blockCount: number;
  readonly #options: NvmeBdevOptions;

  constructor(options: NvmeBdevOptions) {
    const { controller, namespace } = options;
    const { identity } = controller;
    this.#options = options;
    this.name = options.name;
    this.kind = controller.channelKind;
    this.uuid = uuidOf(controller, namespace);
    this.nsid = namespace.nsid;
    this.blockSizeBytes = namespace.blockSizeBytes;
    this.physicalBlockSizeBytes = namespace.blockSizeBytes * namespace.writeGranularityBlocks;
    this.blockCount = namespace.blockCount;
    this.hasWriteCache = identity.hasVolatileWriteCache;
    this.unmapReadsZeroes = false;
    this.ioTypes = [
      IoType.read,
      IoType.write,
      IoType.flush,
      ...(identity.hasDatasetManagement ? [IoType.unmap] : []),
      ...(identity.hasWriteZeroes ? [IoType.writeZeroes] : []),
    ];
  }

  params(): PlainParams {
    return this.#options.controller.channelParams(this.nsid);
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const { controller, namespace } = this.#options;
    const { identity, transportId } = controller;
    return {
      nvme: [
        {
          ...(transportId.trtype === 'PCIe' ? { pci_address: transportId.traddr } : {}),
          trid: transportId,
          cntlid: identity.controllerId,
          ctrlr_data: {
            cntlid: identity.controllerId,
            vendor_id: `0x${identity.vendorId.toString(16)}`,
            model_number: identity.modelNumber,
            serial_number: identity.serialNumber,
            firmware_revision: identity.firmwareRevision,
            subnqn: identity.subsystemNqn,
          },
          ns_data: { id: namespace.nsid },
        },
      ],
    };
  }

  /** The calls that attach its controller make it: `NvmeControllers` has them. */
  toConfig(): readonly BdevConfig[] {
    return [];
  }

  /** The next daemon connects by itself. A drive on PCIe has one driver: `NvmeControllers` says so. */
  handOver(): Handover {
    return NOTHING_TO_HAND_OVER;
  }

  async destruct(): Promise<void> {}
}

/** Why a namespace cannot be a disk, or null. */
export function whyNotServed(namespace: NamespaceIdentity): string | null {
  const { blockSizeBytes, metadataBytes } = namespace;
  if (metadataBytes > 0) return `its format has ${metadataBytes} bytes of metadata a block: format it without`;
  if (blockSizeBytes < 512 || blockSizeBytes > BLOCK_BYTES_MAX) {
    return `its blocks have ${blockSizeBytes} bytes: 512 to ${BLOCK_BYTES_MAX} are served`;
  }
  return null;
}

/** What the namespace says of itself, or made of serial number and namespace: the same every time. */
function uuidOf({ identity }: NvmeController, namespace: NamespaceIdentity): string {
  if (namespace.uuid !== '') return namespace.uuid;
  if (namespace.nguid !== '') return withDashes(namespace.nguid);
  return uuidOfText(`nvme:${identity.modelNumber}/${identity.serialNumber}/${namespace.nsid}/${namespace.eui64}`);
}
