/**
 * Rings that are stopped while requests wait for a limit of their disk, by a front-end that has acked
 * GET_VRING_BASE_INFLIGHT: these stay in the in-flight region, and whoever takes the rings up does each of them, once.
 */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { assert } from '../../src/base/assert.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { type SessionOptions, STORAGE_PROTOCOL_FEATURES } from '../../src/initiator/frontend-session.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { allowedCores } from '../../src/sys/thread.ts';
import { maskOf, ProtocolFeature } from '../../src/vhost-user/messages.ts';
import { turns, until } from '../support/waiting.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const REQUESTS = 64;
const BLOCK_BYTES = 4096;
const SECTORS = BLOCK_BYTES / 512;
/** So slow that nearly all wait when the rings are stopped: to end them would take six seconds. */
const PER_S = 10;
const TIMEOUT_MS = 60_000;
const KINDS = ['blk', 'scsi'] as const;
const FEATURES = STORAGE_PROTOCOL_FEATURES | maskOf(ProtocolFeature.GET_VRING_BASE_INFLIGHT);

interface Disk {
  readonly initiator: BlkInitiator | ScsiInitiator;
  write(block: number, data: Uint8Array): Promise<unknown>;
}

const directory = mkdtempSync(join(import.meta.dirname, '..', '..', 'build', 'left-'));
const fileOf = (kind: string): string => join(directory, kind);
let daemon: RinghostDaemon;

beforeAll(async () => {
  for (const kind of KINDS) {
    writeFileSync(fileOf(kind), '');
    truncateSync(fileOf(kind), REQUESTS * BLOCK_BYTES);
  }
  const bdevs = KINDS.map((name) => ({ method: 'bdev_aio_create', params: { name, filename: fileOf(name) } }));
  const blk = { method: 'vhost_create_blk_controller', params: { ctrlr: 'blk', dev_name: 'blk' } };
  const scsi = [
    { method: 'vhost_create_scsi_controller', params: { ctrlr: 'scsi' } },
    { method: 'vhost_scsi_controller_add_target', params: { ctrlr: 'scsi', scsi_target_num: 0, bdev_name: 'scsi' } },
  ];
  const subsystems = [
    { subsystem: 'bdev', config: bdevs },
    { subsystem: 'vhost_blk', config: [blk] },
    { subsystem: 'vhost_scsi', config: scsi },
  ];
  const config = join(directory, 'config.json');
  writeFileSync(config, JSON.stringify({ subsystems }));
  const cores = allowedCores().slice(0, 2);
  assert(cores.length === 2, 'these tests need two cores');
  daemon = await RinghostDaemon.start(['-m', `[${cores}]`, '-c', config]);
  await daemon.rpc.call('framework_wait_init');
});

afterAll(async () => {
  await daemon.close();
  rmSync(directory, { recursive: true });
});

async function connect(kind: (typeof KINDS)[number], options: SessionOptions): Promise<Disk> {
  const path = join(daemon.directory, kind);
  const all = { keepsRequests: true, timeoutMs: TIMEOUT_MS, protocolFeatures: FEATURES, ...options };
  if (kind === 'blk') {
    const initiator = await BlkInitiator.connect(path, { ...all, queues: 2 });
    return { initiator, write: (block, data) => initiator.write(block * SECTORS, data, { queue: block % 2 }) };
  }
  const initiator = await ScsiInitiator.connect(path, { ...all, requestQueues: 2 });
  await initiator.good({ cdb: [0, 0, 0, 0, 0, 0] });
  return {
    initiator,
    write: (block, out) =>
      initiator.good({ cdb: [0x2a, 0, 0, 0, 0, block * SECTORS, 0, 0, SECTORS, 0].map(byte), out, queue: block % 2 }),
  };
}

function byte(value: number, i: number, cdb: readonly number[]): number {
  return i === 4 ? (cdb[5] as number) >> 8 : value & 0xff;
}

/** Each block has content of its own. */
function contentOf(block: number, run: number): Uint8Array {
  return new Uint8Array(BLOCK_BYTES).fill(1 + ((block * 7 + run) % 255));
}

async function writesOf(name: string): Promise<number> {
  const { bdevs } = (await daemon.rpc.call('bdev_get_iostat', { name })) as { bdevs: { num_write_ops: number }[] };
  return bdevs[0]?.num_write_ops ?? 0;
}

/** Requests that the log says were taken up. */
function takenUp(): number {
  return [...daemon.log.matchAll(/takes up (\d+) requests/g)].reduce((sum, [, count]) => sum + Number(count), 0);
}

let runs = 0;

test.each([
  ['blk', 'split', 'the same'],
  ['blk', 'packed', 'the same'],
  ['scsi', 'split', 'the same'],
  ['scsi', 'packed', 'the same'],
  ['blk', 'packed', 'another'],
  ['scsi', 'split', 'another'],
] as const)(
  'a %s disk with %s rings stops with what waits, and %s daemon does it, once',
  async (kind, layout, next) => {
    const run = ++runs;
    const { initiator, write } = await connect(kind, { isPacked: layout === 'packed' });
    const [before, takenBefore] = [await writesOf(kind), takenUp()];
    await daemon.rpc.call('bdev_set_qos_limit', { name: kind, rw_ios_per_sec: PER_S, burst_ms: 1 });
    let done = 0;
    const all = Array.from({ length: REQUESTS }, async (_, block) => {
      await write(block, contentOf(block, run));
      done++;
    });
    // Not before the daemon has seen them: what it has not, stays in the ring and waits for nothing.
    await until(() => done > 1, 'two writes');
    await initiator.stop();
    await turns();
    const doneBefore = done;
    expect(doneBefore).toBeLessThan(REQUESTS / 2);
    if (next === 'another') {
      // The reply was its last word.
      await daemon.crash();
      await daemon.restart();
      await daemon.rpc.call('framework_wait_init');
      await initiator.reconnect();
    } else {
      expect(await writesOf(kind)).toBe(before + doneBefore);
      await daemon.rpc.call('bdev_set_qos_limit', { name: kind, rw_ios_per_sec: 0 });
      await initiator.start();
    }
    await Promise.all(all);
    expect(await writesOf(kind)).toBe(next === 'another' ? REQUESTS - doneBefore : before + REQUESTS);
    // The log comes through a pipe of its own. What was still in the ring at the stop is left there, not taken up.
    const taken = () => takenUp() - (next === 'another' ? 0 : takenBefore);
    await expect.poll(taken).toBeGreaterThan(0);
    expect(taken()).toBeLessThanOrEqual(REQUESTS - doneBefore);
    const bytes = readFileSync(fileOf(kind));
    for (let block = 0; block < REQUESTS; block++) {
      const found = bytes.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
      expect(Buffer.compare(found, contentOf(block, run))).toBe(0);
    }
    expect(initiator.session.queues.filter(({ unknownIds }) => unknownIds > 0)).toEqual([]);
    initiator.close();
  },
);

test('a front-end that did not ack it has its requests carried out before its rings are stopped', async () => {
  const { initiator, write } = await connect('blk', { protocolFeatures: STORAGE_PROTOCOL_FEATURES });
  await daemon.rpc.call('bdev_set_qos_limit', { name: 'blk', rw_ios_per_sec: 100, burst_ms: 1 });
  let done = 0;
  const all = Array.from({ length: REQUESTS }, async (_, block) => {
    await write(block, contentOf(block, 0));
    done++;
  });
  await until(() => done > 1, 'two writes');
  const doneBefore = done;
  const bases = await initiator.stop();
  await turns();
  const taken = bases.reduce((sum, base) => sum + base, 0);
  expect(taken).toBeGreaterThan(doneBefore);
  expect(done).toBe(taken);
  await initiator.start();
  await Promise.all(all);
  initiator.close();
});
