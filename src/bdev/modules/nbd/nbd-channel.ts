/**
 * An NBD export's channel in one reactor, with a connection of its own. Requests go out with their data straight from
 * the guest's buffers, all of a round in one message; answers are read in large pieces, and a payload that has only
 * begun to arrive is received into the guest's buffers.
 *
 * A connection that ends is made again, with a growing pause between attempts, and what was not answered is sent again:
 * a request is at most done twice, never lost. It ends in a failure only when the server says so, when it waited for
 * longer than it may, or when the bdev goes away.
 *
 * The server is not trusted: an answer to nothing, bytes outside of a request, lengths that do not add up end the
 * connection.
 */
import type { IovArena } from '../../../sys/iov-arena.ts';
import { isOnThisMachine } from '../../../sys/stream-socket.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType } from '../../bdev-io.ts';
import { claimExport, type NbdChannelParams, readAddress, releaseExport } from './channel-params.ts';
import { NbdConnection } from './connection.ts';
import {
  CHUNK_BYTES,
  CHUNK_DONE,
  CHUNK_ERROR,
  CHUNK_ERROR_BYTES,
  CHUNK_MAGIC,
  CHUNK_TEXT_MAX,
  ChunkType,
  Command,
  ESHUTDOWN,
  RANGE_BYTES_MAX,
  REQUEST_BYTES,
  REQUEST_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
} from './protocol.ts';

/** Requests at the server; more wait. */
const SLOTS = 256;
/** Receives in one round at most, so that one connection does not starve the others. */
const RECEIVES_MAX = 16;
/** How often time is looked at while there is something to wait for. */
const TICK_MS = 100;
/** From the start of an attempt to an open export. */
const OPEN_MS_MAX = 10_000;
/** The same while a bdev goes away. */
const LAST_OPEN_MS_MAX = 2_000;
const PAUSE_MS_MIN = 100;
const PAUSE_MS_MAX = 5_000;
const TWO_32 = 2 ** 32;
const NO_SLOT = -1;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE, flush: FLUSH, unmap: UNMAP } = IoType;
const SUCCESS = IoStatus.success;
const FAILED = IoStatus.failed;

export class NbdChannel implements IoChannel {
  readonly sharesCores: boolean;
  readonly hasConnection = true;
  readonly wakeFd: number;
  letGo?: () => void;
  readonly #connection: NbdConnection;
  readonly #params: NbdChannelParams;
  readonly #arena: IovArena;
  readonly #blockSizeBytes: number;

  /** By slot: the request, the bytes of it that earlier pieces did, the length of the piece, … */
  readonly #ios: (BdevIo | null)[] = Array.from({ length: SLOTS }, () => null);
  readonly #done = new Float64Array(SLOTS);
  readonly #piece = new Float64Array(SLOTS);
  /** … its bytes that chunks brought, 1 once one told an error, the number its answer has, 1 when it was sent. */
  readonly #filled = new Float64Array(SLOTS);
  readonly #hasFailed = new Uint8Array(SLOTS);
  readonly #serial = new Uint32Array(SLOTS);
  readonly #isSent = new Uint8Array(SLOTS);
  readonly #free = Int32Array.from({ length: SLOTS }, (_, i) => SLOTS - 1 - i);
  #freeCount = SLOTS;
  #nextSerial = 1;
  /** Slots to send, a queue of at most all of them. */
  readonly #queue = new Int32Array(SLOTS);
  #queueHead = 0;
  #queueCount = 0;
  #sentCount = 0;
  /** Requests without a slot. */
  #waiting: BdevIo[] = [];

  /** The payload that is arriving: whose, where in its piece, how much is left, and whether its answer ends with it. */
  #target = NO_SLOT;
  #targetSkip = 0;
  #targetLeft = 0;
  #targetEnds = false;

  #ended = 0;
  #tickTimer: NodeJS.Timeout | null = null;
  #isAbandoned = false;
  #hasHeard = false;
  #silentSinceMs = 0;
  #openedMs = 0;
  #nextAttemptMs = 0;
  #pauseMs = 0;
  /** Since when requests wait for a connection; 0: none does. */
  #heldSinceMs = 0;

  constructor(description: BdevDescription, context: ChannelContext) {
    this.#params = description.params as NbdChannelParams;
    this.#arena = context.arena;
    this.#blockSizeBytes = description.blockSizeBytes;
    claimExport(description.name, this.#params);
    const address = readAddress(this.#params);
    this.sharesCores = isOnThisMachine(address.server);
    this.#connection = new NbdConnection(address, SLOTS * REQUEST_BYTES);
    this.wakeFd = this.#connection.wakeFd;
    // Of several, connected by the time the first request comes, if the server is quick. The only one waits until it is
    // needed: for an upgrade another daemon may have it.
    if (this.#params.isShared) this.#open(Date.now());
    else this.letGo = () => this.#leave();
  }

  submit(io: BdevIo): void {
    if (io.type !== FLUSH && io.lengthBytes === 0) io.complete(SUCCESS);
    else if (this.#freeCount === 0) this.#waiting.push(io);
    else this.#start(io);
  }

  poll(): number {
    this.#ended = 0;
    const connection = this.#connection;
    if (connection.isReady) this.#send();
    connection.step();
    if (connection.isReady) this.#receive();
    connection.step();
    if (connection.isReady) {
      this.#heldSinceMs = 0;
      if (this.#params.ioTimeoutMs > 0 && this.#sentCount > 0) this.#watchSilence();
    } else {
      this.#reconnect();
    }
    return this.#ended;
  }

  arm(): boolean {
    const connection = this.#connection;
    connection.arm();
    return connection.isReady && this.#queueCount > 0 && connection.stream.isFlushed;
  }

  disarm(): void {
    this.#connection.disarm();
  }

  abandon(): void {
    this.#isAbandoned = true;
  }

  update(): void {}

  close(): void {
    this.#takeLeave();
    if (this.#tickTimer !== null) clearTimeout(this.#tickTimer);
    this.#connection.free();
    releaseExport(this.#params);
  }

  #takeLeave(): void {
    const { stream } = this.#connection;
    if (!this.#connection.isReady || !stream.isFlushed) return;
    this.#encode(0, Command.disconnect, 0, 0, 0);
    stream.queue(0, REQUEST_BYTES);
    stream.flush();
  }

  /** Ends the connection; the next request makes another. */
  #leave(): void {
    this.#takeLeave();
    this.#connection.close('another daemon has it');
    this.#nextAttemptMs = 0;
  }

  #start(io: BdevIo): void {
    const slot = this.#free[--this.#freeCount] as number;
    this.#ios[slot] = io;
    this.#done[slot] = 0;
    this.#enqueue(slot);
  }

  #enqueue(slot: number): void {
    this.#isSent[slot] = 0;
    this.#queue[(this.#queueHead + this.#queueCount++) % SLOTS] = slot;
  }

  /** Puts what fits into the next message. */
  #send(): void {
    const { stream } = this.#connection;
    while (this.#queueCount > 0) {
      const slot = this.#queue[this.#queueHead] as number;
      const io = this.#ios[slot] as BdevIo;
      if (stream.room < 1 + io.iovCount) return;
      this.#queueHead = (this.#queueHead + 1) % SLOTS;
      this.#queueCount--;
      this.#sendPiece(slot, io);
    }
  }

  #sendPiece(slot: number, io: BdevIo): void {
    const { stream, info } = this.#connection;
    const hasData = io.type === READ || io.type === WRITE;
    const max = hasData ? (info?.payloadBytesMax ?? 0) : RANGE_BYTES_MAX;
    // A multiple of the block size, as every maximum that makes sense is.
    const done = this.#done[slot] as number;
    const length = io.type === FLUSH ? 0 : Math.min(io.lengthBytes - done, max - (max % this.#blockSizeBytes));
    const offset = io.type === FLUSH ? 0 : io.offsetBlocks * this.#blockSizeBytes + done;
    this.#piece[slot] = length;
    this.#filled[slot] = 0;
    this.#hasFailed[slot] = 0;
    this.#serial[slot] = this.#nextSerial;
    this.#nextSerial = (this.#nextSerial + 1) >>> 0;
    this.#isSent[slot] = 1;
    if (this.#sentCount++ === 0) this.#silentSinceMs = 0;
    this.#encode(slot, commandOf(io.type), this.#serial[slot] as number, offset, length);
    stream.queue(slot * REQUEST_BYTES, REQUEST_BYTES);
    if (io.type === WRITE) stream.queueSegments(this.#arena, io.iovFirst, io.iovCount, done, length);
  }

  #encode(slot: number, command: number, serial: number, offset: number, length: number): void {
    const { view } = this.#connection.stream;
    const at = slot * REQUEST_BYTES;
    view.setUint32(at, REQUEST_MAGIC);
    view.setUint16(at + 4, 0);
    view.setUint16(at + 6, command);
    view.setUint32(at + 8, serial);
    view.setUint32(at + 12, slot);
    view.setUint32(at + 16, offset / TWO_32);
    view.setUint32(at + 20, offset >>> 0);
    view.setUint32(at + 24, length);
  }

  /** Takes the answers that have arrived. */
  #receive(): void {
    const connection = this.#connection;
    const { stream } = connection;
    let isMore = true;
    for (let i = 0; i < RECEIVES_MAX && isMore; i++) {
      isMore = stream.receive();
      if (stream.placed > 0) this.#placed(stream.placed);
      while (this.#takeAnswer());
      if (!connection.isReady) return;
      if (this.#target !== NO_SLOT) this.#expect(this.#target);
    }
  }

  /** The rest of a payload goes where it belongs. */
  #expect(slot: number): void {
    const io = this.#ios[slot] as BdevIo;
    const skip = (this.#done[slot] as number) + this.#targetSkip;
    this.#connection.stream.expect(this.#arena, io.iovFirst, io.iovCount, skip, this.#targetLeft);
  }

  /** One answer, or the next part of one. False when there is not enough of it, or it is wrong. */
  #takeAnswer(): boolean {
    const { stream } = this.#connection;
    if (this.#target !== NO_SLOT) {
      if (stream.available === 0) return false;
      this.#takePayload(Math.min(stream.available, this.#targetLeft));
      return true;
    }
    if (stream.available < SIMPLE_REPLY_BYTES) return false;
    const magic = stream.inputView.getUint32(stream.start);
    if (magic === SIMPLE_REPLY_MAGIC) return this.#takeSimple();
    return magic === CHUNK_MAGIC && this.#connection.info?.hasStructuredReplies === true
      ? this.#takeChunk()
      : this.#wrong('something that is no answer');
  }

  #takeSimple(): boolean {
    const { stream } = this.#connection;
    const { inputView: view, start } = stream;
    const slot = this.#slotOf(start + 8);
    if (slot === NO_SLOT) return this.#wrong('an answer to nothing');
    const error = view.getUint32(start + 4);
    const isRead = (this.#ios[slot] as BdevIo).type === READ;
    if (isRead && this.#connection.info?.hasStructuredReplies === true) {
      return this.#wrong('a simple answer to a read');
    }
    stream.start += SIMPLE_REPLY_BYTES;
    this.#hasHeard = true;
    if (error === ESHUTDOWN) return this.#wrong('that it shuts down');
    if (error === 0 && isRead) this.#startPayload(slot, 0, this.#piece[slot] as number, true);
    else this.#pieceEnded(slot, error === 0);
    return true;
  }

  #takeChunk(): boolean {
    const { stream } = this.#connection;
    const { inputView: view, start } = stream;
    if (stream.available < CHUNK_BYTES) return false;
    const flags = view.getUint16(start + 4);
    const type = view.getUint16(start + 6);
    const length = view.getUint32(start + 16);
    const slot = this.#slotOf(start + 8);
    if (slot === NO_SLOT) return this.#wrong('an answer to nothing');
    const isRead = (this.#ios[slot] as BdevIo).type === READ;
    const at = start + CHUNK_BYTES;
    const isDone = (flags & CHUNK_DONE) !== 0;
    // Of data only where it goes is read here, of everything else all.
    const headLength = type === ChunkType.data ? 8 : length;
    if (headLength > CHUNK_TEXT_MAX || length < headLength) return this.#wrong('a chunk of a wrong length');
    if (stream.available < CHUNK_BYTES + headLength) return false;
    if (type === ChunkType.none) {
      if (length !== 0 || !isDone) return this.#wrong('an empty chunk that is not the last');
    } else if (type >= CHUNK_ERROR) {
      if (length < CHUNK_ERROR_BYTES || CHUNK_ERROR_BYTES + view.getUint16(at + 4) > length) {
        return this.#wrong('an error of a wrong length');
      }
      if (view.getUint32(at) === ESHUTDOWN) return this.#wrong('that it shuts down');
      this.#hasFailed[slot] = 1;
    } else {
      const isHole = type === ChunkType.hole;
      if ((!isHole && type !== ChunkType.data) || !isRead) return this.#wrong('a chunk that nobody asked for');
      if (isHole && length !== 12) return this.#wrong('a hole of a wrong length');
      const bytes = isHole ? view.getUint32(at + 8) : length - 8;
      const position =
        view.getUint32(at) * TWO_32 + view.getUint32(at + 4) - (this.#offsetOf(slot) + (this.#done[slot] as number));
      const piece = this.#piece[slot] as number;
      if (bytes === 0 || position < 0 || position + bytes > piece || (this.#filled[slot] as number) + bytes > piece) {
        return this.#wrong('bytes that nobody asked for');
      }
      stream.start += CHUNK_BYTES + headLength;
      this.#hasHeard = true;
      if (isHole) this.#takeHole(slot, position, bytes, isDone);
      else this.#startPayload(slot, position, bytes, isDone);
      return this.#connection.isReady;
    }
    stream.start += CHUNK_BYTES + headLength;
    this.#hasHeard = true;
    return !isDone || this.#answerEnded(slot);
  }

  #takeHole(slot: number, position: number, bytes: number, isDone: boolean): void {
    const io = this.#ios[slot] as BdevIo;
    const skip = (this.#done[slot] as number) + position;
    this.#connection.stream.zero(this.#arena, io.iovFirst, io.iovCount, skip, bytes);
    this.#filled[slot] = (this.#filled[slot] as number) + bytes;
    if (isDone) this.#answerEnded(slot);
  }

  #startPayload(slot: number, position: number, bytes: number, isDone: boolean): void {
    this.#target = slot;
    this.#targetSkip = position;
    this.#targetLeft = bytes;
    this.#targetEnds = isDone;
  }

  #takePayload(bytes: number): void {
    const slot = this.#target;
    const io = this.#ios[slot] as BdevIo;
    const skip = (this.#done[slot] as number) + this.#targetSkip;
    this.#connection.stream.take(this.#arena, io.iovFirst, io.iovCount, skip, bytes);
    this.#placed(bytes);
  }

  /** So many bytes more of the payload are where they belong. */
  #placed(bytes: number): void {
    const slot = this.#target;
    this.#hasHeard = true;
    this.#targetSkip += bytes;
    this.#targetLeft -= bytes;
    this.#filled[slot] = (this.#filled[slot] as number) + bytes;
    if (this.#targetLeft > 0) return;
    this.#target = NO_SLOT;
    if (this.#targetEnds) this.#answerEnded(slot);
  }

  /** All chunks are there. */
  #answerEnded(slot: number): boolean {
    const hasFailed = this.#hasFailed[slot] === 1;
    const isRead = (this.#ios[slot] as BdevIo).type === READ;
    if (isRead && !hasFailed && this.#filled[slot] !== this.#piece[slot]) return this.#wrong('less than was asked for');
    this.#pieceEnded(slot, !hasFailed);
    return true;
  }

  #pieceEnded(slot: number, isSuccess: boolean): void {
    const io = this.#ios[slot] as BdevIo;
    this.#sentCount--;
    this.#pauseMs = 0;
    this.#nextAttemptMs = 0;
    this.#done[slot] = (this.#done[slot] as number) + (this.#piece[slot] as number);
    if (isSuccess && io.type !== FLUSH && (this.#done[slot] as number) < io.lengthBytes) this.#enqueue(slot);
    else this.#end(slot, isSuccess ? SUCCESS : FAILED);
  }

  #end(slot: number, status: IoStatus): void {
    const io = this.#ios[slot] as BdevIo;
    this.#ios[slot] = null;
    this.#isSent[slot] = 0;
    this.#free[this.#freeCount++] = slot;
    this.#ended++;
    const next = this.#waiting.length > 0 ? this.#waiting.shift() : undefined;
    if (next !== undefined) this.#start(next);
    io.complete(status);
  }

  /** The slot that an answer's cookie names, or none. */
  #slotOf(at: number): number {
    const { inputView: view } = this.#connection.stream;
    const slot = view.getUint32(at + 4);
    const isOurs = slot < SLOTS && this.#isSent[slot] === 1 && this.#serial[slot] === view.getUint32(at);
    return isOurs ? slot : NO_SLOT;
  }

  #offsetOf(slot: number): number {
    return (this.#ios[slot] as BdevIo).offsetBlocks * this.#blockSizeBytes;
  }

  #wrong(what: string): false {
    this.#connection.close(`the server sent ${what}`);
    return false;
  }

  /** There is no connection: gets what was sent back, and makes another when it is time. */
  #reconnect(): void {
    const connection = this.#connection;
    const now = Date.now();
    if (!connection.isClosed) {
      const limitMs = this.#isAbandoned ? LAST_OPEN_MS_MAX : OPEN_MS_MAX;
      if (now - this.#openedMs > limitMs) connection.close('the server did not answer in time');
      this.#tick();
      return;
    }
    this.#takeBack();
    if (this.#queueCount === 0) return;
    if (this.#heldSinceMs === 0) this.#heldSinceMs = now;
    const { holdMs } = this.#params;
    if (this.#isAbandoned || (holdMs > 0 && now - this.#heldSinceMs >= holdMs)) this.#failAll();
    else if (now >= this.#nextAttemptMs) this.#open(now);
    this.#tick();
  }

  #open(now: number): void {
    this.#openedMs = now;
    this.#pauseMs = Math.min(Math.max(PAUSE_MS_MIN, this.#pauseMs * 2), PAUSE_MS_MAX);
    this.#nextAttemptMs = now + this.#pauseMs;
    this.#connection.open();
  }

  /** What was not answered is to be sent again. Nothing of it is in the stream any more. */
  #takeBack(): void {
    this.#target = NO_SLOT;
    if (this.#sentCount === 0) return;
    for (let slot = 0; slot < SLOTS; slot++) if (this.#isSent[slot] === 1) this.#enqueue(slot);
    this.#sentCount = 0;
  }

  #failAll(): void {
    this.#heldSinceMs = 0;
    // Not those that their owners submit meanwhile.
    for (let left = this.#queueCount + this.#waiting.length; left > 0; left--) {
      const slot = this.#queue[this.#queueHead] as number;
      this.#queueHead = (this.#queueHead + 1) % SLOTS;
      this.#queueCount--;
      this.#end(slot, FAILED);
    }
  }

  #watchSilence(): void {
    const now = Date.now();
    if (this.#hasHeard || this.#silentSinceMs === 0) this.#silentSinceMs = now;
    this.#hasHeard = false;
    if (now - this.#silentSinceMs > this.#params.ioTimeoutMs)
      this.#connection.close('the server said nothing for long');
    this.#tick();
  }

  #tick(): void {
    this.#tickTimer ??= setTimeout(() => {
      this.#tickTimer = null;
      this.#connection.nudge();
    }, TICK_MS);
  }
}

function commandOf(type: IoType): number {
  if (type === READ) return Command.read;
  if (type === WRITE) return Command.write;
  if (type === FLUSH) return Command.flush;
  return type === UNMAP ? Command.trim : Command.writeZeroes;
}
