/** Translation of guest addresses against a naive model, over random sets of regions. */
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { AssertionError } from '../base/assert.ts';
import { WINDOW_BYTES } from '../base/limits.ts';
import { IovArena } from '../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../sys/mapping.ts';
import { GuestMemory, hostAddressOf, type MemoryRegionInfo, NOWHERE } from './guest-memory.ts';

const PAGE = 4096;
const GIB = 2 ** 30;
const toClose: { close(): void }[] = [];

afterEach(() => {
  for (const one of toClose.splice(0).toReversed()) one.close();
});

function closed<T extends { close(): void }>(one: T): T {
  toClose.push(one);
  return one;
}

/** Anonymous memory behind every region; `bytes` is the host's own view of it. */
function regionOf(guestAddress: number, sizeBytes: number, skipBytes = 0): MemoryRegionInfo & { bytes: Uint8Array } {
  const mapping = closed(Mapping.anonymous(sizeBytes + skipBytes));
  const views = closed(new MappingViews());
  const bytes = new Uint8Array(views.view(mapping, skipBytes, sizeBytes));
  const userAddress = 0x7000_0000_0000 + guestAddress;
  return { guestAddress, sizeBytes, userAddress, hostAddress: mapping.address + skipBytes, bytes };
}

/** Backed by nothing: for what only computes addresses. */
function paperRegion(guestAddress: number, sizeBytes: number, hostAddress: number): MemoryRegionInfo {
  return { guestAddress, sizeBytes, userAddress: guestAddress, hostAddress };
}

const ADDRESSES = new Float64Array(3);

/** Puts an address where the calls take it from, as an element and a skip. Returns the skip. */
function place(gpa: number): number {
  const skip = gpa <= Number.MAX_SAFE_INTEGER ? gpa % 5 : 0;
  ADDRESSES.fill(2 ** 60);
  ADDRESSES[1] = gpa - skip;
  return skip;
}

/** Index of the window. */
function locate(memory: GuestMemory, gpa: number, length: number): number {
  return memory.locate(ADDRESSES, 1, place(gpa), length)?.index ?? NOWHERE;
}

function append(memory: GuestMemory, gpa: number, length: number, arena: IovArena, entry: number, end: number): number {
  return memory.appendSegments(ADDRESSES, 1, place(gpa), length, arena, entry, end);
}

function read(memory: GuestMemory, gpa: number, target: Uint8Array, offset: number, length: number): boolean {
  return memory.read(ADDRESSES, 1, place(gpa), target, offset, length);
}

function write(memory: GuestMemory, gpa: number, source: Uint8Array, offset: number, length: number): boolean {
  return memory.write(ADDRESSES, 1, place(gpa), source, offset, length);
}

/**
 * Gaps and sizes make regions that may touch but do not overlap; shuffled, as front-ends may send them in any order.
 */
const layout = fc
  .array(fc.record({ gap: fc.constantFrom(0, 0, 1, 3, PAGE), size: fc.integer({ min: 1, max: 40 }) }), {
    minLength: 1,
    maxLength: 6,
  })
  .chain((parts) =>
    fc.tuple(
      fc.constant(parts),
      fc.shuffledSubarray(
        parts.map((_, i) => i),
        { minLength: parts.length },
      ),
    ),
  );

function placeRegions([parts, order]: readonly [readonly { gap: number; size: number }[], readonly number[]]) {
  let at = 0x1000;
  const placed = parts.map(({ gap, size }) => {
    const start = at + gap;
    at = start + size;
    return { start, size };
  });
  const model = new Map<number, number>();
  placed.forEach(({ start, size }, r) => {
    for (let i = 0; i < size; i++) model.set(start + i, 1_000_000 * (r + 1) + i);
  });
  const infos = placed.map(({ start, size }, r) => paperRegion(start, size, 1_000_000 * (r + 1)));
  return { infos: order.map((i) => infos[i] as MemoryRegionInfo), model, end: at };
}

/** What `appendSegments` must say: the host address of every byte, or null when one has none. */
function modelBytes(model: ReadonlyMap<number, number>, gpa: number, length: number): number[] | null {
  const bytes: number[] = [];
  for (let i = 0; i < length; i++) {
    const host = model.get(gpa + i);
    if (host === undefined) return null;
    bytes.push(host);
  }
  return bytes;
}

/** The host address of every byte of a segment list. */
function bytesOfSegments(arena: IovArena, first: number, end: number): number[] {
  const bytes: number[] = [];
  for (let entry = first; entry < end; entry++) {
    for (let i = 0; i < arena.lengthOf(entry); i++) bytes.push(arena.addressOf(entry) + i);
  }
  return bytes;
}

describe('appendSegments', () => {
  it('covers a buffer byte by byte as a naive model does', () => {
    const arena = closed(new IovArena(0, 1));
    fc.assert(
      fc.property(layout, fc.nat(0x1_2000), fc.nat(120), (parts, offset, length) => {
        const { infos, model, end } = placeRegions(parts);
        const memory = new GuestMemory(infos);
        const gpa = 0x0ff0 + (offset % (end - 0x0ff0 + 16));
        const next = append(memory, gpa, length, arena, 5, 1000);
        const expected = modelBytes(model, gpa, length);
        expect(next === NOWHERE ? null : bytesOfSegments(arena, 5, next)).toEqual(expected);
      }),
      { numRuns: 500 },
    );
  });

  it('says when the entries run out, and never writes past the last', () => {
    const arena = closed(new IovArena(0, 1));
    const infos = Array.from({ length: 5 }, (_, i) => paperRegion(i * 10, 10, 1_000_000 * (i + 1)));
    const memory = new GuestMemory(infos);
    for (const [room, expected] of [
      [5, 5],
      [6, 5],
      [4, 5],
      [1, 2],
      [0, 1],
    ] as const) {
      arena.set(room, 1, 1);
      expect(append(memory, 0, 50, arena, 0, room)).toBe(expected);
      expect(arena.addressOf(room)).toBe(1);
    }
    // Outside the memory wins over a full list only once it is reached.
    expect(append(memory, 45, 10, arena, 0, 5)).toBe(NOWHERE);
    expect(append(memory, 0, 60, arena, 0, 5)).toBe(NOWHERE);
  });

  it('gives one segment for what one region holds, however many windows it spans', () => {
    const arena = closed(new IovArena(0, 1));
    const memory = new GuestMemory([paperRegion(0x1_0000_0000, 5 * GIB, 0x7f00_0000_0000)]);
    const length = 2 ** 32 - 1;
    expect(append(memory, 0x1_0000_0000 + 123, length, arena, 0, 8)).toBe(1);
    expect([arena.addressOf(0), arena.lengthOf(0)]).toEqual([0x7f00_0000_0000 + 123, length]);
  });

  it('adds no entry for a buffer of no bytes, wherever it is', () => {
    const arena = closed(new IovArena(0, 1));
    const memory = new GuestMemory([paperRegion(PAGE, PAGE, 1_000_000)]);
    for (const gpa of [0, PAGE, 2 * PAGE, 2 ** 60]) expect(append(memory, gpa, 0, arena, 3, 8)).toBe(3);
  });
});

describe('locate', () => {
  it('finds exactly the buffers that lie in one region', () => {
    fc.assert(
      fc.property(layout, fc.nat(0x1_2000), fc.integer({ min: 1, max: 50 }), (parts, offset, length) => {
        const { infos, end } = placeRegions(parts);
        const memory = new GuestMemory(infos);
        const gpa = 0x0ff0 + (offset % (end - 0x0ff0 + 16));
        const sorted = infos.toSorted((a, b) => a.guestAddress - b.guestAddress);
        const inside = (info: MemoryRegionInfo) =>
          gpa >= info.guestAddress && gpa + length <= info.guestAddress + info.sizeBytes;
        // Every region here is smaller than a window, so it has one.
        const expected = sorted.findIndex(inside);
        expect(locate(memory, gpa, length)).toBe(expected);
        const offsetExpected = expected === NOWHERE ? 0 : gpa - (sorted[expected]?.guestAddress ?? 0);
        expect(expected === NOWHERE ? 0 : memory.offset).toBe(offsetExpected);
      }),
      { numRuns: 500 },
    );
  });

  it.each([
    ['just below', PAGE - 1, 1],
    ['across the start', PAGE - 1, 2],
    ['across the end', 2 * PAGE - 1, 2],
    ['at the end', 2 * PAGE, 1],
    ['longer than the region', PAGE, PAGE + 1],
    ['near 2^53', 2 ** 53 - 1, 1],
    ['at 2^53', 2 ** 53, 16],
    ['at 2^64, as a rounded 2^64 - 1', 2 ** 64, 16],
    ['with a length that reaches 2^64', PAGE, 2 ** 64],
  ])('finds nothing %s', (_, gpa, length) => {
    const memory = new GuestMemory([paperRegion(PAGE, PAGE, 1_000_000)]);
    expect(locate(memory, gpa, length)).toBe(NOWHERE);
  });

  it('does not keep a region of the last hit for an address outside it', () => {
    const memory = new GuestMemory([paperRegion(0, 10, 1_000_000), paperRegion(20, 10, 2_000_000)]);
    expect(locate(memory, 25, 5)).toBe(1);
    expect(locate(memory, 5, 5)).toBe(0);
    expect(locate(memory, 15, 1)).toBe(NOWHERE);
    expect(locate(memory, 29, 1)).toBe(1);
    expect(locate(memory, 30, 1)).toBe(NOWHERE);
  });

  it('works at the highest addresses that are exact', () => {
    const start = Number.MAX_SAFE_INTEGER - PAGE + 1;
    const memory = new GuestMemory([paperRegion(start - PAGE, PAGE, 1_000_000)]);
    expect(locate(memory, start - 1, 1)).toBe(0);
    expect(memory.offset).toBe(PAGE - 1);
    expect(locate(memory, start, 1)).toBe(NOWHERE);
  });

  it('has nothing in a map without regions', () => {
    const memory = new GuestMemory([]);
    expect(locate(memory, 0, 1)).toBe(NOWHERE);
    expect(read(memory, 0, new Uint8Array(1), 0, 1)).toBe(false);
  });
});

describe('windows', () => {
  it('cut a region that is larger than 1 GiB, and no buffer across their border is in one', () => {
    const size = 3 * GIB - PAGE;
    const region = paperRegion(2 ** 32, size, 0x10_0000_0000);
    const memory = new GuestMemory([paperRegion(0, PAGE, 0x20_0000_0000), region]);
    const at = (offset: number, length: number) => [locate(memory, 2 ** 32 + offset, length), memory.offset];
    expect(at(0, 16)).toEqual([1, 0]);
    expect(at(GIB - 16, 16)).toEqual([1, GIB - 16]);
    expect(at(GIB - 15, 16)[0]).toBe(NOWHERE);
    expect(at(GIB, 16)).toEqual([2, 0]);
    expect(at(2 * GIB, 1)).toEqual([3, 0]);
    expect(at(size - 1, 1)).toEqual([3, GIB - PAGE - 1]);
    expect(at(size, 1)[0]).toBe(NOWHERE);
  });

  it('show the memory of their own region and part', () => {
    const small = regionOf(0, PAGE);
    const large = regionOf(2 ** 32, 3 * GIB);
    const memory = closed(new GuestMemory([large, small]));
    for (const offset of [5, GIB + 7, 2 * GIB + 9, 3 * GIB - 1]) {
      large.bytes[offset] = offset % 251;
      const window = locate(memory, 2 ** 32 + offset, 1);
      expect(memory.window(window).bytes[memory.offset]).toBe(offset % 251);
      expect(memory.window(window)).toBe(memory.window(window));
    }
    expect(memory.window(locate(memory, 0, 1)).bytes).toHaveLength(PAGE);
    expect(memory.window(locate(memory, 2 ** 32 + 2 * GIB, 1)).bytes).toHaveLength(WINDOW_BYTES);
  });

  it('have words as far as whole words go', () => {
    const region = regionOf(PAGE, 10);
    const memory = closed(new GuestMemory([region]));
    region.bytes.set([1, 0, 0, 0, 2, 0, 0, 0, 3, 0]);
    const { bytes, words } = memory.window(locate(memory, PAGE, 10));
    expect(bytes).toHaveLength(10);
    expect([...words]).toEqual([1, 2]);
  });
});

describe('read and write', () => {
  it('move the bytes that a naive model moves, across any border', () => {
    const memories = [regionOf(100, 30), regionOf(130, 5, 3), regionOf(140, 20)];
    const memory = closed(new GuestMemory(memories));
    const model = new Map<number, number>();
    for (const region of memories) for (let i = 0; i < region.sizeBytes; i++) model.set(region.guestAddress + i, 0);
    const step = fc.record({
      gpa: fc.integer({ min: 95, max: 165 }),
      data: fc.uint8Array({ maxLength: 45 }),
      before: fc.nat(4),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12, size: 'max' }), (steps) => {
        for (const { gpa, data, before } of steps) {
          const isInside = data.every((_, i) => model.has(gpa + i));
          const source = new Uint8Array(before + data.length);
          source.set(data, before);
          expect(write(memory, gpa, source, before, data.length)).toBe(isInside);
          // A refused write has written the part that lies before the hole.
          for (let i = 0; i < data.length && model.has(gpa + i); i++) model.set(gpa + i, data[i] as number);
          const target = new Uint8Array(before + data.length);
          expect(read(memory, gpa, target, before, data.length)).toBe(isInside);
          const readBack = isInside ? target.subarray(before) : data;
          expect(readBack).toEqual(data);
        }
        for (const region of memories) {
          const expected = Array.from(region.bytes, (_, i) => model.get(region.guestAddress + i));
          expect([...region.bytes]).toEqual(expected);
        }
      }),
    );
  });

  it('cross the border between windows', () => {
    const region = regionOf(0, GIB + PAGE);
    const memory = closed(new GuestMemory([region]));
    const data = Uint8Array.from({ length: 32 }, (_, i) => i + 1);
    expect(write(memory, GIB - 16, data, 0, 32)).toBe(true);
    expect(region.bytes.slice(GIB - 16, GIB + 16)).toEqual(data);
    const back = new Uint8Array(32);
    expect(read(memory, GIB - 16, back, 0, 32)).toBe(true);
    expect(back).toEqual(data);
  });

  it('succeed with no bytes anywhere', () => {
    const memory = new GuestMemory([]);
    expect(read(memory, 7, new Uint8Array(0), 0, 0)).toBe(true);
    expect(write(memory, 7, new Uint8Array(0), 0, 0)).toBe(true);
  });
});

describe('GuestMemory', () => {
  it('asserts that regions do not overlap, and lets them touch', () => {
    expect(() => new GuestMemory([paperRegion(0, 10, 1), paperRegion(9, 10, 1)])).toThrow(AssertionError);
    expect(() => new GuestMemory([paperRegion(5, 1, 1), paperRegion(0, 10, 1)])).toThrow(AssertionError);
    expect(() => new GuestMemory([paperRegion(10, 10, 1), paperRegion(0, 10, 1)])).not.toThrow();
  });

  it('takes every view back when it is closed', () => {
    const memory = new GuestMemory([regionOf(0, PAGE), regionOf(PAGE, PAGE)]);
    const windows = [0, PAGE].map((gpa) => memory.window(locate(memory, gpa, 1)));
    expect(windows.map(({ bytes }) => bytes.length)).toEqual([PAGE, PAGE]);
    memory.close();
    expect(windows.map(({ bytes, words }) => [bytes.length, words.length])).toEqual([
      [0, 0],
      [0, 0],
    ]);
    expect(windows[0]?.bytes[0]).toBeUndefined();
  });
});

describe('hostAddressOf', () => {
  const regions = [
    { guestAddress: 0, sizeBytes: PAGE, userAddress: 0x5000, hostAddress: 1_000_000 },
    { guestAddress: PAGE, sizeBytes: PAGE, userAddress: 0x6000, hostAddress: 9_000_000 },
  ];

  it('finds what lies in one region of the front-end', () => {
    expect(hostAddressOf(regions, 0x5000, PAGE)).toBe(1_000_000);
    expect(hostAddressOf(regions, 0x5ff0, 16)).toBe(1_000_000 + 0xff0);
    expect(hostAddressOf(regions, 0x6001, 16)).toBe(9_000_001);
  });

  it('finds nothing across regions, outside them or beyond 2^53', () => {
    expect(hostAddressOf(regions, 0x5ff1, 16)).toBe(NOWHERE);
    expect(hostAddressOf(regions, 0x4fff, 1)).toBe(NOWHERE);
    expect(hostAddressOf(regions, 0x7000, 1)).toBe(NOWHERE);
    expect(hostAddressOf(regions, 2 ** 64, 16)).toBe(NOWHERE);
    expect(hostAddressOf([], 0, 1)).toBe(NOWHERE);
  });
});
