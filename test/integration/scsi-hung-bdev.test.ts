/**
 * A disk that hangs: a file on a file system that is frozen. Its removal is answered in time, nobody else notices, and
 * what it holds ends when it comes back.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { ScsiResponse } from '../../src/virtio/scsi.ts';
import { whyNoLoopDevices } from '../e2e/requirements.ts';
import { MIB } from './blk-case-helpers.ts';
import { attentions, BLOCK_BYTES, CTRLR, read10, ScsiBench, TEST_UNIT_READY, write10 } from './scsi-bench.ts';

const DISK_BYTES = 8 * MIB;
/** A request waits for the thaw: longer than the deadline of a removal. */
const HUNG_MS_MAX = 60_000;
/** For what comes soon, on a machine that may be busy. */
const WAIT = { timeout: 30_000 };
const HUNG = 0;
const OTHER = 1;

describe.skipIf(whyNoLoopDevices() !== null)('a bdev that hangs', () => {
  let bench: ScsiBench;
  let directory: string;
  let mountPoint: string;
  let host: ScsiInitiator;
  let isFrozen = false;

  const run = (command: string, ...args: readonly string[]) => void execFileSync(command, args);
  function freeze(): void {
    run('fsfreeze', '--freeze', mountPoint);
    isFrozen = true;
  }
  function thaw(): void {
    if (isFrozen) run('fsfreeze', '--unfreeze', mountPoint);
    isFrozen = false;
  }

  beforeAll(async () => {
    bench = await ScsiBench.start();
    directory = mkdtempSync(join(tmpdir(), 'ringhost-hung-'));
    const image = join(directory, 'image');
    mountPoint = join(directory, 'mount');
    mkdirSync(mountPoint);
    writeFileSync(image, '');
    truncateSync(image, 8 * DISK_BYTES);
    run('mkfs.ext4', '-q', '-F', image);
    run('mount', '-o', 'loop', image, mountPoint);
  });

  afterAll(async () => {
    await bench?.close();
    run('umount', mountPoint);
    rmSync(directory, { recursive: true });
  });

  beforeEach(async () => {
    const filename = join(mountPoint, 'disk');
    writeFileSync(filename, new Uint8Array(DISK_BYTES));
    const { rpc } = bench.daemon;
    await rpc.call('bdev_uring_create', { name: 'Hung', filename, block_size: BLOCK_BYTES });
    const params = { ctrlr: CTRLR, scsi_target_num: HUNG, bdev_name: 'Hung' };
    await rpc.call('vhost_scsi_controller_add_target', params);
    await bench.addDisk('Other', OTHER);
    host = await bench.connect({ timeoutMs: HUNG_MS_MAX });
    for (const target of [HUNG, OTHER]) await attentions(host, { target });
  });

  afterEach(async () => {
    thaw();
    await bench.clear();
  });

  const writeToHung = () =>
    host.command({ target: HUNG, cdb: write10(8, 1), out: new Uint8Array(BLOCK_BYTES).fill(7) });

  const tasksInFlight = async () => {
    const [controller] = await bench.daemon.rpc.call('vhost_get_controllers', { name: CTRLR });
    return controller?.sessions[0]?.inflight_task_cnt ?? 0;
  };

  test.each([
    ['a target', () => bench.removeTarget(HUNG)],
    ['a bdev', () => bench.daemon.rpc.call('delete_bdev', { name: 'Hung' })],
  ] as const)('lets the removal of %s be answered, and goes when it is back', async (_what, remove) => {
    expect((await writeToHung()).status).toBe(0);
    await expect.poll(tasksInFlight, WAIT).toBe(0);
    freeze();
    let hasEnded = false;
    const hung = writeToHung().finally(() => {
      hasEnded = true;
    });
    // A command that comes after the removal is refused, and nothing hangs.
    await expect.poll(tasksInFlight, WAIT).toBe(1);
    const removal = remove().then(
      () => 'removed',
      (error: Error) => error.message,
    );
    await expect
      .poll(async () => (await host.command({ target: HUNG, cdb: TEST_UNIT_READY })).response, WAIT)
      .toBe(ScsiResponse.BAD_TARGET);
    for (;;) {
      const read = await host.command({ target: OTHER, cdb: read10(0, 1), inBytes: BLOCK_BYTES });
      expect(read).toMatchObject({ response: 0, status: 0 });
      const end = await Promise.race([removal, sleep(20)]);
      if (end !== undefined) break;
    }
    expect(await removal).toContain('Connection timed out');
    expect(hasEnded).toBe(false);
    thaw();
    expect((await hung).response).toBe(ScsiResponse.ABORTED);
    await expect
      .poll(
        async () => (await bench.daemon.rpc.call('vhost_get_controllers', { name: CTRLR }))[0]?.backend_specific,
        WAIT,
      )
      .toMatchObject({ scsi: [{ id: OTHER }] });
  });
});
