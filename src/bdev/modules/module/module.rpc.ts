/** The RPC methods of disks in TypeScript. */
import { existsSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { Handlers } from '../../../rpc/methods.ts';
import { type BdevRegistry, checkResize } from '../../registry.ts';
import { bdevOf } from '../../stacked.ts';
import { ModuleBdev, nameOfFile } from './module.ts';

type ModuleHandlers = Pick<Handlers, 'bdev_module_create' | 'bdev_module_delete' | 'bdev_module_resize'>;

const MIB = 2 ** 20;
const WHAT = 'a disk in TypeScript';

export function moduleRpc(registry: BdevRegistry, reactors: number, log: Logger): ModuleHandlers {
  return {
    async bdev_module_create({ path, options, uuid, timeout_sec: timeoutS, ...params }) {
      if (!isAbsolute(path)) throw new TargetError('EINVAL', `${path}: give the whole path, from the root`);
      if (!existsSync(path)) throw new TargetError('ENOENT', `there is no file ${path}`);
      const name = params.name ?? nameOfFile(path);
      registry.checkFree(name, uuid);
      const bdev = await ModuleBdev.open({ name, path, options, uuid, timeoutS }, reactors, log);
      try {
        const entry = registry.create(name, bdev.uuid, () => bdev);
        bdev.host.onGrown = () => {
          registry.changed(entry).catch((error: Error) => log.error(error.message));
        };
      } catch (error) {
        await bdev.destruct();
        throw error;
      }
      return name;
    },

    async bdev_module_delete({ name }) {
      const entry = registry.get(name);
      bdevOf(entry, ModuleBdev, WHAT);
      await registry.delete(entry);
      return true;
    },

    async bdev_module_resize({ name, new_size: mebibytes }) {
      const entry = registry.get(name);
      const bdev = bdevOf(entry, ModuleBdev, WHAT);
      if (!bdev.host.geometry.canResize) throw new TargetError('ENOTSUP', `disk "${name}" has no function "resize"`);
      checkResize(entry, (mebibytes * MIB) / bdev.blockSizeBytes);
      await bdev.host.resize(mebibytes * MIB);
      await registry.changed(entry);
      return true;
    },
  };
}
