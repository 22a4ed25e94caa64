/**
 * What the reactors know of the paths to a subsystem: a table in shared memory. The main thread connects and reconnects
 * admin queues and writes what came of it; channels read it and connect their own queues, and say when one broke. Both
 * sides wait for changes without polling (`Atomics.waitAsync`).
 */

export const PATHS_MAX = 8;
/** Namespaces whose access state has a place. */
export const NAMESPACES_MAX = 64;

/** `failing`: requests are not held any more. `gone`: it was taken away. */
export const PathState = { gone: 0, down: 1, up: 2, failing: 3 } as const;
export type PathState = (typeof PathState)[keyof typeof PathState];

/** Asymmetric namespace access states (NVMe base 2.0 §8.1.3). */
export const Access = { optimized: 1, nonOptimized: 2, inaccessible: 3, persistentLoss: 4, change: 15 } as const;

const ROW_WORDS = 48 + NAMESPACES_MAX;
/** Words before the rows: changes by the main thread, faults found by channels. */
const CHANGES = 0;
const FAULTS = 1;
const ROWS_AT = 2;
const ADDRESS_BYTES_MAX = 48;
const QUEUE_WORDS = 4;
/** Queue identifiers that can be given: 1 to this. */
export const QUEUES_MAX = QUEUE_WORDS * 32 - 1;

/** Words of a row. */
const Word = {
  state: 0,
  /** Counts associations: each time an admin queue was connected. */
  association: 1,
  controllerId: 2,
  /** I/O queues that the controller granted, and entries of one. */
  queues: 3,
  entries: 4,
  capsuleDataBytes: 5,
  /** 0: no limit. */
  transferBytesMax: 6,
  port: 7,
  addressBytes: 8,
  /** The association that a channel found broken. */
  broken: 9,
  /** How often channels found the access state other than it stands here. */
  accessDoubts: 10,
  /** The association of which a channel got no queue. */
  short: 11,
  usedQueues: 12,
  address: 16,
  access: 48,
} as const;

/** What the main thread knows of a connected path. */
export interface PathFacts {
  readonly controllerId: number;
  readonly queues: number;
  readonly entries: number;
  readonly capsuleDataBytes: number;
  readonly transferBytesMax: number;
}

export class PathTable {
  readonly memory: SharedArrayBuffer;
  readonly #words: Int32Array<SharedArrayBuffer>;

  constructor(memory = new SharedArrayBuffer((ROWS_AT + PATHS_MAX * ROW_WORDS) * 4)) {
    this.memory = memory;
    this.#words = new Int32Array(memory);
  }

  /** Changes with everything that the main thread writes. */
  get changes(): number {
    return Atomics.load(this.#words, CHANGES);
  }

  /** Resolves at the next change, at once when `changes` is not what it is any more. */
  changed(changes: number): Promise<unknown> {
    return Promise.resolve(Atomics.waitAsync(this.#words, CHANGES, changes).value);
  }

  get faults(): number {
    return Atomics.load(this.#words, FAULTS);
  }

  faulted(faults: number): Promise<unknown> {
    return Promise.resolve(Atomics.waitAsync(this.#words, FAULTS, faults).value);
  }

  state(path: number): PathState {
    return this.#get(path, Word.state) as PathState;
  }

  association(path: number): number {
    return this.#get(path, Word.association);
  }

  controllerId(path: number): number {
    return this.#get(path, Word.controllerId);
  }

  entries(path: number): number {
    return this.#get(path, Word.entries);
  }

  capsuleDataBytes(path: number): number {
    return this.#get(path, Word.capsuleDataBytes);
  }

  transferBytesMax(path: number): number {
    return this.#get(path, Word.transferBytesMax);
  }

  port(path: number): number {
    return this.#get(path, Word.port);
  }

  address(path: number): string {
    const at = (rowOf(path) + Word.address) * 4;
    const bytes = new Uint8Array(this.memory, at, this.#get(path, Word.addressBytes));
    return Buffer.from(bytes).toString('latin1');
  }

  access(path: number, namespace: number): number {
    return this.#get(path, Word.access + namespace);
  }

  /** A free queue identifier of an association, or 0. */
  takeQueue(path: number): number {
    const queues = this.#get(path, Word.queues);
    for (let id = 1; id <= queues; id++) {
      const word = rowOf(path) + Word.usedQueues + (id >> 5);
      const bit = 1 << (id & 31);
      if ((Atomics.or(this.#words, word, bit) & bit) === 0) return id;
    }
    return 0;
  }

  releaseQueue(path: number, association: number, id: number): void {
    if (this.association(path) !== association) return;
    Atomics.and(this.#words, rowOf(path) + Word.usedQueues + (id >> 5), ~(1 << (id & 31)));
  }

  /** Said by a channel: a queue of this association broke. */
  reportBroken(path: number, association: number): void {
    this.#set(path, Word.broken, association);
    this.#announce(FAULTS);
  }

  broken(path: number): number {
    return this.#get(path, Word.broken);
  }

  /** Said by a channel: a command was refused because of the path's access state. */
  doubtAccess(path: number): void {
    Atomics.add(this.#words, rowOf(path) + Word.accessDoubts, 1);
    this.#announce(FAULTS);
  }

  /** Said by a channel: all queues of this association are in use. */
  reportShort(path: number, association: number): void {
    if (this.short(path) === association) return;
    this.#set(path, Word.short, association);
    this.#announce(FAULTS);
  }

  short(path: number): number {
    return this.#get(path, Word.short);
  }

  queues(path: number): number {
    return this.#get(path, Word.queues);
  }

  accessDoubts(path: number): number {
    return this.#get(path, Word.accessDoubts);
  }

  // The main thread's.

  setAddress(path: number, address: string, port: number): void {
    const bytes = Buffer.from(address, 'latin1').subarray(0, ADDRESS_BYTES_MAX);
    new Uint8Array(this.memory).set(bytes, (rowOf(path) + Word.address) * 4);
    this.#set(path, Word.addressBytes, bytes.length);
    this.#set(path, Word.port, port);
  }

  /** A new association: no queue of it is in use. */
  setUp(path: number, facts: PathFacts): void {
    this.#set(path, Word.controllerId, facts.controllerId);
    this.#set(path, Word.queues, Math.min(facts.queues, QUEUES_MAX));
    this.#set(path, Word.entries, facts.entries);
    this.#set(path, Word.capsuleDataBytes, facts.capsuleDataBytes);
    this.#set(path, Word.transferBytesMax, facts.transferBytesMax);
    for (let i = 0; i < QUEUE_WORDS; i++) this.#set(path, Word.usedQueues + i, 0);
    this.#set(path, Word.association, this.association(path) + 1);
    this.setState(path, PathState.up);
  }

  setState(path: number, state: PathState): void {
    this.#set(path, Word.state, state);
    this.announce();
  }

  setAccess(path: number, namespace: number, access: number): void {
    if (namespace < NAMESPACES_MAX) this.#set(path, Word.access + namespace, access);
  }

  announce(): void {
    this.#announce(CHANGES);
  }

  /** Wakes whoever waits for faults. */
  announceFault(): void {
    this.#announce(FAULTS);
  }

  #announce(word: number): void {
    Atomics.add(this.#words, word, 1);
    Atomics.notify(this.#words, word);
  }

  #get(path: number, word: number): number {
    return Atomics.load(this.#words, rowOf(path) + word);
  }

  #set(path: number, word: number, value: number): void {
    Atomics.store(this.#words, rowOf(path) + word, value);
  }
}

function rowOf(path: number): number {
  return ROWS_AT + path * ROW_WORDS;
}
