/** Rings: order, indices, notifications in both directions, sizes, many queues (virtio 1.3 §2.7). */
import { deepEqual, equal, ok } from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { createBlkBuffers } from '../../src/initiator/blk-request.ts';
import { BlockStamps } from '../../src/initiator/block-stamps.ts';
import { DriverQueue } from '../../src/initiator/driver-queue.ts';
import { NO_HEAD } from '../../src/initiator/driver-ring.ts';
import { BlkLoadGenerator, type LoadOptions } from '../../src/initiator/load-generator.ts';
import type { RequestBuffers } from '../../src/initiator/request-buffers.ts';
import { maskOf } from '../../src/vhost-user/messages.ts';
import { BlkFeature, BlkRequestType, BlkStatus } from '../../src/virtio/blk.ts';
import { QUEUE_SIZE_MAX, VirtioFeature } from '../../src/virtio/features.ts';
import { KIB, pattern, SECTOR, sameBytes, writeAndReadBack } from './blk-case-helpers.ts';
import type { BlkCase, CaseContext } from './blk-cases.ts';

const { OK } = BlkStatus;
const WAIT_LIMIT_MS = 10_000;
/** How long a call that must not come is waited for. */
const NO_CALL_MS = 50;

const VERSION_1 = maskOf(VirtioFeature.VERSION_1, ...Object.values(BlkFeature));
const EVENT_IDX = maskOf(VirtioFeature.EVENT_IDX);
const INDIRECT = maskOf(VirtioFeature.INDIRECT_DESC);
const BLOCKS = 2048;
/** Of a `HandMadeRead`. */
const READ_DESCRIPTORS = 3;

/** Verified reads and writes on all queues. */
function checkLoad(disk: BlkInitiator, count: number, options: Partial<LoadOptions> = {}): void {
  const stamps = new BlockStamps(BLOCKS, 4096, { isZeroed: true });
  const generator = new BlkLoadGenerator(disk, { depth: 16, writePercent: 50, stamps, ...options });
  const { ios, errors, firstMismatch } = generator.run({ count });
  deepEqual({ ios, errors, firstMismatch }, { ios: count, errors: 0, firstMismatch: null });
  generator.close();
}

async function waitUntil(what: string, isTrue: () => boolean, limitMs = WAIT_LIMIT_MS): Promise<void> {
  const deadlineMs = Date.now() + limitMs;
  while (!isTrue()) {
    ok(Date.now() < deadlineMs, `${what} within ${limitMs} ms`);
    await sleep(1);
  }
}

/** A prepared read that the test exposes and takes back by hand. */
class HandMadeRead {
  readonly head: number;
  readonly #buffers: RequestBuffers;
  readonly #queue: DriverQueue;

  constructor(disk: BlkInitiator, sector: number, queue = disk.queue(0)) {
    this.#queue = queue;
    this.#buffers = createBlkBuffers(disk.memory, { type: BlkRequestType.IN, sector, inBytes: SECTOR });
    this.head = queue.ring.addChain(this.#buffers.segments);
    ok(this.head !== NO_HEAD);
  }

  expose(): void {
    this.#queue.ring.expose(this.head);
  }

  check(expected: Uint8Array): void {
    const writable = this.#buffers.collect();
    equal(writable.at(-1), OK);
    sameBytes(writable.subarray(0, SECTOR), expected, `head ${this.head}`);
  }
}

function bothHalves(half: number): number {
  return (half | (half << 16)) >>> 0;
}

/** Takes `count` used elements by looking at the ring; returns their ids. */
async function takeUsed(queue: DriverQueue, count: number, limitMs = WAIT_LIMIT_MS): Promise<number[]> {
  const heads: number[] = [];
  const areTaken = (): boolean => {
    for (let head = queue.ring.popUsed(); head !== NO_HEAD; head = queue.ring.popUsed()) heads.push(head);
    return heads.length >= count;
  };
  await waitUntil(`${count} completions (${queue.describe()})`, areTaken, limitMs);
  return heads;
}

/** Publishes one read at a time and counts the calls that come for each, with the call wishes set by `prepare`. */
async function callsFor(
  context: CaseContext,
  features: bigint,
  prepare: (queue: DriverQueue) => void,
): Promise<number[]> {
  const disk = await context.connect({ features });
  const queue = disk.queue(0);
  // A call at the start is allowed, and after this request no longer under way.
  await disk.read(0, SECTOR);
  await sleep(NO_CALL_MS);
  queue.pause();
  prepare(queue);
  const calls: number[] = [];
  for (let i = 0; i < 4; i++) {
    const before = queue.callSignals;
    new HandMadeRead(disk, i).expose();
    queue.publish();
    await takeUsed(queue, 1);
    await sleep(NO_CALL_MS);
    calls.push(queue.callSignals - before);
  }
  return calls;
}

const notificationCases: readonly BlkCase[] = [
  {
    name: 'honours NO_INTERRUPT',
    async run(context) {
      const calls = await callsFor(context, VERSION_1, ({ ring }) => ring.refuseCalls());
      deepEqual(calls, [0, 0, 0, 0]);
    },
  },
  {
    name: 'calls for every completion when asked to, without EVENT_IDX',
    async run(context) {
      const calls = await callsFor(context, VERSION_1, ({ ring }) => ring.wantCalls());
      deepEqual(calls, [1, 1, 1, 1]);
    },
  },
  {
    name: 'calls just when the used side passes the place that was asked for, with EVENT_IDX',
    async run(context) {
      const calls = await callsFor(context, VERSION_1 | EVENT_IDX, ({ ring }) =>
        ring.wantCallAfter(2, READ_DESCRIPTORS),
      );
      deepEqual(calls, [0, 0, 1, 0]);
    },
  },
  {
    name: 'survives kicks with nothing to do',
    async run(context) {
      const disk = await context.connect({ queues: 2 });
      for (let i = 0; i < 1000; i++) disk.queue(i % 2).kick();
      await writeAndReadBack(disk, 0, pattern(4 * KIB), 0);
      disk.queue(0).kick();
      await writeAndReadBack(disk, 8, pattern(4 * KIB), 1);
    },
  },
  {
    name: 'takes all requests published by one kick',
    async run(context) {
      const disk = await context.connect({ features: VERSION_1 });
      const queue = disk.queue(0);
      queue.pause();
      const reads = Array.from({ length: 40 }, () => new HandMadeRead(disk, 0));
      for (const read of reads) read.expose();
      queue.ring.publish();
      queue.kick();
      const heads = await takeUsed(queue, reads.length);
      deepEqual(
        heads.toSorted((a, b) => a - b),
        reads.map(({ head }) => head).toSorted((a, b) => a - b),
      );
    },
  },
  {
    name: 'looks at a ring when it is enabled, without a kick',
    async run(context) {
      const disk = await context.connect();
      await disk.write(0, pattern(SECTOR, 4));
      const queue = disk.queue(0);
      await disk.frontend.setVringEnable(0, false);
      await disk.frontend.sync();
      queue.pause();
      const read = new HandMadeRead(disk, 0);
      read.expose();
      queue.ring.publish();
      await sleep(NO_CALL_MS);
      equal(queue.ring.popUsed(), NO_HEAD, 'a disabled ring is left alone');
      await disk.frontend.setVringEnable(0, true);
      deepEqual(await takeUsed(queue, 1, context.timeoutMs), [read.head]);
      read.check(pattern(SECTOR, 4));
    },
  },
  {
    name: 'leaves a kicked ring alone while it is disabled',
    async run(context) {
      const disk = await context.connect();
      await disk.read(0, SECTOR);
      const queue = disk.queue(0);
      await disk.frontend.setVringEnable(0, false);
      await disk.frontend.sync();
      queue.pause();
      const read = new HandMadeRead(disk, 0);
      read.expose();
      queue.ring.publish();
      queue.kick();
      await sleep(NO_CALL_MS);
      equal(queue.ring.popUsed(), NO_HEAD);
      await disk.frontend.setVringEnable(0, true);
      deepEqual(await takeUsed(queue, 1), [read.head]);
    },
  },
  {
    name: 'serves a ring without a call descriptor',
    async run(context) {
      const disk = await context.connect({ poll: true });
      await disk.frontend.setVringCall(0, null);
      await writeAndReadBack(disk, 0, pattern(4 * KIB));
    },
  },
  {
    name: 'calls on a descriptor that came after the ring was started',
    async run(context) {
      const disk = await context.connect();
      await disk.stop();
      const { callFd } = disk.queue(0);
      await disk.session.startQueue(disk.queue(0));
      await disk.frontend.setVringCall(0, null);
      await disk.frontend.setVringCall(0, callFd);
      await disk.frontend.setVringEnable(0, true);
      await writeAndReadBack(disk, 0, pattern(4 * KIB));
    },
  },
  {
    name: 'polls a ring without a kick descriptor',
    async run(context) {
      const disk = await context.connect();
      await disk.stop();
      const queue = disk.queue(0);
      await disk.session.startQueue(queue);
      await disk.frontend.setVringKick(0, null);
      await disk.frontend.setVringEnable(0, true);
      await writeAndReadBack(disk, 0, pattern(4 * KIB));
      equal(queue.kicks <= 4, true);
    },
  },
  {
    name: 'takes new call and kick descriptors while it runs',
    async run(context) {
      const disk = await context.connect();
      for (let i = 0; i < 20; i++) {
        const { callFd, kickFd } = disk.queue(0);
        await disk.frontend.setVringCall(0, callFd);
        await disk.frontend.setVringKick(0, kickFd);
        await writeAndReadBack(disk, i * 8, pattern(4 * KIB, i + 1));
      }
    },
  },
];

const orderCases: readonly BlkCase[] = [
  {
    name: 'takes heads in any order and gives back each one',
    async run(context) {
      const disk = await context.connect();
      const data = pattern(32 * SECTOR, 12);
      await disk.write(0, data);
      const queue = disk.queue(0);
      queue.pause();
      const reads = Array.from({ length: 32 }, (_, i) => new HandMadeRead(disk, i));
      const order = reads.map((_, i) => (i * 13 + 5) % 32);
      for (const i of order) reads[i]?.expose();
      queue.publish();
      const heads = await takeUsed(queue, 32);
      deepEqual(
        heads.toSorted((a, b) => a - b),
        reads.map(({ head }) => head).toSorted((a, b) => a - b),
      );
      for (const [i, read] of reads.entries()) read.check(data.subarray(i * SECTOR, (i + 1) * SECTOR));
    },
  },
  {
    name: 'answers many requests at once, of all kinds, each by its own id',
    async run(context) {
      const disk = await context.connect({ queues: 2, queueSize: 256 });
      const parts = Array.from({ length: 64 }, (_, i) => pattern((1 + (i % 9)) * SECTOR, i + 1));
      await Promise.all(parts.map((data, i) => disk.write(i * 16, data, { queue: i % 2, isIndirect: i % 3 === 0 })));
      const flushes = Array.from({ length: 8 }, () => disk.flush());
      const ids = Array.from({ length: 8 }, () => disk.getId({ queue: 1 }));
      const reads = await Promise.all(parts.map((data, i) => disk.read(i * 16, data.length, { queue: (i + 1) % 2 })));
      for (const [i, data] of parts.entries()) sameBytes(reads[i] as Uint8Array, data, `request ${i}`);
      await Promise.all(flushes);
      deepEqual(new Set(await Promise.all(ids)), new Set([context.target.serial]));
    },
  },
  ...[0n, EVENT_IDX].map((bits) => ({
    name: `runs over the end of the 16-bit indices, from base 0xFFF0, with${bits === 0n ? 'out' : ''} EVENT_IDX`,
    layout: 'split' as const,
    async run(context: CaseContext) {
      const disk = await context.connect({ features: VERSION_1 | bits, ringBase: 0xfff0, queueSize: 64 });
      for (let i = 0; i < 40; i++) await writeAndReadBack(disk, i, pattern(SECTOR, i + 1));
      deepEqual(await disk.stop(), [(0xfff0 + 80) & 0xffff]);
      equal(disk.queue(0).ring.usedBase, (0xfff0 + 80) & 0xffff);
    },
  })),
  ...[0n, EVENT_IDX].map((bits) => ({
    name: `begins in the middle of any turn of the ring, with${bits === 0n ? 'out' : ''} EVENT_IDX`,
    layout: 'packed' as const,
    async run(context: CaseContext) {
      const queueSize = 50;
      for (const half of [0x8000 | 49, 0x8000 | 20, 0, 47]) {
        const disk = await context.connect({ features: VERSION_1 | bits, ringBase: bothHalves(half), queueSize });
        for (let i = 0; i < 40; i++) await writeAndReadBack(disk, i, pattern(SECTOR, i + 1));
        const place = (half & 0x7fff) + 80 * READ_DESCRIPTORS;
        const wrap = ((half >>> 15) + Math.floor(place / queueSize)) & 1;
        const base = bothHalves((place % queueSize) | (wrap << 15));
        deepEqual([await disk.stop(), disk.queue(0).ring.usedBase], [[base], base]);
        disk.close();
      }
    },
  })),
  {
    name: 'goes around the 16-bit indices more than once',
    async run(context) {
      checkLoad(await context.connect({ queueSize: 128 }), 150_000, { depth: 64 });
    },
  },
  {
    name: 'gives back the base of each ring, and goes on from it',
    layout: 'split',
    async run(context) {
      const disk = await context.connect({ queues: 3 });
      for (let i = 0; i < 5; i++) await writeAndReadBack(disk, i, pattern(SECTOR, i + 1), 0);
      await disk.flush({ queue: 2 });
      deepEqual(await disk.stop(), [10, 0, 1]);
      await disk.start();
      for (let i = 0; i < 5; i++) sameBytes(await disk.read(i, SECTOR), pattern(SECTOR, i + 1), `sector ${i}`);
      deepEqual(await disk.stop(), [15, 0, 1]);
      await disk.start();
      await writeAndReadBack(disk, 100, pattern(SECTOR), 1);
      deepEqual(await disk.stop(), [15, 2, 1]);
    },
  },
  {
    name: 'gives back place and turn of each ring, and goes on from them',
    layout: 'packed',
    async run(context) {
      const disk = await context.connect({ queues: 3, queueSize: 64 });
      for (let i = 0; i < 5; i++) await writeAndReadBack(disk, i, pattern(SECTOR, i + 1), 0);
      await disk.flush({ queue: 2 });
      deepEqual(await disk.stop(), [0x8000 | 30, 0x8000, 0x8000 | 2].map(bothHalves));
      await disk.start();
      for (let i = 0; i < 15; i++) await disk.read(i, SECTOR);
      deepEqual(await disk.stop(), [11, 0x8000, 0x8000 | 2].map(bothHalves));
      await disk.start();
      await writeAndReadBack(disk, 100, pattern(SECTOR), 1);
      deepEqual(await disk.stop(), [11, 0x8000 | 6, 0x8000 | 2].map(bothHalves));
    },
  },
  {
    name: 'completes requests in the order in which they came when IN_ORDER was acked',
    options: { features: VERSION_1 | EVENT_IDX | INDIRECT | maskOf(VirtioFeature.IN_ORDER), queueSize: 256 },
    async run(context) {
      const disk = await context.connect();
      ok(disk.hasFeature(VirtioFeature.IN_ORDER));
      const requests = Array.from({ length: 60 }, (_, i) => {
        if (i % 5 === 4) return disk.request({ type: BlkRequestType.FLUSH });
        // One that is refused at once among those that are copied.
        if (i % 5 === 3) return disk.request({ type: 77 });
        return disk.request({ type: BlkRequestType.IN, sector: i, inBytes: i % 2 === 0 ? SECTOR : 128 * KIB });
      });
      const orders = (await Promise.all(requests)).map(({ order }) => order);
      deepEqual(
        orders,
        orders.map((_, i) => i),
      );
      checkLoad(disk, 20_000);
    },
  },
  {
    name: 'gives back a base that was set and never used',
    async run(context) {
      const ringBase = context.isPacked ? 0x8023_8023 : 0x1234;
      const disk = await context.connect({ ringBase });
      deepEqual(await disk.stop(), [ringBase]);
    },
  },
  {
    name: 'takes the base of a front-end that knows only the available side',
    layout: 'packed',
    async run(context) {
      const disk = await context.connect({ queueSize: 16 });
      await writeAndReadBack(disk, 0, pattern(SECTOR, 3));
      const [base = 0] = await disk.stop();
      disk.queue(0).base = base & 0xffff;
      await disk.start();
      for (let i = 0; i < 10; i++) await writeAndReadBack(disk, i, pattern(SECTOR, i + 1));
    },
  },
  {
    name: 'leaves requests alone that were published after it stopped, and does them after the next start',
    async run(context) {
      const disk = await context.connect();
      await disk.write(0, pattern(SECTOR, 8));
      const bases = await disk.stop();
      const pending = disk.read(0, SECTOR);
      await sleep(NO_CALL_MS);
      equal(disk.queue(0).ring.usedBase, bases[0]);
      await disk.start();
      sameBytes(await pending, pattern(SECTOR, 8), 'read after the start');
    },
  },
];

const sizeCases: readonly BlkCase[] = [
  {
    name: 'serves rings of every size that a split one may have',
    async run(context) {
      for (let size = 1; size <= QUEUE_SIZE_MAX; size *= 2) {
        const disk = await context.connect({ queueSize: size });
        const isIndirect = size < 4;
        const data = pattern(SECTOR, size);
        for (let i = 0; i < 5; i++) {
          await disk.write(size + i, data, { isIndirect });
          sameBytes(await disk.read(size + i, SECTOR, { isIndirect }), data, `ring of ${size}`);
        }
        disk.close();
      }
    },
  },
  {
    name: 'serves rings of other sizes than powers of two',
    layout: 'packed',
    async run(context) {
      for (const size of [3, 5, 7, 100, 129, 1023, QUEUE_SIZE_MAX - 1]) {
        const disk = await context.connect({ queueSize: size });
        const data = pattern(SECTOR, size);
        for (let i = 0; i < 5; i++) await writeAndReadBack(disk, BLOCKS * 8 + i, data);
        await disk.writeZeroes([{ sector: 0, sectors: BLOCKS * 8 }]);
        checkLoad(disk, Math.min(3 * size, size + 5000), { depth: Math.min(size, 64), isIndirect: true });
        disk.close();
      }
    },
  },
  {
    name: 'has 1024 requests in flight on a ring of 1024',
    options: { queueSize: 1024 },
    async run(context) {
      checkLoad(await context.connect(), 20_000, { depth: 1024 });
    },
  },
  {
    name: 'takes a ring of another size after it was stopped, as an operating system sets one up after firmware',
    async run(context) {
      const disk = await context.connect({ queueSize: 256 });
      await writeAndReadBack(disk, 0, pattern(SECTOR, 1));
      for (const size of [16, 128, 1024]) {
        await disk.stop();
        const { session, memory } = disk;
        const hasEventIdx = disk.hasFeature(VirtioFeature.EVENT_IDX);
        const ring = { size, hasEventIdx, isPacked: context.isPacked };
        const queue = new DriverQueue(memory, { ...ring, index: 0, isPolled: false, fds: session.fds });
        for (const old of session.queues.splice(0, 1, queue)) old.close();
        await disk.start();
        await writeAndReadBack(disk, size, pattern(4 * KIB, size));
      }
    },
  },
  ...[0n, EVENT_IDX, INDIRECT, EVENT_IDX | INDIRECT].map((bits) => {
    const parts = [bits & EVENT_IDX ? 'with' : 'without', bits & INDIRECT ? 'with' : 'without'];
    return {
      name: `keeps data right ${parts[0]} EVENT_IDX and ${parts[1]} indirect tables, on one queue and on four`,
      async run(context: CaseContext) {
        const disk = await context.connect({ features: VERSION_1 | bits, queues: 4 });
        equal(disk.features & (EVENT_IDX | INDIRECT), bits);
        checkLoad(disk, 20_000, { queues: [0] });
        await disk.writeZeroes([{ sector: 0, sectors: BLOCKS * 8 }]);
        checkLoad(disk, 40_000);
      },
    };
  }),
  {
    name: 'keeps data right when the driver sleeps until it is called',
    async run(context) {
      const disk = await context.connect({ queues: 2 });
      const writers = Array.from({ length: 16 }, async (_, writer) => {
        for (let i = 0; i < 100; i++) {
          await writeAndReadBack(disk, writer * 8, pattern(4 * KIB, writer * 1000 + i), writer % 2);
        }
      });
      await Promise.all(writers);
      deepEqual(
        disk.queues.map(({ unknownIds }) => unknownIds),
        [0, 0],
      );
    },
  },
  {
    name: 'serves one queue of several that are offered, whichever it is',
    async run(context) {
      const disk = await context.connect({ queues: 4 });
      for (const queue of [3, 1, 2, 0]) await writeAndReadBack(disk, queue * 8, pattern(4 * KIB, queue + 1), queue);
    },
  },
];

export const ringCases: readonly BlkCase[] = [...notificationCases, ...orderCases, ...sizeCases];
