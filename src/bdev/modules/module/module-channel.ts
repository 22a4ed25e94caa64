/** A channel to a disk in TypeScript: puts requests into its ring, and looks there for those that are over. */

import { TargetError } from '../../../base/errors.ts';
import { readEventFd } from '../../../sys/events.ts';
import { clockNs } from '../../../sys/thread.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, type IoChannel, IoStatus, IoType } from '../../bdev-io.ts';
import { type ModuleRing, ModuleRings, SLOTS, SlotState } from './module-ring.ts';

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const FLUSH = IoType.flush;
const { success: SUCCESS, failed: FAILED } = IoStatus;
const DONE = SlotState.done;

export class ModuleChannel implements IoChannel {
  readonly wakeFd: number;
  /** The disk's thread runs on the cores of this machine. */
  readonly sharesCores = true;
  readonly #rings: ModuleRings;
  readonly #ring: ModuleRing;
  readonly #blockSizeBytes: number;
  readonly #ios: (BdevIo | null)[] = Array.from({ length: SLOTS }, () => null);
  readonly #free = new Int32Array(SLOTS);
  #freeCount = SLOTS;
  /** Slots in flight. */
  readonly #active = new Int32Array(SLOTS);
  #activeCount = 0;
  /** Position behind what was submitted, and behind what the thread was told of. */
  #tail: number;
  #published: number;
  #completionsSeen: number;
  /** Found no free slot. */
  readonly #waiting: BdevIo[] = [];

  constructor(description: BdevDescription, { arena }: ChannelContext) {
    this.#rings = new ModuleRings(description.params.rings as SharedArrayBuffer);
    const ring = this.#rings.claim();
    if (ring === null) throw new TargetError('EBUSY', `bdev "${description.name}" has no ring left for this reactor`);
    this.#ring = ring;
    this.#blockSizeBytes = description.blockSizeBytes;
    ring.setArena(arena.address, arena.capacity);
    this.wakeFd = ring.wakeFd;
    this.#tail = ring.tail;
    this.#published = this.#tail;
    this.#completionsSeen = ring.completions;
    for (let i = 0; i < SLOTS; i++) this.#free[i] = SLOTS - 1 - i;
  }

  submit(io: BdevIo): void {
    if (io.type !== FLUSH && io.countBlocks === 0) io.complete(SUCCESS);
    else if (this.#rings.isDead) io.complete(FAILED);
    else if (this.#freeCount === 0) this.#waiting.push(io);
    else this.#start(io);
  }

  poll(): number {
    this.#publish();
    const { completions } = this.#ring;
    if (completions === this.#completionsSeen) return 0;
    this.#completionsSeen = completions;
    let ended = 0;
    for (let i = 0; i < this.#activeCount; ) {
      const slot = this.#active[i] as number;
      const state = this.#ring.stateOf(slot);
      if (state < DONE) {
        i++;
        continue;
      }
      this.#active[i] = this.#active[--this.#activeCount] as number;
      this.#end(slot, state === DONE ? SUCCESS : FAILED);
      ended++;
    }
    return ended;
  }

  arm(): boolean {
    if (this.#published !== this.#tail) return true;
    this.#ring.arm();
    return this.#ring.completions !== this.#completionsSeen;
  }

  disarm(): void {
    this.#ring.disarm();
    readEventFd(this.wakeFd);
  }

  abandon(): void {
    this.#ring.leave();
  }

  update(): void {}

  close(): void {
    this.disarm();
    this.#ring.release();
  }

  #start(io: BdevIo): void {
    const ring = this.#ring;
    const slot = this.#free[--this.#freeCount] as number;
    this.#ios[slot] = io;
    this.#active[this.#activeCount++] = slot;
    ring.type[slot] = io.type;
    ring.iovFirst[slot] = io.iovFirst;
    ring.iovCount[slot] = io.iovCount;
    ring.offsetBytes[slot] = io.offsetBlocks * this.#blockSizeBytes;
    ring.lengthBytes[slot] = io.countBlocks * this.#blockSizeBytes;
    ring.startedNs[slot] = clockNs();
    ring.submit(slot, this.#tail);
    this.#tail = (this.#tail + 1) | 0;
  }

  #publish(): void {
    if (this.#published === this.#tail) return;
    this.#published = this.#tail;
    this.#ring.publish(this.#tail);
    this.#rings.ring();
  }

  #end(slot: number, status: IoStatus): void {
    const io = this.#ios[slot] as BdevIo;
    this.#ios[slot] = null;
    this.#ring.free(slot);
    this.#free[this.#freeCount++] = slot;
    const next = this.#waiting.length > 0 ? this.#waiting.shift() : undefined;
    if (next !== undefined) this.#start(next);
    io.complete(status);
  }
}
