/** A mirror with legs that can fail, in this thread: a guest's requests by `disk`, its own I/O by a reactor. */

import type { Bdev } from '../../src/bdev/bdev.ts';
import { IoStatus, IoType } from '../../src/bdev/bdev-io.ts';
import { ErrorBdev } from '../../src/bdev/modules/error/error.ts';
import { Fault } from '../../src/bdev/modules/error/rules.ts';
import { MallocBdev, MemoryBudget } from '../../src/bdev/modules/malloc/malloc.ts';
import { PowerCutBdev } from '../../src/bdev/modules/powercut/powercut.ts';
import { MirrorBdev } from '../../src/bdev/modules/raid/mirror.ts';
import { assemble, type MirrorRequest } from '../../src/bdev/modules/raid/mirror-assembly.ts';
import { DATA_OFFSET_BYTES } from '../../src/bdev/modules/raid/superblock.ts';
import type { BdevEntry } from '../../src/bdev/registry.ts';
import { BdevRegistry } from '../../src/bdev/registry.ts';
import { uuidOfText } from '../../src/bdev/text-uuid.ts';
import { MappingViews } from '../../src/sys/mapping.ts';
import { DiskRig } from './disk-rig.ts';
import { MainThreadIo } from './main-thread-io.ts';

export const BLOCK_BYTES = 512;
const DATA_BLOCKS = DATA_OFFSET_BYTES / BLOCK_BYTES;
const budget = new MemoryBudget(Number.POSITIVE_INFINITY);

interface RamParams {
  readonly name: string;
  readonly uuid: string;
  readonly blockCount: number;
  readonly blockSizeBytes: number;
}

export class MirrorRig {
  readonly registry = new BdevRegistry(1);
  readonly io = new MainThreadIo(this.registry);
  readonly hasSuperblock: boolean;
  #disk: DiskRig | null = null;

  constructor(hasSuperblock: boolean) {
    this.hasSuperblock = hasSuperblock;
  }

  /** A RAM disk below one that fails what it is told to: the leg. `content`: all of it. */
  async leg(name: string, blocks: number, content?: Uint8Array): Promise<BdevEntry> {
    const entry = this.#stack(name, (params) => new MallocBdev(params, budget), blocks);
    if (content !== undefined) await this.writeAll(this.rawOf(entry).base, content);
    return entry;
  }

  /** The same, with a disk whose power can be cut. */
  volatileLeg(name: string, blocks: number): BdevEntry {
    return this.#stack(name, (params) => new PowerCutBdev({ ...params, ignoresFlush: false }, budget), blocks);
  }

  /** What a cut of the power would leave of a volatile leg. */
  afterCut(entry: BdevEntry, seed: number): Uint8Array {
    const { cache } = this.rawOf(entry).base.bdev as PowerCutBdev;
    cache.want(seed);
    cache.cutIfWanted();
    return cache.image.slice();
  }

  #stack(name: string, make: (params: RamParams) => Bdev, blocks: number): BdevEntry {
    const blockCount = blocks + (this.hasSuperblock ? DATA_BLOCKS : 0);
    // The same in another rig.
    const params = { name: `${name}-ram`, uuid: uuidOfText(name), blockCount, blockSizeBytes: BLOCK_BYTES };
    const ram = this.registry.create(params.name, undefined, () => make(params));
    return this.registry.create(name, undefined, () => new ErrorBdev({ name, base: ram }), { bases: [ram] });
  }

  async writeAll(entry: BdevEntry, content: Uint8Array): Promise<void> {
    const step = 2 ** 20;
    for (let at = 0; at < content.length; at += step) {
      await this.io.blocks.write(entry, at / BLOCK_BYTES, content.subarray(at, at + step));
    }
  }

  /** A copy of all that is on a leg at this moment. */
  snapshot(entry: BdevEntry): Uint8Array {
    const { bdev, sizeBytes } = this.rawOf(entry).base;
    const views = new MappingViews();
    const memory = { address: bdev.params()['address'] as number, lengthBytes: sizeBytes };
    const copy = new Uint8Array(views.view(memory, 0, sizeBytes)).slice();
    views.close();
    return copy;
  }

  /** All of a leg, with what is before the data. */
  async contentOf(entry: BdevEntry): Promise<Buffer> {
    const { base } = this.rawOf(entry);
    const parts: Buffer[] = [];
    const step = 2 ** 20 / BLOCK_BYTES;
    for (let at = 0; at < base.bdev.blockCount; at += step) {
      parts.push(await this.io.blocks.read(base, at, Math.min(step, base.bdev.blockCount - at)));
    }
    return Buffer.concat(parts);
  }

  async dataOf(entry: BdevEntry): Promise<Buffer> {
    const content = await this.contentOf(entry);
    return content.subarray(this.hasSuperblock ? DATA_OFFSET_BYTES : 0);
  }

  rawOf(entry: BdevEntry): { base: BdevEntry } {
    return { base: entry.bases[0] as BdevEntry };
  }

  async start(bases: readonly BdevEntry[], request: Partial<MirrorRequest> = {}): Promise<DiskRig> {
    const all = { name: 'R', uuid: undefined, bases, absent: [], slots: undefined, allowsDegraded: false, ...request };
    const { hasSuperblock } = this;
    const assembly = await assemble({ ...all, hasSuperblock }, this.io.blocks);
    const mirror = new MirrorBdev({ name: 'R', hasSuperblock, isInherited: false }, assembly, this.io);
    this.#disk = new DiskRig(mirror, undefined, this.registry, mirror.legs);
    await this.disk.polled(mirror.start());
    return this.disk;
  }

  get disk(): DiskRig {
    return this.#disk as DiskRig;
  }

  get mirror(): MirrorBdev {
    return this.disk.entry.bdev as MirrorBdev;
  }

  /** Fails the next requests of a kind to some blocks of the data of a leg. */
  fail(entry: BdevEntry, types: readonly IoType[], count = 1, first = 0, end = Number.MAX_SAFE_INTEGER): void {
    this.#inject(entry, types, count, first, end, Fault.failure);
  }

  /** Holds back the next request of a kind, until the leg goes. */
  hold(entry: BdevEntry, types: readonly IoType[]): void {
    this.#inject(entry, types, 1, 0, Number.MAX_SAFE_INTEGER, Fault.pending);
  }

  #inject(entry: BdevEntry, types: readonly IoType[], count: number, first: number, end: number, fault: Fault): void {
    const offset = this.hasSuperblock ? DATA_BLOCKS : 0;
    (entry.bdev as ErrorBdev).inject({
      ...{ types, fault, count, queueDepth: 0, nth: 1, probability: 1, seed: 0, corruptOffset: 0, corruptValue: 0 },
      ...{ firstBlock: first + offset, endBlock: Math.min(end + offset, Number.MAX_SAFE_INTEGER) },
    });
  }

  heal(entry: BdevEntry): void {
    (entry.bdev as ErrorBdev).faults.clear();
  }

  /** Fills blocks with a number, and says how that ended. */
  async write(block: number, count: number, value: number): Promise<IoStatus> {
    const offset = block * BLOCK_BYTES;
    this.disk.guest.fill(value, offset, offset + count * BLOCK_BYTES);
    return await this.disk.run(IoType.write, block, count, [{ offset, length: count * BLOCK_BYTES }]);
  }

  /** The number that a block is filled with; -1 when it cannot be read. */
  async read(block: number): Promise<number> {
    const { disk } = this;
    const offset = disk.guest.length - BLOCK_BYTES;
    const status = await disk.run(IoType.read, block, 1, [{ offset, length: BLOCK_BYTES }]);
    return status === IoStatus.success ? (disk.guest[offset] as number) : -1;
  }

  /** Until nothing is rebuilt any more, and every change is recorded. */
  async settled(): Promise<void> {
    const { state } = this.mirror;
    await this.until(() => state.targets === 0 && state.recorded === state.inSync && this.io.jobs.running.length === 0);
  }

  async until(condition: () => boolean): Promise<void> {
    const limit = Date.now() + 30_000;
    const wait = async (): Promise<void> => {
      while (!condition()) {
        if (Date.now() > limit) throw new Error('it did not come to that');
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    };
    await this.disk.polled(wait());
  }

  /** As a daemon that stops. `legs` stay when they are not of this rig's registry. */
  async close(): Promise<void> {
    this.io.jobs.isClosing = true;
    if (this.#disk === null) for (const entry of this.registry.list().toReversed()) await this.registry.delete(entry);
    else {
      await this.disk.polled(this.io.jobs.close());
      await this.disk.close();
    }
    this.io.close();
  }
}
