/**
 * A queue of NVMe/TCP: one connection, from the exchange of ICReq and ICResp over Fabrics Connect to commands and their
 * data (NVMe/TCP transport 1.0, §3). It is driven by `poll`, in whatever thread owns it, and never waits.
 * Reconnecting is
 * the owner's affair: a queue that is lost is closed, and another one made.
 */
import { assert } from '../../base/assert.ts';
import { checkErrno, Errno, strerror } from '../../base/errors.ts';
import type { IovArena } from '../../sys/iov-arena.ts';
import { IovList } from '../../sys/iov-list.ts';
import { OwnMemory } from '../../sys/own-memory.ts';
import { StreamSocket } from '../../sys/stream-socket.ts';
import { encodeCommand } from '../command.ts';
import { Status, statusCode, statusText } from '../status.ts';
import { CommandSlots, Direction, NO_SLOT, SLOTS_MAX, SlotState } from './command-slots.ts';
import {
  CONNECT_DATA_BYTES,
  type ConnectParams,
  connectCommand,
  FABRICS_CAPSULE_BYTES,
  writeConnectData,
} from './fabrics.ts';
import {
  CPDA_MAX,
  FatalError,
  fatalErrorText,
  H2C_DATA_BYTES_MIN,
  IC_BYTES,
  IC_DIGEST,
  IcReq,
  IcResp,
  PduType,
  SHORT_HEADER_BYTES,
  TermPdu,
} from './pdu.ts';
import { type PduHandler, PduReceiver, STAGING_BYTES } from './pdu-receiver.ts';
import { type Agreement, fitsCapsule, HEADER_AREA_BYTES, inCapsuleMax, PduSender } from './pdu-sender.ts';

/** What a queue tells whoever drives it, from within `poll` or `submit`. */
export interface TcpQueueOwner {
  /** Connect succeeded: commands may be submitted. `dword0` has the controller's ID. */
  queueReady(dword0: number): void;
  /** `status` without the phase bit. The slot is free. */
  commandDone(slot: number, status: number, dword0: number): void;
}

export interface TcpQueueOptions {
  readonly address: string;
  readonly port: number;
  readonly headerDigest: boolean;
  readonly dataDigest: boolean;
  readonly connect: ConnectParams;
  /** Commands in flight at most. */
  readonly depth: number;
  /** Data that goes with a command at most. */
  readonly capsuleDataBytes: number;
  /** Of the segments of commands; without one their data is in `data`. */
  readonly arena: IovArena | null;
  /** Bytes of `data`. */
  readonly dataBytes?: number;
}

export type TcpQueueState = 'connecting' | 'ready' | 'lost';

/** Received data that does not match its digest: the command may be done once more (status type 0, code 22h). */
const TRANSIENT_TRANSPORT_ERROR = 0x022;
const CONNECT_DATA_AT = STAGING_BYTES;
const AREAS_AT = STAGING_BYTES + CONNECT_DATA_BYTES + IC_BYTES + SHORT_HEADER_BYTES + 104;
const IC_AT = CONNECT_DATA_AT + CONNECT_DATA_BYTES;
const TERM_AT = IC_AT + IC_BYTES;

export class TcpQueue implements PduHandler {
  state: TcpQueueState = 'connecting';
  /** Why it is lost. */
  reason = '';
  /** The connection was never made, or ended by itself; else one of the sides was wrong. */
  isProtocolError = false;
  readonly slots: CommandSlots;
  readonly #socket = new StreamSocket();
  readonly #owner: TcpQueueOwner;
  readonly #memory: OwnMemory;
  readonly #dataAt: number;
  readonly #agreed: Agreement = {
    headerDigest: false,
    dataDigest: false,
    alignment: 4,
    h2cDataMax: H2C_DATA_BYTES_MIN,
  };
  readonly #options: TcpQueueOptions;
  readonly #sender: PduSender;
  readonly #receiver: PduReceiver;
  #capsuleDataBytes = FABRICS_CAPSULE_BYTES;
  #connectSlot = NO_SLOT;
  #ended = 0;
  #isOpen = true;

  /** Begins to connect. Throws what the system refuses at once. */
  constructor(options: TcpQueueOptions, owner: TcpQueueOwner) {
    assert(options.depth >= 1 && options.depth <= SLOTS_MAX, 'a queue has between 1 and 1024 commands');
    const { address, port } = options;
    this.#socket.open({ host: address, port });
    checkErrno(this.#socket.error, `cannot connect to ${address} port ${port}`);
    this.#options = options;
    this.#owner = owner;
    this.slots = new CommandSlots(options.depth);
    this.#dataAt = AREAS_AT + options.depth * HEADER_AREA_BYTES;
    this.#memory = new OwnMemory(this.#dataAt + (options.dataBytes ?? 0));
    this.#sender = new PduSender(this.slots, this.#memory, AREAS_AT, options.arena, this.#agreed);
    this.#receiver = new PduReceiver(this.slots, this.#memory, options.arena, this.#agreed, this);
    const digests = (options.headerDigest ? IC_DIGEST.header : 0) | (options.dataDigest ? IC_DIGEST.data : 0);
    IcReq.encode(
      {
        ...{ type: PduType.icReq, flags: 0, hlen: IC_BYTES, pdo: 0, plen: IC_BYTES },
        ...{ formatVersion: 0, hpda: 0, digests, maxR2t: 0, reserved: null },
      },
      this.#memory.bytes,
      IC_AT,
    );
    this.#sender.addRaw(IC_AT, IC_BYTES);
  }

  get fd(): number {
    return this.#socket.fd;
  }

  /** Commands' words: `commandWord(slot)` is the first of the 16 of its submission queue entry. */
  get words(): Uint32Array<ArrayBuffer> {
    return this.#memory.words;
  }

  commandWord(slot: number): number {
    return this.#sender.commandWord(slot);
  }

  /** Where in the memory a slot has 64 bytes for data of our own. */
  slotData(slot: number): number {
    return this.#sender.slotData(slot);
  }

  /** Own data, `dataBytes` of it. */
  get data(): Uint8Array {
    return this.#memory.bytes.subarray(this.#dataAt);
  }

  /** Where the own data starts in the memory. */
  get dataAt(): number {
    return this.#dataAt;
  }

  /** `NO_SLOT` when as many are in flight as may be. */
  take(): number {
    return this.slots.take();
  }

  /**
   * Sends the command whose entry was filled in. Its data is `lengthBytes` of a list of segments from `skipBytes` on,
   * or
   * with no entries own memory at `skipBytes`.
   */
  submit(
    slot: number,
    direction: Direction,
    iovFirst: number,
    iovCount: number,
    skipBytes: number,
    lengthBytes: number,
  ): void {
    const { slots } = this;
    slots.direction[slot] = direction;
    slots.iovFirst[slot] = iovFirst;
    slots.iovCount[slot] = iovCount;
    slots.skip[slot] = skipBytes;
    slots.length[slot] = lengthBytes;
    slots.isInCapsule[slot] = fitsCapsule(direction, lengthBytes, this.#capsuleDataBytes) ? 1 : 0;
    if (direction === Direction.read) this.#receiver.reads++;
    this.#sender.enqueue(slot);
  }

  /** Sends and receives what it can. Returns how many commands ended. */
  poll(): number {
    if (this.state === 'lost') return 0;
    this.#ended = 0;
    this.#flush();
    if (this.#isLost) return this.#ended;
    if (!this.#receiver.receive(this.#socket)) this.#broken();
    else this.#checkSocket();
    if (!this.#isLost && this.#sender.waitingCount > 0) this.#flush();
    return this.#ended;
  }

  /** It has something to send that the socket has no room for. */
  get isBlocked(): boolean {
    return this.#sender.isBlocked;
  }

  /** It has something to send that was not tried yet. */
  get hasUnsent(): boolean {
    return this.#sender.waitingCount > 0;
  }

  /** Gives everything back. What is in flight has no end: its owner knows. */
  close(): void {
    assert(this.#isOpen, 'a queue is closed once');
    this.#isOpen = false;
    if (this.state !== 'lost') this.state = 'lost';
    this.#socket.close();
    this.#sender.close();
    this.#receiver.close();
    this.#memory.close();
  }

  get #isLost(): boolean {
    return this.state === 'lost';
  }

  #flush(): void {
    this.#sender.flush(this.#socket, this);
    this.#checkSocket();
  }

  #checkSocket(): void {
    const { error } = this.#socket;
    if (error === Errno.ECONNRESET) this.#lose('the target closed the connection');
    else if (error !== 0) this.#lose(strerror(error));
  }

  #broken(): void {
    const { fatalError } = this.#receiver;
    if (fatalError === 0) return;
    this.isProtocolError = true;
    this.#terminate(fatalError);
    this.#lose(`the target sent what it must not: ${fatalErrorText(fatalError)}`);
  }

  #lose(reason: string): void {
    if (this.state === 'lost') return;
    this.state = 'lost';
    this.reason = reason;
  }

  /** Tells the other side why, unless a PDU of ours is half sent. */
  #terminate(fatalErrorStatus: number): void {
    if (this.#sender.isBlocked) return;
    TermPdu.encode(
      {
        ...{ type: PduType.h2cTermReq, flags: 0, hlen: SHORT_HEADER_BYTES, pdo: 0, plen: SHORT_HEADER_BYTES },
        ...{ fatalErrorStatus, infoLow: 0, infoHigh: 0, reserved: 0, reserved2: 0 },
      },
      this.#memory.bytes,
      TERM_AT,
    );
    const list = new IovList(1);
    list.add(this.#memory.address + TERM_AT, SHORT_HEADER_BYTES);
    this.#socket.send(list, 0);
    list.close();
  }

  // What the receiver and the sender find out.

  initialized(offset: number): number {
    const { formatVersion, cpda, digests, maxH2cData } = IcResp.decode(this.#memory.bytes, offset);
    const { headerDigest, dataDigest, connect } = this.#options;
    if (formatVersion !== 0 || cpda > CPDA_MAX || maxH2cData < H2C_DATA_BYTES_MIN)
      return FatalError.unsupportedParameter;
    const agreed = this.#agreed;
    agreed.headerDigest = (digests & IC_DIGEST.header) !== 0;
    agreed.dataDigest = (digests & IC_DIGEST.data) !== 0;
    if ((agreed.headerDigest && !headerDigest) || (agreed.dataDigest && !dataDigest)) {
      return FatalError.unsupportedParameter;
    }
    agreed.alignment = (cpda + 1) * 4;
    agreed.h2cDataMax = Math.min(maxH2cData, 2 ** 30);
    writeConnectData(connect, this.#memory.bytes, CONNECT_DATA_AT);
    const slot = this.take();
    this.#connectSlot = slot;
    encodeCommand(connectCommand(connect), this.words, this.commandWord(slot));
    this.submit(slot, Direction.write, 0, 0, CONNECT_DATA_AT, CONNECT_DATA_BYTES);
    return 0;
  }

  terminated(fatalErrorStatus: number): void {
    this.isProtocolError = true;
    this.#lose(`the target ended the connection: ${fatalErrorText(fatalErrorStatus)}`);
  }

  pduSent(slot: number): void {
    const { slots } = this;
    if (slots.state[slot] === SlotState.ended) this.#end(slot);
    else if ((slots.askedFrom[slot] as number) < (slots.askedTo[slot] as number)) this.#sender.enqueue(slot);
  }

  completed(slot: number, status: number, dword0: number): number {
    const { slots } = this;
    const isSuccess = statusCode(status) === Status.success;
    const isWhole = slots.isInCapsule[slot] === 1 || slots.moved[slot] === slots.length[slot];
    // A command that succeeded without its data did not.
    if (isSuccess && !isWhole) return FatalError.sequence;
    const isCorrupt = isSuccess && slots.isCorrupt[slot] === 1;
    slots.status[slot] = isCorrupt ? TRANSIENT_TRANSPORT_ERROR : status;
    slots.dword0[slot] = dword0;
    // It may have failed while its data is on the way: its buffers are in use until that has left.
    if (slots.isSending[slot] === 1) {
      slots.state[slot] = SlotState.ended;
      slots.askedTo[slot] = slots.askedFrom[slot] as number;
    } else this.#end(slot);
    return 0;
  }

  received(slot: number, isSuccess: boolean): void {
    if (!isSuccess) return;
    this.slots.status[slot] = this.slots.isCorrupt[slot] === 1 ? TRANSIENT_TRANSPORT_ERROR : Status.success;
    this.slots.dword0[slot] = 0;
    this.#end(slot);
  }

  asked(slot: number, tag: number, from: number, length: number): number {
    const { slots } = this;
    const total = slots.length[slot] as number;
    if (slots.direction[slot] !== Direction.write || slots.isInCapsule[slot] === 1) return FatalError.sequence;
    // One R2T at a time is what we said we take; it cannot come before its command has left.
    const isBusy = slots.isSending[slot] === 1 || (slots.askedFrom[slot] as number) < (slots.askedTo[slot] as number);
    if (isBusy) return FatalError.limitExceeded;
    if (from !== slots.moved[slot] || length === 0 || length > total - from) return FatalError.dataOutOfRange;
    slots.tag[slot] = tag;
    slots.askedFrom[slot] = from;
    slots.askedTo[slot] = from + length;
    this.#sender.enqueue(slot);
    return 0;
  }

  #end(slot: number): void {
    const { slots } = this;
    const status = slots.status[slot] as number;
    const dword0 = slots.dword0[slot] as number;
    if (slots.direction[slot] === Direction.read) this.#receiver.reads--;
    slots.release(slot);
    this.#ended++;
    if (slot === this.#connectSlot && this.state === 'connecting') this.#connected(status, dword0);
    else this.#owner.commandDone(slot, status, dword0);
  }

  #connected(status: number, dword0: number): void {
    if (statusCode(status) !== Status.success) {
      this.#lose(`the target refuses: ${statusText(status)}`);
      return;
    }
    this.state = 'ready';
    this.#capsuleDataBytes = inCapsuleMax(this.#options.capsuleDataBytes, this.#agreed.dataDigest);
    this.#owner.queueReady(dword0);
  }
}
