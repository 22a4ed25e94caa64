/**
 * Limits on what a bdev may do in a second, in memory that all reactors share. Each limit has a store of units, which
 * time fills and requests empty; while a store is empty nothing of its kind is let through. A store holds what comes in
 * the time of a burst, and one request may take more than is there, which those after it wait for.
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
const READ_LIMIT = 2;
const WRITE_LIMIT = 3;
/** Unit of the limits in bytes. */
const SECTOR_BYTES = 512;
const SECTORS_PER_MIB = 2048;
const SLICE_NS = 500_000;
const NS_PER_S = 1e9;
const UNITS_MAX = 2 ** 30;
/** Words: who fills the stores, and what is in them. Doubles behind them, by limit: rate, rest below a unit, most. */
const LOCK = 0;
const STORE = 1;
const INTS_BYTES = 32;
const RATE = 0;
const REST = LIMITS;
const MOST = 2 * LIMITS;
const LAST_FILLED = 3 * LIMITS;
const BYTES = INTS_BYTES + (LAST_FILLED + 1) * 8;

export class RateGate {
  readonly memory: SharedArrayBuffer;
  readonly #ints: Int32Array;
  readonly #doubles: Float64Array;

  readonly #clock: () => number;

  /** `clock`: CLOCK_MONOTONIC in nanoseconds. */
  constructor(memory = new SharedArrayBuffer(BYTES), clock: () => number = clockNs) {
    assert(memory.byteLength === BYTES, 'limits have their size');
    this.memory = memory;
    this.#clock = clock;
    this.#ints = new Int32Array(memory, 0, INTS_BYTES / 4);
    this.#doubles = new Float64Array(memory, INTS_BYTES);
  }

  /** Main thread. */
  set(limits: RateLimits): void {
    const { rwIos, rwMebibytes, readMebibytes, writeMebibytes, burstMs } = limits;
    const mebibytes = [rwMebibytes, readMebibytes, writeMebibytes];
    const rates = [rwIos, ...mebibytes.map((rate) => rate * SECTORS_PER_MIB)];
    for (const [i, rate] of rates.entries()) {
      const most = Math.min(UNITS_MAX, Math.max(1, Math.floor((rate * burstMs) / 1000)));
      this.#doubles[RATE + i] = rate;
      this.#doubles[MOST + i] = most;
      Atomics.store(this.#ints, STORE + i, most);
    }
    this.#doubles[LAST_FILLED] = this.#clock();
  }

  /** Lets a read or write through and counts it; false: not yet. */
  take(isWrite: boolean, lengthBytes: number): boolean {
    this.#fill();
    const own = isWrite ? WRITE_LIMIT : READ_LIMIT;
    if (!this.#isOpen(0) || !this.#isOpen(1) || !this.#isOpen(own)) return false;
    const sectors = Math.ceil(lengthBytes / SECTOR_BYTES);
    this.#spend(0, 1);
    this.#spend(1, sectors);
    this.#spend(own, sectors);
    return true;
  }

  #isOpen(limit: number): boolean {
    return this.#doubles[RATE + limit] === 0 || Atomics.load(this.#ints, STORE + limit) > 0;
  }

  #spend(limit: number, units: number): void {
    if (this.#doubles[RATE + limit] !== 0) Atomics.sub(this.#ints, STORE + limit, units);
  }

  /** Whoever comes first in a slice of time does it for all. */
  #fill(): void {
    const now = this.#clock();
    if (now - (this.#doubles[LAST_FILLED] as number) < SLICE_NS) return;
    if (Atomics.compareExchange(this.#ints, LOCK, 0, 1) !== 0) return;
    const elapsedS = Math.max(0, now - (this.#doubles[LAST_FILLED] as number)) / NS_PER_S;
    this.#doubles[LAST_FILLED] = now;
    for (let i = 0; i < LIMITS; i++) {
      const grown = (this.#doubles[REST + i] as number) + (this.#doubles[RATE + i] as number) * elapsedS;
      const units = Math.min(UNITS_MAX, Math.floor(grown));
      this.#doubles[REST + i] = grown - Math.floor(grown);
      const over = Atomics.add(this.#ints, STORE + i, units) + units - (this.#doubles[MOST + i] as number);
      if (over > 0) Atomics.sub(this.#ints, STORE + i, over);
    }
    Atomics.store(this.#ints, LOCK, 0);
  }
}
