/** Requests: types, statuses, lengths, ranges and how their bytes are cut (virtio 1.3 §5.2.6). */
import { deepEqual, equal, notEqual, ok } from 'node:assert/strict';
import { type BlkInitiator, encodeRanges } from '../../src/initiator/blk-initiator.ts';
import type { BlkRequest } from '../../src/initiator/blk-request.ts';
import { hasBit, maskOf } from '../../src/vhost-user/messages.ts';
import { BLK_RANGE_UNMAP, BlkFeature, BlkRequestType, BlkStatus } from '../../src/virtio/blk.ts';
import { VirtioFeature } from '../../src/virtio/features.ts';
import { KIB, MIB, pattern, repeat, SECTOR, sameBytes, writeAndReadBack } from './blk-case-helpers.ts';
import type { BlkCase } from './blk-cases.ts';

const { OK, IOERR, UNSUPP } = BlkStatus;
const { IN, OUT, FLUSH, GET_ID, GET_LIFETIME, DISCARD, WRITE_ZEROES, SECURE_ERASE } = BlkRequestType;
const UNKNOWN_TYPES = [2, 3, 5, 7, 9, 12, 15, 99, 0xffff_ffff];
/** Of legacy devices: flags in the type of a request. */
const LEGACY_BARRIER = 0x8000_0000;

async function statusOf(disk: BlkInitiator, request: BlkRequest): Promise<number> {
  return (await disk.request(request)).status;
}

/** `count` ranges of one sector each. */
function singleSectors(count: number): Uint8Array {
  return encodeRanges(Array.from({ length: count }, (_, i) => ({ sector: i, sectors: 1 })));
}

/** A read and a write of the same 4 KiB with every framing must agree with the plain ones. */
async function checkFraming(disk: BlkInitiator, readable: number[], writable: number[]): Promise<void> {
  const data = pattern(4 * KIB, readable.length + 7);
  await disk.write(40, data, { readable });
  sameBytes(await disk.read(40, data.length), data, 'a write so framed');
  const result = await disk.request({ type: IN, sector: 40, inBytes: data.length, writable });
  equal(result.status, OK);
  sameBytes(result.data, data, 'a read so framed');
}

export const requestCases: readonly BlkCase[] = [
  {
    name: 'gives back what was written, whatever the length and place',
    async run(context) {
      const disk = await context.connect();
      const lastSector = disk.config.capacitySectors - 1;
      await writeAndReadBack(disk, 0, pattern(SECTOR, 1));
      await writeAndReadBack(disk, 1, pattern(3 * SECTOR, 2));
      await writeAndReadBack(disk, 8, pattern(64 * KIB, 3));
      await writeAndReadBack(disk, 1000, pattern(MIB, 4));
      await writeAndReadBack(disk, lastSector, pattern(SECTOR, 5));
      sameBytes(await disk.read(0, SECTOR), pattern(SECTOR, 1), 'the first sector afterwards');
    },
  },
  {
    name: 'serves requests that cross 64 MiB',
    async run(context) {
      const disk = await context.connect();
      const sector = (64 * MIB) / SECTOR - 1000;
      await writeAndReadBack(disk, sector, pattern(MIB, 9));
      const data = pattern(MIB, 9);
      for (const offset of [999, 1000, 1001]) {
        const part = data.subarray(offset * SECTOR, (offset + 2) * SECTOR);
        sameBytes(await disk.read(sector + offset, 2 * SECTOR), part, `offset ${offset}`);
      }
    },
  },
  {
    name: 'accepts the header cut into 8 + 8 bytes',
    run: async (context) => checkFraming(await context.connect(), [8, 8, 4096], [4096, 1]),
  },
  {
    name: 'accepts the header cut into 4 × 4 bytes',
    run: async (context) => checkFraming(await context.connect(), [4, 4, 4, 4, 4096], [4096, 1]),
  },
  {
    name: 'accepts the header cut into single bytes',
    run: async (context) => checkFraming(await context.connect(), [...repeat(1, 16), 4096], [4096, 1]),
  },
  {
    name: 'accepts header and data in one descriptor, and data and status in one',
    run: async (context) => checkFraming(await context.connect(), [16 + 4096], [4096 + 1]),
  },
  {
    name: 'accepts a border inside header and data that is not where they meet',
    run: async (context) => checkFraming(await context.connect(), [10, 20, 4082], [1, 4095, 1]),
  },
  {
    name: 'accepts data cut at odd bytes',
    run: async (context) => checkFraming(await context.connect(), [16, 1, 3, 509, 3581, 2], [7, 1000, 3088, 2]),
  },
  {
    name: 'accepts 64 descriptors of 512 bytes',
    async run(context) {
      const disk = await context.connect();
      const data = pattern(64 * SECTOR, 11);
      await disk.write(100, data, { readable: [16, ...repeat(SECTOR, 64)] });
      sameBytes(await disk.read(100, data.length), data, 'scattered write');
      const read = await disk.read(100, data.length, { writable: [...repeat(SECTOR, 64), 1] });
      sameBytes(read, data, 'scattered read');
    },
  },
  {
    name: 'accepts zero-length descriptors in a chain',
    run: async (context) => checkFraming(await context.connect(), [16, 0, 4096, 0], [0, 4096, 0, 1]),
  },
  {
    name: 'writes the status as the last byte of an oversized writable part',
    async run(context) {
      const disk = await context.connect();
      const flushed = await disk.request({ type: FLUSH, statusBytes: 16 });
      equal(flushed.status, OK);
      const data = pattern(SECTOR, 3);
      const written = await disk.request({ type: OUT, sector: 3, out: data, statusBytes: 16 });
      equal(written.status, OK);
      sameBytes(await disk.read(3, SECTOR), data, 'written');
    },
  },
  {
    name: 'answers unknown request types with UNSUPP',
    async run(context) {
      const disk = await context.connect();
      for (const type of UNKNOWN_TYPES) {
        const bare = await disk.request({ type });
        deepEqual([type, bare.status], [type, UNSUPP]);
        const withData = await disk.request({ type, inBytes: 512, out: pattern(512) });
        deepEqual([type, withData.status], [type, UNSUPP]);
      }
      await writeAndReadBack(disk, 0, pattern(SECTOR));
    },
  },
  {
    name: 'knows no barrier flag in the type of a request',
    async run(context) {
      const disk = await context.connect();
      equal(await statusOf(disk, { type: LEGACY_BARRIER + IN, inBytes: 512 }), UNSUPP);
      equal(await statusOf(disk, { type: LEGACY_BARRIER + OUT, out: pattern(512) }), UNSUPP);
      sameBytes(await disk.read(0, SECTOR), new Uint8Array(SECTOR), 'the disk afterwards');
    },
  },
  {
    name: 'answers request types that it does not offer with UNSUPP',
    async run(context) {
      const disk = await context.connect();
      equal(await statusOf(disk, { type: GET_LIFETIME, inBytes: 6 }), UNSUPP);
      equal(await statusOf(disk, { type: SECURE_ERASE, out: encodeRanges([{ sector: 0, sectors: 8 }]) }), UNSUPP);
    },
  },
  {
    name: 'refuses what lies beyond the capacity',
    async run(context) {
      const disk = await context.connect();
      const end = disk.config.capacitySectors;
      const starts = [
        end,
        end - 7,
        end + 1,
        2 ** 32,
        2 ** 40,
        2n ** 55n - 8n,
        2n ** 55n,
        2n ** 63n,
        2n ** 64n - 1n,
        2n ** 64n - 8n,
      ];
      for (const sector of starts) {
        deepEqual([sector, await statusOf(disk, { type: IN, sector, inBytes: 4096 })], [sector, IOERR]);
        deepEqual([sector, await statusOf(disk, { type: OUT, sector, out: pattern(4096) })], [sector, IOERR]);
      }
      equal(await statusOf(disk, { type: IN, sector: end - 8, inBytes: 4096 }), OK);
    },
  },
  {
    name: 'puts the number of bytes written into the used element',
    async run(context) {
      const disk = await context.connect();
      const used = async (request: BlkRequest): Promise<number> => (await disk.request(request)).usedLen;
      equal(await used({ type: OUT, out: pattern(4096) }), 1);
      equal(await used({ type: IN, inBytes: 4096 }), 4097);
      equal(await used({ type: IN, inBytes: 4096, writable: [1, 4000, 95, 1] }), 4097);
      equal(await used({ type: FLUSH }), 1);
      equal(await used({ type: GET_ID, inBytes: 20 }), 21);
      equal(await used({ type: 99 }), 1);
    },
  },
  {
    name: 'does not count bytes that it did not write as written',
    async run(context) {
      const disk = await context.connect();
      const outcome = async (request: BlkRequest): Promise<number[]> => {
        const { status, usedLen } = await disk.request(request);
        return [status, usedLen];
      };
      const end = disk.config.capacitySectors;
      deepEqual(await outcome({ type: IN, sector: end, inBytes: 4096 }), [IOERR, 0]);
      deepEqual(await outcome({ type: IN, sector: end, inBytes: 4096, writable: [1, 4000, 95, 1] }), [IOERR, 0]);
      deepEqual(await outcome({ type: OUT, sector: end, out: pattern(4096) }), [IOERR, 1]);
      deepEqual(await outcome({ type: 99, inBytes: 4096 }), [UNSUPP, 0]);
      deepEqual(await outcome({ type: GET_ID, inBytes: 64 }), [OK, 20]);
    },
  },
  {
    name: 'flushes, whatever the sector of the request',
    async run(context) {
      const disk = await context.connect();
      for (const sector of [0, 1, 2n ** 64n - 1n]) equal(await statusOf(disk, { type: FLUSH, sector }), OK);
    },
  },
  {
    name: 'ignores the reserved word of the header',
    async run(context) {
      const disk = await context.connect();
      const data = pattern(SECTOR, 21);
      equal(await statusOf(disk, { type: OUT, ioprio: 0xffff_ffff, sector: 2, out: data }), OK);
      sameBytes((await disk.request({ type: IN, ioprio: 7, sector: 2, inBytes: SECTOR })).data, data, 'read back');
    },
  },
  {
    name: 'completes a read and a write of no bytes',
    async run(context) {
      const disk = await context.connect();
      deepEqual(await disk.request({ type: IN }).then(({ status, usedLen }) => [status, usedLen]), [OK, 1]);
      deepEqual(await disk.request({ type: OUT }).then(({ status, usedLen }) => [status, usedLen]), [OK, 1]);
      await writeAndReadBack(disk, 0, pattern(SECTOR));
    },
  },
  {
    name: 'refuses data that is no multiple of a sector, and writes none of it',
    async run(context) {
      const disk = await context.connect();
      const before = pattern(8 * SECTOR, 5);
      await disk.write(0, before);
      for (const length of [1, 511, 513, 4095, 4097 - 512]) {
        deepEqual([length, await statusOf(disk, { type: OUT, out: pattern(length, 6) })], [length, IOERR]);
        deepEqual([length, await statusOf(disk, { type: IN, inBytes: length })], [length, IOERR]);
      }
      sameBytes(await disk.read(0, before.length), before, 'the disk afterwards');
    },
  },
  {
    name: 'tells its serial in 20 bytes padded by NUL',
    async run(context) {
      const disk = await context.connect();
      equal(await disk.getId(), context.target.serial);
      const whole = await disk.request({ type: GET_ID, inBytes: 20 });
      const expected = new Uint8Array(20);
      expected.set(Buffer.from(context.target.serial));
      deepEqual(whole.data, expected);
      const cut = await disk.request({ type: GET_ID, inBytes: 20, writable: [3, 10, 8] });
      deepEqual(cut.data, expected);
    },
  },
  {
    name: 'zeroes what WRITE_ZEROES names and nothing beside it, with and without unmap',
    async run(context) {
      const disk = await context.connect();
      ok(disk.hasFeature(BlkFeature.WRITE_ZEROES));
      for (const flags of [0, BLK_RANGE_UNMAP]) {
        const data = pattern(64 * SECTOR, 31);
        await disk.write(64, data);
        await disk.writeZeroes([{ sector: 64 + 10, sectors: 21, flags }]);
        data.fill(0, 10 * SECTOR, 31 * SECTOR);
        sameBytes(await disk.read(64, data.length), data, `flags ${flags}`);
      }
    },
  },
  {
    name: 'zeroes a large range across MiB borders',
    async run(context) {
      const disk = await context.connect();
      const data = pattern(4 * MIB, 32);
      const sector = (62 * MIB) / SECTOR;
      for (let at = 0; at < 4; at++) await disk.write(sector + at * 2048, data.subarray(at * MIB, (at + 1) * MIB));
      await disk.writeZeroes([{ sector: sector + 3, sectors: 8192 - 6, flags: BLK_RANGE_UNMAP }]);
      data.fill(0, 3 * SECTOR, (8192 - 3) * SECTOR);
      for (let at = 0; at < 4; at++) {
        sameBytes(await disk.read(sector + at * 2048, MIB), data.subarray(at * MIB, (at + 1) * MIB), `MiB ${at}`);
      }
    },
  },
  {
    name: 'takes many ranges in one WRITE_ZEROES, however they are cut',
    async run(context) {
      const disk = await context.connect();
      const count = Math.min(disk.config.maxWriteZeroesSegments, 16);
      ok(count > 1, 'offers several segments');
      const data = pattern(256 * SECTOR, 33);
      await disk.write(0, data);
      const ranges = Array.from({ length: count }, (_, i) => ({ sector: i * 16 + 3, sectors: 5, flags: i % 2 }));
      await disk.writeZeroes(ranges, { readable: [5, 11, 7, 16 * count - 7] });
      for (const { sector, sectors } of ranges) data.fill(0, sector * SECTOR, (sector + sectors) * SECTOR);
      sameBytes(await disk.read(0, data.length), data, 'after it');
    },
  },
  {
    name: 'discards what DISCARD names and nothing beside it; it reads as zeroes then',
    async run(context) {
      const disk = await context.connect();
      ok(disk.hasFeature(BlkFeature.DISCARD));
      const data = pattern(MIB, 34);
      await disk.write(2048, data);
      await disk.discard([{ sector: 2048 + 256, sectors: 1024 }]);
      data.fill(0, 256 * SECTOR, 1280 * SECTOR);
      sameBytes(await disk.read(2048, data.length), data, 'after it');
    },
  },
  {
    name: 'takes many ranges in one DISCARD',
    async run(context) {
      const disk = await context.connect();
      const count = Math.min(disk.config.maxDiscardSegments, 16);
      ok(count > 1, 'offers several segments');
      const data = pattern(MIB, 35);
      await disk.write(0, data);
      const ranges = Array.from({ length: count }, (_, i) => ({ sector: i * 64, sectors: 32 }));
      await disk.discard(ranges);
      for (const { sector, sectors } of ranges) data.fill(0, sector * SECTOR, (sector + sectors) * SECTOR);
      sameBytes(await disk.read(0, data.length), data, 'after it');
    },
  },
  {
    name: 'refuses unknown range flags, and unmap in a DISCARD, with UNSUPP',
    async run(context) {
      const disk = await context.connect();
      const data = pattern(8 * SECTOR, 36);
      await disk.write(0, data);
      for (const flags of [2, 4, 0x8000_0000, 0xffff_ffff]) {
        const out = encodeRanges([{ sector: 0, sectors: 8, flags }]);
        deepEqual([flags, await statusOf(disk, { type: WRITE_ZEROES, out })], [flags, UNSUPP]);
        deepEqual([flags, await statusOf(disk, { type: DISCARD, out })], [flags, UNSUPP]);
      }
      const unmap = encodeRanges([{ sector: 0, sectors: 8, flags: BLK_RANGE_UNMAP }]);
      equal(await statusOf(disk, { type: DISCARD, out: unmap }), UNSUPP);
      sameBytes(await disk.read(0, data.length), data, 'the disk afterwards');
    },
  },
  {
    name: 'refuses ranges beyond the capacity',
    async run(context) {
      const disk = await context.connect();
      const end = disk.config.capacitySectors;
      const data = pattern(8 * SECTOR, 37);
      await disk.write(end - 8, data);
      for (const sector of [end, end - 7, 2n ** 55n - 8n, 2n ** 63n, 2n ** 64n - 8n]) {
        const out = encodeRanges([{ sector, sectors: 8 }]);
        deepEqual([sector, await statusOf(disk, { type: WRITE_ZEROES, out })], [sector, IOERR]);
        deepEqual([sector, await statusOf(disk, { type: DISCARD, out })], [sector, IOERR]);
      }
      sameBytes(await disk.read(end - 8, data.length), data, 'the last sectors afterwards');
    },
  },
  {
    name: 'refuses ranges that are too many, too long or cut short',
    async run(context) {
      const disk = await context.connect();
      const { maxDiscardSegments, maxWriteZeroesSegments, maxWriteZeroesSectors } = disk.config;
      const data = pattern(MIB, 38);
      await disk.write(0, data);
      notEqual(await statusOf(disk, { type: DISCARD, out: singleSectors(maxDiscardSegments + 1) }), OK);
      notEqual(await statusOf(disk, { type: WRITE_ZEROES, out: singleSectors(maxWriteZeroesSegments + 1) }), OK);
      const tooLong = encodeRanges([{ sector: 0, sectors: maxWriteZeroesSectors + 1 }]);
      const isLimited = maxWriteZeroesSectors < 0xffff_ffff;
      notEqual(isLimited ? await statusOf(disk, { type: WRITE_ZEROES, out: tooLong }) : IOERR, OK);
      for (const bytes of [1, 15]) {
        notEqual(await statusOf(disk, { type: WRITE_ZEROES, out: singleSectors(1).subarray(0, bytes) }), OK);
        notEqual(await statusOf(disk, { type: DISCARD, out: singleSectors(1).subarray(0, bytes) }), OK);
      }
      sameBytes(await disk.read(0, data.length), data, 'the disk afterwards');
    },
  },
  {
    name: 'applies no range of a WRITE_ZEROES when one of them is wrong',
    async run(context) {
      const disk = await context.connect();
      const data = pattern(32 * SECTOR, 39);
      await disk.write(0, data);
      const good = { sector: 0, sectors: 8 };
      for (const bad of [
        { sector: disk.config.capacitySectors, sectors: 8 },
        { sector: 16, sectors: 8, flags: 2 },
      ]) {
        notEqual(await statusOf(disk, { type: WRITE_ZEROES, out: encodeRanges([good, bad]) }), OK);
      }
      sameBytes(await disk.read(0, data.length), data, 'the disk afterwards');
    },
  },
  {
    name: 'lets a driver only read a read-only disk, even one that did not ack RO',
    disk: { isReadonly: true },
    async run(context) {
      const all = maskOf(VirtioFeature.VERSION_1, ...Object.values(BlkFeature));
      for (const features of [all, all & ~maskOf(BlkFeature.RO)]) {
        const disk = await context.connect({ features });
        ok(hasBit(disk.session.offered, BlkFeature.RO), 'offers RO');
        const zeroes = new Uint8Array(4096);
        equal(await statusOf(disk, { type: OUT, out: pattern(4096) }), IOERR);
        const out = encodeRanges([{ sector: 0, sectors: 8 }]);
        notEqual(await statusOf(disk, { type: DISCARD, out }), OK);
        notEqual(await statusOf(disk, { type: WRITE_ZEROES, out }), OK);
        equal(await statusOf(disk, { type: FLUSH }), OK);
        sameBytes(await disk.read(0, 4096), zeroes, 'read');
        disk.close();
      }
    },
  },
  {
    name: 'serves a disk of 4096-byte blocks',
    disk: { blockBytes: 4096 },
    async run(context) {
      const disk = await context.connect();
      equal(disk.config.blockSizeBytes, 4096);
      equal(disk.config.capacitySectors % 8, 0);
      equal(disk.config.capacitySectors * SECTOR, context.target.sizeBytes);
      await writeAndReadBack(disk, 0, pattern(4096, 1));
      await writeAndReadBack(disk, 8 * 77, pattern(MIB, 2));
      await writeAndReadBack(disk, disk.config.capacitySectors - 8, pattern(4096, 3));
      await disk.writeZeroes([{ sector: 8, sectors: 16 }]);
      sameBytes(await disk.read(8, 8192), new Uint8Array(8192), 'zeroed');
    },
  },
  {
    name: 'serves or refuses a part of a 4096-byte block, but never spoils the rest of it',
    disk: { blockBytes: 4096 },
    async run(context) {
      const disk = await context.connect();
      const data = pattern(8192, 4);
      await disk.write(0, data);
      const status = await statusOf(disk, { type: OUT, sector: 3, out: pattern(SECTOR, 5) });
      if (status === OK) data.set(pattern(SECTOR, 5), 3 * SECTOR);
      else equal(status, IOERR);
      sameBytes(await disk.read(0, 8192), data, 'the blocks afterwards');
      const read = await disk.request({ type: IN, sector: 5, inBytes: SECTOR });
      if (read.status === OK) sameBytes(read.data, data.subarray(5 * SECTOR, 6 * SECTOR), 'sector 5');
      else equal(read.status, IOERR);
    },
  },
];
