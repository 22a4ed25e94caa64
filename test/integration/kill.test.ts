/**
 * The daemon is killed under load, again and again, and started anew: the driver waits, and then everything it asked
 * for is done, once, and in no other order than it saw. RINGHOST_KILLS is how often, each; docs/reliability.md has the
 * figures of a long run.
 */
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';
import { waitUntil } from '../e2e/wait.ts';
import { RinghostDaemon } from './fixtures/targets.ts';

const KILLS = Number(process.env.RINGHOST_KILLS ?? 4);
/** Where the disk is so fast that nothing was in flight at any of the kills: this many times as many at most. */
const FUTILE_FACTOR_MAX = 10;
const KILL_MS_MAX = 60_000;
const QUEUES = 2;
const WORKERS = 48;
const BLOCKS_PER_WORKER = 16;
const BLOCK_BYTES = 4096;
const SECTORS_PER_BLOCK = BLOCK_BYTES / 512;
const DISK_BYTES = 16 << 20;
/** A kill comes this long after the driver was served again: some while what was left is still being done. */
const LIFE_MS_MAX = 150;
/** A file system on a disk, with O_DIRECT where it can. */
const ON_DISK = join(import.meta.dirname, '..', '..', 'build');

interface Disk {
  read(block: number, worker: number): Promise<Uint8Array>;
  write(block: number, data: Uint8Array, worker: number): Promise<void>;
  reconnect(): Promise<void>;
  /** Used elements that belong to no request. */
  unknownIds(): number;
  close(): void;
}

/** As a virtual machine that waits as long as it takes. */
const OPTIONS = { keepsRequests: true, timeoutMs: KILL_MS_MAX };

async function connectBlk(path: string, isPacked: boolean): Promise<Disk> {
  const disk = await BlkInitiator.connect(path, { ...OPTIONS, isPacked, queues: QUEUES });
  const shape = (worker: number) => ({ queue: worker % QUEUES });
  return {
    read: (block, worker) => disk.read(block * SECTORS_PER_BLOCK, BLOCK_BYTES, shape(worker)),
    write: (block, data, worker) => disk.write(block * SECTORS_PER_BLOCK, data, shape(worker)),
    reconnect: () => disk.reconnect(),
    unknownIds: () => disk.queues.reduce((sum, queue) => sum + queue.unknownIds, 0),
    close: () => disk.close(),
  };
}

async function connectScsi(path: string, isPacked: boolean): Promise<Disk> {
  const host = await ScsiInitiator.connect(path, { ...OPTIONS, isPacked, requestQueues: QUEUES });
  const cdb = (opcode: number, block: number) => {
    const sector = block * SECTORS_PER_BLOCK;
    return [opcode, 0, 0, 0, sector >> 8, sector & 0xff, 0, 0, SECTORS_PER_BLOCK, 0];
  };
  return {
    read: (block, worker) => host.good({ cdb: cdb(0x28, block), inBytes: BLOCK_BYTES, queue: worker % QUEUES }),
    write: async (block, data, worker) => {
      await host.good({ cdb: cdb(0x2a, block), out: data, queue: worker % QUEUES });
    },
    reconnect: () => host.reconnect(),
    unknownIds: () => host.queues.reduce((sum, queue) => sum + queue.unknownIds, 0),
    close: () => host.close(),
  };
}

/** What a block holds after so many writes. */
function contentOf(block: number, generation: number): Uint8Array {
  const words = new Uint32Array(BLOCK_BYTES / 4);
  if (generation > 0) for (let i = 0; i < words.length; i += 2) words.set([block * 65_537 + i, generation], i);
  return new Uint8Array(words.buffer);
}

/** Workers that write their own blocks again and again, and check what they read. */
class Load {
  readonly generations = new Uint32Array(WORKERS * BLOCKS_PER_WORKER);
  reads = 0;
  writes = 0;
  readonly #disk: Disk;
  readonly #workers: Promise<void>[];
  #isStopping = false;

  constructor(disk: Disk) {
    this.#disk = disk;
    this.#workers = Array.from({ length: WORKERS }, (_, worker) => this.#work(worker));
    // Told by `stop`.
    for (const worker of this.#workers) worker.catch(() => {});
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await Promise.all(this.#workers);
  }

  async check(block: number): Promise<void> {
    const worker = Math.floor(block / BLOCKS_PER_WORKER);
    const generation = this.generations[block] as number;
    const found = await this.#disk.read(block, worker);
    this.reads++;
    if (Buffer.compare(found, contentOf(block, generation)) === 0) return;
    const words = new Uint32Array(found.slice().buffer);
    throw new Error(`block ${block} holds write ${words[1]}, not ${generation}`);
  }

  async #work(worker: number): Promise<void> {
    while (!this.#isStopping) {
      const block = worker * BLOCKS_PER_WORKER + Math.floor(Math.random() * BLOCKS_PER_WORKER);
      if (Math.random() < 0.3) {
        await this.check(block);
        continue;
      }
      const generation = (this.generations[block] as number) + 1;
      await this.#disk.write(block, contentOf(block, generation), worker);
      this.generations[block] = generation;
      this.writes++;
    }
  }
}

/** Requests that the log says were taken up. */
function takenUp(log: string): number {
  return [...log.matchAll(/takes up (\d+) requests/g)].reduce((sum, [, count]) => sum + Number(count), 0);
}

function configOf(kind: 'blk' | 'scsi', filename: string) {
  const bdev = { method: 'bdev_aio_create', params: { name: 'Disk', filename } };
  const blk = [{ method: 'vhost_create_blk_controller', params: { ctrlr: 'disk', dev_name: 'Disk' } }];
  const scsi = [
    { method: 'vhost_create_scsi_controller', params: { ctrlr: 'disk', delay: true } },
    { method: 'vhost_scsi_controller_add_target', params: { ctrlr: 'disk', scsi_target_num: 0, bdev_name: 'Disk' } },
    { method: 'vhost_start_scsi_controller', params: { ctrlr: 'disk' } },
  ];
  return {
    subsystems: [
      { subsystem: 'bdev', config: [bdev] },
      { subsystem: `vhost_${kind}`, config: kind === 'blk' ? blk : scsi },
    ],
  };
}

test.each([
  ['blk', 'split', connectBlk],
  ['scsi', 'split', connectScsi],
  ['blk', 'packed', connectBlk],
  ['scsi', 'packed', connectScsi],
] as const)(
  'a %s disk with %s rings loses nothing and mixes nothing up when its daemon is killed under load',
  async (kind, layout, connect) => {
    const directory = mkdtempSync(join(ON_DISK, 'kill-'));
    const filename = join(directory, 'disk');
    writeFileSync(filename, '');
    truncateSync(filename, DISK_BYTES);
    const config = join(directory, 'config.json');
    writeFileSync(config, JSON.stringify(configOf(kind, filename)));
    const daemon = await RinghostDaemon.start(['-c', config]);
    const path = join(daemon.directory, 'disk');
    await waitUntil(() => existsSync(path), KILL_MS_MAX, 'controller');
    const disk = await connect(path, layout === 'packed');
    const load = new Load(disk);
    let requests = 0;
    let kills = 0;
    try {
      for (; kills < KILLS || (requests === 0 && kills < KILLS * FUTILE_FACTOR_MAX); kills++) {
        await sleep(Math.random() * LIFE_MS_MAX);
        requests += takenUp(daemon.log);
        await daemon.crash();
        await Promise.all([daemon.restart(), disk.reconnect()]);
      }
      requests += takenUp(daemon.log);
      await load.stop();
      for (let block = 0; block < load.generations.length; block++) await load.check(block);
      expect(disk.unknownIds()).toBe(0);
      expect(load.writes).toBeGreaterThan(kills);
      // Otherwise nothing was in flight when it was killed, and nothing was tested.
      expect(requests).toBeGreaterThan(0);
      const counts = `${load.writes} writes, ${load.reads} reads checked, ${requests} requests taken up`;
      console.log(`${kind}, ${layout}: ${kills} kills, ${counts}`);
      disk.close();
      await daemon.close();
    } catch (error) {
      console.log(`--- the daemon's log\n${daemon.log}`);
      await daemon.crash();
      throw error;
    } finally {
      disk.close();
      rmSync(directory, { recursive: true });
    }
  },
  60_000 + KILLS * FUTILE_FACTOR_MAX * KILL_MS_MAX,
);
