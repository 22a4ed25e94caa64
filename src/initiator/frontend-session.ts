/**
 * A whole front-end, whatever the device: negotiation, memory and rings in the order in which QEMU sets a vhost-user
 * device up, stopping with GET_VRING_BASE, and reconnecting to a back-end that went away. BlkInitiator stands on it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../base/errors.ts';
import { closeFd, FdSet } from '../sys/events.ts';
import {
  BACKEND_REQUESTS,
  hasBit,
  maskOf,
  ProtocolFeature,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VringState,
} from '../vhost-user/messages.ts';
import { VirtioFeature } from '../virtio/features.ts';
import { DriverQueue } from './driver-queue.ts';
import type { RawMessage } from './message-reader.ts';
import { OwnedMemory, type OwnedRegion, type OwnedRegionOptions } from './owned-memory.ts';
import { type InflightFile, VhostUserFrontend, type VringAddresses } from './vhost-user-frontend.ts';

export interface SessionOptions {
  /** Default 1. */
  readonly queues?: number;
  /** Entries of each ring; of split ones a power of two. Default 128. */
  readonly queueSize?: number;
  /** Virtio feature bits to ack where offered. Default: the ring features and those of the device. */
  readonly features?: bigint;
  /** Ack RING_PACKED too, where offered. Default false. */
  readonly isPacked?: boolean;
  /** Protocol features to ack where offered. Default: all that a storage front-end uses. */
  readonly protocolFeatures?: bigint;
  /** Guest memory: regions to make, or memory of the caller's. Default: 64 MiB above 4 GiB. */
  readonly memory?: OwnedMemory | readonly OwnedRegionOptions[];
  /** Look for completions in every turn of the event loop instead of waiting for calls. Default false. */
  readonly poll?: boolean;
  /** Time limit of every reply and every request, in milliseconds. Default 10000. */
  readonly timeoutMs?: number;
  /** Ask for acknowledgements where the back-end can. Default true. */
  readonly wantsAcks?: boolean;
  /** Where the rings begin, as SET_VRING_BASE has it. Default: where new ones do. */
  readonly ringBase?: number;
  /** Keep requests in flight waiting when the connection ends, for a `reconnect`. Default false: they fail at once. */
  readonly keepsRequests?: boolean;
}

const DEFAULT_MEMORY_BYTES = 64 << 20;
const DEFAULT_TIMEOUT_MS = 10_000;
const RECONNECT_RETRY_MS = 20;
/** Legal as SET_MEM_TABLE without CONFIGURE_MEM_SLOTS (QEMU sends no more either). */
const TABLE_REGIONS_MAX = 8;

export const RING_FEATURES = maskOf(VirtioFeature.VERSION_1, VirtioFeature.INDIRECT_DESC, VirtioFeature.EVENT_IDX);
export const STORAGE_PROTOCOL_FEATURES = maskOf(
  ProtocolFeature.MQ,
  ProtocolFeature.REPLY_ACK,
  ProtocolFeature.BACKEND_REQ,
  ProtocolFeature.CONFIG,
  ProtocolFeature.INFLIGHT_SHMFD,
  ProtocolFeature.RESET_DEVICE,
  ProtocolFeature.CONFIGURE_MEM_SLOTS,
  ProtocolFeature.LOG_SHMFD,
);

export class FrontendSession {
  readonly path: string;
  readonly memory: OwnedMemory;
  readonly timeoutMs: number;
  queues: DriverQueue[] = [];
  /** Offered by the back-end at the last connect. */
  offered = 0n;
  offeredProtocol = 0n;
  /** Acked at the last connect. */
  features = 0n;
  queueCountMax = 1;
  memSlotsMax = TABLE_REGIONS_MAX;
  /** Called for every request of the back-end; its ack is 0. */
  onBackendRequest: (message: RawMessage) => void = () => {};
  readonly fds = new FdSet();
  #options: SessionOptions;
  readonly #ownsMemory: boolean;
  #frontend: VhostUserFrontend | null = null;
  /** Regions that the back-end knows from ADD_MEM_REG. */
  #shared = new Set<OwnedRegion>();
  /** Kept over connections, for whoever serves us next. */
  #inflight: InflightFile | null = null;
  #isOpen = true;

  constructor(path: string, options: SessionOptions) {
    this.path = path;
    this.#options = options;
    this.timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    const { memory } = options;
    this.#ownsMemory = !(memory instanceof OwnedMemory);
    if (memory instanceof OwnedMemory) this.memory = memory;
    else this.memory = memory === undefined ? OwnedMemory.single(DEFAULT_MEMORY_BYTES) : new OwnedMemory(memory);
  }

  get frontend(): VhostUserFrontend {
    if (this.#frontend === null) throw new TargetError('EPIPE', 'the initiator is not connected');
    return this.#frontend;
  }

  hasFeature(bit: number): boolean {
    return hasBit(this.features, bit);
  }

  hasProtocolFeature(name: ProtocolFeature): boolean {
    return hasBit(this.frontend.protocolFeatures, ProtocolFeature[name]);
  }

  /** Connects and negotiates, up to the point where QEMU reads the configuration space: no features acked, no rings. */
  async connect(): Promise<void> {
    const { timeoutMs } = this;
    const wantsAcks = this.#options.wantsAcks ?? true;
    const frontend = await VhostUserFrontend.connect(this.path, { timeoutMs, wantsAcks, fds: this.fds });
    this.#frontend = frontend;
    this.#shared = new Set();
    void this.#failRequestsAtEnd(frontend);
    this.offered = await frontend.getFeatures();
    await this.#negotiateProtocol(frontend);
    await frontend.setOwner();
  }

  /** Connects again, waiting for the back-end to be there. `start` goes on with the same memory and rings. */
  async reconnect(): Promise<void> {
    this.disconnect();
    const deadlineMs = Date.now() + this.timeoutMs;
    for (;;) {
      try {
        return await this.connect();
      } catch (error) {
        if (Date.now() > deadlineMs) throw error;
        await sleep(RECONNECT_RETRY_MS);
      }
    }
  }

  /** Acks the features, shares the memory, and sets up and enables every ring. */
  async start(deviceFeatures: bigint): Promise<void> {
    const packed = this.#options.isPacked === true ? maskOf(VirtioFeature.RING_PACKED) : 0n;
    const wanted = packed | (this.#options.features ?? RING_FEATURES | deviceFeatures);
    const vhost = maskOf(VHOST_USER_F_PROTOCOL_FEATURES);
    this.features = this.offered & (wanted | vhost);
    await this.frontend.setFeatures(this.features);
    if (this.queues.length === 0) this.#createQueues();
    if (this.hasProtocolFeature('INFLIGHT_SHMFD')) await this.#shareInflight();
    await this.shareMemory();
    for (const queue of this.queues) await this.startQueue(queue);
    if (hasBit(this.features, VHOST_USER_F_PROTOCOL_FEATURES)) {
      for (const queue of this.queues) await this.frontend.setVringEnable(queue.index, true);
    }
    for (const queue of this.queues) queue.base = null;
    // Without acks: what failed has closed the connection by the time of a reply.
    await this.frontend.sync();
  }

  /** Tells the back-end of all regions, or of what changed. May be repeated while the rings run. */
  async shareMemory(): Promise<void> {
    const { regions } = this.memory;
    if (!this.hasProtocolFeature('CONFIGURE_MEM_SLOTS')) {
      await this.frontend.setMemTable(regions);
      return;
    }
    if (regions.length > this.memSlotsMax) {
      throw new TargetError('ENOSPC', `the back-end has ${this.memSlotsMax} memory slots, not ${regions.length}`);
    }
    const added = regions.filter((region) => !this.#shared.has(region));
    const removed = [...this.#shared].filter((region) => !regions.includes(region));
    for (const region of removed) await this.frontend.remMemRegion(region);
    for (const region of added) await this.frontend.addMemRegion(region);
    this.#shared = new Set(regions);
  }

  /**
   * Begins anew under the same connection and memory with other queues and features, as an operating system does after
   * firmware. Stop the rings or reset the device first.
   */
  async restart(deviceFeatures: bigint, options: SessionOptions): Promise<void> {
    this.#options = { ...this.#options, ...options };
    for (const queue of this.queues.splice(0)) queue.close();
    await this.start(deviceFeatures);
  }

  /** Sets one ring up, from where it stands. It runs when it is enabled. */
  async startQueue(queue: DriverQueue): Promise<void> {
    const { index, ring } = queue;
    const { frontend } = this;
    await frontend.setVringNum(index, ring.size);
    // After a crash nobody tells the base: like QEMU, take up where the used ring ends.
    await frontend.setVringBase(index, queue.base ?? ring.usedBase);
    await frontend.setVringAddr(index, this.addressesOf(queue));
    const isInband = this.hasProtocolFeature('INBAND_NOTIFICATIONS');
    await frontend.setVringErr(index, isInband ? null : queue.errFd);
    // Last: the kick descriptor starts the ring, and then there must be a descriptor to call on.
    await frontend.setVringCall(index, isInband ? null : queue.callFd);
    await frontend.setVringKick(index, isInband ? null : queue.kickFd);
  }

  /** Where a ring's parts are, as SET_VRING_ADDR wants it. */
  addressesOf({ ring }: DriverQueue): VringAddresses {
    const { memory } = this;
    return {
      descriptor: memory.userAddressOf(ring.descriptorAddress),
      used: memory.userAddressOf(ring.usedAddress),
      available: memory.userAddressOf(ring.availableAddress),
    };
  }

  /**
   * Disables and stops every ring, as QEMU does when the guest stops. Returns the ring bases. The connection and the
   * requests that the back-end did not take remain; `start` goes on from there.
   */
  async stop(): Promise<number[]> {
    const bases: number[] = [];
    if (hasBit(this.features, VHOST_USER_F_PROTOCOL_FEATURES)) {
      for (const queue of this.queues) await this.frontend.setVringEnable(queue.index, false);
    }
    for (const queue of this.queues) {
      queue.base = await this.frontend.getVringBase(queue.index);
      bases.push(queue.base);
      queue.drain();
    }
    return bases;
  }

  /** Ends the connection at once. Memory and rings stay as they are. */
  disconnect(): void {
    this.#frontend?.close();
  }

  /** Frees everything. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.disconnect();
    for (const queue of this.queues) queue.close();
    if (this.#inflight !== null) closeFd(this.#inflight.fd);
    this.fds.close();
    if (this.#ownsMemory) this.memory.close();
  }

  async #negotiateProtocol(frontend: VhostUserFrontend): Promise<void> {
    if (!hasBit(this.offered, VHOST_USER_F_PROTOCOL_FEATURES)) return;
    this.offeredProtocol = await frontend.getProtocolFeatures();
    const wanted = this.#options.protocolFeatures ?? STORAGE_PROTOCOL_FEATURES;
    await frontend.setProtocolFeatures(this.offeredProtocol & wanted);
    if (this.hasProtocolFeature('MQ')) this.queueCountMax = await frontend.getQueueNum();
    if (this.hasProtocolFeature('CONFIGURE_MEM_SLOTS')) this.memSlotsMax = await frontend.getMaxMemSlots();
    if (this.hasProtocolFeature('BACKEND_REQ')) {
      await frontend.setBackendReqFd((message) => {
        this.#onBackendRequest(message);
        return 0;
      });
    }
  }

  async #shareInflight(): Promise<void> {
    const size = this.queues[0]?.ring.size ?? 0;
    // Larger rings than before: the operating system's, after the firmware's. Nothing is in flight then.
    if (this.#inflight !== null && this.#inflight.queueSize < size) {
      closeFd(this.#inflight.fd);
      this.#inflight = null;
    }
    this.#inflight ??= await this.frontend.getInflightFd(this.queues.length, size);
    await this.frontend.setInflightFd(this.#inflight);
  }

  #createQueues(): void {
    const { queues = 1, queueSize = 128, poll = false, ringBase } = this.#options;
    if (queues > this.queueCountMax) {
      throw new TargetError('EINVAL', `the back-end has ${this.queueCountMax} queues, not ${queues}`);
    }
    const hasEventIdx = this.hasFeature(VirtioFeature.EVENT_IDX);
    const isPacked = this.hasFeature(VirtioFeature.RING_PACKED);
    const isInband = this.hasProtocolFeature('INBAND_NOTIFICATIONS');
    for (let index = 0; index < queues; index++) {
      const ring = { size: queueSize, isPacked, hasEventIdx, ...(ringBase === undefined ? {} : { base: ringBase }) };
      const sendKick = isInband ? { sendKick: () => void this.#sendKick(index) } : {};
      this.queues.push(new DriverQueue(this.memory, { ...ring, ...sendKick, index, isPolled: poll, fds: this.fds }));
    }
  }

  /** What fails has ended the connection, and with it every request. */
  async #sendKick(index: number): Promise<void> {
    await this.frontend.vringKick(index).catch(() => {});
  }

  #onBackendRequest(message: RawMessage): void {
    if (message.request === BACKEND_REQUESTS.VRING_CALL.code) {
      this.queues[VringState.decode(message.payload).index]?.called();
    }
    this.onBackendRequest(message);
  }

  async #failRequestsAtEnd(frontend: VhostUserFrontend): Promise<void> {
    const { isByPeer } = await frontend.closed;
    if (this.#options.keepsRequests === true) return;
    const who = isByPeer ? 'the back-end closed the connection' : 'the connection was closed';
    for (const queue of this.queues) queue.rejectAll(new TargetError('VHOST_CLOSED', `${who} with requests in flight`));
  }
}
