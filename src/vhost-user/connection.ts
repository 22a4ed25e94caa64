/**
 * One vhost-user socket: exact reads of header and payload, descriptors collected with the message they belong to, one
 * message handled at a time, replies buffered within a limit.
 */
import { Errno, strerror, TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { closeFd, type FdSet } from '../sys/events.ts';
import { createFdBuffer, receiveMessage, sendMessage } from '../sys/socket.ts';
import { Header, HeaderFlag, PAYLOAD_BYTES_MAX } from './messages.ts';
import type { ProtocolTrace } from './protocol-trace.ts';

/** Replies that a front-end has not read. The largest reply is a few hundred bytes; one that never reads is dropped. */
const UNSENT_BYTES_MAX = 64 * 1024;
/** Descriptors of one message: a memory table has one a region. */
const FDS_PER_MESSAGE_MAX = 64;

/** One received message. Descriptors that nobody takes are closed when it was handled. */
export class Message {
  readonly code: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly #fds: number[];

  constructor(code: number, flags: number, payload: Uint8Array, fds: number[]) {
    this.code = code;
    this.flags = flags;
    this.payload = payload;
    this.#fds = fds;
  }

  get fdCount(): number {
    return this.#fds.length;
  }

  /** The next descriptor, now the caller's; -1 when there is none. */
  takeFd(): number {
    return this.#fds.shift() ?? -1;
  }

  closeFds(): void {
    for (const fd of this.#fds) closeFd(fd);
    this.#fds.length = 0;
  }
}

export interface ConnectionHandlers {
  /** The next message is read when this resolves. A rejection ends the connection with its error. */
  onMessage(message: Message): Promise<void>;
  /** Called once. No error: the peer closed, or we did. */
  onClose(error?: TargetError): void;
  /** Is shown every message. Default: nobody is. */
  readonly trace?: ProtocolTrace | null;
}

/** A connection as it is handed over: what of a message was read, and what was not sent yet. Bytes are base64. */
export interface ConnectionRecord {
  readonly fd: number;
  readonly received: string;
  readonly receivedFds: readonly number[];
  readonly unsent: readonly { readonly bytes: string; readonly fds: readonly number[] }[];
}

export class Connection {
  readonly #fd: number;
  readonly #fdSet: FdSet;
  readonly #handlers: ConnectionHandlers;
  readonly #head = new Uint8Array(Header.size);
  readonly #received = createFdBuffer();
  #payload = new Uint8Array(0);
  #fds: number[] = [];
  /** Bytes of the current message read so far. */
  #filled = 0;
  #isHandling = false;
  #isHeld = false;
  /** What is being read and handled. */
  #pumping: Promise<void> = Promise.resolve();
  #isClosed = false;
  #unsent: { bytes: Uint8Array; fds: readonly number[] }[] = [];
  #unsentBytes = 0;

  constructor(fd: number, fdSet: FdSet, handlers: ConnectionHandlers) {
    this.#fd = fd;
    this.#fdSet = fdSet;
    this.#handlers = handlers;
    fdSet.add(fd, (events) => {
      if (events.isWritable) this.#flush();
      if (events.isReadable || events.isBroken) this.#startPump();
    });
  }

  /** No message is read from now on, until `release`. Resolves when the one in hand was handled. */
  async hold(): Promise<void> {
    this.#isHeld = true;
    await this.#pumping;
    if (!this.#isClosed) this.#watch();
  }

  release(): void {
    this.#isHeld = false;
    if (!this.#isClosed) this.#watch();
  }

  /** While it is held. */
  save(fds: FdList): ConnectionRecord {
    const head = this.#head.subarray(0, Math.min(this.#filled, Header.size));
    const payload = this.#payload.subarray(0, Math.max(0, this.#filled - Header.size));
    return {
      fd: fds.put(this.#fd),
      received: Buffer.concat([head, payload]).toString('base64'),
      receivedFds: this.#fds.map((fd) => fds.put(fd)),
      unsent: this.#unsent.map((one) => ({
        bytes: Buffer.from(one.bytes).toString('base64'),
        fds: one.fds.map((fd) => fds.put(fd)),
      })),
    };
  }

  /** Goes on where another connection on the same socket was held. It is held, and nothing was received. */
  load({ received, receivedFds, unsent }: ConnectionRecord, fds: FdList): void {
    const bytes = Buffer.from(received, 'base64');
    this.#filled = bytes.length;
    this.#head.set(bytes.subarray(0, Header.size));
    if (bytes.length >= Header.size) this.#startPayload();
    this.#payload.set(bytes.subarray(Header.size));
    this.#fds = receivedFds.map((place) => fds.take(place));
    for (const one of unsent) {
      this.#queue(
        Buffer.from(one.bytes, 'base64'),
        one.fds.map((place) => fds.take(place)),
      );
    }
  }

  /** Sends now or, when the peer's buffer is full, later. Takes the descriptors, whatever happens. */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    this.#handlers.trace?.sent(bytes, fds.length);
    const canSend = !this.#isClosed && this.#unsent.length === 0;
    const sent = canSend ? sendMessage(this.#fd, bytes, 0, fds) : Errno.EAGAIN;
    if (sent === Errno.EAGAIN && !this.#isClosed) {
      this.#queue(bytes, fds);
      return;
    }
    for (const fd of fds) closeFd(fd);
    if (this.#isClosed || sent === bytes.length) return;
    if (sent < 0) this.close(peerError(sent));
    else this.#queue(bytes.subarray(sent), []);
  }

  close(error?: TargetError): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#fdSet.remove(this.#fd);
    closeFd(this.#fd);
    for (const fd of this.#fds) closeFd(fd);
    this.#fds = [];
    for (const { fds } of this.#unsent) for (const fd of fds) closeFd(fd);
    this.#unsent = [];
    this.#handlers.onClose(error);
  }

  #startPump(): void {
    if (!this.#isHandling && !this.#isHeld) this.#pumping = this.#pump();
  }

  async #pump(): Promise<void> {
    this.#isHandling = true;
    // While a message is handled nothing is read: a front-end that floods us fills its own socket buffer.
    this.#watch();
    try {
      for (let message = this.#read(); message !== null; message = this.#read()) {
        try {
          await this.#handlers.onMessage(message);
        } finally {
          message.closeFds();
        }
      }
    } catch (error) {
      this.close(error instanceof TargetError ? error : new TargetError('EIO', String(error), { cause: error }));
    }
    this.#isHandling = false;
    if (!this.#isClosed) this.#watch();
  }

  #watch(): void {
    // A hang-up cannot be masked, and lasts: while nobody acts on it, it is to be reported once.
    const edge = this.#isHandling || this.#isHeld;
    this.#fdSet.change(this.#fd, { readable: !edge, writable: this.#unsent.length > 0, edge });
  }

  /** One whole message, or null when more bytes must come first (or the connection ended). */
  #read(): Message | null {
    while (!this.#isClosed && !this.#isHeld) {
      const isHead = this.#filled < Header.size;
      const target = isHead ? this.#head : this.#payload;
      const at = isHead ? this.#filled : this.#filled - Header.size;
      if (!isHead && at === target.length) return this.#take();
      const count = receiveMessage(this.#fd, target, at, target.length - at, this.#received);
      if (count === Errno.EAGAIN) return null;
      if (count < 0) throw peerError(count);
      for (let i = 1; i <= (this.#received[0] as number); i++) this.#fds.push(this.#received[i] as number);
      if (this.#fds.length > FDS_PER_MESSAGE_MAX) {
        throw new TargetError('VHOST_MSG_FDS', `a message came with more than ${FDS_PER_MESSAGE_MAX} descriptors`);
      }
      if (count === 0) {
        if (this.#filled > 0) throw new TargetError('VHOST_MSG_TRUNCATED', 'the connection ended inside a message');
        this.close();
        return null;
      }
      this.#filled += count;
      if (isHead && this.#filled === Header.size) this.#startPayload();
    }
    return null;
  }

  #startPayload(): void {
    const { flags, size } = Header.decode(this.#head);
    if ((flags & HeaderFlag.versionMask) !== HeaderFlag.version) {
      throw new TargetError(
        'VHOST_MSG_VERSION',
        `a message has protocol version ${flags & HeaderFlag.versionMask}, not 1`,
      );
    }
    if (size > PAYLOAD_BYTES_MAX) {
      throw new TargetError(
        'VHOST_MSG_SIZE',
        `a message claims ${size} bytes of payload; ${PAYLOAD_BYTES_MAX} is the most`,
      );
    }
    this.#payload = new Uint8Array(size);
  }

  #take(): Message {
    const { request, flags } = Header.decode(this.#head);
    const message = new Message(request, flags, this.#payload, this.#fds);
    this.#handlers.trace?.received(request, flags, this.#payload, this.#fds.length);
    this.#fds = [];
    this.#filled = 0;
    return message;
  }

  #queue(bytes: Uint8Array, fds: readonly number[]): void {
    this.#unsentBytes += bytes.length;
    this.#unsent.push({ bytes, fds });
    if (this.#unsentBytes <= UNSENT_BYTES_MAX) this.#watch();
    else this.close(new TargetError('VHOST_MSG_UNREAD', 'the front-end does not read its replies'));
  }

  #flush(): void {
    for (let next = this.#unsent[0]; next !== undefined; next = this.#unsent[0]) {
      const sent = sendMessage(this.#fd, next.bytes, 0, next.fds);
      if (sent === Errno.EAGAIN) return;
      if (sent < 0) {
        this.close(peerError(sent));
        return;
      }
      this.#unsentBytes -= sent;
      for (const fd of next.fds) closeFd(fd);
      if (sent === next.bytes.length) this.#unsent.shift();
      else this.#unsent[0] = { bytes: next.bytes.subarray(sent), fds: [] };
    }
    this.#watch();
  }
}

function peerError(errno: number): TargetError {
  return new TargetError('VHOST_PEER', `the front-end's socket failed: ${strerror(errno)}`, { errno });
}
