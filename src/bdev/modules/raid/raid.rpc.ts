/** The RPC methods of RAID disks. */
import { TargetError } from '../../../base/errors.ts';
import type { Handlers, Params } from '../../../rpc/methods.ts';
import type { BdevConfig } from '../../bdev.ts';
import type { BdevEntry, BdevRegistry } from '../../registry.ts';
import { bdevOf } from '../../stacked.ts';
import type { RaidLevel } from './layout.ts';
import { MirrorBdev, type MirrorServices } from './mirror.ts';
import { assemble } from './mirror-assembly.ts';
import { RaidBdev } from './raid.ts';

type RaidHandlers = Pick<
  Handlers,
  | 'bdev_raid_set_options'
  | 'bdev_raid_create'
  | 'bdev_raid_delete'
  | 'bdev_raid_get_bdevs'
  | 'bdev_raid_add_base_bdev'
  | 'bdev_raid_remove_base_bdev'
>;

type CreateParams = Params<'bdev_raid_create'>;

export function raidRpc(services: MirrorServices): RaidHandlers {
  const { registry, options } = services;
  return {
    bdev_raid_set_options({ process_max_bandwidth_mb_sec: mibPerSec }) {
      options.mibPerSec = mibPerSec ?? options.mibPerSec;
      return true;
    },

    async bdev_raid_create(params) {
      const level = levelOf(params.raid_level);
      checkServed(params, level);
      if (new Set(params.base_bdevs).size < params.base_bdevs.length) {
        throw new TargetError('EINVAL', 'a bdev is named twice: each base of a RAID disk is another one');
      }
      if (level === 'raid1') await createMirror(params, services);
      else createStriped(params, level, registry);
      return true;
    },

    async bdev_raid_delete({ name, clear_sb: isCleared }) {
      const entry = registry.get(name);
      const { bdev } = entry;
      if (!(bdev instanceof MirrorBdev)) bdevOf(entry, RaidBdev, 'a RAID disk');
      else if (isCleared) bdev.clearSuperblocks();
      await registry.delete(entry);
      return true;
    },

    bdev_raid_get_bdevs({ category }) {
      if (category !== 'all' && category !== 'online') return [];
      return registry.list().flatMap(({ bdev }) => {
        return bdev instanceof MirrorBdev || bdev instanceof RaidBdev ? [{ name: bdev.name, ...bdev.info() }] : [];
      });
    },

    async bdev_raid_add_base_bdev({ raid_bdev: name, base_bdev: baseName }) {
      const mirror = bdevOf(registry.get(name), MirrorBdev, 'a mirror (raid1)');
      await mirror.addLeg(registry.get(baseName));
      return true;
    },

    async bdev_raid_remove_base_bdev({ name }) {
      const base = registry.get(name);
      const mirror = registry.list().find(({ bdev }) => bdev instanceof MirrorBdev && bdev.legs.includes(base));
      if (mirror === undefined) throw new TargetError('ENODEV', `bdev "${name}" is no leg of a mirror (raid1)`);
      await bdevOf(mirror, MirrorBdev, 'a mirror').removeLeg(base);
      return true;
    },
  };
}

/** The call that would set the options again; none when they are the default. */
export function raidOptionsConfig({ mibPerSec }: MirrorServices['options']): BdevConfig[] {
  if (mibPerSec === 0) return [];
  return [{ method: 'bdev_raid_set_options', params: { process_max_bandwidth_mb_sec: mibPerSec } }];
}

function createStriped(params: CreateParams, level: RaidLevel, registry: BdevRegistry): void {
  const { name, uuid, strip_size_kb: stripKib, base_blocks: baseBlocks } = params;
  const bases = params.base_bdevs.map((base) => registry.get(base));
  registry.create(name, uuid, () => new RaidBdev({ name, level, bases, stripKib, uuid, baseBlocks }), { bases });
}

async function createMirror(params: CreateParams, services: MirrorServices): Promise<void> {
  const { registry, blocks } = services;
  const { name, uuid, superblock: hasSuperblock } = params;
  const find = (base: string): BdevEntry | undefined => {
    const entry = registry.find(base);
    return entry === undefined || entry.isRemoving ? undefined : entry;
  };
  const bases = params.base_bdevs.flatMap((base) => find(base) ?? []);
  const check = (): void => {
    registry.checkFree(name, uuid);
    for (const base of bases) base.checkClaim(name);
  };
  check();
  const request = {
    ...{ name, uuid, bases, hasSuperblock, slots: params.num_base_bdevs },
    absent: params.base_bdevs.filter((base) => find(base) === undefined),
    allowsDegraded: params.allow_degraded,
  };
  const assembly = await assemble(request, blocks);
  // Meanwhile they may have been claimed.
  check();
  registry.checkFree(name, assembly.uuid);
  const isInherited = registry.isInherited(name);
  const mirror = new MirrorBdev({ name, hasSuperblock, isInherited }, assembly, services);
  const entry = registry.create(name, assembly.uuid, () => mirror, {
    bases: mirror.legs,
    user: (own, standard) => mirror.user(own, standard),
    canLose: (base) => mirror.canLose(base),
  });
  try {
    await mirror.start();
  } catch (error) {
    await registry.delete(entry);
    throw error;
  }
}

function levelOf(name: CreateParams['raid_level']): RaidLevel | 'raid1' {
  if (name === 'raid0' || name === '0') return 'raid0';
  if (name === 'raid1' || name === '1') return 'raid1';
  if (name === 'concat') return name;
  throw new TargetError('ENOTSUP', `${name} is not served: use raid1, raid0 or concat`);
}

function checkServed(params: CreateParams, level: RaidLevel | 'raid1'): void {
  const { superblock, base_blocks: baseBlocks, num_base_bdevs: slots, allow_degraded: allowsDegraded } = params;
  if (level !== 'raid1' && superblock) {
    const advice = 'save_config or --state-dir keep what a RAID disk is of';
    throw new TargetError('ENOTSUP', `${level} is served without superblocks only: ${advice}`);
  }
  if (baseBlocks !== undefined && level !== 'concat') {
    throw new TargetError('EINVAL', 'base_blocks is for concat: others take as much of each base as the smallest has');
  }
  if (level !== 'raid1' && (slots !== undefined || allowsDegraded)) {
    throw new TargetError('EINVAL', `num_base_bdevs and allow_degraded are for raid1: ${level} needs all of its bases`);
  }
}
