/**
 * Limits on what a bdev may do in a second, in memory that all reactors share. Each limit has a store of units, which
 * time fills and requests empty; while a store is empty nothing of its kind is let through. A store holds what comes in
 * the time of a burst, and one request may take more than is there, which those after it wait for. Who is let through
 * next is in fair-shares.ts; one lock is for both.
 */
import { assert } from '../base/assert.ts';
import { clockNs } from '../sys/thread.ts';

export interface RateLimits {
  /** Reads and writes a second; 0: no limit. So for the others, in MiB. */
  readonly rwIos: number;
  readonly rwMebibytes: number;
  readonly readMebibytes: number;
  readonly writeMebibytes: number;
  /** How long nothing may have been done for all of it to be let through at once. */
  readonly burstMs: number;
}

export const NO_LIMITS: RateLimits = {
  rwIos: 0,
  rwMebibytes: 0,
  readMebibytes: 0,
  writeMebibytes: 0,
  burstMs: 100,
};

const LIMITS = 4;
const IOS = 0;
const SECTORS = 1;
const READ_LIMIT = 2;
const WRITE_LIMIT = 3;
/** Unit of the limits in bytes. */
const SECTOR_BYTES = 512;
const SECTORS_PER_MIB = 2048;
const NS_PER_S = 1e9;
/** Words. */
const LOCK = 0;
const IS_ON = 1;
const INTS_BYTES = 8;
/** Doubles behind them, by limit: units a second, units there are, units there can be. */
const RATE = 0;
const STORE = LIMITS;
const MOST = 2 * LIMITS;
const LAST_FILLED = 3 * LIMITS;
export const STORES_BYTES = INTS_BYTES + (LAST_FILLED + 1) * 8;
/** Whoever has the lock keeps it for a microsecond, unless the system takes its core away. */
const TRIES = 100;
const PAUSE_MS = 1;

export class RateStores {
  readonly #ints: Int32Array;
  readonly #doubles: Float64Array;
  readonly #clock: () => number;

  /** `clock`: CLOCK_MONOTONIC in nanoseconds. */
  constructor(memory: SharedArrayBuffer, clock: () => number = clockNs) {
    assert(memory.byteLength >= STORES_BYTES, 'limits have their size');
    this.#clock = clock;
    this.#ints = new Int32Array(memory, 0, INTS_BYTES / 4);
    this.#doubles = new Float64Array(memory, INTS_BYTES, LAST_FILLED + 1);
  }

  /** Main thread. Stores are full then. */
  set(limits: RateLimits): void {
    const { rwIos, rwMebibytes, readMebibytes, writeMebibytes, burstMs } = limits;
    const mebibytes = [rwMebibytes, readMebibytes, writeMebibytes];
    const rates = [rwIos, ...mebibytes.map((rate) => rate * SECTORS_PER_MIB)];
    this.lock();
    for (const [i, rate] of rates.entries()) {
      const most = Math.max(1, Math.floor((rate * burstMs) / 1000));
      this.#doubles[RATE + i] = rate;
      this.#doubles[MOST + i] = most;
      this.#doubles[STORE + i] = most;
    }
    this.#doubles[LAST_FILLED] = this.#clock();
    Atomics.store(this.#ints, IS_ON, rates.some((rate) => rate > 0) ? 1 : 0);
    this.unlock();
  }

  /** There are limits. */
  get isOn(): boolean {
    return this.#ints[IS_ON] === 1;
  }

  // ---- lock ---------------------------------------------------------------------------------------------------------

  tryLock(): boolean {
    return Atomics.compareExchange(this.#ints, LOCK, 0, 1) === 0;
  }

  /** For what is rare: the thread may sleep. */
  lock(): void {
    for (let tries = 0; !this.tryLock(); tries++) {
      if (tries > TRIES) Atomics.wait(this.#ints, LOCK, 1, PAUSE_MS);
    }
  }

  unlock(): void {
    Atomics.store(this.#ints, LOCK, 0);
  }

  // ---- with the lock ------------------------------------------------------------------------------------------------

  /** Adds what came since the last time. */
  fill(): void {
    const doubles = this.#doubles;
    const now = this.#clock();
    const elapsedNs = now - (doubles[LAST_FILLED] as number);
    // Another reactor may have read its clock later and been here sooner.
    if (elapsedNs <= 0) return;
    doubles[LAST_FILLED] = now;
    for (let i = 0; i < LIMITS; i++) {
      const units = (doubles[STORE + i] as number) + ((doubles[RATE + i] as number) * elapsedNs) / NS_PER_S;
      const most = doubles[MOST + i] as number;
      // A part of a unit is kept, however few a store holds.
      doubles[STORE + i] = units > most ? most + (units % 1) : units;
    }
  }

  /** Whether a read or write can be let through. */
  isOpen(isWrite: boolean): boolean {
    return this.#has(IOS) && this.#has(SECTORS) && this.#has(isWrite ? WRITE_LIMIT : READ_LIMIT);
  }

  spend(isWrite: boolean, sectors: number): void {
    const doubles = this.#doubles;
    const own = STORE + (isWrite ? WRITE_LIMIT : READ_LIMIT);
    doubles[STORE + IOS] = (doubles[STORE + IOS] as number) - 1;
    doubles[STORE + SECTORS] = (doubles[STORE + SECTORS] as number) - sectors;
    doubles[own] = (doubles[own] as number) - sectors;
  }

  /** How long a request fills the limit that it uses up most, in seconds; 0: there is none for it. */
  secondsOf(isWrite: boolean, sectors: number): number {
    const ofBoth = Math.max(this.#seconds(IOS, 1), this.#seconds(SECTORS, sectors));
    return Math.max(ofBoth, this.#seconds(isWrite ? WRITE_LIMIT : READ_LIMIT, sectors));
  }

  #seconds(limit: number, units: number): number {
    const rate = this.#doubles[RATE + limit] as number;
    return rate === 0 ? 0 : units / rate;
  }

  #has(limit: number): boolean {
    return this.#doubles[RATE + limit] === 0 || (this.#doubles[STORE + limit] as number) >= 1;
  }
}

/** As limits count them. */
export function sectorsOf(lengthBytes: number): number {
  return Math.ceil(lengthBytes / SECTOR_BYTES);
}
