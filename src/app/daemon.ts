/**
 * The daemon: the composition root. Starts reactors, registries and the RPC server, applies the configuration, and
 * stops all of it in order: no new requests, sessions ended with nothing in flight, sockets removed, bdevs given back.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { Errno, TargetError } from '../base/errors.ts';
import { bdevRpc } from '../bdev/bdev.rpc.ts';
import { delayRpc } from '../bdev/modules/delay/delay.rpc.ts';
import { errorRpc } from '../bdev/modules/error/error.rpc.ts';
import { fileRpc } from '../bdev/modules/file/file.rpc.ts';
import { mallocRpc } from '../bdev/modules/malloc/malloc.rpc.ts';
import { MemoryBudget } from '../bdev/modules/malloc/malloc.ts';
import { nbdRpc } from '../bdev/modules/nbd/nbd.rpc.ts';
import { nullRpc } from '../bdev/modules/null/null.rpc.ts';
import { NvmeControllers } from '../bdev/modules/nvme/controllers.ts';
import { nvmeRpc } from '../bdev/modules/nvme/nvme.rpc.ts';
import { PcieTransport } from '../bdev/modules/nvme/pcie.ts';
import { tcpTransport } from '../bdev/modules/nvme/tcp.rpc.ts';
import { passthruRpc } from '../bdev/modules/passthru/passthru.rpc.ts';
import { RbdDisks, rbdRpc } from '../bdev/modules/rbd/rbd.rpc.ts';
import { virtioRpc } from '../bdev/modules/virtio/virtio.rpc.ts';
import { BdevRegistry } from '../bdev/registry.ts';
import { Dashboard } from '../dashboard/server.ts';
import { type SampleCall, takeSample } from '../observe/sample.ts';
import { ReactorThread } from '../reactor/reactor-thread.ts';
import { Dispatcher } from '../rpc/dispatch.ts';
import { type DaemonHandlers, METHODS, type RpcContext } from '../rpc/methods.ts';
import { RpcServer } from '../rpc/server.ts';
import { peerCredentials } from '../sys/socket.ts';
import { allowedCores } from '../sys/thread.ts';
import { VhostRegistry } from '../vhost/registry.ts';
import { vhostRpc } from '../vhost/vhost.rpc.ts';
import { applyConfig, type ConfigCall, DEFAULT_CONFIG, readConfigFile } from './config-file.ts';
import { frameworkRpc } from './framework.rpc.ts';
import type { DaemonLog } from './logger.ts';
import type { DaemonOptions } from './options.ts';
import { becomeAccount, checkAccount } from './privileges.ts';
import { VERSION } from './version.ts';

const REACTOR_ENTRY = new URL(`./reactor-main${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url);

export class Daemon {
  readonly options: DaemonOptions;
  readonly log: DaemonLog;
  readonly reactors: readonly ReactorThread[];
  readonly bdevs: BdevRegistry;
  readonly rbd: RbdDisks;
  readonly vhost: VhostRegistry;
  readonly #nvme: NvmeControllers;
  readonly #handlers: DaemonHandlers;
  readonly #server: RpcServer;
  #dashboard: Dashboard | null = null;
  #stopped: Promise<void> | null = null;

  private constructor(options: DaemonOptions, log: DaemonLog, reactors: readonly ReactorThread[]) {
    this.options = options;
    this.log = log;
    this.reactors = reactors;
    this.bdevs = new BdevRegistry(reactors.length);
    this.#nvme = new NvmeControllers(this.bdevs, log);
    this.rbd = new RbdDisks(this.bdevs, `${options.rpcSocket}.rbd`, log);
    const { socketDirectory } = options;
    const { access, mode } = options;
    this.vhost = new VhostRegistry({ socketDirectory, access, reactors, bdevs: this.bdevs, mode, log });
    this.#handlers = {
      ...bdevRpc(this.bdevs),
      ...mallocRpc(this.bdevs, new MemoryBudget(options.memoryBytes)),
      ...nullRpc(this.bdevs),
      ...nbdRpc(this.bdevs),
      ...virtioRpc(this.bdevs, log),
      ...fileRpc(this.bdevs, options.cores),
      ...nvmeRpc(this.#nvme, [
        new PcieTransport({ reactors: reactors.length, mode: options.mode, log }),
        tcpTransport(log),
      ]),
      ...rbdRpc(this.rbd, this.bdevs),
      ...passthruRpc(this.bdevs),
      ...delayRpc(this.bdevs),
      ...errorRpc(this.bdevs),
      ...vhostRpc(this.vhost, this.bdevs),
      ...frameworkRpc(this),
    };
    this.#server = new RpcServer({ handlers: this.#handlers, log, version: VERSION, access, peerOf: peerCredentials });
    for (const reactor of reactors) reactor.onBdevGone = (id) => this.#bdevGone(id);
  }

  /** Resolves when everything of the configuration is served. Nothing is left behind when it fails. */
  static async start(options: DaemonOptions, log: DaemonLog, onReactorDeath: (error: Error) => void): Promise<Daemon> {
    if (!existsSync(options.socketDirectory) || !statSync(options.socketDirectory).isDirectory()) {
      throw new TargetError('ENOENT', `-S ${options.socketDirectory} is not a directory: create it first`);
    }
    if (options.account !== null) checkAccount(options.account, [options.socketDirectory, dirname(options.rpcSocket)]);
    log.info(`Starting Ringhost v${VERSION}`);
    log.info(`Total cores available: ${allowedCores().length}`);
    const entry = REACTOR_ENTRY;
    const starting = options.cores.map((core, index) =>
      ReactorThread.start(entry, core, index, options.mode, log, onReactorDeath),
    );
    const outcomes = await Promise.allSettled(starting);
    const reactors = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    const failure = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failure !== undefined) {
      await Promise.all(reactors.map((reactor) => reactor.stop()));
      throw failure.reason;
    }
    for (const { core } of reactors) log.info(`Reactor started on core ${core}, socket ${socketOf(core)}`);
    const daemon = new Daemon(options, log, reactors);
    try {
      // The RPC socket first: a second daemon with the same one must not touch the controllers' sockets.
      await daemon.#server.listen(options.rpcSocket);
      await daemon.#configure();
      await daemon.#openDashboard();
      daemon.#giveUpPrivileges();
    } catch (error) {
      await daemon.stop();
      throw error;
    }
    return daemon;
  }

  /** Where the dashboard is; null: there is none. */
  get dashboardUrl(): string | null {
    return this.#dashboard?.url ?? null;
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    await this.#server.close();
    await this.#dashboard?.close();
    await this.vhost.close();
    await this.#nvme.close();
    // Stacked ones before what they stand on.
    for (const entry of this.bdevs.list().toReversed()) if (!entry.isRemoving) await this.bdevs.delete(entry);
    await this.rbd.close();
    await Promise.all(this.reactors.map((reactor) => reactor.stop()));
  }

  async #openDashboard(): Promise<void> {
    const { http } = this.options;
    if (http === null) return;
    const source = {
      sample: () => takeSample(this.#askItself),
      eventsSince: (id: number) => this.log.events.since(id),
    };
    this.#dashboard = await Dashboard.listen({ ...http, source, log: this.log });
  }

  /** Calls a handler as a client would. */
  readonly #askItself: SampleCall = async (method, params) => {
    const handler = this.#handlers[method] as (params: unknown, context: RpcContext) => never;
    const context = { signal: new AbortController().signal, calledAs: method, connection: 0 };
    return await handler(METHODS[method].params.parse(params), context);
  };

  /** As if an operator had deleted it. */
  #bdevGone(id: number): void {
    const entry = this.bdevs.list().find((candidate) => candidate.id === id);
    if (entry === undefined || entry.isRemoving) return;
    this.log.error(`bdev ${entry.name}: its device is gone, so the bdev goes too`);
    this.bdevs.delete(entry).catch((error: Error) => this.log.error(error.message));
  }

  /** What needed root has been done: from now on a fault in it is a fault of an account that can do little. */
  #giveUpPrivileges(): void {
    const { account, access } = this.options;
    if (account === null) return;
    becomeAccount(account, access.gid < 0 ? [] : [access.gid]);
    this.log.info(`running as ${account.name}`, { uid: account.uid, gid: account.gid });
  }

  async #configure(): Promise<void> {
    const { configFile, useDefaultConfig } = this.options;
    if (configFile === undefined && !useDefaultConfig) return;
    const config = configFile === undefined ? DEFAULT_CONFIG : readConfigFile(configFile);
    const dispatcher = new Dispatcher({ handlers: this.#handlers, log: this.log, version: VERSION });
    const signal = new AbortController().signal;
    const call = async ({ method, params }: ConfigCall) => {
      const request = { jsonrpc: '2.0', id: 1, method, params: params ?? {} };
      const { answer } = dispatcher.start(request, { connection: 0, signal, beginWait: () => () => undefined });
      const response = await answer;
      if (response !== null && 'error' in response) return response.error;
      return null;
    };
    await applyConfig(config, call, this.log);
  }
}

/** Number of the processor package of a core, as the guide's notices show it. */
function socketOf(core: number): number {
  try {
    return Number(readFileSync(`/sys/devices/system/cpu/cpu${core}/topology/physical_package_id`, 'utf8'));
  } catch {
    return 0;
  }
}

/** What ends the process when a reactor ends by itself. */
export const REACTOR_DEATH_EXIT_CODE = -Errno.EIO;
