/**
 * A submission and a completion queue as typed arrays over DMA memory (NVMe over PCIe 1.0 §2). Commands are written in
 * place, doorbells rung once a round, completions read where the controller writes them. One thread's.
 */
import { type MappingInfo, MappingViews } from '../../sys/mapping.ts';
import { COMMAND_WORDS, COMPLETION_WORDS } from '../command.ts';
import { queueLayout, SharedState, TICK_WORD } from './queue-memory.ts';
import { doorbellWord } from './registers.ts';

export interface QueuePairOptions {
  readonly queue: number;
  readonly entries: number;
  readonly registers: MappingInfo;
  readonly doorbellWords: number;
  readonly memory: MappingInfo;
  readonly shared: MappingInfo;
}

export const NO_SLOT = -1;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const NONE = NO_SLOT;
const SQE_WORDS = COMMAND_WORDS;
const CQE_WORDS = COMPLETION_WORDS;
const SLOT_MASK = 0xff;
const GENERATION_SHIFT = 8;
const TICK = TICK_WORD;

export class QueuePair {
  /** Commands in flight. */
  inFlight = 0;
  /** Set by `reap`: of the completion that it found. */
  status = 0;
  dword0 = 0;
  readonly queue: number;
  /** Commands that may be in flight: one less than the entries. */
  readonly slots: number;
  readonly shared: SharedState;
  /** The submission queue. */
  readonly entries: Uint32Array;
  /** Everything of the queue's memory behind the completion queue: PRP lists. */
  readonly lists: Uint32Array;
  readonly #completions: Int32Array;
  readonly #doorbells: Uint32Array;
  readonly #submissionDoorbell: number;
  readonly #completionDoorbell: number;
  readonly #issued: number;
  readonly #size: number;
  readonly #free: Int32Array;
  /** 1 for a slot whose command is in flight. */
  readonly #pending: Uint8Array;
  readonly #fence = new Int32Array(1);
  readonly #generation: Uint8Array;
  #freeCount = 0;
  #tail = 0;
  #rungTail = 0;
  #head = 0;
  #rungHead = 0;
  #phase = 1;
  readonly #views = new MappingViews();

  constructor(options: QueuePairOptions) {
    const { entries, memory, registers, doorbellWords, queue } = options;
    const layout = queueLayout(entries, 0);
    this.queue = queue;
    this.slots = entries - 1;
    this.#size = entries;
    this.shared = new SharedState(options.shared);
    this.entries = new Uint32Array(this.#views.view(memory, 0, entries * SQE_WORDS * 4));
    this.#completions = new Int32Array(this.#views.view(memory, layout.completions, entries * CQE_WORDS * 4));
    this.lists = new Uint32Array(this.#views.view(memory, layout.lists, layout.bounces - layout.lists));
    this.#doorbells = new Uint32Array(this.#views.view(registers, 0, registers.lengthBytes));
    this.#submissionDoorbell = doorbellWord(queue, doorbellWords);
    this.#completionDoorbell = this.#submissionDoorbell + doorbellWords;
    this.#issued = this.shared.issuedAt(queue);
    this.#free = new Int32Array(this.slots);
    this.#pending = new Uint8Array(entries);
    for (let i = 0; i < this.slots; i++) this.#free[this.#freeCount++] = this.slots - 1 - i;
    this.#generation = new Uint8Array(entries);
  }

  /**
   * The queue is up, for the `state`-th time: it is empty as after its creation in the controller, or stands where its
   * last user left it (`leave`). Slots that are taken stay so.
   */
  begin(state: number): void {
    const { words } = this.shared;
    const place = this.shared.placeAt(this.queue);
    const isLeft = state > 0 && words[place] === state;
    this.#tail = isLeft ? (words[place + 1] as number) : 0;
    this.#head = isLeft ? (words[place + 2] as number) : 0;
    this.#phase = isLeft ? (words[place + 3] as number) : 1;
    this.#rungTail = this.#tail;
    this.#rungHead = this.#head;
    this.inFlight = 0;
    this.#pending.fill(0);
    this.shared.words.fill(0, this.#issued, this.#issued + this.slots);
  }

  /** Nothing is in flight: another user may go on from here. */
  leave(state: number): void {
    const { words } = this.shared;
    const place = this.shared.placeAt(this.queue);
    words[place] = state;
    words[place + 1] = this.#tail;
    words[place + 2] = this.#head;
    words[place + 3] = this.#phase;
  }

  get freeSlots(): number {
    return this.#freeCount;
  }

  /** A slot for a command. There is one: `freeSlots` was looked at. */
  take(): number {
    return this.#free[--this.#freeCount] as number;
  }

  release(slot: number): void {
    this.#free[this.#freeCount++] = slot;
  }

  /** Index of the first word of the next entry of the submission queue. */
  get entryAt(): number {
    return this.#tail * SQE_WORDS;
  }

  /** The identifier for a command in a slot, other than the last ones of the same slot. */
  identify(slot: number): number {
    const generation = ((this.#generation[slot] as number) + 1) & 0xff;
    this.#generation[slot] = generation;
    return (generation << GENERATION_SHIFT) | slot;
  }

  /** The command of a slot is written, and goes with the next `ring`. `commandId` is what `identify` gave. */
  push(slot: number, commandId: number): void {
    const { words } = this.shared;
    words[this.#issued + slot] = ((words[TICK] as number) << 16) | commandId;
    this.#pending[slot] = 1;
    this.#tail = this.#tail + 1 === this.#size ? 0 : this.#tail + 1;
    this.inFlight++;
  }

  /** Leaves a command out of what the controller's thread looks at: one that may take as long as it likes. */
  setPatient(slot: number): void {
    this.shared.words[this.#issued + slot] = 0;
  }

  /** Tells the controller of new commands, and of completions that were read. */
  ring(): void {
    if (this.#tail !== this.#rungTail) {
      // A release fence: entries and lists are in memory before the doorbell is written. It is device memory, which an
      // atomic operation would read as well.
      Atomics.store(this.#fence, 0, 0);
      this.#doorbells[this.#submissionDoorbell] = this.#tail;
      this.#rungTail = this.#tail;
    }
    if (this.#head !== this.#rungHead) {
      this.#doorbells[this.#completionDoorbell] = this.#head;
      this.#rungHead = this.#head;
    }
  }

  get hasCompletion(): boolean {
    const word = Atomics.load(this.#completions, this.#head * CQE_WORDS + 3);
    return ((word >>> 16) & 1) === this.#phase;
  }

  /** The slot of the next completion, with `status` and `dword0` set, or `NO_SLOT`. The slot stays taken. */
  reap(): number {
    const completions = this.#completions;
    for (;;) {
      const at = this.#head * CQE_WORDS;
      // Acquire: the rest of the entry is read after its phase.
      const word = Atomics.load(completions, at + 3);
      if (((word >>> 16) & 1) !== this.#phase) return NONE;
      this.dword0 = completions[at] as number;
      this.status = word >>> 17;
      if (++this.#head === this.#size) {
        this.#head = 0;
        this.#phase ^= 1;
      }
      const slot = word & SLOT_MASK;
      const generation = (word >>> GENERATION_SHIFT) & 0xff;
      const { words } = this.shared;
      if (this.#pending[slot] === 1 && this.#generation[slot] === generation) {
        this.#pending[slot] = 0;
        words[this.#issued + slot] = 0;
        this.inFlight--;
        return slot;
      }
      this.shared.countStale(this.queue);
    }
  }

  close(): void {
    this.shared.close();
    this.#views.close();
  }
}
