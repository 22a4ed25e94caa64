/**
 * The connection of a virtio disk's controller to its target, on the main thread: it negotiates, shares memory and sets
 * the queues up, and does so again when the target comes back. Memory and eventfds outlive the connection; reactors
 * drive the queues.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../../../base/errors.ts';
import { OwnedMemory, type RegionDescription } from '../../../initiator/owned-memory.ts';
import { VhostUserFrontend } from '../../../initiator/vhost-user-frontend.ts';
import { closeFd, createEventFd, FdSet, readEventFd } from '../../../sys/events.ts';
import {
  BACKEND_REQUESTS,
  hasBit,
  maskOf,
  ProtocolFeature,
  VHOST_USER_F_PROTOCOL_FEATURES,
} from '../../../vhost-user/messages.ts';
import { VirtioFeature } from '../../../virtio/features.ts';
import {
  Claim,
  type ControllerParams,
  layoutOf,
  type QueueLayout,
  QueueWord,
  queueWord,
  type RequestForm,
  TableWord,
} from './layout.ts';

/** What an operator says of a controller. */
export interface VirtioParams {
  readonly name: string;
  /** The target's socket. */
  readonly path: string;
  /** Default 1. */
  readonly queueCount?: number | undefined;
  /** A power of two. Default 256. */
  readonly queueSize?: number | undefined;
  /** How long the target may take for an answer, in milliseconds. Default 10000. */
  readonly timeoutMs?: number;
}

/** What a new connection has agreed on so far. */
export interface Negotiated {
  readonly frontend: VhostUserFrontend;
  readonly features: bigint;
  readonly protocol: bigint;
  /** Queues that the target has. */
  readonly queuesMax: number;
}

/** The kind of device, and who has to do with the connection. */
export interface LinkDevice {
  readonly form: RequestForm;
  /** Feature bits to ack where they are offered. */
  readonly features: bigint;
  /** Queues that a target without multiqueue has. */
  readonly queuesWithoutMq: number;
  /** Memory that is shared besides the queues'. */
  readonly regions: readonly RegionDescription[];
  /** Before the features are acked. Returns the number of the first request queue. Throws what does not fit. */
  check(negotiated: Negotiated): Promise<number>;
  /** The target knows the memory, and no request queue runs yet. */
  begin(frontend: VhostUserFrontend): Promise<void>;
  /** The target says that its configuration changed. */
  configChanged(frontend: VhostUserFrontend): void;
  /** A reactor was told by the target that its units changed. */
  unitsChanged(): void;
  /** The target is away, and why. */
  ended(reason: string): void;
  /** The target is there, and cannot be used. */
  refused(reason: string): void;
}

const QUEUE_SIZE = 256;
/** Where the queues are for the target: above 4 GiB, as addresses have all their bits. */
const GUEST_ADDRESS = 2 ** 32;
const RETRY_MS = 100;
const TIMEOUT_MS = 10_000;
const FEATURES = maskOf(VirtioFeature.VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES);
const PROTOCOL_FEATURES = maskOf(
  ProtocolFeature.MQ,
  ProtocolFeature.REPLY_ACK,
  ProtocolFeature.BACKEND_REQ,
  ProtocolFeature.CONFIG,
);

export class Link {
  readonly queueCount: number;
  readonly queueSize: number;
  isConnected = false;
  readonly #path: string;
  readonly #timeoutMs: number;
  readonly #device: LinkDevice;
  readonly #layout: QueueLayout;
  readonly #memory: OwnedMemory;
  readonly #shared: SharedArrayBuffer;
  readonly #table: Int32Array;
  readonly #fds = new FdSet();
  #frontend: VhostUserFrontend | null = null;
  /** What the reactors told so far. */
  #broken = 0;
  #changed = 0;
  #isClosed = false;

  constructor(
    { path, queueCount = 1, queueSize = QUEUE_SIZE, timeoutMs = TIMEOUT_MS }: VirtioParams,
    device: LinkDevice,
  ) {
    this.#path = path;
    this.#timeoutMs = timeoutMs;
    this.#device = device;
    this.queueSize = queueSize;
    this.queueCount = queueCount;
    this.#layout = layoutOf(queueSize, device.form);
    // Sealed: the target has a descriptor of it, and must not cut it.
    const sizeBytes = this.#layout.totalBytes * queueCount;
    this.#memory = new OwnedMemory([{ guestAddress: GUEST_ADDRESS, sizeBytes, isSealed: true }]);
    this.#shared = new SharedArrayBuffer(4 * queueWord(queueCount, 0));
    this.#table = new Int32Array(this.#shared);
    for (let queue = 0; queue < queueCount; queue++) {
      this.#table[queueWord(queue, QueueWord.kickFd)] = createEventFd();
      this.#table[queueWord(queue, QueueWord.callFd)] = createEventFd();
    }
    const newsFd = createEventFd();
    this.#table[TableWord.newsFd] = newsFd;
    this.#fds.add(newsFd, () => this.#hearNews());
  }

  params(): ControllerParams {
    const [region] = this.#memory.regions;
    return {
      address: region?.userAddress ?? 0,
      guestAddress: region?.guestAddress ?? 0,
      queueSize: this.queueSize,
      queueCount: this.queueCount,
      table: this.#shared,
      isConnected: this.isConnected,
    };
  }

  /** No channel touches the rings: they begin anew. */
  async connect(): Promise<void> {
    const frontend = await VhostUserFrontend.connect(this.#path, { timeoutMs: this.#timeoutMs });
    if (this.#isClosed) {
      frontend.close();
      throw new TargetError('ECANCELED', `${this.#path} is not needed any more`);
    }
    this.#frontend = frontend;
    try {
      await this.#setUp(frontend);
    } catch (error) {
      frontend.close();
      throw error;
    }
    this.isConnected = true;
    void frontend.closed.then(({ isByPeer }) => {
      if (isByPeer) this.#ended(frontend, 'it closed the connection');
    });
  }

  /** Connects as soon as that is possible; resolves without a connection when the link is closed meanwhile. */
  async reconnect(): Promise<void> {
    let said = '';
    while (!this.#isClosed) {
      try {
        await this.connect();
        return;
      } catch (error) {
        const isThere = error instanceof TargetError && (error.code === 'EINVAL' || error.code === 'ENOTSUP');
        if (isThere && error.message !== said) {
          said = error.message;
          this.#device.refused(said);
        }
        await sleep(RETRY_MS, undefined, { ref: false });
      }
    }
  }

  /** Gives everything back. Resolves when the sockets are gone. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.isConnected = false;
    this.#frontend?.close();
    this.#fds.close();
    for (let queue = 0; queue < this.queueCount; queue++) {
      for (const word of [QueueWord.kickFd, QueueWord.callFd]) closeFd(this.#table[queueWord(queue, word)] as number);
    }
    closeFd(this.#table[TableWord.newsFd] as number);
    this.#memory.close();
    // What watched the sockets goes with the next turn of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
  }

  #ended(frontend: VhostUserFrontend, reason: string): void {
    if (this.#frontend !== frontend || !this.isConnected) return;
    this.isConnected = false;
    this.#device.ended(reason);
  }

  #hearNews(): void {
    readEventFd(this.#table[TableWord.newsFd] as number);
    const broken = Atomics.load(this.#table, TableWord.broken);
    const changed = Atomics.load(this.#table, TableWord.changed);
    const frontend = this.#frontend;
    if (broken !== this.#broken && frontend !== null && this.isConnected) {
      frontend.close();
      this.#ended(frontend, 'it broke the rules of a ring, or did not answer: the connection is made anew');
    }
    if (changed !== this.#changed && this.isConnected) this.#device.unitsChanged();
    this.#broken = broken;
    this.#changed = changed;
  }

  async #setUp(frontend: VhostUserFrontend): Promise<void> {
    const device = this.#device;
    const offered = await frontend.getFeatures();
    if (!hasBit(offered, VHOST_USER_F_PROTOCOL_FEATURES)) {
      throw new TargetError('ENOTSUP', `${this.#path} has no protocol features`);
    }
    if (!hasBit(offered, VirtioFeature.VERSION_1))
      throw new TargetError('ENOTSUP', `${this.#path} is no virtio 1 device`);
    const protocol = await frontend.getProtocolFeatures();
    await frontend.setProtocolFeatures(protocol & PROTOCOL_FEATURES);
    const queuesMax = hasBit(protocol, ProtocolFeature.MQ) ? await frontend.getQueueNum() : device.queuesWithoutMq;
    await frontend.setOwner();
    const features = offered & (FEATURES | device.features);
    const firstQueue = await device.check({ frontend, features, protocol, queuesMax });
    await frontend.setFeatures(features);
    await frontend.setMemTable([...this.#memory.regions, ...device.regions]);
    await device.begin(frontend);
    for (let queue = 0; queue < this.queueCount; queue++) await this.#setUpQueue(frontend, queue, firstQueue + queue);
    if (hasBit(protocol, ProtocolFeature.BACKEND_REQ)) {
      await frontend.setBackendReqFd(({ request }) => {
        if (request === BACKEND_REQUESTS.CONFIG_CHANGE_MSG.code) device.configChanged(frontend);
        return 0;
      });
    }
    await frontend.sync();
  }

  async #setUpQueue(frontend: VhostUserFrontend, queue: number, index: number): Promise<void> {
    const layout = this.#layout;
    const [region] = this.#memory.regions;
    if (region === undefined) return;
    const base = queue * layout.totalBytes;
    // Everything but the descriptors, which are the channel's and stay.
    region.bytes.fill(0, base + layout.available, base + layout.requests);
    Atomics.compareExchange(this.#table, queueWord(queue, QueueWord.claim), Claim.spoiled, Claim.free);
    const address = region.userAddress + base;
    await frontend.setVringNum(index, this.queueSize);
    await frontend.setVringBase(index, 0);
    await frontend.setVringAddr(index, {
      descriptor: address,
      used: address + layout.used,
      available: address + layout.available,
    });
    await frontend.setVringCall(index, this.#table[queueWord(queue, QueueWord.callFd)] as number);
    await frontend.setVringKick(index, this.#table[queueWord(queue, QueueWord.kickFd)] as number);
    await frontend.setVringEnable(index, true);
  }
}
