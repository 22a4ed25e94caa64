/**
 * `ringhost setup`: gives the machine's NVMe drives to the daemon, and back to the kernel; reserves huge pages. What it
 * prints is what SPDK's setup.sh prints: `0000:01:00.0 (8086 0953): nvme -> vfio-pci`. It needs root.
 */
import { closeSync, constants, existsSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { TargetError } from '../base/errors.ts';

const NVME_CLASS = '0x010802';
const VFIO = 'vfio-pci';
/** Kernel modules, and what is there when they are. */
const MODULES = [
  [VFIO, 'sys/bus/pci/drivers/vfio-pci'],
  ['vfio_iommu_type1', 'sys/module/vfio_iommu_type1'],
] as const;
const NO_DRIVER = 'no driver';
const HUGEPAGES = 'sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages';
const HUGEPAGE_MIB = 2;

export type SetupAction = 'config' | 'status' | 'reset';

export interface SetupOptions {
  /** PCI addresses. Default: every NVMe drive. */
  readonly devices: readonly string[];
  /** MiB of huge pages of 2 MiB to reserve. Default: as they are. */
  readonly hugepagesMib?: number | undefined;
}

/** What it works on; a test gives another. */
export interface SetupHost {
  /** Above /sys and /dev. */
  readonly root: string;
  print(line: string): void;
  write(path: string, text: string): void;
  /** Loads a kernel module. */
  loadModule(name: string): void;
}

interface Device {
  readonly address: string;
  readonly path: string;
  /** `8086 0953`. */
  readonly ids: string;
  readonly driver: string;
}

/** Throws a `TargetError` that says what is missing. */
export function runSetup(action: SetupAction, options: SetupOptions, host: SetupHost): void {
  const devices = findDevices(options.devices, host);
  if (action === 'status') {
    showStatus(devices, host);
    return;
  }
  if (devices.length === 0 && options.hugepagesMib === undefined) host.print('no NVMe drives: nothing to do');
  if (options.hugepagesMib !== undefined) reserve(options.hugepagesMib, host);
  if (action === 'config' && devices.length > 0) loadModules(host);
  for (const device of devices) bind(device, action === 'config' ? VFIO : 'nvme', host);
}

/** Not every modprobe follows vfio's soft dependency on what drives the IOMMU. */
function loadModules(host: SetupHost): void {
  for (const [module, path] of MODULES) if (!existsSync(join(host.root, path))) host.loadModule(module);
}

function findDevices(wanted: readonly string[], { root }: SetupHost): Device[] {
  const directory = join(root, 'sys/bus/pci/devices');
  const all = existsSync(directory) ? readdirSync(directory).sort() : [];
  const read = (address: string, name: string): string => readFileSync(join(directory, address, name), 'utf8').trim();
  for (const address of wanted) {
    if (!all.includes(address))
      throw new TargetError('ENODEV', `there is no PCI device ${address}: ringhost setup status lists the NVMe drives`);
    if (read(address, 'class') !== NVME_CLASS)
      throw new TargetError('EINVAL', `${address} is no NVMe drive: ringhost setup status lists those`);
  }
  return (wanted.length > 0 ? wanted : all.filter((address) => read(address, 'class') === NVME_CLASS)).map(
    (address) => ({
      address,
      path: join(directory, address),
      ids: `${read(address, 'vendor').slice(2)} ${read(address, 'device').slice(2)}`,
      driver: linkName(join(directory, address, 'driver')) ?? NO_DRIVER,
    }),
  );
}

/** The last part of what a symbolic link names, or null when there is none. */
function linkName(path: string): string | null {
  try {
    return basename(readlinkSync(path));
  } catch {
    return null;
  }
}

function bind(device: Device, driver: string, host: SetupHost): void {
  const { address, ids, path } = device;
  const name = `${address} (${ids})`;
  if (device.driver === driver) {
    host.print(`${name}: already using the ${driver} driver`);
    return;
  }
  if (driver === VFIO && linkName(join(path, 'iommu_group')) === null) {
    throw new TargetError(
      'ENOTSUP',
      `${address} is behind no IOMMU: switch it on in the firmware, and boot with intel_iommu=on on Intel machines`,
    );
  }
  const used = driver === VFIO ? disksInUse(device, host) : [];
  if (used.length > 0) {
    host.print(`${name}: active devices: ${used.join(', ')}, so not binding PCI dev`);
    return;
  }
  // An empty line takes the override away: the kernel chooses by the device's ids again.
  host.write(join(path, 'driver_override'), driver === VFIO ? VFIO : '\n');
  if (device.driver !== NO_DRIVER) host.write(join(path, 'driver/unbind'), address);
  host.write(join(host.root, 'sys/bus/pci/drivers_probe'), address);
  const now = linkName(join(path, 'driver')) ?? NO_DRIVER;
  if (now !== driver) throw new TargetError('EIO', `${address} has ${now}, and not ${driver}: see dmesg`);
  host.print(`${name}: ${device.driver} -> ${driver}`);
}

/** Block devices of a drive that are mounted, or held by another one. */
function disksInUse({ path }: Device, { root }: SetupHost): string[] {
  const directory = join(path, 'nvme');
  const controllers = existsSync(directory) ? readdirSync(directory) : [];
  return controllers
    .flatMap((controller) => readdirSync(join(directory, controller)))
    .filter((disk) => /^nvme\d+n\d+$/.test(disk) && isInUse(join(root, 'dev', disk)));
}

/** The kernel lets nobody have a disk for himself that is in use, or one of whose partitions is. */
function isInUse(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_EXCL));
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EBUSY';
  }
}

function reserve(mib: number, host: SetupHost): void {
  const path = join(host.root, HUGEPAGES);
  const pages = Math.ceil(mib / HUGEPAGE_MIB);
  host.write(path, String(pages));
  const now = Number(readFileSync(path, 'utf8'));
  if (now < pages) {
    throw new TargetError(
      'ENOMEM',
      `the kernel has ${now} huge pages of 2 MiB for us, not ${pages}: reboot, or ask for less`,
    );
  }
  host.print(`hugepages: ${now} of 2048 kB`);
}

function showStatus(devices: readonly Device[], { root, print }: SetupHost): void {
  const path = join(root, HUGEPAGES);
  print(`hugepages: ${existsSync(path) ? readFileSync(path, 'utf8').trim() : 0} of 2048 kB`);
  if (devices.length === 0) print('no NVMe drives');
  for (const { address, ids, driver, path: device } of devices) {
    print(`${address} (${ids}): ${driver}, IOMMU group ${linkName(join(device, 'iommu_group')) ?? 'none'}`);
  }
}
