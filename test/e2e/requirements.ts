/**
 * What a machine must have for a test. A missing thing skips loudly, with the command that mends it; in CI it fails.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { installHint, isToolMissing, TOOLS } from '../../scripts/setup/packages.mjs';
import { diskInfo } from '../../src/sys/disk-file.ts';

const HUGEPAGE_DIR = '/sys/kernel/mm/hugepages/hugepages-2048kB';
const HUGEPAGE_MIB = 2;

/** @returns null, or why the tests that need it are skipped; @throws Error in CI, where nothing may be missing */
function missing(reason: string): string {
  if (process.env['CI'] === 'true') throw new Error(`in CI nothing may be missing: ${reason}`);
  console.warn(`SKIPPED: ${reason}`);
  return reason;
}

/** Null when guests can be started here, else the reason why not. */
export function whyNoGuests(): string | null {
  return whyNoTool('qemu');
}

/** Null when guests with an IOMMU and our own Node.js can be started here: QEMU's IOMMU is that of PCs. */
export function whyNoVirtualIommu(): string | null {
  return process.arch === 'x64' ? whyNoGuests() : missing('guests with an IOMMU are made on x86-64 only');
}

/** Null when a program is installed, else the reason why not. */
export function whyNoTool(name: keyof typeof TOOLS): string | null {
  const tool = TOOLS[name];
  return isToolMissing(tool) ? missing(`${tool.commands.join(' or ')} is not installed: ${installHint(tool)}`) : null;
}

/** Null when files in a directory take O_DIRECT, else the reason why not. */
export function whyNoDirectIo(directory: string): string | null {
  const path = join(directory, 'direct-io');
  const fd = openSync(path, 'w+');
  const canDirect = diskInfo(fd).offsetAlignment > 0;
  closeSync(fd);
  rmSync(path);
  return canDirect ? null : missing(`files in ${directory} do not take O_DIRECT: use a checkout on ext4 or xfs`);
}

/** Null when loop devices can be made and file systems mounted here, else the reason why not. */
export function whyNoLoopDevices(): string | null {
  if (process.getuid?.() !== 0) return missing('loop devices and mounts need root: run the tests as root');
  if (!existsSync('/dev/loop-control')) return missing('this kernel has no loop devices: modprobe loop');
  return null;
}

/** Null when a systemd can be started in a container here, else the reason why not. */
export function whyNoSystemd(): string | null {
  if (process.getuid?.() !== 0) return missing('containers with a systemd need root: run the tests as root');
  const types = readFileSync('/proc/filesystems', 'utf8');
  const absent = ['overlay', 'cgroup2'].find((type) => !types.split(/\s+/).includes(type));
  if (absent !== undefined) return missing(`this kernel has no ${absent}: modprobe ${absent}`);
  return whyNoTool('systemd');
}

/** Null when the kernel knows huge pages of 2 MiB, free or not, else the reason why not. */
export function whyNoHugepages(): string | null {
  return existsSync(HUGEPAGE_DIR) ? null : missing('this kernel has no 2 MiB huge pages');
}

/** Pages of 2 MiB, reserved for a test. */
export interface HugepageReservation {
  /** Mount point of a hugetlbfs. */
  readonly mountPoint: string;
  release(): void;
}

/** Reserves huge pages for as long as the test runs. Returns the reason when that is not possible here. */
export function reserveHugepages(sizeMiB: number): HugepageReservation | string {
  const pages = Math.ceil(sizeMiB / HUGEPAGE_MIB);
  const remedy = `as root: echo ${pages} > ${HUGEPAGE_DIR}/nr_hugepages, and mount -t hugetlbfs none /dev/hugepages`;
  const absent = whyNoHugepages();
  if (absent !== null) return absent;
  const before = readCount('nr_hugepages');
  if (readCount('free_hugepages') < pages) {
    if (process.getuid?.() !== 0) return missing(`${sizeMiB} MiB of huge pages are wanted: ${remedy}`);
    writeFileSync(join(HUGEPAGE_DIR, 'nr_hugepages'), String(before + pages));
  }
  const giveBack = (): void => {
    if (readCount('nr_hugepages') !== before) writeFileSync(join(HUGEPAGE_DIR, 'nr_hugepages'), String(before));
  };
  if (readCount('free_hugepages') < pages) {
    giveBack();
    return missing(`the kernel has no ${sizeMiB} MiB in one piece for huge pages: ${remedy}`);
  }
  const mounted = findHugetlbfs();
  if (mounted !== null) return { mountPoint: mounted, release: giveBack };
  const mountPoint = mkdtempSync(join(tmpdir(), 'ringhost-hugetlbfs-'));
  try {
    execFileSync('mount', ['-t', 'hugetlbfs', '-o', 'pagesize=2M', 'none', mountPoint]);
  } catch {
    rmdirSync(mountPoint);
    giveBack();
    return missing(`no hugetlbfs is mounted: ${remedy}`);
  }
  const release = (): void => {
    execFileSync('umount', [mountPoint]);
    rmdirSync(mountPoint);
    giveBack();
  };
  return { mountPoint, release };
}

function readCount(name: string): number {
  return Number(readFileSync(join(HUGEPAGE_DIR, name), 'utf8'));
}

function findHugetlbfs(): string | null {
  for (const line of readFileSync('/proc/mounts', 'utf8').split('\n')) {
    const [, mountPoint, type, options = ''] = line.split(' ');
    if (type === 'hugetlbfs' && mountPoint !== undefined && !/pagesize=(?!2M)/.test(options)) return mountPoint;
  }
  return null;
}
