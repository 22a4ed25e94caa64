/** What there is now, as the calls that would make it again: bdevs before what serves them. */

import { limitConfig } from '../bdev/bdev.rpc.ts';
import type { BdevConfig } from '../bdev/bdev.ts';
import type { CryptoKeys } from '../bdev/modules/crypto/keys.ts';
import type { Lvols } from '../bdev/modules/lvol/lvols.ts';
import type { NvmeControllers } from '../bdev/modules/nvme/controllers.ts';
import type { Discoveries } from '../bdev/modules/nvme/discovery.ts';
import { raidOptionsConfig } from '../bdev/modules/raid/raid.rpc.ts';
import type { RbdDisks } from '../bdev/modules/rbd/rbd.rpc.ts';
import type { VirtioControllers } from '../bdev/modules/virtio/controllers.ts';
import type { BdevRegistry } from '../bdev/registry.ts';
import type { VhostRegistry } from '../vhost/registry.ts';
import { vhostConfig } from '../vhost/vhost.rpc.ts';
import { type ConfigCall, type ConfigFile, SUBSYSTEMS } from './config-file.ts';

export interface ConfigSources {
  readonly bdevs: BdevRegistry;
  readonly nvme: NvmeControllers;
  readonly discoveries: Discoveries;
  readonly virtio: VirtioControllers;
  readonly rbd: RbdDisks;
  readonly keys: CryptoKeys;
  readonly raidOptions: { readonly mibPerSec: number };
  readonly lvols: Lvols;
  readonly vhost: VhostRegistry;
}

/**
 * `includesBereft`: also controllers whose bdev was deleted under them, which the calls would not make. Undefined when
 * there is no such subsystem.
 */
export function subsystemConfig(
  sources: ConfigSources,
  name: string,
  includesBereft: boolean,
): ConfigCall[] | undefined {
  switch (name) {
    case 'accel':
      return plain(sources.keys.toConfig());
    case 'bdev':
      return bdevConfig(sources);
    case 'vhost_blk':
      return vhostConfig(sources.vhost, 'blk', includesBereft);
    case 'vhost_scsi':
      return vhostConfig(sources.vhost, 'scsi', includesBereft);
    default:
      return undefined;
  }
}

export function currentConfig(sources: ConfigSources, includesBereft: boolean): ConfigFile {
  return {
    subsystems: SUBSYSTEMS.map(({ subsystem }) => ({
      subsystem,
      config: subsystemConfig(sources, subsystem, includesBereft) ?? [],
    })),
  };
}

/** In the order of creation, so that a bdev over another comes after it. Clusters and controllers stand on nothing. */
function bdevConfig({ bdevs, nvme, discoveries, virtio, rbd, raidOptions, lvols }: ConfigSources): ConfigCall[] {
  const attached = nvme.list().flatMap(({ configs, isDetaching }) => (isDetaching ? [] : configs));
  const made = bdevs
    .list()
    .filter(({ isRemoving }) => !isRemoving)
    .flatMap((entry) => [entry.bdev.toConfig(), limitConfig(entry), lvols.configOn(entry)].flat());
  const services = discoveries.list().map((service) => service.toConfig());
  return plain([
    ...raidOptionsConfig(raidOptions),
    ...rbd.clusters.toConfig(),
    ...attached,
    ...services,
    ...virtio.toConfig(),
    ...made,
  ]);
}

function plain(configs: readonly BdevConfig[]): ConfigCall[] {
  return configs.map(({ method, params }) => ({ method, params: { ...params } }));
}
