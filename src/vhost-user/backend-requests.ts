/** The socket on which the back-end sends requests of its own (SET_BACKEND_REQ_FD). */
import type { FdList } from '../base/fd-list.ts';
import { closeFd } from '../sys/events.ts';
import { sendMessage, setNonBlocking } from '../sys/socket.ts';
import { NO_FD } from './device.ts';
import { encodeMessage } from './messages.ts';
import type { ProtocolTrace } from './protocol-trace.ts';

export class BackendRequests {
  readonly #trace: ProtocolTrace | null;
  #fd = NO_FD;

  constructor(trace: ProtocolTrace | null) {
    this.#trace = trace;
  }

  /** Takes over the socket in place of the old one. */
  replace(fd: number): void {
    this.close();
    this.#fd = fd;
    setNonBlocking(fd);
  }

  /** The place of the socket in what is handed over. */
  save(fds: FdList): number {
    return fds.put(this.#fd);
  }

  load(place: number, fds: FdList): void {
    const fd = fds.take(place);
    if (fd !== NO_FD) this.replace(fd);
  }

  /** False when it cannot be sent, or not now. A request is far smaller than the buffer of a socket: all of it goes. */
  send(code: number, payload: Uint8Array): boolean {
    if (this.#fd === NO_FD) return false;
    this.#trace?.sentRequest(code, payload);
    const message = encodeMessage(code, 0, payload);
    return sendMessage(this.#fd, message) === message.length;
  }

  close(): void {
    if (this.#fd !== NO_FD) closeFd(this.#fd);
    this.#fd = NO_FD;
  }
}
