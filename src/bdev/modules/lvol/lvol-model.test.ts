/**
 * Random volumes, snapshots and clones on two reactors against a model in memory: reads give what was written, whatever
 * is done to them at the same time. `RINGHOST_RUNS=500` makes it longer.
 */
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { BLOCK_BYTES, CLUSTER_BLOCKS, LvolModel, ModelVolume, refuse } from '../../../../test/support/lvol-model.ts';
import { CLUSTER_BYTES, LvolRig } from '../../../../test/support/lvol-rig.ts';

const RUNS = Number(process.env['RINGHOST_RUNS'] ?? 6);
const MIB = 2 ** 20;
const LIMIT_MS = 60_000 * (1 + RUNS);
const VOLUMES_MAX = 7;
/** Of steps. */
const KINDS = 12;
const BLOCKS = MIB / BLOCK_BYTES;

type Step =
  | { readonly kind: 'create'; readonly isThin: boolean }
  | { readonly kind: 'writes'; readonly pick: number; readonly places: readonly (readonly [number, number])[] }
  | { readonly kind: 'unmap' | 'writeZeroes'; readonly pick: number; readonly block: number; readonly count: number }
  | {
      readonly kind: 'snapshot' | 'clone' | 'delete' | 'inflate' | 'decouple' | 'resize' | 'rename';
      readonly pick: number;
    }
  | { readonly kind: 'reload' };

const pick = fc.nat(1000);
const block = fc.nat(BLOCKS - 1);
const places = fc.array(fc.tuple(block, fc.oneof(fc.integer({ min: 1, max: 4 }), fc.constant(2 * CLUSTER_BLOCKS))), {
  minLength: 1,
  maxLength: 12,
});
const op = (...kinds: ('snapshot' | 'clone' | 'delete' | 'inflate' | 'decouple' | 'resize' | 'rename')[]) =>
  fc.record({ kind: fc.constantFrom(...kinds), pick });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('create' as const), isThin: fc.boolean() }) },
  { weight: 8, arbitrary: fc.record({ kind: fc.constant('writes' as const), pick, places }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom('unmap' as const, 'writeZeroes' as const),
      ...{ pick, block, count: fc.integer({ min: 1, max: 4 * CLUSTER_BLOCKS }) },
    }),
  },
  { weight: 6, arbitrary: op('snapshot', 'clone', 'delete') },
  { weight: 6, arbitrary: op('inflate', 'decouple', 'resize', 'rename') },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('reload' as const) }) },
);

let rig: LvolRig;
afterEach(async () => {
  await rig?.close();
});

class Run extends LvolModel {
  readonly seen = new Set<string>();

  #named(number: number): [string, ModelVolume] | null {
    const name = this.names[number % Math.max(1, this.names.length)];
    return name === undefined ? null : [name, this.volumes.get(name) as ModelVolume];
  }

  async step(one: Step): Promise<void> {
    if (one.kind === 'reload') {
      const { base } = this.store;
      await this.rig.lvols.unloadStore(this.store);
      this.store = await this.rig.lvols.loadStore(base);
    } else if (one.kind === 'create') await this.#create(one.isThin);
    else {
      const named = this.#named(one.pick);
      if (named === null) return;
      if (one.kind === 'writes') await this.#writes(...named, one.places);
      else if (one.kind === 'unmap' || one.kind === 'writeZeroes')
        await this.#clear(one.kind, ...named, one.block, one.count);
      else await this.#operate(one.kind, ...named);
    }
    if (one.kind === 'reload') this.seen.add(one.kind);
  }

  async #create(isThin: boolean): Promise<void> {
    if (this.names.length >= VOLUMES_MAX) return;
    const name = this.newName('v');
    await this.rig.lvols.create(this.store, name, 1, isThin);
    this.volumes.set(name, new ModelVolume(BLOCKS));
    this.seen.add('create');
  }

  async #writes(name: string, volume: ModelVolume, at: readonly (readonly [number, number])[]): Promise<void> {
    if (volume.isReadonly) return;
    const size = volume.blocks.length;
    const written = at.map(async ([first, count], i) => {
      const inside = Math.min(first % size, size - 1);
      const blocks = Math.min(count, size - inside);
      await this.write(name, inside, blocks, i);
    });
    await Promise.all(written);
    this.seen.add('writes');
    volume.settleAll();
  }

  async #clear(
    type: 'unmap' | 'writeZeroes',
    name: string,
    volume: ModelVolume,
    at: number,
    count: number,
  ): Promise<void> {
    if (volume.isReadonly) return;
    const first = at % volume.blocks.length;
    const blocks = Math.min(count, volume.blocks.length - first);
    await this.clear(type, name, first, blocks);
    if (type === 'writeZeroes') volume.has(first, blocks, 0);
    this.seen.add(type);
  }

  async #operate(kind: string, name: string, volume: ModelVolume): Promise<void> {
    const { lvols } = this.rig;
    const ref = lvols.find(`lvs/${name}`);
    const isFull = this.names.length >= VOLUMES_MAX;
    if (kind === 'snapshot' && !volume.isReadonly && !isFull) await this.#snapshot(name, volume);
    else if (kind === 'clone' && volume.isReadonly && !isFull) {
      const clone = this.newName('c');
      await lvols.clone(ref, clone);
      const model = volume.copy();
      model.parent = volume;
      this.volumes.set(clone, model);
    } else if (kind === 'delete') {
      const children = this.childrenOf(volume);
      if (children.length > 1) return;
      await lvols.delete(ref);
      this.volumes.delete(name);
      for (const child of children) (this.volumes.get(child) as ModelVolume).parent = volume.parent;
    } else if ((kind === 'inflate' || (kind === 'decouple' && volume.parent !== null)) && !volume.isReadonly) {
      await this.#independent(name, volume, kind === 'inflate');
    } else if (kind === 'resize' && !volume.isReadonly) await this.#resize(name, volume);
    else if (kind === 'rename') {
      const renamed = this.newName('r');
      await lvols.rename(ref, renamed);
      this.volumes.delete(name);
      this.volumes.set(renamed, volume);
    } else return;
    this.seen.add(kind);
  }

  /** While guests write: what is under way is in the snapshot or not. */
  async #snapshot(name: string, volume: ModelVolume): Promise<void> {
    const writes = [1, 2, 3, 4].map((i) => this.write(name, (i * 397) % (volume.blocks.length - 2), 2, i));
    const snapshot = this.newName('s');
    const ref = this.rig.lvols.find(`lvs/${name}`);
    const model = await volume.snapshot(() => this.rig.lvols.snapshot(ref, snapshot));
    await Promise.all(writes);
    volume.settleAll();
    this.volumes.set(snapshot, model);
    refuse(await this.wrong(snapshot));
  }

  async #independent(name: string, volume: ModelVolume, isComplete: boolean): Promise<void> {
    const job = this.rig.lvols.inflate(this.rig.lvols.find(`lvs/${name}`), isComplete);
    const writes = [1, 2, 3].map((i) => this.write(name, (i * 211) % (volume.blocks.length - 2), 2, i));
    await Promise.all([job.ended, ...writes]);
    refuse(job.error === null ? [] : [job.error]);
    volume.settleAll();
    volume.parent = isComplete ? null : (volume.parent?.parent ?? null);
  }

  async #resize(name: string, volume: ModelVolume): Promise<void> {
    const size = volume.blocks.length === BLOCKS ? 2 : 1;
    await this.rig.lvols.resize(this.rig.lvols.find(`lvs/${name}`), size);
    const blocks = volume.blocks.slice(0, size * BLOCKS);
    while (blocks.length < size * BLOCKS) blocks.push([0]);
    volume.blocks = blocks;
  }

  async verify(): Promise<void> {
    refuse(await this.store.check());
    const there = this.store.volumes.list().map(({ name }) => name);
    refuse(this.names.filter((name) => !there.includes(name)).map((name) => `${name} is gone`));
    refuse(there.filter((name) => !this.volumes.has(name)).map((name) => `${name} is there`));
    for (const name of this.names) refuse(await this.wrong(name));
  }
}

function property(seen: Set<string>) {
  return fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 40 }), async (steps) => {
    rig = new LvolRig();
    const base = rig.addMalloc('Base', 24 * MIB, 512);
    const run = new Run(rig, await rig.lvols.createStore(base, 'lvs', CLUSTER_BYTES));
    for (const [i, one] of steps.entries()) {
      await run.step(one);
      if (i % 8 === 7) await run.verify();
    }
    await run.verify();
    for (const kind of run.seen) seen.add(kind);
    await rig.close();
  });
}

describe('volumes', () => {
  it(
    'hold what was written, through snapshots, clones, discards and restarts',
    async () => {
      const seen = new Set<string>();
      // As often as it takes to have done everything.
      while (seen.size < KINDS) await fc.assert(property(seen), { numRuns: RUNS, endOnFailure: true });
      expect(seen.size).toBe(KINDS);
    },
    LIMIT_MS,
  );
});
