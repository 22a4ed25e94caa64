/**
 * Notifications of rings as messages (INBAND_NOTIFICATIONS) for front-ends that give no eventfds: a kick that comes as
 * VRING_KICK, calls and errors that go as VRING_CALL and VRING_ERR. Reactors know none of this: in place of the missing
 * descriptors they are given eventfds of ours. Slow, and meant for simulators and tests.
 */
import { closeFd, createEventFd, type FdSet, readEventFd, signalEventFd } from '../sys/events.ts';
import { BACKEND_REQUESTS, VringState } from './messages.ts';

export type NotificationKind = 'kick' | 'call' | 'err';

/** A front-end that does not read its socket is tried again this much later. */
const RETRY_MS = 5;
const REQUEST_OF = { call: BACKEND_REQUESTS.VRING_CALL.code, err: BACKEND_REQUESTS.VRING_ERR.code } as const;

export class InbandNotifications {
  readonly #fdSet: FdSet;
  readonly #send: (code: number, payload: Uint8Array) => boolean;
  /** By ring and kind. */
  readonly #fds = new Map<string, number>();
  readonly #retries = new Set<NodeJS.Timeout>();

  /** `send`: sends a request of the back-end; false when it cannot be sent now. */
  constructor(fdSet: FdSet, send: (code: number, payload: Uint8Array) => boolean) {
    this.#fdSet = fdSet;
    this.#send = send;
  }

  /** An eventfd in place of the one that a ring lacks. It is ours until `close`. */
  fdOf(index: number, kind: NotificationKind): number {
    const key = `${index}/${kind}`;
    const known = this.#fds.get(key);
    if (known !== undefined) return known;
    const fd = createEventFd();
    this.#fds.set(key, fd);
    if (kind !== 'kick') {
      this.#fdSet.add(fd, () => {
        readEventFd(fd);
        this.#notify(REQUEST_OF[kind], VringState.encode({ index, num: 0 }));
      });
    }
    return fd;
  }

  /** A VRING_KICK came. */
  kick(index: number): void {
    const fd = this.#fds.get(`${index}/kick`);
    if (fd !== undefined) signalEventFd(fd);
  }

  /** No ring uses its eventfds any more. */
  close(): void {
    for (const timer of this.#retries) clearTimeout(timer);
    this.#retries.clear();
    for (const [key, fd] of this.#fds) {
      if (!key.endsWith('/kick')) this.#fdSet.remove(fd);
      closeFd(fd);
    }
    this.#fds.clear();
  }

  #notify(code: number, payload: Uint8Array): void {
    if (this.#send(code, payload)) return;
    const timer = setTimeout(() => {
      this.#retries.delete(timer);
      this.#notify(code, payload);
    }, RETRY_MS);
    this.#retries.add(timer);
  }
}
