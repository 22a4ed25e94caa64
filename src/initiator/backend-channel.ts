/**
 * The second socket of a vhost-user connection, on which the back-end sends requests of its own
 * (QEMU docs/interop/vhost-user.rst, "Back-end communication"; made by SET_BACKEND_REQ_FD).
 */
import { closeFd, type FdSet } from '../sys/events.ts';
import { sendMessage, socketPair } from '../sys/socket.ts';
import { encodeMessage, encodeU64, HeaderFlag } from '../vhost-user/messages.ts';
import { MessageReader, type RawMessage } from './message-reader.ts';

/** Answers a back-end request that asked for an ack: 0 is success. */
export type BackendRequestHandler = (message: RawMessage) => number;

export class BackendChannel {
  /** The back-end's end: send it with SET_BACKEND_REQ_FD, then call `closePeerFd`. */
  readonly peerFd: number;
  readonly #fd: number;
  readonly #fds: FdSet;
  readonly #reader: MessageReader;
  readonly #onRequest: BackendRequestHandler;
  #isPeerFdOpen = true;
  #isOpen = true;

  constructor(fds: FdSet, onRequest: BackendRequestHandler) {
    [this.#fd, this.peerFd] = socketPair();
    this.#fds = fds;
    this.#reader = new MessageReader(this.#fd);
    this.#onRequest = onRequest;
    fds.add(this.#fd, () => this.#readAll());
  }

  closePeerFd(): void {
    if (this.#isPeerFdOpen) closeFd(this.peerFd);
    this.#isPeerFdOpen = false;
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.closePeerFd();
    this.#fds.remove(this.#fd);
    this.#reader.close();
    closeFd(this.#fd);
  }

  #readAll(): void {
    while (this.#isOpen) {
      const result = this.#reader.read();
      if (result.kind === 'again') return;
      if (result.kind === 'end') {
        this.close();
        return;
      }
      this.#answer(result.message);
    }
  }

  #answer(message: RawMessage): void {
    const status = this.#onRequest(message);
    for (const fd of message.fds) closeFd(fd);
    if ((message.flags & HeaderFlag.needReply) === 0 || !this.#isOpen) return;
    // An ack is 20 bytes: it fits, or the back-end does not read its socket and gets none.
    sendMessage(this.#fd, encodeMessage(message.request, HeaderFlag.reply, encodeU64(status)));
  }
}
