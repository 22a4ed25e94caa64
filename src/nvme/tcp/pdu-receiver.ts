/**
 * The receiving half of a queue: finds the PDUs in the stream. What follows a data header goes straight from the socket
 * into the guest's buffers; headers, digests and padding go through a small staging buffer. A receive asks for the rest
 * of the data and for the headers that will follow it, so that a read costs little more than one system call; the few
 * bytes of data that come with a header are copied to where they belong.
 *
 * What the controller sends is checked before it is used: it can end its own connection, nothing else.
 */
import { CopyEngine } from '../../sys/copy-engine.ts';
import { IOV_LONG_ENTRIES, type IovArena } from '../../sys/iov-arena.ts';
import { IovList } from '../../sys/iov-list.ts';
import type { OwnMemory } from '../../sys/own-memory.ts';
import type { StreamSocket } from '../../sys/stream-socket.ts';
import { type CommandSlots, Direction, NO_SLOT } from './command-slots.ts';
import { At, DIGEST_BYTES, FatalError, IC_BYTES, PduFlag, PduType, SHORT_HEADER_BYTES } from './pdu.ts';
import type { Agreement } from './pdu-sender.ts';

export const STAGING_BYTES = 8192;
/** Receives in one round at most, so that one connection does not starve the others. */
const RECEIVES_MAX = 64;
/** Most bytes of a PDU that ends the connection. */
const TERM_BYTES_MAX = 152;

const Phase = { header: 0, padding: 1, data: 2, digest: 3 } as const;

/** What the receiver found, one after the other. A number that is not 0 ends the connection: a fatal error status. */
export interface PduHandler {
  /** ICResp, at an offset of the staging buffer. */
  initialized(offset: number): number;
  /** The controller ends the connection. */
  terminated(fatalErrorStatus: number): void;
  completed(slot: number, status: number, dword0: number): number;
  /** All data of a C2HData PDU is there. */
  received(slot: number, isSuccess: boolean): void;
  asked(slot: number, tag: number, from: number, length: number): number;
}

export class PduReceiver {
  /** Why `receive` said no; 0: the controller ended the connection. */
  fatalError = 0;
  readonly #slots: CommandSlots;
  /** Its first bytes are the staging buffer. */
  readonly #memory: OwnMemory;
  readonly #view: DataView;
  readonly #arena: IovArena | null;
  readonly #agreed: Agreement;
  readonly #handler: PduHandler;
  readonly #list = new IovList(IOV_LONG_ENTRIES + 2);
  readonly #sum = new IovList(1);
  readonly #engine: CopyEngine;
  /** Unread bytes of the staging buffer. */
  #from = 0;
  #to = 0;
  #phase: number = Phase.header;
  /** Of the data PDU that is being received. */
  #slot = NO_SLOT;
  #left = 0;
  #padding = 0;
  #isSuccess = false;
  #hasDigest = false;
  #digest = 0;
  #isInitialized = false;
  /** The controller says success with its data: then no capsule follows it. */
  #usesSuccess = false;
  /** Reads in flight, kept by the queue. */
  reads = 0;

  constructor(slots: CommandSlots, memory: OwnMemory, arena: IovArena | null, agreed: Agreement, handler: PduHandler) {
    this.#slots = slots;
    this.#memory = memory;
    this.#view = memory.view;
    this.#arena = arena;
    this.#agreed = agreed;
    this.#handler = handler;
    this.#engine = new CopyEngine(this.#list.entries, 1);
    this.#engine.setDisk(memory.address, 1, STAGING_BYTES);
  }

  /** Takes what has come. False when the connection cannot go on, after what came. */
  receive(socket: StreamSocket): boolean {
    for (let i = 0; i < RECEIVES_MAX; i++) {
      const list = this.#list;
      list.count = 0;
      const direct = this.#phase === Phase.data ? this.#left : 0;
      const data =
        direct > 0 ? this.#slots.addData(this.#slot, this.#moved, direct, list, this.#memory, this.#arena) : 0;
      const wanted = this.#wanted();
      list.add(this.#memory.address + this.#to, wanted);
      const bytes = socket.receive(list, data);
      if (bytes === 0) return true;
      const toData = Math.min(bytes, direct);
      if (toData > 0) {
        if (this.#hasDigest) this.#digest = list.crc32c(0, data, toData, this.#digest);
        this.#dataMoved(toData);
      }
      this.#to += bytes - toData;
      if (!this.#parse()) return false;
      if (bytes < direct + wanted) return true;
    }
    return true;
  }

  close(): void {
    this.#engine.close();
    this.#list.close();
    this.#sum.close();
  }

  get #moved(): number {
    return this.#slots.moved[this.#slot] as number;
  }

  /** How many bytes to ask for besides data: no more than headers and digests, while data may come. */
  #wanted(): number {
    const room = STAGING_BYTES - this.#to;
    if (!this.#isInitialized) return Math.min(room, IC_BYTES - (this.#to - this.#from));
    if (this.reads === 0) return room;
    const header = SHORT_HEADER_BYTES + (this.#agreed.headerDigest ? DIGEST_BYTES : 0);
    const have = this.#to - this.#from;
    if (this.#phase === Phase.header) return Math.max(header - have, SHORT_HEADER_BYTES);
    const digest = this.#hasDigest ? DIGEST_BYTES : 0;
    return Math.max(digest + (this.#usesSuccess ? header : 2 * header) - have, 1) + this.#padding;
  }

  /** Takes the staging buffer apart. False when the connection cannot go on. */
  #parse(): boolean {
    for (;;) {
      const have = this.#to - this.#from;
      if (this.#phase === Phase.header) {
        const taken = this.#header(have);
        if (taken < 0) return false;
        if (taken === 0) break;
      } else if (this.#phase === Phase.padding) {
        const skipped = Math.min(have, this.#padding);
        this.#from += skipped;
        this.#padding -= skipped;
        if (this.#padding > 0) break;
        this.#phase = Phase.data;
      } else if (this.#phase === Phase.data) {
        if (have === 0) break;
        this.#copyData(Math.min(have, this.#left));
      } else {
        if (have < DIGEST_BYTES) break;
        if (this.#view.getInt32(this.#from, true) !== this.#digest) this.#slots.isCorrupt[this.#slot] = 1;
        this.#from += DIGEST_BYTES;
        this.#dataEnded();
      }
    }
    this.#compact();
    return true;
  }

  /** Moves an unfinished header to the start of the buffer. */
  #compact(): void {
    if (this.#from === this.#to) {
      this.#from = 0;
      this.#to = 0;
    } else if (this.#from > STAGING_BYTES / 2) {
      this.#memory.bytes.copyWithin(0, this.#from, this.#to);
      this.#to -= this.#from;
      this.#from = 0;
    }
  }

  #fail(fatalError: number): number {
    this.fatalError = fatalError;
    return -1;
  }

  /** Bytes taken, 0 when the header is not complete, or negative. */
  #header(have: number): number {
    if (have < SHORT_HEADER_BYTES) return 0;
    const view = this.#view;
    const at = this.#from;
    const type = view.getUint8(at + At.type);
    const headerBytes = view.getUint8(at + At.hlen);
    const pduBytes = view.getUint32(at + At.plen, true);
    if (!this.#isInitialized || type === PduType.icResp || type === PduType.c2hTermReq) {
      return this.#controlPdu(have, type, pduBytes);
    }
    if (headerBytes !== SHORT_HEADER_BYTES) return this.#fail(FatalError.invalidHeaderField);
    const { headerDigest } = this.#agreed;
    const inner = SHORT_HEADER_BYTES + (headerDigest ? DIGEST_BYTES : 0);
    if (have < inner) return 0;
    const flags = view.getUint8(at + At.flags);
    if (((flags & PduFlag.headerDigest) !== 0) !== headerDigest) return this.#fail(FatalError.invalidHeaderField);
    if (headerDigest && !this.#isIntact(at)) return this.#fail(FatalError.headerDigest);
    this.#from = at + inner;
    let error: number = FatalError.invalidHeaderField;
    if (type === PduType.c2hData) error = this.#dataHeader(at, inner, flags, pduBytes);
    else if (pduBytes !== inner) error = FatalError.invalidHeaderField;
    else if (type === PduType.capsuleResp) error = this.#completion(at);
    else if (type === PduType.r2t) error = this.#readyToTransfer(at);
    return error === 0 ? inner : this.#fail(error);
  }

  #controlPdu(have: number, type: number, pduBytes: number): number {
    const at = this.#from;
    if (type === PduType.c2hTermReq && pduBytes <= TERM_BYTES_MAX) {
      this.#handler.terminated(this.#view.getUint16(at + At.fatalErrorStatus, true));
      return this.#fail(0);
    }
    if (this.#isInitialized || type !== PduType.icResp) return this.#fail(FatalError.sequence);
    if (pduBytes !== IC_BYTES) return this.#fail(FatalError.invalidHeaderField);
    if (have < IC_BYTES) return 0;
    this.#from = at + IC_BYTES;
    this.#isInitialized = true;
    const error = this.#handler.initialized(at);
    return error === 0 ? IC_BYTES : this.#fail(error);
  }

  #isIntact(at: number): boolean {
    this.#sum.count = 0;
    this.#sum.add(this.#memory.address + at, SHORT_HEADER_BYTES);
    const sum = this.#sum.crc32c(0, 1, SHORT_HEADER_BYTES, 0);
    return this.#view.getInt32(at + SHORT_HEADER_BYTES, true) === sum;
  }

  #completion(at: number): number {
    const view = this.#view;
    const slot = this.#slots.find(view.getUint16(at + At.completionCommandId, true));
    if (slot === NO_SLOT) return FatalError.invalidHeaderField;
    const status = view.getUint16(at + At.completionStatus, true) >>> 1;
    return this.#handler.completed(slot, status, view.getUint32(at + At.dword0, true));
  }

  #readyToTransfer(at: number): number {
    const view = this.#view;
    const slot = this.#slots.find(view.getUint16(at + At.commandId, true));
    if (slot === NO_SLOT) return FatalError.invalidHeaderField;
    const from = view.getUint32(at + At.dataOffset, true);
    const length = view.getUint32(at + At.dataLength, true);
    return this.#handler.asked(slot, view.getUint16(at + At.transferTag, true), from, length);
  }

  #dataHeader(at: number, inner: number, flags: number, pduBytes: number): number {
    const view = this.#view;
    const slots = this.#slots;
    const slot = slots.find(view.getUint16(at + At.commandId, true));
    if (slot === NO_SLOT || slots.direction[slot] !== Direction.read) return FatalError.invalidHeaderField;
    const dataAt = view.getUint8(at + At.pdo);
    const from = view.getUint32(at + At.dataOffset, true);
    const length = view.getUint32(at + At.dataLength, true);
    const { dataDigest } = this.#agreed;
    const isSuccess = (flags & PduFlag.success) !== 0;
    // Data comes in order, as every initiator expects.
    if (from !== slots.moved[slot] || length > (slots.length[slot] as number) - from) return FatalError.dataOutOfRange;
    if (((flags & PduFlag.dataDigest) !== 0) !== dataDigest) return FatalError.invalidHeaderField;
    if (dataAt < inner || pduBytes !== dataAt + length + (dataDigest ? DIGEST_BYTES : 0) || length === 0) {
      return FatalError.invalidHeaderField;
    }
    const isComplete = from + length === slots.length[slot];
    if (isSuccess && ((flags & PduFlag.last) === 0 || !isComplete)) return FatalError.invalidHeaderField;
    this.#usesSuccess = isSuccess;
    this.#isSuccess = isSuccess;
    this.#hasDigest = dataDigest;
    this.#digest = 0;
    this.#slot = slot;
    this.#left = length;
    this.#padding = dataAt - inner;
    this.#phase = this.#padding > 0 ? Phase.padding : Phase.data;
    return 0;
  }

  /** Data that came with a header. */
  #copyData(bytes: number): void {
    const list = this.#list;
    list.count = 0;
    this.#slots.addData(this.#slot, this.#moved, bytes, list, this.#memory, this.#arena);
    this.#engine.read(this.#from, bytes, 0, list.count);
    this.#engine.run();
    if (this.#hasDigest) this.#digest = list.crc32c(0, list.count, bytes, this.#digest);
    this.#from += bytes;
    this.#dataMoved(bytes);
  }

  #dataMoved(bytes: number): void {
    this.#slots.moved[this.#slot] = this.#moved + bytes;
    this.#left -= bytes;
    if (this.#left > 0) return;
    if (this.#hasDigest) this.#phase = Phase.digest;
    else this.#dataEnded();
  }

  #dataEnded(): void {
    const slot = this.#slot;
    this.#slot = NO_SLOT;
    this.#phase = Phase.header;
    this.#handler.received(slot, this.#isSuccess);
  }
}
