/** The RPC methods of power-cut disks. */
import { writeFile } from 'node:fs/promises';
import { errnoName, TargetError } from '../../../base/errors.ts';
import type { Handlers } from '../../../rpc/methods.ts';
import type { BdevRegistry } from '../../registry.ts';
import type { MemoryBudget } from '../malloc/malloc.ts';
import { PowerCutBdev } from './powercut.ts';

type PowerCutHandlers = Pick<Handlers, 'bdev_powercut_create' | 'bdev_powercut_image'>;

export function powerCutRpc(registry: BdevRegistry, budget: MemoryBudget, reactorCount: number): PowerCutHandlers {
  return {
    bdev_powercut_create({
      name,
      num_blocks: blockCount,
      block_size: blockSizeBytes,
      uuid,
      ignore_flush: ignoresFlush,
    }) {
      const params = { name, blockCount, blockSizeBytes, uuid, ignoresFlush };
      registry.create(name, uuid, () => new PowerCutBdev(params, budget));
      return name;
    },

    async bdev_powercut_image({ name, filename, seed }) {
      const entry = registry.get(name);
      const { bdev } = entry;
      if (!(bdev instanceof PowerCutBdev)) {
        throw new TargetError('EINVAL', `bdev "${name}" is a ${bdev.productName}, not a power-cut disk`);
      }
      if (reactorCount > 1) {
        throw new TargetError('EINVAL', 'one moment for all of the disk needs a daemon with one reactor: see -m');
      }
      bdev.cache.want(seed);
      await registry.changed(entry);
      // For a disk that nobody uses.
      bdev.cache.cutIfWanted();
      const { dirtySectors, keptSectors, flushes } = bdev.cache.result;
      try {
        await writeFile(filename, bdev.cache.image, { flag: 'wx', mode: 0o600 });
      } catch (error) {
        const { errno = 0, message } = error as NodeJS.ErrnoException;
        throw new TargetError(errnoName(errno), `cannot write the image: ${message}`, { errno, cause: error });
      }
      return { dirty_sectors: dirtySectors, kept_sectors: keptSectors, flushes };
    },
  };
}
