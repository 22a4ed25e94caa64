/** Who gets what of a limit, against what would be exactly fair: in a time of the test's own. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { describeBdev } from '../../test/support/bdev-rig.ts';
import { readEventFd } from '../sys/events.ts';
import { BdevIo, type IoOwner, IoType } from './bdev-io.ts';
import { createLimits, SHARERS_MAX, type Sharer } from './fair-shares.ts';
import { LimitedChannel } from './limited-channel.ts';
import { NullChannel } from './modules/null/null-channel.ts';
import { NO_LIMITS, type RateLimits, RateStores } from './rate-limits.ts';

const NS_PER_US = 1000;
const MIB = 2 ** 20;

/** Reactors that share a limit, in steps of time. */
class Bench {
  readonly channels: readonly LimitedChannel[];
  readonly stores: RateStores;
  #nowNs = 1e12;

  constructor(limits: Partial<RateLimits>, reactors = 1) {
    const clock = (): number => this.#nowNs;
    const memory = createLimits(reactors);
    this.stores = new RateStores(memory, clock);
    this.stores.set({ ...NO_LIMITS, burstMs: 1, ...limits });
    this.channels = Array.from({ length: reactors }, (_, i) => {
      return new LimitedChannel(new NullChannel(), memory, i, clock);
    });
  }

  /** Polls every reactor, or those given, every so many microseconds. */
  run(us: number, stepUs: number, polled = this.channels, eachStep: () => void = () => {}): void {
    for (let at = 0; at < us; at += stepUs) {
      this.#nowNs += stepUs * NS_PER_US;
      for (const channel of polled) channel.poll();
      eachStep();
    }
  }

  close(): void {
    for (const channel of this.channels) channel.close();
  }
}

interface LoadShape {
  readonly channels: readonly LimitedChannel[];
  /** On each of them. */
  readonly depth: number;
  readonly bytes?: number;
  readonly type?: IoType;
}

let nextNumber = 1;

/** A guest that has so many requests waiting, always. */
class Load implements IoOwner {
  readonly sharer: Sharer;
  ios = 0;
  isOver = false;
  readonly #shape: LoadShape;
  readonly #channelOf = new Map<BdevIo, LimitedChannel>();

  constructor(weight: number, shape: LoadShape) {
    this.sharer = { number: 1 + (nextNumber++ % (SHARERS_MAX - 1)), weight };
    this.#shape = shape;
  }

  start(): this {
    const { channels, depth, bytes = 512, type = IoType.read } = this.#shape;
    this.isOver = false;
    for (const channel of channels) {
      for (let i = 0; i < depth; i++) {
        const io = new BdevIo(this);
        io.type = type;
        io.lengthBytes = bytes;
        this.#channelOf.set(io, channel);
        channel.submit(io);
      }
    }
    return this;
  }

  ioDone(io: BdevIo): void {
    this.ios++;
    if (!this.isOver) this.#channelOf.get(io)?.submit(io);
  }
}

describe('limits that are shared', () => {
  it('give those that have requests waiting what is theirs by weight, to a request, and all that there is', () => {
    const guest = fc.record({
      weight: fc.integer({ min: 1, max: 1000 }),
      type: fc.constantFrom(IoType.read, IoType.write),
      depth: fc.integer({ min: 4, max: 64 }),
      reactors: fc.subarray([0, 1, 2], { minLength: 1 }),
    });
    const size = fc.constantFrom(512, 4096, 65_536);
    const limits = fc.record({
      rwIos: fc.integer({ min: 200, max: 10_000 }),
      rwMebibytes: fc.integer({ max: 64, min: 0 }),
    });
    fc.assert(
      // Of one size: who has few small requests waiting beside large ones has, at times, none.
      fc.property(fc.array(guest, { minLength: 2, maxLength: 6 }), size, limits, (guests, bytes, limit) => {
        const bench = new Bench(limit, 3);
        const loads = guests.map(({ weight, type, depth, reactors }) => {
          const channels = reactors.map((i) => bench.channels[i] as LimitedChannel);
          const load = new Load(weight, { channels, depth, bytes, type });
          return { load, weight, cost: bench.stores.secondsOf(type === IoType.write, bytes / 512) };
        });
        for (const { load } of loads) load.start();
        const before = loads.map(({ load }) => load.ios);
        const seconds = 2;
        bench.run(seconds * 1e6, 100);
        // What was granted to reactors that looked before.
        for (const channel of bench.channels) channel.poll();
        // Each has got seconds of the limit: by its weight no two differ by more than a few requests, however long
        // it goes on.
        const got = loads.map(({ load, weight, cost }, i) => ((load.ios - (before[i] ?? 0)) * cost) / weight);
        const step = loads.map(({ cost, weight }) => cost / weight);
        for (let a = 0; a < got.length; a++) {
          for (let b = 0; b < a; b++) {
            const apart = Math.abs((got[a] as number) - (got[b] as number));
            expect(apart).toBeLessThanOrEqual(3 * ((step[a] as number) + (step[b] as number)));
          }
        }
        // No limit lets through more than it is, but for a burst and one request for which there was not enough.
        const done = loads.map(({ load }, i) => load.ios - (before[i] ?? 0));
        const sum = (each: (count: number, i: number) => number): number => {
          return done.reduce((total, count, i) => total + each(count, i), 0);
        };
        const { rwIos, rwMebibytes } = limit;
        const all = sum((count) => count);
        expect(all).toBeLessThanOrEqual(rwIos * (seconds + 0.001) + 1);
        if (rwMebibytes > 0) expect(all * bytes).toBeLessThanOrEqual(rwMebibytes * MIB * (seconds + 0.001) + bytes);
        // Nor less.
        const cost = loads[0]?.cost ?? 0;
        expect(all * cost).toBeGreaterThanOrEqual(seconds - 2 * cost - 0.001);
        for (const { load } of loads) load.isOver = true;
        bench.stores.set(NO_LIMITS);
        bench.run(100, 100);
        bench.close();
      }),
      { numRuns: 40, endOnFailure: true },
    );
  });

  it.each([
    [1, 1, 1],
    [2, 1, 1],
    [1, 3, 1],
    [2, 1, 3],
  ])(
    'do not let 128 requests starve one at a time: on %i reactors, with weights %i and %i',
    (reactors, deep, shallow) => {
      const bench = new Bench({ rwIos: 10_000 }, reactors);
      const [first, last] = [bench.channels[0], bench.channels.at(-1)] as [LimitedChannel, LimitedChannel];
      const many = new Load(deep * 100, { channels: [first], depth: 128 }).start();
      const one = new Load(shallow * 100, { channels: [last], depth: 1 }).start();
      bench.run(1e6, 25);
      const all = many.ios + one.ios;
      expect(all).toBeGreaterThan(9_990);
      expect(one.ios / all).toBeCloseTo(shallow / (deep + shallow), 2);
      one.isOver = true;
      many.isOver = true;
      bench.run(1e6, 25);
      bench.close();
    },
  );

  it('give what one leaves to the others, and nothing back for it later', () => {
    const bench = new Bench({ rwIos: 10_000 });
    const shape = { channels: bench.channels, depth: 16 };
    const [a, b] = [new Load(100, shape).start(), new Load(100, shape)];
    bench.run(1e6, 100);
    expect(a.ios).toBeGreaterThan(9_980);
    const before = a.ios;
    b.start();
    bench.run(1e6, 100);
    expect(Math.abs(a.ios - before - b.ios)).toBeLessThanOrEqual(2);
    for (const load of [a, b]) load.isOver = true;
    bench.run(1e6, 100);
    bench.close();
  });

  it('let a burst go to whoever asks', () => {
    const bench = new Bench({ rwIos: 1000, burstMs: 100 });
    const one = new Load(1, { channels: bench.channels, depth: 1 }).start();
    expect(one.ios).toBe(100);
    one.isOver = true;
    bench.run(2000, 1000);
    bench.close();
  });

  it('hold up no write for a limit of reads', () => {
    const bench = new Bench({ readMebibytes: 1 });
    const reader = new Load(100, { channels: bench.channels, depth: 8, bytes: MIB }).start();
    const writer = new Load(1, { channels: bench.channels, depth: 1, type: IoType.write, bytes: MIB });
    let writes = 0;
    writer.isOver = true;
    for (; writes < 50; writes++) {
      const io = new BdevIo(writer);
      io.type = IoType.write;
      io.lengthBytes = MIB;
      (bench.channels[0] as LimitedChannel).submit(io);
      expect(writer.ios).toBe(writes + 1);
    }
    expect(reader.ios).toBe(1);
    reader.isOver = true;
    bench.run(10e6, 1e5);
    bench.close();
  });

  it('count requests that a stack makes as those of whoever asked for them', () => {
    const bench = new Bench({ rwIos: 1000 });
    const [channel] = bench.channels as [LimitedChannel];
    const guest = new Load(300, { channels: [channel], depth: 4 }).start();
    const other = new Load(100, { channels: [], depth: 0 });
    other.isOver = false;
    let pieces = 0;
    const stack: IoOwner = {
      ioDone(io) {
        pieces++;
        channel.submit(io);
      },
    };
    for (let i = 0; i < 4; i++) {
      const piece = new BdevIo(stack);
      piece.parent = new BdevIo(other);
      piece.lengthBytes = 512;
      channel.submit(piece);
    }
    bench.run(1e6, 100);
    expect(guest.ios / (guest.ios + pieces)).toBeCloseTo(0.75, 2);
    guest.isOver = true;
    stack.ioDone = () => {};
    bench.run(1e5, 100);
    bench.close();
  });

  it('wait for no reactor that does not look, and wake one that sleeps', () => {
    const bench = new Bench({ rwIos: 10_000 }, 2);
    const [awake, asleep] = bench.channels as [LimitedChannel, LimitedChannel];
    const here = new Load(100, { channels: [awake], depth: 8 }).start();
    const there = new Load(100, { channels: [asleep], depth: 8 }).start();
    const before = there.ios;
    expect(asleep.arm()).toBe(false);
    bench.run(1e5, 100, [awake]);
    expect(readEventFd(asleep.wakeFd)).toBeGreaterThan(0);
    expect(here.ios).toBeGreaterThan(980);
    // It was granted what it had offered.
    expect(asleep.arm()).toBe(true);
    asleep.disarm();
    asleep.poll();
    expect(there.ios - before).toBe(8);
    for (const load of [here, there]) load.isOver = true;
    bench.run(1e6, 100);
    bench.close();
  });

  it('let go of everything when the disk goes, and when they are taken away', () => {
    for (const end of ['abandon', 'set'] as const) {
      const bench = new Bench({ rwIos: 1 }, 2);
      const loads = bench.channels.map((channel) => new Load(100, { channels: [channel], depth: 32 }).start());
      const done = (): number => loads.reduce((sum, { ios }) => sum + ios, 0);
      const before = done();
      for (const load of loads) load.isOver = true;
      if (end === 'set') bench.stores.set(NO_LIMITS);
      else for (const channel of bench.channels) channel.abandon();
      for (const channel of bench.channels) channel.poll();
      expect(done() - before).toBe(64);
      for (const channel of bench.channels) channel.update(describeBdev());
      bench.close();
    }
  });

  it('follow a weight that changes', () => {
    const bench = new Bench({ rwIos: 1000 });
    const shape = { channels: bench.channels, depth: 8 };
    const [a, b] = [new Load(100, shape).start(), new Load(100, shape).start()];
    bench.run(1e6, 100);
    a.sharer.weight = 300;
    const before = [a.ios, b.ios] as const;
    bench.run(2e6, 100);
    expect((a.ios - before[0]) / (b.ios - before[1])).toBeCloseTo(3, 1);
    for (const load of [a, b]) load.isOver = true;
    bench.run(1e6, 100);
    bench.close();
  });
});
