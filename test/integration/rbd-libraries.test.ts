/** A host without Ceph's libraries: nothing else needs them, and whoever does is told how to get them. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { RinghostDaemon } from './fixtures/targets.ts';

/** Where the dynamic linker looks first. */
const PATH = 'LD_LIBRARY_PATH';

test.each(['librados.so.2', 'librbd.so.1'])(
  'without %s a daemon serves, and a cluster is an error that says what to do',
  async (library) => {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-libraries-'));
    // Whether it is installed or not, what is found is no library.
    writeFileSync(join(directory, library), '');
    const before = process.env[PATH];
    process.env[PATH] = directory;
    const daemon = await RinghostDaemon.start();
    if (before === undefined) delete process.env[PATH];
    else process.env[PATH] = before;
    try {
      for (const name of ['once', 'again']) {
        await expect(daemon.rpc.call('bdev_rbd_register_cluster', { name })).rejects.toMatchObject({
          code: -38,
          message: expect.stringMatching(/Ceph's libraries cannot be used: .*librbd1/),
        });
      }
      expect(await daemon.rpc.call('bdev_malloc_create', { name: 'Ram', num_blocks: 2048, block_size: 512 })).toBe(
        'Ram',
      );
      expect(await daemon.rpc.call('bdev_rbd_get_clusters_info', {})).toEqual([]);
      daemon.checkAlive();
    } finally {
      await daemon.close();
      rmSync(directory, { recursive: true });
    }
  },
);
