/** A guest with an IOMMU, in which Ringhost runs, and an NVMe drive on a port from which it can be unplugged. */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Guest } from './guest.ts';
import { runtimeArchive } from './guest-runtime.ts';

const DISK_BYTES = 64 << 20;

/** `directory` gets the drive's file. */
export async function startNvmeGuest(name: string, directory: string): Promise<Guest> {
  const image = join(directory, 'drive');
  writeFileSync(image, '');
  truncateSync(image, DISK_BYTES);
  return await Guest.start({
    name,
    machine: 'q35',
    kernelArgs: 'intel_iommu=on',
    cpus: 2,
    translatedCodeMiB: 256,
    memoryMiB: 1280,
    files: runtimeArchive('nvme-client'),
    qemuArgs: [
      ...['-device', 'intel-iommu,intremap=on'],
      ...['-device', 'pcie-root-port,id=socket,chassis=1,slot=1,addr=10'],
      ...['-drive', `if=none,id=drive,format=raw,file=${image}`],
      ...['-device', 'nvme,id=nvme,bus=socket,drive=drive,serial=VFIO'],
    ],
  });
}
