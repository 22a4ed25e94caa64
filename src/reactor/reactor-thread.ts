/** A reactor as the main thread sees it: the worker, its mailbox, its counters. */
import { Worker } from 'node:worker_threads';
import { TargetError } from '../base/errors.ts';
import type { LogFields, Logger, LogLevel } from '../base/log.ts';
import { nodeOfCore } from '../sys/thread.ts';
import { MailboxCaller } from './mailbox.ts';
import { REACTOR_COUNTERS, ReactorCounter, type ReactorMode } from './reactor.ts';

/** What a reactor thread is started with. */
export interface ReactorStart {
  readonly core: number;
  /** 0-based; the row of the reactor in shared counters. */
  readonly index: number;
  readonly mode: ReactorMode;
  readonly counters: SharedArrayBuffer;
}

/** A log line on its way from a reactor. */
export interface ReactorLogLine {
  readonly log: LogLevel;
  readonly message: string;
  readonly fields?: LogFields;
}

/**
 * Something that a reactor found out by itself: the device behind this bdev is gone, a channel of this one has
 * something to say, or a driver broke this queue.
 */
export type ReactorNotice =
  | { readonly bdevGone: number }
  | { readonly toldBy: number; readonly what: unknown }
  | { readonly queueBroken: SessionQueue };

interface SessionQueue {
  readonly sessionId: number;
  readonly index: number;
}

/** Young generation of a reactor: nothing is allocated per request, so a collection is rare and short. */
const YOUNG_GENERATION_MIB = 32;

export interface ReactorTimes {
  readonly busyNs: number;
  readonly idleNs: number;
  readonly isSleeping: boolean;
  readonly threadId: number;
}

export class ReactorThread {
  readonly core: number;
  readonly index: number;
  /** NUMA node of the core. */
  readonly node: number;
  /** See placement.ts. */
  load = 0;
  /** Called when the device behind a bdev is gone, perhaps by several reactors. */
  onBdevGone: (bdevId: number) => void = () => {};
  /** Called with what a channel of a bdev tells it. */
  onTold: (bdevId: number, what: unknown) => void = () => {};
  /** Called when a driver broke a queue that runs here. */
  onQueueBroken: (queue: SessionQueue) => void = () => {};
  readonly #worker: Worker;
  readonly #mailbox: MailboxCaller;
  readonly #counters: Float64Array;
  readonly #exited: Promise<void>;
  #isStopping = false;

  private constructor(worker: Worker, start: ReactorStart, log: Logger, onDeath: (error: Error) => void) {
    this.core = start.core;
    this.index = start.index;
    this.node = nodeOfCore(start.core);
    this.#worker = worker;
    this.#counters = new Float64Array(start.counters);
    this.#mailbox = new MailboxCaller(worker);
    worker.on('message', (value: unknown) => {
      if (typeof value !== 'object' || value === null) return;
      if ('bdevGone' in value || 'toldBy' in value || 'queueBroken' in value) this.#notice(value as ReactorNotice);
      if (!('log' in value)) return;
      const line = value as ReactorLogLine;
      log[line.log](line.message, { core: start.core, ...line.fields });
    });
    this.#exited = new Promise((resolve) => {
      worker.on('error', (error: Error) => {
        this.#mailbox.close(error);
        onDeath(error);
      });
      worker.on('exit', (code) => {
        const error = new TargetError('EIO', `the reactor on core ${start.core} ended with code ${code}`);
        this.#mailbox.close(error);
        if (!this.#isStopping) onDeath(error);
        resolve();
      });
    });
  }

  /**
   * Resolves when the reactor runs on its core; no thread is left when it rejects. `onDeath` is called when it ends by
   * itself.
   */
  static async start(
    entry: URL,
    core: number,
    index: number,
    mode: ReactorMode,
    log: Logger,
    onDeath: (error: Error) => void,
  ): Promise<ReactorThread> {
    const counters = new SharedArrayBuffer(REACTOR_COUNTERS * 8);
    const workerData: ReactorStart = { core, index, mode, counters };
    const resourceLimits = { maxYoungGenerationSizeMb: YOUNG_GENERATION_MIB };
    const worker = new Worker(entry, { workerData, resourceLimits, name: `reactor_${core}` });
    const thread = new ReactorThread(worker, workerData, log, onDeath);
    try {
      await thread.call('reactor.start', null);
    } catch (error) {
      await thread.stop();
      throw error;
    }
    return thread;
  }

  call(name: string, payload: unknown): Promise<unknown> {
    return this.#mailbox.call(name, payload);
  }

  /** CLOCK_MONOTONIC `nowNs` lets the sleep of a sleeping reactor be counted up to now. */
  times(nowNs: number): ReactorTimes {
    const counters = this.#counters;
    const isSleeping = counters[ReactorCounter.sleeping] === 1;
    const slept = isSleeping ? nowNs - (counters[ReactorCounter.lastClockNs] as number) : 0;
    return {
      busyNs: counters[ReactorCounter.busyNs] as number,
      idleNs: (counters[ReactorCounter.idleNs] as number) + slept,
      isSleeping,
      threadId: counters[ReactorCounter.threadId] as number,
    };
  }

  #notice(notice: ReactorNotice): void {
    if ('bdevGone' in notice) this.onBdevGone(notice.bdevGone);
    else if ('toldBy' in notice) this.onTold(notice.toldBy, notice.what);
    else this.onQueueBroken(notice.queueBroken);
  }

  /** Every queue is stopped. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.call('reactor.stop', null).catch(() => undefined);
    await this.#worker.terminate();
    await this.#exited;
  }
}
