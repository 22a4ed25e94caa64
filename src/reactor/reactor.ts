/**
 * A reactor: the loop of one core. It takes requests from queues (`Source`), drives the channels they go to (`Drive`),
 * and makes completions visible, in rounds; a burst of rounds, then one turn of the thread's event loop, in which
 * messages, sockets and promises live.
 *
 * A source that was silent for `spinNs` leaves the round and waits for its kick (`arm`, look again); when none is left
 * the thread sleeps in its event loop and costs nothing. `wake` brings a source back.
 */
import { LoopTurn } from '../sys/events.ts';
import { clockNs } from '../sys/thread.ts';

/** Something that brings work: a virtqueue. */
export interface Source {
  /** Takes new requests. Returns how many. */
  take(): number;
  /** Makes what completed visible to the driver. */
  publish(): void;
  /** True when it must stay in the round: work in flight, or a driver that never kicks. */
  readonly isBusy: boolean;
  /** Asks to be woken by a kick. True when work came meanwhile: then it stays in the round. */
  arm(): boolean;
  /** Back in the round: kicks are not needed. */
  disarm(): void;
}

/** Something that carries work out: a bdev channel. */
export interface Drive {
  /** Carries out what was submitted and reaps. Returns how many completed. */
  poll(): number;
}

/** `poll` never sleeps, `adaptive` sleeps after `spinNs` of silence, `interrupt` as soon as it can. */
export type ReactorMode = 'poll' | 'adaptive' | 'interrupt';

/** How long a silent source is polled before it waits for its kick. */
export const SPIN_NS = 500_000;
/** The clock is read, and silence judged, once in so many rounds: a look costs as much as an empty round. */
const ROUNDS_PER_CLOCK = 32;
/** A burst ends after so long, so that the event loop has its turn. */
const BURST_NS = 500_000;

/** Counters of a reactor in shared memory: one writer, read without locks. */
export const ReactorCounter = { busyNs: 0, idleNs: 1, lastClockNs: 2, sleeping: 3, threadId: 4, turns: 5 } as const;
export const REACTOR_COUNTERS = 8;

class Slot {
  readonly source: Source;
  isAwake = true;
  didWork = false;
  lastWorkNs = 0;

  constructor(source: Source) {
    this.source = source;
  }
}

export class Reactor {
  readonly counters: Float64Array;
  #mode: ReactorMode;
  readonly #turn: LoopTurn;
  #awake: Slot[] = [];
  readonly #slots = new Map<Source, Slot>();
  #drives: Drive[] = [];
  #isTurning = false;

  constructor(mode: ReactorMode, counters: Float64Array) {
    this.#mode = mode;
    this.counters = counters;
    this.#turn = new LoopTurn(() => this.#burst());
    counters[ReactorCounter.lastClockNs] = clockNs();
    counters[ReactorCounter.sleeping] = 1;
    if (mode === 'poll') this.#startTurning();
  }

  add(source: Source): void {
    const slot = new Slot(source);
    slot.lastWorkNs = clockNs();
    this.#slots.set(source, slot);
    this.#awake.push(slot);
    source.disarm();
    this.#startTurning();
  }

  remove(source: Source): void {
    const slot = this.#slots.get(source);
    if (slot === undefined) return;
    this.#slots.delete(source);
    this.#awake = this.#awake.filter((other) => other !== slot);
  }

  addDrive(drive: Drive): void {
    this.#drives = [...this.#drives, drive];
  }

  removeDrive(drive: Drive): void {
    this.#drives = this.#drives.filter((other) => other !== drive);
  }

  /** A kick came, or the source has something else to do. */
  wake(source: Source): void {
    const slot = this.#slots.get(source);
    if (slot === undefined || slot.isAwake) return;
    slot.isAwake = true;
    slot.lastWorkNs = clockNs();
    source.disarm();
    this.#awake.push(slot);
    this.#startTurning();
  }

  close(): void {
    this.#turn.stop();
    this.#turn.close();
  }

  /** One round over everything that is awake. Returns the work done: 0 means silence. Public for tests. */
  round(): number {
    const awake = this.#awake;
    const drives = this.#drives;
    let work = 0;
    for (let i = 0; i < awake.length; i++) {
      const slot = awake[i] as Slot;
      const taken = slot.source.take();
      if (taken > 0) {
        slot.didWork = true;
        work += taken;
      }
    }
    for (let i = 0; i < drives.length; i++) work += (drives[i] as Drive).poll();
    for (let i = 0; i < awake.length; i++) (awake[i] as Slot).source.publish();
    return work;
  }

  #burst(): void {
    const counters = this.counters;
    const start = counters[ReactorCounter.lastClockNs] as number;
    let last = start;
    counters[ReactorCounter.turns] = (counters[ReactorCounter.turns] as number) + 1;
    for (;;) {
      let work = 0;
      for (let i = 0; i < ROUNDS_PER_CLOCK; i++) work += this.round();
      const now = clockNs();
      const counter = work > 0 ? ReactorCounter.busyNs : ReactorCounter.idleNs;
      counters[counter] = (counters[counter] as number) + (now - last);
      counters[ReactorCounter.lastClockNs] = now;
      last = now;
      if (this.#mode !== 'poll') this.#settle(now);
      if (!this.#isTurning || now - start > BURST_NS) return;
    }
  }

  /** Lets silent sources wait for their kicks. */
  #settle(nowNs: number): void {
    const spinNs = this.#mode === 'interrupt' ? 0 : SPIN_NS;
    const awake = this.#awake;
    let kept = 0;
    for (let i = 0; i < awake.length; i++) {
      const slot = awake[i] as Slot;
      const source = slot.source;
      if (slot.didWork) {
        slot.didWork = false;
        slot.lastWorkNs = nowNs;
      } else if (nowNs - slot.lastWorkNs > spinNs && !source.isBusy) {
        if (!source.arm()) {
          slot.isAwake = false;
          continue;
        }
        source.disarm();
        slot.lastWorkNs = nowNs;
      }
      awake[kept++] = slot;
    }
    awake.length = kept;
    if (kept === 0) this.#stopTurning();
  }

  #startTurning(): void {
    if (this.#isTurning) return;
    this.#isTurning = true;
    const counters = this.counters;
    const now = clockNs();
    const slept = now - (counters[ReactorCounter.lastClockNs] as number);
    counters[ReactorCounter.idleNs] = (counters[ReactorCounter.idleNs] as number) + slept;
    counters[ReactorCounter.lastClockNs] = now;
    counters[ReactorCounter.sleeping] = 0;
    this.#turn.start();
  }

  #stopTurning(): void {
    this.#isTurning = false;
    this.counters[ReactorCounter.sleeping] = 1;
    this.#turn.stop();
  }
}
