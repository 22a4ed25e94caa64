/**
 * The commands of one queue: a slot each, whose fields are elements of arrays, so that a command allocates nothing. The
 * command identifier is the slot and, above it, how often the slot was used: a completion that comes twice, or for what
 * is long over, is told from one that is waited for.
 */
import type { IovArena } from '../../sys/iov-arena.ts';
import type { IovList } from '../../sys/iov-list.ts';
import type { OwnMemory } from '../../sys/own-memory.ts';

/** A queue has at most so many: ten bits of the command identifier. */
export const SLOTS_MAX = 1024;
const SLOT_MASK = SLOTS_MAX - 1;
const USE_STEP = SLOTS_MAX;

export const NO_SLOT = -1;

export const Direction = { none: 0, read: 1, write: 2 } as const;
export type Direction = (typeof Direction)[keyof typeof Direction];

/** `ended`: the controller answered, but what was sent of the command has not left yet. */
export const SlotState = { free: 0, inFlight: 1, ended: 2 } as const;

export class CommandSlots {
  readonly count: number;
  free: number;
  readonly commandId: Uint16Array;
  readonly state: Uint8Array;
  readonly direction: Uint8Array;
  /**
   * Where the data is: `length` bytes of a request's list from `skip` on, or, with no entries, own memory at `skip`.
   */
  readonly iovFirst: Int32Array;
  readonly iovCount: Int32Array;
  readonly skip: Float64Array;
  readonly length: Int32Array;
  /** Bytes of data that came, or that were asked for and handed to the sender. */
  readonly moved: Int32Array;
  /** Data goes with the command. */
  readonly isInCapsule: Uint8Array;
  /** What an R2T asked for and was not sent yet: offsets in the data; its tag. */
  readonly askedFrom: Int32Array;
  readonly askedTo: Int32Array;
  readonly tag: Uint16Array;
  /** A PDU of the command is on its way out: its header area is in use. */
  readonly isSending: Uint8Array;
  /** Received data did not match its digest. */
  readonly isCorrupt: Uint8Array;
  readonly status: Uint16Array;
  readonly dword0: Uint32Array;
  readonly #free: Int32Array;

  constructor(count: number) {
    this.count = count;
    this.free = count;
    this.commandId = new Uint16Array(count);
    this.state = new Uint8Array(count);
    this.direction = new Uint8Array(count);
    this.iovFirst = new Int32Array(count);
    this.iovCount = new Int32Array(count);
    this.skip = new Float64Array(count);
    this.length = new Int32Array(count);
    this.moved = new Int32Array(count);
    this.isInCapsule = new Uint8Array(count);
    this.askedFrom = new Int32Array(count);
    this.askedTo = new Int32Array(count);
    this.tag = new Uint16Array(count);
    this.isSending = new Uint8Array(count);
    this.isCorrupt = new Uint8Array(count);
    this.status = new Uint16Array(count);
    this.dword0 = new Uint32Array(count);
    this.#free = Int32Array.from({ length: count }, (_, i) => count - 1 - i);
    for (let i = 0; i < count; i++) this.commandId[i] = i;
  }

  /** `NO_SLOT` when all are in use. */
  take(): number {
    if (this.free === 0) return NO_SLOT;
    const slot = this.#free[--this.free] as number;
    this.state[slot] = SlotState.inFlight;
    this.direction[slot] = Direction.none;
    this.iovCount[slot] = 0;
    this.length[slot] = 0;
    this.moved[slot] = 0;
    this.isInCapsule[slot] = 0;
    this.askedFrom[slot] = 0;
    this.askedTo[slot] = 0;
    this.isCorrupt[slot] = 0;
    return slot;
  }

  release(slot: number): void {
    this.state[slot] = SlotState.free;
    this.commandId[slot] = (this.commandId[slot] as number) + USE_STEP;
    this.#free[this.free++] = slot;
  }

  /** The slot of a command in flight, or `NO_SLOT` when no command has this identifier. */
  find(commandId: number): number {
    const slot = commandId & SLOT_MASK;
    if (slot >= this.count || this.commandId[slot] !== commandId) return NO_SLOT;
    return this.state[slot] === SlotState.inFlight ? slot : NO_SLOT;
  }

  /** Adds a part of a command's data to a list. Returns how many entries that took. */
  addData(
    slot: number,
    fromBytes: number,
    lengthBytes: number,
    list: IovList,
    memory: OwnMemory,
    arena: IovArena | null,
  ): number {
    const skip = this.skip[slot] as number;
    const count = this.iovCount[slot] as number;
    if (count === 0 || arena === null) {
      list.add(memory.address + skip + fromBytes, lengthBytes);
      return 1;
    }
    return list.addPart(arena, this.iovFirst[slot] as number, count, skip + fromBytes, lengthBytes);
  }
}
