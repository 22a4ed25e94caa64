/** A daemon whose costs are looked at from outside. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { RpcClient } from '../src/rpc/client.ts';
import { TestChild } from '../test/e2e/child.ts';
import { waitUntil } from '../test/e2e/wait.ts';
import { cpuTimeNs, makeDirectory, ROOT } from './targets/target.ts';

const START_MAX_MS = 300_000;
const SETTLE_MS = 1000;
const IDLE_MS = 4000;

interface Cost {
  /** Its own memory, without that of guests. */
  readonly ownKiB: number;
  readonly pageTablesKiB: number;
  readonly descriptors: number;
  readonly threads: number;
  /** Of one core, while nothing happens. */
  readonly idleShare: number;
}

export class CostlyDaemon {
  readonly directory: string;
  readonly #child: TestChild;
  readonly startedMs = performance.now();

  /** `predecessor`: one that was killed, whose directory it takes over. */
  constructor(config: object, predecessor?: CostlyDaemon) {
    this.directory = predecessor?.directory ?? makeDirectory();
    writeFileSync(join(this.directory, 'config.json'), JSON.stringify(config));
    const args = ['serve', '-S', this.directory, '-r', this.socket, '-c', join(this.directory, 'config.json')];
    this.#child = new TestChild('ringhost', process.execPath, [join(ROOT, 'bin', 'ringhost'), ...args]);
  }

  get socket(): string {
    return join(this.directory, 'rpc');
  }

  /** Waits until everything of its configuration is there. Returns how long it took, in milliseconds. */
  async ready(): Promise<number> {
    await waitUntil(() => this.#tryCall(), START_MAX_MS, `answer of the daemon:\n${this.#child.tail()}`);
    return performance.now() - this.startedMs;
  }

  async #tryCall(): Promise<boolean> {
    if (!this.#child.isRunning) throw new Error(`the daemon ended:\n${this.#child.tail()}`);
    try {
      using rpc = await RpcClient.connect(this.socket);
      await rpc.call('framework_wait_init');
      return true;
    } catch {
      return false; // not yet
    }
  }

  async cost(): Promise<Cost> {
    await delay(SETTLE_MS);
    const { pid } = this.#child;
    const [beforeNs, sinceMs] = [cpuTimeNs(pid), performance.now()];
    await delay(IDLE_MS);
    const idleShare = (cpuTimeNs(pid) - beforeNs) / ((performance.now() - sinceMs) * 1e6);
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
    const descriptors = readdirSync(`/proc/${pid}/fd`).length;
    return {
      ownKiB: field('RssAnon'),
      pageTablesKiB: field('VmPTE'),
      descriptors,
      threads: field('Threads'),
      idleShare,
    };
  }

  get pid(): number {
    return this.#child.pid;
  }

  async stop(): Promise<void> {
    await this.#child.stop('SIGTERM');
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** For a successor. */
  async kill(): Promise<void> {
    await this.#child.stop('SIGKILL');
  }
}

/** A line of a table. */
export function show(what: string, cost: Cost, more = ''): void {
  const mib = (kib: number): string => `${(kib / 1024).toFixed(1)} MiB`;
  console.log(
    `| ${what} | ${mib(cost.ownKiB)} | ${mib(cost.pageTablesKiB)} | ${cost.descriptors} | ${cost.threads} | ` +
      `${(100 * cost.idleShare).toFixed(1)} % | ${more} |`,
  );
}

export function showHead(): void {
  console.log('| | own memory | page tables | descriptors | threads | CPU | |\n|---|---|---|---|---|---|---|');
}
