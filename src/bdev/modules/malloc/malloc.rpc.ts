/** The RPC methods of RAM disks. */
import { existsSync } from 'node:fs';
import { TargetError } from '../../../base/errors.ts';
import type { Handlers } from '../../../rpc/methods.ts';
import { type BdevEntry, type BdevRegistry, checkResize } from '../../registry.ts';
import { HandedMemory } from './handed-memory.ts';
import { MallocBdev, type MemoryBudget } from './malloc.ts';
import { SharedMemory } from './shared-memory.ts';

const MIB = 2 ** 20;
/** Largest disk: what a file of memory can be. */
const SIZE_BYTES_MAX = 2 ** 46;

type MallocHandlers = Pick<Handlers, 'bdev_malloc_create' | 'bdev_malloc_delete' | 'bdev_malloc_resize'>;

export function mallocRpc(registry: BdevRegistry, budget: MemoryBudget): MallocHandlers {
  return {
    bdev_malloc_create(params) {
      const name = params.name ?? registry.nextName('Malloc');
      const sizeBytes = params.num_blocks * params.block_size;
      checkSize(sizeBytes);
      const node = params.numa_id ?? -1;
      if (node >= 0 && !existsSync(`/sys/devices/system/node/node${node}`)) {
        throw new TargetError('EINVAL', `there is no NUMA node ${node}`);
      }
      const make = (memory?: SharedMemory | HandedMemory): BdevEntry =>
        registry.create(name, params.uuid, () => {
          return new MallocBdev(
            {
              name,
              blockCount: params.num_blocks,
              blockSizeBytes: params.block_size,
              physicalBlockSizeBytes: params.physical_block_size || params.block_size,
              uuid: params.uuid,
              memory,
            },
            budget,
          );
        });
      const inheritance = registry.takeInherited(name);
      const [fd] = inheritance?.fds ?? [];
      if (params.shm_name !== undefined) return makeIn(SharedMemory.open(params.shm_name, sizeBytes, fd), make);
      if (fd === undefined) return make().name;
      const { bdev } = make(new HandedMemory(fd));
      const about = inheritance?.about as { readonly pieces: readonly number[] } | undefined;
      (bdev as MallocBdev).collapse(about?.pieces ?? []);
      return name;
    },

    async bdev_malloc_delete({ name }) {
      const entry = registry.get(name);
      mallocOf(entry);
      await registry.deleteForGood(entry);
      return true;
    },

    async bdev_malloc_resize({ name, new_size: mebibytes }) {
      const entry = registry.get(name);
      const bdev = mallocOf(entry);
      checkSize(mebibytes * MIB);
      const blockCount = (mebibytes * MIB) / bdev.blockSizeBytes;
      checkResize(entry, blockCount);
      await bdev.prepare(blockCount);
      bdev.resize(blockCount);
      await registry.changed(entry);
      return true;
    },
  };
}

async function makeIn(opening: Promise<SharedMemory>, make: (memory: SharedMemory) => BdevEntry): Promise<string> {
  const memory = await opening;
  try {
    return make(memory).name;
  } catch (error) {
    memory.close();
    throw error;
  }
}

function mallocOf(entry: BdevEntry): MallocBdev {
  if (entry.bdev instanceof MallocBdev) return entry.bdev;
  throw new TargetError('EINVAL', `bdev "${entry.name}" is a ${entry.bdev.productName}, not a RAM disk`);
}

function checkSize(bytes: number): void {
  if (bytes > SIZE_BYTES_MAX) throw new TargetError('EINVAL', `a RAM disk has at most ${SIZE_BYTES_MAX / MIB} MiB`);
}
