/**
 * A module's channel with limits on what goes through in a second (rate-limits.ts). Reads and writes that come too
 * early wait here until their sharer's turn comes (fair-shares.ts), those of a sharer in their order; everything else
 * passes.
 */
import { closeFd, createEventFd, readEventFd, signalEventFd } from '../sys/events.ts';
import type { BdevDescription } from './bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType } from './bdev-io.ts';
import { DAEMON_SHARER, FairShares, NOBODY, OFFERS_MAX, READS, type Sharer, WRITES } from './fair-shares.ts';
import { sectorsOf } from './rate-limits.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE } = IoType;
const READ_KIND = READS;
const WRITE_KIND = WRITES;
const NONE = NOBODY;
const WITHDRAWN = IoStatus.withdrawn;
/** How long a sleeping reactor waits until it looks at what waits here. */
const LOOK_MS = 1;
/** Requests let through in one go, so that other reactors have theirs. */
const BATCH_MAX = 32;

/** Requests by way of their own links. */
class IoList {
  first: BdevIo | null = null;
  #last: BdevIo | null = null;

  push(io: BdevIo): void {
    io.next = null;
    if (this.#last === null || this.first === null) this.first = io;
    else this.#last.next = io;
    this.#last = io;
  }

  unshift(io: BdevIo): void {
    if (this.first === null) this.#last = io;
    io.next = this.first;
    this.first = io;
  }

  shift(): BdevIo {
    const io = this.first as BdevIo;
    this.first = io.next;
    io.next = null;
    return io;
  }

  /** Moves those of a queue to another list. Returns how many. */
  moveOf(queue: Sharer, list: IoList): number {
    let moved = 0;
    let io = this.first;
    this.first = null;
    this.#last = null;
    while (io !== null) {
      const { next } = io;
      const isMoved = isOf(io, queue);
      (isMoved ? list : this).push(io);
      if (isMoved) moved++;
      io = next;
    }
    return moved;
  }
}

/** What waits of one sharer. */
class Lane {
  sharer: Sharer;
  /** Where it began when its first request came. */
  floor = 0;
  /** Requests, also those on offer. */
  count = 0;
  /** By kind: what is not on offer, and how much is. */
  readonly lists = [new IoList(), new IoList()] as const;
  readonly offered: [number, number] = [0, 0];

  constructor(sharer: Sharer) {
    this.sharer = sharer;
  }
}

type Kind = typeof READS | typeof WRITES;

export class LimitedChannel implements IoChannel {
  readonly sharesCores: boolean;
  readonly hasConnection: boolean;
  letGo?: () => void;
  readonly #module: IoChannel;
  readonly #shares: FairShares;
  readonly #lanes = new Map<number, Lane>();
  /** Those with something. */
  readonly #active: Lane[] = [];
  /** By place: what is on offer. */
  readonly #offers: (BdevIo | null)[] = Array.from({ length: 2 * OFFERS_MAX }, () => null);
  #held = 0;
  #arrivals = 0;
  #isAbandoned = false;
  readonly #fd = createEventFd();
  #timer: NodeJS.Timeout | null = null;

  /** `clock`: as of `RateStores`. */
  constructor(module: IoChannel, limits: SharedArrayBuffer, reactorIndex: number, clock?: () => number) {
    this.#module = module;
    this.#shares = new FairShares(limits, reactorIndex, clock);
    this.sharesCores = module.sharesCores ?? false;
    this.hasConnection = module.hasConnection ?? false;
    if (module.letGo !== undefined) this.letGo = () => module.letGo?.();
  }

  /** Its own while something waits here: then the module is looked at as often. */
  get wakeFd(): number {
    return this.#held > 0 ? this.#fd : this.#module.wakeFd;
  }

  submit(io: BdevIo): void {
    const isLimited = (io.type === READ || io.type === WRITE) && !this.#isAbandoned;
    if (!isLimited || (this.#held === 0 && (!this.#shares.isOn || this.#isLetThrough(io)))) {
      this.#module.submit(io);
      return;
    }
    this.#hold(io);
    this.#release();
  }

  poll(): number {
    if (this.#held > 0) this.#release();
    return this.#module.poll();
  }

  rest(timeoutNs: number): number {
    return this.#module.rest?.(timeoutNs) ?? 0;
  }

  arm(): boolean {
    let isGranted = false;
    if (this.#held > 0) {
      this.#shares.lock();
      this.#shares.sleep(this.#fd);
      isGranted = this.#shares.hasGrant;
      this.#shares.unlock();
      this.#timer = setTimeout(() => signalEventFd(this.#fd), LOOK_MS);
    }
    return this.#module.arm() || isGranted;
  }

  disarm(): void {
    if (this.#timer !== null) {
      clearTimeout(this.#timer);
      this.#timer = null;
      // Another reactor may be about to signal it.
      this.#shares.lock();
      this.#shares.awake();
      this.#shares.unlock();
    }
    readEventFd(this.#fd);
    this.#module.disarm();
  }

  /** Nobody waits for a disk that goes. */
  abandon(): void {
    this.#isAbandoned = true;
    this.#module.abandon?.();
  }

  /** What another reactor has granted goes on: it is paid for. */
  withdraw(sharer: Sharer): void {
    const withdrawn = new IoList();
    this.#shares.lock();
    // From the end on: one from a higher place comes into that of an offer which is taken.
    for (let place = this.#offers.length - 1; place >= 0; place--) {
      const io = this.#offers[place] as BdevIo | null;
      if (io === null || !isOf(io, sharer) || this.#shares.isGranted(place)) continue;
      withdrawn.push(this.#takeOffer(place));
    }
    this.#shares.unlock();
    for (const lane of [...this.#active]) {
      for (const list of lane.lists) this.#leave(lane, list.moveOf(sharer, withdrawn));
    }
    // Their owners may submit others meanwhile.
    while (withdrawn.first !== null) withdrawn.shift().complete(WITHDRAWN);
    this.#module.withdraw?.(sharer);
  }

  update(description: BdevDescription): void {
    this.#module.update(description);
  }

  close(): void {
    this.disarm();
    closeFd(this.#fd);
    this.#module.close();
  }

  /** The short way of requests for which there is enough, and nobody waits on any reactor. */
  #isLetThrough(io: BdevIo): boolean {
    const shares = this.#shares;
    if (!shares.tryLock()) return false;
    const isTaken = shares.take(kindOf(io), sharerOf(io), sectorsOf(io.lengthBytes));
    shares.unlock();
    return isTaken;
  }

  #hold(io: BdevIo): void {
    const lane = this.#laneOf(io);
    if (lane.count++ === 0) {
      lane.floor = this.#shares.now;
      this.#active.push(lane);
    }
    io.arrival = this.#arrivals++;
    lane.lists[kindOf(io)].push(io);
    this.#held++;
  }

  #laneOf(io: BdevIo): Lane {
    const sharer = sharerOf(io);
    let lane = this.#lanes.get(sharer.number);
    if (lane === undefined) {
      lane = new Lane(sharer);
      this.#lanes.set(sharer.number, lane);
    }
    // Each queue of a controller has its own copy, and one that was started again a new one.
    lane.sharer = sharer;
    return lane;
  }

  /** Lets through whose turn it is. */
  #release(): void {
    const shares = this.#shares;
    if (this.#isAbandoned || !shares.isOn) {
      this.#releaseAll();
      return;
    }
    // Whoever has the lock hands out what there is, and the next poll comes soon.
    if (!shares.tryLock()) return;
    let first: BdevIo | null = null;
    let last: BdevIo | null = null;
    for (let count = 0; count < BATCH_MAX && this.#held > 0; count++) {
      let place = shares.findGrant();
      if (place === NONE) {
        this.#offerMore(READ_KIND);
        this.#offerMore(WRITE_KIND);
        place = shares.serve();
      }
      if (place === NONE) break;
      const io = this.#takeOffer(place);
      if (last === null) first = io;
      else last.next = io;
      last = io;
    }
    shares.unlock();
    this.#submitAll(first);
  }

  /** Without a look at the limits. */
  #releaseAll(): void {
    const shares = this.#shares;
    shares.lock();
    shares.removeAll();
    shares.unlock();
    const all = new IoList();
    for (let place = 0; place < this.#offers.length; place++) {
      const io = this.#offers[place] as BdevIo | null;
      if (io !== null) all.push(io);
      this.#offers[place] = null;
    }
    for (const lane of this.#active) {
      for (const list of lane.lists) while (list.first !== null) all.push(list.shift());
      lane.count = 0;
      lane.offered.fill(0);
    }
    this.#active.length = 0;
    this.#held = 0;
    this.#submitAll(all.first);
  }

  /** A request may end while it is submitted, and bring others. */
  #submitAll(first: BdevIo | null): void {
    for (let io = first; io !== null; ) {
      const { next } = io;
      io.next = null;
      this.#module.submit(io);
      io = next;
    }
  }

  /** Offers reads or writes of those that are next here, in place of those of others that have more than their part. */
  #offerMore(kind: Kind): void {
    const shares = this.#shares;
    for (let count = 0; count < OFFERS_MAX; count++) {
      const lane = this.#nextLane(kind);
      if (lane === null || (shares.count(kind) === OFFERS_MAX && !this.#takeBack(kind, lane))) return;
      const io = lane.lists[kind].shift();
      const place = shares.offer(kind, lane.sharer, lane.floor, sectorsOf(io.lengthBytes), io.arrival);
      lane.offered[kind]++;
      this.#offers[place] = io;
    }
  }

  /** Who has something to offer, and not its part of the offers yet. */
  #nextLane(kind: Kind): Lane | null {
    const offersMax = this.#offersOfEach;
    let best: Lane | null = null;
    let bestStart = Number.POSITIVE_INFINITY;
    for (let i = 0; i < this.#active.length; i++) {
      const lane = this.#active[i] as Lane;
      if (lane.lists[kind].first === null || lane.offered[kind] >= offersMax) continue;
      const start = this.#startOf(lane);
      if (start > bestStart || (start === bestStart && best !== null && !isBefore(lane, best, kind))) continue;
      best = lane;
      bestStart = start;
    }
    return best;
  }

  /** Makes room for an offer of `lane`. False: none of the others is to go for it. */
  #takeBack(kind: Kind, lane: Lane): boolean {
    const offersMax = this.#offersOfEach;
    let worst: Lane | null = null;
    let worstStart = this.#startOf(lane);
    for (let i = 0; i < this.#active.length; i++) {
      const other = this.#active[i] as Lane;
      if (other.offered[kind] === 0) continue;
      const start = other.offered[kind] > offersMax ? Number.POSITIVE_INFINITY : this.#startOf(other);
      if (start <= worstStart) continue;
      worst = other;
      worstStart = start;
    }
    if (worst === null) return false;
    const io = this.#removeOffer(this.#lastOffer(kind, worst));
    worst.offered[kind]--;
    worst.lists[kind].unshift(io);
    return true;
  }

  /** Of a sharer, that which came last. */
  #lastOffer(kind: Kind, lane: Lane): number {
    let last = NONE;
    for (let place = kind * OFFERS_MAX; place < (kind + 1) * OFFERS_MAX; place++) {
      const io = this.#offers[place] as BdevIo;
      const isOther = sharerOf(io).number !== lane.sharer.number;
      if (isOther || (last !== NONE && io.arrival < (this.#offers[last] as BdevIo).arrival)) continue;
      last = place;
    }
    return last;
  }

  get #offersOfEach(): number {
    return Math.max(1, Math.floor(OFFERS_MAX / this.#active.length));
  }

  #startOf(lane: Lane): number {
    return this.#shares.startOf(lane.sharer.number, lane.floor);
  }

  #removeOffer(place: number): BdevIo {
    const io = this.#offers[place] as BdevIo;
    const last = this.#shares.remove(place);
    this.#offers[place] = this.#offers[last] as BdevIo | null;
    this.#offers[last] = null;
    return io;
  }

  #takeOffer(place: number): BdevIo {
    const io = this.#removeOffer(place);
    const lane = this.#laneOf(io);
    lane.offered[kindOf(io)]--;
    this.#leave(lane, 1);
    return io;
  }

  /** Requests of a lane wait no more. */
  #leave(lane: Lane, count: number): void {
    if (count === 0) return;
    this.#held -= count;
    lane.count -= count;
    if (lane.count > 0) return;
    const end = this.#active.pop() as Lane;
    if (end !== lane) this.#active[this.#active.indexOf(lane)] = end;
  }
}

function kindOf(io: BdevIo): Kind {
  return io.type === WRITE ? WRITE_KIND : READ_KIND;
}

function isBefore(lane: Lane, other: Lane, kind: Kind): boolean {
  return (lane.lists[kind].first as BdevIo).arrival < (other.lists[kind].first as BdevIo).arrival;
}

/** Of a queue's own requests, not of what a stacked bdev made of them. */
function isOf(io: BdevIo, queue: Sharer): boolean {
  return io.owner.sharer === queue;
}

/** Whoever asked for it, through whatever stands over the bdev. */
function sharerOf(io: BdevIo): Sharer {
  let top = io;
  while (top.parent !== null) top = top.parent;
  return top.owner.sharer ?? DAEMON_SHARER;
}
