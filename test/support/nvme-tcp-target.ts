/**
 * A target of NVMe/TCP in this process, on a real socket of the loopback: a subsystem of one or more namespaces in
 * memory,
 * with limits that a test chooses, and with faults that a test turns on. It answers as the specification has it
 * unless it
 * was told not to.
 */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { DISCOVERY_NQN, FABRICS_OPCODE } from '../../src/nvme/tcp/fabrics.ts';
import { CompletionPdu, DataPdu, IcReq, IcResp, PduFlag, PduType, R2tPdu, TermPdu } from '../../src/nvme/tcp/pdu.ts';

export const TARGET_NQN = 'nqn.2026-01.io.ringhost:test';
const NAMESPACE_BYTES = 8 << 20;

export interface TargetLimits {
  blockSizeBytes: number;
  namespaceBytes: number;
  /** In-capsule data of I/O commands. */
  capsuleDataBytes: number;
  /** Power of two of 4 KiB pages; 0: none. */
  mdts: number;
  maxH2cData: number;
  /** R2Ts are for so many bytes at most. */
  r2tBytes: number;
  /** C2HData PDUs are of so many bytes at most. */
  c2hBytes: number;
  /** Success comes with the data. */
  usesSuccess: boolean;
  /** CPDA, 0-based dwords. */
  cpda: number;
  /** Bytes of padding before the data that it sends, a multiple of 4. */
  padding: number;
  headerDigest: boolean;
  dataDigest: boolean;
  entries: number;
  queues: number;
}

const LIMITS: Readonly<TargetLimits> = {
  blockSizeBytes: 512,
  namespaceBytes: NAMESPACE_BYTES,
  capsuleDataBytes: 8192,
  mdts: 5,
  maxH2cData: 131_072,
  r2tBytes: 131_072,
  c2hBytes: 131_072,
  usesSuccess: false,
  cpda: 0,
  padding: 0,
  headerDigest: true,
  dataDigest: true,
  entries: 128,
  queues: 16,
};

export interface ListedSubsystem {
  readonly traddr: string;
  readonly trsvcid: string;
  readonly subnqn: string;
  /** 1: another discovery service. Default: 2, a subsystem. */
  readonly subtype?: number;
  /** Default: 3, TCP. */
  readonly transport?: number;
  /** 1: TLS is required. */
  readonly treq?: number;
}

const DISCOVERY_CHANGED = (0x70 << 16) | (0xf0 << 8) | 2;

/** ANA states. */
export const Ana = { optimized: 1, nonOptimized: 2, inaccessible: 3, persistentLoss: 4, change: 15 } as const;

/** A command as it came. */
export interface SeenCommand {
  readonly opcode: number;
  readonly queueId: number;
  readonly nsid: number;
  readonly cdw10: number;
  readonly cdw12: number;
  readonly wasInCapsule: boolean;
}

/** What a fault may do instead of the usual: true when it took over. */
export type Fault = (connection: TargetConnection, command: PendingCommand) => boolean;

const TABLE = Int32Array.from({ length: 256 }, (_, i) => {
  let c = i;
  for (let k = 0; k < 8; k++) c = (c >>> 1) ^ (0x82f63b78 & -(c & 1));
  return c;
});

/** By the textbook, unlike the product's. */
function crc32c(bytes: Uint8Array): number {
  let c = -1;
  for (const byte of bytes) c = (c >>> 8) ^ (TABLE[(c ^ byte) & 0xff] as number);
  return ~c >>> 0;
}

export class NvmeTcpTarget {
  readonly limits: TargetLimits;
  readonly namespaces = new Map<number, Buffer>();
  readonly seen: SeenCommand[] = [];
  readonly connections = new Set<TargetConnection>();
  /** Fatal error statuses that hosts ended connections with. */
  readonly terminations: number[] = [];
  /** Asked about every command of an I/O queue before it is carried out. */
  fault: Fault | null = null;
  /** Nothing is answered, and nothing read. */
  isPaused = false;
  /** Of namespace 1 on this port. */
  ana: number = Ana.optimized;
  hasAna = false;
  /** Commands that were carried out, by opcode. */
  readonly done = new Map<number, number>();
  /** Entries of the discovery log. */
  discovery: ListedSubsystem[] = [];
  generation = 1;
  /** Called when part of the discovery log was read. */
  onLogRead: () => void = () => undefined;
  keepAlives = 0;
  /** Keep-alives are answered with this status. */
  keepAliveStatus = 0;
  /** Fields of ICResp that are other than they should be. */
  initial: Partial<Parameters<typeof IcResp.encode>[0]> = {};
  admissions = 0;
  /** Connects are refused with this status. */
  refusal = 0;
  address = '127.0.0.1';
  port = 0;
  nqn = TARGET_NQN;
  /** Part of the identifiers of namespaces. */
  identityByte = 0;
  nextController = 1;
  #server: Server | null = null;

  constructor(limits: Partial<TargetLimits> = {}, namespaces?: Map<number, Buffer>) {
    this.limits = { ...LIMITS, ...limits };
    if (namespaces === undefined) this.addNamespace(1);
    else this.namespaces = namespaces;
  }

  addNamespace(nsid: number): void {
    this.namespaces.set(nsid, Buffer.alloc(this.limits.namespaceBytes));
  }

  /** On the port it had before, if it had one. */
  async listen(address = this.address): Promise<this> {
    this.address = address;
    const server = createServer((socket) => {
      this.connections.add(new TargetConnection(this, socket));
    });
    this.#server = server;
    server.listen(this.port, address);
    await once(server, 'listening');
    this.port = (server.address() as AddressInfo).port;
    return this;
  }

  /** As if its process were killed: connections are reset. */
  async kill(): Promise<void> {
    const server = this.#server;
    if (server === null) return;
    this.#server = null;
    for (const { socket } of this.connections) socket.resetAndDestroy();
    this.connections.clear();
    server.close();
    await once(server, 'close');
  }

  pause(): void {
    this.isPaused = true;
    for (const { socket } of this.connections) socket.pause();
  }

  resume(): void {
    this.isPaused = false;
    for (const { socket } of this.connections) socket.resume();
  }

  /** Tells every host that something changed (an asynchronous event's dword 0). */
  announce(dword0: number): void {
    for (const connection of this.connections) if (!connection.isDiscovery) connection.announce(dword0);
  }

  /** As an entry of a discovery log. */
  get listed(): ListedSubsystem {
    return { traddr: this.address, trsvcid: String(this.port), subnqn: this.nqn };
  }

  /** Changes the discovery log, and tells the hosts that want to know. */
  list(...entries: readonly ListedSubsystem[]): void {
    this.discovery = [...entries];
    this.generation++;
    for (const connection of this.connections) if (connection.isDiscovery) connection.announce(DISCOVERY_CHANGED);
  }
}

export interface PendingCommand {
  readonly sqe: Buffer;
  readonly commandId: number;
  readonly opcode: number;
  readonly length: number;
  /** Null until it is there. */
  data: Buffer | null;
  asked: number;
  got: number;
}

export class TargetConnection {
  readonly target: NvmeTcpTarget;
  readonly socket: Socket;
  queueId = -1;
  controllerId = 0;
  isDiscovery = false;
  #pending: Buffer = Buffer.alloc(0);
  #headerDigest = false;
  #dataDigest = false;
  #isInitialized = false;
  readonly #transfers = new Map<number, PendingCommand>();
  readonly #events: number[] = [];
  #tag = 1;
  #configuration = 0;

  constructor(target: NvmeTcpTarget, socket: Socket) {
    this.target = target;
    this.socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (data) => this.#receive(data as Buffer));
    socket.on('error', () => undefined);
    socket.on('close', () => target.connections.delete(this));
    if (target.isPaused) socket.pause();
  }

  announce(dword0: number): void {
    const commandId = this.#events.shift();
    if (commandId !== undefined) this.complete(commandId, 0, dword0);
  }

  /** Sends a PDU: its header, and data with what belongs around it. */
  send(header: Uint8Array, data?: Buffer, wrongDigest = false): void {
    const bytes = Buffer.from(header);
    const digest = this.#isInitialized && this.#headerDigest ? 4 : 0;
    const { padding } = this.target.limits;
    const offset = data === undefined ? 0 : bytes.length + digest + padding;
    const dataDigest = data !== undefined && this.#dataDigest ? 4 : 0;
    bytes[1] =
      (bytes[1] as number) | (digest > 0 ? PduFlag.headerDigest : 0) | (dataDigest > 0 ? PduFlag.dataDigest : 0);
    if (data !== undefined) bytes[3] = offset;
    bytes.writeUInt32LE(data === undefined ? bytes.length + digest : offset + data.length + dataDigest, 4);
    const parts: Uint8Array[] = [bytes];
    if (digest > 0) parts.push(le32(crc32c(bytes)));
    if (data !== undefined) parts.push(Buffer.alloc(padding, 0xee), data);
    if (data !== undefined && dataDigest > 0) parts.push(le32(crc32c(data) ^ (wrongDigest ? 1 : 0)));
    this.socket.write(Buffer.concat(parts));
  }

  /** Sends a header as it is, whatever follows it, with the digest that it ought to have. */
  sendHeader(header: Uint8Array, after: Uint8Array = Buffer.alloc(0)): void {
    const digest = this.#headerDigest ? [le32(crc32c(header))] : [];
    this.socket.write(Buffer.concat([header, ...digest, after]));
  }

  complete(commandId: number, status: number, dword0 = 0, dword1 = 0): void {
    this.send(
      CompletionPdu.encode({
        ...{ type: PduType.capsuleResp, flags: 0, hlen: 24, pdo: 0, plen: 24 },
        ...{ dword0, dword1, sqHead: 0, sqId: 0, commandId, status: status << 1 },
      }),
    );
  }

  sendData(commandId: number, data: Buffer, from: number, flags: number, wrongDigest = false): void {
    const header = DataPdu.encode({
      ...{ type: PduType.c2hData, flags, hlen: 24, pdo: 0, plen: 0 },
      ...{ commandId, transferTag: 0, dataOffset: from, dataLength: data.length, reserved: 0 },
    });
    this.send(header, data, wrongDigest);
  }

  sendR2t(commandId: number, from: number, length: number): void {
    this.send(
      R2tPdu.encode({
        ...{ type: PduType.r2t, flags: 0, hlen: 24, pdo: 0, plen: 24 },
        ...{ commandId, transferTag: this.#tag++ & 0xffff, dataOffset: from, dataLength: length, reserved: 0 },
      }),
    );
  }

  /** Answers a read with all its data. */
  answerRead({ commandId, length }: PendingCommand, data: Buffer): void {
    const { c2hBytes, usesSuccess } = this.target.limits;
    const all = data.subarray(0, length);
    for (let from = 0; from < all.length; from += c2hBytes) {
      const part = all.subarray(from, from + c2hBytes);
      const isLast = from + part.length === all.length;
      const flags = isLast ? PduFlag.last | (usesSuccess ? PduFlag.success : 0) : 0;
      this.sendData(commandId, part, from, flags);
    }
    if (!usesSuccess) this.complete(commandId, 0);
  }

  /** Carries out a command of an I/O queue whose data is there. */
  execute(command: PendingCommand): void {
    const { sqe, commandId, opcode } = command;
    const { target } = this;
    const { blockSizeBytes } = target.limits;
    const disk = target.namespaces.get(sqe.readUInt32LE(4));
    const from = Number(sqe.readBigUInt64LE(40)) * blockSizeBytes;
    const blocks = ((sqe.readUInt32LE(48) & 0xffff) + 1) * blockSizeBytes;
    target.done.set(opcode, (target.done.get(opcode) ?? 0) + 1);
    if (disk === undefined) this.complete(commandId, 0x400b);
    else if (target.hasAna && target.ana > Ana.nonOptimized) this.complete(commandId, 0x302);
    else if (opcode === 0x00) this.complete(commandId, 0);
    else if (opcode === 0x09) this.#deallocate(command, disk);
    else if (from + blocks > disk.length) this.complete(commandId, 0x4080);
    else if (opcode === 0x02) this.answerRead(command, disk.subarray(from, from + blocks));
    else if (opcode === 0x01) {
      (command.data as Buffer).copy(disk, from);
      this.complete(commandId, 0);
    } else if (opcode === 0x08) {
      disk.fill(0, from, from + blocks);
      this.complete(commandId, 0);
    } else this.complete(commandId, 0x4001);
  }

  #deallocate({ commandId, data }: PendingCommand, disk: Buffer): void {
    const { blockSizeBytes } = this.target.limits;
    const range = data as Buffer;
    const from = Number(range.readBigUInt64LE(8)) * blockSizeBytes;
    disk.fill(0, from, from + range.readUInt32LE(4) * blockSizeBytes);
    this.complete(commandId, 0);
  }

  #receive(data: Buffer): void {
    this.#pending = this.#pending.length === 0 ? data : Buffer.concat([this.#pending, data]);
    for (;;) {
      if (this.#pending.length < 8) return;
      const length = this.#pending.readUInt32LE(4);
      if (this.#pending.length < length) return;
      const pdu = this.#pending.subarray(0, length);
      this.#pending = this.#pending.subarray(length);
      this.#pdu(pdu);
    }
  }

  #pdu(pdu: Buffer): void {
    const type = pdu.readUInt8(0);
    const headerLength = pdu.readUInt8(2);
    if (type === PduType.icReq) this.#initialize(pdu);
    else if (type === PduType.h2cTermReq) {
      this.target.terminations.push(TermPdu.decode(pdu).fatalErrorStatus);
      this.socket.destroy();
    } else {
      if (this.#headerDigest && pdu.readUInt32LE(headerLength) !== crc32c(pdu.subarray(0, headerLength))) {
        throw new Error('a host sent a wrong header digest');
      }
      if (type === PduType.capsuleCmd) this.#capsule(pdu);
      else if (type === PduType.h2cData) this.#dataCame(pdu);
      else throw new Error(`a host sent a PDU of type ${type}`);
    }
  }

  #dataOf(pdu: Buffer): Buffer {
    const offset = pdu.readUInt8(3);
    const alignment = (this.target.limits.cpda + 1) * 4;
    if (offset % alignment !== 0) throw new Error(`a host's data is not aligned: ${offset}`);
    const data = pdu.subarray(offset, pdu.length - (this.#dataDigest ? 4 : 0));
    if (this.#dataDigest && pdu.readUInt32LE(pdu.length - 4) !== crc32c(data)) {
      throw new Error('a host sent a wrong data digest');
    }
    return Buffer.from(data);
  }

  #initialize(pdu: Buffer): void {
    const { digests } = IcReq.decode(pdu);
    const { limits } = this.target;
    this.#headerDigest = limits.headerDigest && (digests & 1) !== 0;
    this.#dataDigest = limits.dataDigest && (digests & 2) !== 0;
    this.socket.write(
      IcResp.encode({
        ...{ type: PduType.icResp, flags: 0, hlen: 128, pdo: 0, plen: 128, formatVersion: 0, cpda: limits.cpda },
        digests: (this.#headerDigest ? 1 : 0) | (this.#dataDigest ? 2 : 0),
        maxH2cData: limits.maxH2cData,
        reserved: null,
        ...this.target.initial,
      }),
    );
    this.#isInitialized = true;
  }

  #capsule(pdu: Buffer): void {
    const sqe = Buffer.from(pdu.subarray(8, 72));
    const isInCapsule = pdu.readUInt8(3) > 0;
    const opcode = sqe.readUInt8(0);
    const command: PendingCommand = {
      sqe,
      commandId: sqe.readUInt16LE(2),
      opcode,
      length: sqe.readUInt32LE(32),
      data: isInCapsule ? this.#dataOf(pdu) : null,
      asked: 0,
      got: 0,
    };
    if (this.queueId > 0 && opcode !== FABRICS_OPCODE) {
      this.target.seen.push({
        ...{ opcode, queueId: this.queueId, nsid: sqe.readUInt32LE(4), wasInCapsule: isInCapsule },
        ...{ cdw10: sqe.readUInt32LE(40), cdw12: sqe.readUInt32LE(48) },
      });
    }
    if (opcode === FABRICS_OPCODE) this.#fabrics(command);
    else if (this.queueId === 0) this.#admin(command);
    else if (this.target.fault?.(this, command) === true) return;
    else if (!isInCapsule && (opcode === 0x01 || opcode === 0x09)) this.askFor(command);
    else this.execute(command);
  }

  /** Asks for the next part of a command's data. */
  askFor(command: PendingCommand): void {
    command.data ??= Buffer.alloc(command.length);
    this.#transfers.set(command.commandId, command);
    const length = Math.min(command.length - command.asked, this.target.limits.r2tBytes);
    this.sendR2t(command.commandId, command.asked, length);
    command.asked += length;
  }

  #dataCame(pdu: Buffer): void {
    const { commandId, dataOffset, dataLength } = DataPdu.decode(pdu);
    const command = this.#transfers.get(commandId);
    if (command === undefined) throw new Error('a host sent data that nobody asked for');
    const data = this.#dataOf(pdu);
    if (data.length !== dataLength || dataOffset !== command.got || dataLength > this.target.limits.maxH2cData) {
      throw new Error('a host sent data of a wrong length, or at a wrong offset');
    }
    data.copy(command.data as Buffer, dataOffset);
    command.got += dataLength;
    const isLast = ((pdu[1] as number) & PduFlag.last) !== 0;
    if (isLast !== (command.got === command.asked)) throw new Error('a host forgot which data is the last');
    if (command.got < command.asked) return;
    if (command.asked < command.length) {
      this.askFor(command);
      return;
    }
    this.#transfers.delete(commandId);
    this.execute(command);
  }

  #fabrics({ sqe, commandId, data }: PendingCommand): void {
    const { target } = this;
    const type = sqe.readUInt8(4);
    if (type === 0x01) {
      const connect = data as Buffer;
      const subsystem = connect.toString('latin1', 256, 256 + connect.subarray(256, 512).indexOf(0));
      this.isDiscovery = subsystem === DISCOVERY_NQN;
      if (target.refusal !== 0) this.complete(commandId, target.refusal);
      else if (subsystem !== target.nqn && !this.isDiscovery) this.complete(commandId, 0x4182);
      else {
        this.queueId = sqe.readUInt16LE(42);
        const wanted = connect.readUInt16LE(16);
        this.controllerId = wanted === 0xffff ? target.nextController++ : wanted;
        target.admissions++;
        this.complete(commandId, 0, this.controllerId);
      }
    } else if (type === 0x00) {
      this.#configuration = sqe.readUInt32LE(48);
      this.complete(commandId, 0);
    } else {
      const offset = sqe.readUInt32LE(44);
      const isReady = (this.#configuration & 1) !== 0;
      // CAP: entries, contiguous, 7.5 s to get ready.
      if (offset === 0) this.complete(commandId, 0, (target.limits.entries - 1) | (1 << 16) | (15 << 24), 0x20);
      else this.complete(commandId, 0, offset === 0x1c ? (isReady ? 1 : 0) : 0x10400);
    }
  }

  #admin(command: PendingCommand): void {
    const { sqe, commandId, opcode } = command;
    if (opcode === 0x06) this.#identify(command);
    else if (opcode === 0x09 && sqe.readUInt8(40) === 0x07) {
      const granted = this.target.limits.queues - 1;
      this.complete(commandId, 0, granted | (granted << 16));
    } else if (opcode === 0x18) {
      this.target.keepAlives++;
      this.complete(commandId, this.target.keepAliveStatus);
    } else if (opcode === 0x0c) this.#events.push(commandId);
    else if (opcode === 0x02) this.#logPage(command);
    else this.complete(commandId, 0);
  }

  #identify(command: PendingCommand): void {
    const { sqe, commandId } = command;
    const data = Buffer.alloc(4096);
    const cns = sqe.readUInt8(40);
    const nsid = sqe.readUInt32LE(4);
    if (cns === 0x01) this.#identifyController(data);
    else if (cns === 0x02) {
      const nsids = [...this.target.namespaces.keys()].filter((id) => id > nsid);
      for (const [i, id] of nsids.entries()) data.writeUInt32LE(id, i * 4);
    } else if (cns === 0x03) {
      data.writeUInt8(3, 0);
      data.writeUInt8(16, 1);
      data.write('00112233445546778899aabbccddee', 4, 'hex');
      data.writeUInt8(nsid, 19);
      data.writeUInt8(this.target.identityByte, 18);
    } else if (cns === 0x00) {
      const disk = this.target.namespaces.get(nsid);
      if (disk !== undefined) {
        const { blockSizeBytes } = this.target.limits;
        data.writeBigUInt64LE(BigInt(disk.length / blockSizeBytes), 0);
        data.writeUInt8(Math.log2(blockSizeBytes), 128 + 2);
        data.writeUInt32LE(1, 92); // ANA group
      }
    } else {
      this.complete(commandId, 0x4002);
      return;
    }
    this.answerRead(command, data);
  }

  #identifyController(data: Buffer): void {
    const { limits, hasAna } = this.target;
    data.write('RH-TEST-1'.padEnd(20), 4);
    data.write('Ringhost test target'.padEnd(40), 24);
    data.write('1'.padEnd(8), 64);
    if (hasAna) data.writeUInt8(1 << 3, 76);
    data.writeUInt8(limits.mdts, 77);
    data.writeUInt16LE(this.controllerId, 78);
    data.writeUInt32LE(0x10400, 80);
    data.writeUInt32LE((1 << 8) | (1 << 11), 92);
    data.writeUInt8(3, 259);
    data.writeUInt16LE(1, 320);
    data.writeUInt32LE(1, 344);
    data.writeUInt32LE(16, 516);
    data.writeUInt16LE((1 << 2) | (1 << 3), 520);
    data.writeUInt8(1, 525);
    data.writeUInt32LE((1 << 20) | 1, 536);
    data.write(this.target.nqn, 768);
    data.writeUInt32LE((64 + limits.capsuleDataBytes) / 16, 1792);
    data.writeUInt32LE(1, 1796);
  }

  #logPage(command: PendingCommand): void {
    const { sqe } = command;
    const page = sqe.readUInt8(40);
    const offset = sqe.readUInt32LE(48);
    const { target } = this;
    const log = Buffer.alloc(page === 0x70 ? 1024 * (target.discovery.length + 1) : 64 * 1024);
    if (page === 0x0c) {
      log.writeUInt16LE(1, 8);
      log.writeUInt32LE(1, 16);
      log.writeUInt32LE(1, 20);
      log.writeUInt8(target.ana, 32);
      log.writeUInt32LE(1, 48);
    } else if (page === 0x70) {
      log.writeBigUInt64LE(BigInt(target.generation), 0);
      log.writeBigUInt64LE(BigInt(target.discovery.length), 8);
      for (const [i, entry] of target.discovery.entries()) writeDiscoveryEntry(log.subarray(1024 * (i + 1)), entry);
      target.onLogRead();
    }
    if (offset + command.length > log.length) {
      this.complete(command.commandId, 0x4002);
      return;
    }
    this.answerRead(command, log.subarray(offset));
  }
}

function writeDiscoveryEntry(bytes: Buffer, entry: ListedSubsystem): void {
  bytes.writeUInt8(entry.transport ?? 3, 0);
  bytes.writeUInt8(entry.traddr.includes(':') ? 2 : 1, 1);
  bytes.writeUInt8(entry.subtype ?? 2, 2);
  bytes.writeUInt8(entry.treq ?? 0, 3);
  bytes.writeUInt16LE(1, 4);
  bytes.writeUInt16LE(0xffff, 6);
  bytes.write(entry.trsvcid.padEnd(32), 32);
  bytes.write(entry.subnqn, 256);
  bytes.write(entry.traddr.padEnd(256), 512);
}

function le32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}
