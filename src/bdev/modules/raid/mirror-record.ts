/** What the legs of a mirror remember (superblock.ts), as the main thread reads and writes it. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlockAccess } from '../../block-access.ts';
import type { BdevEntry } from '../../registry.ts';
import type { Assembly, readLeg, Slot } from './mirror-assembly.ts';
import { fillMapPage, MAP_PAGE_BYTES } from './mirror-log.ts';
import type { MirrorState } from './mirror-state.ts';
import {
  AREA_BYTES,
  encodeOwnHeader,
  encodeSuperblock,
  LegState,
  MAP_BYTES,
  MAP_OFFSET_BYTES,
  OWN_HEADER_AT,
} from './superblock.ts';

/** A superblock that cannot be written is tried again, so often and after so long. */
const TRIES = 3;
const TRY_AGAIN_MS = 500;
const LOOK_AGAIN_MS = 1;

interface Owner {
  readonly name: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly blockCount: number;
  readonly regionCount: number;
  readonly state: MirrorState;
  readonly slots: readonly Slot[];
  readonly isWhole: boolean;
  /** A leg was taken out. */
  legLost(slot: number, reason: string): void;
}

export class MirrorRecord {
  readonly #owner: Owner;
  readonly #blocks: BlockAccess;
  readonly #regionBytes: number;
  #sequence: number;
  #cleanSequence: number;
  #isCleared = false;

  constructor(owner: Owner, assembly: Assembly, blocks: BlockAccess) {
    this.#owner = owner;
    this.#blocks = blocks;
    this.#regionBytes = assembly.regionBytes;
    this.#sequence = assembly.sequence;
    this.#cleanSequence = assembly.cleanSequence;
  }

  /** Whether a leg that was in a slot before can differ from the others only where that is marked. */
  knows(found: Awaited<ReturnType<typeof readLeg>>, slot: number): boolean {
    if (found === null || found.own === null) return false;
    const { own, superblock } = found;
    return own.slot === slot && superblock.sequence >= this.#cleanSequence && superblock.sequence < this.#sequence;
  }

  /** From the next one on: what is marked is all that a leg of now can come to lack. */
  allInSync(): void {
    this.#cleanSequence = this.#sequence + 1;
  }

  /** Header and map, on every leg. A leg that fails is taken out. */
  async writeAll(): Promise<void> {
    await this.#withLog(async () => {
      const map = new Uint8Array(MAP_BYTES);
      for (let page = 0; page < MAP_BYTES / MAP_PAGE_BYTES; page++) this.#fill(map, page);
      await this.#onLegs(async (leg, slot) => {
        const header = encodeOwnHeader({
          ...{ uuid: this.#owner.uuid, slot, regionBytes: this.#regionBytes, cleanSequence: this.#cleanSequence },
        });
        await this.#write(leg, OWN_HEADER_AT, Buffer.concat([header, map]));
        await this.#blocks.flush(leg);
      });
    });
  }

  /**
   * Resolves when all legs that are left have it, stable, with the bits of the slots that it has as being in sync;
   * null: the last leg does not take it.
   */
  async writeSuperblocks(): Promise<number | null> {
    this.#sequence++;
    let tries = 0;
    const { name, uuid, blockSizeBytes, blockCount, state, slots } = this.#owner;
    for (;;) {
      const { inSync, written: before } = state;
      const legs = slots.map((slot, i) => {
        const isIn = (inSync & (1 << i)) !== 0;
        const isRebuilding = (state.targets & (1 << i)) !== 0;
        const legState = isIn ? LegState.configured : slot.state === 'failed' ? LegState.failed : LegState.missing;
        return { uuid: slot.uuid ?? '00000000-0000-0000-0000-000000000000', state: legState, isRebuilding };
      });
      const bytes = encodeSuperblock({ name, uuid, blockSizeBytes, blockCount, sequence: this.#sequence, legs });
      const isWritten = await this.#onLegs(async (leg) => {
        await this.#write(leg, 0, bytes);
        await this.#blocks.flush(leg);
      });
      const isSame = before === state.written;
      if (isSame && (isWritten || ++tries === TRIES)) {
        state.canRecord = isWritten;
        return isWritten ? inSync : null;
      }
      // One more was lost: the others are to know.
      this.#sequence++;
      if (isSame) await sleep(TRY_AGAIN_MS);
    }
  }

  /** Regions that nobody wrote to since they were touched last. */
  async clean(regions: readonly number[]): Promise<void> {
    const { state } = this.#owner;
    const isFlushed = await this.#onLegs((leg) => this.#blocks.flush(leg));
    if (!isFlushed || !this.#owner.isWhole) return;
    await this.#withLog(async () => {
      const cleaning = regions.filter((region) => state.startCleaning(region));
      const pages = new Set(cleaning.map((region) => Math.floor(region / (MAP_PAGE_BYTES * 8))));
      let isClean = true;
      for (const page of pages) {
        const bytes = new Uint8Array(MAP_PAGE_BYTES);
        fillMapPage(state, page, bytes, this.#owner.regionCount);
        const at = MAP_OFFSET_BYTES + page * MAP_PAGE_BYTES;
        isClean = (await this.#onLegs((leg) => this.#write(leg, at, bytes))) && isClean;
      }
      for (const region of cleaning) state.endCleaning(region, isClean && this.#owner.isWhole);
    });
  }

  clearAtClose(): void {
    this.#isCleared = true;
  }

  /** Nothing is in flight: what is the same on all legs is recorded as that. */
  async close(): Promise<void> {
    if (this.#isCleared) {
      const area = new Uint8Array(AREA_BYTES);
      await this.#onLegs((leg) => this.#write(leg, 0, area));
    } else if (this.#owner.isWhole && (await this.#onLegs((leg) => this.#blocks.flush(leg)))) {
      await this.#onLegs((leg) => this.#write(leg, MAP_OFFSET_BYTES, new Uint8Array(MAP_BYTES)));
    }
    await this.#onLegs((leg) => this.#blocks.flush(leg));
  }

  #fill(map: Uint8Array, page: number): void {
    const at = page * MAP_PAGE_BYTES;
    fillMapPage(this.#owner.state, page, map.subarray(at, at + MAP_PAGE_BYTES), this.#owner.regionCount);
  }

  async #write(leg: BdevEntry, offsetBytes: number, bytes: Uint8Array): Promise<void> {
    await this.#blocks.write(leg, offsetBytes / this.#owner.blockSizeBytes, bytes);
  }

  /** True when all those that are written could do it. One that could not is out, unless it is the last one. */
  async #onLegs(work: (leg: BdevEntry, slot: number) => Promise<void>): Promise<boolean> {
    const { state, slots } = this.#owner;
    const { written } = state;
    const outcomes = await Promise.all(
      slots.map(async ({ base }, i) => {
        if (base === null || (written & (1 << i)) === 0) return true;
        try {
          await work(base, i);
          return true;
        } catch (error) {
          if (state.drop(i)) {
            state.countFailure(i);
            this.#owner.legLost(i, (error as Error).message);
          }
          return false;
        }
      }),
    );
    return !outcomes.includes(false);
  }

  /** No reactor writes the map meanwhile. */
  async #withLog(work: () => Promise<void>): Promise<void> {
    while (!this.#owner.state.lockLog()) await sleep(LOOK_AGAIN_MS);
    try {
      await work();
    } finally {
      this.#owner.state.unlockLog();
    }
  }
}
