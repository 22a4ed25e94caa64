/**
 * Who is let through next where requests of several wait for the limits of a bdev: start-time fair queueing (Goyal, Vin
 * and Cheng, SIGCOMM 1996) over what each request costs of the limit that it uses up most. A sharer is a controller, on
 * however many reactors its queues are; the next request is that of whoever got least for its weight. Who had nothing
 * waiting begins where the others are: what it left to them is theirs.
 *
 * Each reactor that has requests waiting offers some of them, reads and writes apart. Whichever reactor looks first
 * hands out what the stores have, to its own requests and to those of others, and wakes those that sleep: so no reactor
 * is waited for, nothing that the stores have is left lying, and nobody has more because its reactor looks more often.
 *
 * All of it is in the memory of the limits, and changed with their lock.
 */
import { signalEventFd } from '../sys/events.ts';
import { clockNs } from '../sys/thread.ts';
import { RateStores, STORES_BYTES } from './rate-limits.ts';

/** Whose requests a limit is shared by. */
export interface Sharer {
  /** Of the daemon's controllers; 0: the daemon itself, and controllers beyond what there is room for. */
  readonly number: number;
  weight: number;
}

export const SHARERS_MAX = 4096;
/** As systemd and cgroups have it. */
export const WEIGHT_DEFAULT = 100;

/** Copies, metadata of volumes, and whatever else the daemon does by itself. */
export const DAEMON_SHARER: Sharer = { number: 0, weight: WEIGHT_DEFAULT };

/** Requests of each kind that a reactor offers at a time. */
export const OFFERS_MAX = 16;
/** Of what is asked for: reads, writes. */
const KINDS = 2;
/** Doubles of an offer. */
const IS_GRANTED = 0;
const SHARER = 1;
const WEIGHT = 2;
/** What the sharer's start is at least: it had nothing waiting before. */
const FLOOR = 3;
const SECTORS = 4;
/** Of two requests of a sharer the one that came first. */
const ARRIVAL = 5;
const OFFER = 6;
/** Of a reactor, before its offers: how many of each kind, and of them granted by others, and what wakes it asleep. */
const COUNT = 0;
const GRANTS = KINDS;
const WAKE_FD = KINDS + 1;
const OFFERS = KINDS + 2;
const REACTOR = OFFERS + KINDS * OFFERS_MAX * OFFER;

export const READS = 0;
export const WRITES = 1;
export const NOBODY = -1;
const NO_WAKE = -1;

/** Doubles of all reactors: where sharers are that have requests waiting, and how many offers there are. */
const NOW = 0;
const ALL_OFFERS = 1;
const COMMON = 2;

/** Memory of a bdev's limits. What is not touched of it takes none. */
export function createLimits(reactorCount: number): SharedArrayBuffer {
  return new SharedArrayBuffer(STORES_BYTES + (COMMON + SHARERS_MAX + reactorCount * REACTOR) * 8);
}

/**
 * One reactor's view. Its offers are in places: those of reads from 0 on, those of writes from `OFFERS_MAX` on, without
 * gaps.
 */
export class FairShares extends RateStores {
  readonly #common: Float64Array;
  /** By sharer: where its next request starts. */
  readonly #next: Float64Array;
  readonly #reactors: Float64Array;
  readonly #own: number;

  constructor(memory: SharedArrayBuffer, reactorIndex: number, clock: () => number = clockNs) {
    super(memory, clock);
    this.#common = new Float64Array(memory, STORES_BYTES, COMMON);
    this.#next = new Float64Array(memory, STORES_BYTES + COMMON * 8, SHARERS_MAX);
    this.#reactors = new Float64Array(memory, STORES_BYTES + (COMMON + SHARERS_MAX) * 8);
    this.#own = reactorIndex * REACTOR;
    this.#reactors[this.#own + WAKE_FD] = NO_WAKE;
  }

  /** Where a sharer begins that had nothing waiting: in seconds of the limits, by weight. */
  get now(): number {
    return this.#common[NOW] as number;
  }

  /** Where the next request of a sharer starts that began at `floor`. */
  startOf(sharer: number, floor: number): number {
    return Math.max(floor, this.#next[sharer] as number);
  }

  // ---- with the lock ------------------------------------------------------------------------------------------------

  /** Lets a request through at once when nobody waits, and there is enough. */
  take(kind: number, sharer: Sharer, sectors: number): boolean {
    if (this.#common[ALL_OFFERS] !== 0) return false;
    this.fill();
    const isWrite = kind === WRITES;
    if (!this.isOpen(isWrite)) return false;
    this.#charge(sharer.number, sharer.weight, this.startOf(sharer.number, this.now), isWrite, sectors);
    return true;
  }

  /** How many offers of a kind there are. */
  count(kind: number): number {
    return this.#reactors[this.#own + COUNT + kind] as number;
  }

  /** Returns its place. There is room. */
  offer(kind: number, sharer: Sharer, floor: number, sectors: number, arrival: number): number {
    const reactors = this.#reactors;
    const index = this.count(kind);
    const place = kind * OFFERS_MAX + index;
    const at = offerAt(this.#own, place);
    reactors[at + IS_GRANTED] = 0;
    reactors[at + SHARER] = sharer.number;
    reactors[at + WEIGHT] = sharer.weight;
    reactors[at + FLOOR] = floor;
    reactors[at + SECTORS] = sectors;
    reactors[at + ARRIVAL] = arrival;
    reactors[this.#own + COUNT + kind] = index + 1;
    this.#countOffers(1);
    return place;
  }

  /** Takes an offer back. The last of its kind, whose place is returned, is in its place then. */
  remove(place: number): number {
    const reactors = this.#reactors;
    const kind = place < OFFERS_MAX ? READS : WRITES;
    const left = this.count(kind) - 1;
    const last = kind * OFFERS_MAX + left;
    const at = offerAt(this.#own, place);
    reactors[this.#own + GRANTS] = (reactors[this.#own + GRANTS] as number) - (reactors[at + IS_GRANTED] as number);
    reactors.copyWithin(at, offerAt(this.#own, last), offerAt(this.#own, last) + OFFER);
    reactors[this.#own + COUNT + kind] = left;
    this.#countOffers(-1);
    return last;
  }

  /** Takes all of them back. */
  removeAll(): void {
    this.#countOffers(-(this.count(READS) + this.count(WRITES)));
    this.#reactors[this.#own + COUNT + READS] = 0;
    this.#reactors[this.#own + COUNT + WRITES] = 0;
    this.#reactors[this.#own + GRANTS] = 0;
  }

  /** The place of what another reactor has granted to this one, or `NOBODY`. */
  findGrant(): number {
    if (!this.hasGrant) return NOBODY;
    for (let kind = READS; kind <= WRITES; kind++) {
      const end = kind * OFFERS_MAX + this.count(kind);
      for (let place = kind * OFFERS_MAX; place < end; place++) {
        if (this.isGranted(place)) return place;
      }
    }
    return NOBODY;
  }

  /** Another reactor has granted what is in this place. */
  isGranted(place: number): boolean {
    return this.#reactors[offerAt(this.#own, place) + IS_GRANTED] === 1;
  }

  /** Something was granted, and not taken yet. */
  get hasGrant(): boolean {
    return (this.#reactors[this.#own + GRANTS] as number) > 0;
  }

  /** Hands out what there is until it is for this reactor. Returns the place, or `NOBODY`: there is nothing more. */
  serve(): number {
    const reactors = this.#reactors;
    this.fill();
    for (;;) {
      const at = this.#nextOffer();
      if (at === NOBODY) return NOBODY;
      const reactor = at - (at % REACTOR);
      const place = (at - reactor - OFFERS) / OFFER;
      const sharer = reactors[at + SHARER] as number;
      const start = this.startOf(sharer, reactors[at + FLOOR] as number);
      const sectors = reactors[at + SECTORS] as number;
      this.#charge(sharer, reactors[at + WEIGHT] as number, start, place >= OFFERS_MAX, sectors);
      if (reactor === this.#own) return place;
      reactors[at + IS_GRANTED] = 1;
      reactors[reactor + GRANTS] = (reactors[reactor + GRANTS] as number) + 1;
      const wakeFd = reactors[reactor + WAKE_FD] as number;
      if (wakeFd !== NO_WAKE) signalEventFd(wakeFd);
    }
  }

  /** The reactor goes to sleep: `fd` is signalled when something is granted. */
  sleep(fd: number): void {
    this.#reactors[this.#own + WAKE_FD] = fd;
  }

  /** It is awake: its descriptor is not used any more. */
  awake(): void {
    this.#reactors[this.#own + WAKE_FD] = NO_WAKE;
  }

  /** Of the offers that the stores have something for, that which starts first. */
  #nextOffer(): number {
    const reactors = this.#reactors;
    let best = NOBODY;
    let bestStart = Number.POSITIVE_INFINITY;
    let bestArrival = 0;
    for (let kind = READS; kind <= WRITES; kind++) {
      if (!this.isOpen(kind === WRITES)) continue;
      for (let reactor = 0; reactor < reactors.length; reactor += REACTOR) {
        const first = offerAt(reactor, kind * OFFERS_MAX);
        const end = first + (reactors[reactor + COUNT + kind] as number) * OFFER;
        for (let at = first; at < end; at += OFFER) {
          if (reactors[at + IS_GRANTED] === 1) continue;
          const start = this.startOf(reactors[at + SHARER] as number, reactors[at + FLOOR] as number);
          const arrival = reactors[at + ARRIVAL] as number;
          if (start > bestStart || (start === bestStart && arrival >= bestArrival)) continue;
          best = at;
          bestStart = start;
          bestArrival = arrival;
        }
      }
    }
    return best;
  }

  #charge(sharer: number, weight: number, start: number, isWrite: boolean, sectors: number): void {
    this.spend(isWrite, sectors);
    this.#next[sharer] = start + this.secondsOf(isWrite, sectors) / weight;
    if (start > this.now) this.#common[NOW] = start;
  }

  #countOffers(more: number): void {
    this.#common[ALL_OFFERS] = (this.#common[ALL_OFFERS] as number) + more;
  }
}

function offerAt(reactor: number, place: number): number {
  return reactor + OFFERS + place * OFFER;
}
