/** What every bdev's channel does around its module. */
import { describe, expect, it } from 'vitest';
import { describeBdev, HeldChannel, RecordingOwner } from '../../test/support/bdev-rig.ts';
import { AssertionError } from '../base/assert.ts';
import type { IovArena } from '../sys/iov-arena.ts';
import { clockNs } from '../sys/thread.ts';
import type { BdevDescription } from './bdev.ts';
import { GUEST_IO_TYPES, IoStatus, IoType, NO_WAKE_FD } from './bdev-io.ts';
import { createStats, REGIONS, readLatencies, readRegions, readStats, statsRows } from './bdev-stats.ts';
import { BdevChannel } from './channel.ts';

const { success, failed, aborted } = IoStatus;
const context = { arena: null as unknown as IovArena };

function channelOf(parts: Partial<BdevDescription> = {}): {
  channel: BdevChannel;
  module: HeldChannel;
  owner: RecordingOwner;
} {
  const module = new HeldChannel();
  return {
    module,
    owner: new RecordingOwner(),
    channel: new BdevChannel(describeBdev(parts), () => module, context, 0),
  };
}

describe('waking', () => {
  it('is as the module has it, until the bdev is gone', async () => {
    const { channel, module } = channelOf();
    module.wakeFd = 42;
    expect([channel.wakeFd, channel.arm(), module.isArmed]).toEqual([42, false, true]);
    channel.disarm();
    expect(module.isArmed).toBe(false);
    await channel.remove();
    expect([channel.wakeFd, channel.arm(), module.isArmed]).toEqual([NO_WAKE_FD, false, false]);
    channel.disarm();
  });
});

describe('a request', () => {
  it('goes to the module and ends when the module says so', () => {
    const { channel, module, owner } = channelOf();
    channel.submit(owner.io(IoType.read, 10, 5));
    expect([channel.inFlight, module.held.length, owner.ended.length]).toEqual([1, 1, 0]);
    module.complete(success);
    expect([channel.inFlight, owner.statuses]).toEqual([0, [success]]);
  });

  it.each([
    ['the whole disk', 0, 100, true],
    ['the last block', 99, 1, true],
    ['nothing, at the end', 100, 0, true],
    ['one block too many', 99, 2, false],
    ['a block past the end', 100, 1, false],
    ['nothing, past the end', 101, 0, false],
    ['what is far outside', 2 ** 60, 1, false],
    ['a huge count', 1, 2 ** 60, false],
  ])('for %s is checked before the module sees it', (_, offset, count, isInside) => {
    for (const type of [IoType.read, IoType.write, IoType.unmap, IoType.writeZeroes]) {
      const { channel, module, owner } = channelOf();
      channel.submit(owner.io(type, offset, count));
      expect([module.held.length, owner.statuses]).toEqual(isInside ? [1, []] : [0, [failed]]);
    }
  });

  it('of a type that the module does not have fails', () => {
    for (const type of [IoType.read, IoType.write, IoType.unmap, IoType.writeZeroes]) {
      const { channel, module, owner } = channelOf({ ioTypes: [IoType.flush] });
      channel.submit(owner.io(type));
      expect([module.held.length, owner.statuses, channel.inFlight]).toEqual([0, [failed], 0]);
    }
  });

  it('to flush succeeds where there is nothing to flush', () => {
    for (const parts of [{ hasWriteCache: false }, { hasWriteCache: true, ioTypes: [IoType.write] }]) {
      const { channel, module, owner } = channelOf(parts);
      channel.submit(owner.io(IoType.flush, 0, 0));
      expect([module.held.length, owner.statuses]).toEqual([0, [success]]);
    }
  });

  it('to flush reaches a module with a write cache, whatever its range', () => {
    const { channel, module, owner } = channelOf({ hasWriteCache: true });
    channel.submit(owner.io(IoType.flush, 500, 500));
    expect(module.held).toHaveLength(1);
    module.complete(failed);
    expect(owner.statuses).toEqual([failed]);
  });

  it('is made early where it makes a connection, and nowhere else', async () => {
    const { channel, module } = channelOf({ hasWriteCache: true });
    await channel.connect();
    expect(module.held).toEqual([]);
    module.hasConnection = true;
    const connected = channel.connect();
    expect(module.held.map(({ type }) => type)).toEqual([IoType.flush]);
    module.complete(failed);
    await connected;
  });

  it('may end inside the submission, and its owner may submit another then', () => {
    const { channel, module, owner } = channelOf();
    module.immediateStatus = success;
    const second = owner.io(IoType.write, 1);
    owner.ioDone = (io) => {
      owner.ended.push({ type: io.type, status: io.status, tag: io.tag });
      if (io !== second) channel.submit(second);
    };
    channel.submit(owner.io(IoType.write, 0));
    expect(owner.ended.map(({ tag }) => tag)).toEqual([0, 1]);
    expect(channel.inFlight).toBe(0);
  });

  it('is accounted for before its owner hears of it', () => {
    const { channel, module, owner } = channelOf();
    let inFlight = -1;
    owner.ioDone = () => {
      inFlight = channel.inFlight;
    };
    channel.submit(owner.io(IoType.read));
    module.complete();
    expect(inFlight).toBe(0);
  });
});

describe('polling', () => {
  it('leaves the module alone while nothing is in flight', () => {
    const { channel, module, owner } = channelOf();
    expect([channel.poll(), module.polls]).toEqual([0, 0]);
    channel.submit(owner.io(IoType.read));
    channel.poll();
    expect(module.polls).toBe(1);
    module.complete();
    channel.poll();
    expect(module.polls).toBe(1);
  });
});

describe('a bdev that goes away', () => {
  it('refuses what is new, waits for what is in flight, then closes the module, once', async () => {
    const { channel, module, owner } = channelOf();
    channel.submit(owner.io(IoType.read, 1));
    channel.submit(owner.io(IoType.write, 2));
    let removals = 0;
    const removed = [channel.remove(), channel.remove()].map((one) => one.then(() => removals++));
    channel.submit(owner.io(IoType.read, 3));
    channel.submit(owner.io(IoType.flush, 4, 0));
    expect(owner.ended.map(({ tag, status }) => [tag, status])).toEqual([
      [3, failed],
      [4, failed],
    ]);
    module.complete(success, 1);
    await Promise.resolve();
    expect([removals, module.closes]).toEqual([0, 0]);
    module.complete(aborted);
    await Promise.all(removed);
    expect([removals, module.closes, channel.inFlight]).toEqual([2, 1, 0]);
    channel.close();
    expect(module.closes).toBe(1);
  });

  it('because its device is gone refuses what is new at once, and says so once', () => {
    const gone: number[] = [];
    const module = new HeldChannel();
    const owner = new RecordingOwner();
    const description = describeBdev({ id: 7 });
    const channel = new BdevChannel(description, () => module, { ...context, onGone: (id) => gone.push(id) }, 0);
    for (let block = 0; block < 3; block++) channel.submit(owner.io(IoType.read, block));
    module.complete(IoStatus.failed);
    expect([gone, channel.isRemoved]).toEqual([[], false]);
    module.complete(IoStatus.gone);
    module.complete(IoStatus.gone);
    channel.submit(owner.io(IoType.read));
    expect([gone, channel.isRemoved, owner.statuses]).toEqual([
      [7],
      true,
      [failed, IoStatus.gone, IoStatus.gone, failed],
    ]);
  });

  it('has no module when the channel is opened after that', () => {
    const owner = new RecordingOwner();
    const channel = new BdevChannel(
      describeBdev({ isRemoved: true }),
      () => {
        throw new Error('opened');
      },
      context,
      0,
    );
    channel.submit(owner.io(IoType.read));
    expect([owner.statuses, channel.poll(), channel.isRemoved]).toEqual([[failed], 0, true]);
    channel.update(describeBdev());
    channel.close();
  });

  it('is not closed with a request in flight: that would be our own mistake', () => {
    const { channel, module, owner } = channelOf();
    channel.submit(owner.io(IoType.read));
    expect(() => channel.close()).toThrow(AssertionError);
    module.complete();
    channel.close();
    expect(module.closes).toBe(1);
  });
});

describe('draining', () => {
  it('is over at once when nothing is in flight, and for all that wait at the same time', async () => {
    const { channel, module, owner } = channelOf();
    await channel.drained();
    channel.submit(owner.io(IoType.read));
    const waiting = [channel.drained(), channel.drained()];
    module.complete();
    await Promise.all(waiting);
    expect(channel.inFlight).toBe(0);
  });
});

describe('a new description', () => {
  it('moves the end of the disk and reaches the module', () => {
    const { channel, module, owner } = channelOf();
    const grown = describeBdev({ blockCount: 200 });
    channel.update(grown);
    channel.submit(owner.io(IoType.read, 150, 50));
    expect([module.updates, module.held.length]).toEqual([[grown], 1]);
    module.complete();
    channel.update(describeBdev({ blockCount: 50 }));
    channel.submit(owner.io(IoType.read, 50, 1));
    expect(owner.statuses).toEqual([success, failed]);
  });
});

describe('counters', () => {
  it('have a row for each reactor and count by type what succeeded, and what failed apart', () => {
    const stats = createStats(3);
    const module = new HeldChannel();
    const owner = new RecordingOwner();
    const channel = new BdevChannel(describeBdev({ stats }), () => module, context, 1);
    for (const [type, count] of [
      [IoType.read, 1],
      [IoType.read, 3],
      [IoType.unmap, 8],
    ] as const) {
      channel.submit(owner.io(type, 0, count));
      module.complete();
    }
    channel.submit(owner.io(IoType.write, 0, 2));
    module.complete(failed);
    channel.submit(owner.io(IoType.write, 1000, 2));
    expect(statsRows(stats)).toBe(3);
    const row = (reactor: number) => GUEST_IO_TYPES.map((type) => Object.values(readStats(stats, reactor, type)));
    expect(row(1).map((counts) => counts.slice(0, 3))).toEqual([
      [2, 2048, 0],
      [0, 0, 2],
      [0, 0, 0],
      [1, 4096, 0],
      [0, 0, 0],
    ]);
    expect([row(0), row(2)].flat(2).every((value) => value === 0)).toBe(true);
  });
});

describe('latency', () => {
  /** Holds a request until the clock has moved on by so much. */
  function hold(rig: ReturnType<typeof channelOf>, type: IoType, ns: number, status: IoStatus = success): void {
    rig.channel.submit(rig.owner.io(type));
    const startNs = clockNs();
    while (clockNs() - startNs < ns);
    rig.module.complete(status);
  }

  const latencyOf = (stats: SharedArrayBuffer, type: IoType): number => readStats(stats, 0, type).latencyNs;
  /** Of a stamp, at both ends. */
  const STEP_NS = 32;

  it('is the time from submission to completion, of each type apart, when requests are slow', () => {
    const stats = createStats(1);
    const rig = channelOf({ stats });
    const startNs = clockNs();
    for (const ns of [20_000, 100_000, 50_000]) hold(rig, IoType.read, ns);
    const readNs = clockNs() - startNs;
    hold(rig, IoType.write, 300_000);
    expect(latencyOf(stats, IoType.read)).toBeGreaterThan(170_000 - 3 * STEP_NS);
    expect(latencyOf(stats, IoType.read)).toBeLessThan(readNs + 3 * STEP_NS);
    expect(latencyOf(stats, IoType.write)).toBeGreaterThan(300_000 - STEP_NS);
    expect(latencyOf(stats, IoType.unmap)).toBe(0);
  });

  it('of many fast requests is what those that were timed took, times their number', () => {
    const stats = createStats(1);
    const rig = channelOf({ stats });
    rig.module.immediateStatus = success;
    const startNs = clockNs();
    for (let i = 0; i < 32 * 100; i++) rig.channel.submit(rig.owner.io(IoType.read));
    const elapsedNs = clockNs() - startNs;
    const { operations, latencyNs } = readStats(stats, 0, IoType.read);
    expect(operations).toBe(3200);
    // A request that the machine held up stands for 48 at most.
    expect(latencyNs).toBeLessThan(49 * elapsedNs);
    const timed = readLatencies(stats, IoType.read).reduce((sum, count) => sum + count, 0);
    expect(timed).toBeLessThanOrEqual(3200);
    expect(timed).toBeGreaterThan(3200 - 48);
  });

  it('is that of each when several are slow at once', () => {
    const stats = createStats(1);
    const rig = channelOf({ stats });
    rig.channel.submit(rig.owner.io(IoType.read));
    rig.channel.submit(rig.owner.io(IoType.read));
    hold(rig, IoType.read, 100_000);
    rig.module.complete();
    rig.module.complete();
    expect(latencyOf(stats, IoType.read)).toBeGreaterThan(3 * (100_000 - STEP_NS));
  });

  it('counts no failure', () => {
    const stats = createStats(1);
    const rig = channelOf({ stats });
    hold(rig, IoType.read, 20_000, failed);
    expect(latencyOf(stats, IoType.read)).toBe(0);
    hold(rig, IoType.read, 20_000);
    expect(latencyOf(stats, IoType.read)).toBeGreaterThan(20_000 - STEP_NS);
  });

  it('goes on where the last channel of the reactor stopped', () => {
    const stats = createStats(1);
    hold(channelOf({ stats }), IoType.read, 20_000);
    const before = latencyOf(stats, IoType.read);
    hold(channelOf({ stats }), IoType.read, 20_000);
    const grown = latencyOf(stats, IoType.read) - before;
    expect(grown).toBeGreaterThan(20_000 - STEP_NS);
    expect(readStats(stats, 0, IoType.read).operations).toBe(2);
  });
});

describe('places', () => {
  it('are the regions where requests begin, of reads and of what changes the disk apart', () => {
    const stats = createStats(1);
    const { channel, module, owner } = channelOf({ stats, blockCount: REGIONS * 10 });
    module.immediateStatus = success;
    for (const [type, block] of [
      [IoType.read, 0],
      [IoType.read, 9],
      [IoType.read, REGIONS * 10 - 1],
      [IoType.write, 35],
      [IoType.unmap, 39],
      [IoType.flush, 1000],
    ] as const) {
      channel.submit(owner.io(type, block));
    }
    module.immediateStatus = failed;
    channel.submit(owner.io(IoType.read, 70));
    const at = (kind: 'reads' | 'writes') =>
      [...readRegions(stats, kind)].flatMap((count, region) => (count > 0 ? [[region, count]] : []));
    expect(at('reads')).toEqual([
      [0, 2],
      [REGIONS - 1, 1],
    ]);
    expect(at('writes')).toEqual([[3, 2]]);
  });
});
