/** Mirrors: legs that fail, come back, and are told apart after a crash. */
import { afterEach, describe, expect, it } from 'vitest';
import { BLOCK_BYTES, MirrorRig } from '../../../../test/support/mirror-rig.ts';
import { IoStatus, IoType, NO_WAKE_FD, WOKEN_FROM_BELOW } from '../../bdev-io.ts';
import type { BdevEntry } from '../../registry.ts';
import { assemble } from './mirror-assembly.ts';
import { MAP_OFFSET_BYTES } from './superblock.ts';

const { success, failed } = IoStatus;
const BLOCKS = 8192;
const WRITES = [IoType.write, IoType.writeZeroes, IoType.unmap];

let rigs: MirrorRig[] = [];

function rigOf(hasSuperblock: boolean): MirrorRig {
  const rig = new MirrorRig(hasSuperblock);
  rigs.push(rig);
  return rig;
}

afterEach(async () => {
  for (const rig of rigs) await rig.close();
  rigs = [];
});

async function twoLegs(hasSuperblock: boolean): Promise<{ rig: MirrorRig; a: BdevEntry; b: BdevEntry }> {
  const rig = rigOf(hasSuperblock);
  const a = await rig.leg('A', BLOCKS);
  const b = await rig.leg('B', BLOCKS);
  await rig.start([a, b]);
  return { rig, a, b };
}

const statesOf = ({ mirror }: MirrorRig) => mirror.info().base_bdevs_list.map(({ name, state }) => [name, state]);

describe.each([true, false])('a mirror (superblocks: %s)', (hasSuperblock) => {
  it('makes its legs the same, beginning with the first', async () => {
    const rig = rigOf(hasSuperblock);
    const a = await rig.leg('A', BLOCKS, Buffer.alloc(BLOCKS * BLOCK_BYTES + (hasSuperblock ? 2 ** 20 : 0), 5));
    const b = await rig.leg('B', BLOCKS + 8);
    await rig.start([a, b]);
    expect(rig.disk.blocks).toBe(BLOCKS);
    expect(await rig.read(100)).toBe(5);
    await rig.settled();
    expect(statesOf(rig)).toEqual([
      ['A', 'in_sync'],
      ['B', 'in_sync'],
    ]);
    const [one, other] = [await rig.dataOf(a), await rig.dataOf(b)];
    expect(one.equals(other.subarray(0, one.length))).toBe(true);
    expect(other[0]).toBe(5);
    expect(rig.io.jobs.list()).toMatchObject([{ spec: { type: 'rebuild', bdev: 'R' }, state: 'done' }]);
  });

  it('has on every leg what was written, when that is answered', async () => {
    const { rig, a, b } = await twoLegs(hasSuperblock);
    expect(await rig.write(3, 9, 7)).toBe(success);
    for (const leg of [a, b])
      expect((await rig.dataOf(leg)).subarray(3 * 512, 12 * 512)).toEqual(Buffer.alloc(9 * 512, 7));
    expect(await rig.disk.run(IoType.writeZeroes, 4, 2)).toBe(success);
    expect(await rig.disk.run(IoType.flush, 0, 0)).toBe(success);
    for (const leg of [a, b]) expect((await rig.dataOf(leg))[4 * 512]).toBe(0);
  });

  it('takes out a leg that fails a write, answers the write, and goes on', async () => {
    const { rig, a, b } = await twoLegs(hasSuperblock);
    await rig.settled();
    rig.fail(a, WRITES, 1, 40, 41);
    expect(await rig.write(32, 16, 9)).toBe(success);
    await rig.settled();
    expect(await rig.read(40)).toBe(9);
    expect(rig.mirror.info()).toMatchObject({
      num_base_bdevs_operational: 1,
      base_bdevs_list: [{ name: null, state: 'failed', failures: 1, reason: 'it failed a request' }, { name: 'B' }],
    });
    // It is anybody's now, and the mirror's no more.
    await rig.until(() => a.holder === null);
    expect(await rig.write(0, 8, 3)).toBe(success);
    expect((await rig.dataOf(a))[0]).toBe(0);
    expect((await rig.dataOf(b))[0]).toBe(3);
  });

  it('reads from another leg when one fails, and takes that one out', async () => {
    const { rig, a, b } = await twoLegs(hasSuperblock);
    await rig.settled();
    expect(await rig.write(0, 64, 4)).toBe(success);
    for (const leg of [a, b]) rig.fail(leg, [IoType.read], 1, 8, 9);
    // Whichever is asked first fails; the other one then is the last, and is kept whatever it does.
    expect(await rig.read(8)).toBe(-1);
    expect(await rig.read(8)).toBe(4);
    expect(rig.mirror.info().num_base_bdevs_operational).toBe(1);
  });

  it('gives errors when the last leg does, and takes it out for nothing', async () => {
    const { rig, a, b } = await twoLegs(hasSuperblock);
    await rig.settled();
    for (const leg of [a, b]) rig.fail(leg, [IoType.write], 1, 0, 8);
    expect(await rig.write(0, 8, 1)).toBe(failed);
    expect(await rig.write(0, 8, 1)).toBe(success);
    await rig.settled();
    expect(rig.mirror.info().num_base_bdevs_operational).toBe(1);
  });

  it('goes on when the bdev of a leg is deleted, and goes with that of the last one', async () => {
    const { rig, a, b } = await twoLegs(hasSuperblock);
    await rig.settled();
    await rig.disk.polled(rig.registry.delete(rig.rawOf(a).base));
    expect(statesOf(rig)).toEqual([
      [null, 'missing'],
      ['B', 'in_sync'],
    ]);
    expect(rig.disk.entry.bases).toEqual([b]);
    expect(await rig.write(0, 8, 6)).toBe(success);
    for (const channel of rig.disk.channels.splice(0)) channel.close();
    await rig.registry.delete(b);
    expect(rig.registry.find('R')).toBeUndefined();
  });

  it('rebuilds a leg that is added while it is written to', async () => {
    const { rig, a, b } = await twoLegs(hasSuperblock);
    await rig.settled();
    await rig.disk.polled(rig.mirror.removeLeg(a));
    expect([a.holder, a.users.size]).toEqual([null, 0]);
    for (let i = 0; i < 40; i++) await rig.write(i * 200, 100, i + 1);
    await rig.disk.polled(rig.mirror.addLeg(a));
    for (let i = 0; i < 40; i++) await rig.write(i * 200 + 50, 100, i + 101);
    await rig.settled();
    expect(statesOf(rig)).toEqual([
      ['A', 'in_sync'],
      ['B', 'in_sync'],
    ]);
    expect((await rig.dataOf(a)).equals(await rig.dataOf(b))).toBe(true);
    // The list of bdevs has bases before what stands on them.
    const names = rig.registry.list().map(({ name }) => name);
    expect(names.indexOf('R')).toBe(names.length - 1);
  });

  it('takes out a leg that fails while it is rebuilt, and the rebuild has failed', async () => {
    const { rig, a } = await twoLegs(hasSuperblock);
    await rig.settled();
    await rig.disk.polled(rig.mirror.removeLeg(a));
    for (let i = 0; i < 8; i++) await rig.write(i * 1000, 8, 1);
    rig.fail(a, WRITES, 1, 4000, 4096);
    await rig.disk.polled(rig.mirror.addLeg(a));
    await rig.settled();
    await rig.until(() => a.holder === null);
    expect(statesOf(rig)[0]).toEqual([null, 'failed']);
    expect(await rig.read(1000)).toBe(1);
  });

  it.each([
    ['a leg that is too small', 100, /room for \d+ blocks, and "R" has 8192/],
    ['one more than it has places for', BLOCKS, /has all of its 2 legs/],
  ])('does not take %s', async (_, blocks, message) => {
    const { rig, a } = await twoLegs(hasSuperblock);
    await rig.settled();
    const other = await rig.leg('C', blocks);
    if (blocks < BLOCKS) await rig.disk.polled(rig.mirror.removeLeg(a));
    await expect(rig.disk.polled(rig.mirror.addLeg(other))).rejects.toThrow(message);
    expect(other.holder).toBeNull();
  });

  it('does not close a leg while that one ends its requests', async () => {
    const { rig, a } = await twoLegs(hasSuperblock);
    await rig.settled();
    rig.hold(a, [IoType.write]);
    // Whoever ends a request goes on with its own state after that.
    const closed: string[] = [];
    const legs = [...rig.disk.below].filter(({ name }) => name === 'A');
    for (const leg of legs) {
      const { ioFinished, close } = leg;
      let depth = 0;
      leg.ioFinished = (io) => {
        depth++;
        ioFinished.call(leg, io);
        queueMicrotask(() => depth--);
      };
      leg.close = () => {
        closed.push(depth > 0 ? 'in the middle' : 'later');
        close.call(leg);
      };
    }
    const writing = rig.write(0, 8, 1);
    await rig.until(() => legs.every(({ inFlight }) => inFlight === 1));
    await rig.disk.polled(rig.mirror.removeLeg(a));
    expect(await rig.disk.polled(writing)).toBe(success);
    expect(closed).toEqual(['later']);
  });

  it('asks to be polled for a write that waits until it is recorded who missed it', async () => {
    const { rig, a } = await twoLegs(hasSuperblock);
    await rig.settled();
    expect(await rig.write(0, 8, 1)).toBe(success);
    rig.hold(a, [IoType.write]);
    const writing = rig.write(0, 8, 2);
    const legs = [...rig.disk.below].filter(({ name }) => name === 'A');
    await rig.until(() => rig.disk.inFlight === 1 && legs.every(({ inFlight }) => inFlight === 1));
    for (let i = 0; i < 10; i++) rig.disk.poll();
    // As a reactor that is busy with nothing: the channel sleeps until one below has something.
    const { channel } = rig.disk;
    expect(channel.wakeFd).toBe(WOKEN_FROM_BELOW);
    let woken = 0;
    channel.isAwake = false;
    channel.wake = () => {
      woken++;
      channel.isAwake = true;
    };
    for (const leg of legs) leg.abandon();
    expect([woken, rig.disk.inFlight, channel.wakeFd]).toEqual([1, 1, NO_WAKE_FD]);
    expect(await rig.disk.polled(writing)).toBe(success);
  });

  it('keeps its last leg in sync', async () => {
    const { rig, a, b } = await twoLegs(hasSuperblock);
    await rig.settled();
    await rig.disk.polled(rig.mirror.removeLeg(a));
    await expect(rig.mirror.removeLeg(b)).rejects.toThrow(/last leg of "R" that is in sync/);
  });

  it('grows when all of its legs have, with zeroes', async () => {
    const { rig, a, b } = await twoLegs(hasSuperblock);
    await rig.settled();
    for (const leg of [a, b]) {
      const { base } = rig.rawOf(leg);
      (base.bdev as unknown as { resize(blocks: number): void }).resize(base.bdev.blockCount + 1000);
      expect(rig.disk.blocks).toBe(BLOCKS);
      await rig.disk.polled(rig.registry.changed(base));
    }
    expect(rig.disk.blocks).toBe(BLOCKS + 1000);
    expect(await rig.read(BLOCKS + 999)).toBe(0);
    expect(await rig.write(BLOCKS + 999, 1, 2)).toBe(success);
  });
});

describe('what the legs of a mirror remember', () => {
  /** The legs as a daemon that was killed now would leave them, in a new one. */
  async function afterKill(rig: MirrorRig, legs: readonly BdevEntry[]): Promise<[MirrorRig, BdevEntry[]]> {
    const contents = legs.map((leg) => rig.snapshot(leg));
    const next = rigOf(true);
    const copies: BdevEntry[] = [];
    for (const [i, leg] of legs.entries()) copies.push(await next.leg(leg.name, BLOCKS, contents[i]));
    return [next, copies];
  }

  it('is what was written lately, and a daemon that starts again rebuilds that', async () => {
    const rig = rigOf(true);
    const legs = [await rig.leg('A', BLOCKS), await rig.leg('B', BLOCKS)];
    await rig.start(legs);
    await rig.settled();
    await rig.disk.polled(rig.mirror.sweep());
    await rig.write(2048, 8, 1);
    await rig.disk.polled(rig.mirror.sweep());
    const [next, copies] = await afterKill(rig, legs);
    await next.start(copies);
    await next.settled();
    expect(next.io.jobs.list()).toMatchObject([{ spec: { totalBytes: 2 ** 20 }, state: 'done' }]);
    expect(await next.read(2048)).toBe(1);
    // It was not written again: nothing is left to rebuild.
    await rig.disk.polled(rig.mirror.sweep());
    const [last, others] = await afterKill(rig, legs);
    await last.start(others);
    expect(last.io.jobs.list()).toEqual([]);
    expect(await last.read(2048)).toBe(1);
  });

  it('has nothing to rebuild after an orderly end', async () => {
    const rig = rigOf(true);
    const legs = [await rig.leg('A', BLOCKS), await rig.leg('B', BLOCKS)];
    await rig.start(legs);
    await rig.settled();
    await rig.write(0, 8, 1);
    for (const channel of rig.disk.channels.splice(0)) channel.close();
    await rig.registry.delete(rig.disk.entry);
    const [next, copies] = await afterKill(rig, legs);
    await next.start(copies);
    expect(next.io.jobs.list()).toEqual([]);
    expect(next.mirror.info().num_base_bdevs_operational).toBe(2);
    expect(await next.write(4096, 8, 1)).toBe(success);
    // The first write to a region has marked it: that alone is rebuilt after a crash.
    const [last, others] = await afterKill(next, copies);
    await last.start(others);
    await last.settled();
    expect(last.io.jobs.list()).toMatchObject([{ spec: { totalBytes: 2 ** 20 } }]);
  });

  it('knows the leg that missed something, whatever the order in which they are named', async () => {
    const { rig, a, b } = await twoLegs(true);
    await rig.settled();
    // From here on the region is marked: the next write goes to the legs at once.
    expect(await rig.write(0, 8, 5)).toBe(success);
    rig.fail(a, [IoType.write], 1, 0, 8);
    rig.disk.guest.fill(9, 0, 8 * BLOCK_BYTES);
    const segments = [{ offset: 0, length: 8 * BLOCK_BYTES }];
    // Killed in the moment in which it is answered.
    const writeAndDie = async () => {
      expect(await rig.disk.submit(IoType.write, 0, 8, segments)).toBe(success);
      return await afterKill(rig, [a, b]);
    };
    const [next, legs] = await rig.disk.polled(writeAndDie());
    await next.start(legs);
    expect(statesOf(next)).toEqual([
      [null, 'failed'],
      ['B', 'in_sync'],
    ]);
    expect(await next.read(0)).toBe(9);
    // It lacks what is marked since, and nothing else.
    const [stale] = legs as [BdevEntry];
    await next.disk.polled(next.mirror.addLeg(stale));
    await next.settled();
    expect((await next.dataOf(stale))[0]).toBe(9);
  });

  it('rebuilds only what a leg has missed that comes back', async () => {
    const rig = rigOf(true);
    const legs = [await rig.leg('A', BLOCKS), await rig.leg('B', BLOCKS)] as const;
    await rig.start(legs);
    await rig.settled();
    for (const channel of rig.disk.channels.splice(0)) channel.close();
    await rig.registry.delete(rig.disk.entry);
    const [next, [a, b]] = (await afterKill(rig, legs)) as [MirrorRig, [BdevEntry, BdevEntry]];
    await next.start([a, b]);
    await next.disk.polled(next.mirror.removeLeg(a));
    await next.write(4096, 8, 3);
    await next.disk.polled(next.mirror.addLeg(a));
    await next.settled();
    expect(next.io.jobs.list()).toMatchObject([{ spec: { totalBytes: 2 ** 20 }, state: 'done' }]);
    expect((await next.dataOf(a)).equals(await next.dataOf(b))).toBe(true);
  });

  it('goes on with a rebuild that was not done', async () => {
    const { rig, a, b } = await twoLegs(true);
    await rig.settled();
    await rig.disk.polled(rig.mirror.removeLeg(a));
    await rig.write(0, 4096, 8);
    rig.io.options.mibPerSec = 1;
    await rig.disk.polled(rig.mirror.addLeg(a));
    const [next, legs] = await afterKill(rig, [a, b]);
    await next.start(legs);
    expect(statesOf(next)).toEqual([
      ['A', 'rebuilding'],
      ['B', 'in_sync'],
    ]);
    await next.settled();
    expect((await next.dataOf(legs[0] as BdevEntry)).equals(await next.dataOf(legs[1] as BdevEntry))).toBe(true);
  });

  it('keeps a leg from being used alone when another one may have newer data', async () => {
    const { rig, a } = await twoLegs(true);
    await rig.settled();
    const [next, [alone]] = (await afterKill(rig, [a])) as [MirrorRig, [BdevEntry]];
    await expect(next.start([alone], { absent: ['B'] })).rejects.toThrow(
      /leg 1 of .*"R".* is not there \(B\?\), and was in sync/,
    );
    await next.start([alone], { absent: ['B'], allowsDegraded: true });
    expect(statesOf(next)).toEqual([
      ['A', 'in_sync'],
      [null, 'missing'],
    ]);
    // Once it is said, it is known.
    const [last, legs] = await afterKill(next, [alone]);
    await last.start(legs);
    expect(last.mirror.info().num_base_bdevs_operational).toBe(1);
  });

  it('keeps legs of several mirrors apart, and those that are no legs', async () => {
    const { rig, a } = await twoLegs(true);
    await rig.settled();
    const other = rigOf(true);
    const strange = await other.leg('X', BLOCKS);
    await other.start([strange], { name: 'Q', slots: 2 });
    const next = rigOf(true);
    const one = await next.leg('A', BLOCKS, await rig.contentOf(a));
    const two = await next.leg('X', BLOCKS, await other.contentOf(strange));
    const plain = await next.leg('P', BLOCKS);
    const request = {
      name: 'R',
      uuid: undefined,
      absent: [],
      hasSuperblock: true,
      slots: undefined,
      allowsDegraded: true,
    };
    const join = (bases: readonly BdevEntry[], more = {}) => assemble({ ...request, bases, ...more }, next.io.blocks);
    await expect(join([one, two])).rejects.toThrow(/"X" is of RAID disk "R" .*, "A" of RAID disk "R"/);
    await expect(join([one, plain])).rejects.toThrow(/"P" has no superblock, as "A" of RAID disk "R"/);
    await expect(join([one], { hasSuperblock: false })).rejects.toThrow(/"A" is of RAID disk "R": ask for it with/);
    await expect(join([one], { uuid: '00000000-0000-4000-8000-000000000000' })).rejects.toThrow(/leave the UUID out/);
    await next.start([one], { allowsDegraded: true });
    await expect(next.disk.polled(next.mirror.addLeg(two))).rejects.toThrow(/"X" is of RAID disk .*: erase it first/);
  });

  it('is enough after a power cut: legs that kept different writes are made the same', async () => {
    const rig = rigOf(true);
    const legs = [rig.volatileLeg('A', BLOCKS), rig.volatileLeg('B', BLOCKS)];
    await rig.start(legs);
    await rig.settled();
    // Nothing is marked, and that is stable.
    expect(await rig.disk.run(IoType.flush, 0, 0)).toBe(success);
    let differed = 0;
    for (let region = 0; region < 4; region++) {
      expect(await rig.write(region * 2048 + 7, 24, region + 1)).toBe(success);
      for (let seed = 0; seed < 50; seed++) {
        const images = legs.map((leg, i) => rig.afterCut(leg, seed * 2 + i)) as [Uint8Array, Uint8Array];
        if (Buffer.compare(...(images.map((image) => image.subarray(2 ** 20)) as typeof images)) === 0) continue;
        differed++;
        const isMarked = images.some((image) => ((image[MAP_OFFSET_BYTES] as number) & (1 << region)) !== 0);
        expect([region, seed, isMarked]).toEqual([region, seed, true]);
      }
    }
    expect(differed).toBeGreaterThan(0);
    expect(await rig.disk.run(IoType.flush, 0, 0)).toBe(success);
    expect(await rig.write(7, 24, 9)).toBe(success);
    const next = rigOf(true);
    const copies = [
      await next.leg('A', BLOCKS, rig.afterCut(legs[0] as BdevEntry, 1)),
      await next.leg('B', BLOCKS, rig.afterCut(legs[1] as BdevEntry, 2)),
    ];
    await next.start(copies);
    await next.settled();
    const [one, other] = await Promise.all(copies.map((copy) => next.dataOf(copy)));
    expect(Buffer.compare(one as Buffer, other as Buffer)).toBe(0);
    for (let region = 1; region < 4; region++) expect(await next.read(region * 2048 + 7)).toBe(region + 1);
    expect([1, 9]).toContain(await next.read(7));
  });

  it('is erased with the mirror when that is asked for', async () => {
    const { rig, a } = await twoLegs(true);
    await rig.settled();
    for (const channel of rig.disk.channels.splice(0)) channel.close();
    rig.mirror.clearSuperblocks();
    await rig.registry.delete(rig.disk.entry);
    expect((await rig.contentOf(a)).subarray(0, 2 ** 20).every((byte) => byte === 0)).toBe(true);
  });

  it('cannot be changed: writes that a lost leg misses fail, and nothing hangs', async () => {
    const { rig, a, b } = await twoLegs(true);
    await rig.settled();
    rig.fail(a, [IoType.write], 1, 0, 8);
    // The superblock is before the data.
    rig.fail(b, [IoType.write], 1000, -2048, -2040);
    expect(await rig.write(0, 8, 1)).toBe(failed);
    rig.heal(b);
  });
});
