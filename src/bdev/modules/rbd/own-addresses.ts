/**
 * Which clients of Ceph were our own dead predecessors. A client is known by its address, which is never given again:
 * every daemon writes the addresses of its clients into a file beside its RPC socket, and keeps the file locked for as
 * long as it lives. The kernel ends the lock with its holder and never before. So whoever gets the lock knows that no
 * process of those addresses is left, in whatever container it ran, and whatever ended it.
 */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../../../base/log.ts';
import { lockFile } from '../../../sys/file-lock.ts';
import type { RadosCluster } from '../../../sys/rbd.ts';

const { O_CREAT, O_NOFOLLOW, O_RDWR } = constants;
/** How long a daemon that was told to end may take to do so while its successor starts. */
const CLAIM_MS_MAX = 10_000;
const CLAIM_POLL_MS = 100;
/** As long as Ceph does by default, if an hour is all that it takes a write of a dead client to arrive. */
const FENCE_S = 3600;
/** Well before it ends. */
const FENCE_TRUST_MS = 600_000;
/** Of the newest clients: of more disks, each with a connection of its own, than have handles (native/rbd.c). */
const ADDRESSES_MAX = 8192;

export class OwnAddresses {
  readonly #path: string;
  readonly #log: Logger;
  #fd = -1;
  #dead: readonly string[] = [];
  readonly #own: string[] = [];
  /** Of the daemon before, which hands over. */
  #leaving: readonly string[] = [];
  #claimed: Promise<void> | null = null;
  /** Dead clients that the cluster was told of, and when. */
  readonly #fenced = new Map<string, { readonly result: Promise<number>; readonly sinceMs: number }>();

  constructor(path: string, log: Logger) {
    this.#path = path;
    this.#log = log;
  }

  /** For an upgrade: the file, -1 when there is none, and the clients of this daemon. */
  handOver(): { readonly fd: number; readonly addresses: readonly string[] } {
    return { fd: this.#fd, addresses: [...this.#own] };
  }

  /** What the daemon before handed over; its clients live until it ends. */
  inherit(fd: number, addresses: readonly string[]): void {
    this.#leaving = addresses;
    if (fd < 0) return;
    this.#fd = fd;
    this.#dead = linesOf(fd).filter((line) => !addresses.includes(line));
    this.#claimed = Promise.resolve();
  }

  /** That client is of the daemon before, which hands over. */
  isLeaving(address: string): boolean {
    return this.#leaving.includes(address);
  }

  /**
   * A next daemon took nothing over and has ended: its clients, which it wrote into the file, are shut out of the
   * clusters. 0 or a negative errno.
   */
  async buryHeir(clusters: readonly RadosCluster[]): Promise<number> {
    if (this.#fd < 0) return 0;
    const known = [...this.#dead, ...this.#leaving, ...this.#own];
    const buried = linesOf(this.#fd).filter((line) => !known.includes(line));
    this.#dead = [...this.#dead, ...buried];
    const fencing = clusters.flatMap((cluster) => buried.map((address) => cluster.fence(address, FENCE_S)));
    return (await Promise.all(fencing)).find((errno) => errno < 0) ?? 0;
  }

  /** Before a client is made. Without the file, no lock is taken from a predecessor. */
  claim(): Promise<void> {
    this.#claimed ??= this.#claim();
    return this.#claimed;
  }

  /** True when that client's process is gone for certain. */
  isDead(address: string): boolean {
    return this.#dead.includes(address);
  }

  /**
   * Has the cluster shut out a dead client, once for all of its images: each time makes an epoch of the OSD map, and a
   * monitor makes one a second. 0 or a negative errno.
   */
  fence(address: string, cluster: RadosCluster): Promise<number> {
    const before = this.#fenced.get(address);
    if (before !== undefined && performance.now() - before.sinceMs < FENCE_TRUST_MS) return before.result;
    const result = cluster.fence(address, FENCE_S).then((errno) => {
      if (errno < 0) this.#fenced.delete(address);
      return errno;
    });
    this.#fenced.set(address, { result, sinceMs: performance.now() });
    return result;
  }

  /** Of a client of ours, before it opens an image. */
  add(address: string): void {
    this.#own.push(address);
    if (this.#fd < 0) return;
    const text = [...this.#dead, ...this.#leaving, ...this.#own].slice(-ADDRESSES_MAX).join('\n');
    ftruncateSync(this.#fd, 0);
    writeSync(this.#fd, `${text}\n`, 0);
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
    this.#claimed = null;
  }

  async #claim(): Promise<void> {
    const reason = await this.#open().catch((error: Error) => error.message);
    if (reason === null) return;
    this.#log.warn(`${this.#path}: ${reason}; locks of a daemon that died are left to Ceph, which takes half a minute`);
  }

  /** Null, or why the file cannot be used. */
  async #open(): Promise<string | null> {
    const fd = openSync(this.#path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
    const stat = fstatSync(fd);
    // Beside a socket in /var/tmp somebody else could have put one that names living clients.
    if (!stat.isFile() || stat.uid !== process.geteuid?.() || (stat.mode & 0o022) !== 0) {
      closeSync(fd);
      return 'it is not a file that only this user may write';
    }
    const deadline = Date.now() + CLAIM_MS_MAX;
    let isOurs = lockFile(fd);
    while (!isOurs && Date.now() < deadline) {
      await sleep(CLAIM_POLL_MS);
      isOurs = lockFile(fd);
    }
    if (!isOurs) {
      closeSync(fd);
      return 'another daemon has it locked';
    }
    this.#fd = fd;
    this.#dead = linesOf(fd);
    return null;
  }
}

/** From the beginning: daemons that hand over share one position in the file. */
function linesOf(fd: number): string[] {
  const bytes = Buffer.alloc(fstatSync(fd).size);
  const length = readSync(fd, bytes, 0, bytes.length, 0);
  return bytes.toString('utf8', 0, length).split('\n').filter(Boolean);
}
