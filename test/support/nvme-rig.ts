/** An NVMe controller over a device that a test gives, and disks of its namespaces. */
import { type Logger, SILENT } from '../../src/base/log.ts';
import type { Bdev } from '../../src/bdev/bdev.ts';
import { NvmeBdev } from '../../src/bdev/modules/nvme/nvme.ts';
import { BOUNCE_MEMORY_BYTES } from '../../src/bdev/modules/nvme/pcie-channel.ts';
import type { ControllerEvents } from '../../src/nvme/controller.ts';
import type { PcieDevice } from '../../src/nvme/pcie/device.ts';
import { PcieController, type PcieOptions } from '../../src/nvme/pcie/pcie-controller.ts';
import { sharedMemory } from '../../src/sys/dma.ts';
import { Mapping, type MappingInfo } from '../../src/sys/mapping.ts';
import { GUEST_BYTES } from './disk-rig.ts';

export async function openController(
  device: PcieDevice,
  options: Partial<PcieOptions> = {},
  events: Partial<ControllerEvents> = {},
  log: Logger = SILENT,
): Promise<PcieController> {
  const all = { queues: 8, bounceBytes: BOUNCE_MEMORY_BYTES, hasInterrupts: device.vectors > 0, ...options };
  return await PcieController.open(device, all, { onNamespaces() {}, onGone() {}, ...events }, log);
}

/** The disk of a namespace. `destruct` of it: what else goes with it. */
export function diskOf(controller: PcieController, nsid: number, name = 'Disk', destruct?: () => Promise<void>): Bdev {
  const namespace = controller.namespaces.find((candidate) => candidate.nsid === nsid);
  if (namespace === undefined) throw new Error(`there is no namespace ${nsid}`);
  const bdev = new NvmeBdev({ name, controller, namespace });
  return destruct === undefined ? bdev : Object.assign(bdev, { destruct });
}

/** Memory as a guest shares it: devices are told of it. */
export function guestMemory(memory: MappingInfo & { close(): void } = Mapping.anonymous(GUEST_BYTES)) {
  sharedMemory.add(memory);
  const { address, lengthBytes } = memory;
  return {
    address,
    lengthBytes,
    close() {
      sharedMemory.remove(memory);
      memory.close();
    },
  };
}
