/**
 * The daemon: the composition root. Starts reactors, registries and the RPC server, applies the configuration, and
 * stops all of it in order: no new requests, sessions ended with nothing in flight, sockets removed, bdevs given back.
 */
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Errno, TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { bdevRpc } from '../bdev/bdev.rpc.ts';
import { jobsRpc } from '../bdev/jobs.rpc.ts';
import { Jobs } from '../bdev/jobs.ts';
import { latencyRpc } from '../bdev/latency.rpc.ts';
import { cryptoRpc } from '../bdev/modules/crypto/crypto.rpc.ts';
import { CryptoKeys } from '../bdev/modules/crypto/keys.ts';
import { delayRpc } from '../bdev/modules/delay/delay.rpc.ts';
import { errorRpc } from '../bdev/modules/error/error.rpc.ts';
import { fileRpc } from '../bdev/modules/file/file.rpc.ts';
import { gptRpc } from '../bdev/modules/gpt/gpt.rpc.ts';
import { lvolRpc } from '../bdev/modules/lvol/lvol.rpc.ts';
import { Lvols } from '../bdev/modules/lvol/lvols.ts';
import { mallocRpc } from '../bdev/modules/malloc/malloc.rpc.ts';
import { MemoryBudget } from '../bdev/modules/malloc/malloc.ts';
import { moduleRpc } from '../bdev/modules/module/module.rpc.ts';
import { nbdRpc } from '../bdev/modules/nbd/nbd.rpc.ts';
import { nullRpc } from '../bdev/modules/null/null.rpc.ts';
import { NvmeControllers } from '../bdev/modules/nvme/controllers.ts';
import { discoveryRpc } from '../bdev/modules/nvme/discovery.rpc.ts';
import { Discoveries } from '../bdev/modules/nvme/discovery.ts';
import { nvmeRpc } from '../bdev/modules/nvme/nvme.rpc.ts';
import { PcieTransport } from '../bdev/modules/nvme/pcie.ts';
import { tcpTransport } from '../bdev/modules/nvme/tcp.rpc.ts';
import { passthruRpc } from '../bdev/modules/passthru/passthru.rpc.ts';
import { powerCutRpc } from '../bdev/modules/powercut/powercut.rpc.ts';
import { raidRpc } from '../bdev/modules/raid/raid.rpc.ts';
import { RbdDisks, rbdRpc } from '../bdev/modules/rbd/rbd.rpc.ts';
import { splitRpc } from '../bdev/modules/split/split.rpc.ts';
import { VirtioControllers } from '../bdev/modules/virtio/controllers.ts';
import { virtioRpc } from '../bdev/modules/virtio/virtio.rpc.ts';
import { type BdevEntry, type BdevHandover, BdevRegistry, settleAll } from '../bdev/registry.ts';
import { Dashboard } from '../dashboard/server.ts';
import { ReactorThread } from '../reactor/reactor-thread.ts';
import { RpcCallError } from '../rpc/client.ts';
import { Dispatcher, type Response } from '../rpc/dispatch.ts';
import { findMethod } from '../rpc/lookup.ts';
import type { Call, DaemonHandlers } from '../rpc/methods.ts';
import { RpcServer } from '../rpc/server.ts';
import { peerCredentials } from '../sys/socket.ts';
import { allowedCores, clockNs } from '../sys/thread.ts';
import { ReactorBlocks } from '../vhost/block-service.ts';
import { VhostRegistry } from '../vhost/registry.ts';
import { RequestTracer } from '../vhost/request-tracer.ts';
import { traceRpc } from '../vhost/trace.rpc.ts';
import { vhostRpc } from '../vhost/vhost.rpc.ts';
import { VringService } from '../vhost/vring-service.ts';
import { ChangeGate } from './change-gate.ts';
import { configRpc } from './config.rpc.ts';
import {
  applyConfig,
  type CallFailure,
  type ConfigCall,
  type ConfigFile,
  DEFAULT_CONFIG,
  isOfSpdkOnly,
  NO_CONNECTION,
  readConfigFile,
} from './config-file.ts';
import { currentConfig } from './current-config.ts';
import { frameworkRpc } from './framework.rpc.ts';
import type { Offer } from './handover-channel.ts';
import type { DaemonLog } from './logger.ts';
import type { DaemonOptions } from './options.ts';
import type { Predecessor } from './predecessor.ts';
import { becomeAccount, checkAccount } from './privileges.ts';
import { announceReady } from './service-manager.ts';
import { spdkRpc } from './spdk.rpc.ts';
import { keepChanges, State } from './state.ts';
import { Upgrade, type Upgraded, type UpgradeOptions } from './upgrade.ts';
import { VERSION } from './version.ts';

const REACTOR_ENTRY = new URL(`./reactor-main${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url);

/** How long a mirror's regions stay marked after the last write to them, at least. */
const SWEEP_MS = 5_000;

export class Daemon {
  readonly options: DaemonOptions;
  readonly log: DaemonLog;
  readonly reactors: readonly ReactorThread[];
  readonly bdevs: BdevRegistry;
  readonly nvme: NvmeControllers;
  readonly discoveries: Discoveries;
  readonly virtio: VirtioControllers;
  readonly rbd: RbdDisks;
  readonly keys = new CryptoKeys();
  readonly jobs = new Jobs();
  readonly raidOptions = { mibPerSec: 0 };
  readonly lvols: Lvols;
  readonly #blocks: ReactorBlocks;
  readonly vhost: VhostRegistry;
  /** Null without `--state-dir`. */
  readonly state: State | null;
  /** Makes the calls of configurations: what they change is kept by whoever asked for them. */
  readonly #dispatcher: Dispatcher;
  readonly #server: RpcServer;
  readonly #changes = new ChangeGate();
  #upgrade: Upgrade | null = null;
  #handovers: BdevHandover[] = [];
  readonly #replaced = Promise.withResolvers<number>();
  #dashboard: Dashboard | null = null;
  readonly #configured = Promise.withResolvers<void>();
  #stopped: Promise<void> | null = null;

  private constructor(options: DaemonOptions, log: DaemonLog, reactors: readonly ReactorThread[], state: State | null) {
    this.options = options;
    this.log = log;
    this.reactors = reactors;
    this.bdevs = new BdevRegistry(reactors.length);
    const bdevLog = log.room('bdev');
    this.nvme = new NvmeControllers(this.bdevs, bdevLog);
    this.discoveries = new Discoveries(this.nvme, tcpTransport(bdevLog), bdevLog);
    this.virtio = new VirtioControllers(this.bdevs, bdevLog);
    const { socketDirectory, stateDirectory, rpcSocket } = options;
    // A directory of sockets is gone after a power cut, or as soon as systemd sees the service end.
    const clients = stateDirectory === undefined ? `${rpcSocket}.rbd` : join(stateDirectory, 'ceph-clients');
    this.rbd = new RbdDisks(this.bdevs, clients, bdevLog);
    this.#blocks = new ReactorBlocks(reactors[0] as ReactorThread);
    this.lvols = new Lvols(this.bdevs, this.#blocks, this.jobs, bdevLog);
    const { access, mode, tracedProtocols = [] } = options;
    const vhost = { socketDirectory, access, reactors, bdevs: this.bdevs, mode, tracedProtocols };
    this.vhost = new VhostRegistry({ ...vhost, log: log.room('vhost') });
    this.state = state;
    if (state !== null) {
      state.current = () => currentConfig(this, true);
      this.bdevs.on('gone', (entries, calls) => state.keepGone(entries, calls));
      this.bdevs.on('deleted', (entry) => state.bdevDeleted(entry));
      this.bdevs.keepChange = () => state.keep();
      this.discoveries.onChange = () => void state.keep().catch((error: Error) => log.error(error.message));
    }
    const handlers = this.#makeHandlers();
    this.#dispatcher = new Dispatcher({ handlers, log: log.room('rpc'), version: VERSION });
    this.#server = new RpcServer({
      handlers: this.#changes.guard(state === null ? handlers : keepChanges(handlers, state)),
      ...{ log: log.room('rpc'), version: VERSION, access, peerOf: peerCredentials },
    });
    for (const reactor of reactors) {
      reactor.onBdevGone = (id) => this.#bdevGone(id);
      reactor.onTold = (id, what) =>
        this.bdevs
          .list()
          .find((entry) => entry.id === id)
          ?.bdev.hear?.(what);
    }
  }

  #makeHandlers(): DaemonHandlers {
    const { options, reactors } = this;
    const log = this.log.room('bdev');
    const budget = new MemoryBudget(options.memoryBytes);
    return {
      ...bdevRpc(this.bdevs),
      ...latencyRpc(this.bdevs),
      ...mallocRpc(this.bdevs, budget),
      ...powerCutRpc(this.bdevs, budget, reactors.length),
      ...nullRpc(this.bdevs),
      ...nbdRpc(this.bdevs),
      ...virtioRpc(this.virtio),
      ...fileRpc(this.bdevs, options.cores),
      ...nvmeRpc(
        this.nvme,
        [new PcieTransport({ reactors: reactors.length, mode: options.mode, log }), this.discoveries.transport],
        this.discoveries,
      ),
      ...discoveryRpc(this.discoveries),
      ...rbdRpc(this.rbd, this.bdevs),
      ...passthruRpc(this.bdevs),
      ...cryptoRpc(this.bdevs, this.keys),
      ...delayRpc(this.bdevs),
      ...errorRpc(this.bdevs),
      ...splitRpc(this.bdevs),
      ...raidRpc({
        registry: this.bdevs,
        blocks: this.#blocks,
        jobs: this.jobs,
        log,
        options: this.raidOptions,
        sweepMs: SWEEP_MS,
      }),
      ...lvolRpc(this.lvols, this.bdevs),
      ...gptRpc(this.bdevs, this.#blocks, log),
      ...jobsRpc(this.jobs, this.bdevs, this.#blocks),
      ...moduleRpc(this.bdevs, reactors.length, log),
      ...vhostRpc(this.vhost, this.bdevs),
      ...traceRpc(new RequestTracer(reactors), this.vhost),
      ...frameworkRpc(this),
      ...spdkRpc({ bdevs: this.bdevs, vhost: this.vhost, lvols: this.lvols, log: this.log.room('rpc') }),
      ...configRpc({
        sources: this,
        state: this.state,
        load: (config) => this.#load(config),
        call: (call) => this.#call(call),
        restore: async () => this.state?.restore((call) => this.#call(call)),
      }),
    };
  }

  /**
   * Resolves when everything of the configuration is served. Nothing is left behind when it fails. With a predecessor
   * it takes over what that one serves instead; when it fails the process must end, and nothing has happened.
   */
  static async start(
    options: DaemonOptions,
    log: DaemonLog,
    onReactorDeath: (error: Error) => void,
    predecessor: Predecessor | null = null,
  ): Promise<Daemon> {
    if (predecessor !== null) return await Daemon.#startAfter(predecessor, options, log, onReactorDeath);
    if (!existsSync(options.socketDirectory) || !statSync(options.socketDirectory).isDirectory()) {
      throw new TargetError('ENOENT', `-S ${options.socketDirectory} is not a directory: create it first`);
    }
    if (!mayMakeFilesIn(options.socketDirectory)) {
      const text = `-S ${options.socketDirectory}: this user may not make sockets there: choose another directory`;
      throw new TargetError('EACCES', text);
    }
    const { stateDirectory, account } = options;
    const state = stateDirectory === undefined ? null : State.open(stateDirectory, account, log);
    try {
      const directories = [
        options.socketDirectory,
        dirname(options.rpcSocket),
        ...(state === null ? [] : [state.directory.path]),
      ];
      if (account !== null) checkAccount(account, directories);
      return await Daemon.#start(options, log, onReactorDeath, state);
    } catch (error) {
      await state?.close();
      throw error;
    }
  }

  static async #start(
    options: DaemonOptions,
    log: DaemonLog,
    onReactorDeath: (error: Error) => void,
    state: State | null,
  ): Promise<Daemon> {
    log.info(`Starting Ringhost v${VERSION}`);
    log.info(`Total cores available: ${allowedCores().length}`);
    const reactors = await startReactors(options, log, onReactorDeath);
    const daemon = new Daemon(options, log, reactors, state);
    try {
      // The RPC socket first: a second daemon with the same one must not touch the controllers' sockets.
      await daemon.#server.listen(options.rpcSocket);
      if (options.rpcHttps !== null) await daemon.#server.listenHttps(options.rpcHttps);
      await daemon.#configure();
      await daemon.#openDashboard();
      daemon.#giveUpPrivileges();
    } catch (error) {
      await daemon.stop();
      throw error;
    }
    await announceReady(log);
    return daemon;
  }

  static async #startAfter(
    predecessor: Predecessor,
    options: DaemonOptions,
    log: DaemonLog,
    onReactorDeath: (error: Error) => void,
  ): Promise<Daemon> {
    const { offer, fds } = predecessor;
    predecessor.checkOptions(options);
    log.setLevels(offer.logLevels);
    log.info(`Starting Ringhost v${VERSION} to take over from v${offer.from}`);
    const { stateDirectory, account } = options;
    const lock = fds.take(offer.stateLockFd);
    const state = stateDirectory === undefined ? null : State.inherit(stateDirectory, account, log, lock);
    const reactors = await startReactors(options, log, onReactorDeath);
    const daemon = new Daemon(options, log, reactors, state);
    for (const { name, fds: places, about } of offer.bdevs) {
      daemon.bdevs.inherit(name, { fds: places.map((place) => fds.take(place)), about });
    }
    daemon.rbd.inherit(fds.take(offer.ceph.fd), offer.ceph.addresses);
    for (const { name, fd } of offer.listeners) daemon.vhost.inherit(name, fds.take(fd));
    await applyConfig(offer.config, (call) => daemon.#call(call), log);
    await daemon.vhost.prepare();
    const sessions = await predecessor.sessions();
    daemon.lvols.load(sessions.state.stores);
    await daemon.vhost.load(sessions.state.controllers, sessions.fds);
    await predecessor.takeOver();
    await daemon.bdevs.thaw();
    daemon.lvols.thaw();
    await daemon.vhost.thaw();
    log.info(`serving in place of v${offer.from}`);
    const sinceNs = clockNs();
    await announceReady(log);
    await predecessor.serving(sinceNs);
    await daemon.#inheritSockets(offer, fds);
    daemon.#giveUpPrivileges();
    void daemon.#takeStateOver();
    return daemon;
  }

  async #takeStateOver(): Promise<void> {
    try {
      await this.state?.takeOver((call) => this.#call(call));
    } catch (error) {
      this.log.error(`state: ${(error as Error).message}`);
    }
    this.#configured.resolve();
  }

  /** Guests are served whatever comes of it. */
  async #inheritSockets({ rpcFd, httpsFd, httpFd }: Offer, fds: FdList): Promise<void> {
    const { rpcSocket, rpcHttps } = this.options;
    try {
      await this.#server.listen(rpcSocket, fds.take(rpcFd));
      if (rpcHttps !== null) await this.#server.listenHttps({ ...rpcHttps, inheritedFd: fds.find(httpsFd) });
      await this.#openDashboard(fds.find(httpFd));
    } catch (error) {
      this.log.error(`a socket of the daemon before could not be taken over: ${(error as Error).message}`);
    }
  }

  /**
   * Certificate, key and tokens of RPC over TCP and of the dashboard, as the files of the options have them now. When
   * one cannot be used, the log says why, and those that there are stay.
   */
  renewSecrets(read: () => Pick<DaemonOptions, 'http' | 'rpcHttps'>): void {
    try {
      const { http, rpcHttps } = read();
      if (rpcHttps !== null) this.#server.renewHttps(rpcHttps);
      if (this.#dashboard !== null && http !== null) this.#dashboard.token = http.token;
      const isNone = rpcHttps === null && (http?.token ?? null) === null;
      this.log.info(`SIGHUP: certificates and tokens: ${isNone ? 'there is nothing to read again' : 'read again'}`);
    } catch (error) {
      this.log.error(`SIGHUP: certificates and tokens stay as they are: ${(error as Error).message}`);
    }
  }

  /** Where the dashboard is; null: there is none. */
  get dashboardUrl(): string | null {
    return this.#dashboard?.url ?? null;
  }

  /** Where RPC is served over TCP; null: nowhere. */
  get rpcUrl(): string | null {
    return this.#server.httpsUrl;
  }

  /** Resolves when everything that is configured or kept was made. */
  get ready(): Promise<void> {
    return this.#configured.promise;
  }

  /** Resolves with an exit code when another daemon serves in place of this one, which has nothing to do any more. */
  get replaced(): Promise<number> {
    return this.#replaced.promise;
  }

  /**
   * Starts another daemon that takes over everything that this one serves. Throws when it does not, and this one serves
   * on.
   */
  async upgrade(options: UpgradeOptions): Promise<Upgraded> {
    await this.#configured.promise;
    await this.#changes.close();
    const source = {
      offer: (fds: FdList) => this.#offer(fds),
      catchUp: async () => {
        for (const { handover } of this.#handovers) await handover.catchUp?.();
        await this.vhost.flushEarly();
      },
      freeze: async (withinMs: number) => {
        const deadlineMs = performance.now() + withinMs;
        await this.vhost.freeze(withinMs);
        await this.bdevs.freeze();
        await this.lvols.freeze(deadlineMs - performance.now());
        // Jobs may have begun by themselves.
        this.#checkHandOver();
        await this.vhost.letGo(deadlineMs - performance.now());
      },
      save: async (fds: FdList) => ({ controllers: await this.vhost.save(fds), stores: await this.lvols.save() }),
      settle: (withinMs: number) => settleAll(this.#handovers, withinMs),
      thaw: async () => {
        await this.bdevs.thaw();
        this.lvols.thaw();
        await this.vhost.thaw();
      },
    };
    try {
      this.#checkHandOver();
      this.#handovers = await this.bdevs.handOver((entry) => this.#tell(entry));
      this.#handovers.push(...(await this.lvols.handOver()));
      if (this.#stopped !== null) throw new TargetError('ECANCELED', 'this daemon is being stopped');
      this.#upgrade = new Upgrade(source, options, this.log);
      const upgraded = await this.#upgrade.run();
      this.#server.leave();
      await this.#dashboard?.close();
      this.#upgrade.finish();
      setImmediate(() => void this.#leave(0));
      return upgraded;
    } catch (error) {
      this.log.error(`upgrade: ${(error as Error).message}`);
      this.#upgrade?.finish();
      if (this.#upgrade?.isTaken === true) setImmediate(() => void this.#leave(REACTOR_DEATH_EXIT_CODE));
      else {
        for (const { handover } of this.#handovers.splice(0)) handover.keep?.();
        await this.rbd.buryHeir();
        this.#changes.open();
      }
      throw error;
    } finally {
      this.#upgrade = null;
    }
  }

  /** What is served is another's: the answers of clients that are connected are all that is left to do. */
  async #leave(exitCode: number): Promise<void> {
    for (const { name, handover } of this.#handovers) {
      await handover.leave?.().catch((error: Error) => this.log.error(`bdev ${name}: ${error.message}`));
    }
    await this.state?.close();
    await this.#server.close();
    this.#replaced.resolve(exitCode);
  }

  /** Throws when something cannot be handed over. Disks say so themselves. */
  #checkHandOver(): void {
    this.vhost.checkHandOver();
    this.nvme.checkHandOver();
    this.virtio.checkHandOver();
    const [job] = this.jobs.running;
    if (job === undefined) return;
    const { type, bdev } = job.spec;
    throw new TargetError('EBUSY', `job ${job.id} (${type} of ${bdev}) is running: wait for its end, or cancel it`);
  }

  #offer(fds: FdList): Omit<Offer, 'type' | 'version'> {
    const { options, state, log } = this;
    const ceph = this.rbd.handOver();
    return {
      from: VERSION,
      socketDirectory: options.socketDirectory,
      rpcSocket: options.rpcSocket,
      rpcFd: fds.put(this.#server.listeningFds.unix),
      httpsFd: fds.put(this.#server.listeningFds.https),
      httpFd: fds.put(this.#dashboard?.listeningFd ?? -1),
      stateLockFd: fds.put(state?.directory.lockFd ?? -1),
      logLevels: log.levels,
      config: currentConfig(this, false),
      bdevs: this.#handovers.map(({ name, handover }) => ({
        name,
        fds: handover.fds.map((fd) => fds.put(fd)),
        about: handover.about,
      })),
      ceph: { fd: fds.put(ceph.fd), addresses: ceph.addresses },
      listeners: this.vhost.listeningFds().map(({ name, fd }) => ({ name, fd: fds.put(fd) })),
    };
  }

  /** Resolves when every reactor has the description of a bdev as it is now. */
  async #tell(entry: BdevEntry): Promise<void> {
    await Promise.all(this.reactors.map((reactor) => reactor.call(VringService.bdevChanged, entry.describe())));
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#upgrade?.abort();
    await this.#server.close();
    await this.#dashboard?.close();
    await this.state?.close();
    await this.jobs.close();
    await this.vhost.close();
    await this.discoveries.close();
    await this.nvme.close();
    await this.virtio.close();
    // Stacked ones before what they stand on.
    for (const entry of this.bdevs.list().toReversed()) if (!entry.isRemoving) await this.bdevs.delete(entry);
    await this.rbd.close();
    await Promise.all(this.reactors.map((reactor) => reactor.stop()));
  }

  async #openDashboard(inheritedFd?: number): Promise<void> {
    const { http } = this.options;
    if (http === null) return;
    const source = { call: this.#ask, eventsSince: (id: number) => this.log.events.since(id) };
    this.#dashboard = await Dashboard.listen({ ...http, source, inheritedFd, log: this.log.room('http') });
  }

  /** Calls itself as a client would. */
  readonly #ask: Call = async (method, params) => {
    const response = await this.#request(method, params);
    if ('error' in response) throw new RpcCallError({ ...response.error });
    return response.result as never;
  };

  /** As if an operator had deleted it. */
  #bdevGone(id: number): void {
    const entry = this.bdevs.list().find((candidate) => candidate.id === id);
    if (entry === undefined || entry.isRemoving) return;
    this.log.error(`bdev ${entry.name}: its device is gone, so the bdev goes too`);
    this.bdevs.announceGone([entry], [entry.bdev.toConfig()].flat());
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
    const { state, log } = this;
    const { configFile, useDefaultConfig, ignoreConfigErrors: ignoreErrors } = this.options;
    const { ownConfig = useDefaultConfig ? DEFAULT_CONFIG : null } = this.options;
    if (state !== null && !state.isNew) {
      if (configFile !== undefined) log.info(`-c ${configFile} is not applied: ${state.directory.path} has a state`);
    } else {
      const config = configFile === undefined ? ownConfig : readConfigFile(configFile);
      if (config !== null) await applyConfig(config, (call) => this.#call(call), log, { ignoreErrors });
    }
    await state?.restore((call) => this.#call(call));
    this.#configured.resolve();
  }

  /** For RPC: nothing is called when a method is not known. */
  async #load(config: ConfigFile): Promise<void> {
    for (const { subsystem, config: calls } of config.subsystems) {
      const unknown = calls?.find((call) => findMethod(call.method) === undefined && !isOfSpdkOnly(subsystem));
      if (unknown !== undefined) {
        throw new TargetError('EINVAL', `${subsystem}: there is no method ${unknown.method}: nothing was called`);
      }
    }
    await applyConfig(config, (call) => this.#call(call), this.log);
  }

  async #call({ method, params = {} }: ConfigCall): Promise<CallFailure | null> {
    const response = await this.#request(method, params);
    return 'error' in response ? response.error : null;
  }

  async #request(method: string, params: object): Promise<Response> {
    const { signal } = new AbortController();
    const caller = { connection: NO_CONNECTION, signal, beginWait: () => () => undefined };
    const { answer } = this.#dispatcher.start({ jsonrpc: '2.0', id: 1, method, params }, caller);
    // One request with an id has one answer.
    return (await answer) as Response;
  }
}

/** None is left when one does not start. */
async function startReactors(
  { cores, mode }: DaemonOptions,
  log: DaemonLog,
  onDeath: (error: Error) => void,
): Promise<ReactorThread[]> {
  const starting = cores.map((core, index) =>
    ReactorThread.start(REACTOR_ENTRY, core, index, mode, log.room('reactor'), onDeath),
  );
  const outcomes = await Promise.allSettled(starting);
  const reactors = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
  const failure = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failure !== undefined) {
    await Promise.all(reactors.map((reactor) => reactor.stop()));
    throw failure.reason;
  }
  for (const { core } of reactors) log.info(`Reactor started on core ${core}, socket ${socketOf(core)}`);
  return reactors;
}

function mayMakeFilesIn(directory: string): boolean {
  try {
    accessSync(directory, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
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
