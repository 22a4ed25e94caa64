/**
 * What the two daemons of an upgrade say to each other (docs/upgrade.md): messages over a pair of connected sockets,
 * each with any number of descriptors. On the wire: the length of the text and the number of descriptors, 4 bytes each,
 * little-endian; the descriptors, with a byte for each message of the kernel's that carries them; the text, JSON.
 */
import { Errno, errnoName, strerror, TargetError } from '../base/errors.ts';
import { FdList } from '../base/fd-list.ts';
import type { SavedStore } from '../bdev/modules/lvol/lvols.ts';
import { closeFd, FdSet } from '../sys/events.ts';
import { createFdBuffer, FDS_PER_MESSAGE_MAX, receiveMessage, sendMessage } from '../sys/socket.ts';
import type { ControllerRecord } from '../vhost/controller.ts';
import type { ConfigFile } from './config-file.ts';

/** Changes with every change of what is below. */
export const HANDOVER_VERSION = 3;

/** What the new daemon needs to be ready, while the old one serves. Numbers named `fd` are places of descriptors. */
export interface Offer {
  readonly type: 'offer';
  readonly version: number;
  /** For the log. */
  readonly from: string;
  readonly socketDirectory: string;
  readonly rpcSocket: string;
  readonly rpcFd: number;
  /** Of RPC over TCP; -1: there is none. */
  readonly httpsFd: number;
  /** Of the dashboard; -1: there is none. */
  readonly httpFd: number;
  /** Of the state directory; -1: there is none. */
  readonly stateLockFd: number;
  readonly logLevels: string;
  readonly config: ConfigFile;
  readonly bdevs: readonly BdevOffer[];
  /** Of clients of Ceph: the file that names them, and those of this daemon. */
  readonly ceph: { readonly fd: number; readonly addresses: readonly string[] };
  readonly listeners: readonly { readonly name: string; readonly fd: number }[];
}

interface BdevOffer {
  readonly name: string;
  readonly fds: readonly number[];
  /** What its module tells the next one's. */
  readonly about?: unknown;
}

/** What may have changed until guests waited. */
export interface FrozenState {
  readonly controllers: readonly ControllerRecord[];
  readonly stores: readonly SavedStore[];
}

export type HandoverMessage =
  | Offer
  /** From the new one: what was offered is made. */
  | { readonly type: 'prepared' }
  /** From the old one, which has stopped every ring. */
  | ({ readonly type: 'state' } & FrozenState)
  /** From the new one: nothing can fail any more. */
  | { readonly type: 'ready' }
  /** From the old one: the rings are yours. */
  | { readonly type: 'go' }
  /** From the new one, before it touches a ring. */
  | { readonly type: 'taken' }
  /** From the new one: since when (CLOCK_MONOTONIC) guests are served, and the old one may end. */
  | { readonly type: 'serving'; readonly sinceNs: number }
  /** From the new one, which ends. */
  | { readonly type: 'failed'; readonly reason: string };

type MessageType = HandoverMessage['type'];
export type MessageOf<T extends MessageType> = Extract<HandoverMessage, { readonly type: T }>;

const HEAD_BYTES = 8;
const TEXT_BYTES_MAX = 1 << 30;
/** ETOOMANYREFS: as many descriptors are on their way for this user as the kernel takes. It is tried again. */
const TOO_MANY_ON_THEIR_WAY = -109;
const RETRY_MS = 5;
const NO_BYTES = new Uint8Array(0);

export class HandoverChannel {
  readonly #fd: number;
  readonly #fdSet = new FdSet();
  readonly #received = createFdBuffer();
  #onReady: () => void = () => {};
  #isClosed = false;

  /** Takes a connected socket over, which does not block. */
  constructor(fd: number) {
    this.#fd = fd;
    this.#fdSet.add(fd, () => this.#onReady(), { readable: false, edge: true });
  }

  /** One message at a time. The descriptors stay the caller's. Throws `EPIPE` when the other side is gone. */
  async send(message: HandoverMessage, list = new FdList()): Promise<void> {
    const text = Buffer.from(JSON.stringify(message));
    const head = new Uint8Array(HEAD_BYTES);
    const view = new DataView(head.buffer);
    view.setUint32(0, text.length, true);
    view.setUint32(4, list.fds.length, true);
    await this.#sendAll(head);
    for (let i = 0; i < list.fds.length; i += FDS_PER_MESSAGE_MAX) {
      await this.#sendAll(Uint8Array.of(0), list.fds.slice(i, i + FDS_PER_MESSAGE_MAX));
    }
    await this.#sendAll(text);
  }

  /** One at a time. Throws `EPIPE` when the other side is gone, and `ECANCELED` when it failed, with its reason. */
  async receive<T extends MessageType>(type: T): Promise<{ message: MessageOf<T>; list: FdList }> {
    const fds: number[] = [];
    const view = new DataView((await this.#receiveAll(HEAD_BYTES, fds)).buffer);
    const [length, count] = [view.getUint32(0, true), view.getUint32(4, true)];
    if (length > TEXT_BYTES_MAX) throw new TargetError('EPROTO', `a message of ${length} bytes is none`);
    for (let i = 0; i < count; i += FDS_PER_MESSAGE_MAX) await this.#receiveAll(1, fds);
    const text = await this.#receiveAll(length, fds);
    const message = JSON.parse(Buffer.from(text).toString()) as HandoverMessage;
    if (message.type === 'failed') throw new TargetError('ECANCELED', `the new version failed: ${message.reason}`);
    if (message.type !== type) throw new TargetError('EPROTO', `expected "${type}", and "${message.type}" came`);
    return { message: message as MessageOf<T>, list: new FdList(fds) };
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#fdSet.close();
    closeFd(this.#fd);
    this.#onReady();
  }

  async #sendAll(bytes: Uint8Array, fds: readonly number[] = []): Promise<void> {
    for (let sent = 0; sent < bytes.length; ) {
      this.#checkOpen();
      const count = sendMessage(this.#fd, bytes, sent, sent === 0 ? fds : []);
      if (count === Errno.EAGAIN) await this.#ready({ writable: true, readable: false });
      else if (count === TOO_MANY_ON_THEIR_WAY) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      else if (count < 0) throw channelError(count);
      else sent += count;
    }
  }

  async #receiveAll(length: number, fds: number[]): Promise<Uint8Array> {
    const bytes = length === 0 ? NO_BYTES : new Uint8Array(length);
    for (let filled = 0; filled < length; ) {
      this.#checkOpen();
      const count = receiveMessage(this.#fd, bytes, filled, length - filled, this.#received);
      fds.push(...this.#received.subarray(1, 1 + (this.#received[0] as number)));
      if (count === Errno.EAGAIN) await this.#ready({ writable: false, readable: true });
      else if (count === 0) throw channelError(Errno.EPIPE);
      else if (count < 0) throw channelError(count);
      else filled += count;
    }
    return bytes;
  }

  #checkOpen(): void {
    if (this.#isClosed) throw channelError(Errno.EPIPE);
  }

  #ready(events: { readonly readable: boolean; readonly writable: boolean }): Promise<void> {
    return new Promise((resolve) => {
      this.#onReady = () => {
        this.#onReady = () => {};
        if (!this.#isClosed) this.#fdSet.change(this.#fd, { readable: false, edge: true });
        resolve();
      };
      this.#fdSet.change(this.#fd, events);
    });
  }
}

function channelError(errno: number): TargetError {
  const isGone = errno === Errno.EPIPE || errno === Errno.ECONNRESET;
  if (isGone) return new TargetError('EPIPE', 'the other daemon is gone');
  return new TargetError(errnoName(errno), strerror(errno), { errno });
}
