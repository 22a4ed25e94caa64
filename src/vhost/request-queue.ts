/**
 * What every virtqueue of a controller does in its reactor, whatever its requests are: takes chains in batches,
 * publishes what completed, sleeps and wakes, drains and stops, and reports a driver that breaks the ring. A device's
 * queue gives `accept`, and ends each request with `complete`.
 */
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import { CHAINS_PER_ROUND_MAX } from '../base/limits.ts';
import type { LimitedLog } from '../base/log.ts';
import type { LatencyCounter } from '../bdev/bdev-io.ts';
import type { Sharer } from '../bdev/fair-shares.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { Source } from '../reactor/reactor.ts';
import { signalEventFd } from '../sys/events.ts';
import type { IovArena } from '../sys/iov-arena.ts';
import { clockNs } from '../sys/thread.ts';
import type { VringLog } from '../vhost-user/device.ts';
import { Chain, RING_FAULT_TEXT, RingFault } from '../virtio/chain.ts';
import type { Ring } from '../virtio/ring.ts';
import { CallCoalescing, type CoalescingSettings } from './call-coalescing.ts';
import { ChainData } from './chain-data.ts';
import { QueueCounter, type QueueCounters } from './queue-counters.ts';
import { QueueLog } from './queue-log.ts';
import type { QueueTrace } from './queue-trace.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const NO_FAULT = RingFault.none;
const PER_ROUND_MAX = CHAINS_PER_ROUND_MAX;
/** What is in flight may have come to wait again. */
const WITHDRAW_AGAIN_MS = 5;
const { requests: REQUESTS, inFlight: IN_FLIGHT } = QueueCounter;
/** One for all queues of a thread: a request is parsed in one go. */
const CHAIN = new Chain();

export interface QueueOptions {
  readonly index: number;
  readonly ring: Ring;
  readonly memory: GuestMemory;
  readonly arena: IovArena;
  readonly callFd: number;
  readonly errFd: number;
  /** False: the driver does not kick, so the queue is always polled. */
  readonly canSleep: boolean;
  readonly counters: QueueCounters;
  /** Of its requests in the disk. Default: they are not counted. */
  readonly latencies?: LatencyCounter;
  /** Its controller, where a limit is shared. Default: the daemon. */
  readonly sharer?: Sharer;
  readonly faults: LimitedLog;
  /** The driver broke the ring. */
  readonly onBroken?: () => void;
  /** Set while the guest migrates. */
  readonly log: VringLog | null;
}

export abstract class RequestQueue implements Source {
  readonly index: number;
  callFd: number;
  isAwake = true;
  wake: () => void = () => {};
  /** The controller was deleted under its guest: every request fails. */
  isDetached = false;
  /** Set while its requests are traced. */
  trace: QueueTrace | null = null;
  readonly latencies: LatencyCounter | null;
  readonly sharer: Sharer | null;
  protected readonly memory: GuestMemory;
  protected readonly arena: IovArena;
  protected readonly data: ChainData;
  protected readonly ring: Ring;
  readonly #errFd: number;
  readonly #canSleep: boolean;
  readonly #counters: QueueCounters;
  readonly #faults: LimitedLog;
  readonly #onBroken: () => void;
  #isStopping = false;
  /** What no device was given is left in the in-flight region. */
  #isLeaving = false;
  #hasReportedFault = false;
  /** A chain was put back because the arena was full. */
  #isStarved = false;
  #onDrained: (() => void) | null = null;
  readonly #log: QueueLog | null;
  readonly #coalescing = new CallCoalescing();
  /** A call was put off. */
  #isCallDue = false;

  constructor(options: QueueOptions) {
    this.index = options.index;
    this.callFd = options.callFd;
    this.latencies = options.latencies ?? null;
    this.sharer = options.sharer ?? null;
    this.memory = options.memory;
    this.arena = options.arena;
    this.data = new ChainData(options.memory, options.arena);
    this.ring = options.ring;
    this.#errFd = options.errFd;
    this.#canSleep = options.canSleep;
    this.#counters = options.counters;
    this.#faults = options.faults;
    this.#onBroken = options.onBroken ?? (() => {});
    this.#log = options.log === null ? null : new QueueLog(options.log);
  }

  /** Works on a request. False, with nothing taken, when it must wait for room in the arena. */
  protected abstract accept(chain: Chain): boolean;

  take(): number {
    const ring = this.ring;
    let taken = 0;
    this.#isStarved = false;
    // What the back-end before us had in flight is part of what a stop must end.
    const available = this.#isStopping ? this.#againCount : ring.look();
    const count = Math.min(available, PER_ROUND_MAX);
    while (taken < count && this.wantsMore() && ring.pop(CHAIN)) {
      if (this.#log !== null) this.#log.keep(CHAIN);
      if (this.trace !== null) this.trace.taken(CHAIN);
      if (!this.accept(CHAIN)) {
        ring.unpop(CHAIN.head);
        this.#isStarved = true;
        break;
      }
      taken++;
    }
    if (ring.fault !== NO_FAULT && !this.#hasReportedFault) this.#reportFault(ring.fault);
    if (taken > 0) this.#counters[REQUESTS] = (this.#counters[REQUESTS] as number) + taken;
    return taken;
  }

  publish(): void {
    if (this.ring.publish()) this.#isCallDue = true;
    if (this.#log !== null) this.#log.published(this.ring);
    if (this.#isCallDue && this.#mayCall()) this.#call();
    this.#counters[IN_FLIGHT] = this.ring.inFlightCount;
    this.#tellDrained();
  }

  get isBusy(): boolean {
    return !this.#canSleep || this.#isStarved || this.#isCallDue;
  }

  get inFlight(): number {
    return this.ring.inFlightCount;
  }

  arm(): boolean {
    const hasWork = !this.#isStopping && this.ring.armKick();
    if (this.#log !== null) this.#log.armed(this.ring);
    return hasWork;
  }

  disarm(): void {
    this.ring.disarmKick();
    if (this.#log !== null) this.#log.armed(this.ring);
  }

  setCoalescing(settings: CoalescingSettings): void {
    this.#coalescing.set(settings);
  }

  /** The driver kicked. */
  kicked(): void {
    this.#counters[QueueCounter.kicks] = (this.#counters[QueueCounter.kicks] as number) + 1;
  }

  /**
   * Takes no more requests; resolves with where the ring stands when none is in flight. Throws `ETIMEDOUT` when some
   * still are after so long: then the queue goes on, once it is woken. `leaves`: those that no device was given, and
   * those of a back-end before that were not taken yet, stay in the in-flight region.
   */
  async stop(withinMs = Number.POSITIVE_INFINITY, leaves = false): Promise<number> {
    assert(!leaves || !Number.isFinite(withinMs), 'a queue that leaves requests does not go on');
    this.#isStopping = true;
    this.#isLeaving = leaves;
    if (leaves) this.#withdrawAll();
    if (!this.#isDrained && !(await this.#drain(withinMs))) {
      this.#isStopping = false;
      const count = this.ring.inFlightCount;
      throw new TargetError('ETIMEDOUT', `queue ${this.index}: ${count} requests are not done after ${withinMs} ms`);
    }
    this.publish();
    if (this.#isCallDue) this.#call();
    const { base } = this.ring;
    this.ring.close();
    this.#log?.close();
    return base;
  }

  /** Whether a chain would be of use now. A queue that the driver fills with buffers for later says when. */
  protected wantsMore(): boolean {
    return true;
  }

  /**
   * Returns a chain to the driver: of its writable part the first `lengthBytes` were written, and bytes up to
   * `touchedBytes` may have been.
   */
  protected complete(head: number, lengthBytes: number, touchedBytes = lengthBytes): void {
    this.ring.push(head, lengthBytes);
    if (this.#log !== null) this.#log.completed(head, touchedBytes);
    if (this.trace !== null) this.trace.completed(head);
    // It waits for its kick, and has something to publish.
    if (!this.isAwake) this.wake();
  }

  /** Takes back what no device was given: each request of it ends with `leave`. */
  protected withdraw(): void {}

  /** The next back-end carries the request out. */
  protected leave(head: number): void {
    this.ring.leave(head);
  }

  /** A chain that cannot carry an answer is given back empty. */
  protected refuse(chain: Chain, reason: string): true {
    this.#faults.warn(`request-${reason}`, `queue ${this.index}: a request ${reason}`);
    this.ring.push(chain.head, 0);
    return true;
  }

  /** Resolves with whether it is drained in time. */
  #drain(withinMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const giveUp = (): void => {
        this.#onDrained = null;
        resolve(false);
      };
      const timer = Number.isFinite(withinMs) ? setTimeout(giveUp, withinMs) : undefined;
      const again = this.#isLeaving ? setInterval(() => this.#withdrawAll(), WITHDRAW_AGAIN_MS) : undefined;
      this.#onDrained = () => {
        clearTimeout(timer);
        clearInterval(again);
        resolve(true);
      };
    });
  }

  /** The end of one may let others begin, which come to wait. */
  #withdrawAll(): void {
    for (let before = -1; before !== this.ring.inFlightCount; ) {
      before = this.ring.inFlightCount;
      this.withdraw();
    }
    this.#tellDrained();
  }

  #tellDrained(): void {
    if (this.#onDrained === null || !this.#isDrained) return;
    const onDrained = this.#onDrained;
    this.#onDrained = null;
    onDrained();
  }

  get #isDrained(): boolean {
    return this.ring.inFlightCount === 0 && (this.#againCount === 0 || !this.wantsMore());
  }

  /** Requests of a back-end before that a stop must end. */
  get #againCount(): number {
    return this.#isLeaving ? 0 : this.ring.againCount;
  }

  #mayCall(): boolean {
    if (!this.#coalescing.isOn) return true;
    return this.#coalescing.allows(clockNs(), this.#counters[QueueCounter.requests] as number);
  }

  #call(): void {
    this.#isCallDue = false;
    if (this.callFd < 0) return;
    signalEventFd(this.callFd);
    this.#counters[QueueCounter.calls] = (this.#counters[QueueCounter.calls] as number) + 1;
  }

  #reportFault(fault: RingFault): void {
    this.#hasReportedFault = true;
    this.#counters[QueueCounter.faults] = (this.#counters[QueueCounter.faults] as number) + 1;
    this.#faults.warn(
      `ring-${fault}`,
      `queue ${this.index} is broken until it is set up again: ${RING_FAULT_TEXT[fault]}`,
    );
    if (this.#errFd >= 0) signalEventFd(this.#errFd);
    this.#onBroken();
  }
}

/** A queue with what belongs to it. */
export interface OpenQueue {
  readonly queue: RequestQueue;
  /** Write-through on or off, where the device knows of it. */
  setWriteThrough?(isWriteThrough: boolean): void;
  /** The queue was stopped: give back what it used. */
  close(): void;
}
