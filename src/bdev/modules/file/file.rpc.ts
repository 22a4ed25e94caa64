/** The RPC methods of file and block-device disks: one module under the names of two of SPDK's. */
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../../../base/errors.ts';
import type { Handlers, Params } from '../../../rpc/methods.ts';
import { lockHolders } from '../../../sys/lock-holders.ts';
import { type BdevEntry, type BdevRegistry, checkResize } from '../../registry.ts';
import { FileBdev, type FileFlavor, type FileParams, uuidOfPath } from './file.ts';

/** How long a file that is in use is waited for. */
const IN_USE_MS_MAX = 30_000;
const IN_USE_RETRY_MS = 100;

type FileHandlers = Pick<
  Handlers,
  | 'bdev_aio_create'
  | 'bdev_aio_delete'
  | 'bdev_aio_rescan'
  | 'bdev_uring_create'
  | 'bdev_uring_delete'
  | 'bdev_uring_rescan'
>;

/** `reactorCores`: where a kernel thread that submits would take a reactor's time. */
export function fileRpc(registry: BdevRegistry, reactorCores: readonly number[]): FileHandlers {
  const create = async (params: FileParams): Promise<string> => {
    const { name, filename, sqPollCore } = params;
    if (sqPollCore !== undefined && reactorCores.includes(sqPollCore)) {
      throw new TargetError('EINVAL', `core ${sqPollCore} has a reactor: sqpoll_core wants one for itself`);
    }
    const [inheritedFd] = registry.takeInherited(name)?.fds ?? [];
    await whenFree(filename, () =>
      registry.create(name, params.uuid ?? uuidOfPath(filename), () => new FileBdev({ ...params, inheritedFd })),
    );
    return name;
  };
  const remove = async (name: string, flavor: FileFlavor): Promise<true> => {
    const entry = registry.get(name);
    fileOf(entry, flavor);
    await registry.delete(entry);
    return true;
  };
  const rescan = async (name: string, flavor: FileFlavor): Promise<true> => {
    const entry = registry.get(name);
    const bdev = fileOf(entry, flavor);
    const blockCount = bdev.measure();
    if (blockCount === bdev.blockCount) return true;
    if (blockCount === 0) throw new TargetError('EINVAL', `${bdev.filename} is smaller than a block now`);
    checkResize(entry, blockCount);
    bdev.blockCount = blockCount;
    await registry.changed(entry);
    return true;
  };
  return {
    bdev_aio_create: (params) =>
      create({
        ...common('aio', params),
        isReadonly: params.readonly,
        hasRanges: params.fallocate,
      }),
    bdev_aio_delete: ({ name }) => remove(name, 'aio'),
    bdev_aio_rescan: ({ name }) => rescan(name, 'aio'),
    bdev_uring_create: (params) => create(common('uring', params)),
    bdev_uring_delete: ({ name }) => remove(name, 'uring'),
    bdev_uring_rescan: ({ name }) => rescan(name, 'uring'),
  };
}

/**
 * A file that is in use may be free soon: what a killed daemon had in flight ends after it. (What it wrote late would
 * otherwise lie over what its successor writes.)
 */
async function whenFree(filename: string, create: () => void): Promise<void> {
  const deadlineMs = Date.now() + IN_USE_MS_MAX;
  for (;;) {
    try {
      return create();
    } catch (error) {
      if (!(error instanceof TargetError) || error.code !== 'EBUSY') throw error;
      const holders = lockHolders(filename);
      const isOurs = holders.some(({ pid }) => pid === process.pid);
      if (!isOurs && Date.now() < deadlineMs) {
        await sleep(IN_USE_RETRY_MS);
        continue;
      }
      const who = holders.map(({ pid, command }) => (isOurs ? 'another bdev' : `process ${pid} (${command})`));
      throw new TargetError('EBUSY', `${error.message}${who.length === 0 ? '' : `, by ${who.join(', ')}`}`);
    }
  }
}

function common(flavor: FileFlavor, params: Params<'bdev_uring_create'>): FileParams {
  return {
    flavor,
    name: params.name,
    filename: params.filename,
    blockSizeBytes: params.block_size || undefined,
    uuid: params.uuid,
    isDirect: params.direct,
    isUnlocked: params.unlocked,
    isPolled: params.iopoll,
    sqPollCore: params.sqpoll_core,
  };
}

function fileOf(entry: BdevEntry, flavor: FileFlavor): FileBdev {
  if (entry.bdev instanceof FileBdev && entry.bdev.flavor === flavor) return entry.bdev;
  throw new TargetError(
    'EINVAL',
    `bdev "${entry.name}" is a ${entry.bdev.productName}: bdev_${flavor}_create made none`,
  );
}
