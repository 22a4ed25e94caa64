/** The RPC methods of RAID disks. */
import { TargetError } from '../../../base/errors.ts';
import type { Handlers, Params } from '../../../rpc/methods.ts';
import type { BdevRegistry } from '../../registry.ts';
import { bdevOf } from '../../stacked.ts';
import type { RaidLevel } from './layout.ts';
import { RaidBdev } from './raid.ts';

type RaidHandlers = Pick<Handlers, 'bdev_raid_create' | 'bdev_raid_delete' | 'bdev_raid_get_bdevs'>;

export function raidRpc(registry: BdevRegistry): RaidHandlers {
  return {
    bdev_raid_create({ name, raid_level, base_bdevs: names, strip_size_kb: stripKib, uuid, ...params }) {
      const level = levelOf(raid_level);
      checkServed(params, level);
      const bases = names.map((base) => registry.get(base));
      if (new Set(bases).size < bases.length) {
        throw new TargetError('EINVAL', 'a bdev is named twice: each base of a RAID disk is another one');
      }
      const make = (): RaidBdev => new RaidBdev({ name, level, bases, stripKib, uuid, baseBlocks: params.base_blocks });
      registry.create(name, uuid, make, { bases });
      return true;
    },

    async bdev_raid_delete({ name }) {
      const entry = registry.get(name);
      bdevOf(entry, RaidBdev, 'a RAID disk');
      await registry.delete(entry);
      return true;
    },

    bdev_raid_get_bdevs({ category }) {
      if (category !== 'all' && category !== 'online') return [];
      const raids = registry.list().flatMap(({ bdev }) => (bdev instanceof RaidBdev ? [bdev] : []));
      return raids.map((raid) => ({
        ...{ name: raid.name, uuid: raid.uuid, strip_size_kb: raid.stripKib, state: 'online' as const },
        ...{ raid_level: raid.level, superblock: false, num_base_bdevs: raid.bases.length },
        ...{ num_base_bdevs_discovered: raid.bases.length, num_base_bdevs_operational: raid.bases.length },
        base_bdevs_list: raid.baseInfos(),
      }));
    },
  };
}

function levelOf(name: Params<'bdev_raid_create'>['raid_level']): RaidLevel {
  if (name === 'raid0' || name === '0') return 'raid0';
  if (name === 'concat') return name;
  throw new TargetError(
    'ENOTSUP',
    `${name} is not served: use raid0 or concat, over disks that are redundant themselves`,
  );
}

type Others = Pick<Params<'bdev_raid_create'>, 'superblock' | 'base_blocks'>;

function checkServed({ superblock, base_blocks: baseBlocks }: Others, level: RaidLevel): void {
  if (superblock) {
    throw new TargetError(
      'ENOTSUP',
      'superblocks are not served: save_config or --state-dir keep what a RAID disk is of',
    );
  }
  if (baseBlocks !== undefined && level !== 'concat') {
    throw new TargetError('EINVAL', 'base_blocks is for concat: raid0 takes as much of each base as the smallest has');
  }
}
