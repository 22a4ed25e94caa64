/**
 * A store on a disk whose power is cut at any moment of anything: it can be loaded, it is consistent, what was flushed
 * is there, and nothing that was never written to that place of that volume. `RINGHOST_RUNS=500` makes it longer.
 */
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { BLOCK_BYTES, CLUSTER_BLOCKS, LvolModel, ModelVolume, refuse } from '../../../../test/support/lvol-model.ts';
import { CLUSTER_BYTES, LvolRig } from '../../../../test/support/lvol-rig.ts';
import { SILENT } from '../../../base/log.ts';
import type { BdevEntry } from '../../registry.ts';
import { MemoryBudget } from '../malloc/malloc.ts';
import { PowerCutBdev } from '../powercut/powercut.ts';
import { PageIo } from './page-io.ts';
import { LvolStore } from './store.ts';
import { RecordKind, record } from './volumes.ts';

const RUNS = Number(process.env['RINGHOST_RUNS'] ?? 4);
const MIB = 2 ** 20;
const LIMIT_MS = 60_000 * (1 + RUNS);
const DISK_BYTES = 6 * MIB;
const VOLUME_BLOCKS = MIB / BLOCK_BYTES;

const KINDS = [
  'create',
  'write',
  'unmap',
  'writeZeroes',
  'flush',
  'snapshot',
  'clone',
  'delete',
  'resize',
  'inflate',
] as const;
type Kind = (typeof KINDS)[number];
interface Step {
  readonly kind: Kind;
  readonly pick: number;
  readonly block: number;
  readonly count: number;
  /** Turns of the event loop before the next step: most things are still under way then. */
  readonly turns: number;
  readonly isCut: boolean;
}

const step = (kind: Kind): fc.Arbitrary<Step> =>
  fc.record({
    kind: fc.constant(kind),
    pick: fc.nat(1000),
    // Mostly where something is already.
    block: fc.oneof({ weight: 3, arbitrary: fc.nat(6 * CLUSTER_BLOCKS) }, fc.nat(VOLUME_BLOCKS - 1)),
    count: fc.oneof(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 3 * CLUSTER_BLOCKS })),
    turns: fc.nat(25),
    isCut: fc.nat(9).map((number) => number === 0),
  });
const WEIGHTS: Readonly<Record<Kind, number>> = {
  ...{
    create: 2,
    write: 14,
    unmap: 3,
    writeZeroes: 2,
    flush: 2,
    snapshot: 3,
    clone: 2,
    delete: 2,
    resize: 1,
    inflate: 1,
  },
};
const steps = fc.array(fc.oneof(...KINDS.map((kind) => ({ weight: WEIGHTS[kind], arbitrary: step(kind) }))), {
  minLength: 60,
  maxLength: 100,
});

let rig: LvolRig;
afterEach(async () => {
  await rig?.close();
});

/** Another machine with a disk of this content. */
async function machineWith(image: Uint8Array): Promise<{ other: LvolRig; base: BdevEntry }> {
  const other = new LvolRig(undefined, 1);
  const base = other.addMalloc('Base', DISK_BYTES);
  for (let at = 0; at < DISK_BYTES; at += MIB) {
    await other.blocks().write(base, at / BLOCK_BYTES, image.subarray(at, at + MIB));
  }
  return { other, base };
}

function addPowerCutDisk(to: LvolRig): { disk: PowerCutBdev; base: BdevEntry } {
  const size = { blockCount: DISK_BYTES / BLOCK_BYTES, blockSizeBytes: BLOCK_BYTES };
  const disk = new PowerCutBdev({ name: 'Cut', ...size, ignoresFlush: false }, new MemoryBudget(64 * MIB));
  return { disk, base: to.add(disk) };
}

class CutRun extends LvolModel {
  /** Names of volumes that are being made or deleted: they may be there after a cut. */
  readonly uncertain = new Set<string>();
  readonly #running = new Set<Promise<void>>();
  /** One change of the volumes at a time. */
  #changing: Promise<void> = Promise.resolve();
  readonly disk: PowerCutBdev;
  counts = { cuts: 0, dirty: 0, blocks: 0 };

  constructor(of: LvolRig, store: LvolModel['store'], disk: PowerCutBdev) {
    super(of, store);
    this.disk = disk;
  }

  start(one: Step): void {
    const work = this.#do(one).finally(() => this.#running.delete(work));
    this.#running.add(work);
  }

  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  async #do(one: Step): Promise<void> {
    const name = this.names[one.pick % Math.max(1, this.names.length)];
    if (one.kind === 'create') return await this.#change(() => this.#create());
    if (name === undefined) return;
    const volume = this.volumes.get(name) as ModelVolume;
    const first = one.block % volume.blocks.length;
    const count = Math.min(one.count, volume.blocks.length - first);
    if (one.kind === 'flush') await this.#flush(name);
    else if (one.kind === 'write' || one.kind === 'unmap' || one.kind === 'writeZeroes') {
      if (volume.isReadonly || this.uncertain.has(name)) return;
      if (one.kind === 'write') await this.write(name, first, count, one.pick);
      else await this.clear(one.kind, name, first, count);
    } else await this.#change(() => this.#operate(one.kind, name, volume));
  }

  #change(work: () => Promise<void>): Promise<void> {
    this.#changing = this.#changing.then(work);
    return this.#changing;
  }

  async #create(): Promise<void> {
    if (this.names.length >= 6) return;
    const name = this.newName('v');
    this.uncertain.add(name);
    await this.rig.lvols.create(this.store, name, 1, true);
    this.volumes.set(name, new ModelVolume(VOLUME_BLOCKS));
    this.uncertain.delete(name);
  }

  /** What had been written before it began is stable after it. */
  async #flush(name: string): Promise<void> {
    const before = [...this.volumes.values()].map(
      (volume) => [volume, volume.blocks.map((all) => all.at(-1))] as const,
    );
    const settled = this.#settledBlocks();
    await this.rig.blocks().flush(this.entry(name));
    for (const [volume, latest] of before) {
      for (const [block, value] of latest.entries()) {
        if (settled.get(volume)?.has(block) === true) volume.settle(block, value as number);
      }
    }
  }

  /** Blocks that nobody is writing now. */
  #settledBlocks(): Map<ModelVolume, Set<number>> {
    return new Map(
      [...this.volumes].map(([name, volume]) => {
        const blocks = [...volume.blocks.keys()].filter((block) => !this.isWriting(name, block));
        return [volume, new Set(blocks)];
      }),
    );
  }

  async #operate(kind: Kind, name: string, volume: ModelVolume): Promise<void> {
    if (!this.volumes.has(name)) return;
    const { lvols } = this.rig;
    const ref = lvols.find(`lvs/${name}`);
    const isFull = this.names.length >= 6;
    if (kind === 'snapshot' && !volume.isReadonly && !isFull) {
      const snapshot = this.newName('s');
      this.uncertain.add(snapshot);
      this.volumes.set(snapshot, await volume.snapshot(() => lvols.snapshot(ref, snapshot)));
      // It is stable, and what of writes at the time is in it does not change any more.
      refuse(await this.wrong(snapshot));
      this.uncertain.delete(snapshot);
    } else if (kind === 'clone' && volume.isReadonly && !isFull) {
      const clone = this.newName('c');
      this.uncertain.add(clone);
      await lvols.clone(ref, clone);
      const model = volume.copy();
      model.parent = volume;
      this.volumes.set(clone, model);
      this.uncertain.delete(clone);
    } else if (
      kind === 'delete' &&
      this.childrenOf(volume).length <= 1 &&
      this.reserve(name, 0, volume.blocks.length) !== null
    ) {
      this.uncertain.add(name);
      this.volumes.delete(name);
      await lvols.delete(ref);
      for (const child of this.childrenOf(volume)) (this.volumes.get(child) as ModelVolume).parent = volume.parent;
      this.uncertain.delete(name);
    } else if (kind === 'inflate' && !volume.isReadonly) {
      this.uncertain.add(name);
      const job = lvols.inflate(ref, true);
      await job.ended;
      refuse(job.error === null ? [] : [job.error]);
      volume.parent = null;
      this.uncertain.delete(name);
    }
  }

  /** The disk as a cut at this moment leaves it, in another machine. */
  async cut(seed: number): Promise<void> {
    const { disk } = this;
    disk.cache.want(seed);
    disk.cache.cutIfWanted();
    const image = Uint8Array.from(disk.cache.image);
    const { dirtySectors } = disk.cache.result;
    // What may be there is what it was at this moment: the disk goes on.
    const wanted = new Map([...this.volumes].map(([name, volume]) => [name, volume.copy()]));
    const uncertain = new Set(this.uncertain);
    const { other, base } = await machineWith(image);
    try {
      const found = new LvolModel(other, await other.lvols.loadStore(base));
      const names = found.store.volumes.list().map(({ name }) => name);
      for (const name of wanted.keys()) if (!uncertain.has(name) && !names.includes(name)) refuse([`${name} is gone`]);
      for (const name of names) if (!wanted.has(name) && !uncertain.has(name)) refuse([`${name} is there`]);
      for (const name of names) {
        const volume = wanted.get(name);
        if (volume === undefined) continue;
        found.volumes.set(name, volume);
        refuse(await found.wrong(name));
        this.counts.blocks += volume.blocks.length;
      }
      refuse(await found.store.check());
    } finally {
      await other.close();
    }
    this.counts.cuts++;
    this.counts.dirty += dirtySectors;
  }
}

describe('a store whose power is cut', () => {
  it(
    'has what was flushed, and nothing that it never had',
    async () => {
      const total = { cuts: 0, dirty: 0, blocks: 0 };
      await fc.assert(
        fc.asyncProperty(steps, fc.nat(1e6), async (list, seed) => {
          rig = new LvolRig();
          const { disk, base } = addPowerCutDisk(rig);
          const run = new CutRun(rig, await rig.lvols.createStore(base, 'lvs', CLUSTER_BYTES), disk);
          for (const [i, one] of list.entries()) {
            run.start(one);
            for (let turn = 0; turn < one.turns; turn++) await new Promise((resolve) => setImmediate(resolve));
            if (one.isCut) await run.cut(seed + i);
          }
          await run.idle();
          await run.cut(seed);
          for (const key of ['cuts', 'dirty', 'blocks'] as const) total[key] += run.counts[key];
          await rig.close();
        }),
        { numRuns: RUNS, endOnFailure: true },
      );
      expect(total.cuts).toBeGreaterThan(RUNS);
      expect(total.dirty).toBeGreaterThan(0);
    },
    LIMIT_MS,
  );
});

/** Of a daemon that is killed when it would flush. */
class KilledIo extends PageIo {
  isKilled = false;

  override async flush(): Promise<void> {
    if (this.isKilled) throw new Error('killed');
    await super.flush();
  }
}

describe('a store that is loaded after its daemon was killed within a change', () => {
  it('has that change or has it not, and a power cut later does not alter which', async () => {
    rig = new LvolRig();
    const { disk, base } = addPowerCutDisk(rig);
    await (await rig.lvols.createStore(base, 'lvs', CLUSTER_BYTES)).ready();
    const io = new KilledIo(rig.blocks(), base);
    const killed = await LvolStore.load({ base, io, log: SILENT });
    await killed.change(() => ({ record: record(RecordKind.renameStore, 0, 0, 0, { name: 'other' }) }));
    io.isKilled = true;
    const text = { uuid: '00000000-0000-4000-8000-000000000001', name: 'new' };
    const change = killed.change(() => ({ record: record(RecordKind.create, 1, 4, 1, text) }));
    await expect(change).rejects.toThrow('killed');
    const next = await LvolStore.load({ base, io: new PageIo(rig.blocks(), base), log: SILENT });
    expect(next.volumes.list().map(({ name }) => name)).toEqual(['new']);
    for (let seed = 0; seed < 8; seed++) {
      disk.cache.want(seed);
      disk.cache.cutIfWanted();
      const { other, base: after } = await machineWith(Uint8Array.from(disk.cache.image));
      const found = await other.lvols.loadStore(after);
      expect(found.volumes.list().map(({ name }) => name)).toEqual(['new']);
      await other.close();
    }
    await killed.close();
    await next.close();
  });
});
