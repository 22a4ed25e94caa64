/**
 * Mirrors under random load from two reactors, with legs that fail, go and come back at random, and daemons that are
 * killed at random: every read gives what a single disk could have given, and legs in sync are the same.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK_BYTES, MirrorRig } from '../../../../test/support/mirror-rig.ts';
import { type GuestIoType, IoStatus, IoType } from '../../bdev-io.ts';
import type { BdevChannel } from '../../channel.ts';
import type { BdevEntry } from '../../registry.ts';

const RUNS = Number(process.env['RINGHOST_MIRROR_RUNS'] ?? 8);
/** A machine may be slow. */
const LIMIT_MS = 60_000;
const RUN_MS_MAX = 30_000;
const BLOCKS = 6144;
/** Where two regions meet: what is written there is in one, the other, or both. */
const FIRST = 2048 - 12;
const SPAN = 24;
const DEPTH = 12;
const STEPS = 700;
const LONGEST = 6;
/** Before the first write. */
const NOTHING = 0;

/** A write of a number to some blocks. `end` stays infinite when it was never answered. */
interface Write {
  readonly id: number;
  readonly block: number;
  readonly count: number;
  readonly start: number;
  end: number;
}

interface Read {
  readonly start: number;
  readonly end: number;
  readonly id: number;
}

/** What was asked and answered, in the order of a clock. */
class History {
  clock = 0;
  readonly writes = new Map<number, Write>([[NOTHING, { id: NOTHING, block: 0, count: BLOCKS, start: -1, end: -1 }]]);
  readonly reads: Read[][] = Array.from({ length: SPAN }, () => []);
  #lastId = NOTHING;

  begin(block: number, count: number): Write {
    const write = { id: ++this.#lastId, block, count, start: ++this.clock, end: Number.POSITIVE_INFINITY };
    this.writes.set(write.id, write);
    return write;
  }

  /** The number that a block was found to have. */
  found(block: number, start: number, id: number): void {
    const write = this.writes.get(id);
    if (write === undefined) throw new Error(`block ${block} has ${id}, which nobody wrote`);
    const read = { start, end: ++this.clock, id };
    const reads = this.reads[block - FIRST] as Read[];
    for (const other of this.writes.values()) {
      const covers = block >= other.block && block < other.block + other.count;
      if (covers && write.end < other.start && other.end < start) {
        throw new Error(
          `block ${block} has ${id}, and ${other.id} was written after that, and answered before the read`,
        );
      }
    }
    let hasChanged = false;
    for (const before of reads.toReversed()) {
      if (before.end >= start) continue;
      const newer = this.writes.get(before.id) as Write;
      if (write.end < newer.start) throw new Error(`block ${block} had ${before.id}, and then the older ${id} again`);
      if (before.id !== id) hasChanged = true;
      else if (hasChanged) throw new Error(`block ${block} had ${id}, something else, and then ${id} again`);
    }
    reads.push(read);
  }
}

class Load {
  readonly rig: MirrorRig;
  readonly history: History;
  readonly legs: BdevEntry[];
  readonly channels: BdevChannel[];
  readonly seen = { reads: 0, writes: 0, failures: 0, removed: 0, added: 0 };
  #random: () => number;
  #inFlight = 0;
  #isDead = false;
  #fault: Error | null = null;
  readonly #places: number[] = Array.from({ length: DEPTH }, (_, i) => i * LONGEST * BLOCK_BYTES);

  constructor(rig: MirrorRig, legs: BdevEntry[], history: History, random: () => number) {
    this.rig = rig;
    this.legs = legs;
    this.history = history;
    this.#random = random;
    this.channels = [rig.disk.channel, rig.disk.openInAnotherReactor()];
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }

  async run(steps: number): Promise<void> {
    const { disk } = this.rig;
    for (let step = 0; step < steps; step++) {
      const choice = this.#below(100);
      if (choice < 30 && this.#inFlight < DEPTH) this.#submit();
      else if (choice < 80) [...disk.below][this.#below(disk.below.size)]?.poll();
      else if (choice < 90) this.channels[this.#below(this.channels.length)]?.poll();
      else if (choice < 98) await new Promise((resolve) => setImmediate(resolve));
      else this.#disturb();
      if (this.#fault !== null) throw this.#fault;
    }
  }

  /** Nothing is heard of any more. */
  die(): void {
    this.#isDead = true;
  }

  async drain(): Promise<void> {
    await this.rig.until(() => this.#inFlight === 0 || this.#fault !== null);
    if (this.#fault !== null) throw this.#fault;
  }

  #submit(): void {
    const channel = this.channels[this.#below(this.channels.length)] as BdevChannel;
    const count = 1 + this.#below(LONGEST);
    const block = FIRST + this.#below(SPAN - count);
    const kind = this.#below(20);
    const type = kind < 9 ? IoType.read : kind < 19 ? IoType.write : IoType.flush;
    const range = type === IoType.flush ? ([0, 0] as const) : ([block, count] as const);
    this.#carryOut(type, ...range, channel).catch((error: Error) => {
      this.#fault ??= error;
    });
  }

  async #carryOut(type: GuestIoType, block: number, count: number, channel: BdevChannel): Promise<void> {
    const { disk } = this.rig;
    const offset = this.#places.pop() as number;
    this.#inFlight++;
    const words = new Int32Array(disk.guest.buffer, disk.guest.byteOffset + offset, (LONGEST * BLOCK_BYTES) / 4);
    const write = type === IoType.write ? this.history.begin(block, count) : null;
    const start = ++this.history.clock;
    words.fill(write?.id ?? -1);
    const segments = count === 0 ? [] : [{ offset, length: count * BLOCK_BYTES }];
    const status = await disk.submit(type, block, count, segments, channel);
    if (this.#isDead) return;
    const isDone = status === IoStatus.success;
    // The last leg may fail it; then nobody knows what has become of it.
    if (!isDone && this.rig.mirror.info().num_base_bdevs_operational > 1) throw new Error('a request failed');
    if (isDone && write !== null) write.end = ++this.history.clock;
    if (isDone && type === IoType.read) this.#found(words, block, count, start);
    this.seen[type === IoType.read ? 'reads' : 'writes']++;
    this.#inFlight--;
    this.#places.push(offset);
  }

  #found(words: Int32Array, block: number, count: number, start: number): void {
    for (let i = 0; i < count; i++) {
      const inBlock = words.subarray((i * BLOCK_BYTES) / 4, ((i + 1) * BLOCK_BYTES) / 4);
      const id = inBlock[0] as number;
      if (inBlock.some((word) => word !== id))
        throw new Error(`block ${block + i} is half of one write, half of another`);
      this.history.found(block + i, start, id);
    }
  }

  /** Something happens to a leg. */
  #disturb(): void {
    const { mirror } = this.rig;
    const leg = this.legs[this.#below(this.legs.length)] as BdevEntry;
    const isIn = mirror.legs.includes(leg);
    const operational = mirror.info().num_base_bdevs_operational;
    const choice = this.#below(3);
    if (choice === 0 && isIn && operational > 1) {
      this.seen.failures++;
      this.rig.fail(leg, [IoType.write], 1);
    } else if (choice === 1 && isIn && operational > 1) {
      this.seen.removed++;
      void mirror.removeLeg(leg).catch(() => undefined);
    } else if (leg.holder === null) {
      this.rig.heal(leg);
      this.seen.added++;
      void mirror.addLeg(leg).catch(() => undefined);
    }
  }
}

async function newRig(contents: readonly (Uint8Array | undefined)[]): Promise<[MirrorRig, BdevEntry[]]> {
  const rig = new MirrorRig(true);
  const legs: BdevEntry[] = [];
  for (const [i, content] of contents.entries()) legs.push(await rig.leg(`L${i}`, BLOCKS, content));
  await rig.start(legs);
  return [rig, legs];
}

async function expectSame(rig: MirrorRig): Promise<void> {
  const { mirror } = rig;
  const inSync = mirror.slots.flatMap(({ base, state }) => (base !== null && state === 'in_sync' ? [base] : []));
  const [first, ...others] = await Promise.all(inSync.map((leg) => rig.dataOf(leg)));
  for (const other of others) expect(Buffer.compare(first as Buffer, other)).toBe(0);
}

function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe('a mirror', () => {
  it(
    'is as one disk, whatever becomes of its legs and of the daemon',
    async () => {
      const seen = { reads: 0, writes: 0, failures: 0, removed: 0, added: 0 };
      await fc.assert(
        fc.asyncProperty(fc.integer(), async (seed) => {
          const random = randomFrom(seed);
          const history = new History();
          let [rig, legs] = await newRig([undefined, undefined, undefined]);
          for (let life = 0; life < 3; life++) {
            // The first time there is nothing to lose.
            if (life === 0) await rig.settled();
            const load = new Load(rig, legs, history, random);
            await load.run(STEPS);
            for (const [name, count] of Object.entries(load.seen)) seen[name as keyof typeof seen] += count;
            if (life === 2) {
              await load.drain();
              await rig.settled();
              await expectSame(rig);
              break;
            }
            // Killed: what was in flight is in flight for ever.
            const contents = legs.map((leg) => rig.snapshot(leg));
            load.die();
            await rig.disk.polled(new Promise((resolve) => setTimeout(resolve, 5)));
            await rig.until(() => rig.disk.inFlight === 0);
            await rig.close();
            [rig, legs] = await newRig(contents);
          }
          await rig.close();
        }),
        { numRuns: RUNS, endOnFailure: true },
      );
      expect(Object.entries(seen).filter(([, count]) => count === 0)).toEqual([]);
    },
    LIMIT_MS + RUNS * RUN_MS_MAX,
  );
});
