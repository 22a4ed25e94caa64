/**
 * What every bdev does, whatever its kind: the tests that each module passes. A module's test says how to make a disk
 * and what may be expected of it; all else is the same for all.
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Bdev } from '../../src/bdev/bdev.ts';
import { IoStatus, IoType, NO_WAKE_FD, WOKEN_FROM_BELOW } from '../../src/bdev/bdev-io.ts';
import type { BdevChannel } from '../../src/bdev/channel.ts';
import { BdevRegistry } from '../../src/bdev/registry.ts';
import { FdSet } from '../../src/sys/events.ts';
import { IOV_LONG_ENTRIES } from '../../src/sys/iov-arena.ts';
import type { MappingInfo } from '../../src/sys/mapping.ts';
import { openFdCount } from './descriptors.ts';
import { DiskRig, GUEST_BYTES, type Segment } from './disk-rig.ts';

const { success, failed } = IoStatus;
const MIB = 1 << 20;
const DISK_BYTES = 4 * MIB;
const STEPS = 100;
const LIMIT_MS = 30_000;
/** What memory holds that nobody wrote to. */
const UNTOUCHED = 0xcc;

export interface Kind {
  /** A new disk of `sizeBytes`. What it stands on is put into the registry. */
  make(name: string, sizeBytes: number, registry: BdevRegistry): Bdev | Promise<Bdev>;
  /** What the disk does once it is in the registry. */
  begin?(bdev: Bdev): Promise<void>;
  /** The guest's memory, `GUEST_BYTES` of it. Default: this process's own. */
  memory?(): MappingInfo & { close(): void };
  /** Takes away what `make` left, after `destruct`. */
  clean?(): void | Promise<void>;
  /** Default true: a new disk is all zeroes. Otherwise they are written to it first. */
  readonly isZeroed?: boolean;
  /** Default true: reads give what was written. */
  readonly keepsData?: boolean;
  /** Default false: completions need polling, and nobody sleeps while requests are in flight. */
  readonly canWake?: boolean;
}

class TestedDisk extends DiskRig {
  readonly kind: Kind;

  private constructor(kind: Kind, bdev: Bdev, registry: BdevRegistry) {
    super(bdev, kind.memory?.(), registry);
    this.kind = kind;
  }

  static async make(kind: Kind, name: string): Promise<TestedDisk> {
    const registry = new BdevRegistry(1);
    const disk = new TestedDisk(kind, await kind.make(name, DISK_BYTES, registry), registry);
    await kind.begin?.(disk.entry.bdev);
    if (kind.isZeroed === false && (await disk.run(IoType.writeZeroes, 0, disk.blocks)) !== success) {
      throw new Error('zeroes could not be written');
    }
    return disk;
  }

  expectBytes(found: Uint8Array, wanted: Uint8Array): void {
    const { keepsData = true } = this.kind;
    if (keepsData && Buffer.compare(found, wanted) !== 0) expect.fail('the disk does not hold what was written');
  }
}

/** Runs the tests for a kind of disk. */
export function describeConformance(name: string, kind: Kind): void {
  describe(`${name} as a bdev`, () => {
    let disk: TestedDisk;

    beforeEach(async () => {
      disk = await TestedDisk.make(kind, 'Disk');
    });

    afterEach(async () => {
      await disk.close();
      await kind.clean?.();
    });

    it.each(CASES)('%s', async (_, run) => {
      await run(disk);
      expect(disk.inFlight).toBe(0);
    });
  });
}

const CASES: readonly (readonly [name: string, run: (disk: TestedDisk) => Promise<void>])[] = [
  [
    'reads what was written, through buffers aligned to 4096 bytes, at any offset and length',
    (disk) => readsWhatWasWritten(disk, 4096),
  ],
  [
    'reads what was written, through buffers aligned to 512 bytes, at any offset and length',
    (disk) => readsWhatWasWritten(disk, 512),
  ],
  [
    'reads what was written, through buffers at any byte, at any offset and length',
    (disk) => readsWhatWasWritten(disk, 1),
  ],
  ['touches nothing beyond the length of a request whose buffers hold more', keepsToItsLength],
  ['takes the longest list of buffers there is', takesLongLists],
  ['serves its first and its last block, and refuses what is beyond', servesItsEnds],
  ['zeroes ranges, and discards them, without touching their neighbours', zeroesAndDiscards],
  ['keeps apart a thousand requests in flight', keepsRequestsApart],
  ['goes on with every channel at once, each seeing what the others wrote', sharesItsChannels],
  ['ends what is in flight when it goes away, and refuses the rest', endsWhatIsInFlight],
  ['wakes who sleeps until the next completion', wakesTheSleeper],
  ['gives back its descriptors', leaksNothing],
];

/** Numbers that look random and are the same every time. */
function pseudoRandom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function fillRandom(bytes: Uint8Array, random: (below: number) => number): void {
  for (let i = 0; i < bytes.length; i += 509) bytes.fill(random(256), i, i + 509);
}

/** Cuts `length` bytes of the guest's memory into pieces with gaps between them; all in units of `unit` bytes. */
function cut(length: number, pieces: number, unit: number, random: (below: number) => number): Segment[] {
  const segments: Segment[] = [];
  let at = random(64) * unit;
  let left = length / unit;
  for (let i = pieces; i > 0 && left > 0; i--) {
    const take = i === 1 ? left : Math.max(1, Math.min(left - (i - 1), random(Math.ceil((2 * left) / i))));
    segments.push({ offset: at, length: take * unit });
    at += (take + 1 + random(8)) * unit;
    left -= take;
  }
  return segments;
}

async function readsWhatWasWritten(disk: TestedDisk, unit: number): Promise<void> {
  const random = pseudoRandom(unit + 1);
  const model = new Uint8Array(DISK_BYTES);
  const expected = new Uint8Array(GUEST_BYTES);
  for (let step = 0; step < STEPS; step++) {
    const count = 1 + random(random(8) === 0 ? disk.blocks / 4 : (64 * 1024) / disk.blockSize);
    const length = Math.ceil((count * disk.blockSize) / unit) * unit;
    const whole = length / disk.blockSize;
    const block = random(disk.blocks - whole + 1);
    const segments = cut(length, 1 + random(10), unit, random);
    const bytes = model.subarray(block * disk.blockSize, block * disk.blockSize + length);
    const choice = random(8);
    if (choice < 4) {
      fillRandom(bytes, random);
      disk.scatter(segments, bytes);
      expect(await disk.run(IoType.write, block, whole, segments)).toBe(success);
    } else if (choice === 4 && disk.supports(IoType.writeZeroes)) {
      bytes.fill(0);
      expect(await disk.run(IoType.writeZeroes, block, whole)).toBe(success);
    } else {
      disk.guest.fill(UNTOUCHED);
      expect(await disk.run(IoType.read, block, whole, segments)).toBe(success);
      expected.fill(UNTOUCHED);
      disk.scatter(segments, bytes, expected);
      disk.expectBytes(disk.guest, expected);
    }
  }
  expect(await disk.run(IoType.flush, 0, 0)).toBe(success);
  const all = [{ offset: 0, length: DISK_BYTES }];
  expect(await disk.run(IoType.read, 0, disk.blocks, all)).toBe(success);
  disk.expectBytes(disk.gather(all), model);
}

async function keepsToItsLength(disk: TestedDisk): Promise<void> {
  const data = disk.guest.subarray(0, 2 * disk.blockSize).fill(0x11);
  const segments = [
    { offset: 0, length: disk.blockSize },
    { offset: disk.blockSize, length: 8 * disk.blockSize },
  ];
  disk.guest.fill(0x22, 2 * disk.blockSize, 9 * disk.blockSize);
  expect(await disk.run(IoType.write, 4, 2, segments)).toBe(success);
  disk.guest.fill(UNTOUCHED);
  expect(await disk.run(IoType.read, 4, 2, segments)).toBe(success);
  disk.expectBytes(
    disk.gather(segments),
    Buffer.concat([data.fill(0x11), Buffer.alloc(7 * disk.blockSize, UNTOUCHED)]),
  );
  const next = [{ offset: 0, length: disk.blockSize }];
  expect(await disk.run(IoType.read, 6, 1, next)).toBe(success);
  disk.expectBytes(disk.gather(next), Buffer.alloc(disk.blockSize));
}

async function takesLongLists(disk: TestedDisk): Promise<void> {
  const random = pseudoRandom(7);
  const entry = disk.blockSize / 8;
  const count = Math.floor((IOV_LONG_ENTRIES * entry) / disk.blockSize);
  const entries = count * 8;
  const segments = Array.from({ length: entries }, (_, i) => ({ offset: i * 2 * entry, length: entry }));
  const data = new Uint8Array(count * disk.blockSize);
  fillRandom(data, random);
  disk.scatter(segments, data);
  expect(await disk.run(IoType.write, 3, count, segments)).toBe(success);
  disk.guest.fill(UNTOUCHED);
  expect(await disk.run(IoType.read, 3, count, segments)).toBe(success);
  disk.expectBytes(disk.gather(segments), data);
}

async function servesItsEnds(disk: TestedDisk): Promise<void> {
  const segments = [{ offset: 0, length: disk.blockSize }];
  for (const block of [0, disk.blocks - 1]) {
    disk.guest.fill(block & 0xff, 0, disk.blockSize);
    expect(await disk.run(IoType.write, block, 1, segments)).toBe(success);
    disk.guest.fill(UNTOUCHED, 0, disk.blockSize);
    expect(await disk.run(IoType.read, block, 1, segments)).toBe(success);
    disk.expectBytes(disk.gather(segments), Buffer.alloc(disk.blockSize, block & 0xff));
  }
  for (const type of [IoType.read, IoType.write]) {
    expect(await disk.run(type, disk.blocks, 1, segments)).toBe(failed);
  }
  for (const type of [IoType.unmap, IoType.writeZeroes]) expect(await disk.run(type, disk.blocks - 1, 2)).toBe(failed);
}

async function zeroesAndDiscards(disk: TestedDisk): Promise<void> {
  const random = pseudoRandom(11);
  const model = new Uint8Array(DISK_BYTES);
  fillRandom(model, random);
  disk.guest.set(model);
  const all = [{ offset: 0, length: DISK_BYTES }];
  expect(await disk.run(IoType.write, 0, disk.blocks, all)).toBe(success);
  const types = [IoType.writeZeroes, IoType.unmap].filter((type) => disk.supports(type));
  const discarded: [number, number][] = [];
  for (const [i, [block, count]] of (
    [
      [0, 1],
      [5, 3],
      [64, disk.blocks / 4],
      [disk.blocks / 2 + 1, 255],
      [disk.blocks - 1, 1],
      [7, 0],
    ] as const
  ).entries()) {
    const type = types[i % types.length];
    if (type === undefined) break;
    expect(await disk.run(type, block, count)).toBe(success);
    model.fill(0, block * disk.blockSize, (block + count) * disk.blockSize);
    if (type === IoType.unmap) discarded.push([block, count]);
  }
  disk.guest.fill(UNTOUCHED);
  expect(await disk.run(IoType.read, 0, disk.blocks, all)).toBe(success);
  const found = disk.gather(all);
  // What a discarded block holds is the disk's own affair.
  for (const [block, count] of discarded) found.fill(0, block * disk.blockSize, (block + count) * disk.blockSize);
  disk.expectBytes(found, model);
  if (types.includes(IoType.unmap)) expect(await disk.run(IoType.unmap, 0, disk.blocks)).toBe(success);
}

async function keepsRequestsApart(disk: TestedDisk): Promise<void> {
  const inFlight = 1000;
  const count = Math.max(1, 1024 / disk.blockSize);
  const length = count * disk.blockSize;
  const places = Math.min(inFlight, disk.blocks / count);
  const segmentOf = (i: number): Segment[] => [{ offset: i * length, length }];
  for (let i = 0; i < places; i++) disk.guest.fill(i % 251, i * length, (i + 1) * length);
  const writes = Array.from({ length: places }, (_, i) => disk.submit(IoType.write, i * count, count, segmentOf(i)));
  expect(new Set(await disk.polled(Promise.all(writes)))).toEqual(new Set([success]));
  disk.guest.fill(UNTOUCHED);
  const order = Array.from({ length: places }, (_, i) => (i * 7919) % places);
  const reads = order.map((i) => disk.submit(IoType.read, i * count, count, segmentOf(i)));
  expect(new Set(await disk.polled(Promise.all(reads)))).toEqual(new Set([success]));
  for (let i = 0; i < places; i++) disk.expectBytes(disk.gather(segmentOf(i)), Buffer.alloc(length, i % 251));
}

async function sharesItsChannels(disk: TestedDisk): Promise<void> {
  const channels = [disk.channel, disk.openChannel(), disk.openChannel(), disk.openChannel()];
  const place = (i: number): Segment[] => [{ offset: i * disk.blockSize, length: disk.blockSize }];
  const each = 32;
  for (let i = 0; i < channels.length * each; i++) disk.guest.fill(i + 1, i * disk.blockSize, (i + 1) * disk.blockSize);
  const writes = channels.flatMap((channel, c) =>
    Array.from({ length: each }, (_, i) => disk.submit(IoType.write, c * each + i, 1, place(c * each + i), channel)),
  );
  expect(new Set(await disk.polled(Promise.all(writes)))).toEqual(new Set([success]));
  disk.guest.fill(UNTOUCHED);
  const reads = channels.flatMap((channel, c) => {
    const other = (c + 1) % channels.length;
    return Array.from({ length: each }, (_, i) =>
      disk.submit(IoType.read, other * each + i, 1, place(other * each + i), channel),
    );
  });
  expect(new Set(await disk.polled(Promise.all(reads)))).toEqual(new Set([success]));
  for (let i = 0; i < channels.length * each; i++)
    disk.expectBytes(disk.gather(place(i)), Buffer.alloc(disk.blockSize, i + 1));
}

async function endsWhatIsInFlight(disk: TestedDisk): Promise<void> {
  const statuses: IoStatus[] = [];
  const requests = Array.from({ length: 200 }, async (_, i) => {
    const segments = [{ offset: (i * 512) % MIB, length: 4 * disk.blockSize }];
    const type = i % 3 === 0 ? IoType.write : IoType.read;
    statuses.push(await disk.submit(type, (i * 4) % (disk.blocks - 4), 4, segments));
  });
  await disk.polled(disk.channel.remove());
  await Promise.all(requests);
  expect(statuses).toHaveLength(200);
  expect(new Set(statuses)).toEqual(new Set([success]));
  expect(await disk.submit(IoType.read, 0, 1, [{ offset: 0, length: disk.blockSize }])).toBe(failed);
  expect(await disk.submit(IoType.flush, 0, 0)).toBe(failed);
}

async function wakesTheSleeper(disk: TestedDisk): Promise<void> {
  const { channel } = disk;
  const { canWake = false } = disk.kind;
  expect(channel.wakeFd !== NO_WAKE_FD).toBe(canWake);
  if (!canWake) return;
  const set = new FdSet();
  let wake: () => void = () => undefined;
  const drives = [channel, ...disk.below];
  for (const { wakeFd } of drives) if (wakeFd >= 0) set.add(wakeFd, () => wake());
  // As a reactor does: whatever has nothing in flight, or is woken from below, is no reason to stay awake.
  const mustStay = (drive: BdevChannel): boolean =>
    drive.inFlight > 0 && drive.wakeFd !== WOKEN_FROM_BELOW && (drive.wakeFd === NO_WAKE_FD || drive.arm());
  const segments = [{ offset: 0, length: disk.blockSize }];
  for (let i = 0; i < 300; i++) {
    let isEnded = false;
    const type = [IoType.read, IoType.write, IoType.flush][i % 3] as IoType;
    const ended = disk.submit(type, type === IoType.flush ? 0 : i, type === IoType.flush ? 0 : 1, segments);
    void ended.then(() => {
      isEnded = true;
    });
    disk.poll();
    const deadlineMs = Date.now() + LIMIT_MS;
    for (;;) {
      await Promise.resolve();
      if (isEnded) break;
      if (Date.now() > deadlineMs) expect.fail('it is woken again and again without a completion');
      const woken = new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error('nobody woke us')), LIMIT_MS);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      if (drives.map(mustStay).includes(true)) wake();
      await woken;
      for (const drive of drives) drive.disarm();
      disk.poll();
    }
    expect(await ended).toBe(success);
  }
  set.close();
  // The set's own descriptor goes with the next turn of the event loop.
  await new Promise((resolve) => setTimeout(resolve, 0));
}

async function leaksNothing(disk: TestedDisk): Promise<void> {
  // A channel that connects by itself has done so after a request.
  expect(await disk.run(IoType.read, 0, 1, [{ offset: 0, length: disk.blockSize }])).toBe(success);
  await loopsToEnd();
  const before = openFdCount();
  const other = await TestedDisk.make(disk.kind, 'Other');
  expect(await other.run(IoType.write, 0, 1, [{ offset: 1, length: other.channel.blockSizeBytes }])).toBe(success);
  expect(openFdCount()).toBeGreaterThanOrEqual(before);
  await other.close();
  await loopsToEnd();
  expect(openFdCount()).toBe(before);
}

/** Descriptors of event loops go with the next turn. */
async function loopsToEnd(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setTimeout(resolve, 1));
}
