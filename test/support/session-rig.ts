/** A vhost-user session with a device that only records, and a front-end that may send anything. */
import { LimitedLog, type Logger, SILENT } from '../../src/base/log.ts';
import { MessageReader, type RawMessage } from '../../src/initiator/message-reader.ts';
import type { OwnedMemory } from '../../src/initiator/owned-memory.ts';
import { closeFd, createEventFd, FdSet } from '../../src/sys/events.ts';
import { sendMessage, socketPair } from '../../src/sys/socket.ts';
import type { SessionConfig, SessionDevice, StopOptions, VringStart } from '../../src/vhost-user/device.ts';
import {
  encodeMessage,
  encodeU64,
  HeaderFlag,
  MemoryRegion,
  MemoryTableHead,
  maskOf,
  ProtocolFeature,
  REQUESTS,
  type RequestName,
  SingleMemoryRegion,
  U64,
  VringAddr,
  VringState,
} from '../../src/vhost-user/messages.ts';
import { Session } from '../../src/vhost-user/session.ts';
import { VirtioFeature } from '../../src/virtio/features.ts';
import { until } from './waiting.ts';

export const PROTOCOL_FEATURES_BIT = maskOf(30);
export const EVENT_IDX_BIT = maskOf(VirtioFeature.EVENT_IDX);
/** What a session negotiates here unless a test says otherwise. */
export const PROTOCOL_FEATURES = maskOf(
  ProtocolFeature.MQ,
  ProtocolFeature.REPLY_ACK,
  ProtocolFeature.BACKEND_REQ,
  ProtocolFeature.CONFIG,
  ProtocolFeature.INFLIGHT_SHMFD,
  ProtocolFeature.RESET_DEVICE,
  ProtocolFeature.CONFIGURE_MEM_SLOTS,
  ProtocolFeature.LOG_SHMFD,
  ProtocolFeature.STATUS,
);
export const INBAND_BIT = maskOf(ProtocolFeature.INBAND_NOTIFICATIONS);
export const LEAVING_BIT = maskOf(ProtocolFeature.GET_VRING_BASE_INFLIGHT);

export class FakeDevice implements SessionDevice {
  features = maskOf(6, 9, VirtioFeature.VERSION_1, VirtioFeature.EVENT_IDX);
  readonly queueCount: number;
  config: SessionConfig | null = {
    read: () => Uint8Array.from({ length: 60 }, (_, i) => i + 1),
    write: async (offset, bytes) => {
      this.events.push(`write ${offset}: ${bytes.join()}`);
    },
  };
  /** What was called, in order. */
  readonly events: string[] = [];
  /** Running rings. */
  readonly running = new Map<number, VringStart>();
  /** What the next stop of a ring reports; what it was started with, when there is none. */
  readonly base = new Map<number, number>();
  /** Called before a start or a stop resolves. */
  gate: (what: string) => Promise<void> = async () => {};
  endCount = 0;

  constructor(queueCount: number) {
    this.queueCount = queueCount;
  }

  setFeatures(features: bigint): void {
    this.events.push(`features 0x${features.toString(16)}`);
  }

  async startVring(vring: VringStart): Promise<void> {
    const { index, base } = vring;
    if (this.running.has(index)) throw new Error(`ring ${index} is started twice`);
    await this.gate(`start ${index}`);
    this.running.set(index, vring);
    this.events.push(`start ${index} at ${base}`);
  }

  async stopVring(index: number, { leaves = false }: StopOptions = {}): Promise<number> {
    const vring = this.running.get(index);
    if (vring === undefined) throw new Error(`ring ${index} is stopped, but does not run`);
    await this.gate(`stop ${index}`);
    this.running.delete(index);
    this.events.push(leaves ? `stop ${index}, leaving requests` : `stop ${index}`);
    return this.base.get(index) ?? vring.base;
  }

  async setVringCall(index: number, callFd: number): Promise<void> {
    if (!this.running.has(index)) throw new Error(`ring ${index} gets a call descriptor, but does not run`);
    this.events.push(`call ${index}: ${callFd < 0 ? 'none' : 'one'}`);
  }

  reset(): void {
    this.events.push('reset');
  }

  ended(): void {
    this.endCount++;
  }
}

export interface SendOptions {
  readonly fds?: readonly number[];
  readonly needReply?: boolean;
}

export class SessionRig {
  readonly fdSet: FdSet;
  readonly device: FakeDevice;
  readonly session: Session;
  /** Lines of the log, `level: message`. */
  readonly lines: string[] = [];
  endings = 0;
  readonly #peer: number;
  readonly #reader: MessageReader;
  readonly #ownsFdSet: boolean;
  #isPeerOpen = true;

  constructor(options: { queueCount?: number; hasConfig?: boolean; fdSet?: FdSet; peerPid?: number } = {}) {
    this.#ownsFdSet = options.fdSet === undefined;
    this.fdSet = options.fdSet ?? new FdSet();
    this.device = new FakeDevice(options.queueCount ?? 4);
    if (options.hasConfig === false) this.device.config = null;
    const [own, peer] = socketPair();
    this.#peer = peer;
    this.#reader = new MessageReader(peer);
    const log: Logger = {
      ...SILENT,
      warn: (message) => this.lines.push(`warn: ${message}`),
      error: (message) => this.lines.push(`error: ${message}`),
    };
    this.session = new Session(own, this.fdSet, {
      device: this.device,
      log,
      faults: new LimitedLog(log, 100),
      peerPid: options.peerPid ?? process.pid,
      onEnd: () => this.endings++,
    });
  }

  /** A session that negotiated virtio features (with bit 30) and protocol features. */
  static async negotiated(
    features = EVENT_IDX_BIT | PROTOCOL_FEATURES_BIT,
    protocolFeatures = PROTOCOL_FEATURES,
  ): Promise<SessionRig> {
    const rig = new SessionRig();
    rig.device.features |= features & ~PROTOCOL_FEATURES_BIT;
    rig.send('SET_PROTOCOL_FEATURES', encodeU64(protocolFeatures));
    await rig.accept('SET_FEATURES', encodeU64(features));
    rig.device.events.length = 0;
    return rig;
  }

  sendRaw(code: number, payload: Uint8Array, { fds = [], needReply = false }: SendOptions = {}): void {
    const flags = needReply ? HeaderFlag.needReply : 0;
    sendMessage(this.#peer, encodeMessage(code, flags, payload), 0, fds);
  }

  /** Bytes as they are, with descriptors beside the first. What the socket does not take is lost. */
  sendBytes(bytes: Uint8Array, fds: readonly number[] = []): void {
    sendMessage(this.#peer, bytes, 0, fds);
  }

  send(name: RequestName, payload: Uint8Array = new Uint8Array(0), options: SendOptions = {}): void {
    this.sendRaw(REQUESTS[name].code, payload, options);
  }

  /** The next message from the session. @throws Error when the connection ends instead */
  async receive(): Promise<RawMessage> {
    let message: RawMessage | null = null;
    await until(() => {
      const result = this.#reader.read();
      if (result.kind === 'end') throw new Error(`the session ended the connection: ${this.lines.at(-1)}`);
      if (result.kind === 'message') message = result.message;
      return message !== null;
    }, 'message from the session');
    return message as unknown as RawMessage;
  }

  /** Payload of the reply to a request that has one of its own. */
  async ask(name: RequestName, payload?: Uint8Array, options?: SendOptions): Promise<Uint8Array> {
    this.send(name, payload, options);
    const reply = await this.receive();
    if (reply.request !== REQUESTS[name].code) throw new Error(`${name} was answered with message ${reply.request}`);
    return reply.payload;
  }

  async askU64(name: RequestName, payload?: Uint8Array): Promise<bigint> {
    return U64.decode(await this.ask(name, payload)).value;
  }

  /** True when a request without a reply of its own was accepted. */
  async isAccepted(name: RequestName, payload?: Uint8Array, fds: readonly number[] = []): Promise<boolean> {
    this.send(name, payload, { fds, needReply: true });
    const reply = await this.receive();
    if (reply.request !== REQUESTS[name].code) throw new Error(`${name} was answered with message ${reply.request}`);
    return U64.decode(reply.payload).value === 0n;
  }

  /** @throws Error when the session refuses */
  async accept(name: RequestName, payload?: Uint8Array, fds?: readonly number[]): Promise<void> {
    if (!(await this.isAccepted(name, payload, fds))) throw new Error(`${name} was refused: ${this.lines.at(-1)}`);
  }

  /** The session refuses, goes on, and this is what it says. */
  async refusal(name: RequestName, payload?: Uint8Array, fds?: readonly number[]): Promise<string> {
    if (await this.isAccepted(name, payload, fds)) throw new Error(`${name} was accepted`);
    return this.lines.at(-1) ?? '';
  }

  /** The reason for which the session ended the connection. */
  async disconnection(): Promise<string> {
    await until(() => this.#reader.read().kind === 'end', 'end of the connection');
    await until(() => this.endings > 0, 'end of the session');
    return this.lines.at(-1) ?? '';
  }

  /** Everything sent so far was handled. */
  async settled(): Promise<void> {
    await this.ask('GET_FEATURES');
  }

  async shareMemory(memory: OwnedMemory): Promise<void> {
    await this.accept(
      'SET_MEM_TABLE',
      memoryTable(memory),
      memory.regions.map(({ fd }) => fd),
    );
  }

  /** Sends an eventfd for a ring, and closes it at this side. */
  async sendEvent(name: 'SET_VRING_KICK' | 'SET_VRING_CALL' | 'SET_VRING_ERR', index: number): Promise<void> {
    const fd = createEventFd();
    try {
      await this.accept(name, encodeU64(index), [fd]);
    } finally {
      closeFd(fd);
    }
  }

  closePeer(): void {
    if (this.#isPeerOpen) closeFd(this.#peer);
    this.#isPeerOpen = false;
  }

  async close(): Promise<void> {
    this.#reader.close();
    this.closePeer();
    await this.session.close();
    if (this.#ownsFdSet) this.fdSet.close();
  }
}

export function memoryTable(memory: OwnedMemory): Uint8Array {
  const head = MemoryTableHead.encode({ regionCount: memory.regions.length, padding: 0 });
  return Buffer.concat([head, ...memory.regions.map((region) => MemoryRegion.encode(region))]);
}

export function singleRegion(region: {
  guestAddress: number;
  sizeBytes: number;
  userAddress: number;
  mmapOffset: number;
}): Uint8Array {
  return SingleMemoryRegion.encode({ padding: 0n, ...region });
}

export function vringState(index: number, num: number): Uint8Array {
  return VringState.encode({ index, num });
}

/** Addresses of a ring of up to 128 entries that lies at the start of a region's page `page`. */
export function vringAddr(memory: OwnedMemory, index: number, page = 0): Uint8Array {
  const base = (memory.regions[0]?.userAddress ?? 0) + page * 8192;
  const parts = { descriptor: base, available: base + 2048, used: base + 4096 };
  return VringAddr.encode({ index, flags: 0, log: 0, ...parts });
}
