/**
 * A reactor: the loop of one core. It takes requests from queues (`Source`), drives the channels they go to (`Drive`),
 * and makes completions visible, in rounds; a burst of rounds, then one turn of the thread's event loop, in which
 * messages, sockets and promises live.
 *
 * Only what is awake is in the rounds, so that idle queues and disks cost nothing. A source that was silent for
 * `SPIN_NS` leaves and waits for its kick (`arm`, look again), whether or not requests of its are in flight: their
 * completion brings it back. A drive leaves when nothing is in flight, or, once no source is awake, when it can say
 * that something completed (`wakeFd`). When nothing is left the thread sleeps in its event loop.
 */
import { FdSet, LoopTurn } from '../sys/events.ts';
import { clockNs, clockStamp, STAMP_NS, stepsBetween, yieldCore } from '../sys/thread.ts';

/** What takes part in the rounds while it is awake. */
interface Member {
  /** Written by the reactor alone. While false, whatever gives it something to do in a round must call `wake`. */
  isAwake: boolean;
  /** Set by the reactor. */
  wake: () => void;
}

/** Something that brings work: a virtqueue. */
export interface Source extends Member {
  /** Takes new requests. Returns how many. */
  take(): number;
  /** Makes what completed visible to the driver. */
  publish(): void;
  /** True when no kick and no completion would bring it back: a driver that never kicks, a request that waits. */
  readonly isBusy: boolean;
  /** Requests taken and not completed. */
  readonly inFlight: number;
  /** Asks to be woken by a kick. True when work came meanwhile: then it stays in the round. */
  arm(): boolean;
  /** Back in the round: kicks are not needed. */
  disarm(): void;
}

/** Something that carries work out: a bdev channel. */
export interface Drive extends Member {
  /** Carries out what was submitted and reaps. Returns how many completed. */
  poll(): number;
  /** Requests submitted and not completed. */
  readonly inFlight: number;
  /**
   * Readable, from `arm` to `disarm`, when a request may have completed. -1: completions need polling. -2: they come
   * with those of another drive.
   */
  readonly wakeFd: number;
  /**
   * Other threads of this machine do its work, perhaps on this core: while it has requests nobody spins without
   * offering them the core. Default: false.
   */
  readonly sharesCores?: boolean;
  /**
   * Lets others have the core until something completes, or for so long, when its requests need that to come to their
   * end. Returns the nanoseconds that it took, 0 when they do not.
   */
  rest?(timeoutNs: number): number;
  /** Asks for `wakeFd`. True when there is something to poll for already. */
  arm(): boolean;
  disarm(): void;
}

/** `poll` never sleeps, `adaptive` sleeps after `SPIN_NS` of silence, `interrupt` as soon as it can. */
export type ReactorMode = 'poll' | 'adaptive' | 'interrupt';

/** How long a silent source is polled before it waits for its kick. */
export const SPIN_NS = 500_000;
/** The clock is read, and silence judged, once in so many rounds: a look costs as much as an empty round. */
const ROUNDS_PER_CLOCK = 32;
/**
 * While threads of this machine carry out a request, and nothing else is to be done, every round ends with an offer of
 * the core to them: their answer is there at the next look, and nobody was put to sleep for it. Rounds without work, as
 * many as between two looks at the clock, or a thread that keeps the core for so long, show that offers are of no use:
 * for a while the reactor sleeps instead. With more requests it sleeps at once, so that more of them end together.
 */
const OFFER_REQUESTS_MAX = 1;
const OFFER_NS_MAX = 1_000_000;
const OFFERS_PAUSE_NS = 100_000_000;
/**
 * A drive whose requests end in threads of the kernel, on this core, gets a rest in a round without work: at most so
 * long, since kicks are not heard meanwhile. For as long a source without requests in flight is expected to bring the
 * next one, and nobody rests.
 */
export const REST_NS = 50_000;
/** A burst ends after so long, so that the event loop has its turn. */
const BURST_NS = 500_000;
/** Sleepers beside busy ones are looked after as often. */
const LOOK_NS = 50_000;

/** `Drive.wakeFd`, see there. */
const WOKEN_FROM_BELOW = -2;

/** Counters of a reactor in shared memory: one writer, read without locks. */
export const ReactorCounter = { busyNs: 0, idleNs: 1, lastClockNs: 2, sleeping: 3, threadId: 4, turns: 5 } as const;
export const REACTOR_COUNTERS = 8;

class SourceSlot {
  readonly source: Source;
  mode: ReactorMode;
  didWork = false;
  lastWorkNs: number;

  constructor(source: Source, mode: ReactorMode, nowNs: number) {
    this.source = source;
    this.mode = mode;
    this.lastWorkNs = nowNs;
  }
}

class DriveSlot {
  readonly drive: Drive;
  didWork = false;
  lastWorkNs = 0;
  /** Descriptor that is watched while it sleeps with requests in flight. */
  watchedFd = -1;

  constructor(drive: Drive) {
    this.drive = drive;
  }
}

export class Reactor {
  readonly counters: Float64Array;
  /** What wakes the thread. Users add their own descriptors. */
  readonly fdSet = new FdSet(() => this.#handledEvents());
  /** Of sources that have none of their own. */
  readonly #mode: ReactorMode;
  readonly #turn: LoopTurn;
  #awake: SourceSlot[] = [];
  #driven: DriveSlot[] = [];
  readonly #sources = new Map<Source, SourceSlot>();
  readonly #drives = new Map<Drive, DriveSlot>();
  /** Sources that are polled for a while before they wait. While there are any, so are drives. */
  #spinning = 0;
  /** Drives with `sharesCores`. */
  #sharers: readonly Drive[] = [];
  /** From when on the core is offered to them. */
  #offersFromNs = 0;
  /** Of the time since the last look at the clock. */
  #restedNs = 0;
  #isTurning = false;
  /** It was woken and has not had a burst since. */
  #isRoused = false;

  constructor(mode: ReactorMode, counters: Float64Array) {
    this.#mode = mode;
    this.counters = counters;
    this.#turn = new LoopTurn(() => this.#burst());
    counters[ReactorCounter.lastClockNs] = clockNs();
    counters[ReactorCounter.sleeping] = 1;
  }

  add(source: Source, mode: ReactorMode = this.#mode): void {
    const slot = new SourceSlot(source, mode, clockNs());
    this.#sources.set(source, slot);
    this.#countSpinning();
    source.wake = () => this.#wakeSource(slot);
    source.isAwake = false;
    this.#wakeSource(slot);
  }

  remove(source: Source): void {
    const slot = this.#sources.get(source);
    if (slot === undefined) return;
    this.#sources.delete(source);
    this.#countSpinning();
    source.wake = doNothing;
    source.isAwake = false;
    this.#awake = this.#awake.filter((other) => other !== slot);
  }

  /** Takes effect at once, also for a source that sleeps. */
  setMode(source: Source, mode: ReactorMode): void {
    const slot = this.#sources.get(source);
    if (slot === undefined) return;
    slot.mode = mode;
    this.#countSpinning();
    this.#wakeSource(slot);
  }

  addDrive(drive: Drive): void {
    const slot = new DriveSlot(drive);
    this.#drives.set(drive, slot);
    if (drive.sharesCores === true) this.#sharers = [...this.#sharers, drive];
    drive.wake = () => this.#wakeDrive(slot);
    drive.isAwake = false;
    if (drive.inFlight > 0) this.#wakeDrive(slot);
  }

  removeDrive(drive: Drive): void {
    const slot = this.#drives.get(drive);
    if (slot === undefined) return;
    this.#drives.delete(drive);
    this.#sharers = this.#sharers.filter((other) => other !== drive);
    this.#unwatch(slot);
    drive.wake = doNothing;
    drive.isAwake = false;
    this.#driven = this.#driven.filter((other) => other !== slot);
  }

  /** A kick came, or the source has something else to do. */
  wake(source: Source): void {
    const slot = this.#sources.get(source);
    if (slot !== undefined) this.#wakeSource(slot);
  }

  close(): void {
    this.#turn.stop();
    this.#turn.close();
    this.fdSet.close();
  }

  /** One round over everything that is awake. Returns the work done: 0 means silence. Public for tests. */
  round(): number {
    const awake = this.#awake;
    const driven = this.#driven;
    let work = 0;
    for (let i = 0; i < awake.length; i++) {
      const slot = awake[i] as SourceSlot;
      const taken = slot.source.take();
      if (taken > 0) {
        slot.didWork = true;
        work += taken;
      }
    }
    for (let i = 0; i < driven.length; i++) {
      const slot = driven[i] as DriveSlot;
      const completed = slot.drive.poll();
      if (completed > 0) {
        slot.didWork = true;
        work += completed;
      }
    }
    // Completions may have woken sources, which are at the end of the list now.
    for (let i = 0; i < awake.length; i++) (awake[i] as SourceSlot).source.publish();
    return work;
  }

  /** What an event woke goes on at once: all code is cold then, and a turn of the event loop takes its share. */
  #handledEvents(): void {
    if (!this.#isRoused) return;
    this.#burst();
    if (this.#isTurning) this.#turn.start();
  }

  #burst(): void {
    this.#isRoused = false;
    const counters = this.counters;
    const start = counters[ReactorCounter.lastClockNs] as number;
    let last = start;
    let lookedNs = start;
    counters[ReactorCounter.turns] = (counters[ReactorCounter.turns] as number) + 1;
    for (;;) {
      const work = this.#rounds(last);
      const now = clockNs();
      const counter = work > 0 ? ReactorCounter.busyNs : ReactorCounter.idleNs;
      counters[counter] = (counters[counter] as number) + (now - last - this.#restedNs);
      counters[ReactorCounter.idleNs] = (counters[ReactorCounter.idleNs] as number) + this.#restedNs;
      this.#restedNs = 0;
      counters[ReactorCounter.lastClockNs] = now;
      last = now;
      this.#settleSources(now);
      this.#settleDrives(now);
      if (this.#awake.length === 0 && this.#driven.length === 0) this.#stopTurning();
      if (!this.#isTurning || now - start > BURST_NS) return;
      if (now - lookedNs > LOOK_NS) {
        lookedNs = now;
        if (this.#hasSleepers) this.fdSet.poll();
      }
    }
  }

  get #hasSleepers(): boolean {
    return this.#awake.length < this.#sources.size || this.#driven.length < this.#drives.size;
  }

  /** As many rounds as between two looks at the clock, or until others want the core. Returns the work done. */
  #rounds(nowNs: number): number {
    let work = 0;
    let isOffering = false;
    let isUseful = true;
    for (let i = 0; i < ROUNDS_PER_CLOCK && isUseful; i++) {
      const done = this.round();
      work += done;
      if (done > 0 || this.#spinning === 0) continue;
      if (this.#rest(nowNs)) break;
      const elsewhere = this.#requestsElsewhere();
      if (elsewhere === 0) continue;
      isOffering = this.#mayOffer(elsewhere, nowNs);
      if (!isOffering) break;
      isUseful = offerCore();
    }
    if (isOffering && (work === 0 || !isUseful)) this.#offersFromNs = nowNs + OFFERS_PAUSE_NS;
    return work;
  }

  /** Gives the core away after a round without work, for a drive that needs that. True when it did. */
  #rest(nowNs: number): boolean {
    const awake = this.#awake;
    for (let i = 0; i < awake.length; i++) {
      const slot = awake[i] as SourceSlot;
      const isRecent = slot.didWork || nowNs - slot.lastWorkNs < REST_NS;
      if (isRecent && slot.source.inFlight === 0) return false;
    }
    const driven = this.#driven;
    for (let i = 0; i < driven.length; i++) {
      const { drive } = driven[i] as DriveSlot;
      if (drive.inFlight === 0 || drive.rest === undefined) continue;
      this.#restedNs = drive.rest(REST_NS);
      if (this.#restedNs > 0) return true;
    }
    return false;
  }

  /** Lets silent sources wait for their kicks. */
  #settleSources(nowNs: number): void {
    const awake = this.#awake;
    const isWanted = this.#isWanted(nowNs);
    let kept = 0;
    for (let i = 0; i < awake.length; i++) {
      const slot = awake[i] as SourceSlot;
      if (!this.#leaves(slot, nowNs, isWanted)) awake[kept++] = slot;
    }
    awake.length = kept;
  }

  /** Requests that other threads of this machine carry out. */
  #requestsElsewhere(): number {
    let requests = 0;
    for (let i = 0; i < this.#sharers.length; i++) requests += (this.#sharers[i] as Drive).inFlight;
    return requests;
  }

  #mayOffer(requestsElsewhere: number, nowNs: number): boolean {
    return requestsElsewhere <= OFFER_REQUESTS_MAX && nowNs >= this.#offersFromNs;
  }

  /** Somebody else wants this core for requests of ours. */
  #isWanted(nowNs: number): boolean {
    const elsewhere = this.#requestsElsewhere();
    return elsewhere > 0 && !this.#mayOffer(elsewhere, nowNs);
  }

  #leaves(slot: SourceSlot, nowNs: number, isWanted: boolean): boolean {
    const { source, mode } = slot;
    if (slot.didWork) {
      slot.didWork = false;
      slot.lastWorkNs = nowNs;
    }
    const spinNs = mode === 'interrupt' || isWanted ? 0 : SPIN_NS;
    if (mode === 'poll' || nowNs - slot.lastWorkNs < spinNs || source.isBusy) return false;
    if (source.arm()) {
      source.disarm();
      slot.lastWorkNs = nowNs;
      return false;
    }
    source.isAwake = false;
    return true;
  }

  /** Lets drives go that have nothing to do, or that will say so when they have. */
  #settleDrives(nowNs: number): void {
    const driven = this.#driven;
    const mayOffer = this.#mayOffer(this.#requestsElsewhere(), nowNs);
    let kept = 0;
    for (let i = 0; i < driven.length; i++) {
      const slot = driven[i] as DriveSlot;
      if (!this.#isSilent(slot, nowNs, mayOffer)) driven[kept++] = slot;
    }
    driven.length = kept;
  }

  #isSilent(slot: DriveSlot, nowNs: number, mayOffer: boolean): boolean {
    const { drive } = slot;
    if (slot.didWork) {
      slot.didWork = false;
      slot.lastWorkNs = nowNs;
    }
    const mayWait = (drive.sharesCores !== true || mayOffer) && this.#spinning > 0;
    if (mayWait && nowNs - slot.lastWorkNs < SPIN_NS) return false;
    if (drive.inFlight > 0 && drive.wakeFd !== WOKEN_FROM_BELOW) {
      // While a source is polled, polling the drive too costs less than being woken.
      if (this.#awake.length > 0 || drive.wakeFd < 0) return false;
      if (drive.arm()) {
        drive.disarm();
        slot.lastWorkNs = nowNs;
        return false;
      }
      slot.watchedFd = drive.wakeFd;
      this.fdSet.add(slot.watchedFd, () => this.#wakeDrive(slot));
    }
    drive.isAwake = false;
    return true;
  }

  #countSpinning(): void {
    this.#spinning = 0;
    for (const { mode } of this.#sources.values()) if (mode !== 'interrupt') this.#spinning++;
  }

  #wakeSource(slot: SourceSlot): void {
    const { source } = slot;
    if (source.isAwake) return;
    source.isAwake = true;
    slot.lastWorkNs = clockNs();
    source.disarm();
    this.#awake.push(slot);
    this.#startTurning();
  }

  #wakeDrive(slot: DriveSlot): void {
    const { drive } = slot;
    if (drive.isAwake) return;
    drive.isAwake = true;
    slot.lastWorkNs = clockNs();
    this.#unwatch(slot);
    this.#driven.push(slot);
    this.#startTurning();
  }

  #unwatch(slot: DriveSlot): void {
    if (slot.watchedFd < 0) return;
    this.fdSet.remove(slot.watchedFd);
    slot.watchedFd = -1;
    slot.drive.disarm();
  }

  #startTurning(): void {
    if (this.#isTurning) return;
    this.#isTurning = true;
    this.#isRoused = true;
    const counters = this.counters;
    const now = clockNs();
    const slept = now - (counters[ReactorCounter.lastClockNs] as number);
    counters[ReactorCounter.idleNs] = (counters[ReactorCounter.idleNs] as number) + slept;
    counters[ReactorCounter.lastClockNs] = now;
    counters[ReactorCounter.sleeping] = 0;
    if (!this.fdSet.isHandling) this.#turn.start();
  }

  #stopTurning(): void {
    this.#isTurning = false;
    this.counters[ReactorCounter.sleeping] = 1;
    this.#turn.stop();
  }
}

/** False when whoever took the core kept it for long. */
function offerCore(): boolean {
  const start = clockStamp();
  yieldCore();
  return stepsBetween(start, clockStamp()) * STAMP_NS < OFFER_NS_MAX;
}

function doNothing(): void {}
