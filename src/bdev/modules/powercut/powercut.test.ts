/** What a power cut leaves: all that was flushed, and of each later write the new, the old or one in between. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DiskRig } from '../../../../test/support/disk-rig.ts';
import type { Result, RpcContext } from '../../../rpc/methods.ts';
import { IoType } from '../../bdev-io.ts';
import { MemoryBudget } from '../malloc/malloc.ts';
import { powerCutRpc } from './powercut.rpc.ts';
import { PowerCutBdev } from './powercut.ts';

const BLOCKS = 64;
const BLOCK_BYTES = 512;
const context: RpcContext = { signal: new AbortController().signal, calledAs: 'test', connection: 1 };

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ringhost-cut-'));
});
afterAll(() => rmSync(directory, { recursive: true }));

/** A disk whose blocks carry the number of the write that they are of. */
class CutRig {
  readonly disk: DiskRig;
  readonly budget = new MemoryBudget(2 ** 20);
  /** For each block: the write that was flushed last, and those that completed since. */
  readonly flushed = Array.from({ length: BLOCKS }, () => 0);
  readonly later: number[][] = Array.from({ length: BLOCKS }, () => []);
  #writes = 0;

  constructor(ignoresFlush = false) {
    const params = { name: 'Cut0', blockCount: BLOCKS, blockSizeBytes: BLOCK_BYTES, ignoresFlush };
    this.disk = new DiskRig(new PowerCutBdev(params, this.budget));
  }

  async write(block: number, count: number): Promise<void> {
    const length = Math.min(count, BLOCKS - block);
    const id = ++this.#writes;
    new Int32Array(this.disk.guest.buffer, this.disk.guest.byteOffset, (length * BLOCK_BYTES) / 4).fill(id);
    await this.disk.run(IoType.write, block, length, [{ offset: 0, length: length * BLOCK_BYTES }]);
    for (let i = block; i < block + length; i++) this.later[i]?.push(id);
  }

  async flush(): Promise<void> {
    await this.disk.run(IoType.flush, 0, 0);
    for (const [block, ids] of this.later.entries()) {
      this.flushed[block] = ids.at(-1) ?? (this.flushed[block] as number);
      ids.length = 0;
    }
  }

  /** The writes that the blocks of an image are of; -1 for one that is torn. */
  async image(seed: number): Promise<{ ids: number[]; result: Result<'bdev_powercut_image'> }> {
    const filename = join(directory, 'image');
    const rpc = powerCutRpc(this.disk.registry, this.budget, 1);
    const result = await rpc.bdev_powercut_image({ name: 'Cut0', filename, seed }, context);
    const bytes = readFileSync(filename);
    rmSync(filename);
    const ids = Array.from({ length: BLOCKS }, (_, block) => {
      const words = Array.from({ length: 128 }, (_unused, word) => bytes.readInt32LE(block * BLOCK_BYTES + word * 4));
      return words.every((word) => word === words[0]) ? (words[0] as number) : -1;
    });
    return { ids, result };
  }
}

describe('a power-cut disk', () => {
  it('has after a cut what was flushed, and nothing that was never written', async () => {
    const seen = { old: 0, between: 0, latest: 0 };
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.tuple(fc.nat(BLOCKS - 1), fc.integer({ min: 1, max: 8 })) },
      { weight: 1, arbitrary: fc.constant('flush' as const) },
      { weight: 2, arbitrary: fc.constant('cut' as const) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 120 }), fc.nat(1e6), async (steps, seed) => {
        const rig = new CutRig();
        try {
          for (const [index, one] of steps.entries()) {
            if (one === 'flush') await rig.flush();
            else if (one !== 'cut') await rig.write(...one);
            else {
              const { ids, result } = await rig.image(seed + index);
              expect(result.dirty_sectors).toBe(rig.later.filter((later) => later.length > 0).length);
              for (const [block, id] of ids.entries()) {
                const later = rig.later[block] as number[];
                expect([rig.flushed[block], ...later]).toContain(id);
                if (later.length === 0) continue;
                if (id === rig.flushed[block]) seen.old++;
                else if (id === later.at(-1)) seen.latest++;
                else seen.between++;
              }
            }
          }
        } finally {
          await rig.disk.close();
        }
      }),
      { numRuns: 40 },
    );
    for (const count of Object.values(seen)) expect(count).toBeGreaterThan(0);
  });

  it('goes on after a cut, which the same seed makes the same', async () => {
    const rig = new CutRig();
    await rig.write(0, 40);
    const first = await rig.image(7);
    expect(await rig.image(7)).toEqual(first);
    await rig.flush();
    const { ids, result } = await rig.image(8);
    expect(ids.slice(0, 41)).toEqual([...Array.from({ length: 40 }, () => 1), 0]);
    expect(result).toEqual({ dirty_sectors: 0, kept_sectors: 0, flushes: 1 });
    await rig.disk.close();
  });

  it('that ignores flushes loses what was flushed: the check above would see it', async () => {
    const rig = new CutRig(true);
    await rig.write(0, BLOCKS);
    await rig.flush();
    const images: number[][] = [];
    for (let seed = 0; seed < 10; seed++) images.push((await rig.image(seed)).ids);
    expect(images.some((ids) => ids.some((id, block) => id !== rig.flushed[block]))).toBe(true);
    await rig.disk.close();
  });

  it('does not write over a file, and is of one moment only with one reactor', async () => {
    const rig = new CutRig();
    const params = { name: 'Cut0', filename: join(directory, 'one'), seed: 1 };
    const rpc = powerCutRpc(rig.disk.registry, rig.budget, 1);
    await rpc.bdev_powercut_image(params, context);
    await expect(rpc.bdev_powercut_image(params, context)).rejects.toMatchObject({ code: 'EEXIST' });
    const two = powerCutRpc(rig.disk.registry, rig.budget, 2);
    await expect(two.bdev_powercut_image(params, context)).rejects.toMatchObject({ code: 'EINVAL' });
    await rig.disk.close();
  });
});
