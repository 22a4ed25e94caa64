/** An io_uring on a real file: requests of each kind, waking, and what the addon refuses. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { waitUntil } from '../../test/e2e/wait.ts';
import { AssertionError } from '../base/assert.ts';
import { Errno } from '../base/errors.ts';
import { diskInfo, TransferBatch } from './disk-file.ts';
import { readEventFd } from './events.ts';
import { IoUring } from './io-uring.ts';
import { IovArena } from './iov-arena.ts';
import { Mapping, MappingViews } from './mapping.ts';
import { native } from './native.ts';
import { clockNs } from './thread.ts';

const ENTRIES = 8;
const FILE_BYTES = 64 * 1024;
const PUNCH_HOLE = 3;
const LIMIT_MS = 20_000;
const DIRECTORY = mkdtempSync(join(import.meta.dirname, '../../build/io-uring-'));
const PATH = join(DIRECTORY, 'file');

const memory = Mapping.anonymous(FILE_BYTES);
const views = new MappingViews();
const bytes = new Uint8Array(views.view(memory, 0, FILE_BYTES));
const arena = new IovArena(4, 0);
const offsets = new Float64Array(ENTRIES);
const content = Buffer.from(Array.from({ length: FILE_BYTES }, (_, i) => (i * 7 + (i >> 8)) & 0xff));

afterAll(() => {
  views.close();
  memory.close();
  arena.close();
  rmSync(DIRECTORY, { recursive: true });
});

let fd = -1;
let ring: IoUring;
beforeEach(() => {
  writeFileSync(PATH, content);
  fd = openSync(PATH, 'r+');
  ring = new IoUring(fd, { entries: ENTRIES });
});
afterEach(() => {
  ring.close();
  closeSync(fd);
});

/** The next completion: tag and result. */
async function completion(): Promise<[tag: number, result: number]> {
  let tag = -1;
  await waitUntil(
    () => {
      ring.enter();
      tag = ring.next();
      return tag >= 0;
    },
    LIMIT_MS,
    'completion',
  );
  return [tag, ring.result];
}

function listOf(...segments: readonly (readonly [offset: number, length: number])[]): number {
  const list = arena.takeShort();
  for (const [i, [offset, length]] of segments.entries()) arena.set(list + i, memory.address + offset, length);
  return list;
}

describe('a ring', () => {
  it('reads and writes lists of segments at offsets of the file', async () => {
    const list = listOf([0, 100], [1000, 4000]);
    offsets[3] = 5000;
    ring.transfer(false, 3, offsets, arena, list, 2, 4100);
    expect(await completion()).toEqual([3, 4100]);
    expect(Buffer.from(bytes.subarray(0, 100))).toEqual(content.subarray(5000, 5100));
    expect(Buffer.from(bytes.subarray(1000, 5000))).toEqual(content.subarray(5100, 9100));
    offsets[5] = 100;
    ring.transfer(true, 5, offsets, arena, list + 1, 1, 4000);
    expect(await completion()).toEqual([5, 4000]);
    ring.dataSync(6);
    expect(await completion()).toEqual([6, 0]);
    expect(readFileSync(PATH).subarray(100, 4100)).toEqual(content.subarray(5100, 9100));
    arena.release(list);
  });

  it('ends short at the end of the file, and says what the kernel refuses', async () => {
    ring.transferBuffer(false, 1, FILE_BYTES - 10, memory.address, 100);
    expect(await completion()).toEqual([1, 10]);
    ring.transferBuffer(false, 2, FILE_BYTES, memory.address, 100);
    expect(await completion()).toEqual([2, 0]);
    ring.transferBuffer(false, 3, 0, 4096, 100);
    expect(await completion()).toEqual([3, Errno.EFAULT]);
    ring.discard(4, 0, 4096);
    const [tag, result] = await completion();
    expect([tag, result < 0]).toEqual([4, true]);
  });

  it('makes holes beyond 4 GiB', async () => {
    const far = 5 * 2 ** 30;
    ftruncateSync(fd, far + 8192);
    bytes.fill(1, 0, 8192);
    ring.transferBuffer(true, 1, far, memory.address, 8192);
    expect(await completion()).toEqual([1, 8192]);
    ring.allocate(2, PUNCH_HOLE, far, 4096);
    expect(await completion()).toEqual([2, 0]);
    ring.transferBuffer(false, 3, far, memory.address, 8192);
    expect(await completion()).toEqual([3, 8192]);
    expect([bytes[0], bytes[4095], bytes[4096], bytes[8191]]).toEqual([0, 0, 1, 1]);
  });

  it('goes around many times with all its places taken', async () => {
    for (let round = 0; round < 50; round++) {
      for (let tag = 0; tag < ENTRIES; tag++) {
        ring.transferBuffer(false, tag, tag * 512, memory.address + tag * 512, 512);
      }
      expect(() => ring.dataSync(0)).toThrow(AssertionError);
      expect(() => ring.close()).toThrow(AssertionError);
      const tags = new Set<number>();
      while (tags.size < ENTRIES) {
        const [tag, result] = await completion();
        expect(result).toBe(512);
        tags.add(tag);
      }
    }
    expect(Buffer.from(bytes.subarray(0, 4096))).toEqual(content.subarray(0, 4096));
  });

  it('signals its descriptor only while it is armed', async () => {
    ring.transferBuffer(false, 1, 0, memory.address, 512);
    expect(ring.arm()).toBe(true);
    ring.disarm();
    await completion();
    expect(readEventFd(ring.wakeFd)).toBe(Errno.EAGAIN);
    expect(ring.arm()).toBe(false);
    ring.dataSync(2);
    ring.enter();
    await waitUntil(() => readEventFd(ring.wakeFd) > 0, LIMIT_MS, 'signal');
    expect(ring.arm()).toBe(true);
    ring.disarm();
    expect(await completion()).toEqual([2, 0]);
  });
});

describe('waiting for a ring', () => {
  it('ends with a completion, which needs no other call', () => {
    ring.dataSync(3);
    ring.enter();
    let tag = -1;
    for (const end = clockNs() + LIMIT_MS * 1e6; tag < 0 && clockNs() < end; tag = ring.next()) {
      expect(ring.wait(900_000_000)).toBeGreaterThan(0);
    }
    expect([tag, ring.result]).toEqual([3, 0]);
  });

  it('ends after so long when nothing completes', () => {
    const start = clockNs();
    const waited = ring.wait(2_000_000);
    const elapsed = clockNs() - start;
    expect(waited).toBeGreaterThanOrEqual(2_000_000);
    expect(waited).toBeLessThanOrEqual(elapsed);
    expect(ring.next()).toBe(-1);
  });
});

describe('a batch of transfers', () => {
  it('carries out all of them, each with its own result', () => {
    const batch = new TransferBatch(fd, 4, true);
    const list = listOf([0, 512], [512, 512]);
    offsets.set([0, 1024, FILE_BYTES]);
    batch.add(false, offsets, 0, arena, list, 2);
    batch.add(true, offsets, 1, arena, list, 1);
    batch.add(false, offsets, 2, arena, list, 1);
    batch.run();
    expect([batch.result(0), batch.result(1), batch.result(2)]).toEqual([1024, 512, 0]);
    expect(readFileSync(PATH).subarray(1024, 1536)).toEqual(content.subarray(0, 512));
    arena.release(list);
  });
});

describe('the addon', () => {
  it('refuses arguments of the wrong kind', () => {
    const records = new Float64Array(5);
    const calls: (() => unknown)[] = [
      () => native.uringSetup(0, new Uint8Array(120)),
      () => native.uringSetup(8, new Uint8Array(119)),
      () => native.uringEnter(fd, -1, 0),
      () => native.uringWait(fd, 0, 1),
      () => native.uringWait(fd, 1, -1),
      () => native.uringWait(fd, 1, 1e9),
      () => native.uringRegister(fd, 0, Int32Array.of(1)),
      () => native.uringRegister(fd, 5, Int32Array.of(1)),
      () => native.uringRegister(fd, 2, new Int32Array(0)),
      () => native.transferNow(fd, 0, records, 2),
      () => native.transferNow(fd, 0, records, -1),
      () => native.diskInfo(fd, new Float64Array(5)),
    ];
    for (const call of calls) expect(call).toThrow(TypeError);
    expect(native.uringEnter(-1, 0, 0)).toBe(Errno.EBADF);
    expect(() => diskInfo(-1)).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });
});
