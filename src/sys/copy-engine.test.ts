/** The copy engine against a model in JavaScript. */
import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { AssertionError } from '../base/assert.ts';
import { CopyEngine } from './copy-engine.ts';
import { closeFd } from './events.ts';
import { IOV_LONG_ENTRIES, IovArena } from './iov-arena.ts';
import { createMemoryFile, Mapping, MappingViews, truncateFile } from './mapping.ts';

const KIB = 1024;
const DISK_BYTES = 320 * KIB;
const GUEST_BYTES = 96 * KIB;
const CAPACITY = 16;

const diskMapping = Mapping.anonymous(DISK_BYTES);
const guestMapping = Mapping.anonymous(GUEST_BYTES);
const views = new MappingViews();
const disk = new Uint8Array(views.view(diskMapping, 0, DISK_BYTES));
const guest = new Uint8Array(views.view(guestMapping, 0, GUEST_BYTES));
const arena = new IovArena(0, 4);
const engine = new CopyEngine(arena, CAPACITY);
/** Blocks of one byte, so that the tests can be about any bytes. */
const diskOf = (mapping: Mapping) => engine.setDisk(mapping.address, 1, mapping.lengthBytes);
diskOf(diskMapping);

afterAll(() => {
  engine.close();
  arena.close();
  views.close();
  diskMapping.close();
  guestMapping.close();
});

/** Memory that the mapping holds, in KiB. */
function residentKib({ address, lengthBytes }: Mapping): number {
  let total = 0;
  let isInside = false;
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range !== null) {
      const [start, end] = [Number.parseInt(range[1] as string, 16), Number.parseInt(range[2] as string, 16)];
      isInside = start < address + lengthBytes && end > address;
    } else if (isInside && line.startsWith('Rss:')) {
      total += Number.parseInt(line.slice(4), 10);
    }
  }
  return total;
}

interface Segment {
  readonly offset: number;
  readonly length: number;
}

interface Operation {
  readonly kind: 'read' | 'write' | 'zero';
  readonly offset: number;
  readonly length: number;
  readonly segments: readonly Segment[];
}

/** The same in plain arrays. */
function applyToModel(operation: Operation, modelDisk: Uint8Array, modelGuest: Uint8Array): void {
  let { offset, length: left } = operation;
  if (operation.kind === 'zero') {
    modelDisk.fill(0, offset, offset + left);
    return;
  }
  for (const segment of operation.segments) {
    const length = Math.min(segment.length, left);
    const part = modelDisk.subarray(offset, offset + length);
    const buffer = modelGuest.subarray(segment.offset, segment.offset + length);
    if (operation.kind === 'read') buffer.set(part);
    else part.set(buffer);
    offset += length;
    left -= length;
  }
}

/** Queues one operation; its segments take the next entries of the arena. Returns the entry after them. */
function queue(operation: Operation, entry: number): number {
  if (operation.kind === 'zero') {
    engine.zero(operation.offset, operation.length);
    return entry;
  }
  for (const [i, { offset, length }] of operation.segments.entries()) {
    arena.set(entry + i, guestMapping.address + offset, length);
  }
  engine[operation.kind](operation.offset, operation.length, entry, operation.segments.length);
  return entry + operation.segments.length;
}

const length = (max: number) => fc.oneof(fc.constantFrom(0, 1, 511, 512, 513, 4096), fc.nat(max));
const segment = fc
  .tuple(fc.nat(GUEST_BYTES - 1), length(20_000))
  .map(([offset, wanted]): Segment => ({ offset, length: Math.min(wanted, GUEST_BYTES - offset) }));
const transfer = fc
  .record({
    kind: fc.constantFrom('read', 'write'),
    offset: fc.nat(DISK_BYTES - 1),
    wanted: length(40_000),
    segments: fc.array(segment, { maxLength: 6 }),
  })
  .map(({ kind, offset, wanted, segments }): Operation => {
    return { kind, offset, length: Math.min(wanted, DISK_BYTES - offset), segments };
  });
const zero = fc
  .tuple(
    fc.oneof(fc.nat(DISK_BYTES), fc.constantFrom(0, 4096, 8192)),
    fc.oneof(length(DISK_BYTES), fc.constantFrom(64 * KIB, 128 * KIB)),
  )
  .map(
    ([offset, wanted]): Operation => ({
      kind: 'zero',
      offset,
      length: Math.min(wanted, DISK_BYTES - offset),
      segments: [],
    }),
  );

describe('the copy engine', () => {
  it('does what a model in plain arrays does, in order, however many operations come', () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof({ weight: 3, arbitrary: transfer }, { weight: 1, arbitrary: zero }), {
          maxLength: 3 * CAPACITY,
          size: 'max',
        }),
        fc.integer(),
        (operations, seed) => {
          for (let i = 0; i < DISK_BYTES; i += 61) disk[i] = seed + i;
          for (let i = 0; i < GUEST_BYTES; i += 7) guest[i] = seed * 3 + i;
          const modelDisk = disk.slice();
          const modelGuest = guest.slice();
          let entry = 0;
          for (const operation of operations) {
            entry = queue(operation, entry);
            applyToModel(operation, modelDisk, modelGuest);
          }
          expect(engine.count).toBeLessThanOrEqual(CAPACITY);
          engine.run();
          expect(engine.count).toBe(0);
          expect(Buffer.compare(disk, modelDisk)).toBe(0);
          expect(Buffer.compare(guest, modelGuest)).toBe(0);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('stops at the shorter of the length and the segments', () => {
    disk.fill(1);
    guest.fill(2);
    queue(
      {
        kind: 'read',
        offset: 0,
        length: 100,
        segments: [
          { offset: 0, length: 10 },
          { offset: 50, length: 10 },
        ],
      },
      0,
    );
    queue(
      {
        kind: 'write',
        offset: 1000,
        length: 5,
        segments: [
          { offset: 200, length: 3 },
          { offset: 300, length: 10 },
        ],
      },
      2,
    );
    engine.run();
    expect([...guest.subarray(0, 12)]).toEqual([...Array(10).fill(1), 2, 2]);
    expect([...guest.subarray(49, 62)]).toEqual([2, ...Array(10).fill(1), 2, 2]);
    expect([...disk.subarray(999, 1007)]).toEqual([1, 2, 2, 2, 2, 2, 1, 1]);
  });

  it('does nothing until it runs, and nothing when nothing is queued', () => {
    disk.fill(3);
    guest.fill(4);
    queue({ kind: 'read', offset: 0, length: 8, segments: [{ offset: 0, length: 8 }] }, 0);
    expect([engine.count, guest[0]]).toEqual([1, 4]);
    engine.run();
    expect(guest[0]).toBe(3);
    guest.fill(4);
    engine.run();
    expect(guest[0]).toBe(4);
  });

  it('gives zeroed pages back to the system, up to the unaligned ends', () => {
    disk.fill(0xff);
    const before = residentKib(diskMapping);
    queue({ kind: 'zero', offset: 100, length: 200 * KIB, segments: [] }, 0);
    engine.run();
    expect(before - residentKib(diskMapping)).toBeGreaterThanOrEqual(190);
    expect(disk.subarray(100, 100 + 200 * KIB).every((byte) => byte === 0)).toBe(true);
    expect([disk[99], disk[100 + 200 * KIB]]).toEqual([0xff, 0xff]);
  });

  it('passes over segments outside the arena', () => {
    guest.fill(5);
    engine.read(0, 8, arena.capacity, 1);
    engine.read(0, 8, arena.capacity + 1, 0);
    engine.read(0, 8, IOV_LONG_ENTRIES, arena.capacity);
    engine.read(0, 8, 0, 0xffff_ffff);
    engine.run();
    expect(guest.every((byte) => byte === 5)).toBe(true);
  });

  it('survives guest memory that is cut off under it, both ways', () => {
    const fd = createMemoryFile('guest', 8 * KIB);
    const lost = Mapping.file(fd, 0, 8 * KIB, { guarded: true });
    truncateFile(fd, 4 * KIB);
    disk.fill(6);
    arena.set(0, lost.address, 8 * KIB);
    engine.write(0, 8 * KIB, 0, 1);
    engine.run();
    expect(disk.subarray(0, 8 * KIB).every((byte) => byte === 0)).toBe(true);
    engine.read(16 * KIB, 8 * KIB, 0, 1);
    engine.run();
    expect(lost.wasTruncated).toBe(true);
    lost.close();
    closeFd(fd);
  });

  it('counts in blocks of the disk', () => {
    disk.fill(0);
    guest.fill(8);
    engine.setDisk(diskMapping.address, 4096, DISK_BYTES / 4096);
    arena.set(0, guestMapping.address, 8192);
    engine.write(3, 2, 0, 1);
    engine.run();
    expect([disk[3 * 4096 - 1], disk[3 * 4096], disk[5 * 4096 - 1], disk[5 * 4096]]).toEqual([0, 8, 8, 0]);
    engine.zero(4, 1);
    engine.read(3, 2, 0, 1);
    engine.run();
    expect([guest[0], guest[4095], guest[4096], guest[8191], guest[8192]]).toEqual([8, 8, 0, 0, 8]);
    diskOf(diskMapping);
  });

  it('carries out what was queued for a disk before it goes over to another', () => {
    const other = Mapping.anonymous(4096);
    const own = new MappingViews();
    const bytes = new Uint8Array(own.view(other, 0, 4096)).fill(1);
    disk.fill(2);
    engine.zero(0, 16);
    diskOf(other);
    engine.zero(0, 8);
    engine.run();
    expect([disk[0], disk[15], disk[16], bytes[0], bytes[7], bytes[8]]).toEqual([0, 0, 2, 0, 0, 1]);
    diskOf(diskMapping);
    own.close();
    other.close();
  });

  it('asserts that a disk has an address and a block size', () => {
    expect(() => engine.setDisk(0, 512, 1)).toThrow(AssertionError);
    expect(() => engine.setDisk(diskMapping.address, 0, 1)).toThrow(AssertionError);
  });

  it('writes the same by every way of writing to a large disk', () => {
    const bytes = 64 * KIB * KIB;
    const large = Mapping.anonymous(bytes);
    const largeViews = new MappingViews();
    const content = new Uint8Array(largeViews.view(large, 0, bytes));
    diskOf(large);
    const part = GUEST_BYTES / 2;
    // Both ways have a turn of 64 MiB. Half of the pieces begin and end where no cache line does.
    for (let written = 0; written < 130 * KIB * KIB; written += part) {
      const round = Math.floor(written / part);
      const [offset, skip] = [(round * part * 7) % (bytes - part), (round % 2) * 3];
      guest.fill(round, 0, part);
      arena.set(0, guestMapping.address, part);
      content.fill(round + 1, offset, offset + part);
      engine.write(offset + skip, part - 2 * skip, 0, 1);
      engine.run();
      const found = content.subarray(offset, offset + part);
      const wanted = new Uint8Array(part).fill(round + 1).fill(round, skip, part - skip);
      expect(Buffer.compare(found, wanted)).toBe(0);
    }
    diskOf(diskMapping);
    largeViews.close();
    large.close();
  });
});
