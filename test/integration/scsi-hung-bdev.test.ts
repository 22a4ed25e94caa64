/**
 * Disks that hang: files on a file system that is frozen. Their removal is answered in time, nobody else notices, and
 * what they hold ends when they come back.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { RpcClient } from '../../src/rpc/client.ts';
import { ScsiResponse } from '../../src/virtio/scsi.ts';
import { whyNoLoopDevices } from '../e2e/requirements.ts';
import { MIB } from './blk-case-helpers.ts';
import { attentions, BLOCK_BYTES, CTRLR, read10, ScsiBench, TEST_UNIT_READY, write10 } from './scsi-bench.ts';

const DISK_BYTES = 8 * MIB;
/** A request waits for the thaw: longer than the deadline of a removal. */
const HUNG_MS_MAX = 60_000;
/** For what comes soon, on a machine that may be busy. */
const WAIT = { timeout: 30_000 };
/** Of two disks: the first one's target is removed, the second one itself. */
const HUNG = [0, 2] as const;
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
    const { rpc } = bench.daemon;
    for (const target of HUNG) {
      const name = `Hung${target}`;
      const filename = join(mountPoint, name);
      writeFileSync(filename, new Uint8Array(DISK_BYTES));
      await rpc.call('bdev_uring_create', { name, filename, block_size: BLOCK_BYTES });
      const params = { ctrlr: CTRLR, scsi_target_num: target, bdev_name: name };
      await rpc.call('vhost_scsi_controller_add_target', params);
    }
    await bench.addDisk('Other', OTHER);
    host = await bench.connect({ timeoutMs: HUNG_MS_MAX });
    for (const target of [...HUNG, OTHER]) await attentions(host, { target });
  });

  afterEach(async () => {
    thaw();
    await bench.clear();
  });

  const writeToHung = () => {
    const write = (target: number) =>
      host.command({ target, cdb: write10(8, 1), out: new Uint8Array(BLOCK_BYTES).fill(7) });
    return Promise.all(HUNG.map(write));
  };

  const tasksInFlight = async () => {
    const [controller] = await bench.daemon.rpc.call('vhost_get_controllers', { name: CTRLR });
    return controller?.sessions[0]?.inflight_task_cnt ?? 0;
  };

  test('lets the removals of a target and of a bdev be answered, and both go when they are back', async () => {
    for (const { status } of await writeToHung()) expect(status).toBe(0);
    await expect.poll(tasksInFlight, WAIT).toBe(0);
    using second = await RpcClient.connect(join(bench.daemon.directory, 'rpc.sock'), { timeoutMs: HUNG_MS_MAX });
    freeze();
    let hasEnded = false;
    const hung = writeToHung().finally(() => {
      hasEnded = true;
    });
    await expect.poll(tasksInFlight, WAIT).toBe(HUNG.length);
    const outcomeOf = (removal: Promise<unknown>): Promise<string> =>
      removal.then(
        () => 'removed',
        (error: Error) => error.message,
      );
    const removals = Promise.all([
      outcomeOf(bench.removeTarget(HUNG[0])),
      outcomeOf(second.call('delete_bdev', { name: `Hung${HUNG[1]}` })),
    ]);
    // A command that comes after the removal is refused, and nothing hangs.
    for (const target of HUNG) {
      const answer = async () => (await host.command({ target, cdb: TEST_UNIT_READY })).response;
      await expect.poll(answer, WAIT).toBe(ScsiResponse.BAD_TARGET);
    }
    for (;;) {
      const read = await host.command({ target: OTHER, cdb: read10(0, 1), inBytes: BLOCK_BYTES });
      expect(read).toMatchObject({ response: 0, status: 0 });
      const end = await Promise.race([removals, sleep(20)]);
      if (end !== undefined) break;
    }
    for (const outcome of await removals) expect(outcome).toContain('Connection timed out');
    expect(hasEnded).toBe(false);
    thaw();
    for (const { response } of await hung) expect(response).toBe(ScsiResponse.ABORTED);
    await expect
      .poll(
        async () => (await bench.daemon.rpc.call('vhost_get_controllers', { name: CTRLR }))[0]?.backend_specific,
        WAIT,
      )
      .toMatchObject({ scsi: [{ id: OTHER }] });
  });
});
