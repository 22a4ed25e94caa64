/** A RAM disk in shared memory, and a daemon that is killed: the next one serves what was written. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { MIB, pattern, sameBytes } from './blk-case-helpers.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const SHM = `integration-${process.pid}`;
const SIZE_BYTES = 8 * MIB;

let state: string;
let daemon: RinghostDaemon;
beforeEach(async () => {
  state = mkdtempSync(join(tmpdir(), 'ringhost-shm-'));
  daemon = await RinghostDaemon.start(['--state-dir', state]);
});
afterEach(async () => {
  await daemon.close();
  rmSync(state, { recursive: true });
  rmSync(`/dev/shm/ringhost.${SHM}`, { force: true });
});

it('is there again by itself with every write that was answered', async () => {
  const { rpc } = daemon;
  const params = { name: 'Shm0', num_blocks: SIZE_BYTES / 512, block_size: 512 } as const;
  await rpc.call('bdev_malloc_create', { ...params, shm_name: SHM });
  await rpc.call('bdev_malloc_create', { ...params, name: 'Ram0' });
  await rpc.call('vhost_create_blk_controller', { ctrlr: 'shm', dev_name: 'Shm0' });
  await rpc.call('vhost_create_blk_controller', { ctrlr: 'ram', dev_name: 'Ram0' });
  const data = pattern(MIB, 7);
  for (const ctrlr of ['shm', 'ram']) {
    const disk = await BlkInitiator.connect(join(daemon.directory, ctrlr));
    await disk.write(4096, data);
    await disk.write(SIZE_BYTES / 512 - 2048, data);
    disk.close();
  }
  await daemon.crash();
  await daemon.restart();
  await daemon.rpc.call('framework_wait_init');
  const read = async (ctrlr: string, sector: number): Promise<Uint8Array> => {
    const disk = await BlkInitiator.connect(join(daemon.directory, ctrlr));
    const bytes = await disk.read(sector, data.length);
    disk.close();
    return bytes;
  };
  sameBytes(await read('shm', 4096), data, 'what was in shared memory');
  sameBytes(await read('shm', SIZE_BYTES / 512 - 2048), data, 'its end');
  // The other one is there again too, and empty.
  sameBytes(await read('ram', 4096), new Uint8Array(MIB), 'what was in the memory of the daemon');
  expect(existsSync(`/dev/shm/ringhost.${SHM}`)).toBe(true);
  await daemon.rpc.call('delete_bdev', { name: 'Shm0' });
  expect(existsSync(`/dev/shm/ringhost.${SHM}`)).toBe(false);
});
