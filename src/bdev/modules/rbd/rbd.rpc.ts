/** The RPC methods of RBD disks and of the clusters that they are on, and what happens when an image changes. */
import { withinDeadline } from '../../../base/deadline.ts';
import { Errno, strerror, TargetError } from '../../../base/errors.ts';
import { LimitedLog, type Logger } from '../../../base/log.ts';
import type { Handlers, Params } from '../../../rpc/methods.ts';
import { FdSet } from '../../../sys/events.ts';
import { type BdevEntry, type BdevRegistry, checkResize } from '../../registry.ts';
import { type ConnectParams, RbdClusters, type RegisteredCluster } from './clusters.ts';
import { OwnAddresses } from './own-addresses.ts';
import { hideKey, RbdBdev, type RbdParams } from './rbd.ts';

const MIB = 2 ** 20;
/** Monitors take a second to make a map. */
const BURIAL_MS_MAX = 5_000;

type RbdHandlers = Pick<
  Handlers,
  | 'bdev_rbd_register_cluster'
  | 'bdev_rbd_unregister_cluster'
  | 'bdev_rbd_get_clusters_info'
  | 'bdev_rbd_create'
  | 'bdev_rbd_delete'
  | 'bdev_rbd_resize'
>;

/** All RBD disks of a daemon. */
export class RbdDisks {
  readonly clusters: RbdClusters;
  readonly #registry: BdevRegistry;
  readonly #log: Logger;
  readonly #faults: LimitedLog;
  readonly #own: OwnAddresses;
  #events: FdSet | null = null;

  /** `statePath`: the file that tells a daemon's clients to its successor. */
  constructor(registry: BdevRegistry, statePath: string, log: Logger) {
    this.#registry = registry;
    this.#log = log;
    this.#faults = new LimitedLog(log);
    this.#own = new OwnAddresses(statePath, log);
    this.clusters = new RbdClusters(this.#own, log);
  }

  async create(params: RbdParams): Promise<BdevEntry> {
    const { cluster } = params;
    // Said before a connection is made; said again, should another call be faster.
    if (this.#registry.find(params.name) !== undefined) {
      throw new TargetError('EEXIST', `a bdev "${params.name}" exists already: choose another name or delete it first`);
    }
    const connection = 'users' in cluster ? cluster : await this.clusters.connect(cluster);
    const disconnect = async (): Promise<void> => {
      if ('users' in cluster) cluster.users--;
      else await connection.cluster.close();
    };
    if ('users' in cluster) cluster.users++;
    const bdev = await RbdBdev.open(params, connection, this.#own, this.#log).catch(async (error: unknown) => {
      await disconnect();
      throw error;
    });
    try {
      const entry = this.#registry.create(params.name, bdev.uuid, () => bdev);
      this.#watch(entry, bdev);
      return entry;
    } catch (error) {
      await bdev.destruct();
      throw error;
    }
  }

  /** For an upgrade. */
  handOver(): { readonly fd: number; readonly addresses: readonly string[] } {
    return this.#own.handOver();
  }

  /** Before anything is made. */
  inherit(fd: number, addresses: readonly string[]): void {
    this.#own.inherit(fd, addresses);
  }

  /**
   * A next daemon took nothing over and has ended. As long as the cluster takes its clients for alive, half a minute,
   * whatever is told to all clients of an image takes librbd 5 s, such as that a lock was taken: so they are shut out.
   */
  async buryHeir(): Promise<void> {
    const bdevs = this.#registry.list().map(({ bdev }) => bdev);
    const ofDisks = bdevs.flatMap((bdev) => (bdev instanceof RbdBdev ? [bdev.connection] : []));
    const clusters = new Map([...this.clusters.list(), ...ofDisks].map(({ fsid, cluster }) => [fsid, cluster]));
    const late = () => new TargetError('ETIMEDOUT', 'no monitor answers');
    const burial = withinDeadline(this.#own.buryHeir([...clusters.values()]), BURIAL_MS_MAX, late);
    const errno = await burial.catch(() => Errno.ETIMEDOUT);
    if (errno === 0) return;
    const effect = 'for half a minute locks of RBD images may take seconds to move';
    this.#log.warn(`clients of the version that failed cannot be shut out of Ceph: ${strerror(errno)}: ${effect}`);
  }

  /** Every disk is gone. */
  async close(): Promise<void> {
    await this.clusters.close();
    this.#events?.close();
    this.#events = null;
  }

  #watch(entry: BdevEntry, bdev: RbdBdev): void {
    this.#events ??= new FdSet();
    const events = this.#events;
    let isLooking = false;
    let isAgain = false;
    const look = async (): Promise<void> => {
      isAgain = true;
      if (isLooking) return;
      isLooking = true;
      while (isAgain && !entry.isRemoving) {
        isAgain = false;
        await this.#changed(entry, bdev);
      }
      isLooking = false;
    };
    bdev.onClose = () => events.remove(bdev.image.eventFd);
    events.add(bdev.image.eventFd, () => {
      const error = bdev.image.takeEvent();
      if (error < 0) this.#faults.warn(`${bdev.name} ${error}`, failureText(bdev.name, error));
      look().catch((reason: Error) => this.#log.error(reason.message));
    });
  }

  /** The header of the image is another one: it may have another size, or be gone. */
  async #changed(entry: BdevEntry, bdev: RbdBdev): Promise<void> {
    const blockCount = await bdev.measure();
    if (entry.isRemoving) return;
    if (blockCount === Errno.ENOENT) {
      this.#log.error(`bdev ${bdev.name}: its image or its pool was removed, so the bdev goes too`);
      await this.#registry.delete(entry);
    } else if (blockCount > 0 && blockCount !== bdev.blockCount) {
      this.#log.info(`bdev ${bdev.name}: its image has ${blockCount} blocks now`);
      bdev.blockCount = blockCount;
      await this.#registry.changed(entry);
    }
  }
}

function failureText(name: string, error: number): string {
  const causes: Readonly<Record<number, string>> = {
    [Errno.ESHUTDOWN]:
      'the cluster has shut out this client, as it does when another one breaks its lock: delete the disk',
    [Errno.ENOSPC]: 'the cluster or the pool is full',
    [Errno.EDQUOT]: 'the quota of the pool is reached: `ceph osd pool get-quota` shows it',
    [Errno.ETIMEDOUT]: 'OSDs do not answer in the time of rados_osd_op_timeout',
    [Errno.EROFS]: 'another client holds the lock of the image',
  };
  const cause = causes[error];
  return `bdev ${name}: a request failed: ${strerror(error)}${cause === undefined ? '' : `: ${cause}`}`;
}

export function rbdRpc(disks: RbdDisks, registry: BdevRegistry): RbdHandlers {
  const { clusters } = disks;
  return {
    async bdev_rbd_register_cluster(params) {
      await clusters.register(params.name, {
        user: params.user_id,
        settings: params.config_param,
        configFile: params.config_file,
        keyFile: params.key_file,
        coreMask: params.core_mask,
      });
      return params.name;
    },

    async bdev_rbd_unregister_cluster({ name }) {
      await clusters.unregister(name);
      return true;
    },

    bdev_rbd_get_clusters_info({ name }) {
      return name === undefined ? clusters.list().map(describe) : describe(clusters.get(name));
    },

    async bdev_rbd_create(params) {
      const name = params.name ?? registry.nextName('Ceph');
      await disks.create({
        name,
        pool: params.pool_name,
        image: params.rbd_name,
        blockSizeBytes: params.block_size,
        isReadonly: params.read_only,
        uuid: params.uuid,
        lock: params.lock,
        cluster: clusterOf(clusters, params),
      });
      return name;
    },

    async bdev_rbd_delete({ name }) {
      const entry = registry.get(name);
      rbdOf(entry);
      await registry.delete(entry);
      return true;
    },

    async bdev_rbd_resize({ name, new_size: mebibytes }) {
      const entry = registry.get(name);
      const bdev = rbdOf(entry);
      const blockCount = (mebibytes * MIB) / bdev.blockSizeBytes;
      checkResize(entry, blockCount);
      await bdev.resize(mebibytes * MIB);
      // The watcher comes later, and finds nothing to do.
      bdev.blockCount = blockCount;
      await registry.changed(entry);
      return true;
    },
  };
}

function clusterOf(clusters: RbdClusters, params: Params<'bdev_rbd_create'>): RegisteredCluster | ConnectParams {
  const { cluster_name: name, user_id: user, config: settings } = params;
  if (name === undefined) return { user, settings };
  if (user !== undefined || settings !== undefined) {
    throw new TargetError(
      'EINVAL',
      `cluster "${name}" is connected already: user_id and config are for a connection of its own`,
    );
  }
  return clusters.get(name);
}

function describe({ name, params, fsid, address, users }: RegisteredCluster) {
  const { user, settings, configFile, keyFile, coreMask } = params;
  return {
    cluster_name: name,
    ...(user === undefined ? {} : { user_id: user }),
    ...(settings === undefined ? {} : { config_param: hideKey(settings) }),
    ...(configFile === undefined ? {} : { config_file: configFile }),
    ...(keyFile === undefined ? {} : { key_file: keyFile }),
    ...(coreMask === undefined ? {} : { core_mask: coreMask }),
    fsid,
    address,
    bdevs: users,
  };
}

function rbdOf(entry: BdevEntry): RbdBdev {
  if (entry.bdev instanceof RbdBdev) return entry.bdev;
  throw new TargetError('EINVAL', `bdev "${entry.name}" is a ${entry.bdev.productName}: bdev_rbd_create made none`);
}
