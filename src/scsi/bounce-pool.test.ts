import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ScsiRig } from '../../test/support/scsi-rig.ts';
import { BdevIo } from '../bdev/bdev-io.ts';
import { IovArena } from '../sys/iov-arena.ts';
import { BouncePool, type BounceWaiter, NO_BOUNCE } from './bounce-pool.ts';

const BYTES = 4096;

describe('a bounce pool', () => {
  let arena: IovArena;
  let pool: BouncePool;
  beforeEach(() => {
    arena = new IovArena(8, 1);
    pool = new BouncePool(arena, 2, BYTES);
  });
  afterEach(() => {
    pool.close();
    arena.close();
  });

  const waiter = (): BounceWaiter & { got: number[] } => {
    const got: number[] = [];
    return { got, bounceReady: (index) => got.push(index) };
  };

  it('gives each buffer to one at a time', () => {
    const [first, second, third] = [waiter(), waiter(), waiter()];
    const taken = [pool.take(first), pool.take(second), pool.take(third)];
    expect(taken.slice(0, 2).sort()).toEqual([0, 1]);
    expect(taken[2]).toBe(NO_BOUNCE);
    pool.release(0);
    expect(third.got).toEqual([0]);
    pool.release(0);
    pool.release(1);
  });

  it('serves those that wait in their order, without those that gave up', () => {
    const waiters = [waiter(), waiter(), waiter()];
    const held = [pool.take(waiter()), pool.take(waiter())];
    for (const one of waiters) expect(pool.take(one)).toBe(NO_BOUNCE);
    pool.giveUp(waiters[1] as BounceWaiter);
    for (const index of held) pool.release(index);
    expect(waiters.map(({ got }) => got.length)).toEqual([1, 0, 1]);
    pool.release(0);
    pool.release(1);
  });

  it('describes a buffer as one segment that holds its bytes', () => {
    const io = new BdevIo({ ioDone() {} });
    pool.describe(1, io, 512);
    expect([io.iovCount, arena.lengthOf(io.iovFirst)]).toEqual([1, 512]);
    const other = new BdevIo({ ioDone() {} });
    pool.describe(0, other, BYTES);
    expect(arena.addressOf(io.iovFirst) - arena.addressOf(other.iovFirst)).toBe(BYTES);
    pool.bytes(0).fill(1);
    expect(pool.bytes(1).every((byte) => byte === 0)).toBe(true);
  });

  it('is not closed while a buffer is out', () => {
    pool.take(waiter());
    expect(() => pool.close()).toThrow(/back/);
    pool.release(1);
  });
});

describe('commands that wait for a bounce buffer', () => {
  it('do not recurse, however many of them end at once', () => {
    const rig = new ScsiRig({ buffers: 1 });
    rig.disk.isHolding = true;
    const tasks = Array.from({ length: 20_000 }, () => rig.start('2f 00 00 00 00 00 00 00 01 00'));
    expect(rig.disk.log).toHaveLength(1);
    rig.disk.isHolding = false;
    rig.disk.isImmediate = true;
    rig.settle();
    expect(tasks.every(({ answer }) => answer?.status === 0)).toBe(true);
    rig.close();
  });
});
