/** A RAM disk that is large enough for writes past the caches: by either way another core finds what was written. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { BlockStamps } from '../../src/initiator/block-stamps.ts';
import { BlkLoadGenerator } from '../../src/initiator/load-generator.ts';
import { MIB } from './blk-case-helpers.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const BLOCK_BYTES = 4096;
const BLOCKS = (64 * MIB) / BLOCK_BYTES;
/** Half of them write: each way has its turn of 64 MiB, and what is chosen then some more. */
const REQUESTS = 3 * 2 * BLOCKS;

test('a large RAM disk holds what was written under load, through the caches and past them', async () => {
  const daemon = await RinghostDaemon.start();
  await daemon.rpc.call('bdev_malloc_create', { name: 'Large', num_blocks: BLOCKS, block_size: BLOCK_BYTES });
  await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'large', dev_name: 'Large' });
  const host = await BlkInitiator.connect(join(daemon.directory, 'large'));
  const stamps = new BlockStamps(BLOCKS, BLOCK_BYTES, { isZeroed: true });
  const load = new BlkLoadGenerator(host, { depth: 32, blockBytes: BLOCK_BYTES, writePercent: 50, stamps });
  const report = await load.runAsync({ count: REQUESTS });
  expect(report).toMatchObject({ ios: REQUESTS, errors: 0, mismatches: 0 });
  expect(report.writes).toBeGreaterThan(2 * BLOCKS);
  load.close();
  host.close();
  await daemon.close();
});
