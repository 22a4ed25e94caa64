/**
 * A stream socket for the data path (TCP or Unix): what it sends and receives lies in the requests' own segments, and
 * an io_uring moves it, with one system call a round for all sockets of a ring and none while nothing arrives.
 *
 * Sending gathers small pieces of the protocol (`bytes`, the owner's to lay out) and segments into one list a round.
 * Receiving goes to a buffer (`input`), where headers are read; payloads in it are copied into the segments of their
 * request. Of a payload that has only begun to arrive, the rest is received into the segments themselves (`expect`).
 *
 * The owner calls `completed` with each completion whose tag is one of its `STREAM_TAGS`, then `flush` and `receive`
 * before the ring's `enter`. An end, an error or a failed connection shows in `error`.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';
import { assert } from '../base/assert.ts';
import { checkErrno, Errno, TargetError } from '../base/errors.ts';
import { CopyEngine } from './copy-engine.ts';
import { closeFd } from './events.ts';
import type { IoUring } from './io-uring.ts';
import { IOV_LONG_ENTRIES, type IovArena } from './iov-arena.ts';
import { IovList } from './iov-list.ts';
import { Mapping, MappingViews } from './mapping.ts';
import { native } from './native.ts';

/** Where a peer listens: a socket file, or a numeric address and a port. */
export type StreamAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** Whether a peer's threads run on the cores of this machine, as far as its address shows. */
export function isOnThisMachine(address: StreamAddress): boolean {
  if ('path' in address || address.host.startsWith('127.')) return true;
  const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return own.some((one) => one.address === address.host);
}

export interface StreamOptions {
  /** The first of `STREAM_TAGS` tags of the ring. */
  readonly firstTag: number;
  /** Size of `bytes`. */
  readonly ownBytes: number;
  /** Size of `input`. Default 64 KiB: payloads beyond it are received in place. */
  readonly inputBytes?: number;
}

export const STREAM_TAGS = 5;
/** Tags, from the first. */
const Tag = { connect: 0, send: 1, receive: 2, cancelSend: 3, cancelReceive: 4 } as const;

const INPUT_BYTES = 64 * 1024;
/** Zeroes to copy from: memory that is never written costs one page. */
const ZERO_BYTES = 64 * 1024;
/** Entries of one message (UIO_MAXIOV), less one for the buffer. */
const ENTRIES_MAX = 1023;
/** Lists of `IOV_LONG_ENTRIES` that may wait to be sent. */
const OUT_LISTS = 4;

/** Layout of our memory: a socket address, two `struct msghdr`, `bytes`, `input`, zeroes. */
const ADDRESS_BYTES = 128;
const HEADER_BYTES = 64;
const SEND_HEADER = ADDRESS_BYTES;
const RECEIVE_HEADER = SEND_HEADER + HEADER_BYTES;
const OWN = RECEIVE_HEADER + HEADER_BYTES;
/** Words of a `struct msghdr`. */
const MsgWord = { iov: 4, iovCount: 6 } as const;

const Family = { unix: 1, ipv4: 2, ipv6: 10 } as const;
const NO_FD = -1;

export class StreamSocket {
  /** Pieces of the protocol that `queue` sends. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** What was received and not yet taken: `[start, end)`. */
  readonly input: Uint8Array;
  readonly inputView: DataView;
  start = 0;
  end = 0;
  isConnected = false;
  /** 0, or why nothing moves any more: a negative errno, `-ECONNRESET` when the peer ended the stream. */
  error = 0;
  /** Bytes that the last receive put where `expect` said. */
  placed = 0;
  readonly #ring: IoUring;
  readonly #firstTag: number;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();
  readonly #words: Uint32Array;
  readonly #ownBytes: number;
  readonly #out = new IovList(OUT_LISTS * IOV_LONG_ENTRIES);
  /** Entries that were sent. */
  #sent = 0;
  /** What is received: where the owner expects it, then into `input`. */
  readonly #in = new IovList(ENTRIES_MAX + 1);
  /** What is copied between our memory and others. */
  readonly #part = new IovList(IOV_LONG_ENTRIES);
  readonly #engine = new CopyEngine(this.#part.entries, 1);
  #expectedEntries = 0;
  #expectedBytes = 0;
  #fd = NO_FD;
  #isSending = false;
  #isReceiving = false;
  /** By tag: memory that was not there was replaced since something moved last. */
  #mended = 0;
  /** Requests in the ring. */
  #inFlight = 0;
  #isClosing = false;

  constructor(ring: IoUring, { firstTag, ownBytes, inputBytes = INPUT_BYTES }: StreamOptions) {
    this.#ring = ring;
    this.#firstTag = firstTag;
    this.#ownBytes = Math.ceil(ownBytes / HEADER_BYTES) * HEADER_BYTES;
    this.#memory = Mapping.anonymous(OWN + this.#ownBytes + inputBytes + ZERO_BYTES);
    const buffer = this.#views.view(this.#memory, 0, OWN + this.#ownBytes + inputBytes);
    this.#words = new Uint32Array(buffer, 0, OWN / 4);
    this.bytes = new Uint8Array(buffer, OWN, ownBytes);
    this.view = new DataView(buffer, OWN, ownBytes);
    this.input = new Uint8Array(buffer, OWN + this.#ownBytes, inputBytes);
    this.inputView = new DataView(buffer, OWN + this.#ownBytes, inputBytes);
    this.#engine.setDisk(this.#memory.address, 1, this.#memory.lengthBytes);
  }

  /** False once `close` has ended, and before `open`. */
  get isOpen(): boolean {
    return this.#fd !== NO_FD;
  }

  /** Bytes of `input` that nobody took. */
  get available(): number {
    return this.end - this.start;
  }

  /** Starts to connect. Throws `EINVAL` for what is no address. */
  open(address: StreamAddress): void {
    const bytes = encodeAddress(address);
    const family = bytes.readUInt16LE(0);
    this.#begin(checkErrno(native.socketCreate(family), 'cannot create a socket'));
    new Uint8Array(this.#words.buffer, 0, ADDRESS_BYTES).set(bytes);
    this.#inFlight++;
    this.#ring.connect(this.#firstTag + Tag.connect, this.#fd, this.#memory.address, bytes.length);
  }

  /** Takes over a connected socket. */
  adopt(fd: number): void {
    this.#begin(fd);
    this.isConnected = true;
  }

  /** Gives the connected socket away: `isOpen` turns false. Nothing is in flight. */
  release(): number {
    assert(this.#inFlight === 0, 'a socket is given away when nothing is in flight');
    const fd = this.#fd;
    this.#fd = NO_FD;
    this.isConnected = false;
    return fd;
  }

  /** Entries that can be queued now. */
  get room(): number {
    return this.#out.capacity - this.#out.count;
  }

  /** Sends a part of `bytes`, which stays as it is until it was sent. */
  queue(offset: number, lengthBytes: number): void {
    this.#out.add(this.#memory.address + OWN + offset, lengthBytes);
  }

  /** Sends `lengthBytes` of the segments of a list, `skipBytes` from its start. There is `room` for all its entries. */
  queueSegments(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    this.#out.addPart(arena, first, count, skipBytes, lengthBytes);
  }

  /** Asked for more, and nothing came yet. */
  get isReceiving(): boolean {
    return this.#isReceiving;
  }

  /** True when everything queued was handed to the kernel. */
  get isFlushed(): boolean {
    return this.#out.count === 0;
  }

  /** Hands what was queued to the ring, unless it still sends. */
  flush(): void {
    if (this.#isSending || this.isFlushed || !this.#canMove()) return;
    this.#isSending = true;
    this.#transfer(true, SEND_HEADER, this.#out, this.#sent, Math.min(this.#out.count - this.#sent, ENTRIES_MAX));
  }

  /** Where the next bytes of the stream go, after those in `input`: it is empty now. Until they are there. */
  expect(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    assert(this.available === 0 && !this.#isReceiving, 'what was received is taken before more is placed');
    this.#in.count = this.#in.entries.setPart(0, ENTRIES_MAX, arena, first, count, skipBytes, lengthBytes);
    this.#expectedEntries = this.#in.count;
    this.#expectedBytes = this.#in.lengthBytes;
  }

  /** Asks the ring for more, unless it is asked already. */
  receive(): void {
    if (this.#isReceiving || !this.#canMove()) return;
    if (this.start === this.end) {
      this.start = 0;
      this.end = 0;
    } else if (this.start > 0) {
      this.input.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.start = 0;
    }
    const room = this.input.length - this.end;
    assert(room > 0 || this.#expectedEntries > 0, 'what was received is taken');
    this.#in.count = this.#expectedEntries;
    this.#in.add(this.#memory.address + OWN + this.#ownBytes + this.end, room);
    this.#isReceiving = true;
    this.#transfer(false, RECEIVE_HEADER, this.#in, 0, this.#in.count);
  }

  /** Takes `lengthBytes` of `input` into the segments of a list, `skipBytes` from its start. */
  take(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    assert(lengthBytes <= this.available, 'only what is there is taken');
    this.#copy(OWN + this.#ownBytes + this.start, arena, first, count, skipBytes, lengthBytes);
    this.start += lengthBytes;
  }

  /** Zeroes `lengthBytes` of the segments of a list, `skipBytes` from its start. */
  zero(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    const zeroes = OWN + this.#ownBytes + this.input.length;
    for (let done = 0; done < lengthBytes; done += ZERO_BYTES) {
      const length = Math.min(ZERO_BYTES, lengthBytes - done);
      this.#copy(zeroes, arena, first, count, skipBytes + done, length);
    }
  }

  /** A completion of the ring with one of our tags. */
  completed(tag: number, result: number): void {
    this.#inFlight--;
    const which = tag - this.#firstTag;
    const isAgain = result === Errno.EFAULT && this.#mend(which);
    if (which === Tag.send) {
      this.#isSending = false;
      if (result >= 0) this.#advance(result);
    } else if (which === Tag.receive) {
      this.#isReceiving = false;
      if (!isAgain) this.#received(result);
    } else if (which === Tag.connect) {
      this.isConnected = result >= 0;
    }
    if (result >= 0) this.#mended &= ~(1 << which);
    const isFailure = result < 0 && !isAgain && which !== Tag.cancelSend && which !== Tag.cancelReceive;
    if (isFailure && this.error === 0) this.error = result;
    if (this.#isClosing && this.#inFlight === 0) this.#ended();
  }

  /** Ends the connection. `isOpen` turns false when nothing of it is in flight, now or after a completion. */
  close(): void {
    if (this.#fd === NO_FD || this.#isClosing) return;
    this.#isClosing = true;
    if (this.error === 0) this.error = Errno.ECANCELED;
    if (this.#inFlight === 0) {
      this.#ended();
      return;
    }
    const isConnecting = !this.isConnected;
    this.#inFlight += 2;
    this.#ring.cancel(this.#firstTag + Tag.cancelSend, this.#firstTag + (isConnecting ? Tag.connect : Tag.send));
    this.#ring.cancel(this.#firstTag + Tag.cancelReceive, this.#firstTag + Tag.receive);
  }

  /** Gives everything back. The ring has nothing of ours in flight: `close` has ended, or `cancelAll` was called. */
  free(): void {
    if (this.#fd !== NO_FD) closeFd(this.#fd);
    this.#fd = NO_FD;
    this.#engine.close();
    this.#in.close();
    this.#part.close();
    this.#out.close();
    this.#views.close();
    this.#memory.close();
  }

  #begin(fd: number): void {
    assert(this.#fd === NO_FD, 'a stream has one socket');
    this.#fd = fd;
    this.isConnected = false;
    this.error = 0;
    this.start = 0;
    this.end = 0;
    this.placed = 0;
    this.#sent = 0;
    this.#out.count = 0;
    this.#mended = 0;
    this.#expectedEntries = 0;
    this.#expectedBytes = 0;
    this.#isClosing = false;
  }

  #ended(): void {
    closeFd(this.#fd);
    this.#fd = NO_FD;
    this.isConnected = false;
  }

  #canMove(): boolean {
    return this.isConnected && this.error === 0;
  }

  #transfer(isSend: boolean, header: number, list: IovList, first: number, count: number): void {
    list.entries.copyEntryAddress(first, this.#words, header / 4 + MsgWord.iov);
    this.#words[header / 4 + MsgWord.iovCount] = count;
    this.#inFlight++;
    const tag = this.#firstTag + (isSend ? Tag.send : Tag.receive);
    // SAFETY: entries are of our own memory, and of segments of requests that are not completed while they are here.
    this.#ring.transferMessage(isSend, tag, this.#fd, this.#memory.address + header);
  }

  #advance(bytes: number): void {
    let left = bytes;
    while (left > 0) {
      const length = this.#out.lengthOf(this.#sent);
      if (left < length) {
        this.#out.advance(this.#sent, left);
        break;
      }
      left -= length;
      this.#sent++;
    }
    if (this.#sent < this.#out.count) return;
    this.#sent = 0;
    this.#out.count = 0;
  }

  /** A guest took memory away that is sent from or received into. True when the transfer can be done again. */
  #mend(which: number): boolean {
    if ((this.#mended & (1 << which)) !== 0 || (which !== Tag.send && which !== Tag.receive)) return false;
    this.#mended |= 1 << which;
    if (which === Tag.send) this.#out.touch(this.#sent, this.#out.count - this.#sent);
    else this.#in.touch(0, this.#expectedEntries);
    return true;
  }

  #received(result: number): void {
    this.placed = 0;
    if (result > 0) {
      this.placed = Math.min(result, this.#expectedBytes);
      this.end += result - this.placed;
    } else if (result === 0 && this.error === 0) {
      this.error = Errno.ECONNRESET;
    }
    this.#expectedEntries = 0;
    this.#expectedBytes = 0;
  }

  #copy(from: number, arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    this.#part.count = 0;
    this.#engine.read(from, lengthBytes, 0, this.#part.addPart(arena, first, count, skipBytes, lengthBytes));
    this.#engine.run();
  }
}

/** `struct sockaddr_un`, `sockaddr_in` or `sockaddr_in6`. */
function encodeAddress(address: StreamAddress): Buffer {
  if ('path' in address) {
    const path = Buffer.from(address.path);
    if (path.length > 107) throw new TargetError('ENAMETOOLONG', `${address.path} is too long for a socket`);
    const bytes = Buffer.alloc(2 + path.length + 1);
    bytes.writeUInt16LE(Family.unix, 0);
    path.copy(bytes, 2);
    return bytes;
  }
  const { host, port } = address;
  if (!isIPv4(host) && !isIPv6(host)) throw new TargetError('EINVAL', `${host} is not a numeric address`);
  const bytes = Buffer.alloc(isIPv4(host) ? 16 : 28);
  bytes.writeUInt16LE(isIPv4(host) ? Family.ipv4 : Family.ipv6, 0);
  bytes.writeUInt16BE(port, 2);
  if (isIPv4(host)) bytes.set(host.split('.').map(Number), 4);
  else bytes.set(ipv6Bytes(host), 8);
  return bytes;
}

function ipv6Bytes(host: string): number[] {
  const [plain = ''] = host.split('%');
  // The last 32 bits may be written as IPv4.
  const text = plain.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, ...parts: string[]) => {
    const [a = 0, b = 0, c = 0, d = 0] = parts.slice(0, 4).map(Number);
    return `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
  });
  const [head = '', tail] = text.split('::');
  const groups = (part: string): string[] => part.split(':').filter((group) => group !== '');
  const before = groups(head);
  const after = tail === undefined ? [] : groups(tail);
  const gap = Array.from({ length: tail === undefined ? 0 : 8 - before.length - after.length }, () => '0');
  return [...before, ...gap, ...after].flatMap((group) => {
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 0xff];
  });
}
