/** Event descriptors, sets of watched descriptors, and the turn of a polling thread's event loop. */
import { checkErrno } from '../base/errors.ts';
import { native, type Watch } from './native.ts';

const EVENTS_PER_CALL = 64;

const EPOLLIN = 0x1;
const EPOLLOUT = 0x4;
const EPOLLERR = 0x8;
const EPOLLHUP = 0x10;
const EPOLLET = 0x8000_0000;

/** Of epoll_ctl(2). */
export const Operation = { add: 1, remove: 2, change: 3 } as const;

export interface FdEvents {
  readonly isReadable: boolean;
  readonly isWritable: boolean;
  /** Error or hang-up. */
  readonly isBroken: boolean;
}

export type FdHandler = (events: FdEvents) => void;

export interface WatchOptions {
  /** Default true. */
  readonly readable?: boolean;
  readonly writable?: boolean;
  /**
   * Report each event once instead of for as long as it lasts. An eventfd watched like this needs no read: every
   * write to it is a new event.
   */
  readonly edge?: boolean;
}

/**
 * Watches any number of descriptors on this thread's event loop, through one epoll descriptor, without changing the
 * descriptors' own flags (they are shared with the peer that sent them).
 */
export class FdSet {
  readonly #events = new Int32Array(2 * EVENTS_PER_CALL);
  readonly #handlers = new Map<number, FdHandler>();
  readonly #idOfFd = new Map<number, number>();
  readonly #watch: Watch;
  #nextId = 1;
  #isHandling = false;

  /** `onHandled` runs after the handlers of what the event loop found ready, in the same turn. */
  constructor(onHandled?: () => void) {
    this.#watch = native.fdSetCreate((count) => {
      this.#isHandling = true;
      try {
        this.#dispatch(count);
      } finally {
        this.#isHandling = false;
      }
      onHandled?.();
    }, this.#events);
  }

  /** A handler runs, and `onHandled` will. */
  get isHandling(): boolean {
    return this.#isHandling;
  }

  /** Handles what is ready now, for who does not leave it to the event loop. Not from within a handler. */
  poll(): void {
    this.#dispatch(native.fdSetPoll(this.#watch));
  }

  add(fd: number, handler: FdHandler, options: WatchOptions = {}): void {
    const id = this.#nextId++;
    const result = native.fdSetControl(this.#watch, Operation.add, fd, id, epollEvents(options));
    checkErrno(result, 'cannot watch a file descriptor');
    this.#handlers.set(id, handler);
    this.#idOfFd.set(fd, id);
  }

  /** Changes what is watched for. */
  change(fd: number, options: WatchOptions): void {
    const id = this.#idOfFd.get(fd);
    if (id !== undefined) native.fdSetControl(this.#watch, Operation.change, fd, id, epollEvents(options));
  }

  /** Call before the descriptor is closed. Its handler will not run again, even for an event already reported. */
  remove(fd: number): void {
    const id = this.#idOfFd.get(fd);
    if (id === undefined) return;
    native.fdSetControl(this.#watch, Operation.remove, fd, id, 0);
    this.#handlers.delete(id);
    this.#idOfFd.delete(fd);
  }

  close(): void {
    this.#handlers.clear();
    this.#idOfFd.clear();
    native.watchClose(this.#watch);
  }

  #dispatch(count: number): void {
    for (let i = 0; i < count; i++) {
      const bits = this.#events[2 * i + 1] as number;
      this.#handlers.get(this.#events[2 * i] as number)?.({
        isReadable: (bits & EPOLLIN) !== 0,
        isWritable: (bits & EPOLLOUT) !== 0,
        isBroken: (bits & (EPOLLERR | EPOLLHUP)) !== 0,
      });
    }
  }
}

/** Bits of epoll_ctl(2). */
export function epollEvents(options: WatchOptions): number {
  return (options.readable === false ? 0 : EPOLLIN) + (options.writable ? EPOLLOUT : 0) + (options.edge ? EPOLLET : 0);
}

/** Runs a function once in every turn of the event loop while started: the loop of a polling thread. */
export class LoopTurn {
  readonly #watch: Watch;

  constructor(onTurn: () => void) {
    this.#watch = native.turnCreate(onTurn);
  }

  start(): void {
    native.turnStart(this.#watch);
  }

  stop(): void {
    native.turnStop(this.#watch);
  }

  close(): void {
    native.watchClose(this.#watch);
  }
}

/** A new non-blocking eventfd. */
export function createEventFd(): number {
  return checkErrno(native.eventFdCreate(), 'cannot create an eventfd');
}

/**
 * Adds 1 and never waits, whatever a peer did to the descriptor. Returns 0 or a negative errno: `-EINVAL` for what is
 * not an eventfd, `-EBADF` for what is not open. No allocation, for the data path.
 */
export const signalEventFd = native.eventFdSignal;

/** Throws, with what to do, when this thread cannot signal an eventfd. */
export function checkSignalling(): void {
  const fd = createEventFd();
  const result = signalEventFd(fd);
  closeFd(fd);
  checkErrno(result, 'cannot signal event descriptors (kernel with CONFIG_AIO; a larger fs.aio-max-nr for EAGAIN)');
}

/** Takes the counter. Returns it, or a negative errno (`-EAGAIN` when 0). */
export const readEventFd = native.eventFdRead;

export function closeFd(fd: number): void {
  native.closeFd(fd);
}
