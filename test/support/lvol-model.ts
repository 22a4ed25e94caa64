/**
 * What the blocks of volumes may hold: each the number of the write that it is of, 0 for zeroes. Until a write is known
 * to be stable, or a discard to be over, there are several.
 */

import { IoType } from '../../src/bdev/bdev-io.ts';
import { JobControl } from '../../src/bdev/job-control.ts';
import type { LvolStore } from '../../src/bdev/modules/lvol/store.ts';
import type { BdevEntry } from '../../src/bdev/registry.ts';
import { CLUSTER_BYTES, type LvolRig } from './lvol-rig.ts';

export const BLOCK_BYTES = 512;
export const CLUSTER_BLOCKS = CLUSTER_BYTES / BLOCK_BYTES;
const TORN = -1;
/** Discarded: zero, or what was there before. */
const DISCARDED = -2;

/** Throws with what is wrong, when something is. */
export function refuse(faults: readonly string[]): void {
  if (faults.length > 0) throw new Error(`${faults.length} faults: ${faults.slice(0, 10).join('; ')}`);
}

export class ModelVolume {
  /** By block: the values it may have, the latest last. */
  blocks: number[][];
  isReadonly = false;
  parent: ModelVolume | null = null;
  /** A snapshot that is being made: what is written meanwhile may be in it. */
  #follower: ModelVolume | null = null;

  constructor(blockCount: number) {
    this.blocks = Array.from({ length: blockCount }, () => [0]);
  }

  /** It may have this too, from now on. */
  may(block: number, count: number, value: number): void {
    for (let i = block; i < block + count; i++) this.blocks[i] = [...(this.blocks[i] as number[]), value];
    this.#follower?.may(block, count, value);
  }

  /** What a block had before `value` is not there any more; nothing happens when that is not there either. */
  settle(block: number, value: number): void {
    const values = this.blocks[block] ?? [];
    let first = values.indexOf(value);
    while (values[first] === DISCARDED && first > 0) first--;
    if (first > 0) this.blocks[block] = values.slice(first);
  }

  settleAll(): void {
    for (const [block, values] of this.blocks.entries()) this.settle(block, values.at(-1) as number);
  }

  allows(block: number, value: number): boolean {
    const values = this.blocks[block] as number[];
    return values.includes(value) || (value === 0 && values.includes(DISCARDED));
  }

  /** It has this, and nothing else. */
  has(block: number, count: number, value: number): void {
    for (let i = block; i < block + count; i++) this.blocks[i] = [value];
  }

  /** What a snapshot may have that `make` makes. */
  async snapshot(make: () => Promise<unknown>): Promise<ModelVolume> {
    const snapshot = this.copy();
    this.#follower = snapshot;
    await make();
    this.#follower = null;
    snapshot.isReadonly = true;
    snapshot.parent = this.parent;
    this.parent = snapshot;
    return snapshot;
  }

  copy(): ModelVolume {
    const copy = new ModelVolume(0);
    copy.blocks = this.blocks.map((values) => [...values]);
    return copy;
  }
}

export class LvolModel {
  readonly rig: LvolRig;
  store: LvolStore;
  readonly volumes = new Map<string, ModelVolume>();
  /** By which of a volume's blocks are being written: nobody else writes there meanwhile. */
  readonly #writing = new Set<string>();
  #lastValue = 0;
  #lastName = 0;

  constructor(rig: LvolRig, store: LvolStore) {
    this.rig = rig;
    this.store = store;
  }

  get names(): string[] {
    return [...this.volumes.keys()];
  }

  newName(kind: string): string {
    return `${kind}${++this.#lastName}`;
  }

  childrenOf(volume: ModelVolume): string[] {
    return this.names.filter((name) => this.volumes.get(name)?.parent === volume);
  }

  entry(name: string): BdevEntry {
    return this.rig.registry.get(`lvs/${name}`);
  }

  /** Takes blocks of a volume from those that others may write; null when some of them are taken. */
  reserve(name: string, block: number, count: number): (() => void) | null {
    const keys = Array.from({ length: count }, (_, i) => `${name} ${block + i}`);
    if (keys.some((key) => this.#writing.has(key))) return null;
    for (const key of keys) this.#writing.add(key);
    return () => {
      for (const key of keys) this.#writing.delete(key);
    };
  }

  isWriting(name: string, block: number): boolean {
    return this.#writing.has(`${name} ${block}`);
  }

  /** The blocks hold the new value or what they held until it resolves. */
  async write(name: string, block: number, count: number, reactor: number): Promise<void> {
    const volume = this.volumes.get(name) as ModelVolume;
    const value = ++this.#lastValue;
    const done = this.reserve(name, block, count);
    if (done === null) return;
    volume.may(block, count, value);
    const bytes = new Uint8Array(new Int32Array((count * BLOCK_BYTES) / 4).fill(value).buffer);
    await this.rig.blocks(reactor).write(this.entry(name), block, bytes);
    done();
  }

  /** Without data: what is discarded may be zero or stay, what is zeroed is zero. */
  async clear(type: 'unmap' | 'writeZeroes', name: string, block: number, count: number): Promise<void> {
    const volume = this.volumes.get(name) as ModelVolume;
    const done = this.reserve(name, block, count);
    if (done === null) return;
    volume.may(block, count, type === 'unmap' ? DISCARDED : 0);
    const entry = this.entry(name);
    const transfer = { type: IoType[type], target: entry, ranges: [[block, count]] as const };
    await this.rig.blocks().transfer(transfer, new JobControl());
    done();
  }

  /** The values that the blocks of a volume have. */
  async read(name: string, block = 0, count = this.entry(name).bdev.blockCount - block): Promise<number[]> {
    const values: number[] = [];
    for (let at = block; at < block + count; at += 1024) {
      const blocks = Math.min(1024, block + count - at);
      const bytes = await this.rig.blocks().read(this.entry(name), at, blocks);
      const words = new Int32Array(Uint8Array.from(bytes).buffer);
      for (let i = 0; i < blocks; i++) {
        const of = words.subarray((i * BLOCK_BYTES) / 4, ((i + 1) * BLOCK_BYTES) / 4);
        values.push(of.every((word) => word === of[0]) ? (of[0] as number) : TORN);
      }
    }
    return values;
  }

  /** Blocks that hold what they may not; what they hold is all that they may hold from then on. */
  async wrong(name: string): Promise<string[]> {
    const volume = this.volumes.get(name) as ModelVolume;
    const values = await this.read(name);
    if (values.length !== volume.blocks.length) return [`${name} has ${values.length} blocks`];
    return values.flatMap((value, block) => {
      const allowed = volume.blocks[block] as number[];
      const isRight = volume.allows(block, value);
      volume.blocks[block] = [value];
      return isRight ? [] : [`block ${block} of ${name} has ${value}, not ${allowed.join(' or ')}`];
    });
  }
}
