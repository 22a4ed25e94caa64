/**
 * The sending half of a queue: PDUs of commands, put together in a list of segments of their headers and of the guest's
 * own buffers, which one system call a round hands to the kernel.
 *
 * With data digests the data is copied first: a guest may change its buffer while it is sent, and a digest that does
 * not
 * match ends the connection of everybody who uses the controller.
 */
import { assert } from '../../base/assert.ts';
import { CopyEngine } from '../../sys/copy-engine.ts';
import { IOV_LONG_ENTRIES, type IovArena } from '../../sys/iov-arena.ts';
import { IovList } from '../../sys/iov-list.ts';
import { OwnMemory } from '../../sys/own-memory.ts';
import type { StreamSocket } from '../../sys/stream-socket.ts';
import { type CommandSlots, Direction, SlotState } from './command-slots.ts';
import {
  CAPSULE_CMD_BYTES,
  DIGEST_BYTES,
  FLAG_SGL,
  PduFlag,
  PduType,
  SGL_IN_CAPSULE,
  SGL_TRANSPORT,
  SHORT_HEADER_BYTES,
} from './pdu.ts';

/** Of a slot, for one header with what follows it, its digest of data, and small data of our own (a DSM range). */
export const HEADER_AREA_BYTES = 512;
const DATA_DIGEST_AT = 256;
/** Small data of our own in a slot's header area. */
const SLOT_DATA_AT = 320;
/** Data of a PDU at most when it is copied for its digest. */
const COPY_BYTES = 128 * 1024;

/** Entries: any PDU fits into an empty list, with its header and digest. */
const LIST_ENTRIES = 2 * (IOV_LONG_ENTRIES + 2);
const NO_OWNER = -1;

/** Hears that a PDU of a slot has left. */
export interface PduSent {
  pduSent(slot: number): void;
}

/** What both sides agreed on. */
export interface Agreement {
  headerDigest: boolean;
  dataDigest: boolean;
  /** Data begins at a multiple of so many bytes from the start of a PDU. */
  alignment: number;
  h2cDataMax: number;
}

export class PduSender {
  readonly #slots: CommandSlots;
  readonly #memory: OwnMemory;
  /** Where the header areas start in the memory. */
  readonly #areas: number;
  readonly #arena: IovArena | null;
  readonly #agreed: Agreement;
  readonly #list = new IovList(LIST_ENTRIES);
  /** First entry that is not sent; and by entry: the slot whose PDU ends with it. */
  #first = 0;
  readonly #owner = new Int32Array(this.#list.capacity).fill(NO_OWNER);
  /** Slots with a PDU to send, in order: a ring. */
  readonly #waiting: Int32Array;
  #waitingFirst = 0;
  waitingCount = 0;
  readonly #sum = new IovList(1);
  #copies: OwnMemory | null = null;
  readonly #copyList = new IovList(IOV_LONG_ENTRIES);
  #engine: CopyEngine | null = null;

  constructor(slots: CommandSlots, memory: OwnMemory, areas: number, arena: IovArena | null, agreed: Agreement) {
    this.#slots = slots;
    this.#memory = memory;
    this.#areas = areas;
    this.#arena = arena;
    this.#agreed = agreed;
    this.#waiting = new Int32Array(slots.count);
  }

  /** Index in the memory's words of a slot's command: the submission queue entry. */
  commandWord(slot: number): number {
    return (this.#areaOf(slot) + 8) / 4;
  }

  /** Offset in the memory of a slot's small data. */
  slotData(slot: number): number {
    return this.#areaOf(slot) + SLOT_DATA_AT;
  }

  /** Bytes of our own, before any command. */
  addRaw(offsetBytes: number, lengthBytes: number): void {
    this.#owner[this.#list.count] = NO_OWNER;
    this.#list.add(this.#memory.address + offsetBytes, lengthBytes);
  }

  /** The next PDU of a slot is due: its command, or data that an R2T asked for. */
  enqueue(slot: number): void {
    assert(this.#slots.isSending[slot] === 0, 'a command has one PDU on its way at a time');
    this.#slots.isSending[slot] = 1;
    let at = this.#waitingFirst + this.waitingCount++;
    if (at >= this.#waiting.length) at -= this.#waiting.length;
    this.#waiting[at] = slot;
  }

  /** True when the socket had no room for the last bytes. */
  get isBlocked(): boolean {
    return this.#first < this.#list.count;
  }

  /** Sends what it can; `sent` gets, one after the other, the slots whose PDU has left. */
  flush(socket: StreamSocket, sent: PduSent): void {
    for (;;) {
      this.#fill(sent);
      const list = this.#list;
      if (this.#first === list.count) return;
      const bytes = socket.send(list, this.#first);
      this.#advance(bytes, sent);
      if (this.#first < list.count) return;
    }
  }

  close(): void {
    this.#engine?.close();
    this.#copies?.close();
    this.#copyList.close();
    this.#sum.close();
    this.#list.close();
  }

  #areaOf(slot: number): number {
    return this.#areas + slot * HEADER_AREA_BYTES;
  }

  #fill(sent: PduSent): void {
    const list = this.#list;
    if (this.#first === list.count) {
      list.count = 0;
      this.#first = 0;
    }
    while (this.waitingCount > 0) {
      const slot = this.#waiting[this.#waitingFirst] as number;
      const data = Math.max(this.#slots.iovCount[slot] as number, 1);
      if (list.count + data + 2 > list.capacity) return;
      this.#waitingFirst = this.#waitingFirst + 1 === this.#waiting.length ? 0 : this.#waitingFirst + 1;
      this.waitingCount--;
      if (this.#slots.state[slot] === SlotState.ended) {
        // It failed meanwhile: nobody waits for its data any more.
        this.#slots.isSending[slot] = 0;
        sent.pduSent(slot);
      } else if ((this.#slots.askedTo[slot] as number) > 0) this.#buildData(slot);
      else this.#buildCommand(slot);
    }
  }

  #buildCommand(slot: number): void {
    const { headerDigest, dataDigest, alignment } = this.#agreed;
    const slots = this.#slots;
    const area = this.#areaOf(slot);
    const words = this.#memory.words;
    const at = this.commandWord(slot);
    const length = slots.length[slot] as number;
    const isInCapsule = slots.isInCapsule[slot] === 1;
    words[at] = ((words[at] as number) & 0xff) | FLAG_SGL | ((slots.commandId[slot] as number) << 16);
    words[at + 6] = 0;
    words[at + 7] = 0;
    words[at + 8] = length;
    words[at + 9] = isInCapsule ? SGL_IN_CAPSULE : SGL_TRANSPORT;
    const inner = CAPSULE_CMD_BYTES + (headerDigest ? DIGEST_BYTES : 0);
    const offset = isInCapsule ? Math.ceil(inner / alignment) * alignment : 0;
    const digest = isInCapsule && dataDigest ? DIGEST_BYTES : 0;
    const flags = (headerDigest ? PduFlag.headerDigest : 0) | (digest > 0 ? PduFlag.dataDigest : 0);
    const header = at - 2;
    words[header] = PduType.capsuleCmd | (flags << 8) | (CAPSULE_CMD_BYTES << 16) | (offset << 24);
    words[header + 1] = isInCapsule ? offset + length + digest : inner;
    if (headerDigest) this.#setHeaderDigest(area, CAPSULE_CMD_BYTES);
    // Between the header and the data is room for the alignment: whatever is there means nothing.
    this.#addPdu(slot, isInCapsule ? offset : inner, 0, isInCapsule ? length : 0);
  }

  #buildData(slot: number): void {
    const { headerDigest, dataDigest, alignment, h2cDataMax } = this.#agreed;
    const slots = this.#slots;
    const area = this.#areaOf(slot);
    const words = this.#memory.words;
    const from = slots.askedFrom[slot] as number;
    const left = (slots.askedTo[slot] as number) - from;
    const length = Math.min(left, dataDigest ? Math.min(h2cDataMax, COPY_BYTES) : h2cDataMax);
    const inner = SHORT_HEADER_BYTES + (headerDigest ? DIGEST_BYTES : 0);
    const offset = Math.ceil(inner / alignment) * alignment;
    const flags =
      (headerDigest ? PduFlag.headerDigest : 0) |
      (dataDigest ? PduFlag.dataDigest : 0) |
      (length === left ? PduFlag.last : 0);
    const at = area / 4;
    words[at] = PduType.h2cData | (flags << 8) | (SHORT_HEADER_BYTES << 16) | (offset << 24);
    words[at + 1] = offset + length + (dataDigest ? DIGEST_BYTES : 0);
    words[at + 2] = (slots.commandId[slot] as number) | ((slots.tag[slot] as number) << 16);
    words[at + 3] = from;
    words[at + 4] = length;
    words[at + 5] = 0;
    if (headerDigest) this.#setHeaderDigest(area, SHORT_HEADER_BYTES);
    this.#addPdu(slot, offset, from, length);
    slots.askedFrom[slot] = from + length;
    slots.moved[slot] = from + length;
  }

  #addPdu(slot: number, headerBytes: number, from: number, length: number): void {
    const list = this.#list;
    const start = list.count;
    const area = this.#areaOf(slot);
    list.add(this.#memory.address + area, headerBytes);
    if (length > 0 && this.#agreed.dataDigest) {
      this.#addCopy(slot, from, length);
      list.add(this.#memory.address + area + DATA_DIGEST_AT, DIGEST_BYTES);
    } else if (length > 0) {
      this.#slots.addData(slot, from, length, list, this.#memory, this.#arena);
    }
    this.#owner.fill(NO_OWNER, start, list.count);
    this.#owner[list.count - 1] = slot;
  }

  /** The data as it is now, and its digest. */
  #addCopy(slot: number, from: number, length: number): void {
    if (this.#copies === null) {
      this.#copies = new OwnMemory(this.#slots.count * COPY_BYTES);
      this.#engine = new CopyEngine(this.#copyList.entries, 1);
      this.#engine.setDisk(this.#copies.address, 1, this.#copies.lengthBytes);
    }
    const engine = this.#engine as CopyEngine;
    const parts = this.#copyList;
    parts.count = 0;
    this.#slots.addData(slot, from, length, parts, this.#memory, this.#arena);
    engine.write(slot * COPY_BYTES, length, 0, parts.count);
    engine.run();
    const list = this.#list;
    list.add((this.#copies as OwnMemory).address + slot * COPY_BYTES, length);
    const word = (this.#areaOf(slot) + DATA_DIGEST_AT) / 4;
    this.#memory.words[word] = list.crc32c(list.count - 1, 1, length, 0);
  }

  #setHeaderDigest(area: number, headerBytes: number): void {
    this.#sum.count = 0;
    this.#sum.add(this.#memory.address + area, headerBytes);
    this.#memory.words[(area + headerBytes) / 4] = this.#sum.crc32c(0, 1, headerBytes, 0);
  }

  #advance(bytes: number, sent: PduSent): void {
    for (const end = this.#list.skip(this.#first, bytes); this.#first < end; ) {
      const slot = this.#owner[this.#first++] as number;
      if (slot !== NO_OWNER) {
        this.#slots.isSending[slot] = 0;
        sent.pduSent(slot);
      }
    }
  }
}

/** Data that goes with its command at most, by what the controller takes and by what is copied for a digest. */
export function inCapsuleMax(capsuleDataBytes: number, dataDigest: boolean): number {
  return dataDigest ? Math.min(capsuleDataBytes, COPY_BYTES) : capsuleDataBytes;
}

/** Whether a command's data may go with it. */
export function fitsCapsule(direction: number, lengthBytes: number, capsuleDataBytes: number): boolean {
  return direction === Direction.write && lengthBytes <= capsuleDataBytes;
}
