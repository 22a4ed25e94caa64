/** A virtio-blk queue: what becomes of each request, by itself and among others. Framing has a test of its own. */
import { afterEach, describe, expect, it } from 'vitest';
import { BlkRig, type BlkRigOptions, blkHeader, blkRange, DATA, UNTOUCHED } from '../../test/support/blk-rig.ts';
import { turns } from '../../test/support/waiting.ts';
import { IoStatus, IoType } from '../bdev/bdev-io.ts';
import { readEventFd } from '../sys/events.ts';
import { IovArena } from '../sys/iov-arena.ts';
import { BlkRequestType, BlkStatus } from '../virtio/blk.ts';
import { DISCARD_SECTORS_MAX, RANGES_MAX } from './blk-device.ts';
import { QueueCounter } from './queue-counters.ts';

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
    expect(rig.perform(type, 0, parts)).toMatchObject({ status: IOERR, length: type === IN ? 513 : 1 });
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
      expect(rigOf().perform(type, 0, { inBytes: 512 })).toMatchObject({ status: UNSUPP, length: 513 });
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
    const { status, data } = rigOf().perform(GET_ID, 0, { inBytes: 64 });
    expect([status, data[19], data[20], data[63]]).toEqual([OK, 0, UNTOUCHED, UNTOUCHED]);
  });

  it.each([0, 1, 19])('gets no serial into %i bytes', (inBytes) => {
    const { status, data } = rigOf().perform(GET_ID, 0, { inBytes });
    expect([status, data.every((byte) => byte === UNTOUCHED)]).toEqual([IOERR, true]);
  });
});

describe('a request that is not in order', () => {
  const expectStatus = (rig: BlkRig, at: number, status: number, length: number): void => {
    rig.round();
    expect(rig.completions().map((completion) => completion.length)).toEqual([length]);
    expect(rig.bytes(at, 1)[0]).toBe(status);
    expect(rig.module.held).toEqual([]);
  };

  it.each([0, 1, 15])('with a header of %i bytes is an I/O error', (length) => {
    const rig = rigOf();
    rig.submit([readable(DATA, length), writable(DATA + 100, 1)]);
    expectStatus(rig, DATA + 100, IOERR, 1);
  });

  it('without a header is an I/O error', () => {
    const rig = rigOf();
    rig.submit([writable(DATA + 100, 513)]);
    expectStatus(rig, DATA + 100 + 512, IOERR, 513);
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
    expectStatus(rig, DATA + 512, IOERR, 513);
  });

  it('with part of its header outside the memory is an I/O error', () => {
    const rig = rigOf();
    rig.ring.memory.write(DATA, blkHeader(IN, 0));
    rig.submit([readable(DATA, 8), readable(OUTSIDE, 8), writable(DATA + 100, 513)]);
    expectStatus(rig, DATA + 100 + 512, IOERR, 513);
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
      expectStatus(rig, DATA + 100, IOERR, length + 1);
      rig.submit([readable(DATA + 16, 16), readable(gpa, length), writable(DATA + 101, 1)]);
      expectStatus(rig, DATA + 101, IOERR, 1);
    }
    expect([rig.arena.takeShort() >= 0, rig.arena.takeLong() >= 0]).toEqual([true, true]);
  });

  it('with the room for the serial outside the memory is an I/O error', () => {
    const rig = rigOf();
    rig.ring.memory.write(DATA, blkHeader(GET_ID, 0));
    rig.submit([readable(DATA, 16), writable(OUTSIDE, 20), writable(DATA + 100, 1)]);
    expectStatus(rig, DATA + 100, IOERR, 21);
  });

  it('with ranges outside the memory is an I/O error', () => {
    const rig = rigOf();
    rig.ring.memory.write(DATA, blkHeader(DISCARD, 0));
    rig.submit([readable(DATA, 16), readable(OUTSIDE, 16), writable(DATA + 100, 1)]);
    expectStatus(rig, DATA + 100, IOERR, 1);
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

describe('write-through', () => {
  const held = (rig: BlkRig) => rig.module.held.map(({ type }) => type);
  const write = (rig: BlkRig) => rig.request(OUT, 0, { out: new Uint8Array(512) });

  it('flushes after a write, and only then tells the driver', () => {
    const rig = rigOf({ bdev: { hasWriteCache: true }, device: { isWriteThrough: true } });
    write(rig);
    rig.round();
    expect(held(rig)).toEqual([IoType.write]);
    rig.module.complete();
    rig.queue.publish();
    expect([held(rig), rig.completions()]).toEqual([[IoType.flush], []]);
    rig.module.complete();
    rig.queue.publish();
    expect([held(rig), rig.completions().length, rig.bytes(DATA + 16 + 512, 1)[0]]).toEqual([[], 1, OK]);
  });

  it.each([
    ['discard', DISCARD, IoType.unmap],
    ['write zeroes', WRITE_ZEROES, IoType.writeZeroes],
  ])('flushes once after all ranges of a %s', (_, type, ioType) => {
    const rig = rigOf({ bdev: { hasWriteCache: true }, device: { isWriteThrough: true } });
    rig.request(type, 0, { out: Buffer.concat([blkRange(0, 1), blkRange(1, 1)]) });
    rig.round();
    expect(held(rig)).toEqual([ioType, ioType]);
    rig.module.complete();
    expect(held(rig)).toEqual([ioType]);
    rig.module.complete();
    expect(held(rig)).toEqual([IoType.flush]);
    rig.module.complete();
    rig.queue.publish();
    expect(rig.completions()).toHaveLength(1);
  });

  it('does not flush after what failed, nor after a read or a flush', () => {
    const rig = rigOf({ bdev: { hasWriteCache: true }, device: { isWriteThrough: true } });
    write(rig);
    rig.round();
    rig.module.complete(IoStatus.failed);
    expect(held(rig)).toEqual([]);
    expect(rig.bytes(DATA + 16 + 512, 1)[0]).toBe(IOERR);
    rig.request(IN, 0, { inBytes: 512, at: DATA + 4096 });
    rig.request(FLUSH, 0, { at: DATA + 8192 });
    rig.round();
    rig.module.complete();
    rig.module.complete();
    expect(held(rig)).toEqual([]);
  });

  it('fails a write whose flush fails', () => {
    const rig = rigOf({ bdev: { hasWriteCache: true }, device: { isWriteThrough: true } });
    write(rig);
    rig.round();
    rig.module.complete();
    rig.module.complete(IoStatus.failed);
    expect(rig.bytes(DATA + 16 + 512, 1)[0]).toBe(IOERR);
  });

  it('costs nothing where there is no cache, or in write-back', () => {
    for (const [hasWriteCache, isWriteThrough] of [
      [false, true],
      [true, false],
    ] as const) {
      const rig = rigOf({ bdev: { hasWriteCache }, device: { isWriteThrough } });
      write(rig);
      rig.round();
      rig.module.complete();
      rig.queue.publish();
      expect([held(rig), rig.completions().length]).toEqual([[], 1]);
    }
  });

  it('may be changed while the queue runs', () => {
    const rig = rigOf({ bdev: { hasWriteCache: true } });
    write(rig);
    rig.round();
    rig.device.isWriteThrough = true;
    rig.module.complete();
    expect(held(rig)).toEqual([IoType.flush]);
    rig.module.complete();
  });
});

describe('many requests', () => {
  it('end in the order in which the bdev ends them', () => {
    const rig = rigOf();
    const heads = [0, 1, 2, 3].map((i) => rig.request(IN, i, { inBytes: 512, at: DATA + 4096 * i }));
    expect(rig.round()).toBe(4);
    for (const index of [2, 0, 1, 0]) rig.module.complete(index === 1 ? IoStatus.failed : IoStatus.success, index);
    rig.queue.publish();
    const order = [2, 0, 3, 1];
    expect(rig.completions().map(({ head }) => head)).toEqual(order.map((i) => heads[i]));
    const statuses = [0, 1, 2, 3].map((i) => rig.bytes(DATA + 4096 * i + 16 + 512, 1)[0]);
    expect(statuses).toEqual([OK, OK, OK, IOERR]);
  });

  it('are taken 128 in a round, so that others have their turn', () => {
    const rig = rigOf({ size: 1024 });
    rig.module.immediateStatus = IoStatus.success;
    for (let i = 0; i < 200; i++) rig.request(GET_ID, 0, { inBytes: 20, at: DATA + 64 * i });
    expect([rig.round(), rig.round(), rig.round()]).toEqual([128, 72, 0]);
    expect(rig.completions()).toHaveLength(200);
    expect(rig.counters[QueueCounter.requests]).toBe(200);
  });

  it('reuse the slots of those that ended', () => {
    const rig = rigOf({ size: 8, base: 0xfff8 });
    for (let i = 0; i < 50; i++) {
      expect(rig.perform(OUT, i % 100, { out: new Uint8Array(512) }).status).toBe(OK);
      expect(rig.perform(IN, 1000, { inBytes: 512 }).status).toBe(IOERR);
    }
  });
});

describe('room for segments', () => {
  it('that is used up makes requests wait, in order, until some end', () => {
    const rig = rigOf({ arena: new IovArena(2, 1) });
    const heads = Array.from({ length: 5 }, (_, i) => rig.request(IN, i, { inBytes: 512, at: DATA + 4096 * i }));
    expect([rig.round(), rig.queue.isBusy, rig.module.held.length]).toEqual([2, true, 2]);
    expect([rig.round(), rig.module.held.length]).toEqual([0, 2]);
    const done: number[] = [];
    for (let i = 0; i < 5; i++) {
      rig.module.complete();
      rig.round();
      done.push(...rig.completions().map(({ head }) => head));
    }
    expect(done).toEqual(heads);
    expect([rig.queue.isBusy, rig.module.held.length]).toEqual([false, 0]);
  });

  it('does not hold up a queue that has nothing in flight itself: it is polled until there is room', () => {
    const arena = new IovArena(1, 1);
    const rig = rigOf({ arena });
    const elsewhere = arena.takeShort();
    rig.request(IN, 0, { inBytes: 512 });
    expect([rig.round(), rig.queue.isBusy]).toEqual([0, true]);
    arena.release(elsewhere);
    expect([rig.round(), rig.module.held.length]).toEqual([1, 1]);
    rig.module.complete();
    rig.round();
    expect([rig.queue.isBusy, rig.completions().length]).toEqual([false, 1]);
  });

  it('is not needed by requests without a transfer', () => {
    const arena = new IovArena(1, 1);
    const rig = rigOf({ arena });
    arena.takeShort();
    arena.takeLong();
    expect(rig.perform(GET_ID, 0, { inBytes: 20 }).status).toBe(OK);
    expect(rig.perform(FLUSH, 0).status).toBe(OK);
    expect(rig.perform(DISCARD, 0, { out: blkRange(0, 1) }).status).toBe(OK);
  });

  it('for many segments is another, which a chain of few buffers over many regions needs too', () => {
    const PAGE = 4096;
    const start = 1 << 24;
    const pages = Array.from({ length: 40 }, (_, i) => ({ guestAddress: start + i * PAGE, sizeBytes: PAGE }));
    const rig = rigOf({ arena: new IovArena(2, 1), regions: [{ guestAddress: 0, sizeBytes: 4 << 20 }, ...pages] });
    rig.ring.memory.write(DATA, blkHeader(IN, 0));
    // Seven buffers of one page each, every one across a border: 14 segments.
    const buffers = Array.from({ length: 7 }, (_, i) => writable(start + i * 2 * PAGE + PAGE / 2, PAGE));
    const submit = (status: number) => rig.submit([readable(DATA, 16), ...buffers, writable(status, 1)]);
    submit(DATA + 100);
    submit(DATA + 101);
    expect([rig.round(), rig.module.held.length]).toEqual([1, 1]);
    const [io] = rig.module.held;
    expect(io?.iovCount).toBe(14);
    const addresses = Array.from({ length: 14 }, (_, i) => rig.arena.addressOf((io?.iovFirst ?? 0) + i));
    const expected = buffers.flatMap(({ gpa }) => [gpa, gpa + PAGE / 2].map((at) => rig.ring.memory.userAddressOf(at)));
    expect(addresses).toEqual(expected);
    rig.module.complete();
    rig.round();
    expect(rig.module.held).toHaveLength(1);
    rig.module.complete();
    rig.round();
    expect([rig.bytes(DATA + 100, 1)[0], rig.bytes(DATA + 101, 1)[0]]).toEqual([OK, OK]);
  });

  it('that one chain exceeds all by itself makes it an I/O error, and nothing is lost', () => {
    const PAGE = 4096;
    const start = 1 << 24;
    const pages = Array.from({ length: 500 }, (_, i) => ({ guestAddress: start + i * PAGE, sizeBytes: PAGE }));
    const rig = rigOf({
      size: 1024,
      arena: new IovArena(2, 1),
      regions: [{ guestAddress: 0, sizeBytes: 4 << 20 }, ...pages],
    });
    rig.ring.memory.write(DATA, blkHeader(IN, 0));
    // Three buffers over 400 pages each: 1200 segments, more than the longest list has.
    const buffers = [0, 1, 2].map(() => writable(start, 400 * PAGE));
    for (let i = 0; i < 3; i++) {
      rig.submit([readable(DATA, 16), ...buffers, writable(DATA + 100, 1)]);
      rig.round();
      expect(rig.bytes(DATA + 100, 1)[0]).toBe(IOERR);
    }
    expect([rig.arena.takeShort() >= 0, rig.arena.takeLong() >= 0]).toEqual([true, true]);
  });
});

describe('calls', () => {
  it('come once for all that a round completed', () => {
    const rig = rigOf();
    rig.module.immediateStatus = IoStatus.success;
    for (let i = 0; i < 3; i++) rig.request(IN, i, { inBytes: 512, at: DATA + 4096 * i });
    rig.round();
    expect([rig.calls(), rig.counters[QueueCounter.calls]]).toEqual([1, 1]);
    rig.round();
    expect(rig.calls()).toBe(0);
  });

  it('do not come to a driver that asked for none, or that gave no descriptor', () => {
    const rig = rigOf();
    rig.ring.driver.refuseCalls();
    expect([rig.perform(FLUSH, 0).status, rig.calls()]).toEqual([OK, 0]);
    rig.ring.driver.wantCalls();
    rig.queue.callFd = -1;
    expect([rig.perform(FLUSH, 0).status, rig.calls()]).toEqual([OK, 0]);
    rig.queue.callFd = rig.callFd;
    expect([rig.perform(FLUSH, 0).status, rig.calls()]).toEqual([OK, 1]);
    expect(rig.counters[QueueCounter.calls]).toBe(1);
  });
});

describe('a ring that the driver broke', () => {
  it('is reported once, and on the error descriptor; what is in flight still ends', () => {
    const rig = rigOf();
    const head = rig.request(IN, 0, { inBytes: 512 });
    rig.round();
    rig.ring.show(0xffff);
    for (let i = 0; i < 3; i++) rig.round();
    expect(rig.faults).toEqual([
      'queue 3 is broken until it is set up again: a head index is outside the descriptor table',
    ]);
    expect([readEventFd(rig.errFd), rig.counters[QueueCounter.faults]]).toEqual([1, 1]);
    rig.module.complete();
    rig.round();
    expect(rig.completions().map((completion) => completion.head)).toEqual([head]);
    expect([rig.queue.isBusy, rig.queue.arm()]).toEqual([false, false]);
  });

  it('gives back what came before the fault in the same round', () => {
    const rig = rigOf();
    rig.module.immediateStatus = IoStatus.success;
    const head = rig.request(IN, 0, { inBytes: 512 });
    rig.ring.show(0xffff);
    expect(rig.round()).toBe(1);
    expect(rig.completions().map((completion) => completion.head)).toEqual([head]);
    expect(rig.faults).toHaveLength(1);
  });
});

describe('a queue whose controller was deleted', () => {
  it('fails what is new and ends what is in flight', () => {
    const rig = rigOf();
    rig.request(IN, 0, { inBytes: 512 });
    rig.round();
    rig.queue.isDetached = true;
    for (const type of [IN, FLUSH, GET_ID]) {
      rig.request(type, 0, { inBytes: 512, at: DATA + 8192 });
      rig.round();
      expect([rig.completions().length, rig.bytes(DATA + 8192 + 16 + 512, 1)[0]]).toEqual([1, IOERR]);
    }
    rig.module.complete();
    rig.round();
    expect([rig.completions().length, rig.bytes(DATA + 16 + 512, 1)[0]]).toEqual([1, OK]);
  });
});

describe('a bdev that goes away', () => {
  it('fails what is new', async () => {
    const rig = rigOf();
    await rig.channel.remove();
    expect(rig.perform(IN, 0, { inBytes: 512 }).status).toBe(IOERR);
    expect(rig.perform(FLUSH, 0).status).toBe(IOERR);
    expect(rig.perform(GET_ID, 0, { inBytes: 20 }).status).toBe(OK);
  });
});

describe('stopping', () => {
  it('is over at once when nothing is in flight, and takes nothing more', async () => {
    const rig = rigOf({ base: 0xffff });
    rig.perform(FLUSH, 0);
    rig.request(FLUSH, 0);
    const stopped = rig.queue.stop();
    expect(rig.queue.take()).toBe(0);
    expect(await stopped).toBe(0);
  });

  it('waits for what is in flight, and shows its end to the driver', async () => {
    const rig = rigOf();
    const heads = [0, 1].map((i) => rig.request(IN, i, { inBytes: 512, at: DATA + 4096 * i }));
    rig.round();
    rig.request(FLUSH, 0, { at: DATA + 8192 });
    let base = -1;
    const stopped = rig.queue.stop().then((value) => {
      base = value;
    });
    for (const head of heads) {
      await turns();
      expect([base, rig.round()]).toEqual([-1, 0]);
      rig.module.complete();
      rig.queue.publish();
      expect(rig.completions().map((completion) => completion.head)).toEqual([head]);
    }
    await stopped;
    expect([base, rig.calls()]).toEqual([2, 2]);
  });

  it('shows what ended but was not shown yet', async () => {
    const rig = rigOf();
    rig.module.immediateStatus = IoStatus.success;
    const head = rig.request(IN, 0, { inBytes: 512 });
    rig.queue.take();
    expect(await rig.queue.stop()).toBe(1);
    expect(rig.completions().map((completion) => completion.head)).toEqual([head]);
  });

  it('gives the starved request back to the ring: it is taken by whoever comes next', async () => {
    const rig = rigOf({ arena: new IovArena(1, 1) });
    for (let i = 0; i < 2; i++) rig.request(IN, i, { inBytes: 512, at: DATA + 4096 * i });
    rig.round();
    const stopped = rig.queue.stop();
    rig.module.complete();
    rig.queue.publish();
    expect(await stopped).toBe(1);
  });
});

describe('as a source of its reactor', () => {
  it('is busy while it must be polled', () => {
    expect(rigOf({ canSleep: false }).queue.isBusy).toBe(true);
    const rig = rigOf();
    expect(rig.queue.isBusy).toBe(false);
    rig.request(IN, 0, { inBytes: 512 });
    rig.round();
    expect(rig.queue.isBusy).toBe(true);
    rig.module.complete();
    rig.round();
    expect(rig.queue.isBusy).toBe(false);
  });

  it('asks for kicks when it is armed, and counts them', () => {
    const rig = rigOf();
    rig.queue.disarm();
    expect(rig.ring.driver.used16[0]).toBe(1);
    expect([rig.queue.arm(), rig.ring.driver.used16[0]]).toEqual([false, 0]);
    rig.request(FLUSH, 0);
    expect(rig.queue.arm()).toBe(true);
    rig.queue.kicked();
    expect(rig.counters[QueueCounter.kicks]).toBe(1);
  });
});
