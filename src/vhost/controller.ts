/**
 * What every vhost-user controller does on the main thread, whatever its device: a socket, one front-end's session at a
 * time, and the reactor that runs the session's queues. A device's controller gives the session's device
 * (`createSession`) and what retiring means for its bdevs.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { Errno, TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { LimitedLog, type Logger, withFields } from '../base/log.ts';
import { isPeerAllowed, type SocketAccess } from '../base/socket-access.ts';
import { WEIGHT_DEFAULT } from '../bdev/fair-shares.ts';
import type { BdevEntry } from '../bdev/registry.ts';
import { NO_NODE, type QueuePlacement, QueuePlaces } from '../reactor/placement.ts';
import type { ReactorMode } from '../reactor/reactor.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { closeFd, type FdSet } from '../sys/events.ts';
import { peerCredentials } from '../sys/socket.ts';
import { clockNs, nodeOfMemory } from '../sys/thread.ts';
import type { SessionConfig, SessionDevice, StopOptions, VringStart } from '../vhost-user/device.ts';
import { ProtocolTrace } from '../vhost-user/protocol-trace.ts';
import { Session } from '../vhost-user/session.ts';
import type { SessionRecord } from '../vhost-user/session-record.ts';
import { QUEUES_MAX } from '../virtio/features.ts';
import { DEFAULT_COALESCING } from './call-coalescing.ts';
import { ControllerListener, type ListenerHandlers } from './controller-listener.ts';
import { createQueueBlock } from './queue-counters.ts';
import {
  type QueueDevice,
  type QueueSettings,
  type SetCallCall,
  type StartCall,
  type StopCall,
  type TuneCall,
  VringService,
} from './vring-service.ts';

export interface ControllerOptions {
  readonly name: string;
  readonly socketPath: string;
  /** Of the daemon. */
  readonly allReactors: readonly ReactorThread[];
  /** Those that its queues may run on. */
  readonly reactors: readonly ReactorThread[];
  readonly mode: ReactorMode;
  readonly placement: QueuePlacement;
  /** Of those that share limits (bdev/fair-shares.ts). */
  readonly sharerNumber: number;
  readonly fdSet: FdSet;
  /** Who may connect. */
  readonly access: SocketAccess;
  /** Messages of its front-ends go to the log. */
  readonly isProtocolTraced: boolean;
  /** Of an upgrade: the socket that the daemon before listens on; it is this one's once that one lets go. */
  readonly inheritedFd: number | undefined;
  readonly log: Logger;
}

/** A controller as it is handed over. What it is made of is in the configuration. */
export interface ControllerRecord {
  readonly name: string;
  readonly session: SessionRecord | null;
  /** As its kind of controller has it. */
  readonly device: unknown;
}

/** How long a second front-end waits for the end of those before it until it is refused. */
const SECOND_FRONT_END_WAIT_MS = 1000;
/** Lines about what front-ends get wrong, of each kind. */
const FAULT_LINES_MAX = 20;

let nextSessionId = 1;

export abstract class Controller<S extends DeviceSession = DeviceSession> {
  readonly name: string;
  readonly socketPath: string;
  /** CLOCK_MONOTONIC. */
  readonly createdNs = clockNs();
  readonly places: QueuePlaces<ReactorThread>;
  readonly sharerNumber: number;
  protected readonly log: Logger;
  readonly #allReactors: readonly ReactorThread[];
  #settings: QueueSettings;
  readonly #faults: LimitedLog;
  readonly #fdSet: FdSet;
  readonly #access: SocketAccess;
  readonly #isProtocolTraced: boolean;
  readonly #inheritedFd: number | undefined;
  /** Rings, and front-ends that connect, are another daemon's for the time being. */
  #isHeld = false;
  #listener: ControllerListener | null = null;
  #session: S | null = null;
  #sessionEnd: Promise<void> = Promise.resolve();
  /** Set once the controller was retired with a session. */
  #onGone: (() => void) | null = null;

  constructor(options: ControllerOptions) {
    this.name = options.name;
    this.socketPath = options.socketPath;
    this.places = new QueuePlaces(options.reactors, options.placement);
    this.#allReactors = options.allReactors;
    this.sharerNumber = options.sharerNumber;
    this.#settings = { mode: options.mode, coalescing: DEFAULT_COALESCING, weight: WEIGHT_DEFAULT };
    this.log = withFields(options.log, { ctrlr: options.name });
    this.#faults = new LimitedLog(this.log, FAULT_LINES_MAX);
    this.#fdSet = options.fdSet;
    this.#access = options.access;
    this.#isProtocolTraced = options.isProtocolTraced;
    this.#inheritedFd = options.inheritedFd;
  }

  get isHeld(): boolean {
    return this.#isHeld;
  }

  /** The disks that its guest has. */
  abstract get bdevs(): readonly BdevEntry[];

  /** Where its queues will run, if nothing changes. */
  get likelyReactors(): readonly ReactorThread[] {
    return this.places.policy === 'pinned' ? [this.places.home] : this.places.reactors;
  }

  /** The cores its queues may run on. */
  get cores(): number[] {
    return this.places.reactors.map(({ core }) => core);
  }

  /** Of its queues. */
  get settings(): QueueSettings {
    return this.#settings;
  }

  /** For queues that run and those to come. */
  async tune(settings: Partial<QueueSettings>): Promise<void> {
    this.#settings = { ...this.#settings, ...settings };
    if (this.#session === null) return;
    const call: TuneCall = { sessionId: this.#session.id, settings: this.#settings };
    await this.broadcast(VringService.tune, call);
  }

  /** Calls every reactor: whatever of this controller is there hears of it, also while queues move. */
  async broadcast(name: string, payload: unknown): Promise<void> {
    await Promise.all(this.#allReactors.map((reactor) => reactor.call(name, payload)));
  }

  /** Whether front-ends can connect. */
  get isListening(): boolean {
    return this.#listener !== null;
  }

  get session(): S | null {
    return this.#session;
  }

  /** Names of the device's own feature bits. */
  protected abstract readonly featureNames: Readonly<Record<string, number>>;
  /** What a new front-end talks to. */
  protected abstract createSession(): S;
  /** No front-end can use the controller any more: let go of the bdevs. */
  protected abstract releaseBdevs(): Promise<void>;
  /** The controller was deleted, and a guest is still connected: its requests fail from now on. */
  protected abstract detachGuest(session: S): Promise<void>;
  /** What the device knows beside its configuration, as plain data. No ring runs. */
  protected abstract saveDevice(): Promise<unknown>;
  /** A new device becomes what another one was. Its session, if there is one, has no rings yet. */
  protected abstract loadDevice(record: unknown): Promise<void>;

  /** Makes the socket. Throws as `ControllerListener` does. */
  listen(): void {
    const handlers: ListenerHandlers = {
      onConnection: (fd) => {
        this.#connected(fd).catch((error: Error) => {
          this.log.error(`a front-end could not be served: ${error.message}`);
          closeFd(fd);
        });
      },
      onError: (error) => this.#faults.warn('accept', error.message),
    };
    if (this.#listener !== null) return;
    const fd = this.#inheritedFd;
    this.#listener = new ControllerListener(this.socketPath, this.#fdSet, handlers, this.#access, fd);
    this.#isHeld = fd !== undefined;
  }

  /** The socket for whoever serves it next; -1: there is none. */
  get listeningFd(): number {
    return this.#listener?.fd ?? -1;
  }

  /**
   * Nobody is accepted, no message handled and no ring runs until `thaw`. Throws `ETIMEDOUT` when requests are not done
   * in time.
   */
  async freeze(withinMs: number): Promise<void> {
    this.#isHeld = true;
    this.#listener?.pause();
    await this.#session?.session.freeze(withinMs);
  }

  /** After `freeze`, or after the daemon before has let go. */
  async thaw(): Promise<void> {
    this.#isHeld = false;
    await this.#session?.session.thaw();
    this.#listener?.resume();
  }

  /** While it is frozen. */
  async save(fds: FdList): Promise<ControllerRecord> {
    const { name } = this;
    return { name, session: this.#session?.session.save(fds) ?? null, device: await this.saveDevice() };
  }

  /** Takes over what another one saved. Its rings are not touched before `thaw`. */
  async load({ session, device }: ControllerRecord, fds: FdList): Promise<void> {
    this.#isHeld = true;
    if (session !== null) this.#openSession(fds.take(session.connection.fd), session.peerPid);
    await this.loadDevice(device);
    if (session !== null) await this.#session?.session.load(session, fds);
  }

  /** Ends the session and removes the socket. */
  async close(): Promise<void> {
    this.#stopListening();
    await this.#session?.session.close();
    await this.releaseBdevs();
  }

  /**
   * Removes the socket. A connected guest keeps its session, in which every request fails, until it disconnects:
   * closing the connection would leave its driver waiting for ever. Resolves with a promise of the session's end.
   */
  async retire(): Promise<{ readonly gone: Promise<void> }> {
    this.#stopListening();
    this.places.close();
    const session = this.#session;
    if (session === null) {
      await this.releaseBdevs();
      return { gone: Promise.resolve() };
    }
    const gone = new Promise<void>((resolve) => (this.#onGone = resolve));
    await this.detachGuest(session);
    return { gone: gone.then(() => this.releaseBdevs()) };
  }

  /** A front-end cut off memory that it shares: its session cannot go on. */
  checkMemory(): void {
    if (this.#session?.session.wasMemoryTruncated !== true) return;
    void this.#session.session.close(
      new TargetError(
        'VHOST_MEM_TRUNCATED',
        'the front-end cut off memory that it shares, or no huge pages are left for it (/proc/meminfo shows them)',
        { errno: Errno.EFAULT },
      ),
    );
  }

  #stopListening(): void {
    this.#listener?.close();
    this.#listener = null;
  }

  async #connected(fd: number): Promise<void> {
    const peer = peerCredentials(fd);
    const { pid, uid, gid } = peer;
    if (!isPeerAllowed(this.#access, peer)) {
      this.#faults.warn('peer', 'refused a front-end of a user for whom the socket is not', { pid, uid, gid });
      closeFd(fd);
      return;
    }
    // A front-end that reconnects may be accepted before the end of its old connection was seen; one that reconnects
    // quickly, before the ends of several.
    const deadline = performance.now() + SECOND_FRONT_END_WAIT_MS;
    for (let rest = SECOND_FRONT_END_WAIT_MS; this.#session !== null && rest > 0; rest = deadline - performance.now()) {
      await Promise.race([this.#sessionEnd, delay(rest, undefined, { ref: false })]);
    }
    if (this.#session !== null || !this.isListening || this.#isHeld) {
      // Two guests that write to one disk without knowing of each other destroy it.
      this.#faults.warn('second-front-end', 'refused a second front-end: one is connected already', { pid });
      closeFd(fd);
      return;
    }
    this.log.info('front-end connected', { pid, uid, gid });
    this.#openSession(fd, pid);
  }

  #openSession(fd: number, peerPid: number): void {
    const device = this.createSession();
    const { promise, resolve } = Promise.withResolvers<void>();
    device.session = new Session(fd, this.#fdSet, {
      device,
      log: this.log,
      faults: this.#faults,
      peerPid,
      trace: this.#isProtocolTraced ? new ProtocolTrace((message) => this.log.info(message), this.featureNames) : null,
      onEnd: () => {
        this.#session = null;
        this.#onGone?.();
        this.log.info('front-end disconnected');
        resolve();
      },
    });
    this.#session = device;
    this.#sessionEnd = promise;
  }
}

/** A controller as one front-end sees it: queues are started and stopped in the reactors that are their places. */
export abstract class DeviceSession implements SessionDevice {
  readonly id = nextSessionId++;
  readonly queueCount: number = QUEUES_MAX;
  abstract readonly features: bigint;
  abstract readonly config: SessionConfig | null;
  session!: Session;
  /** NUMA node of the guest's rings, once they are known. */
  node = NO_NODE;
  /** One block a queue, made when it first starts. */
  readonly counters = new Map<number, SharedArrayBuffer>();
  protected acked = 0n;
  readonly #host: Controller;

  constructor(host: Controller) {
    this.#host = host;
  }

  /** The device behind the session's queues, as they are started. */
  protected abstract queueDevice(): QueueDevice;

  setFeatures(features: bigint): void {
    this.acked = features;
  }

  async startVring(vring: VringStart): Promise<void> {
    const { name, places, settings } = this.#host;
    let counters = this.counters.get(vring.index);
    if (counters === undefined) {
      counters = createQueueBlock();
      this.counters.set(vring.index, counters);
    }
    const node = nodeOfMemory(vring.descriptorAddress);
    this.node = node < 0 ? NO_NODE : node;
    const reactor = places.start(vring.index, this.node);
    const device = this.queueDevice();
    const { isHeld, sharerNumber } = this.#host;
    const call: StartCall = {
      ...{ sessionId: this.id, controller: name, vring, device, counters, settings, sharerNumber, isHeld },
    };
    try {
      await reactor.call(VringService.start, call);
    } catch (error) {
      places.stop(vring.index);
      throw error;
    }
  }

  async stopVring(index: number, { withinMs, leaves = false }: StopOptions = {}): Promise<number> {
    const { places } = this.#host;
    const call: StopCall = { sessionId: this.id, index, withinMs, leaves };
    const base = (await places.reactorOf(index)?.call(VringService.stop, call)) as number;
    places.stop(index);
    return base;
  }

  async setVringCall(index: number, callFd: number): Promise<void> {
    const call: SetCallCall = { sessionId: this.id, index, callFd };
    await this.#host.places.reactorOf(index)?.call(VringService.setCall, call);
  }

  reset(): void {
    this.acked = 0n;
  }

  ended(): void {
    this.#host.places.forget();
  }
}
