/**
 * Requests on their way between reactors and the thread of a disk in TypeScript: memory that both share, with one ring
 * a reactor. A request has a slot, whose state word says whose it is:
 *
 *     free ──reactor──► submitted ──thread──► running ──thread──► done | failed ──reactor──► free
 *
 * The queue beside the slots holds the numbers of submitted ones in their order. When the thread has died, the main
 * thread takes its place: it fails what was running, and what waited too long.
 *
 * Both sides sleep in their event loops, and wake each other by eventfds, only when the other one said that it sleeps.
 */
import { signalEventFd } from '../../../sys/events.ts';

/** Requests of one reactor that the thread has at once; others wait in the reactor. */
export const SLOTS = 256;
const MASK = SLOTS - 1;

export const SlotState = { free: 0, submitted: 1, running: 2, done: 3, failed: 4 } as const;
const { free: FREE, submitted: SUBMITTED, running: RUNNING, done: DONE, failed: FAILED } = SlotState;

/** Words of the head, which all rings of a disk share. */
const Head = { isThreadAsleep: 0, doorbellFd: 1, isDead: 2 } as const;
/** Words of a ring. The address of its reactor's arena lies behind them. */
const Control = {
  isClaimed: 0,
  wakeFd: 1,
  isArmed: 2,
  completions: 3,
  tail: 4,
  head: 5,
  isLeaving: 6,
  arena: 7,
} as const;
const HEAD_BYTES = 64;
const CONTROL_BYTES = 64;
const ARENA_AT = 32;
const SLOT_INTS = 5;
const SLOT_DOUBLES = 3;
const RING_BYTES = CONTROL_BYTES + SLOTS * (SLOT_INTS * 4 + SLOT_DOUBLES * 8);
const NO_SLOT = -1;

/** What all rings of a disk have in common. */
export class ModuleRings {
  readonly memory: SharedArrayBuffer;
  readonly count: number;
  readonly #head: Int32Array;

  constructor(memory: SharedArrayBuffer) {
    this.memory = memory;
    this.count = (memory.byteLength - HEAD_BYTES) / RING_BYTES;
    this.#head = new Int32Array(memory, 0, HEAD_BYTES / 4);
  }

  /** `doorbellFd` wakes the disk's thread, `wakeFds` the reactors. The caller's own. */
  static create(doorbellFd: number, wakeFds: readonly number[]): ModuleRings {
    const rings = new ModuleRings(new SharedArrayBuffer(HEAD_BYTES + wakeFds.length * RING_BYTES));
    rings.#head[Head.doorbellFd] = doorbellFd;
    for (const [i, fd] of wakeFds.entries()) new ModuleRing(rings.memory, i).wakeFd = fd;
    return rings;
  }

  get doorbellFd(): number {
    return this.#head[Head.doorbellFd] as number;
  }

  /** No thread will ever take a request again. */
  get isDead(): boolean {
    return Atomics.load(this.#head, Head.isDead) === 1;
  }

  die(): void {
    Atomics.store(this.#head, Head.isDead, 1);
  }

  all(): ModuleRing[] {
    return Array.from({ length: this.count }, (_, i) => new ModuleRing(this.memory, i));
  }

  /** A reactor's own ring, or null when all are taken. */
  claim(): ModuleRing | null {
    return this.all().find((ring) => ring.claim()) ?? null;
  }

  /** Reactor: there is something for the thread. */
  ring(): void {
    if (Atomics.compareExchange(this.#head, Head.isThreadAsleep, 1, 0) === 1) signalEventFd(this.doorbellFd);
  }

  /** Thread: it looks at every ring once more after this, and is signalled for what comes later. */
  sleep(): void {
    Atomics.store(this.#head, Head.isThreadAsleep, 1);
  }

  awake(): void {
    Atomics.store(this.#head, Head.isThreadAsleep, 0);
  }
}

export class ModuleRing {
  readonly type: Int32Array;
  readonly iovFirst: Int32Array;
  readonly iovCount: Int32Array;
  readonly offsetBytes: Float64Array;
  readonly lengthBytes: Float64Array;
  /** CLOCK_MONOTONIC when the reactor submitted it. */
  readonly startedNs: Float64Array;
  readonly #control: Int32Array;
  readonly #arena: Float64Array;
  readonly #queue: Int32Array;
  readonly #state: Int32Array;

  constructor(memory: SharedArrayBuffer, index: number) {
    const start = HEAD_BYTES + index * RING_BYTES;
    this.#control = new Int32Array(memory, start, CONTROL_BYTES / 4);
    this.#arena = new Float64Array(memory, start + ARENA_AT, 1);
    const doubles = (nth: number): Float64Array => {
      return new Float64Array(memory, start + CONTROL_BYTES + nth * SLOTS * 8, SLOTS);
    };
    const ints = (nth: number): Int32Array => {
      return new Int32Array(memory, start + CONTROL_BYTES + SLOT_DOUBLES * SLOTS * 8 + nth * SLOTS * 4, SLOTS);
    };
    this.offsetBytes = doubles(0);
    this.lengthBytes = doubles(1);
    this.startedNs = doubles(2);
    this.#queue = ints(0);
    this.#state = ints(1);
    this.type = ints(2);
    this.iovFirst = ints(3);
    this.iovCount = ints(4);
  }

  get wakeFd(): number {
    return this.#control[Control.wakeFd] as number;
  }

  set wakeFd(fd: number) {
    this.#control[Control.wakeFd] = fd;
  }

  claim(): boolean {
    return Atomics.compareExchange(this.#control, Control.isClaimed, 0, 1) === 0;
  }

  /** Nothing is in flight. */
  release(): void {
    Atomics.store(this.#control, Control.isLeaving, 0);
    Atomics.store(this.#control, Control.isClaimed, 0);
  }

  setArena(address: number, capacity: number): void {
    this.#arena[0] = address;
    this.#control[Control.arena] = capacity;
  }

  get arenaAddress(): number {
    return this.#arena[0] as number;
  }

  get arenaCapacity(): number {
    return this.#control[Control.arena] as number;
  }

  /** The bdev goes: what is in flight has less time. */
  leave(): void {
    Atomics.store(this.#control, Control.isLeaving, 1);
  }

  get isLeaving(): boolean {
    return Atomics.load(this.#control, Control.isLeaving) === 1;
  }

  stateOf(slot: number): number {
    return Atomics.load(this.#state, slot);
  }

  // The reactor's side.

  /** A slot whose fields are set. The thread sees it after `publish`. */
  submit(slot: number, position: number): void {
    Atomics.store(this.#state, slot, SUBMITTED);
    this.#queue[position & MASK] = slot;
  }

  /** Position behind the last submitted slot. */
  get tail(): number {
    return Atomics.load(this.#control, Control.tail);
  }

  publish(tail: number): void {
    Atomics.store(this.#control, Control.tail, tail);
  }

  get completions(): number {
    return Atomics.load(this.#control, Control.completions);
  }

  free(slot: number): void {
    Atomics.store(this.#state, slot, FREE);
  }

  arm(): void {
    Atomics.store(this.#control, Control.isArmed, 1);
  }

  disarm(): void {
    Atomics.store(this.#control, Control.isArmed, 0);
  }

  // The side of the thread, and of the main thread when that one is dead.

  /** The oldest submitted slot, running now, or -1. */
  take(): number {
    for (;;) {
      const head = Atomics.load(this.#control, Control.head);
      if (head === Atomics.load(this.#control, Control.tail)) return NO_SLOT;
      const slot = this.#queue[head & MASK] as number;
      Atomics.store(this.#control, Control.head, (head + 1) | 0);
      if (Atomics.compareExchange(this.#state, slot, SUBMITTED, RUNNING) === SUBMITTED) return slot;
    }
  }

  /** The oldest submitted slot, or -1, as it is. */
  peek(): number {
    const head = Atomics.load(this.#control, Control.head);
    return head === Atomics.load(this.#control, Control.tail) ? NO_SLOT : (this.#queue[head & MASK] as number);
  }

  complete(slot: number, isSuccess: boolean): void {
    Atomics.store(this.#state, slot, isSuccess ? DONE : FAILED);
    Atomics.add(this.#control, Control.completions, 1);
    if (Atomics.compareExchange(this.#control, Control.isArmed, 1, 0) === 1) signalEventFd(this.wakeFd);
  }
}
