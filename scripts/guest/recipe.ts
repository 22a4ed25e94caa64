/** What the guest of the end-to-end tests is made of: Debian's cloud kernel, and tools in an initramfs. */

export interface Recipe extends RecipeForArch {
  /** Binary packages whose commands are taken, with the libraries they need. */
  readonly packages: readonly string[];
  /** Commands by name, wherever the packages have them. busybox gives all others. */
  readonly commands: readonly string[];
  /** Shared libraries beside those that the commands need: for a Node.js that a test brings along. */
  readonly libraries: readonly string[];
  /** Kernel modules, loaded by init in this order; their dependencies come along. */
  readonly modules: readonly string[];
  /** Those of the small initramfs, which has nothing else but busybox: for a boot by firmware from one of our disks. */
  readonly bootModules: readonly string[];
  /** Modules that are there to be loaded: by the kernel at run time (ext4's checksums), or by a test. */
  readonly modulesOnDemand: readonly string[];
}

interface RecipeForArch {
  readonly kernelMetaPackage: string;
  /** A kernel image that QEMU cannot start by PVH is left as it is. */
  readonly kernelFormat: 'bzImage' | 'as-is';
  /** UEFI firmware, a package and two files in it, where a test boots by it. */
  readonly uefi?: { readonly package: string; readonly code: string; readonly variables: string };
  /** U-Boot, a package and its image for the machine in it, where a test boots by it. */
  readonly uBoot?: { readonly package: string; readonly image: string };
}

const ARCHITECTURES: Readonly<Record<string, RecipeForArch>> = {
  x64: {
    kernelMetaPackage: 'linux-image-cloud-amd64',
    kernelFormat: 'bzImage',
    uefi: {
      package: 'ovmf',
      code: 'usr/share/OVMF/OVMF_CODE_4M.fd',
      variables: 'usr/share/OVMF/OVMF_VARS_4M.fd',
    },
    uBoot: { package: 'u-boot-qemu', image: 'usr/lib/u-boot/qemu-x86_64/u-boot.rom' },
  },
  arm64: { kernelMetaPackage: 'linux-image-cloud-arm64', kernelFormat: 'as-is' },
};

/** @throws Error on a machine for which Debian has no cloud kernel */
export function recipeFor(arch: string): Recipe {
  const forArch = ARCHITECTURES[arch];
  if (forArch === undefined) throw new Error(`there is no guest image for ${arch}`);
  const firmware = [forArch.uefi, forArch.uBoot].flatMap((kind) => kind?.package ?? []);
  return {
    ...forArch,
    packages: [
      ...['bash', 'busybox-static', 'coreutils', 'e2fsprogs', 'fdisk', 'fio', 'libiscsi-bin', 'sg3-utils'],
      ...['libstdc++6', 'util-linux', ...firmware],
    ],
    commands: [
      ...['bash', 'dd', 'head', 'seq', 'sha256sum', 'tr'],
      ...['e2fsck', 'fsck.ext4', 'mke2fs', 'mkfs.ext4', 'resize2fs'],
      ...['fio', 'iscsi-test-cu'],
      ...['blkdiscard', 'blkid', 'blockdev', 'fallocate', 'flock', 'lsblk', 'sfdisk', 'wipefs'],
      ...[
        'sg_compare_and_write',
        'sg_dd',
        'sg_get_lba_status',
        'sg_inq',
        'sg_logs',
        'sg_luns',
        'sg_modes',
        'sg_opcodes',
      ],
      ...[
        'sg_persist',
        'sg_prevent',
        'sg_raw',
        'sg_readcap',
        'sg_requests',
        'sg_reset',
        'sg_start',
        'sg_sync',
        'sg_turs',
      ],
      ...['sg_unmap', 'sg_verify', 'sg_vpd', 'sg_wr_mode', 'sg_write_same', 'sg_write_verify'],
    ],
    libraries: ['libstdc++.so.6', 'libdl.so.2', 'libm.so.6', 'libpthread.so.0'],
    modules: ['virtio_pci', 'virtio_console', 'virtio_blk', 'virtio_scsi', 'sd_mod', 'sg', 'ext4'],
    bootModules: ['virtio_pci', 'virtio_blk', 'virtio_scsi', 'sd_mod'],
    modulesOnDemand: [
      ...['crc32c_generic', 'crc32c_intel'],
      ...['vfio_pci', 'vfio_iommu_type1'],
      ...['virtio_net', 'nvmet_tcp', 'null_blk'],
    ],
  };
}
