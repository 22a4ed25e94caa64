/** A virtio-blk queue: requests among each other, and the queue among others in its reactor. */

import { afterEach, describe, expect, it } from 'vitest';
import { BlkRig, type BlkRigOptions, blkHeader, blkRange, DATA } from '../../test/support/blk-rig.ts';
import { turns } from '../../test/support/waiting.ts';
import { Errno } from '../base/errors.ts';
import { CHAINS_PER_ROUND_MAX } from '../base/limits.ts';
import { IoStatus, IoType } from '../bdev/bdev-io.ts';
import { readEventFd } from '../sys/events.ts';
import { IovArena } from '../sys/iov-arena.ts';
import { clockNs } from '../sys/thread.ts';
import { BlkRequestType, BlkStatus } from '../virtio/blk.ts';
import { DEFAULT_COALESCING } from './call-coalescing.ts';
import { QueueCounter } from './queue-counters.ts';

const { IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES } = BlkRequestType;
const { OK, IOERR } = BlkStatus;

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

  it(`are taken ${CHAINS_PER_ROUND_MAX} in a round, so that others have their turn`, () => {
    const rig = rigOf({ size: 1024 });
    rig.module.immediateStatus = IoStatus.success;
    for (let i = 0; i < 200; i++) rig.request(GET_ID, 0, { inBytes: 20, at: DATA + 64 * i });
    const full = Math.floor(200 / CHAINS_PER_ROUND_MAX);
    const rounds = Array.from({ length: full + 1 }, () => rig.round());
    expect(rounds).toEqual([...Array<number>(full).fill(CHAINS_PER_ROUND_MAX), 200 % CHAINS_PER_ROUND_MAX]);
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
    // Six buffers of one page each, every one across a border: 12 segments, more than the short list has.
    const buffers = Array.from({ length: 6 }, (_, i) => writable(start + i * 2 * PAGE + PAGE / 2, PAGE));
    const submit = (status: number) => rig.submit([readable(DATA, 16), ...buffers, writable(status, 1)]);
    submit(DATA + 100);
    submit(DATA + 101);
    expect([rig.round(), rig.module.held.length]).toEqual([1, 1]);
    const [io] = rig.module.held;
    expect(io?.iovCount).toBe(12);
    const addresses = Array.from({ length: 12 }, (_, i) => rig.arena.addressOf((io?.iovFirst ?? 0) + i));
    const expected = buffers.flatMap(({ gpa }) => [gpa, gpa + PAGE / 2].map((at) => rig.ring.memory.userAddressOf(at)));
    expect(addresses).toEqual(expected);
    rig.module.complete();
    rig.round();
    expect(rig.module.held).toHaveLength(1);
    rig.module.complete();
    rig.round();
    expect([rig.bytes(DATA + 100, 1)[0], rig.bytes(DATA + 101, 1)[0]]).toEqual([OK, OK]);
    // The short list that did not do was given back each time.
    expect([rig.arena.takeShort() >= 0, rig.arena.takeShort() >= 0, rig.arena.takeLong() >= 0]).toEqual([
      true,
      true,
      true,
    ]);
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

  it('goes on when what is in flight does not end in time', async () => {
    const rig = rigOf();
    rig.request(IN, 0, { inBytes: 512 });
    rig.round();
    rig.request(FLUSH, 0, { at: DATA + 8192 });
    await expect(rig.queue.stop(1)).rejects.toThrow(': 1 requests are not done after 1 ms');
    // A flush of a disk without a cache ends at once.
    expect([rig.round(), rig.completions().length]).toEqual([1, 1]);
    rig.module.complete();
    rig.round();
    expect(rig.completions().length).toBe(1);
    expect(await rig.queue.stop(1)).toBe(2);
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

describe('a call that is put off', () => {
  const busy = { delayBaseUs: 1_000_000, iopsThreshold: 100 };

  /** A queue whose calls are put off for very long: it has just answered far more than the threshold. */
  function putOff() {
    const rig = rigOf();
    rig.queue.setCoalescing(busy);
    const perform = (): void => {
      rig.request(FLUSH, 0);
      rig.round();
      rig.completions();
    };
    const startNs = clockNs();
    // Two windows of 10 ms: what is judged in the second delays the calls after it.
    while (clockNs() - startNs < 40e6) perform();
    readEventFd(rig.queue.callFd);
    perform();
    return rig;
  }

  it('keeps the queue in the rounds, and comes when it is switched off', () => {
    const rig = putOff();
    expect([rig.queue.isBusy, readEventFd(rig.queue.callFd)]).toEqual([true, Errno.EAGAIN]);
    rig.queue.setCoalescing(DEFAULT_COALESCING);
    rig.queue.publish();
    expect([rig.queue.isBusy, readEventFd(rig.queue.callFd)]).toEqual([false, 1]);
  });

  it('comes at the latest when the queue stops', async () => {
    const rig = putOff();
    await rig.queue.stop();
    expect(readEventFd(rig.queue.callFd)).toBe(1);
  });
});

describe('as a source of its reactor', () => {
  it('is busy while it must be polled', () => {
    expect(rigOf({ canSleep: false }).queue.isBusy).toBe(true);
    const rig = rigOf();
    expect(rig.queue.isBusy).toBe(false);
    // A request in flight does not: its completion wakes the queue.
    rig.request(IN, 0, { inBytes: 512 });
    rig.round();
    expect(rig.queue.isBusy).toBe(false);
    let wakes = 0;
    rig.queue.isAwake = false;
    rig.queue.wake = () => wakes++;
    rig.module.complete();
    expect(wakes).toBe(1);
  });

  it('does not stay awake for requests that it will not take any more', () => {
    const rig = rigOf();
    rig.request(IN, 0, { inBytes: 512 });
    rig.round();
    void rig.queue.stop();
    rig.request(IN, 0, { inBytes: 512 });
    expect(rig.queue.arm()).toBe(false);
    rig.module.complete();
    rig.round();
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
