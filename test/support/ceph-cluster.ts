/**
 * A cluster of Ceph of a test's own: a monitor and some OSDs on loopback, as whoever runs the test, with all that they
 * keep in one directory. Programs and libraries are those of the system (scripts/setup/packages.mjs). They end with the
 * test, however it ends.
 */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { TestChild } from '../e2e/child.ts';
import { freePort } from './free-port.ts';

const MIB = 1 << 20;
/** Generous: three OSDs that start on a busy machine. */
const LIMIT_MS = 120_000;
const PLACEMENT_GROUPS = 8;

export interface CephOptions {
  /** Each keeps a copy of everything. Default 1. */
  readonly osds?: number;
  /** Clients must have a key. Default false. */
  readonly hasAuth?: boolean;
  /** In memory an OSD starts in no time, and forgets all when it ends; `disk` is BlueStore on a file. */
  readonly store: 'memory' | 'disk';
  /** How long a monitor waits between two maps. Default 0.02; monitors by themselves wait a second. */
  readonly proposeIntervalS?: number;
  /** Where its directory is made. Its path is short: sockets are in it. */
  readonly parent: string;
}

/** A user with the caps that RBD wants, for clusters with keys. */
export const RBD_USER = 'vms';

export class CephCluster {
  readonly directory: string;
  readonly configFile: string;
  readonly keyring: string;
  readonly #osds: (TestChild | null)[] = [];
  #monitor: TestChild | null = null;
  #port = 0;

  private constructor(directory: string) {
    this.directory = directory;
    this.configFile = join(directory, 'ceph.conf');
    this.keyring = join(directory, 'keyring');
  }

  /** Resolves when images can be made in its pool `rbd`. */
  static async start(options: CephOptions): Promise<CephCluster> {
    const cluster = new CephCluster(mkdtempSync(join(options.parent, 'ceph-')));
    try {
      await cluster.#start(options);
      return cluster;
    } catch (error) {
      const logs = [cluster.#monitor, ...cluster.#osds].map((child) => child?.tail() ?? '').join('\n');
      await cluster.close();
      throw new Error(`Ceph did not start:\n${logs}`, { cause: error });
    }
  }

  /** Where clients find it, without its file. */
  get monitor(): string {
    return `[v2:127.0.0.1:${this.#port}]`;
  }

  /** Of the OSDs that run. */
  get osdPids(): number[] {
    return this.#osds.flatMap((osd) => (osd === null ? [] : [osd.pid]));
  }

  /** 0 when it does not run. */
  get monitorPid(): number {
    return this.#monitor?.pid ?? 0;
  }

  /** Runs `rbd`; resolves with what it printed. */
  async rbd(...args: readonly string[]): Promise<string> {
    return await this.#run('rbd', ['-c', this.configFile, ...args]);
  }

  /** Makes an image of some MiB. */
  async createImage(name: string, mebibytes: number, ...options: readonly string[]): Promise<void> {
    await this.rbd('create', name, '--size', `${mebibytes}M`, ...options);
  }

  /** Bytes that an image takes. */
  async usedBytes(name: string): Promise<number> {
    const { images } = JSON.parse(await this.rbd('du', name, '--format', 'json'));
    return images[0].used_size;
  }

  /** Runs some commands of `ceph`, one after the other. */
  async ceph(...commands: readonly string[]): Promise<string> {
    return await this.#run('ceph', ['-c', this.configFile], `${commands.join('\n')}\n`);
  }

  /** Tells one of its daemons something, such as `osd.0`. */
  async tell(daemon: string, ...command: readonly string[]): Promise<string> {
    return await this.#run('ceph', ['-c', this.configFile, 'tell', daemon, ...command]);
  }

  /** The key of a user. */
  async key(user: string): Promise<string> {
    return (await this.#run('ceph-authtool', [this.keyring, '-n', `client.${user}`, '--print-key'])).trim();
  }

  async killOsd(id: number): Promise<void> {
    await this.#osds[id]?.stop('SIGKILL');
    this.#osds[id] = null;
  }

  startOsd(id: number): void {
    this.#osds[id] = new TestChild(`osd.${id}`, 'ceph-osd', ['-f', '-c', this.configFile, '-i', String(id)]);
  }

  /** Stands still (SIGSTOP), or goes on (SIGCONT). */
  signalOsd(id: number, signal: NodeJS.Signals): void {
    this.#osds[id]?.kill(signal);
  }

  async killMonitor(): Promise<void> {
    await this.#monitor?.stop('SIGKILL');
    this.#monitor = null;
  }

  startMonitor(): void {
    this.#monitor = new TestChild('mon.a', 'ceph-mon', ['-f', '-c', this.configFile, '-i', 'a']);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#osds, this.#monitor].map((child) => child?.stop('SIGKILL')));
    rmSync(this.directory, { recursive: true, force: true });
  }

  async #start(options: CephOptions): Promise<void> {
    const { osds = 1, hasAuth = false } = options;
    this.#port = await freePort();
    const fsid = randomUUID();
    writeFileSync(this.configFile, configuration(this, fsid, options));
    await this.#makeKeys(osds);
    const map = join(this.directory, 'monmap');
    await this.#run('monmaptool', ['--create', '--fsid', fsid, '--addv', 'a', this.monitor, map]);
    mkdirSync(join(this.directory, 'mon'));
    const mkfs = ['--mkfs', '-i', 'a', '--monmap', map, '--keyring', this.keyring];
    await this.#run('ceph-mon', ['-c', this.configFile, ...mkfs]);
    this.startMonitor();
    const uuids = Array.from({ length: osds }, () => randomUUID());
    await this.ceph(
      ...uuids.map((uuid, id) => `osd new ${uuid} ${id}`),
      `osd pool create rbd ${PLACEMENT_GROUPS} ${PLACEMENT_GROUPS}`,
      ...(osds === 1 ? ['osd pool set rbd size 1 --yes-i-really-mean-it'] : []),
      'osd pool application enable rbd rbd',
    );
    await Promise.all(uuids.map((uuid, id) => this.#makeOsd(id, uuid)));
    // The first one waits until the OSDs serve.
    await this.createImage('first', 4);
    if (hasAuth) await this.rbd('--id', RBD_USER, '--keyring', this.keyring, 'info', 'first');
  }

  async #makeOsd(id: number, uuid: string): Promise<void> {
    mkdirSync(join(this.directory, `osd${id}`));
    await this.#run('ceph-osd', ['-c', this.configFile, '-i', String(id), '--mkfs', '--osd-uuid', uuid]);
    this.startOsd(id);
  }

  async #makeKeys(osds: number): Promise<void> {
    const all = ['--cap', 'mon', 'allow *', '--cap', 'osd', 'allow *', '--cap', 'mgr', 'allow *'];
    const osd = ['--cap', 'mon', 'allow profile osd', '--cap', 'osd', 'allow *', '--cap', 'mgr', 'allow profile osd'];
    const user = ['--cap', 'mon', 'profile rbd', '--cap', 'osd', 'profile rbd'];
    const entities: (readonly [string, readonly string[]])[] = [
      ['mon.', ['--cap', 'mon', 'allow *']],
      ['client.admin', all],
      [`client.${RBD_USER}`, user],
      ['client.nobody', ['--cap', 'mon', 'allow r']],
      ...Array.from({ length: osds }, (_, id): [string, readonly string[]] => [`osd.${id}`, osd]),
    ];
    writeFileSync(this.keyring, '');
    for (const [name, caps] of entities) {
      await this.#run('ceph-authtool', [this.keyring, '--gen-key', '-n', name, ...caps]);
    }
  }

  async #run(command: string, args: readonly string[], input?: string): Promise<string> {
    const running = promisify(execFile)(command, args, { timeout: LIMIT_MS, killSignal: 'SIGKILL' });
    running.child.stdin?.end(input);
    return (await running).stdout;
  }
}

function configuration(cluster: CephCluster, fsid: string, options: CephOptions): string {
  const { osds = 1, hasAuth = false, store, proposeIntervalS = 0.02 } = options;
  const { directory, keyring, monitor } = cluster;
  const auth = hasAuth ? 'cephx' : 'none';
  return `[global]
fsid = ${fsid}
mon host = ${monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = ${auth}
auth service required = ${auth}
auth client required = ${auth}
keyring = ${keyring}
run dir = ${directory}
crash dir = ${directory}/crash
admin socket =
pid file =
log file =
log to stderr = true
osd pool default size = ${osds}
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 2
paxos propose interval = ${proposeIntervalS}
paxos min wait = 0.01
[mon]
mon data = ${directory}/mon
mon cluster log file =
mon cluster log to stderr = false
mon osd min down reporters = 1
mon osd adjust heartbeat grace = false
mon osd adjust down out interval = false
auth allow insecure global id reclaim = false
[osd]
admin socket = ${directory}/$name.asok
osd data = ${directory}/osd$id
osd objectstore = ${store === 'memory' ? 'memstore' : 'bluestore'}
osd heartbeat grace = 6
osd heartbeat interval = 2
osd memory target = 939524096
bluestore cache autotune = false
bluestore cache size = ${64 * MIB}
bluestore block size = ${2048 * MIB}
bluestore block create = true
bluestore min alloc size = 4096
memstore device bytes = ${2048 * MIB}
`;
}
