/** The RPC methods of disks that are cut into parts. */
import { TargetError } from '../../../base/errors.ts';
import type { Handlers } from '../../../rpc/methods.ts';
import type { BdevRegistry } from '../../registry.ts';
import { partName, type Split, SplitBdev } from './split.ts';

type SplitHandlers = Pick<Handlers, 'bdev_split_create' | 'bdev_split_delete'>;

const MIB = 2 ** 20;

export function splitRpc(registry: BdevRegistry): SplitHandlers {
  return {
    bdev_split_create({ base_bdev: baseName, split_count: count, split_size_mb: sizeMib }) {
      const base = registry.get(baseName);
      const { blockSizeBytes, blockCount } = base.bdev;
      const partBlocks = sizeMib === 0 ? Math.floor(blockCount / count) : (sizeMib * MIB) / blockSizeBytes;
      // As SPDK does: fewer parts when there is no room for all.
      const made = partBlocks === 0 ? 0 : Math.min(count, Math.floor(blockCount / partBlocks));
      if (made === 0) throw new TargetError('EINVAL', `bdev "${base.name}" has no room for ${count} such parts`);
      const split: Split = { base, count, sizeMib, partBlocks, parts: new Set() };
      const holder = `split of ${base.name}`;
      base.checkClaim(holder);
      if (base.holder !== null) throw new TargetError('EEXIST', `bdev "${base.name}" is cut into parts already`);
      const names = Array.from({ length: made }, (_, i) => partName(base, i));
      for (const name of names) registry.checkFree(name, undefined);
      for (const [i, name] of names.entries()) {
        registry.create(name, undefined, () => new SplitBdev(split, i), { bases: [base], holder });
      }
      return names;
    },

    async bdev_split_delete({ base_bdev: baseName }) {
      const base = registry.get(baseName);
      const parts = registry.list().filter((entry) => entry.bases[0] === base && entry.bdev instanceof SplitBdev);
      if (parts.length === 0) throw new TargetError('ENODEV', `bdev "${base.name}" is not cut into parts`);
      await Promise.all(parts.filter(({ isRemoving }) => !isRemoving).map((part) => registry.delete(part)));
      return true;
    },
  };
}
