/**
 * The thread of a disk in TypeScript as the main thread sees it: starts it, starts it again when it ends by itself,
 * ends it when a request takes too long, and answers in its place what it will not answer any more.
 *
 * A request is failed only when nothing can touch its buffers: the thread has ended, or never saw it. Node ends a
 * thread after what it does in the background, so a thread that a system call holds keeps its requests (decision 8).
 */
import { Worker } from 'node:worker_threads';
import { TargetError } from '../../../base/errors.ts';
import { LimitedLog, type Logger } from '../../../base/log.ts';
import { closeFd, createEventFd } from '../../../sys/events.ts';
import { clockNs } from '../../../sys/thread.ts';
import type { FromModule, Geometry, ModuleStart, ToModule } from './messages.ts';
import { type ModuleRing, ModuleRings, SLOTS, SlotState } from './module-ring.ts';

const ENTRY = new URL(`./module-thread${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url);

const NS_PER_MS = 1e6;
const TICK_MS = 200;
const PAUSE_MS_MIN = 250;
const PAUSE_MS_MAX = 10_000;
/** A thread that ran for so long is not taken for one that cannot start. */
const SETTLED_MS = 60_000;
/** How long the first start is tried, and how often at least, however slow the machine is. */
const START_MS_MAX = 10_000;
const START_TRIES_MIN = 4;
/** How long one start may take. */
const START_ONE_MS_MAX = 60_000;
const CLOSE_MS_MAX = 5_000;
/** For requests of a disk that is being deleted, however long they may take otherwise. */
const LEAVING_MS_MAX = 3_000;

export interface ModuleHostOptions {
  readonly name: string;
  /** URL of the user's file. */
  readonly file: string;
  readonly options: Readonly<Record<string, string>>;
  /** Reactors that may open it. */
  readonly reactors: number;
  /** Longest request; 0: none. */
  readonly requestMsMax: number;
  readonly log: Logger;
}

export class ModuleHost {
  readonly rings: ModuleRings;
  /** How often the thread was started again. */
  restarts = 0;
  /** A thread that came back says that its disk is larger. */
  onGrown: (geometry: Geometry) => void = () => {};
  readonly #options: ModuleHostOptions;
  readonly #all: readonly ModuleRing[];
  readonly #faults: LimitedLog;
  readonly #fds: readonly number[];
  readonly #answers = new Map<number, (error: string | null) => void>();
  #geometry: Geometry | null = null;
  #worker: Worker | null = null;
  #isRunning = false;
  #isEnding = false;
  #isClosed = false;
  #nextId = 1;
  #startedMs = 0;
  #pauseMs = PAUSE_MS_MIN;
  #ticks: NodeJS.Timeout | null = null;
  #retry: NodeJS.Timeout | null = null;

  private constructor(options: ModuleHostOptions) {
    this.#options = options;
    this.#faults = new LimitedLog(options.log);
    const [doorbellFd, ...wakeFds] = Array.from({ length: 1 + options.reactors }, () => createEventFd());
    this.rings = ModuleRings.create(doorbellFd as number, wakeFds);
    this.#fds = [doorbellFd as number, ...wakeFds];
    this.#all = this.rings.all();
  }

  /** Resolves when the disk is there. Throws what is wrong with it; nothing is left then. */
  static async start(options: ModuleHostOptions): Promise<ModuleHost> {
    const host = new ModuleHost(options);
    try {
      await host.#startFirst();
    } catch (error) {
      await host.close();
      throw error;
    }
    host.#ticks = setInterval(() => host.#tick(), TICK_MS).unref();
    return host;
  }

  get geometry(): Geometry {
    return this.#geometry as Geometry;
  }

  get state(): 'running' | 'starting' | 'dead' {
    if (this.rings.isDead) return 'dead';
    return this.#isRunning ? 'running' : 'starting';
  }

  /** The disk takes a new size. Throws what it throws. */
  async resize(sizeBytes: number): Promise<void> {
    if (!this.#isRunning) throw new TargetError('EAGAIN', `the thread of disk "${this.#options.name}" is not running`);
    await this.#ask((id) => ({ kind: 'resize', id, sizeBytes }));
    this.#geometry = { ...this.geometry, sizeBytes };
  }

  /** Nothing is in flight: lets the disk close, and ends its thread. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#ticks !== null) clearInterval(this.#ticks);
    if (this.#retry !== null) clearTimeout(this.#retry);
    const worker = this.#worker;
    if (worker !== null && this.#isRunning) {
      const limit = setTimeout(() => void worker.terminate(), CLOSE_MS_MAX);
      await this.#ask((id) => ({ kind: 'close', id })).catch((error: Error) => {
        this.#options.log.warn(`disk ${this.#options.name} did not close: ${error.message}`);
      });
      clearTimeout(limit);
    }
    await worker?.terminate();
    for (const fd of this.#fds) closeFd(fd);
  }

  /** What throws at its start may work a moment later: a server that starts as well, a file that is on its way. */
  async #startFirst(): Promise<void> {
    const deadline = performance.now() + START_MS_MAX;
    for (let tries = 1; ; tries++) {
      try {
        await this.#startThread();
        return;
      } catch (error) {
        const isFinal = !(error instanceof StartError) || error.isFinal;
        const isLate = tries >= START_TRIES_MIN && performance.now() + this.#pauseMs > deadline;
        if (isFinal || isLate) throw error;
        await new Promise((resolve) => setTimeout(resolve, this.#nextPause()));
      }
    }
  }

  /** Resolves when it serves; rejects when it did not start, and its thread is gone. */
  async #startThread(): Promise<void> {
    const { file, options, name } = this.#options;
    const workerData: ModuleStart = { file, options, name, rings: this.rings.memory };
    const worker = new Worker(ENTRY, { workerData, name: `disk ${name}` });
    this.#worker = worker;
    this.#isEnding = false;
    this.#startedMs = performance.now();
    const { promise, resolve, reject } = Promise.withResolvers<Geometry>();
    let death = new StartError(`the thread of disk "${name}" ended before the disk was there`, false);
    const limit = setTimeout(() => {
      death = new StartError(`disk "${name}" did not start in ${START_ONE_MS_MAX / 1000} s`, true);
      void worker.terminate();
    }, START_ONE_MS_MAX);
    worker.on('message', (message: FromModule) => {
      if (message.kind === 'ready') resolve(message.geometry);
      else if (message.kind === 'failed') {
        this.#faults.warn('start', `disk ${name} did not start: ${message.stack}`);
        death = new StartError(`disk "${name}" did not start: ${message.message}`, message.isFinal);
        void worker.terminate();
      } else this.#heard(message);
    });
    worker.on('error', (error: Error) => {
      death = new StartError(`the thread of disk "${name}" ended: ${error.message}`, false);
    });
    worker.on('exit', () => {
      clearTimeout(limit);
      reject(death);
      if (this.#worker === worker) this.#ended(death);
    });
    const geometry = await promise;
    clearTimeout(limit);
    this.#checkGeometry(geometry);
    death = new StartError('its thread ended', false);
    this.#isRunning = true;
    worker.postMessage({ kind: 'serve' } satisfies ToModule);
  }

  /** What a disk is stays as it was; its size may grow. */
  #checkGeometry(geometry: Geometry): void {
    const before = this.#geometry;
    if (before !== null) {
      const isSame = geometry.blockSizeBytes === before.blockSizeBytes && geometry.sizeBytes >= before.sizeBytes;
      if (!isSame) {
        void this.#worker?.terminate();
        const [size, old] = [geometry, before].map((each) => `${each.sizeBytes} bytes of ${each.blockSizeBytes}`);
        throw new StartError(`disk "${this.#options.name}" came back as another: ${size} instead of ${old}`, false);
      }
    }
    this.#geometry = geometry;
    if (before !== null && geometry.sizeBytes > before.sizeBytes) this.onGrown(geometry);
  }

  #heard(message: FromModule): void {
    const { log, name } = this.#options;
    if (message.kind === 'log') log.info(`disk ${name}: ${message.message}`);
    else if (message.kind === 'fault') this.#faults.warn(message.key, `disk ${name}: ${message.message}`);
    else if (message.kind === 'answer') this.#answers.get(message.id)?.(message.error);
  }

  /** The thread is over: so is what it had. */
  #ended(reason: Error): void {
    const wasRunning = this.#isRunning;
    this.#worker = null;
    this.#isRunning = false;
    for (const answer of this.#answers.values()) answer(reason.message);
    let failed = 0;
    for (const ring of this.#all) {
      for (let slot = 0; slot < SLOTS; slot++) {
        if (ring.stateOf(slot) !== SlotState.running) continue;
        ring.complete(slot, false);
        failed++;
      }
    }
    if (this.#isClosed || !wasRunning) return;
    const { log, name } = this.#options;
    if (this.geometry.isVolatile) {
      this.rings.die();
      log.error(`disk ${name}: ${reason.message}; its content is lost, so every request fails from now on`, { failed });
      return;
    }
    log.error(`disk ${name}: ${reason.message}; it is started again, and new requests wait`, { failed });
    this.#scheduleRestart();
  }

  #scheduleRestart(): void {
    if (performance.now() - this.#startedMs > SETTLED_MS) this.#pauseMs = PAUSE_MS_MIN;
    this.#retry = setTimeout(() => {
      this.#startThread().then(
        () => {
          this.restarts++;
          this.#options.log.info(`disk ${this.#options.name}: its thread runs again`);
        },
        (error: Error) => {
          if (this.#isClosed) return;
          this.#faults.warn('restart', `${error.message}; it is tried again`);
          this.#scheduleRestart();
        },
      );
    }, this.#nextPause()).unref();
  }

  #nextPause(): number {
    const pauseMs = this.#pauseMs;
    this.#pauseMs = Math.min(2 * pauseMs, PAUSE_MS_MAX);
    return pauseMs;
  }

  #tick(): void {
    const nowNs = clockNs();
    if (this.#isRunning) this.#endIfOverdue(nowNs);
    if (this.#isRunning && !this.#isEnding) return;
    // Nobody takes requests: those that waited too long fail here.
    for (const ring of this.#all) {
      for (let slot = ring.peek(); slot >= 0 && (this.rings.isDead || this.#isOverdue(ring, slot, nowNs)); ) {
        const taken = ring.take();
        if (taken >= 0) ring.complete(taken, false);
        slot = ring.peek();
      }
    }
  }

  #endIfOverdue(nowNs: number): void {
    if (this.#isEnding) return;
    const isStuck = this.#all.some((ring) => {
      for (let slot = 0; slot < SLOTS; slot++) {
        const state = ring.stateOf(slot);
        const isOut = state === SlotState.submitted || state === SlotState.running;
        if (isOut && this.#isOverdue(ring, slot, nowNs)) return true;
      }
      return false;
    });
    if (!isStuck) return;
    this.#isEnding = true;
    const { log, name, requestMsMax } = this.#options;
    log.error(`disk ${name} did not answer a request in ${requestMsMax / 1000} s: its thread is ended`);
    void this.#worker?.terminate();
  }

  #isOverdue(ring: ModuleRing, slot: number, nowNs: number): boolean {
    const { requestMsMax } = this.#options;
    const limitMs = requestMsMax === 0 ? Number.POSITIVE_INFINITY : requestMsMax;
    const ageMs = (nowNs - (ring.startedNs[slot] as number)) / NS_PER_MS;
    return ageMs > (ring.isLeaving ? Math.min(limitMs, LEAVING_MS_MAX) : limitMs);
  }

  async #ask(makeMessage: (id: number) => ToModule): Promise<void> {
    const id = this.#nextId++;
    const { promise, resolve } = Promise.withResolvers<string | null>();
    this.#answers.set(id, resolve);
    this.#worker?.postMessage(makeMessage(id));
    const error = await promise;
    this.#answers.delete(id);
    if (error !== null) throw new TargetError('EIO', error);
  }
}

class StartError extends TargetError {
  /** Trying again would change nothing. */
  readonly isFinal: boolean;

  constructor(message: string, isFinal: boolean) {
    super('EIO', message);
    this.isFinal = isFinal;
  }
}
