/**
 * What goes over a connection to an NBD server, in both directions.
 *
 * Sending gathers small pieces of the protocol (`bytes`, the owner's to lay out) and segments into one list a round.
 * Receiving goes to a buffer (`input`), where headers are read; payloads in it are copied into the segments of their
 * request. Of a payload that has only begun to arrive, the rest is received into the segments themselves (`expect`).
 */
import { assert } from '../../../base/assert.ts';
import { CopyEngine } from '../../../sys/copy-engine.ts';
import { IOV_LONG_ENTRIES, type IovArena } from '../../../sys/iov-arena.ts';
import { IovList } from '../../../sys/iov-list.ts';
import { Mapping, MappingViews } from '../../../sys/mapping.ts';
import { type StreamAddress, StreamSocket } from '../../../sys/stream-socket.ts';

/** Size of `input`: payloads beyond it are received in place. */
const INPUT_BYTES = 64 * 1024;
/** Zeroes to copy from: memory that is never written costs one page. */
const ZERO_BYTES = 64 * 1024;
/** Entries of one message (UIO_MAXIOV), less one for the buffer. */
const ENTRIES_MAX = 1023;
/** Lists of `IOV_LONG_ENTRIES` that may wait to be sent. */
const OUT_LISTS = 4;
/** `bytes` ends where a cache line does. */
const LINE_BYTES = 64;

export class NbdStream {
  readonly socket = new StreamSocket();
  /** Pieces of the protocol that `queue` sends. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** What was received and not yet taken: `[start, end)`. */
  readonly input: Uint8Array;
  readonly inputView: DataView;
  start = 0;
  end = 0;
  /** Bytes that the last receive put where `expect` said. */
  placed = 0;
  /** Layout: `bytes`, `input`, zeroes. */
  readonly #memory: Mapping;
  readonly #views = new MappingViews();
  readonly #inputAt: number;
  readonly #out = new IovList(OUT_LISTS * IOV_LONG_ENTRIES);
  /** Entries that were sent. */
  #sent = 0;
  /** What is received: where the owner expects it, then into `input`. */
  readonly #in = new IovList(ENTRIES_MAX + 1);
  #expectedBytes = 0;
  /** What is copied between our memory and others. */
  readonly #part = new IovList(IOV_LONG_ENTRIES);
  readonly #engine = new CopyEngine(this.#part.entries, 1);

  /** `ownBytes`: size of `bytes`. */
  constructor(ownBytes: number) {
    this.#inputAt = Math.ceil(ownBytes / LINE_BYTES) * LINE_BYTES;
    this.#memory = Mapping.anonymous(this.#inputAt + INPUT_BYTES + ZERO_BYTES);
    const buffer = this.#views.view(this.#memory, 0, this.#inputAt + INPUT_BYTES);
    this.bytes = new Uint8Array(buffer, 0, ownBytes);
    this.view = new DataView(buffer, 0, ownBytes);
    this.input = new Uint8Array(buffer, this.#inputAt, INPUT_BYTES);
    this.inputView = new DataView(buffer, this.#inputAt, INPUT_BYTES);
    this.#engine.setDisk(this.#memory.address, 1, this.#memory.lengthBytes);
  }

  /** Bytes of `input` that nobody took. */
  get available(): number {
    return this.end - this.start;
  }

  /** Starts to connect, with nothing of an earlier connection. */
  open(address: StreamAddress): void {
    this.start = 0;
    this.end = 0;
    this.placed = 0;
    this.#sent = 0;
    this.#out.count = 0;
    this.#in.count = 0;
    this.#expectedBytes = 0;
    this.socket.open(address);
  }

  /** Entries that can be queued now. */
  get room(): number {
    return this.#out.capacity - this.#out.count;
  }

  /** Sends a part of `bytes`, which stays as it is until it was sent. */
  queue(offset: number, lengthBytes: number): void {
    this.#out.add(this.#memory.address + offset, lengthBytes);
  }

  /** Sends `lengthBytes` of the segments of a list, `skipBytes` from its start. There is `room` for all its entries. */
  queueSegments(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    this.#out.addPart(arena, first, count, skipBytes, lengthBytes);
  }

  /** True when everything queued was handed to the kernel. */
  get isFlushed(): boolean {
    return this.#out.count === 0;
  }

  /** Hands what was queued to the kernel, as far as it has room. */
  flush(): void {
    const out = this.#out;
    while (out.count > 0) {
      const bytes = this.socket.send(out, this.#sent);
      if (bytes === 0) return;
      this.#sent = out.skip(this.#sent, bytes);
      if (this.#sent < out.count) continue;
      this.#sent = 0;
      out.count = 0;
    }
  }

  /** Where the next bytes of the stream go, after those in `input`: it is empty now. */
  expect(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    assert(this.available === 0, 'what was received is taken before more is placed');
    this.#in.count = this.#in.entries.setPart(0, ENTRIES_MAX, arena, first, count, skipBytes, lengthBytes);
    this.#expectedBytes = this.#in.lengthBytes;
  }

  /** Receives what is there. True when there may be more. */
  receive(): boolean {
    this.placed = 0;
    if (this.start === this.end) {
      this.start = 0;
      this.end = 0;
    } else if (this.start > 0) {
      this.input.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.start = 0;
    }
    const expected = this.#expectedBytes;
    const room = this.input.length - this.end;
    assert(expected + room > 0, 'what was received is taken');
    const list = this.#in;
    const guestEntries = list.count;
    list.add(this.#memory.address + this.#inputAt + this.end, room);
    const bytes = this.socket.receive(list, guestEntries);
    list.count = guestEntries;
    if (bytes === 0) return false;
    this.placed = Math.min(bytes, expected);
    this.end += bytes - this.placed;
    list.count = 0;
    this.#expectedBytes = 0;
    return bytes === expected + room;
  }

  /** Takes `lengthBytes` of `input` into the segments of a list, `skipBytes` from its start. */
  take(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    assert(lengthBytes <= this.available, 'only what is there is taken');
    this.#copy(this.#inputAt + this.start, arena, first, count, skipBytes, lengthBytes);
    this.start += lengthBytes;
  }

  /** Zeroes `lengthBytes` of the segments of a list, `skipBytes` from its start. */
  zero(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    const zeroes = this.#inputAt + this.input.length;
    for (let done = 0; done < lengthBytes; done += ZERO_BYTES) {
      const length = Math.min(ZERO_BYTES, lengthBytes - done);
      this.#copy(zeroes, arena, first, count, skipBytes + done, length);
    }
  }

  /** Gives everything back. */
  free(): void {
    this.socket.close();
    this.#engine.close();
    this.#in.close();
    this.#part.close();
    this.#out.close();
    this.#views.close();
    this.#memory.close();
  }

  #copy(from: number, arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    this.#part.count = 0;
    this.#engine.read(from, lengthBytes, 0, this.#part.addPart(arena, first, count, skipBytes, lengthBytes));
    this.#engine.run();
  }
}
