/**
 * A delay disk's channel: requests end later than those below them. There are four queues, for reads and writes of the
 * usual and of the rare latency; each keeps its order, so that a shorter latency takes effect behind what waits for a
 * longer one, as in SPDK.
 */
import { closeFd, createEventFd, readEventFd, signalEventFd } from '../../../sys/events.ts';
import { clockNs } from '../../../sys/thread.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, type IoStatus, IoType } from '../../bdev-io.ts';
import { StackedChannel } from '../../stacked-channel.ts';
import { DueQueue } from './due-queue.ts';
import { Latency } from './latency.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE } = IoType;
const { averageRead: AVERAGE_READ, averageWrite: AVERAGE_WRITE } = Latency;
/** From a usual latency to the rare one of the same type. */
const RARE = 1;
const RARE_ONE_IN = 100;
const NS_PER_MS = 1e6;

export class DelayChannel extends StackedChannel {
  override readonly wakeFd: number;
  readonly #latenciesNs: Float64Array;
  readonly #queues = [new DueQueue(), new DueQueue(), new DueQueue(), new DueQueue()];
  #random = 1;
  #isArmed = false;
  #isAbandoned = false;
  #timer: NodeJS.Timeout | null = null;
  #timerNs = Number.POSITIVE_INFINITY;

  constructor(description: BdevDescription, context: ChannelContext) {
    super(description, context);
    this.#latenciesNs = new Float64Array(description.params.latencies as SharedArrayBuffer);
    this.wakeFd = createEventFd();
  }

  override submit(io: BdevIo): void {
    this.forward(io, 0);
  }

  protected override baseDone(io: BdevIo, status: IoStatus): void {
    if ((io.type !== READ && io.type !== WRITE) || this.#isAbandoned) {
      io.complete(status);
      return;
    }
    const usual = io.type === READ ? AVERAGE_READ : AVERAGE_WRITE;
    const which = this.#isRare() ? usual + RARE : usual;
    const dueNs = clockNs() + (this.#latenciesNs[which] as number);
    io.status = status;
    (this.#queues[which] as DueQueue).push(io, dueNs);
    if (this.#isArmed) this.#setTimer(dueNs);
  }

  override poll(): number {
    const now = this.#isAbandoned ? Number.POSITIVE_INFINITY : clockNs();
    let ended = 0;
    for (const queue of this.#queues) {
      // What its owners submit meanwhile waits for another round.
      for (let left = queue.count; left > 0 && queue.nextNs <= now; left--) {
        const io = queue.shift();
        io.complete(io.status);
        ended++;
      }
    }
    return ended;
  }

  override arm(): boolean {
    let nextNs = Number.POSITIVE_INFINITY;
    for (const queue of this.#queues) nextNs = Math.min(nextNs, queue.nextNs);
    if (nextNs <= clockNs()) return true;
    this.#isArmed = true;
    this.#setTimer(nextNs);
    return false;
  }

  override disarm(): void {
    this.#isArmed = false;
    this.#clearTimer();
    readEventFd(this.wakeFd);
  }

  /** Nobody waits for a disk that goes. */
  override abandon(): void {
    this.#isAbandoned = true;
    super.abandon();
  }

  override close(): void {
    this.disarm();
    closeFd(this.wakeFd);
    super.close();
  }

  /** Timers are of whole milliseconds: a shorter delay is exact only while the reactor polls. */
  #setTimer(dueNs: number): void {
    if (dueNs >= this.#timerNs) return;
    this.#clearTimer();
    this.#timerNs = dueNs;
    const { wakeFd } = this;
    this.#timer = setTimeout(() => signalEventFd(wakeFd), Math.max(0, Math.ceil((dueNs - clockNs()) / NS_PER_MS)));
  }

  #clearTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#timerNs = Number.POSITIVE_INFINITY;
  }

  #isRare(): boolean {
    this.#random = (Math.imul(this.#random, 1_664_525) + 1_013_904_223) >>> 0;
    return (this.#random >>> 16) % RARE_ONE_IN === 0;
  }
}
