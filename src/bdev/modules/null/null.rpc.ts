/** The RPC methods of null disks. */
import { TargetError } from '../../../base/errors.ts';
import type { Handlers } from '../../../rpc/methods.ts';
import { type BdevEntry, type BdevRegistry, checkResize } from '../../registry.ts';
import { NullBdev } from './null.ts';

const MIB = 2 ** 20;

type NullHandlers = Pick<Handlers, 'bdev_null_create' | 'bdev_null_delete' | 'bdev_null_resize'>;

export function nullRpc(registry: BdevRegistry): NullHandlers {
  return {
    bdev_null_create(params) {
      registry.create(params.name, params.uuid, () => {
        return new NullBdev({
          name: params.name,
          blockCount: params.num_blocks,
          blockSizeBytes: params.block_size,
          physicalBlockSizeBytes: params.physical_block_size || params.block_size,
          uuid: params.uuid,
        });
      });
      return params.name;
    },

    async bdev_null_delete({ name }) {
      const entry = registry.get(name);
      nullOf(entry);
      await registry.delete(entry);
      return true;
    },

    async bdev_null_resize({ name, new_size: mebibytes }) {
      const entry = registry.get(name);
      const bdev = nullOf(entry);
      const blockCount = (mebibytes * MIB) / bdev.blockSizeBytes;
      checkResize(entry, blockCount);
      bdev.blockCount = blockCount;
      await registry.changed(entry);
      return true;
    },
  };
}

function nullOf(entry: BdevEntry): NullBdev {
  if (entry.bdev instanceof NullBdev) return entry.bdev;
  throw new TargetError('EINVAL', `bdev "${entry.name}" is a ${entry.bdev.productName}, not a null disk`);
}
