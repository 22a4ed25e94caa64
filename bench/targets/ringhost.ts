/** `ringhost serve` of this checkout, in the mode it has by default, with one reactor. */
import { join } from 'node:path';
import { RpcClient } from '../../src/rpc/client.ts';
import { TARGET_NQN } from '../../test/support/nvme-tcp-target.ts';
import {
  DISK_BYTES,
  DISK_MIB,
  launch,
  makeDirectory,
  type Place,
  ROOT,
  socketName,
  type TargetKind,
} from './target.ts';

const BLOCK_BYTES = 512;
const DISKS = { ram: 'Malloc0', null: 'Null0', file: 'Uring0' } as const;
const IMAGE_DISK = 'Ceph0';

export const RINGHOST: TargetKind = {
  name: 'ringhost',
  role: 'subject',
  unavailable: () => null,
  serves: ({ protocol, disk }) => protocol === 'blk' || disk === 'ram' || disk === 'null',
  async start(place) {
    const directory = makeDirectory();
    const socket = join(directory, 'rpc');
    const args = ['serve', '-S', directory, '-r', socket, '-m', `[${place.target}]`];
    return await launch({
      name: this.name,
      description: `ringhost serve -m [${place.target}] (malloc and null, ${DISK_MIB} MiB; uring)`,
      place,
      directory,
      command: process.execPath,
      args: [join(ROOT, 'bin/ringhost'), ...args],
      isUp: () => canConnect(socket),
      configure: async () => {
        await createDisks(socket, place.file);
        await createServedDisks(socket, place);
      },
    });
  },
};

/** Whether a daemon answers on its RPC socket. */
export async function canConnect(socket: string): Promise<boolean> {
  using _ = await RpcClient.connect(socket);
  return true;
}

/** The controllers that are measured, by calls that SPDK's target knows as well. */
export async function createDisks(socket: string, file: string): Promise<void> {
  using rpc = await RpcClient.connect(socket);
  const num_blocks = DISK_BYTES / BLOCK_BYTES;
  await rpc.call('bdev_malloc_create', { name: DISKS.ram, num_blocks, block_size: BLOCK_BYTES });
  await rpc.call('bdev_null_create', { name: DISKS.null, num_blocks, block_size: BLOCK_BYTES });
  await rpc.call('bdev_uring_create', { name: DISKS.file, filename: file, block_size: BLOCK_BYTES });
  for (const disk of ['ram', 'null', 'file'] as const) {
    await rpc.call('vhost_create_blk_controller', {
      ctrlr: socketName({ protocol: 'blk', disk }),
      dev_name: DISKS[disk],
    });
  }
  // A second pair of disks: a bdev under blk may be claimed.
  await rpc.call('bdev_malloc_create', { name: `${DISKS.ram}s`, num_blocks, block_size: BLOCK_BYTES });
  await rpc.call('bdev_null_create', { name: `${DISKS.null}s`, num_blocks, block_size: BLOCK_BYTES });
  for (const disk of ['ram', 'null'] as const) {
    const ctrlr = socketName({ protocol: 'scsi', disk });
    await rpc.call('vhost_create_scsi_controller', { ctrlr });
    await rpc.call('vhost_scsi_controller_add_target', { ctrlr, scsi_target_num: 0, bdev_name: `${DISKS[disk]}s` });
  }
}

/** The disks of servers, where there are any. */
async function createServedDisks(
  socket: string,
  { image, target, nbdSocket, nvmePort, virtioSocket }: Place,
): Promise<void> {
  using rpc = await RpcClient.connect(socket);
  const serve = async (disk: 'rbd' | 'nbd' | 'nvme' | 'virtio', name: string): Promise<void> => {
    await rpc.call('vhost_create_blk_controller', { ctrlr: socketName({ protocol: 'blk', disk }), dev_name: name });
  };
  if (nbdSocket !== undefined) {
    const uri = `nbd+unix:///?socket=${nbdSocket}`;
    await serve('nbd', await rpc.call('bdev_nbd_create', { name: 'Nbd0', uri }));
  }
  if (nvmePort !== undefined) {
    const where = { traddr: '127.0.0.1', trsvcid: String(nvmePort), subnqn: TARGET_NQN };
    await rpc.call('bdev_nvme_attach_controller', { name: 'Nvme0', trtype: 'TCP', ...where });
    await serve('nvme', 'Nvme0n1');
  }
  if (virtioSocket !== undefined) {
    const where = { trtype: 'user', traddr: virtioSocket, dev_type: 'blk' } as const;
    await rpc.call('bdev_virtio_attach_controller', { name: 'Virtio0', ...where });
    await serve('virtio', 'Virtio0');
  }
  if (image === undefined) return;
  // librbd's threads where the reactor is, as those of fio are where fio is.
  const cluster = { name: 'ceph', config_file: image.configFile, core_mask: `[${target}]` };
  await rpc.call('bdev_rbd_register_cluster', cluster);
  const where = { pool_name: image.pool, rbd_name: image.name, cluster_name: 'ceph' };
  await rpc.request('bdev_rbd_create', { name: IMAGE_DISK, block_size: BLOCK_BYTES, ...where });
  await serve('rbd', IMAGE_DISK);
}
