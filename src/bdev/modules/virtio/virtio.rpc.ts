/** The RPC methods of disks over other vhost-user targets. */
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { Handlers } from '../../../rpc/methods.ts';
import type { BdevRegistry } from '../../registry.ts';
import { VirtioBdev } from './virtio.ts';

type VirtioHandlers = Pick<
  Handlers,
  'bdev_virtio_attach_controller' | 'bdev_virtio_detach_controller' | 'bdev_virtio_scsi_get_devices'
>;

export function virtioRpc(registry: BdevRegistry, log: Logger): VirtioHandlers {
  return {
    async bdev_virtio_attach_controller({ name, traddr, dev_type: type, vq_count: queueCount, vq_size: queueSize }) {
      if (type === 'scsi') throw new TargetError('ENOTSUP', 'scsi targets are not there yet: only dev_type blk is');
      const bdev = await VirtioBdev.open({ name, path: traddr, queueCount, queueSize });
      let entry: ReturnType<BdevRegistry['create']>;
      try {
        entry = registry.create(name, bdev.uuid, () => bdev);
      } catch (error) {
        await bdev.destruct();
        throw error;
      }
      bdev.onChange = async () => {
        log.warn(`bdev ${name}: its target at ${traddr} went, came back or has a new size`);
        if (!entry.isRemoving) await registry.changed(entry).catch((error: Error) => log.error(error.message));
      };
      return [name];
    },

    async bdev_virtio_detach_controller({ name }) {
      const entry = registry.get(name);
      if (!(entry.bdev instanceof VirtioBdev)) {
        throw new TargetError('EINVAL', `bdev "${name}" is a ${entry.bdev.productName}, not a virtio disk`);
      }
      await registry.delete(entry);
      return true;
    },

    bdev_virtio_scsi_get_devices() {
      return [];
    },
  };
}
