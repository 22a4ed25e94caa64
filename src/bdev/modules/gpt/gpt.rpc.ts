/** The RPC methods of partitions. */
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { Handlers } from '../../../rpc/methods.ts';
import type { BlockAccess } from '../../block-access.ts';
import type { BdevEntry, BdevRegistry } from '../../registry.ts';
import { GptBdev, type PartitionedDisk, partitionName } from './gpt.ts';
import { type PartitionTable, readPartitionTable } from './table.ts';

type GptHandlers = Pick<Handlers, 'bdev_gpt_create' | 'bdev_gpt_delete'>;

export function gptRpc(registry: BdevRegistry, blocks: Pick<BlockAccess, 'read'>, log: Logger): GptHandlers {
  return {
    async bdev_gpt_create({ base_bdev: baseName, types }) {
      const base = registry.get(baseName);
      const holder = `partitions of ${base.name}`;
      const check = (): void => {
        base.checkClaim(holder);
        if (base.holder !== null) throw new TargetError('EEXIST', `the partitions of "${base.name}" are there already`);
      };
      check();
      const table = await tableOf(base, blocks, log);
      // Meanwhile it may have been deleted, or claimed.
      if (registry.get(baseName) !== base) throw new TargetError('ENODEV', `bdev "${baseName}" is another one now`);
      check();
      const lower = types?.map((type) => type.toLowerCase());
      const wanted = table.partitions.filter(({ typeGuid }) => lower?.includes(typeGuid) ?? true);
      if (wanted.length === 0) {
        const what =
          types === undefined ? 'partitions' : `partitions of these types among its ${table.partitions.length}`;
        throw new TargetError('ENOENT', `bdev "${base.name}" has no ${what}`);
      }
      const disk: PartitionedDisk = { base, types, bdevs: new Set() };
      for (const partition of wanted) registry.checkFree(partitionName(base, partition), partition.guid);
      return wanted.map((partition) => {
        const name = partitionName(base, partition);
        registry.create(name, partition.guid, () => new GptBdev(disk, partition), { bases: [base], holder });
        return name;
      });
    },

    async bdev_gpt_delete({ base_bdev: baseName }) {
      const base = registry.get(baseName);
      const partitions = registry.list().filter(({ bases, bdev }) => bases[0] === base && bdev instanceof GptBdev);
      if (partitions.length === 0) throw new TargetError('ENODEV', `there are no partitions of bdev "${base.name}"`);
      await Promise.all(partitions.filter(({ isRemoving }) => !isRemoving).map((one) => registry.delete(one)));
      return true;
    },
  };
}

async function tableOf(base: BdevEntry, blocks: Pick<BlockAccess, 'read'>, log: Logger): Promise<PartitionTable> {
  const { blockSizeBytes, blockCount } = base.bdev;
  try {
    const table = await readPartitionTable(
      (first, count) => blocks.read(base, first, count),
      blockSizeBytes,
      blockCount,
    );
    if (table.primaryFault !== null) {
      const advice = 'the backup at its end is used: mend it, as with "sgdisk -e"';
      log.warn(`bdev ${base.name}: its partition table cannot be used (${table.primaryFault}), ${advice}`);
    }
    return table;
  } catch (error) {
    if (!(error instanceof TargetError) || error.code !== 'EINVAL') throw error;
    throw new TargetError('EINVAL', `bdev "${base.name}" has no usable GPT: ${error.message}`, { cause: error });
  }
}
