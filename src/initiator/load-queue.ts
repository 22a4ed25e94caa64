/** The load generator's hot loop on one queue: `depth` slots, each a prepared chain that is exposed again and again. */
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import { clockNs } from '../sys/thread.ts';
import type { BlockStamps } from './block-stamps.ts';
import type { DriverQueue } from './driver-queue.ts';
import { DescriptorFlag, type DriverRing, NO_HEAD, type Segment } from './driver-ring.ts';
import type { LatencyHistogram } from './latency-histogram.ts';
import type { LoadProtocol } from './load-protocol.ts';
import type { OwnedMemory } from './owned-memory.ts';

export interface LoadQueueOptions {
  readonly protocol: LoadProtocol;
  readonly depth: number;
  readonly blockBytes: number;
  readonly blockCount: number;
  readonly isSequential: boolean;
  readonly writePercent: number;
  readonly isIndirect: boolean;
  readonly stamps: BlockStamps | null;
  readonly histogram: LatencyHistogram | null;
}

/** Counters that the queues share. Plain numbers in one object of one shape. */
export interface LoadState {
  /** Requests that may still be submitted. */
  remaining: number;
  ios: number;
  writes: number;
  errors: number;
  mismatches: number;
  firstMismatch: string | null;
  kicks: number;
  nowNs: number;
  cursor: number;
  random: number;
}

/** A slot's control block: header at 0, indirect table at 64, answer at 128; lines that different sides write apart. */
const SLOT_BYTES = 256;
const SLOT_WORDS = SLOT_BYTES / 4;
const TABLE_OFFSET = 64;
const ANSWER_OFFSET = 128;
const CHAIN_DESCRIPTORS = 3;
const DESCRIPTOR_BYTES = 16;
const NO_SLOT = -1;
const TWO_32 = 2 ** 32;
const PAGE_BYTES = 4096;
const ROUNDS_PER_CLOCK = 256;
/** Completions between two refusals of calls: with EVENT_IDX one holds for half a turn of the index. */
const REFUSE_EVERY = 0x4000;
const NEXT_SHIFT = 16;
/** Index of the last entry of a slot's table. */
const TABLE_LAST = 2;

export class LoadQueue {
  inFlight = 0;
  readonly #queue: DriverQueue;
  readonly #ring: DriverRing;
  readonly #state: LoadState;
  readonly #memory: OwnedMemory;
  readonly #options: LoadQueueOptions;
  readonly #protocol: LoadProtocol;
  readonly #controlGpa: number;
  readonly #dataGpa: number;
  readonly #controlWords: Uint32Array;
  readonly #controlBytes: Uint8Array;
  readonly #dataWords: Uint32Array;
  /** The slots' indirect tables, or null: their descriptors are the ring's. */
  readonly #tables: Uint32Array | null;
  /** Where each slot's second and third descriptor are. */
  readonly #second: Int32Array;
  readonly #third: Int32Array;
  /** 1 where a slot's descriptors are those of a write. */
  readonly #isLaidOutForWrite: Uint8Array;
  readonly #headOfSlot: Int32Array;
  readonly #slotOfHead: Int32Array;
  readonly #submittedNs: Float64Array;
  readonly #blockOfSlot: Float64Array;
  /** Generation that a slot's write carries; 0 for a read. */
  readonly #generationOfSlot: Uint32Array;
  readonly #isBusy: Uint8Array;
  /** Rounds between two readings of the clock: without latencies it is only for the end of the run. */
  readonly #clockEvery: number;
  #untilClock = 0;
  #doneSinceRefused = 0;

  constructor(memory: OwnedMemory, queue: DriverQueue, state: LoadState, options: LoadQueueOptions) {
    const { depth, blockBytes, isIndirect } = options;
    const { ring } = queue;
    const needed = depth * (isIndirect ? 1 : CHAIN_DESCRIPTORS);
    if (needed > ring.freeCount) {
      throw new TargetError(
        'ENOSPC',
        `depth ${depth} needs ${needed} descriptors of queue ${queue.index}: make it larger`,
      );
    }
    this.#queue = queue;
    this.#ring = ring;
    this.#state = state;
    this.#memory = memory;
    this.#options = options;
    this.#clockEvery = options.histogram === null ? ROUNDS_PER_CLOCK : 1;
    this.#protocol = options.protocol;
    this.#controlGpa = memory.allocate(depth * SLOT_BYTES, { alignment: SLOT_BYTES });
    this.#dataGpa = memory.allocate(depth * blockBytes, { alignment: PAGE_BYTES });
    this.#controlWords = memory.uint32s(this.#controlGpa, depth * SLOT_WORDS);
    this.#controlBytes = memory.bytes(this.#controlGpa, depth * SLOT_BYTES);
    this.#dataWords = memory.uint32s(this.#dataGpa, (depth * blockBytes) / 4);
    this.#tables = isIndirect ? this.#controlWords : null;
    this.#second = new Int32Array(depth);
    this.#third = new Int32Array(depth);
    this.#isLaidOutForWrite = new Uint8Array(depth);
    this.#headOfSlot = new Int32Array(depth);
    this.#slotOfHead = new Int32Array(ring.size).fill(NO_SLOT);
    this.#submittedNs = new Float64Array(depth);
    this.#blockOfSlot = new Float64Array(depth);
    this.#generationOfSlot = new Uint32Array(depth);
    this.#isBusy = new Uint8Array(depth);
    for (let slot = 0; slot < depth; slot++) this.#buildChain(slot);
  }

  /** Takes the queue over and submits the first requests. */
  begin(): void {
    assert(this.inFlight === 0 && this.#queue.pendingCount === 0, 'nothing is in flight when a run begins');
    this.#queue.pause();
    this.#refuseCalls();
    let submitted = 0;
    for (let slot = 0; slot < this.#options.depth; slot++) if (this.#submit(slot)) submitted++;
    if (submitted > 0) this.#publish();
  }

  /** Completes what there is and submits as many again. Returns how many were completed. */
  poll(): number {
    const ring = this.#ring;
    let done = 0;
    let submitted = 0;
    for (;;) {
      const head = ring.popUsed();
      if (head === NO_HEAD) break;
      if (done++ === 0 && --this.#untilClock <= 0) this.#readClock();
      const slot = this.#complete(head);
      if (this.#submit(slot)) submitted++;
    }
    if (submitted > 0) this.#publish();
    this.#doneSinceRefused += done;
    if (this.#doneSinceRefused >= REFUSE_EVERY) this.#refuseCalls();
    return done;
  }

  /** Gives the queue back to promises. */
  end(): void {
    this.#queue.resume();
  }

  describe(): string {
    return `queue ${this.#queue.index}: ${this.inFlight} in flight, ${this.#queue.describe()}`;
  }

  close(): void {
    assert(this.inFlight === 0, 'nothing is in flight when a load ends');
    for (const head of this.#headOfSlot) this.#ring.freeChain(head);
    this.#memory.release(this.#controlGpa);
    this.#memory.release(this.#dataGpa);
  }

  #buildChain(slot: number): void {
    const { blockBytes, isIndirect } = this.#options;
    const { headerBytes, answerBytes } = this.#protocol;
    const control = this.#controlGpa + slot * SLOT_BYTES;
    const segments: Segment[] = [
      { gpa: control, lengthBytes: headerBytes, isWritable: false },
      { gpa: this.#dataGpa + slot * blockBytes, lengthBytes: blockBytes, isWritable: true },
      { gpa: control + ANSWER_OFFSET, lengthBytes: answerBytes, isWritable: true },
    ];
    const ring = this.#ring;
    const head = isIndirect ? ring.addIndirect(segments, control + TABLE_OFFSET) : ring.addChain(segments);
    assert(head !== NO_HEAD, 'free descriptors were counted before');
    this.#headOfSlot[slot] = head;
    this.#slotOfHead[head] = slot;
    const table = (slot * SLOT_BYTES + TABLE_OFFSET) / DESCRIPTOR_BYTES;
    const second = isIndirect ? table + 1 : this.#nextOf(head);
    this.#second[slot] = second;
    this.#third[slot] = isIndirect ? table + 2 : this.#nextOf(second);
    this.#protocol.prepare(this.#controlBytes, slot * SLOT_BYTES);
    this.#layOut(slot, false);
  }

  #nextOf(index: number): number {
    return (this.#ring.descriptors[index * 4 + 3] as number) >>> NEXT_SHIFT;
  }

  /** Writes the descriptors behind the header: data and answer, in the order that the direction asks for. */
  #layOut(slot: number, isWrite: boolean): void {
    const { blockBytes } = this.#options;
    const { answerBytes, isAnswerFirst } = this.#protocol;
    const second = this.#second[slot] as number;
    const third = this.#third[slot] as number;
    const isSwapped = isAnswerFirst && !isWrite;
    const dataFlag = isWrite ? 0 : DescriptorFlag.write;
    const data = this.#dataGpa + slot * blockBytes;
    const answer = this.#controlGpa + slot * SLOT_BYTES + ANSWER_OFFSET;
    if (isSwapped) {
      this.#write(second, answer, answerBytes, DescriptorFlag.write + DescriptorFlag.next, third);
      this.#write(third, data, blockBytes, dataFlag, 0);
    } else {
      this.#write(second, data, blockBytes, dataFlag + DescriptorFlag.next, third);
      this.#write(third, answer, answerBytes, DescriptorFlag.write, 0);
    }
    this.#isLaidOutForWrite[slot] = isWrite ? 1 : 0;
  }

  #write(index: number, gpa: number, lengthBytes: number, flags: number, third: number): void {
    const tables = this.#tables;
    if (tables === null) this.#ring.writeDescriptor(index, gpa, lengthBytes, flags, third);
    else this.#ring.writeEntry(tables, index, gpa, lengthBytes, flags, TABLE_LAST);
  }

  /** Takes a completed chain apart; returns its slot. */
  #complete(head: number): number {
    const state = this.#state;
    const slot = head < this.#slotOfHead.length ? (this.#slotOfHead[head] as number) : NO_SLOT;
    if (slot === NO_SLOT || this.#isBusy[slot] === 0) {
      throw new TargetError(
        'RING_USED_ID',
        `queue ${this.#queue.index}: the device completed head ${head}, which is not in flight`,
      );
    }
    this.#isBusy[slot] = 0;
    this.inFlight--;
    state.ios++;
    const { stamps, histogram } = this.#options;
    if (histogram !== null) histogram.record(state.nowNs - (this.#submittedNs[slot] as number));
    const isOk = this.#protocol.isGood(this.#controlBytes, slot * SLOT_BYTES + ANSWER_OFFSET);
    if (!isOk) state.errors++;
    if (stamps !== null) this.#verify(slot, isOk, stamps);
    return slot;
  }

  #submit(slot: number): boolean {
    const state = this.#state;
    if (state.remaining === 0) return false;
    state.remaining--;
    const { stamps, writePercent } = this.#options;
    const block = stamps === null ? this.#nextBlock() : this.#claimBlock(stamps);
    const isWrite = writePercent > 0 && (this.#random() >>> 0) % 100 < writePercent;
    this.#blockOfSlot[slot] = block;
    const control = slot * SLOT_BYTES;
    this.#protocol.encode(this.#controlBytes, control, block, isWrite);
    this.#protocol.spoil(this.#controlBytes, control + ANSWER_OFFSET);
    if ((this.#isLaidOutForWrite[slot] === 1) !== isWrite) this.#layOut(slot, isWrite);
    if (isWrite) state.writes++;
    if (stamps !== null) this.#prepareStamp(slot, block, isWrite, stamps);
    this.#submittedNs[slot] = state.nowNs;
    this.#isBusy[slot] = 1;
    this.inFlight++;
    this.#ring.expose(this.#headOfSlot[slot] as number);
    return true;
  }

  #readClock(): void {
    this.#state.nowNs = clockNs();
    this.#untilClock = this.#clockEvery;
  }

  #refuseCalls(): void {
    this.#ring.refuseCalls();
    this.#doneSinceRefused = 0;
  }

  #publish(): void {
    if (!this.#ring.publish()) return;
    this.#state.kicks++;
    this.#queue.kick();
  }

  #nextBlock(): number {
    const { blockCount, isSequential } = this.#options;
    if (!isSequential) return Math.floor(((this.#random() >>> 0) / TWO_32) * blockCount);
    const block = this.#state.cursor;
    this.#state.cursor = block + 1 === blockCount ? 0 : block + 1;
    return block;
  }

  #claimBlock(stamps: BlockStamps): number {
    for (let attempt = 0; attempt < stamps.blockCount * 64; attempt++) {
      const block = this.#nextBlock();
      if (stamps.claim(block)) return block;
    }
    throw new TargetError('ENOSPC', 'more requests than blocks: use a larger span or a smaller depth');
  }

  #prepareStamp(slot: number, block: number, isWrite: boolean, stamps: BlockStamps): void {
    const first = slot * stamps.blockWords;
    this.#generationOfSlot[slot] = isWrite ? stamps.nextGeneration(block) : 0;
    if (isWrite) stamps.stamp(this.#dataWords, first, block, this.#generationOfSlot[slot] as number);
    else this.#dataWords.fill(0xdeadbeef, first, first + stamps.blockWords);
  }

  #verify(slot: number, isOk: boolean, stamps: BlockStamps): void {
    const block = this.#blockOfSlot[slot] as number;
    const generation = this.#generationOfSlot[slot] as number;
    stamps.release(block);
    if (generation !== 0) {
      if (isOk) stamps.setGeneration(block, generation);
      else stamps.forget(block);
      return;
    }
    if (!isOk) return;
    const first = slot * stamps.blockWords;
    const word = stamps.check(this.#dataWords, first, block);
    if (word === -1) return;
    const state = this.#state;
    state.mismatches++;
    const got = (this.#dataWords[first + word] as number).toString(16);
    const where = `block ${block}, byte ${word * 4}, generation ${stamps.generation(block)}`;
    state.firstMismatch ??= `${where}: read 0x${got}`;
  }

  /** xorshift32: fast, seeded, good enough to spread requests. */
  #random(): number {
    let x = this.#state.random;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state.random = x;
    return x;
  }
}
