/** Volumes, snapshots and clones, as operators and guests see them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { refuse } from '../../../../test/support/lvol-model.ts';
import { CLUSTER_BYTES, LvolRig } from '../../../../test/support/lvol-rig.ts';
import { IoType } from '../../bdev-io.ts';
import { JobControl } from '../../job-control.ts';
import type { BdevEntry } from '../../registry.ts';
import { ErrorBdev } from '../error/error.ts';
import { Fault } from '../error/rules.ts';
import type { LvolStore } from './store.ts';

const MIB = 2 ** 20;
const CLUSTER_BLOCKS = CLUSTER_BYTES / 512;

let rig: LvolRig;
let base: BdevEntry;
let store: LvolStore;

beforeEach(async () => {
  rig = new LvolRig();
  base = rig.addMalloc('Base', 8 * MIB);
  store = await rig.lvols.createStore(base, 'lvs', CLUSTER_BYTES);
});
afterEach(async () => {
  for (const one of rig.lvols.stores) refuse(await one.check());
  await rig.close();
});

const entryOf = (name: string): BdevEntry => rig.registry.get(name);
const write = (name: string, block: number, value: number, count = 1, reactor = 1): Promise<void> =>
  rig.blocks(reactor).write(entryOf(name), block, new Uint8Array(count * 512).fill(value));
const read = async (name: string, block: number, reactor = 1): Promise<number> => {
  const bytes = await rig.blocks(reactor).read(entryOf(name), block, 1);
  expect(new Set(bytes).size).toBe(1);
  return bytes[0] as number;
};
const free = (): number => store.memory.available;

describe('a thin volume', () => {
  it('reads as zeroes, and has clusters where it was written, seen by every reactor', async () => {
    const uuid = await rig.lvols.create(store, 'a', 1, true);
    expect(entryOf('lvs/a')).toBe(entryOf(uuid));
    expect(entryOf(uuid).sizeBytes).toBe(MIB);
    const before = free();
    expect(await read(uuid, 5)).toBe(0);
    await write(uuid, 5, 7);
    expect([await read(uuid, 5), await read(uuid, 4), await read(uuid, 5, 0)]).toEqual([7, 0, 7]);
    expect(before - free()).toBe(1);
    await write(uuid, CLUSTER_BLOCKS - 1, 9, 2);
    expect([await read(uuid, CLUSTER_BLOCKS - 1), await read(uuid, CLUSTER_BLOCKS), before - free()]).toEqual([
      9, 9, 2,
    ]);
  });

  it('keeps its data when the store is loaded again', async () => {
    await rig.lvols.create(store, 'a', 1, true);
    await write('lvs/a', 40, 3);
    await rig.lvols.unloadStore(store);
    expect(rig.registry.list()).toEqual([base]);
    store = await rig.lvols.loadStore(base);
    expect([await read('lvs/a', 40), await read('lvs/a', 41), store.name]).toEqual([3, 0, 'lvs']);
  });

  it('never shows what another volume had there', async () => {
    await rig.lvols.create(store, 'a', 6, true);
    for (let cluster = 0; cluster < 300; cluster++) await write('lvs/a', cluster * CLUSTER_BLOCKS, 1, CLUSTER_BLOCKS);
    await rig.lvols.delete(rig.lvols.find('lvs/a'));
    await rig.lvols.create(store, 'b', 6, true);
    for (let cluster = 0; cluster < 300; cluster++) {
      await write('lvs/b', cluster * CLUSTER_BLOCKS + 1, 2);
      expect(await read('lvs/b', cluster * CLUSTER_BLOCKS)).toBe(0);
    }
  });
});

describe('a snapshot', () => {
  it('keeps what there was, while the volume goes on and clones share it', async () => {
    const { lvols } = rig;
    await lvols.create(store, 'a', 1, true);
    await write('lvs/a', 0, 1, CLUSTER_BLOCKS);
    await lvols.snapshot(lvols.find('lvs/a'), 's');
    const before = free();
    await lvols.clone(lvols.find('lvs/s'), 'c');
    await write('lvs/a', 3, 2);
    await write('lvs/c', 4, 3);
    expect(before - free()).toBe(2);
    expect(
      await Promise.all(['a', 's', 'c'].flatMap((name) => [3, 4, 5].map((at) => read(`lvs/${name}`, at)))),
    ).toEqual([2, 1, 1, 1, 1, 1, 1, 3, 1]);
    await expect(write('lvs/s', 0, 9)).rejects.toMatchObject({ code: 'EIO' });
    await expect(lvols.delete(lvols.find('lvs/s'))).rejects.toMatchObject({ code: 'EBUSY' });
    await lvols.delete(lvols.find('lvs/c'));
    await lvols.delete(lvols.find('lvs/s'));
    expect([await read('lvs/a', 3), await read('lvs/a', 5)]).toEqual([2, 1]);
    await lvols.delete(lvols.find('lvs/a'));
    expect(free()).toBe(store.geometry.clusterCount);
  });
});

describe('over a disk that does not answer', () => {
  let faulty: ErrorBdev;

  beforeEach(async () => {
    await rig.lvols.unloadStore(store);
    faulty = new ErrorBdev({ name: 'EE_Base', base });
    const over = rig.registry.create('EE_Base', undefined, () => faulty, { bases: [base] });
    store = await rig.lvols.loadStore(over);
  });

  /** The next read does not end before this is called. */
  function holdOneRead(): () => Promise<void> {
    faulty.inject({
      ...{ types: [IoType.read], fault: Fault.pending, count: 1, queueDepth: 0, nth: 1, probability: 1, seed: 0 },
      ...{ firstBlock: 0, endBlock: base.bdev.blockCount, corruptOffset: 0, corruptValue: 0 },
    });
    return () => {
      faulty.faults.resume();
      return rig.registry.changed(rig.registry.get('EE_Base'));
    };
  }

  it('gives a cluster to nobody else while a request to it is under way: writes that need it wait', async () => {
    for (const name of ['a', 'b']) await rig.lvols.create(store, name, 8, true);
    await write('lvs/a', 0, 1, CLUSTER_BLOCKS);
    const clusters = store.geometry.clusterCount - 1;
    for (let cluster = 0; cluster < clusters; cluster++) await write('lvs/b', cluster * CLUSTER_BLOCKS, 2);
    const letGo = holdOneRead();
    const reading = read('lvs/a', 0);
    const whole = { type: IoType.unmap, target: entryOf('lvs/a'), ranges: [[0, CLUSTER_BLOCKS]] as const };
    await rig.blocks(0).transfer(whole, new JobControl());
    expect([free(), store.memory.going]).toEqual([1, 1]);
    const writing = write('lvs/b', clusters * CLUSTER_BLOCKS, 2).then(() => 'written');
    // Longer than the store waits at a time, twice.
    expect(await Promise.race([writing, sleep(3500)])).toBeUndefined();
    await letGo();
    expect([await reading, await writing]).toEqual([1, 'written']);
    expect([await read('lvs/b', clusters * CLUSTER_BLOCKS), await read('lvs/a', 0)]).toEqual([2, 0]);
  });
});

it('fails what comes while a volume becomes smaller, when it is past the end then', async () => {
  await rig.lvols.create(store, 'a', 2, true);
  await write('lvs/a', 0, 1);
  expect(store.memory.tryMainLock()).toBe(true);
  const resizing = rig.lvols.resize(rig.lvols.find('lvs/a'), 1);
  await sleep(20);
  const writing = Promise.allSettled([write('lvs/a', MIB / 512, 2), write('lvs/a', 0, 3)]);
  await sleep(20);
  store.memory.unlock();
  await resizing;
  expect(await writing).toMatchObject([{ reason: { code: 'EIO' } }, { status: 'fulfilled' }]);
  expect(await read('lvs/a', 0)).toBe(3);
});
