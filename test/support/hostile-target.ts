/**
 * A vhost-user-blk back-end that behaves as a test tells it: it answers messages and requests rightly, but for what is
 * replaced. It speaks to our virtio disks, in this process or in a daemon.
 */
import { rmSync } from 'node:fs';
import { MessageReader, type RawMessage } from '../../src/initiator/message-reader.ts';
import { closeFd, FdSet, readEventFd, signalEventFd } from '../../src/sys/events.ts';
import { Mapping, MappingViews } from '../../src/sys/mapping.ts';
import { acceptUnix, listenUnix, sendMessage } from '../../src/sys/socket.ts';
import {
  ConfigHead,
  encodeMessage,
  encodeU64,
  HeaderFlag,
  MemoryRegion,
  MemoryTableHead,
  maskOf,
  ProtocolFeature,
  REQUESTS,
  requestName,
  U64,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VRING_INDEX_MASK,
  VringAddr,
  VringState,
} from '../../src/vhost-user/messages.ts';
import { BlkConfig, BlkFeature, BlkStatus, SECTOR_BYTES } from '../../src/virtio/blk.ts';
import { VirtioFeature } from '../../src/virtio/features.ts';

type Config = ReturnType<typeof BlkConfig.decode>;

/** What it does otherwise than it should. */
export interface Manners {
  readonly features?: bigint;
  readonly protocol?: bigint;
  readonly queues?: bigint;
  readonly config?: Partial<Config>;
  /** In place of the answer to a message: its bytes, or nothing. Undefined: the right answer. */
  answer?(name: string, message: RawMessage): Uint8Array | null | undefined;
  /** In place of the right treatment of a request. */
  serve?(ring: FakeRing, head: number): void;
}

export const DISK_SECTORS = 2048;
const FEATURES =
  maskOf(VirtioFeature.VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES, BlkFeature.BLK_SIZE, BlkFeature.FLUSH) |
  maskOf(BlkFeature.SEG_MAX, BlkFeature.MQ);
const PROTOCOL = maskOf(
  ProtocolFeature.MQ,
  ProtocolFeature.REPLY_ACK,
  ProtocolFeature.CONFIG,
  ProtocolFeature.BACKEND_REQ,
);
const SANE: Partial<Config> = { capacitySectors: DISK_SECTORS, blockSizeBytes: 512, segMax: 126, queueCount: 1 };

/** One queue, as the device sees it. */
class FakeRing {
  readonly #memory: SharedMemory;
  size = 0;
  addresses: ReturnType<typeof VringAddr.decode> | null = null;
  kickFd = -1;
  callFd = -1;
  nextAvail = 0;
  nextUsed = 0;

  constructor(memory: SharedMemory) {
    this.#memory = memory;
  }

  /** Gives a request back. */
  use(id: number, lengthBytes: number): void {
    const used = this.#at(this.addresses?.used ?? 0);
    const words = new Uint32Array(this.#memory.buffer, used + 4, 2 * this.size);
    words[2 * (this.nextUsed % this.size)] = id;
    words[2 * (this.nextUsed % this.size) + 1] = lengthBytes;
    this.nextUsed = (this.nextUsed + 1) & 0xffff;
    this.showUsed(this.nextUsed);
  }

  showUsed(index: number): void {
    Atomics.store(new Uint16Array(this.#memory.buffer, this.#at(this.addresses?.used ?? 0), 2), 1, index);
    signalEventFd(this.callFd);
  }

  /** Does it: reads give the number of their sector in every byte. */
  complete(head: number, status: number = BlkStatus.OK): void {
    const chain = this.chain(head);
    const view = new DataView(this.#memory.buffer);
    const [header, ...rest] = chain;
    const last = rest.pop();
    if (header === undefined || last === undefined) throw new Error('a request has a header and a status');
    const sector = Number(view.getBigUint64(header.offset + 8, true));
    const data = rest.at(0);
    if (data?.isWritable === true) {
      for (let at = 0; at < data.lengthBytes; at += SECTOR_BYTES) {
        new Uint8Array(this.#memory.buffer, data.offset + at, SECTOR_BYTES).fill(sector + at / SECTOR_BYTES);
      }
    }
    view.setUint8(last.offset, status);
    this.use(head, 1 + (data?.isWritable === true ? data.lengthBytes : 0));
  }

  chain(head: number): { offset: number; lengthBytes: number; isWritable: boolean }[] {
    const table = new DataView(this.#memory.buffer, this.#at(this.addresses?.descriptor ?? 0), 16 * this.size);
    const chain = [];
    for (let index = head; ; ) {
      const flags = table.getUint16(16 * index + 12, true);
      const offset = Number(table.getBigUint64(16 * index, true)) - this.#memory.guestAddress;
      chain.push({ offset, lengthBytes: table.getUint32(16 * index + 8, true), isWritable: (flags & 2) !== 0 });
      if ((flags & 1) === 0) return chain;
      index = table.getUint16(16 * index + 14, true);
    }
  }

  /** Heads that are new in the available ring. */
  take(): number[] {
    const available = new Uint16Array(this.#memory.buffer, this.#at(this.addresses?.available ?? 0), 2 + this.size);
    const heads = [];
    for (const index = Atomics.load(available, 1); this.nextAvail !== index; ) {
      heads.push(available[2 + (this.nextAvail % this.size)] as number);
      this.nextAvail = (this.nextAvail + 1) & 0xffff;
    }
    return heads;
  }

  #at(userAddress: number): number {
    return userAddress - this.#memory.userAddress;
  }
}

/** The only region. */
interface SharedMemory {
  buffer: ArrayBuffer;
  guestAddress: number;
  userAddress: number;
  fd: number;
}

/** One connection of a front-end. */
class Session {
  readonly memory: SharedMemory = { buffer: new ArrayBuffer(0), guestAddress: 0, userAddress: 0, fd: -1 };
  readonly rings: FakeRing[] = [];
  backendFd = -1;
  readonly #fd: number;
  readonly #fds: FdSet;
  readonly #reader: MessageReader;
  readonly #target: HostileTarget;
  readonly #views = new MappingViews();
  #mapping: Mapping | null = null;
  #isOpen = true;

  constructor(fd: number, fds: FdSet, target: HostileTarget) {
    this.#fd = fd;
    this.#fds = fds;
    this.#target = target;
    this.#reader = new MessageReader(fd);
    fds.add(fd, () => this.#readAll());
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#fds.remove(this.#fd);
    this.#reader.close();
    closeFd(this.#fd);
    for (const { kickFd, callFd } of this.rings) {
      if (kickFd >= 0) {
        this.#fds.remove(kickFd);
        closeFd(kickFd);
      }
      if (callFd >= 0) closeFd(callFd);
    }
    if (this.backendFd >= 0) closeFd(this.backendFd);
    this.#views.close();
    this.#mapping?.close();
    if (this.memory.fd >= 0) closeFd(this.memory.fd);
  }

  /** A request on the back-end's own socket, which nobody waits for. */
  tell(code: number, payload: Uint8Array, flags = 0, fds: readonly number[] = []): number {
    return sendMessage(this.backendFd, encodeMessage(code, flags, payload), 0, fds);
  }

  #readAll(): void {
    while (this.#isOpen) {
      const result = this.#reader.read();
      if (result.kind === 'again') return;
      if (result.kind === 'end') this.close();
      else this.#handle(result.message);
    }
  }

  #handle(message: RawMessage): void {
    const name = requestName(message.request) ?? String(message.request);
    this.#target.seen.push(name);
    const { manners } = this.#target;
    const right = this.#answerTo(name, message);
    const answer = manners.answer?.(name, message);
    const bytes = answer === undefined ? right : answer;
    if (bytes !== null && this.#isOpen) sendMessage(this.#fd, bytes);
  }

  #answerTo(name: string, message: RawMessage): Uint8Array | null {
    const { manners } = this.#target;
    const reply = (payload: Uint8Array) => encodeMessage(message.request, HeaderFlag.reply, payload);
    switch (name) {
      case 'GET_FEATURES':
        return reply(encodeU64(manners.features ?? FEATURES));
      case 'GET_PROTOCOL_FEATURES':
        return reply(encodeU64(manners.protocol ?? PROTOCOL));
      case 'GET_QUEUE_NUM':
        return reply(encodeU64(manners.queues ?? 4n));
      case 'GET_CONFIG':
        return reply(this.#config(message.payload));
      case 'GET_VRING_BASE':
        return reply(VringState.encode({ index: 0, num: 0 }));
      default:
        this.#apply(name, message);
        return (message.flags & HeaderFlag.needReply) === 0 ? null : reply(encodeU64(0));
    }
  }

  #config(asked: Uint8Array): Uint8Array {
    const payload = asked.slice();
    const config = { ...BlkConfig.decode(new Uint8Array(BlkConfig.size)), ...SANE, ...this.#target.manners.config };
    payload.set(BlkConfig.encode(config), ConfigHead.size);
    return payload;
  }

  #apply(name: string, { payload, fds }: RawMessage): void {
    const [fd = -1] = fds;
    if (name === 'SET_MEM_TABLE') this.#map(payload, fd);
    else if (name === 'SET_VRING_NUM') this.#ring(payload).size = VringState.decode(payload).num;
    else if (name === 'SET_VRING_ADDR') this.#ring(payload).addresses = VringAddr.decode(payload);
    else if (name === 'SET_VRING_CALL') this.#ring(payload).callFd = fd;
    else if (name === 'SET_VRING_KICK') this.#start(this.#ring(payload), fd);
    else if (name === 'SET_BACKEND_REQ_FD') this.backendFd = fd;
    else for (const other of fds) closeFd(other);
  }

  #ring(payload: Uint8Array): FakeRing {
    const index = Number(U64.decode(payload.subarray(0, 8)).value & BigInt(VRING_INDEX_MASK));
    this.rings[index] ??= new FakeRing(this.memory);
    return this.rings[index];
  }

  #map(payload: Uint8Array, fd: number): void {
    const region = MemoryRegion.decode(payload, MemoryTableHead.size);
    this.#mapping = Mapping.file(fd, region.mmapOffset, region.sizeBytes, { guarded: true });
    this.memory.buffer = this.#views.view(this.#mapping, 0, region.sizeBytes);
    this.memory.guestAddress = region.guestAddress;
    this.memory.userAddress = region.userAddress;
    this.memory.fd = fd;
  }

  #start(ring: FakeRing, kickFd: number): void {
    ring.kickFd = kickFd;
    this.#fds.add(kickFd, () => {
      readEventFd(kickFd);
      for (const head of ring.take()) {
        if (!this.#isOpen) return;
        const { serve } = this.#target.manners;
        if (serve === undefined) ring.complete(head);
        else serve(ring, head);
      }
    });
  }
}

export class HostileTarget {
  readonly path: string;
  /** May be changed at any time. */
  manners: Manners;
  /** Messages that came, by name. */
  readonly seen: string[] = [];
  connections = 0;
  readonly #fds = new FdSet();
  readonly #listenFd: number;
  readonly #sessions = new Set<Session>();

  constructor(path: string, manners: Manners = {}) {
    this.path = path;
    this.manners = manners;
    this.#listenFd = listenUnix(path);
    this.#fds.add(this.#listenFd, () => {
      const fd = acceptUnix(this.#listenFd);
      if (fd < 0) return;
      this.connections++;
      this.#sessions.add(new Session(fd, this.#fds, this));
    });
  }

  /** The newest. */
  get session(): Session {
    const session = [...this.#sessions].at(-1);
    if (session === undefined) throw new Error('nobody is connected');
    return session;
  }

  /** Ends all connections; new ones are taken. */
  hangUp(): void {
    for (const session of this.#sessions) session.close();
    this.#sessions.clear();
  }

  close(): void {
    this.hangUp();
    this.#fds.remove(this.#listenFd);
    closeFd(this.#listenFd);
    this.#fds.close();
    rmSync(this.path, { force: true });
  }
}

/** A reply to `name` with any payload. */
export function replyTo(
  name: keyof typeof REQUESTS,
  payload: Uint8Array,
  flags: number = HeaderFlag.reply,
): Uint8Array {
  return encodeMessage(REQUESTS[name].code, flags, payload);
}
