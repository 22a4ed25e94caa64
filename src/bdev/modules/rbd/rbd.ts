/** An RBD image of a Ceph cluster as a disk. docs/rbd.md says what is stable when, and who holds its lock. */
import { Errno, errnoName, strerror, TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { RadosCluster, RbdImage } from '../../../sys/rbd.ts';
import type { Bdev, BdevConfig, Handover } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { uuidOfText } from '../../text-uuid.ts';
import type { Connection, ConnectParams, RegisteredCluster } from './clusters.ts';
import type { OwnAddresses } from './own-addresses.ts';
import type { RbdChannelParams } from './rbd-channel.ts';

/** What OSDs write in, at the least. */
const PHYSICAL_BLOCK_BYTES = 4096;

/**
 * The exclusive lock of an image: `share` takes it with the first write, and gives it up to another client that asks;
 * `hold` takes it at once and keeps it; `break` does so from whoever has it.
 */
type LockPolicy = 'share' | 'hold' | 'break';

export interface RbdParams {
  readonly name: string;
  readonly pool: string;
  readonly image: string;
  readonly blockSizeBytes: number;
  readonly isReadonly: boolean;
  /** Default: made of cluster, pool and image, so that it stays the same. */
  readonly uuid?: string | undefined;
  readonly lock: LockPolicy;
  /** A registered cluster, or how to connect to one for this disk alone. */
  readonly cluster: RegisteredCluster | ConnectParams;
}

const isRegistered = (cluster: RegisteredCluster | ConnectParams): cluster is RegisteredCluster => 'users' in cluster;

export class RbdBdev implements Bdev {
  readonly kind = 'rbd';
  readonly productName = 'Ceph Rbd Disk';
  readonly name: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  readonly hasWriteCache: boolean;
  readonly ioTypes: readonly IoType[];
  readonly image: RbdImage;
  blockCount: number;
  /** Before the image is closed. */
  onClose: () => void = () => {};
  readonly #params: RbdParams;
  readonly #connection: Connection;
  #releasing: Promise<unknown> = Promise.resolve();

  private constructor(params: RbdParams, connection: Connection, image: RbdImage, about: ImageFacts) {
    this.#params = params;
    this.#connection = connection;
    this.image = image;
    this.name = params.name;
    this.blockSizeBytes = params.blockSizeBytes;
    this.physicalBlockSizeBytes = Math.max(params.blockSizeBytes, PHYSICAL_BLOCK_BYTES);
    this.uuid = params.uuid?.toLowerCase() ?? uuidOfText(`rbd:${connection.fsid}/${about.identity}`);
    this.blockCount = Math.floor(about.sizeBytes / params.blockSizeBytes);
    this.hasWriteCache = about.hasWriteCache;
    this.ioTypes = params.isReadonly
      ? [IoType.read, IoType.flush]
      : [IoType.read, IoType.write, IoType.flush, IoType.unmap, IoType.writeZeroes];
  }

  /** Opens the image over a connection, which stays the caller's when that fails. */
  static async open(params: RbdParams, connection: Connection, own: OwnAddresses, log: Logger): Promise<RbdBdev> {
    const image = await connection.cluster.open(params.pool, params.image, params.isReadonly);
    const where = `${params.pool}/${params.image}`;
    if (typeof image === 'number') throw openError(image, params);
    try {
      if (!params.isReadonly) await takeLock(image, connection, where, params.lock, own, log);
      const facts = await factsOf(image, where);
      if (facts.sizeBytes < params.blockSizeBytes) {
        throw new TargetError('EINVAL', `${where} is smaller than a block: \`rbd resize\` makes it larger`);
      }
      if (facts.hasWriteCache) {
        log.warn(
          `bdev ${params.name}: librbd caches writes: those that no flush followed are lost when this daemon dies`,
        );
      }
      return new RbdBdev(params, connection, image, facts);
    } catch (error) {
      await image.close();
      throw error;
    }
  }

  /** What the image's size is now, in blocks; or a negative errno. */
  async measure(): Promise<number> {
    const bytes = await this.image.size();
    return bytes < 0 ? bytes : Math.floor(bytes / this.blockSizeBytes);
  }

  /** Throws what Ceph says. The image's watcher tells of the new size, too. */
  async resize(sizeBytes: number): Promise<void> {
    const result = await this.image.resize(sizeBytes);
    if (result === 0) return;
    const text = `cannot resize ${this.#params.pool}/${this.#params.image}: ${strerror(result)}`;
    throw new TargetError(errnoName(result), text, { errno: result });
  }

  params(): RbdChannelParams {
    return { image: this.image.handle };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const { pool, image, cluster, lock } = this.#params;
    const client = isRegistered(cluster)
      ? { cluster_name: cluster.name }
      : {
          ...(cluster.user === undefined ? {} : { user_id: cluster.user }),
          ...(cluster.settings === undefined ? {} : { config: hideKey(cluster.settings) }),
        };
    return { rbd: { pool_name: pool, rbd_name: image, ...client, lock, address: this.#connection.address } };
  }

  toConfig(): BdevConfig {
    const { name, blockSizeBytes: block_size, uuid } = this;
    const { pool: pool_name, image: rbd_name, isReadonly, cluster, lock } = this.#params;
    const client = isRegistered(cluster)
      ? { cluster_name: cluster.name }
      : {
          ...(cluster.user === undefined ? {} : { user_id: cluster.user }),
          ...(cluster.settings === undefined ? {} : { config: cluster.settings }),
        };
    const extras = { ...(isReadonly ? { read_only: true } : {}), ...(lock === 'share' ? {} : { lock }) };
    return {
      method: 'bdev_rbd_create',
      params: { name, pool_name, rbd_name, block_size, uuid, ...client, ...extras },
    };
  }

  /** Throws `ENOTSUP` when it keeps the lock for itself. */
  handOver(): Handover {
    const { lock, isReadonly } = this.#params;
    if (lock !== 'share' && !isReadonly) {
      const advice = `only one with lock "share" gives it to another daemon`;
      throw new TargetError('ENOTSUP', `bdev "${this.name}" keeps the lock of its image (lock "${lock}"): ${advice}`);
    }
    return { fds: [], settle: () => this.#letGoOfLock(), leave: () => this.#close() };
  }

  /** Of its connection. */
  get connection(): Connection {
    return this.#connection;
  }

  async destruct(): Promise<void> {
    await this.#close();
    const { cluster } = this.#params;
    if (isRegistered(cluster)) cluster.users--;
    else await this.#connection.cluster.close();
  }

  /**
   * So that the next daemon need not ask for it: all clients are asked, and one that died keeps the others waiting for
   * 5 s. A free lock is taken by whoever writes next.
   */
  async #letGoOfLock(): Promise<void> {
    const releasing = this.image.releaseLock();
    this.#releasing = releasing;
    const result = await releasing;
    if (result === 0 || result === Errno.EINVAL) return;
    const text = `bdev "${this.name}" cannot let go of the lock of its image: ${strerror(result)}`;
    throw new TargetError(errnoName(result), text, { errno: result });
  }

  async #close(): Promise<void> {
    this.onClose();
    await this.#releasing;
    await this.image.close();
  }
}

/** Of the settings that are shown, not of those that are saved. */
export function hideKey(settings: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return 'key' in settings ? { ...settings, key: '(hidden)' } : settings;
}

interface ImageFacts {
  readonly identity: string;
  readonly sizeBytes: number;
  readonly hasWriteCache: boolean;
}

async function factsOf(image: RbdImage, where: string): Promise<ImageFacts> {
  const [identity, sizeBytes] = [await image.identity(), await image.size()];
  // As they are in force: a pool or an image may have settings of its own, which come before ours.
  const [cache, policy] = [await image.setting('rbd_cache'), await image.setting('rbd_cache_policy')];
  for (const answer of [identity, sizeBytes, cache, policy]) {
    if (typeof answer !== 'number' || answer >= 0) continue;
    throw new TargetError(errnoName(answer), `cannot inspect ${where}: ${strerror(answer)}`, { errno: answer });
  }
  return { identity: String(identity), sizeBytes, hasWriteCache: cache === 'true' && policy !== 'writethrough' };
}

/** An owner that is known to be dead loses the lock at once; one that may live, only when we were told so. */
async function takeLock(
  image: RbdImage,
  { cluster }: Connection,
  where: string,
  policy: LockPolicy,
  own: OwnAddresses,
  log: Logger,
) {
  const owner = await image.lockOwner();
  if (typeof owner === 'string') {
    const isDead = own.isDead(owner);
    if (isDead || policy === 'break') {
      const result = isDead ? await breakDead(image, owner, own, cluster) : await image.breakLock(owner);
      if (result < 0 && result !== Errno.ENOENT) throw lockError(result, where, owner);
      log.warn(`${where}: took the lock from ${owner}${isDead ? ', a daemon before this one that died' : ''}`);
    } else if (policy === 'hold') {
      throw new TargetError(
        'EBUSY',
        `${where} is locked by ${owner}, which may live: let it go there, or say lock "break" if its host is down`,
      );
    } else if (!own.isLeaving(owner)) {
      log.warn(`${where} is locked by ${owner}: it is asked for the lock when something is written here`);
    }
  }
  if (policy === 'share') return;
  const result = await image.acquireLock();
  if (result < 0) throw lockError(result, where, 'somebody else');
}

async function breakDead(image: RbdImage, owner: string, own: OwnAddresses, cluster: RadosCluster): Promise<number> {
  const result = await own.fence(owner, cluster);
  return result < 0 ? result : await image.breakFencedLock(owner);
}

function lockError(errno: number, where: string, owner: string): TargetError {
  const hint =
    errno === Errno.EINVAL
      ? 'it has no exclusive-lock feature: `rbd feature enable` it, or leave out lock'
      : `${strerror(errno)}, while ${owner} has it`;
  return new TargetError(errnoName(errno), `cannot lock ${where}: ${hint}`, { errno });
}

function openError(errno: number, { pool, image }: RbdParams): TargetError {
  const hints: Readonly<Record<number, string>> = {
    [Errno.ENOENT]: '`ceph osd lspools` lists the pools, `rbd ls POOL` their images',
    [Errno.EPERM]: 'the user may not use that pool: give it the caps "profile rbd"',
    [Errno.EACCES]: 'the user may not use that pool: give it the caps "profile rbd"',
    [Errno.ESHUTDOWN]: 'the cluster has blocklisted this client',
    [Errno.EROFS]: 'the image can only be read: say read_only',
  };
  const hint = hints[errno];
  const text = `cannot open ${pool}/${image}: ${strerror(errno)}${hint === undefined ? '' : `: ${hint}`}`;
  return new TargetError(errnoName(errno), text, { errno });
}
