/**
 * The data path allocates nothing per request: a million reads and writes through ring, queue, channel and copy engine,
 * in this thread, leave the heap as it was.
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { LimitedLog, SILENT } from '../../src/base/log.ts';
import { createStats } from '../../src/bdev/bdev-stats.ts';
import { BdevChannel } from '../../src/bdev/channel.ts';
import { CHANNEL_FACTORIES } from '../../src/bdev/modules/channels.ts';
import { MallocBdev, MemoryBudget } from '../../src/bdev/modules/malloc/malloc.ts';
import { BdevEntry } from '../../src/bdev/registry.ts';
import { OwnedMemory } from '../../src/initiator/owned-memory.ts';
import { NO_HEAD, SplitDriverRing } from '../../src/initiator/split-driver-ring.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { REACTOR_COUNTERS, Reactor } from '../../src/reactor/reactor.ts';
import { BouncePool } from '../../src/scsi/bounce-pool.ts';
import { ScsiTarget } from '../../src/scsi/target.ts';
import { IovArena } from '../../src/sys/iov-arena.ts';
import { BlkQueue } from '../../src/vhost/blk-queue.ts';
import { QUEUE_COUNTERS } from '../../src/vhost/queue-counters.ts';
import { ScsiQueue } from '../../src/vhost/scsi-queue.ts';
import { BlkRequestType } from '../../src/virtio/blk.ts';
import { encodeLun, SCSI_REQUEST_BYTES, SCSI_RESPONSE_BYTES, ScsiRequestOffset } from '../../src/virtio/scsi.ts';
import { SplitRing } from '../../src/virtio/split-ring.ts';

const RING_SIZE = 128;
const DEPTH = 32;
const BLOCK_BYTES = 4096;
const WARM_UP_ROUNDS = 10_000;
const ROUNDS = 40_000;
/**
 * What the engine itself may keep (feedback of functions that are still being optimized): far below one object a
 * request.
 */
const HEAP_GROWTH_BYTES_MAX = 256 * 1024;

/** Everything from the ring to the copy engine, and a driver that submits the same requests again and again. */
function createPath(kind: 'blk' | 'scsi') {
  const memory = OwnedMemory.single(16 << 20);
  const driver = new SplitDriverRing(memory, { size: RING_SIZE, hasEventIdx: true });
  const regions = memory.regions.map(({ guestAddress, sizeBytes, userAddress }) => ({
    guestAddress,
    sizeBytes,
    userAddress,
    hostAddress: userAddress,
  }));
  const guest = new GuestMemory(regions);
  const arena = new IovArena(256, 4);
  const bdev = new MallocBdev(
    { name: 'Hot', blockCount: 8192, blockSizeBytes: 512 },
    new MemoryBudget(Number.POSITIVE_INFINITY),
  );
  const entry = new BdevEntry(1, bdev, createStats(1));
  const factory = CHANNEL_FACTORIES.malloc;
  if (factory === undefined) throw new Error('there is no malloc module');
  const channel = new BdevChannel(entry.describe(), factory, { arena }, 0);
  const hostOf = (gpa: number): number => memory.userAddressOf(gpa);
  const ring = new SplitRing(
    {
      size: RING_SIZE,
      descriptorAddress: hostOf(driver.descriptorAddress),
      availableAddress: hostOf(driver.availableAddress),
      usedAddress: hostOf(driver.usedAddress),
      hasEventIdx: true,
      nextAvail: 0,
    },
    guest,
  );
  const options = {
    index: 2,
    ring,
    memory: guest,
    arena,
    callFd: -1,
    errFd: -1,
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
      ? new BlkQueue({ ...options, channel, device })
      : new ScsiQueue({ ...options, device: { target: () => target } });
  const reactor = new Reactor('poll', new Float64Array(REACTOR_COUNTERS));
  reactor.add(queue);
  reactor.addDrive(channel);
  const heads = Array.from({ length: DEPTH }, (_, slot) => {
    const isRead = slot % 2 === 0;
    const header = kind === 'blk' ? blkHeader(slot * 8, isRead) : scsiHeader(slot * 8, isRead);
    const place = (lengthBytes: number, isWritable: boolean) => ({
      gpa: memory.allocate(lengthBytes),
      lengthBytes,
      isWritable,
    });
    const request = place(header.length, false);
    memory.write(request.gpa, header);
    const data = place(BLOCK_BYTES, isRead);
    const answer = place(kind === 'blk' ? 1 : SCSI_RESPONSE_BYTES, true);
    return driver.addChain(kind === 'scsi' && isRead ? [request, answer, data] : [request, data, answer]);
  });
  return { reactor, driver, heads };
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
function run({ reactor, driver, heads }: ReturnType<typeof createPath>, rounds: number): number {
  let done = 0;
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < heads.length; i++) driver.expose(heads[i] as number);
    driver.publish();
    reactor.round();
    while (driver.popUsed() !== NO_HEAD) done++;
  }
  return done;
}

test.each(['blk', 'scsi'] as const)('a million %s requests allocate nothing and collect no garbage', async (kind) => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const path = createPath(kind);
  expect(run(path, WARM_UP_ROUNDS)).toBe(WARM_UP_ROUNDS * DEPTH);
  let collections = 0;
  const observer = new PerformanceObserver((list) => {
    collections += list.getEntries().length;
  });
  collect();
  await new Promise((resolve) => setTimeout(resolve, 50));
  observer.observe({ entryTypes: ['gc'] });
  const before = process.memoryUsage().heapUsed;
  const done = run(path, ROUNDS);
  const growth = process.memoryUsage().heapUsed - before;
  await new Promise((resolve) => setTimeout(resolve, 50));
  observer.disconnect();
  path.reactor.close();
  expect(done).toBe(ROUNDS * DEPTH);
  expect(collections).toBe(0);
  expect(growth).toBeLessThan(HEAP_GROWTH_BYTES_MAX);
});
