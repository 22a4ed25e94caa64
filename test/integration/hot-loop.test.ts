/**
 * The data path allocates nothing per request: millions of reads and writes through ring, queue, channel and what
 * carries them out, in this thread, leave the heap as it was.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { type HeapProfiler, Session } from 'node:inspector/promises';
import { join } from 'node:path';
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { setTimeout } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { LimitedLog, SILENT } from '../../src/base/log.ts';
import type { Bdev } from '../../src/bdev/bdev.ts';
import { createStats } from '../../src/bdev/bdev-stats.ts';
import { BdevChannel } from '../../src/bdev/channel.ts';
import { CHANNEL_FACTORIES } from '../../src/bdev/modules/channels.ts';
import { FileBdev } from '../../src/bdev/modules/file/file.ts';
import { MallocBdev, MemoryBudget } from '../../src/bdev/modules/malloc/malloc.ts';
import { BdevEntry } from '../../src/bdev/registry.ts';
import { NO_HEAD } from '../../src/initiator/driver-ring.ts';
import { OwnedMemory } from '../../src/initiator/owned-memory.ts';
import { PackedDriverRing } from '../../src/initiator/packed-driver-ring.ts';
import { SplitDriverRing } from '../../src/initiator/split-driver-ring.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { raiseInliningBudgets } from '../../src/reactor/compiler.ts';
import { REACTOR_COUNTERS, Reactor } from '../../src/reactor/reactor.ts';
import { BouncePool } from '../../src/scsi/bounce-pool.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { IovArena } from '../../src/sys/iov-arena.ts';
import { BlkQueue } from '../../src/vhost/blk-queue.ts';
import { QUEUE_COUNTERS } from '../../src/vhost/queue-counters.ts';
import { ScsiQueue } from '../../src/vhost/scsi-queue.ts';
import { BlkRequestType } from '../../src/virtio/blk.ts';
import { createRing } from '../../src/virtio/create-ring.ts';
import { inflightBytes, PACKED_BASE_FIRST } from '../../src/virtio/ring-shape.ts';
import { encodeLun, SCSI_REQUEST_BYTES, SCSI_RESPONSE_BYTES, ScsiRequestOffset } from '../../src/virtio/scsi.ts';

const RING_SIZE = 128;
const DEPTH = 32;
const BLOCK_BYTES = 4096;
const DESCRIPTOR_BYTES = 16;
/** By then the engine has optimized what runs in every round and in every request. */
const WARM_UP_BATCHES_MIN = 3000;
const ROUNDS_PER_BATCH_MAX = 10_000_000;
/** Files here have a disk behind them. */
const ON_DISK = join(import.meta.dirname, '..', '..', 'build');
/**
 * What the engine itself may keep (feedback of functions that are still being optimized): far below one object a
 * request.
 */
const HEAP_GROWTH_BYTES_MAX = 256 * 1024;
const ATTEMPTS_MAX = 4;

type Layout = 'split' | 'split, in order' | 'packed';

/** Everything from the ring to the copy engine, and a driver that submits the same requests again and again. */
function createPath(kind: 'blk' | 'scsi', layout: Layout, format: 'direct' | 'indirect', bdev: Bdev) {
  const memory = OwnedMemory.single(16 << 20);
  const isPacked = layout === 'packed';
  const options = { size: RING_SIZE, hasEventIdx: true };
  const driver = isPacked ? new PackedDriverRing(memory, options) : new SplitDriverRing(memory, options);
  const regions = memory.regions.map(({ guestAddress, sizeBytes, userAddress }) => ({
    guestAddress,
    sizeBytes,
    userAddress,
    hostAddress: userAddress,
  }));
  const guest = new GuestMemory(regions);
  const arena = new IovArena(256, 4);
  const entry = new BdevEntry(1, bdev, createStats(1));
  const factory = CHANNEL_FACTORIES[bdev.kind];
  if (factory === undefined) throw new Error(`there is no ${bdev.kind} module`);
  const channel = new BdevChannel(entry.describe(), factory, { arena }, 0);
  const hostOf = (gpa: number): number => memory.userAddressOf(gpa);
  const ring = createRing(
    {
      isPacked,
      isInOrder: layout === 'split, in order',
      size: RING_SIZE,
      descriptorAddress: hostOf(driver.descriptorAddress),
      availableAddress: hostOf(driver.availableAddress),
      usedAddress: hostOf(driver.usedAddress),
      hasEventIdx: true,
      base: isPacked ? PACKED_BASE_FIRST : 0,
      // As with a front-end that keeps what is in flight: QEMU does.
      inflight: {
        address: hostOf(memory.allocate(inflightBytes(isPacked, RING_SIZE), { alignment: 64 })),
        entries: RING_SIZE,
      },
    },
    guest,
  );
  const queueOptions = {
    index: 2,
    ring,
    memory: guest,
    arena,
    callFd: -1,
    errFd: -1,
    log: null,
    canSleep: true,
    counters: new Float64Array(QUEUE_COUNTERS),
    faults: new LimitedLog(SILENT),
  };
  const device = { isReadonly: false, hasRanges: true, isWriteThrough: false, serial: 'hot' };
  const target = new ScsiTarget();
  const bounce = new BouncePool(arena);
  target.addLun(0, { channel, bounce, uuid: bdev.uuid, productName: 'Hot', ioTypes: bdev.ioTypes });
  const queue =
    kind === 'blk'
      ? new BlkQueue({ ...queueOptions, channel, device })
      : new ScsiQueue({ ...queueOptions, device: { target: () => target, withdraw: () => {} } });
  const reactor = new Reactor('poll', new Float64Array(REACTOR_COUNTERS));
  reactor.add(queue);
  reactor.addDrive(channel);
  const heads = Array.from({ length: DEPTH }, (_, slot) => {
    const isRead = slot % 2 === 0;
    const header = kind === 'blk' ? blkHeader(slot * 8, isRead) : scsiHeader(slot * 8, isRead);
    const place = (lengthBytes: number, isWritable: boolean) => ({
      // On a page of its own, as a guest's block layer has it: nothing needs to be copied for O_DIRECT.
      gpa: memory.allocate(lengthBytes, { alignment: BLOCK_BYTES }),
      lengthBytes,
      isWritable,
    });
    const request = place(header.length, false);
    memory.write(request.gpa, header);
    const data = place(BLOCK_BYTES, isRead);
    const answer = place(kind === 'blk' ? 1 : SCSI_RESPONSE_BYTES, true);
    const segments = kind === 'scsi' && isRead ? [request, answer, data] : [request, data, answer];
    if (format === 'direct') return driver.addChain(segments);
    return driver.addIndirect(segments, memory.allocate(DESCRIPTOR_BYTES * segments.length));
  });
  return { reactor, driver, heads, channel };
}

function blkHeader(sector: number, isRead: boolean): Uint8Array {
  const words = new Uint32Array([isRead ? BlkRequestType.IN : BlkRequestType.OUT, 0, sector, 0]);
  return new Uint8Array(words.buffer);
}

/** READ(10) or WRITE(10) of 8 blocks. */
function scsiHeader(block: number, isRead: boolean): Uint8Array {
  const header = new Uint8Array(SCSI_REQUEST_BYTES);
  encodeLun(header, ScsiRequestOffset.lun, 0, 0);
  header.set([isRead ? 0x28 : 0x2a, 0, 0, 0, block >> 8, block & 0xff, 0, 0, 8, 0], ScsiRequestOffset.cdb);
  return header;
}

/** Requests that completed. */
function run({ reactor, driver, heads }: ReturnType<typeof createPath>, batches: number): number {
  let done = 0;
  for (let batch = 0; batch < batches; batch++) {
    for (let i = 0; i < heads.length; i++) driver.expose(heads[i] as number);
    driver.publish();
    const wanted = done + heads.length;
    // One round for memory; as many as it takes for a disk.
    for (let rounds = 0; done < wanted && rounds < ROUNDS_PER_BATCH_MAX; rounds++) {
      reactor.round();
      while (driver.popUsed() !== NO_HEAD) done++;
    }
  }
  return done;
}

function fileIn(directory: string): FileBdev {
  const filename = join(directory, `ringhost-hot-loop-${process.pid}`);
  writeFileSync(filename, Buffer.alloc(8192 * 512));
  const bdev = new FileBdev({ flavor: 'aio', name: 'Hot', filename });
  // Its name is not needed any more.
  rmSync(filename);
  return bdev;
}

const ram = (): Bdev =>
  new MallocBdev({ name: 'Hot', blockCount: 8192, blockSizeBytes: 512 }, new MemoryBudget(Number.POSITIVE_INFINITY));

/**
 * A run after warm-up: what it left on the heap, and how often the young generation was collected in it, where all that
 * is allocated begins. Collections of the old one have other causes, such as the size of the views that were made
 * before; nor does it count what the engine does when the run is over.
 */
async function measure(path: ReturnType<typeof createPath>, batches: number) {
  const collect = runInNewContext('gc') as () => void;
  const starts: number[] = [];
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind } = (entry as unknown as { detail: { kind: number } }).detail;
      if (kind === constants.NODE_PERFORMANCE_GC_MINOR) starts.push(entry.startTime);
    }
  });
  collect();
  await setTimeout(50);
  observer.observe({ entryTypes: ['gc'] });
  const before = process.memoryUsage().heapUsed;
  const beginMs = performance.now();
  const done = run(path, batches);
  const endMs = performance.now();
  const growth = process.memoryUsage().heapUsed - before;
  await setTimeout(50);
  observer.disconnect();
  const collections = starts.filter((startMs) => startMs >= beginMs && startMs <= endMs).length;
  return { done, collections, growth, isClean: collections === 0 && growth < HEAP_GROWTH_BYTES_MAX };
}

test.each([
  ['ten million blk requests to a RAM disk', 'blk', 'split', 'direct', ram, 312_500],
  ['ten million blk requests in indirect chains', 'blk', 'split', 'indirect', ram, 312_500],
  ['a million blk requests in order', 'blk', 'split, in order', 'indirect', ram, 40_000],
  ['a million blk requests on a packed ring', 'blk', 'packed', 'direct', ram, 40_000],
  ['a million blk requests in indirect chains on a packed ring', 'blk', 'packed', 'indirect', ram, 40_000],
  ['a million scsi requests to a RAM disk', 'scsi', 'split', 'direct', ram, 40_000],
  ['a million scsi requests in indirect chains', 'scsi', 'split', 'indirect', ram, 40_000],
  ['a million scsi requests on a packed ring', 'scsi', 'packed', 'direct', ram, 40_000],
  ['a million blk requests to a file in memory', 'blk', 'split', 'direct', () => fileIn('/dev/shm'), 40_000],
  ['a hundred thousand blk requests to a file on a disk', 'blk', 'split', 'direct', () => fileIn(ON_DISK), 4000],
] as const)('%s allocate nothing and collect no garbage', async (_, kind, layout, format, makeDisk, batches) => {
  setFlagsFromString('--expose-gc');
  raiseInliningBudgets();
  const bdev = makeDisk();
  const path = createPath(kind, layout, format, bdev);
  const warmUp = Math.max(WARM_UP_BATCHES_MIN, batches / 4);
  expect(run(path, warmUp)).toBe(warmUp * DEPTH);
  // How long the compiler takes, in another thread, depends on what else the machine does: until it is done, there is
  // garbage.
  let result = await measure(path, batches);
  for (let more = 1; more < ATTEMPTS_MAX && !result.isClean; more++) result = await measure(path, batches);
  path.reactor.close();
  path.channel.close();
  await bdev.destruct();
  expect(result.done).toBe(batches * DEPTH);
  expect(result.collections).toBe(0);
  expect(result.growth).toBeLessThan(HEAP_GROWTH_BYTES_MAX);
});

/** Bytes that were allocated while `work` ran, by the file whose function did it, from a sample in every 64 bytes. */
async function profile(work: () => void): Promise<Map<string, number>> {
  const session = new Session();
  session.connect();
  const options = { includeObjectsCollectedByMajorGC: true, includeObjectsCollectedByMinorGC: true };
  await session.post('HeapProfiler.startSampling', { samplingInterval: 64, ...options });
  work();
  const result = await session.post('HeapProfiler.stopSampling');
  session.disconnect();
  const bytes = new Map<string, number>();
  const add = ({ callFrame, selfSize, children }: HeapProfiler.SamplingHeapProfileNode): void => {
    if (selfSize > 0) bytes.set(callFrame.url, (bytes.get(callFrame.url) ?? 0) + selfSize);
    for (const child of children) add(child);
  };
  add(result.profile.head);
  return bytes;
}

/** Of the data path's files: what the engine compiled meanwhile is theirs, too. */
const ofDataPath = (bytes: Map<string, number>): number =>
  [...bytes].filter(([url]) => url.includes('/src/')).reduce((sum, [, size]) => sum + size, 0);

test('a heap profile of a million blk requests finds no object of theirs', async () => {
  raiseInliningBudgets();
  const bdev = ram();
  const path = createPath('blk', 'split', 'indirect', bdev);
  const batches = 1_000_000 / DEPTH;
  run(path, WARM_UP_BATCHES_MIN);
  let found = Number.POSITIVE_INFINITY;
  for (let tries = 0; tries < ATTEMPTS_MAX && found >= HEAP_GROWTH_BYTES_MAX; tries++) {
    found = ofDataPath(await profile(() => run(path, batches)));
  }
  // Had every request left an object, as this does, it would be seen.
  const kept: number[][] = [];
  const seen = await profile(() => {
    for (let i = 0; i < 10_000; i++) kept.push([i]);
  });
  path.reactor.close();
  path.channel.close();
  await bdev.destruct();
  expect(found).toBeLessThan(HEAP_GROWTH_BYTES_MAX);
  const own = [...seen].find(([url]) => url.includes('hot-loop.test'));
  expect(own?.[1]).toBeGreaterThan(16 * kept.length);
});
