/** Blocks that a reactor reads for the main thread. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { until } from '../../test/support/waiting.ts';
import { SILENT } from '../base/log.ts';
import { DelayBdev } from '../bdev/modules/delay/delay.ts';
import { MallocBdev, MemoryBudget } from '../bdev/modules/malloc/malloc.ts';
import { type BdevEntry, BdevRegistry } from '../bdev/registry.ts';
import { REACTOR_COUNTERS, Reactor } from '../reactor/reactor.ts';
import { MappingViews } from '../sys/mapping.ts';
import { readBlocks } from './block-reader.ts';
import { createVringService } from './vring-service.ts';

const HOUR_US = 3_600_000_000;

let reactor: Reactor;
let thread: { call(name: string, payload: unknown): Promise<unknown> };
let registry: BdevRegistry;
let base: BdevEntry;

beforeEach(() => {
  reactor = new Reactor('interrupt', new Float64Array(REACTOR_COUNTERS));
  const service = createVringService(reactor, 0, SILENT);
  thread = { call: async (name, payload) => await (service[name] as (payload: unknown) => unknown)(payload) };
  registry = new BdevRegistry(1);
  const params = { name: 'Base', blockCount: 4096, blockSizeBytes: 512 };
  base = registry.create('Base', undefined, () => new MallocBdev(params, new MemoryBudget(Number.POSITIVE_INFINITY)));
});
afterEach(async () => {
  for (const entry of registry.list().toReversed()) await registry.delete(entry);
  reactor.close();
});

describe('a block reader', () => {
  it('reads blocks of a disk, and leaves nothing open', async () => {
    const views = new MappingViews();
    const address = base.bdev.params()['address'] as number;
    new Uint8Array(views.view({ address, lengthBytes: 4096 * 512 }, 3 * 512, 1024)).fill(7);
    views.close();
    const bytes = await readBlocks(thread, base, 2, 3);
    expect(Buffer.compare(bytes, Buffer.concat([Buffer.alloc(512), Buffer.alloc(1024, 7)]))).toBe(0);
    expect(base.users.size).toBe(0);
    base.checkClaim('somebody');
  });

  it('refuses what is beyond the disk, and too much at once', async () => {
    await expect(readBlocks(thread, base, 4095, 2)).rejects.toMatchObject({ code: 'EIO' });
    await expect(readBlocks(thread, base, 0, 2049)).rejects.toMatchObject({ code: 'EINVAL' });
    expect((await readBlocks(thread, base, 4095, 1)).length).toBe(512);
  });

  it('ends when the disk is deleted under it', async () => {
    const latenciesUs = [HOUR_US, HOUR_US, 0, 0];
    const slow = registry.create('Slow', undefined, () => new DelayBdev({ name: 'Slow', base, latenciesUs }), {
      bases: [base],
    });
    const reading = readBlocks(thread, slow, 0, 1).catch(() => null);
    await until(() => slow.users.size === 1, 'it is read');
    await registry.delete(slow);
    await reading;
    expect(registry.list()).toEqual([base]);
  });
});
