/**
 * One virtqueue as its driver holds it: the ring, its eventfds, and the promises of the requests in flight. Completions
 * are found when the device calls, or by polling. For tests and tools; the load generator works on the ring itself.
 */
import { TargetError } from '../base/errors.ts';
import { closeFd, createEventFd, type FdSet, readEventFd, signalEventFd } from '../sys/events.ts';
import { type DriverRing, type DriverRingOptions, NO_HEAD } from './driver-ring.ts';
import type { OwnedMemory } from './owned-memory.ts';
import { PackedDriverRing } from './packed-driver-ring.ts';
import { SplitDriverRing } from './split-driver-ring.ts';

export interface DriverQueueOptions extends DriverRingOptions {
  readonly index: number;
  /** RING_PACKED was negotiated. */
  readonly isPacked: boolean;
  /** Look at the used ring in every turn of the event loop, and ask for no calls. */
  readonly isPolled: boolean;
  readonly fds: FdSet;
  /** Kicks the device, in place of the kick descriptor. */
  readonly sendKick?: () => void;
}

export interface Completion {
  /** Length that the used element carries. */
  readonly usedLen: number;
  /** Place in the order in which the queue's requests completed, from 0. */
  readonly order: number;
}

interface Pending {
  readonly resolve: (completion: Completion) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export class DriverQueue {
  readonly index: number;
  readonly ring: DriverRing;
  readonly kickFd: number;
  readonly callFd: number;
  readonly errFd: number;
  /** Kicks sent and calls received. A call is counted once however often the device signalled before we looked. */
  kicks = 0;
  calls = 0;
  /** Sum of the call eventfd's counter: every signal of the device. */
  callSignals = 0;
  /** Used elements whose id is not in flight: the device is broken. */
  unknownIds = 0;
  completed = 0;
  isPolled: boolean;
  /** Where the back-end goes on: what GET_VRING_BASE answered, or null when it vanished without an answer. */
  base: number | null = null;
  readonly #fds: FdSet;
  readonly #sendKick: (() => void) | undefined;
  readonly #pending = new Map<number, Pending>();
  /** Heads in the device's hands. More than are pending when requests timed out or failed with the connection. */
  readonly #inDevice = new Set<number>();
  #isPolling = false;
  #isPaused = false;
  #isOpen = true;

  constructor(memory: OwnedMemory, options: DriverQueueOptions) {
    this.index = options.index;
    this.isPolled = options.isPolled;
    this.ring = options.isPacked ? new PackedDriverRing(memory, options) : new SplitDriverRing(memory, options);
    this.kickFd = createEventFd();
    this.callFd = createEventFd();
    this.errFd = createEventFd();
    this.#fds = options.fds;
    this.#sendKick = options.sendKick;
    this.#fds.add(this.callFd, () => this.#onCall());
    this.#armCalls();
  }

  get pendingCount(): number {
    return this.#pending.size;
  }

  /** Hands a chain to the device; resolves when it is used, and then the chain is free again. */
  submit(head: number, timeoutMs: number): Promise<Completion> {
    const completion = this.expect(head, timeoutMs);
    this.ring.expose(head);
    this.publish();
    return completion;
  }

  /** Waits for a chain that was, or will be, exposed by other means. */
  expect(head: number, timeoutMs: number): Promise<Completion> {
    this.#inDevice.add(head);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        // The chain stays in the device's hands: its descriptors are not reused.
        this.#pending.delete(head);
        const what = `queue ${this.index}: head ${head} was not completed within ${timeoutMs} ms`;
        reject(new TargetError('ETIMEDOUT', `${what} (${this.describe()})`));
      }, timeoutMs);
      this.#pending.set(head, { resolve, reject, timer });
      this.#startPolling();
    });
  }

  /** Publishes what was exposed, and kicks if the device wants it. */
  publish(): void {
    if (this.ring.publish()) this.kick();
  }

  kick(): void {
    this.kicks++;
    if (this.#sendKick === undefined) signalEventFd(this.kickFd);
    else this.#sendKick();
  }

  /** The device called by other means than the call descriptor. */
  called(): void {
    signalEventFd(this.callFd);
  }

  /** Takes every completion there is. Returns how many. */
  drain(): number {
    let count = 0;
    for (;;) {
      const head = this.ring.popUsed();
      if (head === NO_HEAD) return count;
      count++;
      this.#complete(head, this.ring.usedLen);
    }
  }

  /** Leaves completions in the used ring until `resume`, as a driver does that is too busy to look. */
  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    this.#onCall();
    this.#startPolling();
  }

  /** Fails every request in flight; their chains stay in the device's hands. */
  rejectAll(error: Error): void {
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#pending.clear();
  }

  /** The ring's state in one line, for error messages. */
  describe(): string {
    const { ring } = this;
    const indexes = `avail ${ring.nextAvail}, used up to 0x${ring.usedBase.toString(16)}, seen ${ring.nextUsed}`;
    return `${indexes}, ${this.calls} calls, ${this.kicks} kicks`;
  }

  /** Closes the eventfds. The ring's memory goes with the memory it lies in, unless `ring.close` is called first. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#fds.remove(this.callFd);
    for (const fd of [this.kickFd, this.callFd, this.errFd]) closeFd(fd);
    this.rejectAll(new TargetError('ECANCELED', 'the initiator was closed'));
  }

  #onCall(): void {
    const signals = readEventFd(this.callFd);
    if (signals > 0) {
      this.calls++;
      this.callSignals += signals;
    }
    if (this.#isPaused) return;
    // Complete, ask for the next call, and look again for what came in between.
    do {
      this.drain();
      this.#armCalls();
    } while (this.ring.hasUsed());
  }

  #armCalls(): void {
    if (this.isPolled) this.ring.refuseCalls();
    else this.ring.wantCalls();
  }

  #startPolling(): void {
    if (!this.isPolled || this.#isPolling) return;
    this.#isPolling = true;
    const turn = (): void => {
      if (!this.#isOpen || this.#isPaused || this.#pending.size === 0) {
        this.#isPolling = false;
        return;
      }
      if (this.drain() > 0) this.#armCalls();
      setImmediate(turn);
    };
    setImmediate(turn);
  }

  #complete(head: number, usedLen: number): void {
    const order = this.completed++;
    if (!this.#inDevice.delete(head)) {
      this.unknownIds++;
      return;
    }
    this.ring.freeChain(head);
    const pending = this.#pending.get(head);
    if (pending === undefined) return;
    this.#pending.delete(head);
    clearTimeout(pending.timer);
    pending.resolve({ usedLen, order });
  }
}
