/**
 * A disk under workers that write their own blocks again and again, each time with a stamp that says which write it is,
 * and check what they read: whatever is lost, done twice or mixed up shows.
 */
import { BlkInitiator } from '../../src/initiator/blk-initiator.ts';
import type { SessionOptions } from '../../src/initiator/frontend-session.ts';
import { ScsiInitiator } from '../../src/initiator/scsi-initiator.ts';

const QUEUES = 2;
const WORKERS = 48;
const BLOCKS_PER_WORKER = 16;
const BLOCK_BYTES = 4096;
const SECTORS_PER_BLOCK = BLOCK_BYTES / 512;
/** A disk must have as many. */
export const STAMPED_BYTES = 16 << 20;

export interface StampedDisk {
  read(block: number, worker: number): Promise<Uint8Array>;
  write(block: number, data: Uint8Array, worker: number): Promise<void>;
  reconnect(): Promise<void>;
  /** Used elements that belong to no request. */
  unknownIds(): number;
  close(): void;
}

export async function connectBlk(path: string, options: SessionOptions): Promise<StampedDisk> {
  const disk = await BlkInitiator.connect(path, { ...options, queues: QUEUES });
  const shape = (worker: number) => ({ queue: worker % QUEUES });
  return {
    read: (block, worker) => disk.read(block * SECTORS_PER_BLOCK, BLOCK_BYTES, shape(worker)),
    write: (block, data, worker) => disk.write(block * SECTORS_PER_BLOCK, data, shape(worker)),
    reconnect: () => disk.reconnect(),
    unknownIds: () => disk.queues.reduce((sum, queue) => sum + queue.unknownIds, 0),
    close: () => disk.close(),
  };
}

export async function connectScsi(path: string, options: SessionOptions): Promise<StampedDisk> {
  const host = await ScsiInitiator.connect(path, { ...options, requestQueues: QUEUES });
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

export class StampedLoad {
  reads = 0;
  writes = 0;
  /** The longest that a request took, in milliseconds. */
  longestMs = 0;
  /** Writes that each block has seen. */
  readonly #generations = new Uint32Array(WORKERS * BLOCKS_PER_WORKER);
  readonly #disk: StampedDisk;
  readonly #workers: Promise<void>[];
  #isStopping = false;

  constructor(disk: StampedDisk) {
    this.#disk = disk;
    this.#workers = Array.from({ length: WORKERS }, (_, worker) => this.#work(worker));
    // Told by `stop`.
    for (const worker of this.#workers) worker.catch(() => {});
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await Promise.all(this.#workers);
  }

  /** Compares every block. */
  async verify(): Promise<void> {
    for (let block = 0; block < this.#generations.length; block++) await this.#check(block);
  }

  async #check(block: number): Promise<void> {
    const worker = Math.floor(block / BLOCKS_PER_WORKER);
    const generation = this.#generations[block] as number;
    const found = await this.#timed(this.#disk.read(block, worker));
    this.reads++;
    if (Buffer.compare(found, contentOf(block, generation)) === 0) return;
    const words = new Uint32Array(found.slice().buffer);
    throw new Error(`block ${block} holds write ${words[1]}, not ${generation}`);
  }

  async #work(worker: number): Promise<void> {
    while (!this.#isStopping) {
      const block = worker * BLOCKS_PER_WORKER + Math.floor(Math.random() * BLOCKS_PER_WORKER);
      if (Math.random() < 0.3) {
        await this.#check(block);
        continue;
      }
      const generation = (this.#generations[block] as number) + 1;
      await this.#timed(this.#disk.write(block, contentOf(block, generation), worker));
      this.#generations[block] = generation;
      this.writes++;
    }
  }

  async #timed<T>(request: Promise<T>): Promise<T> {
    const start = performance.now();
    const result = await request;
    this.longestMs = Math.max(this.longestMs, performance.now() - start);
    return result;
  }
}
