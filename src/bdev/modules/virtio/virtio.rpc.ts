/** The RPC methods of disks over other vhost-user targets. */
import type { Handlers } from '../../../rpc/methods.ts';
import type { VirtioControllers } from './controllers.ts';

type VirtioHandlers = Pick<
  Handlers,
  'bdev_virtio_attach_controller' | 'bdev_virtio_detach_controller' | 'bdev_virtio_scsi_get_devices'
>;

export function virtioRpc(controllers: VirtioControllers): VirtioHandlers {
  return {
    bdev_virtio_attach_controller({ name, traddr, dev_type: type, vq_count: queueCount, vq_size: queueSize }) {
      const params = { name, path: traddr, queueCount, queueSize };
      return type === 'blk' ? controllers.attachBlk(params) : controllers.attachScsi(params);
    },

    async bdev_virtio_detach_controller({ name }) {
      await controllers.detach(name);
      return true;
    },

    bdev_virtio_scsi_get_devices() {
      return controllers.listScsi().map(({ name, path, queues }) => ({
        name,
        virtio: { vq_count: queues.queueCount, vq_size: queues.queueSize, type: 'user' as const, socket: path },
      }));
    },
  };
}
