/**
 * The front-end side of a vhost-user connection (QEMU docs/interop/vhost-user.rst): every request of a block or SCSI
 * front-end as a method, and a raw level at which any bytes and descriptors can be sent. It checks nothing that it
 * sends: tests of a back-end's checks need a peer that has none.
 */
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { Errno, strerror, TargetError } from '../base/errors.ts';
import { closeFd, FdSet } from '../sys/events.ts';
import { connectUnix, sendMessage } from '../sys/socket.ts';
import {
  ConfigHead,
  encodeMessage,
  encodeU64,
  HeaderFlag,
  hasBit,
  INFLIGHT_BYTES,
  InflightDescription,
  LogDescription,
  MemoryRegion,
  MemoryTableHead,
  ProtocolFeature,
  REQUESTS,
  type RequestName,
  requestName,
  SingleMemoryRegion,
  U64,
  VRING_NO_FD,
  VringAddr,
  VringState,
} from '../vhost-user/messages.ts';
import { BackendChannel, type BackendRequestHandler } from './backend-channel.ts';
import { MessageReader, type RawMessage } from './message-reader.ts';
import type { RegionDescription } from './owned-memory.ts';

export interface FrontendOptions {
  /** How long to wait for a reply or for the connection, in milliseconds. Default 10000. */
  readonly timeoutMs?: number;
  /** Ask for an acknowledgement of every request once REPLY_ACK was acked, and wait for it. Default true. */
  readonly wantsAcks?: boolean;
  /** Watch the sockets with this set, which the caller closes. Default: one of its own. */
  readonly fds?: FdSet;
}

export interface CloseReason {
  /** False when this side closed. */
  readonly isByPeer: boolean;
  /** 0 for an orderly end, or a negative errno. */
  readonly errno: number;
}

export interface RawSendOptions {
  /** Cut the bytes into writes of this many, with a pause after each. Default: one write. */
  readonly chunkBytes?: number;
  /** Byte with which the descriptors travel; start of a chunk. Default 0. */
  readonly fdsAtByte?: number;
}

export interface VringAddresses {
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
  readonly log?: number;
  readonly flags?: number;
}

/** What a back-end keeps what is in flight in, and how it lies in the file. */
export interface InflightFile extends InflightDescription {
  readonly fd: number;
}

interface Waiter {
  /** Request code, or null for whatever comes. */
  readonly request: number | null;
  readonly resolve: (message: RawMessage) => void;
  readonly reject: (error: TargetError) => void;
  readonly timer: NodeJS.Timeout;
}

interface Outgoing {
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
  sentBytes: number;
  readonly done: () => void;
}

const DEFAULT_TIMEOUT_MS = 10_000;
const CONNECT_RETRY_MS = 10;
const NO_PAYLOAD = new Uint8Array(0);

export class VhostUserFrontend {
  /** Resolves when the connection has ended, whoever ended it. */
  readonly closed: Promise<CloseReason>;
  /** What SET_PROTOCOL_FEATURES sent last. */
  protocolFeatures = 0n;
  readonly timeoutMs: number;
  wantsAcks: boolean;
  readonly #fd: number;
  readonly #fds: FdSet;
  readonly #ownsFds: boolean;
  readonly #reader: MessageReader;
  #waiters: Waiter[] = [];
  #unclaimed: RawMessage[] = [];
  #outgoing: Outgoing[] = [];
  #isWatchingWrites = false;
  #backendChannel: BackendChannel | null = null;
  #closeReason: CloseReason | null = null;
  #resolveClosed: (reason: CloseReason) => void = () => {};

  /** Takes over a connected socket. */
  constructor(fd: number, options: FrontendOptions = {}) {
    this.#fd = fd;
    this.timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.wantsAcks = options.wantsAcks ?? true;
    this.#ownsFds = options.fds === undefined;
    this.#fds = options.fds ?? new FdSet();
    this.#reader = new MessageReader(fd);
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.#fds.add(fd, (events) => {
      if (events.isWritable) this.#flush();
      this.#readAll();
    });
  }

  /** Connects to the back-end's socket. Throws `ENOENT` or `ECONNREFUSED` when nobody listens. */
  static async connect(path: string, options: FrontendOptions = {}): Promise<VhostUserFrontend> {
    const deadlineMs = Date.now() + (options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
    for (;;) {
      try {
        return new VhostUserFrontend(connectUnix(path), options);
      } catch (error) {
        // A full backlog: the back-end is alive and will accept.
        if (!(error instanceof TargetError) || error.errno !== Errno.EAGAIN || Date.now() > deadlineMs) throw error;
        await sleep(CONNECT_RETRY_MS);
      }
    }
  }

  get isClosed(): boolean {
    return this.#closeReason !== null;
  }

  /** Ends the connection at once, whatever is under way. */
  close(): void {
    this.#end({ isByPeer: false, errno: 0 });
  }

  // Requests, in the order of their codes.

  getFeatures(): Promise<bigint> {
    return this.#getU64('GET_FEATURES');
  }

  setFeatures(features: bigint): Promise<void> {
    return this.#command('SET_FEATURES', encodeU64(features));
  }

  setOwner(): Promise<void> {
    return this.#command('SET_OWNER', NO_PAYLOAD);
  }

  resetOwner(): Promise<void> {
    return this.#command('RESET_OWNER', NO_PAYLOAD);
  }

  /** Replaces all regions. */
  setMemTable(regions: readonly RegionDescription[]): Promise<void> {
    const payload = new Uint8Array(MemoryTableHead.size + MemoryRegion.size * regions.length);
    MemoryTableHead.encode({ regionCount: regions.length, padding: 0 }, payload);
    regions.forEach((region, i) => {
      MemoryRegion.encode(region, payload, MemoryTableHead.size + MemoryRegion.size * i);
    });
    return this.#command(
      'SET_MEM_TABLE',
      payload,
      regions.map((region) => region.fd),
    );
  }

  /** Gives the dirty log; one that runs already is replaced. */
  async setLogBase(sizeBytes: number, offset: number, fd: number): Promise<void> {
    await this.exchange(REQUESTS.SET_LOG_BASE.code, LogDescription.encode({ sizeBytes, offset }), [fd]);
  }

  /** `fd`: signalled when pages were marked. */
  setLogFd(fd: number): Promise<void> {
    return this.#command('SET_LOG_FD', NO_PAYLOAD, [fd]);
  }

  setVringNum(index: number, num: number): Promise<void> {
    return this.#command('SET_VRING_NUM', VringState.encode({ index, num }));
  }

  /** Addresses are front-end virtual ones. */
  setVringAddr(index: number, addresses: VringAddresses): Promise<void> {
    const { descriptor, used, available, log = 0, flags = 0 } = addresses;
    return this.#command('SET_VRING_ADDR', VringAddr.encode({ index, flags, descriptor, used, available, log }));
  }

  setVringBase(index: number, num: number): Promise<void> {
    return this.#command('SET_VRING_BASE', VringState.encode({ index, num }));
  }

  /** Stops the ring; the index of the next available entry the back-end would have taken. */
  async getVringBase(index: number): Promise<number> {
    const reply = await this.exchange(REQUESTS.GET_VRING_BASE.code, VringState.encode({ index, num: 0 }));
    return VringState.decode(checkSize(reply, VringState.size)).num;
  }

  /** `fd` null: the back-end must poll. */
  setVringKick(index: number, fd: number | null): Promise<void> {
    return this.#vringFd('SET_VRING_KICK', index, fd);
  }

  /** `fd` null: no calls wanted. */
  setVringCall(index: number, fd: number | null): Promise<void> {
    return this.#vringFd('SET_VRING_CALL', index, fd);
  }

  setVringErr(index: number, fd: number | null): Promise<void> {
    return this.#vringFd('SET_VRING_ERR', index, fd);
  }

  getProtocolFeatures(): Promise<bigint> {
    return this.#getU64('GET_PROTOCOL_FEATURES');
  }

  async setProtocolFeatures(features: bigint): Promise<void> {
    // An ack may be asked for only after the feature was acked: not for this request itself.
    this.protocolFeatures = 0n;
    await this.#command('SET_PROTOCOL_FEATURES', encodeU64(features));
    this.protocolFeatures = features;
  }

  async getQueueNum(): Promise<number> {
    return Number(await this.#getU64('GET_QUEUE_NUM'));
  }

  setVringEnable(index: number, isEnabled: boolean): Promise<void> {
    return this.#command('SET_VRING_ENABLE', VringState.encode({ index, num: isEnabled ? 1 : 0 }));
  }

  /** Makes the back-end's own channel; `onRequest` sees what comes on it. A second call replaces the first channel. */
  async setBackendReqFd(onRequest: BackendRequestHandler): Promise<void> {
    const channel = new BackendChannel(this.#fds, onRequest);
    const before = this.#backendChannel;
    this.#backendChannel = channel;
    const done = this.#command('SET_BACKEND_REQ_FD', NO_PAYLOAD, [channel.peerFd]);
    await done.finally(() => channel.closePeerFd());
    before?.close();
  }

  /** Bytes of the configuration space. Throws `VHOST_REPLY` when the back-end refuses or answers another length. */
  async getConfig(offset: number, sizeBytes: number): Promise<Uint8Array> {
    const payload = new Uint8Array(ConfigHead.size + sizeBytes);
    ConfigHead.encode({ offset, size: sizeBytes, flags: 0 }, payload);
    const reply = await this.exchange(REQUESTS.GET_CONFIG.code, payload);
    return checkSize(reply, ConfigHead.size + sizeBytes).slice(ConfigHead.size);
  }

  setConfig(offset: number, bytes: Uint8Array, flags = 0): Promise<void> {
    const payload = new Uint8Array(ConfigHead.size + bytes.length);
    ConfigHead.encode({ offset, size: bytes.length, flags }, payload);
    payload.set(bytes, ConfigHead.size);
    return this.#command('SET_CONFIG', payload);
  }

  /** A region for the back-end to keep what is in flight. Its descriptor is the caller's. */
  async getInflightFd(queueCount: number, queueSize: number): Promise<InflightFile> {
    const asked = encodeInflight({ mmapSize: 0, mmapOffset: 0, queueCount, queueSize });
    const reply = await this.exchange(REQUESTS.GET_INFLIGHT_FD.code, asked);
    const [fd, ...more] = reply.fds;
    for (const extra of more) closeFd(extra);
    if (fd === undefined) throw new TargetError('VHOST_REPLY', 'the back-end sent no in-flight region');
    return { ...InflightDescription.decode(checkSize(reply, INFLIGHT_BYTES)), fd };
  }

  setInflightFd(file: InflightFile): Promise<void> {
    return this.#command('SET_INFLIGHT_FD', encodeInflight(file), [file.fd]);
  }

  resetDevice(): Promise<void> {
    return this.#command('RESET_DEVICE', NO_PAYLOAD);
  }

  /** INBAND_NOTIFICATIONS: a kick as a message. */
  vringKick(index: number): Promise<void> {
    return this.#command('VRING_KICK', VringState.encode({ index, num: 0 }));
  }

  async getMaxMemSlots(): Promise<number> {
    return Number(await this.#getU64('GET_MAX_MEM_SLOTS'));
  }

  addMemRegion(region: RegionDescription): Promise<void> {
    return this.#command('ADD_MEM_REG', SingleMemoryRegion.encode({ padding: 0n, ...region }), [region.fd]);
  }

  remMemRegion(region: RegionDescription): Promise<void> {
    return this.#command('REM_MEM_REG', SingleMemoryRegion.encode({ padding: 0n, ...region }));
  }

  /** The device status of virtio; 0 resets the device. */
  setStatus(status: number): Promise<void> {
    return this.#command('SET_STATUS', encodeU64(status));
  }

  async getStatus(): Promise<number> {
    return Number(await this.#getU64('GET_STATUS'));
  }

  /** Returns when everything sent before has been processed, with or without REPLY_ACK. */
  async sync(): Promise<void> {
    await this.getFeatures();
  }

  // Any message.

  /**
   * Sends a request that has no reply of its own. Waits for the acknowledgement when REPLY_ACK was acked; throws
   * `VHOST_NACK` when it is not 0. Without REPLY_ACK it returns when the message is on its way.
   */
  async command(code: number, payload: Uint8Array, fds: readonly number[] = []): Promise<void> {
    if (!this.wantsAcks || !hasBit(this.protocolFeatures, ProtocolFeature.REPLY_ACK)) {
      await this.sendRaw(encodeMessage(code, 0, payload), fds);
      return;
    }
    const reply = await this.exchange(code, payload, fds, HeaderFlag.needReply);
    const { value } = U64.decode(checkSize(reply, U64.size));
    if (value === 0n) return;
    throw new TargetError('VHOST_NACK', `the back-end refused ${describe(code)} (ack ${value})`);
  }

  /** Sends a request and waits for its reply, which must have the same code and the reply flag. */
  exchange(code: number, payload: Uint8Array, fds: readonly number[] = [], flags = 0): Promise<RawMessage> {
    const reply = this.#waitFor(code);
    // A failed send ends the connection, and with it the wait for the reply.
    this.sendRaw(encodeMessage(code, flags, payload), fds).catch(() => {});
    return reply;
  }

  /** Sends bytes and descriptors as they are. Resolves when the socket has taken them all. */
  async sendRaw(bytes: Uint8Array, fds: readonly number[] = [], options: RawSendOptions = {}): Promise<void> {
    const { chunkBytes = bytes.length, fdsAtByte = 0 } = options;
    if (chunkBytes >= bytes.length) return this.#enqueue(bytes, fds);
    for (let at = 0; at < bytes.length; at += chunkBytes) {
      const hasFds = fdsAtByte >= at && fdsAtByte < at + chunkBytes;
      await this.#enqueue(bytes.subarray(at, at + chunkBytes), hasFds ? fds : []);
      await nextTurn();
    }
  }

  /** The next message that no request waits for. */
  receiveRaw(): Promise<RawMessage> {
    const message = this.#unclaimed.shift();
    return message === undefined ? this.#waitFor(null) : Promise.resolve(message);
  }

  async #getU64(name: RequestName): Promise<bigint> {
    const reply = await this.exchange(REQUESTS[name].code, NO_PAYLOAD);
    return U64.decode(checkSize(reply, U64.size)).value;
  }

  #command(name: RequestName, payload: Uint8Array, fds: readonly number[] = []): Promise<void> {
    return this.command(REQUESTS[name].code, payload, fds);
  }

  #vringFd(name: RequestName, index: number, fd: number | null): Promise<void> {
    return fd === null
      ? this.#command(name, encodeU64(index | VRING_NO_FD))
      : this.#command(name, encodeU64(index), [fd]);
  }

  #waitFor(request: number | null): Promise<RawMessage> {
    return new Promise((resolve, reject) => {
      if (this.#closeReason !== null) {
        reject(closedError(this.#closeReason));
        return;
      }
      const what = request === null ? 'a message' : `the reply to ${describe(request)}`;
      const timer = setTimeout(() => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        reject(new TargetError('ETIMEDOUT', `the back-end did not send ${what} within ${this.timeoutMs} ms`));
      }, this.timeoutMs);
      const waiter: Waiter = { request, resolve, reject, timer };
      this.#waiters.push(waiter);
    });
  }

  #readAll(): void {
    while (this.#closeReason === null) {
      const result = this.#reader.read();
      if (result.kind === 'again') return;
      if (result.kind === 'end') this.#end({ isByPeer: true, errno: result.errno });
      else this.#deliver(result.message);
    }
  }

  #deliver(message: RawMessage): void {
    const waiter = this.#waiters.shift();
    if (waiter === undefined) {
      this.#unclaimed.push(message);
      return;
    }
    clearTimeout(waiter.timer);
    const isReply =
      (message.flags & (HeaderFlag.versionMask | HeaderFlag.reply)) === (HeaderFlag.version | HeaderFlag.reply);
    if (waiter.request === null || (waiter.request === message.request && isReply)) {
      waiter.resolve(message);
      return;
    }
    for (const fd of message.fds) closeFd(fd);
    const got = `${describe(message.request)} with flags 0x${message.flags.toString(16)}`;
    waiter.reject(new TargetError('VHOST_REPLY', `the back-end answered ${describe(waiter.request)} by ${got}`));
  }

  #enqueue(bytes: Uint8Array, fds: readonly number[]): Promise<void> {
    if (this.#closeReason !== null) return Promise.reject(closedError(this.#closeReason));
    return new Promise((resolve, reject) => {
      this.#outgoing.push({
        bytes,
        fds,
        sentBytes: 0,
        done: () => (this.#closeReason === null ? resolve() : reject(closedError(this.#closeReason))),
      });
      if (this.#outgoing.length === 1) this.#flush();
    });
  }

  #flush(): void {
    while (this.#closeReason === null) {
      const first = this.#outgoing[0];
      if (first === undefined) break;
      const sent = sendMessage(this.#fd, first.bytes, first.sentBytes, first.sentBytes === 0 ? first.fds : []);
      if (sent === Errno.EAGAIN) {
        this.#watchWrites(true);
        return;
      }
      if (sent < 0) {
        // What the back-end sent before it closed may still be in the socket.
        this.#readAll();
        this.#end({ isByPeer: true, errno: sent });
        return;
      }
      first.sentBytes += sent;
      if (first.sentBytes < first.bytes.length) continue;
      this.#outgoing.shift();
      first.done();
    }
    if (this.#closeReason === null) this.#watchWrites(false);
  }

  #watchWrites(isWanted: boolean): void {
    if (this.#isWatchingWrites === isWanted) return;
    this.#isWatchingWrites = isWanted;
    this.#fds.change(this.#fd, { writable: isWanted });
  }

  #end(reason: CloseReason): void {
    if (this.#closeReason !== null) return;
    this.#closeReason = reason;
    this.#backendChannel?.close();
    this.#fds.remove(this.#fd);
    this.#reader.close();
    closeFd(this.#fd);
    if (this.#ownsFds) this.#fds.close();
    for (const message of this.#unclaimed) for (const fd of message.fds) closeFd(fd);
    const error = closedError(reason);
    for (const waiter of this.#waiters.splice(0)) {
      clearTimeout(waiter.timer);
      waiter.reject(error);
    }
    for (const outgoing of this.#outgoing.splice(0)) outgoing.done();
    this.#resolveClosed(reason);
  }
}

function checkSize(message: RawMessage, sizeBytes: number): Uint8Array {
  if (message.payload.length === sizeBytes) return message.payload;
  throw new TargetError(
    'VHOST_REPLY',
    `the back-end answered ${describe(message.request)} with ${message.payload.length} bytes, not ${sizeBytes}`,
  );
}

function encodeInflight(description: InflightDescription): Uint8Array {
  return InflightDescription.encode(description, new Uint8Array(INFLIGHT_BYTES));
}

function describe(code: number): string {
  return requestName(code) ?? `request ${code}`;
}

function closedError(reason: CloseReason): TargetError {
  const who = reason.isByPeer ? 'the back-end closed the connection' : 'the connection is closed';
  const why = reason.errno === 0 ? '' : ` (${strerror(reason.errno)})`;
  return new TargetError('VHOST_CLOSED', `${who}${why}`, { errno: Errno.EPIPE });
}
