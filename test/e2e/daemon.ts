/** A Ringhost daemon of its own for a test: started as a user starts it, set up over its RPC socket. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RpcClient } from '../../src/rpc/client.ts';
import { type ChildExit, TestChild } from './child.ts';
import { waitUntil } from './wait.ts';

const START_MAX_MS = 60_000;
const COMMAND = join(import.meta.dirname, '..', '..', 'bin', 'ringhost');

export interface DaemonOptions {
  /** As for -m. Default `0x1`. */
  readonly coreMask?: string;
  /** More options of `ringhost serve`. */
  readonly args?: readonly string[];
}

export class Daemon {
  /** Where the controllers' sockets are. */
  readonly directory: string;
  readonly #args: readonly string[];
  #child: TestChild;
  #client: RpcClient | null = null;

  private constructor(directory: string, args: readonly string[]) {
    this.directory = directory;
    this.#args = args;
    this.#child = this.#spawn();
  }

  /** Starts a daemon with sockets in a new directory, and waits until it answers RPC. */
  static async start({ coreMask = '0x1', args = [] }: DaemonOptions = {}): Promise<Daemon> {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-e2e-'));
    const options = ['-S', directory, '-r', join(directory, 'rpc.sock'), '-m', coreMask, ...args];
    const daemon = new Daemon(directory, options);
    try {
      await daemon.#ready();
    } catch (error) {
      await daemon.close();
      throw error;
    }
    return daemon;
  }

  /** Kills it, with no chance to do anything about it, and starts it again with the same arguments. */
  async crash(): Promise<void> {
    await this.stop('SIGKILL');
    this.#child = this.#spawn();
    await this.#ready();
  }

  /** Has it replaced by a new one, whatever pause that takes. Returns the pause, in milliseconds. */
  async upgrade(): Promise<number> {
    const result = await this.rpc('framework_upgrade', { max_pause_ms: START_MAX_MS });
    const { pid, pause_ms: pauseMs } = result as { pid: number; pause_ms: number };
    this.#child.replacedBy(pid);
    this.#client?.close();
    this.#client = await RpcClient.connect(join(this.directory, 'rpc.sock'));
    return pauseMs;
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** What the daemon printed last. */
  log(): string {
    return this.#child.tail();
  }

  /** Calls an RPC method. @throws RpcCallError when the daemon refuses */
  async rpc(method: string, params: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    if (this.#client === null) throw new Error('the daemon was closed');
    return await this.#client.request(method, params);
  }

  socketPath(ctrlr: string): string {
    return join(this.directory, ctrlr);
  }

  /** Asks the daemon to end, as systemd does, and waits for it. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<ChildExit> {
    this.#client?.close();
    this.#client = null;
    return await this.#child.stop(signal);
  }

  /** Ends it in any case and removes what it left. May be called after `stop()`. */
  async close(): Promise<void> {
    await this.stop('SIGKILL');
    rmSync(this.directory, { recursive: true, force: true });
  }

  #spawn(): TestChild {
    return new TestChild('ringhost', process.execPath, [COMMAND, 'serve', ...this.#args]);
  }

  async #ready(): Promise<void> {
    try {
      await waitUntil(() => this.#tryConnect(), START_MAX_MS, 'answer from ringhost');
    } catch (error) {
      throw new Error(`ringhost did not start:\n${this.#child.tail()}`, { cause: error });
    }
  }

  async #tryConnect(): Promise<boolean> {
    if (!this.#child.isRunning) throw new Error('it ended');
    try {
      this.#client = await RpcClient.connect(join(this.directory, 'rpc.sock'));
      return true;
    } catch {
      return false; // not listening yet
    }
  }
}
