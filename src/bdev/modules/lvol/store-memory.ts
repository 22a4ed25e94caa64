/**
 * What threads share of a store and of its volumes besides the maps.
 *
 * Whoever has the lock writes to the log and changes maps: the main thread, or a reactor while a batch lasts.
 * Nobody waits for it but by looking again. A cluster goes round: free; ready, when it was zeroed and that is stable;
 * used; going, when nobody will look it up any more but requests may be under way to it; free.
 */
import { assert } from '../../../base/assert.ts';

export const ClusterState = { free: 0, ready: 1, used: 2, going: 3 } as const;

export const NO_CLUSTER = -1;

/** Clusters that are ready at most. */
export const READY_MAX = 128;

const Word = {
  lock: 0,
  /** 1: the log has no room, or could not be written: only the main thread may take the lock. 2: nor can it help. */
  isShut: 1,
  /** Which block of the log is next, and how many it has. */
  logNext: 2,
  logPages: 3,
  logPage: 4,
  generationLow: 5,
  generationHigh: 6,
  /** Clusters that are not used. */
  available: 7,
  going: 8,
  holes: 9,
  readyHead: 10,
  readyTail: 11,
  /** The main thread was told to look. */
  isTold: 12,
  /** Requests that failed because there was no cluster. */
  refusals: 13,
  count: 16,
} as const;

const HEAD_BYTES = (Word.count + READY_MAX) * 4;

export class StoreMemory {
  readonly buffer: SharedArrayBuffer;
  readonly states: Uint8Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #ready: Int32Array<SharedArrayBuffer>;

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer, 0, Word.count);
    this.#ready = new Int32Array(buffer, Word.count * 4, READY_MAX);
    this.states = new Uint8Array(buffer, HEAD_BYTES);
  }

  /** All clusters are free. */
  static create(clusterCount: number): StoreMemory {
    const memory = new StoreMemory(new SharedArrayBuffer(HEAD_BYTES + clusterCount));
    memory.reset();
    return memory;
  }

  /** As it was created: nobody has a cluster. */
  reset(): void {
    this.#words.fill(0);
    this.#words[Word.available] = this.states.length;
    this.#words[Word.isShut] = 1;
    this.states.fill(ClusterState.free);
  }

  /** Of reactors; false: not now. */
  tryLock(): boolean {
    if (this.isShut || Atomics.compareExchange(this.#words, Word.lock, 0, 1) !== 0) return false;
    if (!this.isShut) return true;
    this.unlock();
    return false;
  }

  /** Of the main thread. */
  tryMainLock(): boolean {
    return Atomics.compareExchange(this.#words, Word.lock, 0, 1) === 0;
  }

  unlock(): void {
    const before = Atomics.exchange(this.#words, Word.lock, 0);
    assert(before === 1, 'who unlocks has the lock');
  }

  get isShut(): boolean {
    return Atomics.load(this.#words, Word.isShut) !== 0;
  }

  shut(): void {
    Atomics.store(this.#words, Word.isShut, 1);
  }

  /** The disk under it does not take metadata: requests that need it fail until it does. */
  get isBroken(): boolean {
    return Atomics.load(this.#words, Word.isShut) === 2;
  }

  breakDown(): void {
    Atomics.store(this.#words, Word.isShut, 2);
  }

  /** A new log, which is empty. */
  openLog(generation: number, logPage: number, logPages: number): void {
    const words = this.#words;
    words[Word.generationLow] = generation % 2 ** 31;
    words[Word.generationHigh] = Math.floor(generation / 2 ** 31);
    words[Word.logPage] = logPage;
    words[Word.logPages] = logPages;
    words[Word.logNext] = 0;
    Atomics.store(words, Word.isShut, 0);
  }

  get generation(): number {
    return (this.#words[Word.generationHigh] as number) * 2 ** 31 + (this.#words[Word.generationLow] as number);
  }

  /** Number of the next block in its log. */
  get logSequence(): number {
    return this.#words[Word.logNext] as number;
  }

  get hasLogRoom(): boolean {
    return this.logSequence < (this.#words[Word.logPages] as number);
  }

  /** Where the next block is. */
  get nextLogPage(): number {
    return (this.#words[Word.logPage] as number) + this.logSequence;
  }

  /** It is written. */
  logWritten(): void {
    this.#words[Word.logNext] = this.logSequence + 1;
  }

  /** Clusters that are free, are about to be, or are ready. */
  get available(): number {
    return Atomics.load(this.#words, Word.available);
  }

  get going(): number {
    return Atomics.load(this.#words, Word.going);
  }

  get holes(): number {
    return Atomics.load(this.#words, Word.holes);
  }

  addHoles(count: number): void {
    Atomics.add(this.#words, Word.holes, count);
  }

  get readyCount(): number {
    return (Atomics.load(this.#words, Word.readyTail) - Atomics.load(this.#words, Word.readyHead)) | 0;
  }

  /** Main thread: a cluster that is zeroed, which is stable. */
  putReady(cluster: number): void {
    const tail = Atomics.load(this.#words, Word.readyTail);
    assert(this.readyCount < READY_MAX, 'there is room for a cluster that is ready');
    this.states[cluster] = ClusterState.ready;
    this.#ready[(tail >>> 0) % READY_MAX] = cluster;
    Atomics.store(this.#words, Word.readyTail, (tail + 1) | 0);
  }

  /** With the lock. `NO_CLUSTER` when none is ready. It counts as used from now on. */
  takeReady(): number {
    if (this.readyCount === 0) return NO_CLUSTER;
    const head = Atomics.load(this.#words, Word.readyHead);
    const cluster = this.#ready[(head >>> 0) % READY_MAX] as number;
    Atomics.store(this.#words, Word.readyHead, (head + 1) | 0);
    this.setUsed(cluster);
    return cluster;
  }

  setUsed(cluster: number): void {
    if (this.states[cluster] === ClusterState.used) return;
    if (this.states[cluster] === ClusterState.going) Atomics.sub(this.#words, Word.going, 1);
    this.states[cluster] = ClusterState.used;
    Atomics.sub(this.#words, Word.available, 1);
  }

  /** Nobody has it any more. */
  setGoing(cluster: number): void {
    assert(this.states[cluster] === ClusterState.used, 'a cluster that goes was used');
    this.states[cluster] = ClusterState.going;
    Atomics.add(this.#words, Word.going, 1);
    Atomics.add(this.#words, Word.available, 1);
  }

  /** No request is under way to it. */
  setFree(cluster: number): void {
    assert(this.states[cluster] === ClusterState.going, 'a cluster that is free was going');
    this.states[cluster] = ClusterState.free;
    Atomics.sub(this.#words, Word.going, 1);
  }

  /** True for whoever is to tell the main thread. */
  tell(): boolean {
    return Atomics.exchange(this.#words, Word.isTold, 1) === 0;
  }

  /** The main thread looks. */
  told(): void {
    Atomics.store(this.#words, Word.isTold, 0);
  }

  get refusals(): number {
    return Atomics.load(this.#words, Word.refusals);
  }

  addRefusal(): void {
    Atomics.add(this.#words, Word.refusals, 1);
  }
}

const VolumeWord = {
  id: 0,
  isReadonly: 1,
  isThin: 2,
  hasParent: 3,
  /** Odd: channels hold back what comes, and count themselves in `held` once nothing of theirs is under way. */
  hold: 4,
  held: 5,
  channels: 6,
  /** It has given clusters back, to which requests may be under way. */
  hasFreed: 7,
  count: 8,
} as const;

export interface VolumeFacts {
  readonly id: number;
  readonly isReadonly: boolean;
  readonly isThin: boolean;
  readonly hasParent: boolean;
}

export class VolumeMemory {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(buffer = new SharedArrayBuffer(VolumeWord.count * 4)) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer);
  }

  set({ id, isReadonly, isThin, hasParent }: VolumeFacts): void {
    Atomics.store(this.#words, VolumeWord.id, id);
    Atomics.store(this.#words, VolumeWord.isReadonly, isReadonly ? 1 : 0);
    Atomics.store(this.#words, VolumeWord.isThin, isThin ? 1 : 0);
    Atomics.store(this.#words, VolumeWord.hasParent, hasParent ? 1 : 0);
  }

  get id(): number {
    return Atomics.load(this.#words, VolumeWord.id);
  }

  get isReadonly(): boolean {
    return Atomics.load(this.#words, VolumeWord.isReadonly) === 1;
  }

  get isThin(): boolean {
    return Atomics.load(this.#words, VolumeWord.isThin) === 1;
  }

  get hasParent(): boolean {
    return Atomics.load(this.#words, VolumeWord.hasParent) === 1;
  }

  /** Channels are to hold back what comes; they look when they are told of a change. */
  get isHeld(): boolean {
    return (Atomics.load(this.#words, VolumeWord.hold) & 1) === 1;
  }

  hold(): void {
    Atomics.store(this.#words, VolumeWord.held, 0);
    Atomics.add(this.#words, VolumeWord.hold, 1);
  }

  letGo(): void {
    Atomics.add(this.#words, VolumeWord.hold, 1);
  }

  get isQuiet(): boolean {
    return Atomics.load(this.#words, VolumeWord.held) >= Atomics.load(this.#words, VolumeWord.channels);
  }

  /** A channel holds everything back, and nothing of it is under way; or it does not any more. */
  addHeld(count: 1 | -1): void {
    Atomics.add(this.#words, VolumeWord.held, count);
  }

  addChannel(count: 1 | -1): void {
    Atomics.add(this.#words, VolumeWord.channels, count);
  }

  freed(): void {
    Atomics.store(this.#words, VolumeWord.hasFreed, 1);
  }

  /** True once after something was. */
  takeFreed(): boolean {
    return Atomics.exchange(this.#words, VolumeWord.hasFreed, 0) === 1;
  }
}
