/** Dirty logging for live migration: exactly the pages that were written are marked, whatever the front-end does. */
import { deepEqual } from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { BlkInitiator, type BlkInitiatorOptions } from '../../src/initiator/blk-initiator.ts';
import type { DriverQueue } from '../../src/initiator/driver-queue.ts';
import { RING_FEATURES } from '../../src/initiator/frontend-session.ts';
import { BlkLoadGenerator } from '../../src/initiator/load-generator.ts';
import { LOG_PAGE_BYTES, MigrationLog } from '../../src/initiator/migration-log.ts';
import type { OwnedMemory, OwnedRegion } from '../../src/initiator/owned-memory.ts';
import { closeFd, createEventFd, readEventFd } from '../../src/sys/events.ts';
import { maskOf, ProtocolFeature } from '../../src/vhost-user/messages.ts';
import { BlkRequestType } from '../../src/virtio/blk.ts';
import { VirtioFeature } from '../../src/virtio/features.ts';
import { KIB, MIB, pattern, sameBytes } from './blk-case-helpers.ts';
import { type BlkTarget, RinghostDaemon } from './fixtures/targets.ts';
import { attentions, read10, ScsiBench } from './scsi-bench.ts';

/** Of a load under which pages are marked: enough that each of its buffers is used, and written to, many times. */
const LOADED_REQUESTS = 60_000;
const GUEST_ADDRESS = 2 ** 32;

let daemon: RinghostDaemon;
let target: BlkTarget;
const open: { close(): void }[] = [];

beforeAll(async () => {
  daemon = await RinghostDaemon.start();
  target = await daemon.create({ sizeBytes: 32 * MIB });
});
afterEach(() => {
  for (const one of open.splice(0).toReversed()) one.close();
  daemon.checkAlive();
  deepEqual(
    daemon.log.split('\n').filter((line) => /"level":[56]0|AssertionError/.test(line)),
    [],
  );
});
afterAll(() => daemon.close());

async function connect(options: BlkInitiatorOptions = {}): Promise<BlkInitiator> {
  const disk = await BlkInitiator.connect(target.path, options);
  open.push(disk);
  return disk;
}

function createLog(disk: BlkInitiator, options: ConstructorParameters<typeof MigrationLog>[1] = {}): MigrationLog {
  const log = new MigrationLog(disk.session, options);
  open.push(log);
  return log;
}

const pageOf = (gpa: number): number => Math.floor(gpa / LOG_PAGE_BYTES);

/** Fresh pages for the buffers of a request, one after the other in the order of its descriptors. */
function placer(memory: OwnedMemory): { place: (bytes: number) => number; pages: number[][] } {
  const pages: number[][] = [];
  const place = (bytes: number): number => {
    const gpa = memory.allocate(Math.ceil(bytes / LOG_PAGE_BYTES + 1) * LOG_PAGE_BYTES, { alignment: LOG_PAGE_BYTES });
    pages.push(range(pageOf(gpa), pageOf(gpa + bytes - 1)));
    return gpa;
  };
  return { place, pages };
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

function pageBytes(memory: Uint8Array, page: number): Uint8Array {
  const at = page * LOG_PAGE_BYTES - GUEST_ADDRESS;
  return memory.subarray(at, at + LOG_PAGE_BYTES);
}

/** Past the last byte of a ring, which is in its used part. */
function ringEnd({ usedAddress, size }: DriverQueue['ring']): number {
  return usedAddress + 6 + 8 * size;
}

/** The pages of the first queue that the device writes: the used ring, or a packed ring's descriptors and event. */
function usedPages({ queues, session }: BlkInitiator): number[] {
  const { ring } = queues[0] as DriverQueue;
  if (session.hasFeature(VirtioFeature.RING_PACKED)) {
    const { descriptorAddress, size, usedAddress } = ring;
    return [...range(pageOf(descriptorAddress), pageOf(descriptorAddress + 16 * size - 1)), pageOf(usedAddress)];
  }
  return range(pageOf(ring.usedAddress), pageOf(ringEnd(ring) - 1));
}

describe.each([
  ['with EVENT_IDX', undefined],
  ['without EVENT_IDX', maskOf(VirtioFeature.VERSION_1)],
  ['with packed rings', RING_FEATURES | maskOf(VirtioFeature.RING_PACKED)],
  ['with packed rings in order', maskOf(VirtioFeature.VERSION_1, VirtioFeature.RING_PACKED, VirtioFeature.IN_ORDER)],
])('the dirty log of a blk controller %s', (_, features) => {
  const options = features === undefined ? {} : { features };

  test('has the pages of what was read, its status, and the used ring', async () => {
    const disk = await connect(options);
    await disk.write(0, pattern(64 * KIB));
    const log = createLog(disk);
    await log.start();
    log.take();
    const { place, pages } = placer(disk.memory);
    sameBytes(await disk.read(0, 20 * KIB, { place }), pattern(64 * KIB).subarray(0, 20 * KIB), 'read while logging');
    const [header, data, status] = pages as [number[], number[], number[]];
    const marked = log.take();
    for (const page of [...data, ...status]) expect(marked).toContain(page);
    for (const page of header) expect(marked).not.toContain(page);
    const allowed = new Set([...data, ...status, ...usedPages(disk)]);
    expect(marked.filter((page) => !allowed.has(page))).toEqual([]);
    expect(marked.some((page) => usedPages(disk).includes(page))).toBe(true);
  });

  test('has nothing of the buffers that were written to the disk but their status', async () => {
    const disk = await connect(options);
    const log = createLog(disk);
    await log.start();
    log.take();
    const { place, pages } = placer(disk.memory);
    await disk.write(8, pattern(16 * KIB), { place });
    const status = pages.at(-1) as number[];
    const allowed = new Set([...status, ...usedPages(disk)]);
    const marked = log.take();
    expect(marked).toEqual(expect.arrayContaining(status));
    expect(marked.filter((page) => !allowed.has(page))).toEqual([]);
  });

  test('stays empty while nothing happens', async () => {
    const disk = await connect(options);
    const log = createLog(disk);
    await log.start();
    await disk.read(0, 512);
    await sleep(50);
    log.take();
    await sleep(50);
    expect(log.take()).toEqual([]);
  });

  test('is left alone before the start and after the end of a migration', async () => {
    const disk = await connect(options);
    const log = createLog(disk);
    await disk.read(0, 4 * KIB);
    expect(log.take()).toEqual([]);
    await log.start();
    await disk.read(0, 4 * KIB);
    expect(log.take()).not.toEqual([]);
    await log.stop();
    log.take();
    await disk.read(0, 4 * KIB);
    expect(log.take()).toEqual([]);
  });
});

describe('the dirty log', () => {
  test('of every queue misses no page under load', async () => {
    const disk = await connect({ queues: 4, queueSize: 64 });
    const log = createLog(disk);
    const load = new BlkLoadGenerator(disk, { depth: 16, writePercent: 30 });
    const running = load.runAsync({ count: LOADED_REQUESTS });
    await log.start();
    // As a migration does: marked pages are copied while the guest works, and once more when its rings have stopped.
    const { bytes } = disk.memory.regions[0] as OwnedRegion;
    const copy = new Map<number, Uint8Array>();
    const sync = (): void => {
      for (const page of log.take()) copy.set(page, pageBytes(bytes, page).slice());
    };
    const isOver = running.then(() => true);
    while (!(await Promise.race([isOver, sleep(20, false)]))) sync();
    const result = await running;
    expect([result.errors, result.mismatches]).toEqual([0, 0]);
    await disk.stop();
    sync();
    // The driver writes to the other parts of its rings without the log.
    const rings = new Set(
      disk.queues.flatMap(({ ring }) => range(pageOf(ring.descriptorAddress), pageOf(ringEnd(ring)))),
    );
    const buffers = [...copy.keys()].filter((page) => !rings.has(page));
    expect(buffers.length).toBeGreaterThan(4 * 16);
    for (const page of buffers) {
      sameBytes(copy.get(page) as Uint8Array, pageBytes(bytes, page), `page ${page}`);
    }
    for (const { ring } of disk.queues) {
      for (let at = ring.usedAddress; at < ringEnd(ring); at++) {
        const isSame = copy.get(pageOf(at))?.[at % LOG_PAGE_BYTES] === bytes[at - GUEST_ADDRESS];
        expect(isSame, `byte ${at - ring.usedAddress} of a used ring`).toBe(true);
      }
    }
    load.close();
  });

  test('may start anywhere in its file, and may be replaced under load', async () => {
    const disk = await connect();
    const first = createLog(disk, { offset: 4096 });
    await first.start();
    await disk.read(0, 4 * KIB);
    expect(first.take()).not.toEqual([]);
    const second = createLog(disk, { offset: 12_296 });
    await second.start();
    first.take();
    await disk.read(0, 4 * KIB);
    expect(first.take()).toEqual([]);
    expect(second.take()).not.toEqual([]);
  });

  test('signals the descriptor of SET_LOG_FD when pages were marked', async () => {
    const disk = await connect();
    const log = createLog(disk);
    const fd = createEventFd();
    await disk.frontend.setLogFd(fd);
    await log.start();
    readEventFd(fd);
    await disk.read(0, 512);
    expect(readEventFd(fd)).toBeGreaterThan(0);
    closeFd(fd);
  });

  test('that is too short for the memory is never written past its end', async () => {
    const disk = await connect();
    // Ends before the guest's memory begins: nothing can be marked, and what would be is right behind it.
    const log = createLog(disk, { pages: GUEST_ADDRESS / LOG_PAGE_BYTES - 64, tailBytes: 64 * KIB });
    await log.start();
    await disk.read(0, 64 * KIB);
    expect(log.take()).toEqual([]);
    expect(log.tail.every((byte) => byte === 0)).toBe(true);
  });

  test('of an impossible size or place is refused', async () => {
    const disk = await connect();
    const log = createLog(disk);
    for (const [sizeBytes, offset] of [
      [0, 0],
      [log.sizeBytes + 1, 0],
      [log.sizeBytes, 8],
      [2 ** 53, 2 ** 53],
      [4096, 2 ** 63],
    ] as const) {
      const one = await connectSecond();
      await expect(one.frontend.setLogBase(sizeBytes, offset, log.fd), `${sizeBytes}`).rejects.toThrow(/closed/);
    }
    async function connectSecond(): Promise<BlkInitiator> {
      for (const last of open) if (last instanceof BlkInitiator) last.close();
      return await connect();
    }
  });

  test('cannot be given without LOG_SHMFD', async () => {
    const all = Object.values(ProtocolFeature).filter((bit) => bit !== ProtocolFeature.LOG_SHMFD);
    const disk = await connect({ protocolFeatures: maskOf(...all) });
    const log = createLog(disk);
    await expect(log.start()).rejects.toThrow(/closed/);
  });

  test('that is cut off ends its session, and no other', async () => {
    const other = await daemon.create({ sizeBytes: MIB });
    const bystander = await BlkInitiator.connect(other.path);
    open.push(bystander);
    const disk = await connect();
    const log = createLog(disk);
    await log.start();
    log.truncate(0);
    await disk.read(0, 4 * KIB).catch(() => {});
    expect((await disk.frontend.closed).isByPeer).toBe(true);
    await bystander.write(0, pattern(4 * KIB));
    sameBytes(await bystander.read(0, 4 * KIB), pattern(4 * KIB), 'the bystander');
    const next = await connect();
    expect((await next.request({ type: BlkRequestType.IN, sector: 0, inBytes: 512 })).status).toBe(0);
  });
});

test('the dirty log of a scsi controller has responses, data and parameter data, and nothing else', async () => {
  const bench = await ScsiBench.start();
  try {
    await bench.addDisk('Migrated', 0);
    const host = await bench.connect();
    await attentions(host, { target: 0 });
    const log = new MigrationLog(host.session);
    open.push(log);
    await log.start();
    await attentions(host, { target: 0 });
    log.take();
    for (const [cdb, inBytes] of [
      [read10(0, 32), 16 * KIB],
      [[0x12, 0, 0, 0, 96, 0], 96],
    ] as const) {
      const { place, pages } = placer(host.session.memory);
      await host.good({ cdb: [...cdb], inBytes, place });
      const [request, response, data] = pages as [number[], number[], number[]];
      const marked = log.take();
      expect(marked).toEqual(expect.arrayContaining([...response, ...data]));
      const rings = host.session.queues.flatMap(({ ring }) => [pageOf(ring.usedAddress), pageOf(ring.usedAddress) + 1]);
      const allowed = new Set([...response, ...data, ...rings]);
      expect(marked.filter((page) => !allowed.has(page))).toEqual([]);
      expect(marked).not.toEqual(expect.arrayContaining(request));
    }
  } finally {
    for (const one of open.splice(0).toReversed()) one.close();
    await bench.close();
  }
});
