/** RAM disks: what was written is there, through sizes that change, and the memory they may take is bounded. */
import assert from 'node:assert/strict';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeBdev, RecordingOwner } from '../../../../test/support/bdev-rig.ts';
import { openFdCount } from '../../../../test/support/descriptors.ts';
import { IovArena } from '../../../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../../../sys/mapping.ts';
import type { BdevDescription } from '../../bdev.ts';
import { IoStatus, IoType } from '../../bdev-io.ts';
import { BdevChannel } from '../../channel.ts';
import { CHANNEL_FACTORIES } from '../channels.ts';
import { MallocBdev, MemoryBudget } from './malloc.ts';

const MIB = 2 ** 20;
const BUFFER_BYTES = 64 * 1024;

let fdsBefore = 0;
const toDestruct: MallocBdev[] = [];

beforeEach(() => {
  fdsBefore = openFdCount();
});

afterEach(async () => {
  for (const bdev of toDestruct.splice(0)) await bdev.destruct();
  assert.ok(openFdCount() <= fdsBefore, 'no descriptor is left over');
});

function bdevOf(
  blockCount: number,
  blockSizeBytes: number,
  budget = new MemoryBudget(Number.POSITIVE_INFINITY),
): MallocBdev {
  const bdev = new MallocBdev({ name: 'Malloc0', blockCount, blockSizeBytes }, budget);
  toDestruct.push(bdev);
  return bdev;
}

function descriptionOf(bdev: MallocBdev): BdevDescription {
  const { kind, blockCount, blockSizeBytes, hasWriteCache, ioTypes } = bdev;
  return describeBdev({ kind, blockCount, blockSizeBytes, hasWriteCache, ioTypes, params: bdev.params() });
}

/** A channel of a disk, and a buffer to move bytes through. */
class Rig {
  readonly channel: BdevChannel;
  readonly buffer: Uint8Array;
  readonly owner = new RecordingOwner();
  readonly #arena = new IovArena(4, 1);
  readonly #memory = Mapping.anonymous(BUFFER_BYTES);
  readonly #views = new MappingViews();

  constructor(bdev: MallocBdev) {
    const factory = CHANNEL_FACTORIES[bdev.kind];
    assert(factory !== undefined);
    this.channel = new BdevChannel(descriptionOf(bdev), factory, { arena: this.#arena }, 0);
    this.buffer = new Uint8Array(this.#views.view(this.#memory, 0, BUFFER_BYTES));
  }

  /** Submits a transfer through one segment of the buffer. */
  submit(type: IoType, offsetBlocks: number, countBlocks: number, bufferOffset = 0): void {
    const io = this.owner.io(type, offsetBlocks, countBlocks, this.channel.blockSizeBytes);
    io.iovFirst = this.#arena.takeShort();
    io.iovCount = 1;
    this.#arena.set(io.iovFirst, this.#memory.address + bufferOffset, Math.min(io.lengthBytes, BUFFER_BYTES));
    this.channel.submit(io);
    // The operation has its own copy of nothing: the entry stays until it was carried out, which these tests wait for.
    this.#arena.release(io.iovFirst);
  }

  run(type: IoType, offsetBlocks: number, countBlocks: number): void {
    this.submit(type, offsetBlocks, countBlocks);
    while (this.channel.inFlight > 0) this.channel.poll();
  }

  read(offsetBlocks: number, countBlocks: number): Uint8Array {
    this.buffer.fill(0xee);
    this.run(IoType.read, offsetBlocks, countBlocks);
    return this.buffer.slice(0, countBlocks * this.channel.blockSizeBytes);
  }

  write(offsetBlocks: number, data: Uint8Array): void {
    this.buffer.set(data);
    this.run(IoType.write, offsetBlocks, data.length / this.channel.blockSizeBytes);
  }

  close(): void {
    this.channel.close();
    this.#views.close();
    this.#memory.close();
    this.#arena.close();
  }
}

describe('a RAM disk', () => {
  it('holds what a model in a plain array holds, through writes, zeroes, discards and sizes', () => {
    const blocks = 40;
    const request = fc.record({
      kind: fc.constantFrom('write', 'write', 'zero', 'unmap', 'read', 'resize'),
      offset: fc.nat(blocks - 1),
      count: fc.integer({ min: 1, max: 16 }),
      seed: fc.nat(255),
    });
    fc.assert(
      fc.property(
        fc.constantFrom(512, 1024, 2048, 4096),
        fc.array(request, { maxLength: 25, size: 'max' }),
        (blockSize, requests) => {
          const bdev = new MallocBdev(
            { name: 'M', blockCount: blocks, blockSizeBytes: blockSize },
            new MemoryBudget(2 ** 40),
          );
          const rig = new Rig(bdev);
          let model = new Uint8Array(blocks * blockSize);
          for (const { kind, offset, count: wanted, seed } of requests) {
            const count = Math.min(wanted, bdev.blockCount - offset);
            if (kind === 'resize') {
              bdev.resize(blocks + seed);
              rig.channel.update(descriptionOf(bdev));
              const next = new Uint8Array((blocks + seed) * blockSize);
              next.set(model.subarray(0, next.length));
              model = next;
              continue;
            }
            const part = model.subarray(offset * blockSize, (offset + count) * blockSize);
            if (kind === 'write') {
              for (let i = 0; i < part.length; i++) part[i] = seed + i * 7;
              rig.write(offset, part);
            } else if (kind === 'read') {
              expect(Buffer.compare(rig.read(offset, count), part)).toBe(0);
            } else {
              part.fill(0);
              rig.run(kind === 'zero' ? IoType.writeZeroes : IoType.unmap, offset, count);
            }
          }
          for (let at = 0; at < bdev.blockCount; at += 16) {
            const count = Math.min(16, bdev.blockCount - at);
            const expected = model.subarray(at * blockSize, (at + count) * blockSize);
            expect(Buffer.compare(rig.read(at, count), expected)).toBe(0);
          }
          expect(rig.owner.statuses.every((status) => status === IoStatus.success)).toBe(true);
          rig.close();
          void bdev.destruct();
        },
      ),
      { numRuns: 40 },
    );
  });

  it('reads as zeroes when it is new, and again where it shrank and grew', async () => {
    const bdev = bdevOf(16, 4096);
    const rig = new Rig(bdev);
    expect(rig.read(0, 16).every((byte) => byte === 0)).toBe(true);
    rig.write(0, new Uint8Array(16 * 4096).fill(9));
    for (const blockCount of [4, 16]) {
      bdev.resize(blockCount);
      rig.channel.update(descriptionOf(bdev));
    }
    expect(rig.read(0, 4).every((byte) => byte === 9)).toBe(true);
    expect(rig.read(4, 12).every((byte) => byte === 0)).toBe(true);
    rig.close();
  });

  it('reads as zeroes where it shrank inside a page and grew', () => {
    const bdev = bdevOf(64, 512);
    const rig = new Rig(bdev);
    rig.write(0, new Uint8Array(64 * 512).fill(9));
    for (const blockCount of [11, 64]) {
      bdev.resize(blockCount);
      rig.channel.update(descriptionOf(bdev));
    }
    expect(rig.read(0, 11).every((byte) => byte === 9)).toBe(true);
    expect(rig.read(11, 53).every((byte) => byte === 0)).toBe(true);
    rig.close();
  });

  it('carries out nothing before it is polled, then all of it, in order, however much came', () => {
    const bdev = bdevOf(2048, 512);
    const rig = new Rig(bdev);
    rig.buffer.fill(1, 0, 512);
    rig.submit(IoType.write, 0, 1);
    for (let i = 1; i < 3000; i++) rig.submit(IoType.writeZeroes, i % 2048 === 0 ? 1 : i % 2048, 1);
    expect(rig.owner.ended).toEqual([]);
    expect(rig.channel.poll()).toBe(3000);
    expect([rig.owner.ended.length, rig.channel.inFlight, rig.channel.poll()]).toEqual([3000, 0, 0]);
    expect(rig.owner.ended.slice(0, 3).map(({ tag }) => tag)).toEqual([0, 1, 2]);
    expect(rig.read(0, 1).every((byte) => byte === 1)).toBe(true);
    rig.close();
  });

  it('takes requests that owners submit while others complete, at the next poll', () => {
    const bdev = bdevOf(16, 512);
    const rig = new Rig(bdev);
    let isFirst = true;
    rig.owner.ioDone = (io) => {
      rig.owner.ended.push({ type: io.type, status: io.status, tag: io.tag });
      if (isFirst) for (const block of [13, 14, 15]) rig.submit(IoType.writeZeroes, block, 1);
      isFirst = false;
    };
    rig.submit(IoType.writeZeroes, 1, 1);
    rig.submit(IoType.writeZeroes, 2, 1);
    expect([rig.channel.poll(), rig.channel.inFlight]).toEqual([2, 3]);
    expect([rig.channel.poll(), rig.channel.inFlight]).toEqual([3, 0]);
    expect(rig.owner.ended.map(({ tag }) => tag)).toEqual([1, 2, 13, 14, 15]);
    rig.close();
  });

  it('keeps what was submitted before it grew', () => {
    const bdev = bdevOf(16, 512);
    const rig = new Rig(bdev);
    rig.buffer.fill(7, 0, 512);
    rig.submit(IoType.write, 3, 1);
    bdev.resize(4096);
    rig.channel.update(descriptionOf(bdev));
    rig.channel.poll();
    expect(rig.owner.statuses).toEqual([IoStatus.success]);
    expect(rig.read(3, 1).every((byte) => byte === 7)).toBe(true);
    rig.close();
  });

  it('is described as what it is, and by the call that would create it again', () => {
    const bdev = bdevOf(16, 4096);
    expect(bdev).toMatchObject({ productName: 'Malloc disk', physicalBlockSizeBytes: 4096, hasWriteCache: false });
    expect(bdev.uuid).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    const params = { name: 'Malloc0', num_blocks: 16, block_size: 4096, physical_block_size: 4096, uuid: bdev.uuid };
    expect(bdev.toConfig()).toEqual({ method: 'bdev_malloc_create', params });
  });

  it.each(['x'.repeat(300), 'é'.repeat(150), '漢'.repeat(150), '🙂'.repeat(120)])(
    'may have a name of any length',
    async (name) => {
      const bdev = new MallocBdev({ name, blockCount: 1, blockSizeBytes: 512 }, new MemoryBudget(512));
      expect(bdev.name).toBe(name);
      await bdev.destruct();
    },
  );
});

describe('the budget', () => {
  it('is taken by a disk and given back with it', async () => {
    const budget = new MemoryBudget(2 * MIB);
    const first = new MallocBdev({ name: 'A', blockCount: 256, blockSizeBytes: 4096 }, budget);
    bdevOf(256, 4096, budget);
    const third = () => new MallocBdev({ name: 'C', blockCount: 1, blockSizeBytes: 512 }, budget);
    expect(third).toThrow(expect.objectContaining({ code: 'ENOMEM' }));
    expect(third).toThrow('only 0 MiB are left for RAM disks: start the daemon with a larger -s');
    await first.destruct();
    toDestruct.push(third());
  });

  it('is taken by growth and given back by shrinking', () => {
    const budget = new MemoryBudget(2 * MIB);
    const bdev = bdevOf(256, 4096, budget);
    bdev.resize(512);
    expect(() => bdev.resize(513)).toThrow(expect.objectContaining({ code: 'ENOMEM' }));
    expect(bdev.blockCount).toBe(512);
    bdev.resize(128);
    expect(() => budget.take(MIB + MIB / 2)).not.toThrow();
    expect(() => budget.take(1)).toThrow();
    budget.take(-MIB - MIB / 2);
  });

  it('and every descriptor are given back when a disk cannot be made or grown', () => {
    const budget = new MemoryBudget(Number.MAX_SAFE_INTEGER);
    // More than an address space holds.
    const huge = 2 ** 51;
    const make = () => new MallocBdev({ name: 'A', blockCount: huge / 4096, blockSizeBytes: 4096 }, budget);
    expect(make).toThrow(expect.objectContaining({ code: 'ENOMEM' }));
    expect(openFdCount()).toBe(fdsBefore);
    const bdev = bdevOf(1, 4096, budget);
    expect(() => bdev.resize(huge / 4096)).toThrow(expect.objectContaining({ code: 'ENOMEM' }));
    expect(bdev.blockCount).toBe(1);
    expect(() => budget.take(Number.MAX_SAFE_INTEGER - 4096)).not.toThrow();
    budget.take(-(Number.MAX_SAFE_INTEGER - 4096));
  });
});

describe('a resize', () => {
  it('past the addresses reserved for the disk says how far it can grow', () => {
    const bdev = bdevOf(16, 4096);
    expect(() => bdev.resize(2 ** 40)).toThrow(/^bdev "Malloc0" can grow to \d+ MiB: for more, create it again/);
    expect(bdev.blockCount).toBe(16);
    bdev.resize((8 * 2 ** 30) / 4096);
    expect(bdev.blockCount).toBe((8 * 2 ** 30) / 4096);
  });
});

describe('writes to a disk that no cache holds', () => {
  it('store the same bytes as others do, from any place in memory', () => {
    const bdev = bdevOf((64 * MIB) / 512, 512);
    const rig = new Rig(bdev);
    fc.assert(
      fc.property(
        fc.nat(64 * 2048 - 9),
        fc.integer({ min: 1, max: 8 }),
        fc.nat(512),
        fc.nat(255),
        (offset, count, at, seed) => {
          const data = Uint8Array.from({ length: count * 512 }, (_, i) => seed + i * 13);
          rig.buffer.set(data, at);
          rig.submit(IoType.write, offset, count, at);
          while (rig.channel.inFlight > 0) rig.channel.poll();
          expect(Buffer.compare(rig.read(offset, count), data)).toBe(0);
        },
      ),
    );
    rig.close();
  });
});
