/** `ringhost serve` of this checkout, in the mode it has by default. */
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

type Kind = Pick<TargetKind, 'name' | 'serves'> & {
  /** One reactor each. */
  readonly coresOf: (place: Place) => readonly number[];
  readonly disks: string;
  readonly configure: (socket: string, place: Place) => Promise<void>;
};

function ringhost({ name, serves, coresOf, disks, configure }: Kind): TargetKind {
  return {
    name,
    role: 'subject',
    unavailable: () => null,
    serves,
    async start(place) {
      const directory = makeDirectory();
      const socket = join(directory, 'rpc');
      const mask = `[${coresOf(place)}]`;
      return await launch({
        name,
        description: `ringhost serve -m ${mask} (${disks})`,
        place,
        directory,
        command: process.execPath,
        args: [join(ROOT, 'bin/ringhost'), 'serve', '-S', directory, '-r', socket, '-m', mask],
        isUp: () => canConnect(socket),
        configure: () => configure(socket, place),
      });
    },
  };
}

export const RINGHOST = ringhost({
  name: 'ringhost',
  serves: ({ protocol, disk }) => protocol === 'blk' || disk === 'ram' || disk === 'null',
  coresOf: ({ target }) => [target],
  disks: `malloc and null, ${DISK_MIB} MiB; uring`,
  configure: async (socket, place) => {
    await createDisks(socket, place.file);
    await createServedDisks(socket, place);
  },
});

/** A RAM disk and a reactor more, on the core of a client that leaves it most of the time. */
export const RINGHOST_TWICE = ringhost({
  name: 'ringhost on two cores',
  // Only what asks for it by name.
  serves: () => false,
  coresOf: ({ client, target }) => [client, target],
  disks: `malloc, ${DISK_MIB} MiB`,
  configure: async (socket) => {
    using rpc = await RpcClient.connect(socket);
    await rpc.call('bdev_malloc_create', {
      name: DISKS.ram,
      num_blocks: DISK_BYTES / BLOCK_BYTES,
      block_size: BLOCK_BYTES,
    });
    await rpc.call('vhost_create_blk_controller', { ctrlr: 'blk-ram', dev_name: DISKS.ram });
  },
});

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
