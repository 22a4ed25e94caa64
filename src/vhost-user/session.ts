/**
 * One connected front-end: the state machine of the vhost-user protocol (QEMU docs/interop/vhost-user.rst).
 *
 * Messages are handled one after another. Every request is checked against its row in the message table before its
 * handler runs. A request that fails is answered with an error where the protocol has an answer, and otherwise ends
 * this connection: other sessions never notice. A ring runs while it is configured, started and enabled; whatever
 * changes what a running ring stands on (memory, features, addresses) stops it first, with nothing in flight, and
 * starts it again.
 */
import { TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { MEMORY_SLOTS_MAX } from '../base/limits.ts';
import type { LimitedLog, Logger } from '../base/log.ts';
import { type FdSet, signalEventFd } from '../sys/events.ts';
import { setNonBlocking } from '../sys/socket.ts';
import { VirtioFeature } from '../virtio/features.ts';
import type { InflightArea } from '../virtio/ring-shape.ts';
import { BackendRequests } from './backend-requests.ts';
import { Connection, type Message } from './connection.ts';
import { NO_FD, type SessionDevice, type VringLog } from './device.ts';
import { DeviceStatus } from './device-status.ts';
import { InbandNotifications, type NotificationKind } from './inband.ts';
import { createInflightFile, InflightRegion } from './inflight.ts';
import { MemoryTable, type RegionDescription } from './memory-table.ts';
import { checkMessage, checkProtocolFeatures, readConfigBytes, readMemoryTable } from './message-check.ts';
import * as wire from './messages.ts';
import type { ProtocolTrace } from './protocol-trace.ts';
import type { SessionRecord } from './session-record.ts';
import { SharedLog } from './shared-log.ts';
import { isMappedPrivately, SHARE_HINT } from './sharing.ts';
import { Vring } from './vring.ts';

/** A reply's payload, or nothing. */
type Reply = Uint8Array | ReplyWithFd | undefined;
/** The descriptor is closed when it was sent. */
interface ReplyWithFd {
  readonly payload: Uint8Array;
  readonly fd: number;
}
type Handler<N extends wire.RequestName> = (payload: wire.PayloadOf<N>, message: Message) => Promise<Reply> | Reply;
/** A missing or mistyped handler is a compile error. */
type Handlers = { readonly [N in wire.RequestName]: Handler<N> };

/** Device features below this bit are the device's own; a front-end may ack some that the machine adds. */
const TRANSPORT_FEATURES_FIRST = 24;
const PROTOCOL_FEATURES_BIT = wire.VHOST_USER_F_PROTOCOL_FEATURES;
/** Offered with whatever the device offers. */
const SESSION_FEATURES = wire.maskOf(PROTOCOL_FEATURES_BIT, wire.VHOST_F_LOG_ALL);

export interface SessionOptions {
  readonly device: SessionDevice;
  readonly log: Logger;
  /** For what the front-end gets wrong. */
  readonly faults: LimitedLog;
  /** Process of the front-end. */
  readonly peerPid: number;
  /** Is shown every message. Default: nobody is. */
  readonly trace?: ProtocolTrace | null;
  readonly onEnd: () => void;
}

export class Session {
  readonly memory = new MemoryTable();
  readonly #device: SessionDevice;
  readonly #log: Logger;
  readonly #faults: LimitedLog;
  readonly #peerPid: number;
  readonly #onEnd: () => void;
  readonly #connection: Connection;
  readonly #vrings: Vring[];
  readonly #handlers: Handlers = this.#createHandlers();
  readonly #requests: BackendRequests;
  readonly #inband: InbandNotifications;
  #features = 0n;
  #protocolFeatures = 0n;
  readonly #status = new DeviceStatus();
  #inflight: InflightRegion | null = null;
  /** Of a migration. */
  readonly #dirtyLog = new SharedLog();
  /** Rings that ran when it was frozen. */
  #frozen: readonly Vring[] = [];
  /** What the session is doing: ending waits for it. */
  #work: Promise<void> = Promise.resolve();
  #ended: Promise<void> | null = null;

  constructor(fd: number, fdSet: FdSet, options: SessionOptions) {
    this.#device = options.device;
    this.#log = options.log;
    this.#faults = options.faults;
    this.#peerPid = options.peerPid;
    this.#onEnd = options.onEnd;
    this.#vrings = Array.from({ length: options.device.queueCount }, (_, index) => new Vring(index));
    this.#requests = new BackendRequests(options.trace ?? null);
    this.#inband = new InbandNotifications(fdSet, (code, payload) => this.#requests.send(code, payload));
    this.#connection = new Connection(fd, fdSet, {
      onMessage: (message) => this.#serially(() => this.#handle(message)),
      onClose: (error) => void this.#end(error),
      trace: options.trace ?? null,
    });
  }

  /** Protocol features offered to every front-end. */
  get offeredProtocolFeatures(): bigint {
    const offered = wire.maskOf(...wire.PROTOCOL_FEATURES_OFFERED.map((name) => wire.ProtocolFeature[name]));
    return this.#device.config === null ? offered : offered | wire.maskOf(wire.ProtocolFeature.CONFIG);
  }

  /** True when the front-end cut off memory that it shares. */
  get wasMemoryTruncated(): boolean {
    const extra = [this.#dirtyLog.wasTruncated, this.#inflight?.wasTruncated];
    return this.memory.wasTruncated || extra.includes(true);
  }

  get runningVrings(): readonly Vring[] {
    return this.#vrings.filter((vring) => vring.isRunning);
  }

  /**
   * Tells the guest's driver to read its configuration again (BACKEND_CONFIG_CHANGE_MSG). False when it cannot be told.
   */
  notifyConfigChange(): boolean {
    if (!this.#hasProtocol('CONFIG')) return false;
    return this.#requests.send(wire.BACKEND_REQUESTS.CONFIG_CHANGE_MSG.code, new Uint8Array(0));
  }

  /** The driver broke this queue: the device needs a reset (virtio 1.3 §2.1). */
  queueBroke(index: number): void {
    if (this.#status.queueBroke(index)) this.notifyConfigChange();
  }

  /**
   * Stops those of the rings that run, with nothing in flight, and starts them again: the device may have another place
   * for them. The session ends when one cannot be started.
   */
  restartVrings(indexes: readonly number[]): Promise<void> {
    return this.#serially(async () => {
      const vrings = this.runningVrings.filter((vring) => indexes.includes(vring.index));
      await Promise.all(vrings.map((vring) => this.#stop(vring)));
      try {
        for (const vring of vrings) await this.#refresh(vring);
      } catch (error) {
        this.#connection.close(error as TargetError);
        throw error;
      }
    });
  }

  /**
   * For an upgrade: from now on no message is handled and no ring runs, until `thaw`. Throws `ETIMEDOUT` when a ring
   * still has something in flight after so long; that one runs on.
   */
  async freeze(withinMs: number): Promise<void> {
    await this.#connection.hold();
    await this.#serially(async () => {
      this.#frozen = this.runningVrings;
      const stops = this.#frozen.map(async (vring) => {
        vring.base = await this.#device.stopVring(vring.index, { withinMs });
        vring.isRunning = false;
      });
      const failed = (await Promise.allSettled(stops)).find((outcome) => outcome.status === 'rejected');
      if (failed !== undefined) throw failed.reason;
    });
  }

  /** Goes on after `freeze`, whether or not that worked, or after `load`. */
  async thaw(): Promise<void> {
    try {
      await this.#serially(async () => {
        await Promise.all(this.#frozen.map((vring) => this.#refresh(vring)));
      });
    } catch (error) {
      this.#connection.close(error as TargetError);
    }
    this.#connection.release();
  }

  /** While it is frozen. */
  save(fds: FdList): SessionRecord {
    return {
      connection: this.#connection.save(fds),
      peerPid: this.#peerPid,
      features: `${this.#features}`,
      protocolFeatures: `${this.#protocolFeatures}`,
      status: `${this.#status.value}`,
      memory: this.memory.save(fds),
      inflight: this.#inflight?.save(fds) ?? null,
      dirtyLog: this.#dirtyLog.save(fds),
      requestsFd: this.#requests.save(fds),
      vrings: this.#vrings.flatMap((vring) => (vring.isUntouched ? [] : [vring.save(fds)])),
      running: this.#frozen.map(({ index }) => index),
    };
  }

  /**
   * A new session becomes what another one was when it was frozen; the device knows that its rings are not to be
   * touched yet. No message is handled before `thaw`. Throws when it cannot be.
   */
  async load(record: SessionRecord, fds: FdList): Promise<void> {
    await this.#connection.hold();
    this.#connection.load(record.connection, fds);
    this.#features = BigInt(record.features);
    this.#protocolFeatures = BigInt(record.protocolFeatures);
    this.#status.tell(BigInt(record.status));
    this.#device.setFeatures(this.#features);
    this.memory.load(record.memory, fds);
    const { inflight } = record;
    if (inflight !== null) {
      this.#inflight = InflightRegion.load(inflight, this.#vrings.length, fds);
    }
    this.#dirtyLog.load(record.dirtyLog, fds);
    this.#requests.load(record.requestsFd, fds);
    for (const one of record.vrings) {
      this.#vring(one.index).load(one, fds, (kind) => this.#inband.fdOf(one.index, kind));
    }
    await Promise.all(record.running.map((index) => this.#refresh(this.#vring(index))));
  }

  /** Ends the session: rings stopped, memory unmapped, socket closed. */
  close(error?: TargetError): Promise<void> {
    this.#connection.close(error);
    return this.#ended ?? Promise.resolve();
  }

  #serially<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#work.then(work);
    this.#work = result.then(
      () => undefined,
      () => undefined,
    );
    return result;
  }

  #end(error?: TargetError): Promise<void> {
    if (this.#ended !== null) return this.#ended;
    if (error !== undefined) this.#faults.warn(error.code, `front-end disconnected: ${error.message}`);
    this.#ended = this.#serially(async () => {
      await this.#stopAll();
      this.memory.clear();
      this.#dirtyLog.close();
      this.#dropInflight();
      for (const vring of this.#vrings) vring.reset();
      this.#inband.close();
      this.#requests.close();
      this.#device.ended();
      this.#onEnd();
    });
    return this.#ended;
  }

  async #handle(message: Message): Promise<void> {
    if (this.#ended !== null) return;
    const name = wire.requestName(message.code);
    const wantsAck = (message.flags & wire.HeaderFlag.needReply) !== 0 && this.#hasProtocol('REPLY_ACK');
    const spec: wire.RequestSpec | undefined = name === undefined ? undefined : wire.REQUESTS[name];
    try {
      if (name === undefined || spec === undefined) {
        throw new TargetError('VHOST_MSG_UNKNOWN', `request ${message.code} is not supported`);
      }
      checkMessage(name, spec, message, (feature) => this.#hasProtocol(feature));
      const payload = spec.payload === null ? undefined : spec.payload.decode(message.payload);
      const handler = this.#handlers[name] as (payload: unknown, message: Message) => Promise<Reply> | Reply;
      const reply = await handler(payload, message);
      if (spec.hasReply) this.#reply(message.code, reply);
      else if (wantsAck) this.#reply(message.code, wire.encodeU64(0));
    } catch (error) {
      const failure = error instanceof TargetError ? error : new TargetError('EIO', String(error), { cause: error });
      if (!(error instanceof TargetError)) this.#log.error(`${name}: ${(error as Error).stack}`);
      if (spec?.hasReply || !wantsAck) throw new TargetError(failure.code, `${name ?? 'message'}: ${failure.message}`);
      this.#faults.warn(failure.code, `${name ?? 'message'} refused: ${failure.message}`);
      this.#reply(message.code, wire.encodeU64(1));
    }
  }

  #reply(code: number, reply: Reply): void {
    const { payload, fd } = reply instanceof Uint8Array || reply === undefined ? { payload: reply, fd: NO_FD } : reply;
    const message = wire.encodeMessage(code, wire.HeaderFlag.reply, payload ?? new Uint8Array(0));
    this.#connection.send(message, fd === NO_FD ? [] : [fd]);
  }

  #hasProtocol(feature: wire.ProtocolFeature): boolean {
    return wire.hasBit(this.#protocolFeatures, wire.ProtocolFeature[feature]);
  }

  #createHandlers(): Handlers {
    return {
      GET_FEATURES: () => wire.encodeU64(this.#device.features | SESSION_FEATURES),
      SET_FEATURES: ({ value }) => this.#setFeatures(value),
      SET_OWNER: () => undefined,
      RESET_OWNER: () => this.#disableAll(),
      SET_MEM_TABLE: ({ regionCount }, message) => this.#setMemTable(regionCount, message),
      SET_LOG_BASE: (description, message) => this.#setLogBase(description, message),
      SET_LOG_FD: (_, message) => this.#setLogFd(message),
      SET_VRING_NUM: ({ index, num }) => this.#setVringNum(this.#vring(index), num),
      SET_VRING_ADDR: (payload) => this.#setVringAddr(payload),
      SET_VRING_BASE: ({ index, num }) => this.#setVringBase(this.#vring(index), num),
      GET_VRING_BASE: ({ index }) => this.#getVringBase(this.#vring(index)),
      SET_VRING_KICK: ({ value }, message) => this.#setVringKick(value, message),
      SET_VRING_CALL: ({ value }, message) => this.#setVringCall(value, message),
      SET_VRING_ERR: ({ value }, message) => this.#setVringErr(value, message),
      GET_PROTOCOL_FEATURES: () => wire.encodeU64(this.offeredProtocolFeatures),
      SET_PROTOCOL_FEATURES: ({ value }) => this.#setProtocolFeatures(value),
      GET_QUEUE_NUM: () => wire.encodeU64(this.#device.queueCount),
      SET_VRING_ENABLE: ({ index, num }) => this.#setVringEnable(this.#vring(index), num),
      SET_BACKEND_REQ_FD: (_, message) => void this.#requests.replace(message.takeFd()),
      GET_CONFIG: (asked) => wire.encodeConfig(this.#device.config?.read() ?? new Uint8Array(0), asked),
      SET_CONFIG: (head, message) => this.#setConfig(head, message),
      GET_INFLIGHT_FD: (payload) => this.#getInflightFd(payload),
      SET_INFLIGHT_FD: (payload, message) => this.#setInflightFd(payload, message),
      RESET_DEVICE: () => this.#resetDevice(),
      VRING_KICK: ({ index }) => void this.#inband.kick(this.#vring(index).index),
      GET_MAX_MEM_SLOTS: () => wire.encodeU64(MEMORY_SLOTS_MAX),
      ADD_MEM_REG: (region, message) => this.#addMemReg(region, message),
      REM_MEM_REG: (region) => this.#remMemReg(region),
      SET_STATUS: ({ value }) => this.#setStatus(value),
      GET_STATUS: () => wire.encodeU64(this.#status.value),
    };
  }

  #vring(index: number): Vring {
    const vring = this.#vrings[index];
    if (vring === undefined) {
      throw new TargetError('VHOST_VRING_INDEX', `there is no queue ${index}; the device has ${this.#vrings.length}`);
    }
    return vring;
  }

  #isEnabled(vring: Vring): boolean {
    return vring.isEnabled || !wire.hasBit(this.#features, PROTOCOL_FEATURES_BIT);
  }

  // ---- features -----------------------------------------------------------------------------------------------------

  async #setFeatures(value: bigint): Promise<undefined> {
    const offered = this.#device.features | SESSION_FEATURES;
    const extra = value & ~offered;
    if (extra >> BigInt(TRANSPORT_FEATURES_FIRST) !== 0n) {
      throw new TargetError('VHOST_FEATURES', `features 0x${extra.toString(16)} were acked but never offered`);
    }
    await this.#restartAround(async () => {
      this.#features = value & offered;
      this.#device.setFeatures(this.#features);
    });
  }

  #setProtocolFeatures(value: bigint): undefined {
    checkProtocolFeatures(value, this.offeredProtocolFeatures);
    this.#protocolFeatures = value;
  }

  /** 0 resets the device: its rings stop and begin anew; memory and the descriptors to call on stay. */
  async #setStatus(value: bigint): Promise<undefined> {
    this.#status.tell(value);
    if (value !== 0n) return;
    await this.#disableAll();
    for (const vring of this.#vrings) vring.begin();
    this.#features = 0n;
    this.#device.reset();
  }

  // ---- memory -------------------------------------------------------------------------------------------------------

  async #setMemTable(regionCount: number, message: Message): Promise<undefined> {
    if (regionCount === 0) this.#log.warn(SHARE_HINT);
    const regions = readMemoryTable(regionCount, message);
    await this.#restartAround(async () => {
      this.memory.clear();
      for (const region of regions) this.#addRegion(region, message.takeFd());
    });
  }

  async #addMemReg(region: RegionDescription, message: Message): Promise<undefined> {
    // One that is refused does not touch the rings. Running ones know a list of regions: they are given the new one.
    this.#addRegion(region, message.takeFd());
    await this.#restartAround(async () => {});
  }

  #addRegion(region: RegionDescription, fd: number): void {
    if (isMappedPrivately(this.#peerPid, fd)) this.#log.warn(SHARE_HINT);
    this.memory.add(region, fd);
  }

  async #remMemReg(region: RegionDescription): Promise<undefined> {
    if (!this.memory.has(region)) {
      throw new TargetError('VHOST_MEM_REGION', 'the memory region to remove does not exist');
    }
    await this.#restartAround(async () => this.memory.remove(region));
  }

  // ---- dirty log ----------------------------------------------------------------------------------------------------

  async #setLogBase(description: wire.PayloadOf<'SET_LOG_BASE'>, message: Message): Promise<Uint8Array> {
    const replace = this.#dirtyLog.map(message.takeFd(), description);
    await this.#restartAround(async () => replace());
    return wire.encodeU64(0);
  }

  async #setLogFd(message: Message): Promise<undefined> {
    const fd = message.takeFd();
    setNonBlocking(fd);
    await this.#restartAround(async () => this.#dirtyLog.replaceFd(fd));
  }

  #vringLog(vring: Vring): VringLog | null {
    if (!wire.hasBit(this.#features, wire.VHOST_F_LOG_ALL)) return null;
    return this.#dirtyLog.describe(vring.loggedRing(this.#isPacked, this.memory.regions));
  }

  // ---- rings --------------------------------------------------------------------------------------------------------

  #setVringNum(vring: Vring, size: number): undefined {
    if (vring.isRunning) throw new TargetError('VHOST_VRING_BUSY', `queue ${vring.index} is running`);
    vring.setSize(size, this.#isPacked);
  }

  async #setVringAddr(payload: wire.PayloadOf<'SET_VRING_ADDR'>): Promise<undefined> {
    const vring = this.#vring(payload.index);
    const { descriptor, used, available } = payload;
    const usedLogAddress = (payload.flags & wire.VRING_LOG_USED) === 0 ? null : payload.log;
    vring.checkAlignment(this.#isPacked, { descriptor, available, used });
    const before = vring.addresses;
    const isSame =
      before !== null && before.descriptor === descriptor && before.used === used && before.available === available;
    const isLogSame = vring.usedLogAddress === usedLogAddress;
    vring.usedLogAddress = usedLogAddress;
    // The log flag alone matters to a ring that logs.
    if (isSame && (isLogSame || this.#vringLog(vring) === null)) return;
    if (vring.isRunning) await this.#stop(vring);
    vring.addresses = { descriptor, used, available };
    if (this.memory.count > 0 && vring.size > 0) this.#resolve(vring);
    await this.#refresh(vring);
  }

  #setVringBase(vring: Vring, base: number): undefined {
    if (vring.isRunning) throw new TargetError('VHOST_VRING_BUSY', `queue ${vring.index} is running`);
    vring.base = base;
    if (!this.#isPacked || vring.size > 0) vring.checkedBase(this.#isPacked);
  }

  async #getVringBase(vring: Vring): Promise<Uint8Array> {
    if (vring.isRunning) await this.#stop(vring, true);
    vring.isStarted = false;
    vring.replaceFd('kickFd', NO_FD);
    return wire.VringState.encode({ index: vring.index, num: vring.place(this.#isPacked) });
  }

  async #setVringKick(value: bigint, message: Message): Promise<undefined> {
    const { vring, fd, isBorrowed } = this.#vringFd('kick', value, message);
    if (vring.isRunning) await this.#stop(vring);
    vring.replaceFd('kickFd', fd, isBorrowed);
    vring.isStarted = true;
    await this.#refresh(vring);
  }

  async #setVringCall(value: bigint, message: Message): Promise<undefined> {
    const { vring, fd, isBorrowed } = this.#vringFd('call', value, message);
    if (fd !== NO_FD) setNonBlocking(fd);
    if (vring.isRunning) await this.#device.setVringCall(vring.index, fd);
    vring.replaceFd('callFd', fd, isBorrowed);
    // A driver that missed an interrupt on the old descriptor looks again.
    if (vring.isRunning && fd !== NO_FD) signalEventFd(fd);
  }

  async #setVringErr(value: bigint, message: Message): Promise<undefined> {
    const { vring, fd, isBorrowed } = this.#vringFd('err', value, message);
    if (fd !== NO_FD) setNonBlocking(fd);
    if (vring.isRunning) await this.#stop(vring);
    vring.replaceFd('errFd', fd, isBorrowed);
    await this.#refresh(vring);
  }

  #vringFd(kind: NotificationKind, value: bigint, message: Message) {
    const bits = Number(value & 0x1ffn);
    const vring = this.#vring(bits & wire.VRING_INDEX_MASK);
    const hasFd = (bits & wire.VRING_NO_FD) === 0;
    if (hasFd !== (message.fdCount === 1)) {
      throw new TargetError('VHOST_MSG_FDS', hasFd ? 'the descriptor is missing' : 'a descriptor came unannounced');
    }
    const isBorrowed = !hasFd && this.#hasProtocol('INBAND_NOTIFICATIONS');
    return { vring, fd: isBorrowed ? this.#inband.fdOf(vring.index, kind) : message.takeFd(), isBorrowed };
  }

  async #setVringEnable(vring: Vring, num: number): Promise<undefined> {
    if (num > 1) throw new TargetError('VHOST_VRING_ENABLE', `${num} is neither 0 nor 1`);
    vring.isEnabled = num === 1;
    // Front-ends do this before GET_VRING_BASE.
    if (!this.#isEnabled(vring) && vring.isRunning) await this.#stop(vring, true);
    await this.#refresh(vring);
  }

  get #isPacked(): boolean {
    return wire.hasBit(this.#features, VirtioFeature.RING_PACKED);
  }

  /** Starts a ring that has everything it needs. */
  async #refresh(vring: Vring): Promise<void> {
    if (vring.isRunning || !vring.isConfigured || !this.#isEnabled(vring) || this.#ended !== null) return;
    await this.#device.startVring({
      index: vring.index,
      size: vring.size,
      ...this.#resolve(vring),
      base: vring.checkedBase(this.#isPacked),
      isPacked: this.#isPacked,
      isInOrder: wire.hasBit(this.#features, VirtioFeature.IN_ORDER),
      inflight: this.#inflightArea(vring),
      hasEventIdx: wire.hasBit(this.#features, VirtioFeature.EVENT_IDX),
      kickFd: vring.kickFd,
      callFd: vring.callFd,
      errFd: vring.errFd,
      regions: this.memory.regions,
      log: this.#vringLog(vring),
    });
    vring.isRunning = true;
    // A driver that missed the last interrupt of a back-end before us looks again.
    if (vring.callFd !== NO_FD) signalEventFd(vring.callFd);
  }

  /** Where the ring keeps what it has in flight; null: nowhere. */
  #inflightArea({ index, size }: Vring): InflightArea | null {
    if (this.#inflight === null) return null;
    const area = this.#inflight.part(index, size, this.#isPacked);
    const lost = 'what it has in flight is forgotten when the daemon dies';
    if (area === null)
      this.#faults.warn('inflight', `queue ${index} of ${size} entries fits no in-flight region: ${lost}`);
    return area;
  }

  /** `mayLeave`: requests may stay in the in-flight region, where the front-end has agreed to that. */
  async #stop(vring: Vring, mayLeave = false): Promise<void> {
    const leaves = mayLeave && this.#hasProtocol('GET_VRING_BASE_INFLIGHT') && this.#inflightArea(vring) !== null;
    vring.isRunning = false;
    vring.base = await this.#device.stopVring(vring.index, { leaves });
    this.#status.queueStopped(vring.index);
  }

  async #stopAll(): Promise<Vring[]> {
    const running = this.#vrings.filter((vring) => vring.isRunning);
    await Promise.all(running.map((vring) => this.#stop(vring)));
    return running;
  }

  /** Runs `change` while no ring runs, then starts those that ran. */
  async #restartAround(change: () => Promise<void>): Promise<void> {
    await this.#stopAll();
    await change();
    for (const vring of this.#vrings) await this.#refresh(vring);
  }

  /** Host addresses of a ring's parts; throws when they are not in the memory. */
  #resolve(vring: Vring) {
    if (this.memory.count === 0) this.#log.warn(SHARE_HINT);
    return vring.hostAddresses(this.#isPacked, this.memory.regions);
  }

  async #disableAll(): Promise<undefined> {
    await this.#stopAll();
    for (const vring of this.#vrings) {
      vring.isStarted = false;
      vring.isEnabled = false;
      vring.replaceFd('kickFd', NO_FD);
    }
  }

  async #resetDevice(): Promise<undefined> {
    await this.#stopAll();
    for (const vring of this.#vrings) vring.reset();
    this.#dropInflight();
    this.#features = 0n;
    this.#status.tell(0n);
    this.#device.reset();
  }

  // ---- requests in flight -------------------------------------------------------------------------------------------

  #getInflightFd(asked: wire.InflightDescription): ReplyWithFd {
    const { fd, description } = createInflightFile(asked, this.#vrings.length, this.#isPacked);
    const payload = new Uint8Array(wire.INFLIGHT_BYTES);
    wire.InflightDescription.encode(description, payload);
    return { payload, fd };
  }

  async #setInflightFd(description: wire.InflightDescription, message: Message): Promise<undefined> {
    const region = new InflightRegion(description, this.#vrings.length, this.#isPacked, message.takeFd());
    await this.#restartAround(async () => {
      this.#dropInflight();
      this.#inflight = region;
    });
  }

  /** No ring runs. */
  #dropInflight(): void {
    this.#inflight?.close();
    this.#inflight = null;
  }

  async #setConfig({ offset, size }: wire.PayloadOf<'SET_CONFIG'>, { payload }: Message): Promise<undefined> {
    await this.#device.config?.write(offset, readConfigBytes(size, payload));
  }
}
