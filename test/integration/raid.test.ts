/**
 * Mirrors in a daemon, under verified load from two queues on two reactors: it is killed, upgraded, loses legs and gets
 * new ones. At the end the legs' files are compared. RINGHOST_KILLS is how often it is killed.
 */
import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, onTestFailed, test } from 'vitest';
import type { Result } from '../../src/rpc/methods.ts';
import { allowedCores } from '../../src/sys/thread.ts';
import { waitUntil } from '../e2e/wait.ts';
import { FakeNbdServer } from '../support/fake-nbd-server.ts';
import { connectBlk, STAMPED_BYTES, StampedLoad } from '../support/stamped-load.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const KILLS = Number(process.env['RINGHOST_KILLS'] ?? 2);
const LIFE_MS_MAX = 150;
const LONG_MS = 120_000;
const ON_DISK = join(import.meta.dirname, '..', '..', 'build');
const RINGHOST = join(import.meta.dirname, '..', '..', 'bin', 'ringhost');
/** Before the data. */
const SUPERBLOCK_BYTES = 2 ** 20;
const REACTORS = allowedCores().slice(0, 2).join(',');

let directory: string;
let daemon: RinghostDaemon;

beforeEach(async () => {
  directory = mkdtempSync(join(ON_DISK, 'raid-'));
  daemon = await RinghostDaemon.start(['-m', REACTORS, '--state-dir', join(directory, 'state')]);
  onTestFailed(() => console.log(`--- the daemon's log\n${daemon.log}`));
});

afterEach(async () => {
  await daemon.close();
  rmSync(directory, { recursive: true });
});

const fileOf = (name: string): string => join(directory, name);

async function makeLeg(name: string): Promise<void> {
  writeFileSync(fileOf(name), '');
  truncateSync(fileOf(name), STAMPED_BYTES + SUPERBLOCK_BYTES);
  await daemon.rpc.call('bdev_aio_create', { name, filename: fileOf(name), block_size: 512 });
}

async function makeMirror(bases: string[]): Promise<string> {
  await daemon.rpc.call('bdev_raid_create', { name: 'R', raid_level: 'raid1', base_bdevs: bases, superblock: true });
  await daemon.rpc.call('vhost_create_blk_controller', { ctrlr: 'disk', dev_name: 'R' });
  return join(daemon.directory, 'disk');
}

async function mirror(): Promise<Result<'bdev_raid_get_bdevs'>[number]> {
  const [raid] = await daemon.rpc.call('bdev_raid_get_bdevs', { category: 'all' });
  return raid as Result<'bdev_raid_get_bdevs'>[number];
}

async function untilInSync(count: number): Promise<void> {
  const isSo = async (): Promise<boolean> => {
    const { num_base_bdevs_operational: operational, process } = await mirror();
    return operational === count && process === undefined;
  };
  await waitUntil(isSo, LONG_MS, `${count} legs in sync`);
}

/** A command that goes on meanwhile. */
function begin(...args: readonly string[]) {
  const child = spawn(RINGHOST, [...args, '-s', join(daemon.directory, 'rpc.sock')]);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
  }
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  return { output: () => text, ended, interrupt: () => child.kill('SIGINT') };
}

function expectSame(one: string, other: string): void {
  const [a, b] = [readFileSync(fileOf(one)), readFileSync(fileOf(other))];
  expect(Buffer.compare(a.subarray(SUPERBLOCK_BYTES), b.subarray(SUPERBLOCK_BYTES))).toBe(0);
}

/** Takes the mirror apart. */
async function expectSameLegs(disk: { close(): void }): Promise<void> {
  disk.close();
  await daemon.rpc.call('vhost_delete_controller', { ctrlr: 'disk', force: true });
  await daemon.rpc.call('bdev_raid_delete', { name: 'R' });
  expectSame('A', 'B');
}

test(
  'a mirror loses nothing when its daemon is killed under load, and its legs are made the same',
  async () => {
    for (const name of ['A', 'B']) await makeLeg(name);
    const path = await makeMirror(['A', 'B']);
    await untilInSync(2);
    const disk = await connectBlk(path, { keepsRequests: true, timeoutMs: LONG_MS });
    const load = new StampedLoad(disk);
    for (let kill = 0; kill < KILLS; kill++) {
      const before = load.writes;
      await waitUntil(() => load.writes > before, LONG_MS, 'writes');
      await sleep(Math.random() * LIFE_MS_MAX);
      await daemon.crash();
      await Promise.all([daemon.restart(), disk.reconnect()]);
    }
    await load.stop();
    await untilInSync(2);
    await load.verify();
    expect(disk.unknownIds()).toBe(0);
    const jobs = await daemon.rpc.call('bdev_get_jobs', {});
    console.log(`${KILLS} kills, ${load.writes} writes; rebuilt after the last: ${jobs[0]?.total_bytes ?? 0} bytes`);
    await expectSameLegs(disk);
  },
  LONG_MS * 5,
);

test(
  'a mirror goes on without a leg, through upgrade, kill and restart, and a new leg is rebuilt under load',
  async () => {
    const nbd = await FakeNbdServer.listen(STAMPED_BYTES + SUPERBLOCK_BYTES);
    await makeLeg('A');
    await daemon.rpc.call('bdev_nbd_create', { name: 'N', uri: nbd.uri, block_size: 512, reconnect_timeout_sec: 1 });
    const path = await makeMirror(['A', 'N']);
    const disk = await connectBlk(path, { keepsRequests: true, timeoutMs: LONG_MS });
    const load = new StampedLoad(disk);
    await untilInSync(2);
    await nbd.close();
    await untilInSync(1);
    const isFree = async (): Promise<boolean> => (await mirror()).base_bdevs_list[1]?.name === null;
    await waitUntil(isFree, LONG_MS, 'the end of what was in flight on the leg');
    expect(await mirror()).toMatchObject({ base_bdevs_list: [{ name: 'A' }, { state: 'failed', failures: 1 }] });
    expect(daemon.log).toMatch(/bdev R: leg 1 \(N\) is taken out: it failed a request; 1 in sync/);
    const written = load.writes;
    await waitUntil(() => load.writes > written, LONG_MS, 'writes');

    await daemon.crash();
    await Promise.all([daemon.restart(), disk.reconnect()]);
    expect((await mirror()).num_base_bdevs_operational).toBe(1);

    await makeLeg('B');
    await daemon.rpc.call('bdev_raid_set_options', { process_max_bandwidth_mb_sec: 1 });
    await daemon.rpc.call('bdev_raid_add_base_bdev', { raid_bdev: 'R', base_bdev: 'B' });
    expect(await mirror()).toMatchObject({ process: { type: 'rebuild', target: 'B', progress: {} } });
    await expect(daemon.upgrade()).rejects.toThrow(/rebuild of R\) is running/);
    const { output, ended } = begin('jobs', '--wait');
    await waitUntil(() => output().includes('rebuild R: '), LONG_MS, 'the first line');
    const running = (await daemon.rpc.call('bdev_get_jobs', {})).find(({ state }) => state === 'running');
    await daemon.rpc.call('bdev_job_set_options', { id: running?.id ?? 0, max_bandwidth_mb_sec: 0 });
    expect(await ended).toBe(0);
    expect(output()).toMatch(/^rebuild R: \d+ % of 16\.0 MiB/);
    expect(output()).toMatch(/rebuild R: 16\.0 MiB in \d+:\d\d\n$/);
    await untilInSync(2);

    // The NBD disk is not there, and in the way of nothing.
    const { pid } = daemon;
    await daemon.upgrade({ max_pause_ms: LONG_MS });
    expect(daemon.pid).not.toBe(pid);
    expect((await mirror()).num_base_bdevs_operational).toBe(2);
    const before = load.writes;
    await waitUntil(() => load.writes > before, LONG_MS, 'writes by the new daemon');
    await load.stop();
    await load.verify();
    await expectSameLegs(disk);
  },
  LONG_MS * 5,
);

test(
  'erase and copy show how far they are, and end the job when they are interrupted',
  async () => {
    for (const name of ['A', 'B']) await makeLeg(name);
    writeFileSync(fileOf('A'), Buffer.alloc(STAMPED_BYTES + SUPERBLOCK_BYTES, 7));
    const run = (...args: readonly string[]) =>
      promisify(execFile)(RINGHOST, [...args, '-s', join(daemon.directory, 'rpc.sock')]);
    const copied = await run('copy', 'A', 'B');
    expect(copied.stdout).toMatch(/^copy A → B: 17\.0 MiB in 0:\d\d\n$/);
    expect(readFileSync(fileOf('B')).equals(readFileSync(fileOf('A')))).toBe(true);
    await run('erase', 'B');
    expect(readFileSync(fileOf('B')).every((byte) => byte === 0)).toBe(true);
    await expect(run('erase', 'C')).rejects.toThrow(/ringhost erase: No such device: there is no bdev "C"/);

    const { output, ended, interrupt } = begin('copy', 'A', 'B', '--limit', '1');
    await waitUntil(() => output().includes('copy A → B: '), LONG_MS, 'the first line');
    interrupt();
    expect(await ended).toBe(130);
    expect(output()).toMatch(/copy A → B: cancelled at \d+ %/);
    expect((await daemon.rpc.call('bdev_get_jobs', {})).map(({ state }) => state)).toEqual([
      'done',
      'done',
      'cancelled',
    ]);
  },
  LONG_MS * 5,
);
