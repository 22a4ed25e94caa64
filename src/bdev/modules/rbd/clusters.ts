/**
 * Connections to clusters of Ceph: those that were registered by name, each shared by any number of disks, and those
 * that a disk has for itself.
 */
import { parseCpuset } from '../../../base/cpuset.ts';
import { Errno, errnoName, strerror, TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import { loadRbd, RadosCluster } from '../../../sys/rbd.ts';
import type { BdevConfig } from '../../bdev.ts';
import type { OwnAddresses } from './own-addresses.ts';

type Settings = Readonly<Record<string, string>>;

export interface ConnectParams {
  /** Without `client.`. Default: Ceph's own, `admin`. */
  readonly user?: string | undefined;
  /** Default: where Ceph looks. */
  readonly configFile?: string | undefined;
  readonly keyFile?: string | undefined;
  /** Options of Ceph, over those of the file. */
  readonly settings?: Settings | undefined;
  /** Where librbd's threads run, as for `-m`. Default: anywhere. */
  readonly coreMask?: string | undefined;
}

/** A connected client. */
export interface Connection {
  readonly cluster: RadosCluster;
  readonly fsid: string;
  readonly address: string;
}

export interface RegisteredCluster extends Connection {
  readonly name: string;
  readonly params: ConnectParams;
  /** Disks over it. */
  users: number;
}

/**
 * What differs from Ceph's own defaults. With a cache of librbd's, writes would be acknowledged that die with this
 * process, while the guest lives on and knows of no crash.
 */
const DEFAULT_SETTINGS: Settings = { rbd_cache: 'false', client_mount_timeout: '30' };
/** For a client with one core: of Ceph's two threads for completions one would only wait for the other to leave it. */
const ONE_CORE_SETTINGS: Settings = { librados_thread_count: '1' };
const PACKAGES = 'apt-get install librbd1 librados2';

export class RbdClusters {
  readonly #own: OwnAddresses;
  readonly #log: Logger;
  readonly #clusters = new Map<string, RegisteredCluster>();
  readonly #connecting = new Set<string>();

  constructor(own: OwnAddresses, log: Logger) {
    this.#own = own;
    this.#log = log;
  }

  async register(name: string, params: ConnectParams): Promise<void> {
    if (this.#clusters.has(name) || this.#connecting.has(name)) {
      throw new TargetError('EEXIST', `a cluster "${name}" is registered already: unregister it first`);
    }
    this.#connecting.add(name);
    try {
      this.#clusters.set(name, { ...(await this.connect(params)), name, params, users: 0 });
    } finally {
      this.#connecting.delete(name);
    }
  }

  async unregister(name: string): Promise<void> {
    const { users, cluster } = this.get(name);
    if (users > 0) throw new TargetError('EBUSY', `cluster "${name}" has ${users} disks: delete them first`);
    this.#clusters.delete(name);
    await cluster.close();
  }

  /** Throws `ENOENT`. */
  get(name: string): RegisteredCluster {
    const registered = this.#clusters.get(name);
    if (registered === undefined) {
      throw new TargetError('ENOENT', `no cluster "${name}" is registered: bdev_rbd_register_cluster registers one`);
    }
    return registered;
  }

  list(): RegisteredCluster[] {
    return [...this.#clusters.values()];
  }

  /** The calls that would register them again. */
  toConfig(): BdevConfig[] {
    return this.list().map(({ name, params: { user, configFile, keyFile, settings, coreMask } }) => ({
      method: 'bdev_rbd_register_cluster',
      params: {
        name,
        ...(user === undefined ? {} : { user_id: user }),
        ...(settings === undefined ? {} : { config_param: settings }),
        ...(configFile === undefined ? {} : { config_file: configFile }),
        ...(keyFile === undefined ? {} : { key_file: keyFile }),
        ...(coreMask === undefined ? {} : { core_mask: coreMask }),
      },
    }));
  }

  /** Every disk is gone. */
  async close(): Promise<void> {
    for (const { name } of this.list()) await this.unregister(name);
    this.#own.close();
  }

  /** Throws what Ceph says, and what to do about it. */
  async connect(params: ConnectParams): Promise<Connection> {
    const missing = await loadRbd();
    if (missing !== null) throw new TargetError('ENOSYS', `Ceph's libraries cannot be used: ${missing}: ${PACKAGES}`);
    const cores = params.coreMask === undefined ? [] : parseCpuset(params.coreMask);
    await this.#own.claim();
    const cluster = new RadosCluster(params.user ?? '', cores);
    try {
      this.#configure(cluster, cores, params);
      const answer = await cluster.connect();
      if (typeof answer === 'number') throw connectError(answer, params);
      this.#own.add(answer.address);
      this.#log.info(`connected to the Ceph cluster ${answer.fsid}`, { address: answer.address });
      return { cluster, ...answer };
    } catch (error) {
      await cluster.close();
      throw error;
    }
  }

  #configure(
    cluster: RadosCluster,
    cores: readonly number[],
    { configFile, keyFile, settings = {} }: ConnectParams,
  ): void {
    const result = cluster.configureFromFile(configFile ?? '');
    // No file in any of the usual places: the settings may say all there is.
    if (result < 0 && (configFile !== undefined || result !== Errno.ENOENT)) {
      const what = configFile ?? 'the configuration of Ceph';
      throw new TargetError(errnoName(result), `cannot read ${what}: ${strerror(result)}`, { errno: result });
    }
    const ofCores = cores.length === 1 ? ONE_CORE_SETTINGS : {};
    const ofKey = keyFile === undefined ? {} : { keyring: keyFile };
    const all = { ...DEFAULT_SETTINGS, ...ofCores, ...ofKey, ...settings };
    for (const [name, value] of Object.entries(all)) {
      const set = cluster.configure(name, value);
      if (set === 0) continue;
      const why = set === Errno.ENOENT ? 'Ceph has no such option' : `Ceph does not take the value "${value}"`;
      throw new TargetError('EINVAL', `${name}: ${why}`);
    }
  }
}

function connectError(errno: number, { user = 'admin' }: ConnectParams): TargetError {
  const hints: Readonly<Record<number, string>> = {
    [Errno.ENOENT]: 'no monitor or no key is known: give config_file, or mon_host and key or keyring in the config',
    [Errno.EACCES]: `the monitors refuse client.${user}: check user_id and its key`,
    [Errno.EPERM]: `the monitors refuse client.${user}: check user_id and its key`,
    [Errno.EINVAL]: 'the key is not one of Ceph, or mon_host names no address',
    [Errno.ETIMEDOUT]:
      'no monitor answers: check mon_host, and that they run (client_mount_timeout says how long to wait)',
    [Errno.ENOTSUP]: `the monitors want a key of client.${user}: give key, keyring or key_file`,
  };
  const hint = hints[errno];
  const text = `cannot connect to Ceph: ${strerror(errno)}${hint === undefined ? '' : `: ${hint}`}`;
  return new TargetError(errnoName(errno), text, { errno });
}
