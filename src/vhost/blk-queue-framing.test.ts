/**
 * However a driver cuts header, data and status over descriptors, tables and regions, a request does what it does in
 * the plain framing (virtio 1.3 §2.7.4.2): checked against a model of the disk in a plain array.
 */
import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlkRig, blkHeader, blkRange, UNTOUCHED } from '../../test/support/blk-rig.ts';
import { CHANNEL_FACTORIES } from '../bdev/modules/channels.ts';
import { MallocBdev, MemoryBudget } from '../bdev/modules/malloc/malloc.ts';
import type { Segment } from '../initiator/driver-ring.ts';
import { BlkRequestType, BlkStatus } from '../virtio/blk.ts';

const { IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES } = BlkRequestType;
const MIB = 1 << 20;
const SECTORS = 64;
const SERIAL = 'FRAMING';
/** Where pieces are laid out from: just before the border of two regions, so that some cross it. */
const PIECES = 2 * MIB - 3000;
const TABLE = 3 * MIB;

interface Cut {
  /** Where the readable and the writable bytes are cut, as fractions of their length; equal cuts make empty pieces. */
  readonly readableCuts: readonly number[];
  readonly writableCuts: readonly number[];
  /** Bytes left free between pieces. */
  readonly gaps: readonly number[];
  /** Pieces that are descriptors of the ring; the others are in a table. */
  readonly directCount: number;
  readonly tableOffset: number;
}

interface Request {
  readonly type: number;
  readonly sector: number;
  readonly sectors: number;
  readonly seed: number;
}

const fraction = fc.nat(1000).map((n) => n / 1000);
const cut: fc.Arbitrary<Cut> = fc.record({
  readableCuts: fc.array(fraction, { maxLength: 7 }),
  writableCuts: fc.array(fraction, { maxLength: 7 }),
  gaps: fc.array(fc.constantFrom(0, 0, 1, 2, 3, 16, 511, 4096), { minLength: 1, maxLength: 5 }),
  directCount: fc.nat(16),
  tableOffset: fc.nat(31),
});
const request: fc.Arbitrary<Request> = fc.record({
  type: fc.constantFrom(IN, IN, OUT, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 99),
  // Some reach past the end.
  sector: fc.nat(SECTORS + 1),
  sectors: fc.integer({ min: 1, max: 9 }),
  seed: fc.nat(255),
});

/** The bytes a request sends, and how many it has room for. */
function bodyOf({ type, sector, sectors, seed }: Request): { out: Uint8Array; inBytes: number } {
  const header = blkHeader(type, sector);
  if (type === OUT) {
    const data = Uint8Array.from({ length: 512 * sectors }, (_, i) => seed + i * 3);
    return { out: Buffer.concat([header, data]), inBytes: 1 };
  }
  if (type === DISCARD || type === WRITE_ZEROES) {
    const ranges = [blkRange(sector, sectors), blkRange((sector * 7) % SECTORS, 1)];
    return { out: Buffer.concat([header, ...ranges]), inBytes: 1 };
  }
  if (type === IN) return { out: header, inBytes: 512 * sectors + 1 };
  return { out: header, inBytes: type === GET_ID ? 21 : 1 };
}

/** What the device must do to the disk, and what it must answer: status and data. */
function expectedOf(
  { type, sector, sectors }: Request,
  out: Uint8Array,
  disk: Uint8Array,
): { status: number; data: Uint8Array } {
  const nothing = { data: new Uint8Array(0) };
  const isInside = sector + sectors <= SECTORS;
  const part = disk.subarray(512 * sector, 512 * (sector + sectors));
  if (type === FLUSH) return { status: BlkStatus.OK, ...nothing };
  if (type === 99) return { status: BlkStatus.UNSUPP, ...nothing };
  if (type === GET_ID) return { status: BlkStatus.OK, data: Buffer.from(SERIAL.padEnd(20, '\0')) };
  if (!isInside)
    return { status: BlkStatus.IOERR, data: new Uint8Array(type === IN ? 512 * sectors : 0).fill(UNTOUCHED) };
  if (type === IN) return { status: BlkStatus.OK, data: part.slice() };
  if (type === OUT) part.set(out.subarray(16));
  else {
    const other = (sector * 7) % SECTORS;
    for (const range of [part, disk.subarray(512 * other, 512 * (other + 1))]) range.fill(0);
  }
  return { status: BlkStatus.OK, ...nothing };
}

/** Lengths of the pieces of `total` bytes, some of them perhaps 0. */
function pieces(total: number, cuts: readonly number[]): number[] {
  const at = [0, ...cuts.map((one) => Math.round(one * total)).toSorted((a, b) => a - b), total];
  return at.slice(1).map((end, i) => end - (at[i] as number));
}

/** Lays the request out in guest memory. Returns its segments, and where the writable bytes are, in order. */
function layOut(rig: BlkRig, out: Uint8Array, inBytes: number, { readableCuts, writableCuts, gaps }: Cut) {
  const segments: Segment[] = [];
  let at = PIECES;
  const place = (lengths: readonly number[], isWritable: boolean): void => {
    for (const lengthBytes of lengths) {
      at += gaps[segments.length % gaps.length] as number;
      segments.push({ gpa: at, lengthBytes, isWritable });
      at += lengthBytes;
    }
  };
  place(pieces(out.length, readableCuts), false);
  place(pieces(inBytes, writableCuts), true);
  let sent = 0;
  for (const { gpa, lengthBytes, isWritable } of segments) {
    const bytes = isWritable ? new Uint8Array(lengthBytes).fill(UNTOUCHED) : out.subarray(sent, sent + lengthBytes);
    rig.ring.memory.write(gpa, bytes);
    sent += isWritable ? 0 : lengthBytes;
  }
  return segments;
}

function gather(rig: BlkRig, segments: readonly Segment[]): Uint8Array {
  const writable = segments.filter(({ isWritable }) => isWritable);
  return Buffer.concat(writable.map(({ gpa, lengthBytes }) => rig.bytes(gpa, lengthBytes)));
}

function diskRig(): { rig: BlkRig; close: () => Promise<void> } {
  const bdev = new MallocBdev({ name: 'M', blockCount: SECTORS, blockSizeBytes: 512 }, new MemoryBudget(MIB));
  const factory = CHANNEL_FACTORIES[bdev.kind];
  assert(factory !== undefined);
  const { ioTypes, hasWriteCache } = bdev;
  const description = { blockCount: SECTORS, ioTypes, hasWriteCache, params: bdev.params() };
  const rig = new BlkRig({ size: 32, bdev: description, factory, device: { serial: SERIAL } });
  return {
    rig,
    close: async () => {
      rig.channel.close();
      rig.close();
      await bdev.destruct();
    },
  };
}

describe('any framing', () => {
  it('gives the same status, the same used length, the same data and the same disk', async () => {
    const { rig, close } = diskRig();
    const disk = new Uint8Array(512 * SECTORS);
    fc.assert(
      fc.property(request, cut, (one, how) => {
        const { out, inBytes } = bodyOf(one);
        const segments = layOut(rig, out, inBytes, how);
        const direct = Math.min(how.directCount, segments.length);
        const head = rig.ring.addMixed(segments, direct, TABLE + how.tableOffset);
        rig.ring.show(head);
        rig.round();
        const { status, data } = expectedOf(one, out, disk);
        // Of a read that fails, nothing before the status is written.
        const length = status === BlkStatus.OK || inBytes === 1 ? inBytes : 0;
        expect(rig.completions()).toEqual([{ head, length }]);
        const written = gather(rig, segments);
        expect(written.at(-1)).toBe(status);
        expect(Buffer.compare(written.subarray(0, -1), data)).toBe(0);
      }),
      { numRuns: 400 },
    );
    // What is on the disk, all of it, in the plain framing.
    const all = rig.perform(IN, 0, { inBytes: 512 * SECTORS });
    expect([all.status, Buffer.compare(all.data, disk)]).toEqual([BlkStatus.OK, 0]);
    await close();
  });

  it('of one byte a descriptor is no different', async () => {
    const { rig, close } = diskRig();
    const bytes = (gpa: number, length: number, isWritable: boolean): Segment[] =>
      Array.from({ length }, (_, i) => ({ gpa: gpa + 2 * i, lengthBytes: 1, isWritable }));
    const out = Buffer.concat([blkHeader(OUT, 3), Uint8Array.from({ length: 512 }, (_, i) => i)]);
    const write = [...bytes(PIECES, out.length, false), ...bytes(TABLE + MIB, 1, true)];
    for (const [i, { gpa }] of write.slice(0, out.length).entries()) rig.ring.memory.write(gpa, out.subarray(i, i + 1));
    rig.ring.show(rig.ring.driver.addIndirect(write, TABLE));
    rig.round();
    expect([rig.completions().length, gather(rig, write)[0]]).toEqual([1, BlkStatus.OK]);
    const header = blkHeader(IN, 3);
    const read = [...bytes(PIECES, 16, false), ...bytes(PIECES + 100, 513, true)];
    for (let i = 0; i < 16; i++) rig.ring.memory.write(PIECES + 2 * i, header.subarray(i, i + 1));
    rig.ring.show(rig.ring.driver.addIndirect(read, TABLE));
    rig.round();
    expect(rig.completions()).toHaveLength(1);
    expect(Buffer.compare(gather(rig, read), Buffer.concat([out.subarray(16), Uint8Array.of(BlkStatus.OK)]))).toBe(0);
    await close();
  });

  it('with the status byte in the descriptor of the data is no different', async () => {
    const { rig, close } = diskRig();
    rig.ring.memory.write(PIECES, blkHeader(IN, 0));
    rig.ring.memory.write(PIECES + 16, new Uint8Array(513).fill(UNTOUCHED));
    const segments = [
      { gpa: PIECES, lengthBytes: 16, isWritable: false },
      { gpa: PIECES + 16, lengthBytes: 513, isWritable: true },
    ];
    rig.submit(segments);
    rig.round();
    expect(gather(rig, segments).every((byte) => byte === 0)).toBe(true);
    await close();
  });
});
