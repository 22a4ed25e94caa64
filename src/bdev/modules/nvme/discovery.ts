/**
 * Discovery services over TCP: subsystems that a target's discovery log names are attached, and detached when it does
 * not name them any more. The log is read again when the target says that it changed, when an attachment was lost, and
 * once a minute. Referrals to other discovery services are shown, and not followed: their logs are theirs.
 */
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { TransportId } from '../../../nvme/controller.ts';
import {
  type DiscoveryEntry,
  type DiscoveryLog,
  DiscoverySubtype,
  DiscoveryTransport,
} from '../../../nvme/discovery-log.ts';
import type { TcpAddress } from '../../../nvme/tcp/admin-queue.ts';
import { DiscoveryConnection } from '../../../nvme/tcp/discovery-connection.ts';
import type { TcpControllerOptions } from '../../../nvme/tcp/tcp-controller.ts';
import type { BdevConfig } from '../../bdev.ts';
import type { AttachedController, NvmeControllers } from './controllers.ts';
import type { AttachParams, NvmeTransport } from './transport.rpc.ts';

/** What a service is started with. */
export interface DiscoverySettings {
  readonly name: string;
  /** Of the discovery subsystem. */
  readonly id: TransportId;
  readonly address: TcpAddress;
  readonly options: TcpControllerOptions;
  /** What its controllers are attached with. */
  readonly attachment: Omit<AttachParams, 'name' | 'trtype' | 'traddr' | 'adrfam' | 'trsvcid' | 'subnqn'>;
  /** NQNs by names of controllers, of an earlier time. */
  readonly names: Readonly<Record<string, string>>;
  /** The call that starts it again, but for the names. */
  readonly config: BdevConfig;
}

/** A way to a subsystem that the log names. */
interface Found {
  readonly id: TransportId;
  /** An operator detached it: it is left alone for as long as it is listed. */
  isRefused: boolean;
}

/** Names of subsystems that are gone are kept too, up to so many in all. */
const NAMES_MAX = 1024;
/** Between two looks at a log of which nothing was heard. */
const LOOK_MS = 60_000;
/**
 * After a reconnection the target may have restarted, and not set up all of its subsystems yet: for so long nothing is
 * detached.
 */
const SETTLE_MS = 30_000;
/** The first pause after a failure; it doubles up to the reconnect delay. */
const PAUSE_MS_MIN = 100;

export interface DiscoveryTimes {
  readonly lookMs: number;
  readonly settleMs: number;
}

/** All discovery services. */
export class Discoveries {
  /** Controllers were named or renamed: what the configuration says has changed. */
  onChange: () => void = () => undefined;
  readonly controllers: NvmeControllers;
  readonly transport: NvmeTransport;
  readonly times: DiscoveryTimes;
  readonly log: Logger;
  readonly #services = new Map<string, DiscoveryService>();

  constructor(
    controllers: NvmeControllers,
    transport: NvmeTransport,
    log: Logger,
    times: Partial<DiscoveryTimes> = {},
  ) {
    this.controllers = controllers;
    this.transport = transport;
    this.log = log;
    this.times = { lookMs: LOOK_MS, settleMs: SETTLE_MS, ...times };
    controllers.onGone = () => this.#lookAgain();
  }

  list(): DiscoveryService[] {
    return [...this.#services.values()];
  }

  /**
   * `waitMs`: how long to wait until everything that the log names was tried; 0: not at all. Throws `EEXIST` for a name
   * or an address that is taken, `ETIMEDOUT`: then nothing is left of the service.
   */
  async start(settings: DiscoverySettings, waitMs: number): Promise<void> {
    const { name, id } = settings;
    if (this.#services.has(name)) {
      throw new TargetError('EEXIST', `a discovery service "${name}" exists already: choose another name`);
    }
    const same = this.list().find((other) => isSame(other.settings.id, id));
    if (same !== undefined) {
      throw new TargetError('EEXIST', `${id.traddr} port ${id.trsvcid} is asked already, by "${same.settings.name}"`);
    }
    const service = new DiscoveryService(this, settings);
    this.#services.set(name, service);
    service.start();
    if (waitMs === 0) return;
    let timer: NodeJS.Timeout | undefined;
    const isLate = new Promise<boolean>((resolve) => {
      timer = setTimeout(resolve, waitMs, true);
    });
    const late = await Promise.race([service.firstLook.then(() => false), isLate]);
    clearTimeout(timer);
    if (!late || this.#services.get(name) !== service) return;
    await this.stop(name);
    const { problem } = service;
    throw new TargetError('ETIMEDOUT', `not all was attached within ${waitMs / 1000} s${problem && `: ${problem}`}`);
  }

  /** Detaches what the service attached. Throws `ENODEV` when there is none. */
  async stop(name: string): Promise<void> {
    const service = this.#services.get(name);
    if (service === undefined) {
      throw new TargetError(
        'ENODEV',
        `there is no discovery service "${name}": bdev_nvme_get_discovery_info lists them`,
      );
    }
    this.#services.delete(name);
    await service.stop();
    await service.detachAll();
  }

  /** When the daemon stops: the controllers go with all others. */
  async close(): Promise<void> {
    const services = this.list();
    this.#services.clear();
    await Promise.all(services.map((service) => service.stop()));
  }

  /** An operator takes a controller away, or one way to it: no service brings it back. */
  refuse(attached: AttachedController, isTaken: (id: TransportId) => boolean): void {
    const { subnqn } = attached.controller.transportId;
    for (const { found } of this.list()) {
      for (const one of found.values()) {
        if (one.id.subnqn === subnqn && isTaken(one.id)) one.isRefused = true;
      }
    }
  }

  /** Some service has found it. */
  isFound(key: string): boolean {
    return this.list().some(({ found }) => found.has(key));
  }

  #lookAgain(): void {
    for (const service of this.list()) service.look();
  }
}

export class DiscoveryService {
  readonly settings: DiscoverySettings;
  readonly found = new Map<string, Found>();
  /** Resolves when everything that the first log named was tried. */
  readonly firstLook: Promise<void>;
  referrals: readonly TransportId[] = [];
  /** Why it is not connected, or did not attach something. */
  problem = '';
  readonly #all: Discoveries;
  readonly #names: Map<string, string>;
  /** The number of the next name. */
  #next: number;
  #connection: DiscoveryConnection | null = null;
  /** Why the connection is not there any more. */
  #lost: string | null = null;
  #settledMs = 0;
  #isStopped = false;
  #isDue = false;
  #wake: () => void = () => undefined;
  #looked: () => void = () => undefined;
  #matching: Promise<boolean> = Promise.resolve(true);
  /** What was said since it was connected. */
  readonly #said = new Set<string>();

  constructor(all: Discoveries, settings: DiscoverySettings) {
    this.#all = all;
    this.settings = settings;
    this.#names = new Map(Object.entries(settings.names));
    const numbers = [...this.#names.keys()].map((name) => Number(name.slice(settings.name.length)));
    this.#next = Math.max(-1, ...numbers.filter((number) => Number.isInteger(number))) + 1;
    this.firstLook = new Promise((resolve) => {
      this.#looked = resolve;
    });
  }

  start(): void {
    void this.#keepUp();
  }

  /** Ends it; what it attached stays. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#connection?.close();
    this.look();
    // A connection that is being made ends by itself; what is being attached has to be known.
    await this.#matching;
  }

  async detachAll(): Promise<void> {
    for (const [key, one] of [...this.found]) await this.#leave(key, one);
  }

  /** Reads the log again, soon. */
  look(): void {
    this.#isDue = true;
    this.#wake();
  }

  /** The call that starts it again; disks keep their names whatever the order of the log then. */
  toConfig(): BdevConfig {
    const { method, params } = this.settings.config;
    const isPlain = this.#names.size === 0 || (this.#names.size === 1 && this.#names.has(`${this.settings.name}0`));
    return { method, params: { ...params, ...(isPlain ? {} : { controller_names: Object.fromEntries(this.#names) }) } };
  }

  async #keepUp(): Promise<void> {
    const { address, options } = this.settings;
    const where = `the discovery service at ${address.address} port ${address.port}`;
    let wasUp = false;
    for (let pauseMs = PAUSE_MS_MIN; !this.#isStopped; pauseMs *= 2) {
      try {
        const connection = await DiscoveryConnection.open(address, options.host, () => this.look());
        this.#connection = connection;
        this.#settledMs = wasUp ? Date.now() + this.#all.times.settleMs : 0;
        this.#all.log.info(`connected to ${where}`);
        this.#said.clear();
        pauseMs = PAUSE_MS_MIN / 2;
        wasUp = true;
        await this.#follow(connection);
        connection.close();
      } catch (error) {
        this.#say(`${where}: ${(error as Error).message}`);
      }
      this.#connection = null;
      if (!this.#isStopped) await this.#pause(Math.min(pauseMs, options.reconnect.delaySec * 1000));
    }
  }

  /** Until the connection is lost. Throws why. */
  async #follow(connection: DiscoveryConnection): Promise<void> {
    this.#lost = null;
    void connection.lost.then((reason) => {
      this.#lost = reason;
      this.#wake();
    });
    let retryMs = PAUSE_MS_MIN;
    while (this.#lost === null && !this.#isStopped) {
      this.#isDue = false;
      const log = await connection.readLog();
      if (this.#isStopped) return;
      this.#matching = this.#match(log);
      const isWell = await this.#matching;
      this.#looked();
      retryMs = isWell ? PAUSE_MS_MIN : Math.min(retryMs * 2, this.settings.options.reconnect.delaySec * 1000);
      if (this.#lost === null && !this.#isDue) await this.#pause(isWell ? this.#untilNextLook() : retryMs);
    }
    if (!this.#isStopped) throw new Error(this.#lost ?? 'lost');
  }

  #untilNextLook(): number {
    const { lookMs } = this.#all.times;
    const unsettledMs = this.#settledMs - Date.now();
    return unsettledMs > 0 ? Math.min(unsettledMs, lookMs) : lookMs;
  }

  #pause(pauseMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, pauseMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Attaches and detaches until what is attached is what the log names. False when something could not be. */
  async #match({ entries, unread }: DiscoveryLog): Promise<boolean> {
    if (unread > 0) this.#say(`the log has ${unread} entries more than are read here`);
    const listed = new Map<string, Found>();
    for (const entry of entries) {
      if (entry.subtype !== DiscoverySubtype.subsystem) continue;
      const reason = whyNotUsed(entry);
      if (reason === null) listed.set(keyOf(idOf(entry)), newFound(idOf(entry)));
      else this.#say(`${entry.subnqn} at ${entry.traddr} is not attached: ${reason}`);
    }
    this.referrals = entries.filter(({ subtype }) => subtype === DiscoverySubtype.referral).map(idOf);
    // A target that has just come back may not be complete.
    if (Date.now() >= this.#settledMs) {
      for (const [key, one] of [...this.found]) if (!listed.has(key)) await this.#leave(key, one);
    }
    for (const [key, one] of listed) if (!this.found.has(key)) this.found.set(key, one);
    // Ways to one subsystem one after another, subsystems side by side.
    const bySubsystem = Map.groupBy([...this.found.values()], ({ id }) => id.subnqn);
    for (const subnqn of bySubsystem.keys()) this.#nameOf(subnqn ?? '');
    const outcomes = await Promise.all([...bySubsystem.values()].map((ways) => this.#attachAll(ways)));
    return !outcomes.includes(false);
  }

  async #attachAll(ways: readonly Found[]): Promise<boolean> {
    let isWell = true;
    for (const one of ways) {
      if (one.isRefused || this.#isStopped) continue;
      try {
        await this.#attach(one);
      } catch (error) {
        isWell = false;
        this.#say(`${one.id.subnqn} at ${one.id.traddr} is not attached: ${(error as Error).message}`);
      }
    }
    return isWell;
  }

  async #attach(one: Found): Promise<void> {
    const { controllers, transport } = this.#all;
    const { id } = one;
    const attached = attachedTo(controllers, id);
    if (attached === undefined) {
      const name = this.#nameOf(id.subnqn ?? '');
      const { trtype, traddr, adrfam, trsvcid, subnqn } = id;
      const params = { ...this.settings.attachment, name, trtype, traddr, adrfam, trsvcid, subnqn };
      await controllers.attach(name, id, null, (events) => transport.connect(id, params, events));
    } else if (!hasWay(attached, id)) {
      await controllers.addPath(attached, id, null, async () => await transport.addPath?.(attached.controller, id));
    } else return;
    this.#all.log.info(`${id.subnqn} at ${id.traddr} port ${id.trsvcid} was found, and attached`);
  }

  /** It is not listed any more, or the service ends. */
  async #leave(key: string, one: Found): Promise<void> {
    this.found.delete(key);
    const { controllers, log } = this.#all;
    const attached = attachedTo(controllers, one.id);
    // What another service has found, or an operator attached, is theirs.
    if (attached === undefined || !hasWay(attached, one.id) || this.#all.isFound(key)) return;
    if (attached.isConfigured(one.id.traddr, one.id.trsvcid)) return;
    log.info(`${one.id.subnqn} at ${one.id.traddr} port ${one.id.trsvcid} is not listed any more, and is detached`);
    try {
      if ((attached.controller.pathIds?.length ?? 1) > 1) {
        await controllers.removePath(attached, one.id.traddr, one.id.trsvcid);
      } else await controllers.detach(attached);
    } catch (error) {
      log.error(`${attached.name}: ${(error as Error).message}`);
    }
  }

  /** The name of a subsystem's controller: the same for good, so that a disk is never another one. */
  #nameOf(subnqn: string): string {
    for (const [name, nqn] of this.#names) if (nqn === subnqn) return name;
    let name = `${this.settings.name}${this.#next++}`;
    while (this.#all.controllers.find(name) !== undefined) name = `${this.settings.name}${this.#next++}`;
    this.#names.set(name, subnqn);
    for (const [old, nqn] of this.#names) {
      if (this.#names.size <= NAMES_MAX) break;
      if (![...this.found.values()].some(({ id }) => id.subnqn === nqn)) this.#names.delete(old);
    }
    this.#all.onChange();
    return name;
  }

  #say(problem: string): void {
    this.problem = problem;
    if (this.#isStopped || this.#said.has(problem) || this.#said.size >= NAMES_MAX) return;
    this.#said.add(problem);
    this.#all.log.warn(problem);
  }
}

const newFound = (id: TransportId): Found => ({ id, isRefused: false });
const keyOf = ({ traddr, trsvcid, subnqn }: TransportId): string => `${traddr} ${trsvcid} ${subnqn}`;

function idOf({ traddr, trsvcid, subnqn, adrfam }: DiscoveryEntry): TransportId {
  return { trtype: 'TCP', traddr, adrfam, trsvcid, subnqn };
}

function whyNotUsed({ transport, adrfam, needsTls }: DiscoveryEntry): string | null {
  if (transport !== DiscoveryTransport.tcp) return 'its transport is not TCP';
  if (adrfam === undefined) return 'its address is neither of IPv4 nor of IPv6';
  return needsTls ? 'it is served over TLS only' : null;
}

function attachedTo(controllers: NvmeControllers, { subnqn }: TransportId): AttachedController | undefined {
  const isIt = ({ trtype, subnqn: other }: TransportId): boolean => trtype === 'TCP' && other === subnqn;
  return controllers.list().find(({ isDetaching, controller }) => !isDetaching && isIt(controller.transportId));
}

function hasWay({ controller }: AttachedController, id: TransportId): boolean {
  return (controller.pathIds ?? [controller.transportId]).some((other) => isSame(other, id));
}

function isSame(one: TransportId, other: TransportId): boolean {
  return one.traddr === other.traddr && one.trsvcid === other.trsvcid && one.subnqn === other.subnqn;
}
