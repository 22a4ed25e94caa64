/**
 * A mirror's record of the regions that are being written (superblock.ts), as one reactor writes it: on all legs, and
 * flushed, before what it stands for is begun. One thread at a time writes it; what others want of the same page
 * is written with it.
 */

import { type IovArena, NO_LIST } from '../../../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../../../sys/mapping.ts';
import type { BaseChannel } from '../../bdev-io.ts';
import { BdevIo, type IoOwner, IoStatus, IoType } from '../../bdev-io.ts';
import type { MirrorState } from './mirror-state.ts';
import { MAP_OFFSET_BYTES } from './superblock.ts';

/** What is written at a time. */
export const MAP_PAGE_BYTES = 4096;
const REGIONS_PER_PAGE = MAP_PAGE_BYTES * 8;
const { write: WRITE, flush: FLUSH } = IoType;
const { success: SUCCESS } = IoStatus;

/** Sets the bits of a page of the record as they should be. */
export function fillMapPage(state: MirrorState, page: number, bytes: Uint8Array, regionCount: number): void {
  bytes.fill(0);
  const first = page * REGIONS_PER_PAGE;
  const count = Math.min(REGIONS_PER_PAGE, regionCount - first);
  for (let i = 0; i < count; i++) {
    if (state.shouldBeMarked(first + i)) bytes[i >>> 3] = (bytes[i >>> 3] as number) | (1 << (i & 7));
  }
}

/** What the log needs of its channel. */
export interface LogHost {
  readonly state: MirrorState;
  /** By slot. */
  readonly legs: readonly (BaseChannel | null)[];
  /** Takes a leg out, unless it is the last one. */
  legFailed(slot: number, status: IoStatus): void;
  /** The page is as it should be; or nothing could be written. */
  logWritten(hasFailed: boolean): void;
}

export class MirrorLog implements IoOwner {
  readonly #host: LogHost;
  readonly #arena: IovArena;
  readonly #blockBytes: number;
  readonly #memory = Mapping.anonymous(MAP_PAGE_BYTES);
  readonly #views = new MappingViews();
  readonly #bytes: Uint8Array;
  readonly #free: BdevIo[] = [];
  #list = NO_LIST;
  #page = 0;
  #regionCount = 0;
  /** Requests to the legs. */
  #pending = 0;
  /** Bits of the slots that have what was written, and have it stable. */
  #written = 0;
  #stable = 0;

  constructor(host: LogHost, arena: IovArena, blockBytes: number) {
    this.#host = host;
    this.#arena = arena;
    this.#blockBytes = blockBytes;
    this.#bytes = new Uint8Array(this.#views.view(this.#memory, 0, MAP_PAGE_BYTES));
  }

  get isBusy(): boolean {
    return this.#pending > 0;
  }

  /** Writes the page of a region, unless somebody writes one already: then it is to be asked again. */
  write(region: number, regionCount: number): void {
    if (this.isBusy) return;
    const list = this.#arena.takeShort();
    if (list === NO_LIST) return;
    const { state } = this.#host;
    if (!state.lockLog()) {
      this.#arena.release(list);
      return;
    }
    this.#list = list;
    this.#page = Math.floor(region / REGIONS_PER_PAGE);
    this.#regionCount = regionCount;
    fillMapPage(state, this.#page, this.#bytes, regionCount);
    this.#arena.set(list, this.#memory.address, MAP_PAGE_BYTES);
    this.#written = 0;
    this.#stable = 0;
    this.#toLegs(WRITE, state.written);
  }

  ioDone(io: BdevIo): void {
    const { tag: slot, status, type } = io;
    this.#free.push(io);
    if (status !== SUCCESS) this.#host.legFailed(slot, status);
    else if (type === WRITE) this.#written |= 1 << slot;
    else this.#stable |= 1 << slot;
    if (--this.#pending > 0) return;
    if (type === WRITE && this.#written !== 0) this.#toLegs(FLUSH, this.#written);
    else this.#end();
  }

  close(): void {
    this.#views.close();
    this.#memory.close();
  }

  /** To those that are there. */
  #toLegs(type: IoType, slots: number): void {
    const { legs } = this.#host;
    // Of its own, so that the last of them is not taken for the end before all are sent.
    this.#pending = 1;
    for (let slot = 0; slot < legs.length; slot++) {
      const leg = legs[slot] as BaseChannel | null;
      if ((slots & (1 << slot)) === 0 || leg === null) continue;
      this.#pending++;
      leg.submit(this.#request(type, slot));
    }
    if (--this.#pending > 0) return;
    if (type === WRITE && this.#written !== 0) this.#toLegs(FLUSH, this.#written);
    else this.#end();
  }

  #request(type: IoType, slot: number): BdevIo {
    const io = this.#free.pop() ?? new BdevIo(this);
    io.type = type;
    io.tag = slot;
    const isWrite = type === WRITE;
    io.offsetBlocks = isWrite ? (MAP_OFFSET_BYTES + this.#page * MAP_PAGE_BYTES) / this.#blockBytes : 0;
    io.countBlocks = isWrite ? MAP_PAGE_BYTES / this.#blockBytes : 0;
    io.lengthBytes = isWrite ? MAP_PAGE_BYTES : 0;
    io.iovFirst = this.#list;
    io.iovCount = 1;
    return io;
  }

  /** The regions that were marked may be written once every leg in sync has that on record. */
  #end(): void {
    const { state } = this.#host;
    this.#arena.release(this.#list);
    this.#list = NO_LIST;
    const { inSync } = state;
    const hasFailed = inSync === 0 || (inSync & ~this.#stable) !== 0;
    if (!hasFailed) this.#setDirty();
    state.unlockLog();
    this.#host.logWritten(hasFailed);
  }

  #setDirty(): void {
    const first = this.#page * REGIONS_PER_PAGE;
    const count = Math.min(REGIONS_PER_PAGE, this.#regionCount - first);
    for (let i = 0; i < count; i++) {
      if (((this.#bytes[i >>> 3] as number) & (1 << (i & 7))) !== 0) this.#host.state.setDirty(first + i);
    }
  }
}
