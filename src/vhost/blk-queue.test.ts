/** A virtio-blk queue: what becomes of each request. Framing and the flow of many requests have tests of their own. */
import { afterEach, describe, expect, it } from 'vitest';
import { BlkRig, type BlkRigOptions, blkHeader, blkRange, DATA, UNTOUCHED } from '../../test/support/blk-rig.ts';
import { IoStatus, IoType } from '../bdev/bdev-io.ts';
import { IovArena } from '../sys/iov-arena.ts';
import { BlkRequestType, BlkStatus } from '../virtio/blk.ts';
import { DISCARD_SECTORS_MAX, RANGES_MAX } from './blk-device.ts';

const { IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES } = BlkRequestType;
const { OK, IOERR, UNSUPP } = BlkStatus;
/** Past every region of the rig. */
const OUTSIDE = 1 << 30;

const rigs: BlkRig[] = [];
afterEach(() => {
  for (const rig of rigs.splice(0)) rig.close();
});

function rigOf(options: BlkRigOptions = {}): BlkRig {
  const rig = new BlkRig(options);
  rigs.push(rig);
  return rig;
}

const readable = (gpa: number, lengthBytes: number) => ({ gpa, lengthBytes, isWritable: false });
const writable = (gpa: number, lengthBytes: number) => ({ gpa, lengthBytes, isWritable: true });
const onDisk = (sectors: number) => ({ blockCount: sectors, blockSizeBytes: 512 });

describe('a transfer', () => {
  it('becomes one request to the bdev, over the guest’s own memory', () => {
    const rig = rigOf({ bdev: onDisk(100) });
    rig.request(IN, 7, { inBytes: 1024 });
    rig.round();
    const [io] = rig.module.held;
    expect(io).toMatchObject({ type: IoType.read, offsetBlocks: 7, countBlocks: 2, lengthBytes: 1024, iovCount: 1 });
    expect(rig.arena.addressOf(io?.iovFirst as number)).toBe(rig.ring.memory.userAddressOf(DATA + 16));
    expect(rig.arena.lengthOf(io?.iovFirst as number)).toBe(1024);
    rig.module.complete();
    rig.request(OUT, 99, { out: new Uint8Array(512), at: DATA + 4096 });
    rig.round();
    expect(rig.module.held[0]).toMatchObject({
      type: IoType.write,
      offsetBlocks: 99,
      countBlocks: 1,
      lengthBytes: 512,
    });
  });

  it('counts in blocks of the disk, not in sectors', () => {
    const rig = rigOf({ bdev: { blockCount: 10, blockSizeBytes: 4096 } });
    rig.request(IN, 72, { inBytes: 4096 });
    rig.round();
    expect(rig.module.held[0]).toMatchObject({ offsetBlocks: 9, countBlocks: 1, lengthBytes: 4096 });
  });

  it('ends with its status byte and the length of the writable part, when the bdev has ended it', () => {
    const rig = rigOf({ bdev: onDisk(100) });
    const head = rig.request(IN, 0, { inBytes: 512 });
    rig.round();
    expect([rig.completions(), rig.bytes(DATA + 16 + 512, 1)[0]]).toEqual([[], UNTOUCHED]);
    rig.module.complete();
    // The status is written at once, but the driver is told with the round.
    expect(rig.completions()).toEqual([]);
    rig.queue.publish();
    expect([rig.completions(), rig.bytes(DATA + 16 + 512, 1)[0]]).toEqual([[{ head, length: 513 }], OK]);
  });

  it.each([IN, OUT])('of type %i that the bdev fails is an I/O error', (type) => {
    const rig = rigOf({ bdev: onDisk(100) });
    rig.module.immediateStatus = IoStatus.failed;
    const parts = type === IN ? { inBytes: 512 } : { out: new Uint8Array(512) };
    expect(rig.perform(type, 0, parts)).toMatchObject({ status: IOERR, length: type === IN ? 0 : 1 });
  });

  it.each<readonly [string, number | bigint, number]>([
    ['of the last sectors', 98, OK],
    ['that ends one sector past the disk', 99, IOERR],
    ['that starts at the end', 100, IOERR],
    ['at 2^53', 2n ** 53n, IOERR],
    ['whose end would wrap to 0', 2n ** 64n - 2n, IOERR],
    ['at the largest sector', 2n ** 64n - 1n, IOERR],
  ])('%s is checked', (_, sector, status) => {
    const rig = rigOf({ bdev: onDisk(100) });
    expect(rig.perform(IN, sector, { inBytes: 1024 }).status).toBe(status);
    expect(rig.perform(OUT, sector, { out: new Uint8Array(1024) }).status).toBe(status);
  });

  it.each([1, 511, 513, 1023])('of %i bytes is an I/O error', (length) => {
    const rig = rigOf({ bdev: onDisk(100) });
    expect(rig.perform(IN, 0, { inBytes: length }).status).toBe(IOERR);
    expect(rig.perform(OUT, 0, { out: new Uint8Array(length) }).status).toBe(IOERR);
    expect(rig.module.held).toEqual([]);
  });

  it('that is not in whole blocks of 4096 bytes is an I/O error', () => {
    const rig = rigOf({ bdev: { blockCount: 10, blockSizeBytes: 4096 } });
    expect(rig.perform(IN, 8, { inBytes: 4096 }).status).toBe(OK);
    expect(rig.perform(IN, 1, { inBytes: 4096 }).status).toBe(IOERR);
    expect(rig.perform(IN, 8, { inBytes: 512 }).status).toBe(IOERR);
    expect(rig.perform(OUT, 9, { out: new Uint8Array(4096) }).status).toBe(IOERR);
  });

  it('of nothing succeeds without the bdev, on the disk', () => {
    const rig = rigOf({ bdev: onDisk(100) });
    rig.module.immediateStatus = IoStatus.failed;
    expect(rig.perform(IN, 100)).toMatchObject({ status: OK, length: 1 });
    expect(rig.perform(OUT, 0)).toMatchObject({ status: OK, length: 1 });
    expect(rig.perform(IN, 101).status).toBe(IOERR);
  });
});

describe('a request without a transfer', () => {
  it('flushes', () => {
    const rig = rigOf({ bdev: { hasWriteCache: true } });
    rig.request(FLUSH, 0);
    rig.round();
    expect(rig.module.held[0]).toMatchObject({ type: IoType.flush });
    rig.module.complete();
    rig.queue.publish();
    expect([rig.completions().length, rig.bytes(DATA + 16, 1)[0]]).toEqual([1, OK]);
  });

  it('flushes a bdev without a write cache at once', () => {
    const rig = rigOf();
    expect(rig.perform(FLUSH, 0)).toMatchObject({ status: OK, length: 1 });
    expect(rig.module.polls).toBe(0);
  });

  it('fails a flush that fails', () => {
    const rig = rigOf({ bdev: { hasWriteCache: true } });
    rig.module.immediateStatus = IoStatus.failed;
    expect(rig.perform(FLUSH, 0).status).toBe(IOERR);
  });

  it.each([2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 0x8000_0000, 0x8000_0001, 0xffff_ffff])(
    'of type %i is not supported',
    (type) => {
      expect(rigOf().perform(type, 0, { inBytes: 512 })).toMatchObject({ status: UNSUPP, length: 0 });
    },
  );

  it.each([
    ['short', 'short'],
    ['', ''],
    ['exactly-20-characters', 'exactly-20-character'],
    ['much longer than twenty characters', 'much longer than twe'],
  ])('gets the serial %j as 20 bytes with NULs', (serial, expected) => {
    const { status, length, data } = rigOf({ device: { serial } }).perform(GET_ID, 0, { inBytes: 20 });
    expect([status, length]).toEqual([OK, 21]);
    expect(Buffer.from(data).toString('latin1')).toBe(expected.padEnd(20, '\0'));
  });

  it('gets the serial into a larger buffer, and nothing more', () => {
    const { status, length, data } = rigOf().perform(GET_ID, 0, { inBytes: 64 });
    expect([status, length, data[19], data[20], data[63]]).toEqual([OK, 20, 0, UNTOUCHED, UNTOUCHED]);
  });

  it.each([0, 1, 19])('gets no serial into %i bytes', (inBytes) => {
    const { status, data } = rigOf().perform(GET_ID, 0, { inBytes });
    expect([status, data.every((byte) => byte === UNTOUCHED)]).toEqual([IOERR, true]);
  });
});

describe('a request that is not in order', () => {
  /** Status byte, used lengths and requests to the bdev after a round. */
  const outcome = (rig: BlkRig, at: number) => {
    rig.round();
    const lengths = rig.completions().map((completion) => completion.length);
    return [rig.bytes(at, 1)[0], lengths, rig.module.held.length];
  };

  it.each([0, 1, 15])('with a header of %i bytes is an I/O error', (length) => {
    const rig = rigOf();
    rig.submit([readable(DATA, length), writable(DATA + 100, 1)]);
    expect(outcome(rig, DATA + 100)).toEqual([IOERR, [1], 0]);
  });

  it('without a header is an I/O error', () => {
    const rig = rigOf();
    rig.submit([writable(DATA + 100, 513)]);
    expect(outcome(rig, DATA + 100 + 512)).toEqual([IOERR, [0], 0]);
  });

  it.each([
    ['no writable part', [readable(DATA, 16)]],
    ['a writable part of no bytes', [readable(DATA, 16), writable(DATA + 100, 0)]],
    ['its status byte outside the memory', [readable(DATA, 16), writable(OUTSIDE, 1)]],
    ['its status byte at the end of the address space', [readable(DATA, 16), writable(2 ** 53 - 1, 4096)]],
  ])('with %s is given back empty, and the ring goes on', (_, segments) => {
    const rig = rigOf();
    const head = rig.submit(segments);
    rig.round();
    expect(rig.completions()).toEqual([{ head, length: 0 }]);
    expect(rig.faults).toHaveLength(1);
    expect(rig.perform(GET_ID, 0, { inBytes: 20 }).status).toBe(OK);
  });

  it('with its header outside the memory is an I/O error', () => {
    const rig = rigOf();
    rig.submit([readable(OUTSIDE, 16), writable(DATA, 513)]);
    expect(outcome(rig, DATA + 512)).toEqual([IOERR, [0], 0]);
  });

  it('with part of its header outside the memory is an I/O error', () => {
    const rig = rigOf();
    rig.ring.memory.write(DATA, blkHeader(IN, 0));
    rig.submit([readable(DATA, 8), readable(OUTSIDE, 8), writable(DATA + 100, 513)]);
    expect(outcome(rig, DATA + 100 + 512)).toEqual([IOERR, [0], 0]);
  });

  it.each([
    ['outside', OUTSIDE, 512],
    ['over the end of', (6 << 20) - 256, 512],
    ['far beyond', 2 ** 52, 512],
  ])('with its data %s the memory is an I/O error, and no list is lost', (_, gpa, length) => {
    const rig = rigOf({ arena: new IovArena(1, 1) });
    rig.ring.memory.write(DATA, blkHeader(IN, 0));
    rig.ring.memory.write(DATA + 16, blkHeader(OUT, 0));
    for (let i = 0; i < 3; i++) {
      rig.submit([readable(DATA, 16), writable(gpa, length), writable(DATA + 100, 1)]);
      expect(outcome(rig, DATA + 100)).toEqual([IOERR, [0], 0]);
      rig.submit([readable(DATA + 16, 16), readable(gpa, length), writable(DATA + 101, 1)]);
      expect(outcome(rig, DATA + 101)).toEqual([IOERR, [1], 0]);
    }
    expect([rig.arena.takeShort() >= 0, rig.arena.takeLong() >= 0]).toEqual([true, true]);
  });

  it('with the room for the serial outside the memory is an I/O error', () => {
    const rig = rigOf();
    rig.ring.memory.write(DATA, blkHeader(GET_ID, 0));
    rig.submit([readable(DATA, 16), writable(OUTSIDE, 20), writable(DATA + 100, 1)]);
    expect(outcome(rig, DATA + 100)).toEqual([IOERR, [0], 0]);
  });

  it('with ranges outside the memory is an I/O error', () => {
    const rig = rigOf();
    rig.ring.memory.write(DATA, blkHeader(DISCARD, 0));
    rig.submit([readable(DATA, 16), readable(OUTSIDE, 16), writable(DATA + 100, 1)]);
    expect(outcome(rig, DATA + 100)).toEqual([IOERR, [1], 0]);
  });
});

describe.each([
  ['DISCARD', DISCARD, IoType.unmap],
  ['WRITE_ZEROES', WRITE_ZEROES, IoType.writeZeroes],
])('%s', (name, type, ioType) => {
  const perform = (rig: BlkRig, ...ranges: readonly Uint8Array[]) =>
    rig.perform(type, 0, { out: Buffer.concat(ranges) });
  const ranges = (count: number) => Array.from({ length: count }, (_, i) => blkRange(i, 1));

  it('becomes one request a range, and ends when all have', () => {
    const rig = rigOf({ bdev: onDisk(1000) });
    rig.request(type, 0, { out: Buffer.concat([blkRange(1, 2), blkRange(0, 1000), blkRange(999, 1)]) });
    rig.round();
    const seen = rig.module.held.map((io) => [io.type, io.offsetBlocks, io.countBlocks, io.lengthBytes]);
    expect(seen).toEqual([
      [ioType, 1, 2, 1024],
      [ioType, 0, 1000, 512_000],
      [ioType, 999, 1, 512],
    ]);
    rig.module.complete(IoStatus.success, 1);
    rig.module.complete(IoStatus.success, 1);
    rig.queue.publish();
    expect(rig.completions()).toEqual([]);
    rig.module.complete();
    rig.queue.publish();
    expect([rig.completions().length, rig.bytes(DATA + 16 + 48, 1)[0]]).toEqual([1, OK]);
  });

  it('fails when one of its ranges fails, after all have ended', () => {
    const rig = rigOf({ bdev: onDisk(1000) });
    rig.request(type, 0, { out: Buffer.concat(ranges(3)) });
    rig.round();
    for (const status of [IoStatus.success, IoStatus.failed, IoStatus.success]) {
      expect(rig.completions()).toEqual([]);
      rig.module.complete(status);
      rig.queue.publish();
    }
    expect([rig.completions().length, rig.bytes(DATA + 16 + 48, 1)[0]]).toEqual([1, IOERR]);
  });

  it.each<readonly [string, readonly Uint8Array[], number]>([
    ['one range', ranges(1), OK],
    ['as many ranges as are offered', ranges(RANGES_MAX), OK],
    ['more ranges than are offered', ranges(RANGES_MAX + 1), IOERR],
    ['no range', [], IOERR],
    ['half a range', [blkRange(0, 1).subarray(0, 8)], IOERR],
    ['a range and a half', [blkRange(0, 1), new Uint8Array(8)], IOERR],
    ['a range of no sectors', [blkRange(5, 0)], OK],
    ['the whole disk', [blkRange(0, 1000)], OK],
    ['a range past the end', [blkRange(999, 2)], IOERR],
    ['a range at the end', [blkRange(1000, 1)], IOERR],
    ['a range at 2^64 - 1', [blkRange(2n ** 64n - 1n, 1)], IOERR],
    ['a good range and one past the end', [blkRange(0, 1), blkRange(1000, 1)], IOERR],
    ['a range of all sectors there could be', [blkRange(0, 0xffff_ffff)], IOERR],
    ['an unknown flag', [blkRange(0, 1, 2)], UNSUPP],
    ['a good range and one with an unknown flag', [blkRange(0, 1), blkRange(1, 1, 0x8000_0000)], UNSUPP],
    ['the unmap flag', [blkRange(0, 1, 1)], type === DISCARD ? UNSUPP : OK],
  ])('with %s ends as the specification says, and touches nothing when it fails', (_, parts, status) => {
    const rig = rigOf({ bdev: onDisk(1000) });
    let submitted = 0;
    const submit = rig.channel.submit.bind(rig.channel);
    rig.channel.submit = (io) => {
      submitted++;
      submit(io);
    };
    expect(perform(rig, ...parts)).toMatchObject({ status, length: 1 });
    expect(submitted).toBe(status === OK ? parts.length : 0);
  });

  it('of more sectors than offered is an I/O error', () => {
    const rig = rigOf({ bdev: onDisk(2 ** 30) });
    expect(perform(rig, blkRange(8, DISCARD_SECTORS_MAX)).status).toBe(OK);
    expect(perform(rig, blkRange(8, DISCARD_SECTORS_MAX + 1)).status).toBe(IOERR);
  });

  it('is in whole blocks of the disk', () => {
    const rig = rigOf({ bdev: { blockCount: 100, blockSizeBytes: 4096 } });
    expect(perform(rig, blkRange(8, 16)).status).toBe(OK);
    for (const range of [blkRange(4, 8), blkRange(8, 4), blkRange(1, 7), blkRange(796, 8)]) {
      expect(perform(rig, range).status).toBe(IOERR);
    }
  });

  it('is refused on a read-only disk, and where it is not offered', () => {
    expect(perform(rigOf({ device: { isReadonly: true } }), ...ranges(1)).status).toBe(IOERR);
    expect(perform(rigOf({ device: { isReadonly: true, hasRanges: false } }), ...ranges(1)).status).toBe(IOERR);
    expect(perform(rigOf({ device: { hasRanges: false } }), ...ranges(1)).status).toBe(UNSUPP);
  });

  it(`ends once although the bdev ends ${name} inside the submission`, () => {
    const rig = rigOf({ bdev: onDisk(1000) });
    rig.module.immediateStatus = IoStatus.success;
    rig.request(type, 0, { out: Buffer.concat(ranges(8)) });
    rig.round();
    expect(rig.completions()).toHaveLength(1);
  });
});

describe('a read-only disk', () => {
  it('can be read and flushed, and refuses writes whatever the guest believes', () => {
    const rig = rigOf({ device: { isReadonly: true } });
    expect(rig.perform(IN, 0, { inBytes: 512 }).status).toBe(OK);
    expect(rig.perform(FLUSH, 0).status).toBe(OK);
    expect(rig.perform(GET_ID, 0, { inBytes: 20 }).status).toBe(OK);
    expect(rig.perform(OUT, 0, { out: new Uint8Array(512) }).status).toBe(IOERR);
    expect(rig.perform(OUT, 0).status).toBe(IOERR);
  });
});
