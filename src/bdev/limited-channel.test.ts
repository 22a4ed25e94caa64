/** Requests that are taken back while they wait for a limit. */
import { afterEach, describe, expect, it } from 'vitest';
import { describeBdev, HeldChannel } from '../../test/support/bdev-rig.ts';
import { BdevIo, type IoOwner, IoStatus, IoType } from './bdev-io.ts';
import { createStats, readStats } from './bdev-stats.ts';
import { BdevChannel } from './channel.ts';
import { createLimits, type Sharer } from './fair-shares.ts';
import { LimitedChannel } from './limited-channel.ts';
import { NO_LIMITS, RateStores } from './rate-limits.ts';

const { success, withdrawn } = IoStatus;
const NS_PER_S = 1e9;
const PER_S = 10;

/** A queue that submits requests and keeps how they ended. */
class Queue implements IoOwner {
  readonly sharer: Sharer;
  readonly ended: IoStatus[] = [];

  constructor(number: number) {
    this.sharer = { number, weight: 100 };
  }

  ioDone(io: BdevIo): void {
    this.ended.push(io.status);
  }

  io(type: IoType = IoType.read): BdevIo {
    const io = new BdevIo(this);
    io.type = type;
    io.lengthBytes = 512;
    return io;
  }
}

const open: LimitedChannel[] = [];
afterEach(() => {
  for (const channel of open.splice(0)) channel.close();
});

/** Ten requests a second, on so many reactors, in a time of the test's own. */
function limited(reactors = 1) {
  const time = { ns: 1e12 };
  const clock = (): number => time.ns;
  const memory = createLimits(reactors);
  new RateStores(memory, clock).set({ ...NO_LIMITS, rwIos: PER_S, burstMs: 1 });
  const modules = Array.from({ length: reactors }, () => new HeldChannel());
  const channels = modules.map((module, i) => new LimitedChannel(module, memory, i, clock));
  open.push(...channels);
  return { channels: channels as [LimitedChannel, ...LimitedChannel[]], modules, time };
}

describe('requests that are withdrawn from a limit', () => {
  it('end as such, and no other: not those of another queue of the same controller, nor what a disk above made', () => {
    const { channels, modules, time } = limited();
    const [channel] = channels;
    const [one, other] = [new Queue(1), new Queue(1)];
    // The first has what there is; more wait than are offered.
    for (let i = 0; i < 41; i++) channel.submit(one.io(i % 2 === 0 ? IoType.read : IoType.write));
    for (let i = 0; i < 3; i++) channel.submit(other.io());
    const above = new BdevIo({ ioDone: () => other.ended.push(success) });
    above.parent = one.io();
    above.lengthBytes = 512;
    channel.submit(above);
    channel.withdraw(one.sharer);
    expect(one.ended).toEqual(Array.from({ length: 40 }, () => withdrawn));
    expect([other.ended, modules[0]?.held.length]).toEqual([[], 1]);
    // Nobody's turn was used up: the four that are left have it one after another.
    for (let i = 0; i < 4; i++) {
      time.ns += NS_PER_S / PER_S;
      channel.poll();
      expect(modules[0]?.held.length).toBe(2 + i);
    }
    channel.withdraw(one.sharer);
    for (const _ of [1, 2, 3, 4, 5]) modules[0]?.complete();
    expect([one.ended.length, one.ended.at(-1), other.ended.length]).toEqual([41, success, 4]);
    time.ns += NS_PER_S;
    channel.poll();
    expect(modules[0]?.held).toEqual([]);
  });

  it('are not those that another reactor has let through: these are paid for', () => {
    const { channels, modules, time } = limited(2);
    const [here, there] = channels as [LimitedChannel, LimitedChannel];
    const [one, other] = [new Queue(1), new Queue(2)];
    other.sharer.weight = 1;
    there.submit(other.io());
    for (let i = 0; i < 3; i++) here.submit(one.io());
    there.submit(other.io());
    time.ns += NS_PER_S / PER_S;
    there.poll();
    here.withdraw(one.sharer);
    expect(one.ended).toEqual([withdrawn, withdrawn]);
    here.poll();
    expect(modules[0]?.held.length).toBe(1);
    // The next is for whoever is left.
    time.ns += NS_PER_S / PER_S;
    there.poll();
    expect(modules[1]?.held.length).toBe(2);
  });

  it('may be followed by others that their owner submits meanwhile, which wait', () => {
    const { channels, modules } = limited();
    const [channel] = channels;
    const queue = new Queue(1);
    let isNew = true;
    queue.ioDone = (io) => {
      queue.ended.push(io.status);
      if (isNew) channel.submit(queue.io());
      isNew = false;
    };
    for (let i = 0; i < 3; i++) channel.submit(queue.io());
    channel.withdraw(queue.sharer);
    expect(queue.ended).toEqual([withdrawn, withdrawn]);
    channel.withdraw(queue.sharer);
    expect([queue.ended.length, modules[0]?.held.length]).toEqual([3, 1]);
  });

  it('are counted nowhere', () => {
    const memory = createLimits(1);
    new RateStores(memory, () => 0).set({ ...NO_LIMITS, rwIos: PER_S, burstMs: 1 });
    const stats = createStats(1);
    const module = new HeldChannel();
    const description = describeBdev({ limits: memory, stats });
    const channel = new BdevChannel(description, () => module, { arena: null as never }, 0);
    const queue = new Queue(1);
    channel.withdraw(queue.sharer);
    for (let i = 0; i < 4; i++) channel.submit(queue.io());
    let wakes = 0;
    channel.isAwake = false;
    channel.wake = () => wakes++;
    channel.withdraw(queue.sharer);
    module.complete();
    expect([queue.ended.length, channel.inFlight, wakes]).toEqual([4, 0, 1]);
    expect(readStats(stats, 0, IoType.read)).toMatchObject({ operations: 1, bytes: 512, failures: 0 });
    channel.close();
  });
});
