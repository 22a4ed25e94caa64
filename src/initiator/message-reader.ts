/**
 * Takes vhost-user messages off a non-blocking socket, however the stream cuts them (QEMU docs/interop/vhost-user.rst,
 * "Message specification"). Written apart from the back-end's own reader, so that one mistake cannot hide in both.
 */
import { Errno } from '../base/errors.ts';
import { closeFd } from '../sys/events.ts';
import { createFdBuffer, receiveMessage } from '../sys/socket.ts';
import { Header } from '../vhost-user/messages.ts';

export interface RawMessage {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  /** Descriptors that came with it. The receiver owns them. */
  readonly fds: readonly number[];
}

export type ReadResult =
  | { readonly kind: 'message'; readonly message: RawMessage }
  | { readonly kind: 'again' }
  /** End of the stream (errno 0), a socket error, or a message that no peer may send. */
  | { readonly kind: 'end'; readonly errno: number };

/** No reply is anywhere near as long; a longer one is a broken peer. */
const PAYLOAD_BYTES_MAX = 65536;

export class MessageReader {
  readonly #fd: number;
  readonly #fdBuffer = createFdBuffer();
  readonly #header = new Uint8Array(Header.size);
  #payload: Uint8Array | null = null;
  #received = 0;
  #fds: number[] = [];

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** The next message, when all of it has arrived. */
  read(): ReadResult {
    for (;;) {
      const target = this.#payload ?? this.#header;
      if (this.#received === target.length) {
        const message = this.#advance(target);
        if (message === null) continue;
        return message;
      }
      const count = receiveMessage(this.#fd, target, this.#received, target.length - this.#received, this.#fdBuffer);
      if (count === Errno.EAGAIN) return { kind: 'again' };
      if (count <= 0) return { kind: 'end', errno: count };
      this.#received += count;
      for (let i = 1; i <= (this.#fdBuffer[0] as number); i++) this.#fds.push(this.#fdBuffer[i] as number);
    }
  }

  /** Closes the descriptors of a message that never became whole. */
  close(): void {
    for (const fd of this.#fds) closeFd(fd);
    this.#fds = [];
  }

  /** A part is complete: starts the payload, or gives the message away. */
  #advance(part: Uint8Array): ReadResult | null {
    const { request, flags, size } = Header.decode(this.#header);
    this.#received = 0;
    if (part === this.#header) {
      if (size > PAYLOAD_BYTES_MAX) return { kind: 'end', errno: Errno.EOVERFLOW };
      this.#payload = new Uint8Array(size);
      return null;
    }
    this.#payload = null;
    const fds = this.#fds;
    this.#fds = [];
    return { kind: 'message', message: { request, flags, payload: part, fds } };
  }
}
