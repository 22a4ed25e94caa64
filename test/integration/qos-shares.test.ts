/** Several guests at one disk with limits: each gets what is its, whatever it asks for and wherever its queues run. */
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { assert } from '../../src/base/assert.ts';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { allowedCores } from '../../src/sys/thread.ts';
import { until } from '../support/waiting.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const BLOCK = 512;
const BLOCKS = 8192;
/** Room for 128 requests of three buffers each. */
const OPTIONS = { queueSize: 512, timeoutMs: 60_000 };

const [low, high] = allowedCores() as [number, number];
let daemon: RinghostDaemon;
const guests: Guest[] = [];

beforeAll(async () => {
  assert(high !== undefined, 'these tests need two cores');
  daemon = await RinghostDaemon.start(['-m', `[${low},${high}]`]);
});
afterAll(() => daemon.close());

beforeEach(() => daemon.rpc.call('bdev_malloc_create', { name: 'Disk', block_size: BLOCK, num_blocks: BLOCKS }));
afterEach(async () => {
  for (const guest of guests.splice(0)) guest.close();
  for (const { ctrlr } of await daemon.rpc.call('vhost_get_controllers')) {
    await daemon.rpc.call('vhost_delete_controller', { ctrlr, force: true });
  }
  const bdevs = await daemon.rpc.call('bdev_get_bdevs');
  if (bdevs.some(({ name }) => name === 'Disk')) await daemon.rpc.call('delete_bdev', { name: 'Disk' });
});

interface GuestShape {
  readonly core?: number;
  readonly weight?: number;
  readonly disk?: string;
}

interface Guest {
  read(): Promise<unknown>;
  close(): void;
}

async function limit(ios: number): Promise<void> {
  await daemon.rpc.call('bdev_set_qos_limit', { name: 'Disk', rw_ios_per_sec: ios, burst_ms: 1 });
}

async function connect(
  ctrlr: string,
  { core = low, weight, disk = 'Disk' }: GuestShape = {},
): Promise<Guest & { readonly initiator: BlkInitiator }> {
  await daemon.rpc.call('vhost_create_blk_controller', { ctrlr, dev_name: disk, cpumask: `[${core}]` });
  if (weight !== undefined) await daemon.rpc.call('vhost_controller_set_qos_weight', { ctrlr, weight });
  const initiator = await BlkInitiator.connect(join(daemon.directory, ctrlr), OPTIONS);
  const guest = { initiator, read: () => initiator.read(0, BLOCK), close: () => initiator.close() };
  guests.push(guest);
  return guest;
}

/** Keeps so many requests under way, and counts those that end. */
class Load {
  count = 0;
  readonly #lanes: Promise<void>[];
  #isOver = false;

  constructor(guest: Guest, depth: number) {
    const lane = async (): Promise<void> => {
      while (!this.#isOver) {
        await guest.read();
        this.count++;
      }
    };
    this.#lanes = Array.from({ length: depth }, lane);
    // `stop` says so, unless the test has failed already.
    for (const each of this.#lanes) each.catch(() => {});
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#lanes);
  }
}

/** What part of so many requests that end from now on is the first one's. */
async function partOf(total: number, ...loads: readonly Load[]): Promise<number> {
  const counts = (): number[] => loads.map(({ count }) => count);
  const before = counts();
  const done = (): number[] => counts().map((count, i) => count - (before[i] ?? 0));
  const sum = (): number => done().reduce((all, count) => all + count, 0);
  await until(() => sum() >= total, 'requests');
  return (done()[0] ?? 0) / sum();
}

async function inFlight(name: string): Promise<number> {
  const [controller] = await daemon.rpc.call('vhost_get_controllers', { name });
  return controller?.sessions[0]?.inflight_task_cnt ?? 0;
}

describe.each([
  ['on one reactor', low],
  ['on two reactors', high],
])('guests at a disk with a limit, %s', (_, core) => {
  it('that has 128 requests under way does not starve one that has one', async () => {
    await limit(100);
    const loads = [new Load(await connect('one'), 1), new Load(await connect('many', { core }), 128)];
    // Half of it when this machine has time for both; in the order in which they came it would be one of 129.
    expect(await partOf(100, ...loads)).toBeGreaterThan(0.2);
    await limit(0);
    for (const load of loads) await load.stop();
  });

  it('get as much as others, or as their weights say, from when these are set on', async () => {
    await limit(500);
    const loads = [new Load(await connect('light'), 64), new Load(await connect('heavy', { core }), 64)];
    expect(Math.abs((await partOf(400, ...loads)) - 0.5)).toBeLessThan(0.1);
    await daemon.rpc.call('vhost_controller_set_qos_weight', { ctrlr: 'heavy', weight: 300 });
    expect(Math.abs((await partOf(400, ...loads)) - 0.25)).toBeLessThan(0.1);
    const shown = await daemon.rpc.call('vhost_get_controllers');
    expect(shown.map(({ ctrlr, qos_weight }) => [ctrlr, qos_weight])).toEqual([
      ['light', 100],
      ['heavy', 300],
    ]);
    await limit(0);
    for (const load of loads) await load.stop();
  });

  it('share what is under the disks that they have for themselves', async () => {
    await daemon.rpc.call('bdev_split_create', { base_bdev: 'Disk', split_count: 2 });
    await limit(500);
    const loads = [
      new Load(await connect('light', { disk: 'Diskp0' }), 64),
      new Load(await connect('heavy', { disk: 'Diskp1', core, weight: 300 }), 64),
    ];
    expect(Math.abs((await partOf(400, ...loads)) - 0.25)).toBeLessThan(0.1);
    await limit(0);
    for (const load of loads) await load.stop();
  });
});

describe('a guest at a disk with a limit', () => {
  it('shares it with those of another kind', async () => {
    await limit(500);
    const blk = new Load(await connect('blk'), 64);
    await daemon.rpc.call('vhost_create_scsi_controller', { ctrlr: 'scsi', cpumask: `[${high}]` });
    await daemon.rpc.call('vhost_scsi_controller_add_target', { ctrlr: 'scsi', scsi_target_num: 0, bdev_name: 'Disk' });
    await daemon.rpc.call('vhost_controller_set_qos_weight', { ctrlr: 'scsi', weight: 300 });
    const initiator = await ScsiInitiator.connect(join(daemon.directory, 'scsi'), OPTIONS);
    const at = { target: 0, lun: 0 };
    const cdb = Uint8Array.of(0x08, 0, 0, 0, 1, 0);
    // It says first that it was reset.
    await initiator.command({ ...at, cdb: new Uint8Array(6) });
    const guest = { read: () => initiator.good({ ...at, cdb, inBytes: BLOCK }), close: () => initiator.close() };
    guests.push(guest);
    const scsi = new Load(guest, 64);
    expect(Math.abs((await partOf(400, blk, scsi)) - 0.25)).toBeLessThan(0.1);
    await limit(0);
    for (const load of [blk, scsi]) await load.stop();
  });

  it('is stopped when its requests have had their turn, while others go on', async () => {
    await limit(100);
    const other = new Load(await connect('other', { core: high }), 4);
    const { initiator } = await connect('stopped');
    const reads = Array.from({ length: 8 }, () => initiator.read(0, BLOCK));
    while ((await inFlight('stopped')) < 4);
    const [base] = await initiator.session.stop();
    expect(base).toBe(8);
    expect((await Promise.all(reads)).map(({ length }) => length)).toEqual(reads.map(() => BLOCK));
    await limit(0);
    await other.stop();
  });

  it('sees its requests end when the disk is deleted, not when they would have had their turn', async () => {
    // At this rate it would take two minutes.
    await limit(1);
    const reads = [await connect('a'), await connect('b', { core: high })].flatMap((guest) => {
      return Array.from({ length: 64 }, () => guest.read().catch((error: Error) => error));
    });
    while ((await inFlight('a')) + (await inFlight('b')) < 120);
    await daemon.rpc.call('delete_bdev', { name: 'Disk' });
    expect(await Promise.all(reads)).toHaveLength(128);
  });

  it('leaves what it does not use to the others', async () => {
    await limit(500);
    const busy = new Load(await connect('busy', { core: high }), 32);
    const msOf = async (): Promise<number> => {
      const start = performance.now();
      await partOf(300, busy);
      return performance.now() - start;
    };
    const alone = await msOf();
    await (await connect('idle', { weight: 10_000 })).read();
    // By its weight it could have a hundred times as much.
    expect((await msOf()) / alone).toBeLessThan(10);
    await limit(0);
    await busy.stop();
  });
});
