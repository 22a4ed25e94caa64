/**
 * The client of every measurement of load: sessions, memory and rings by src/initiator, requests by the native loop
 * (native/bench/client.c), which polls in the calling thread.
 */
import { assert } from '../src/base/assert.ts';
import { TargetError } from '../src/base/errors.ts';
import { BlkInitiator, capacityBytes } from '../src/initiator/blk-initiator.ts';
import type { DriverQueue } from '../src/initiator/driver-queue.ts';
import { type SessionOptions, STORAGE_PROTOCOL_FEATURES } from '../src/initiator/frontend-session.ts';
import { LatencyHistogram } from '../src/initiator/latency-histogram.ts';
import { BlkProtocol, type LoadProtocol, ScsiProtocol } from '../src/initiator/load-protocol.ts';
import { OwnedMemory } from '../src/initiator/owned-memory.ts';
import { ScsiInitiator } from '../src/initiator/scsi-initiator.ts';
import { maskOf, ProtocolFeature } from '../src/vhost-user/messages.ts';
import { SECTOR_BYTES } from '../src/virtio/blk.ts';
import { VirtioFeature } from '../src/virtio/features.ts';
import { ScsiQueueIndex } from '../src/virtio/scsi.ts';
import {
  benchNative,
  CONFIG,
  Format,
  Mode,
  Protocol,
  pack,
  QUEUE,
  RESULT,
  SLOT_BYTES,
  STATUSES,
  unpack,
} from './native.ts';

export interface Load {
  readonly protocol: 'blk' | 'scsi';
  readonly format: 'direct' | 'indirect';
  /** On packed rings. Default: split ones. */
  readonly isPacked?: boolean;
  /** The target notes what is in flight (INFLIGHT_SHMFD). Default true. */
  readonly isTracked?: boolean;
  readonly queues: number;
  /** Requests in flight on each queue. */
  readonly depth: number;
  readonly blockBytes: number;
  readonly pattern: 'random' | 'sequential';
  readonly writePercent: number;
  /** How long the client sleeps when it has nothing to do, its core being a target too. Default: it polls. */
  readonly napNs?: number;
}

export interface LoadResult {
  readonly requests: number;
  readonly iops: number;
  /** Share of the time in which the client had something to do: near 1, the client was the limit. */
  readonly clientBusy: number;
  readonly kicks: number;
  readonly latency: LatencyHistogram;
}

const CHAIN_DESCRIPTORS = 3;
const QUEUE_SIZE_MIN = 128;
const STALL_NS = 5e9;
const NS_PER_MS = 1e6;
/** Blocks that `verify` writes and reads back. */
const VERIFY_BLOCKS = 512;
const MEMORY_SLACK_BYTES = 4 << 20;
const PAGE_BYTES = 4096;

interface Disk {
  readonly sizeBytes: number;
  readonly protocol: LoadProtocol;
  /** What a header counts in. */
  readonly unitBytes: number;
}

export class LoadClient {
  readonly #initiator: BlkInitiator | ScsiInitiator;
  readonly #load: Load;
  readonly #disk: Disk;
  readonly #queues: readonly DriverQueue[];
  readonly #queueFields: Float64Array;
  #seed = 1;

  private constructor(initiator: BlkInitiator | ScsiInitiator, load: Load, disk: Disk) {
    this.#initiator = initiator;
    this.#load = load;
    this.#disk = disk;
    this.#queues = load.protocol === 'blk' ? initiator.queues : initiator.queues.slice(ScsiQueueIndex.requestFirst);
    this.#queueFields = Float64Array.from(this.#queues.flatMap((queue) => Array.from(this.#prepare(queue))));
  }

  static async connect(path: string, load: Load): Promise<LoadClient> {
    const { queues, depth, blockBytes } = load;
    const chain = load.format === 'direct' ? CHAIN_DESCRIPTORS : 1;
    const queueSize = Math.max(QUEUE_SIZE_MIN, 2 ** Math.ceil(Math.log2(depth * chain)));
    const bytes = queues * depth * (SLOT_BYTES + blockBytes) + queues * queueSize * 32 + MEMORY_SLACK_BYTES;
    const memory = OwnedMemory.single(Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES);
    // Every page is there before anything is measured.
    for (const region of memory.regions) region.bytes.fill(0);
    const { isPacked = false, isTracked = true } = load;
    const untracked = STORAGE_PROTOCOL_FEATURES & ~maskOf(ProtocolFeature.INFLIGHT_SHMFD);
    const protocolFeatures = isTracked ? STORAGE_PROTOCOL_FEATURES : untracked;
    const options: SessionOptions = { queueSize, memory, isPacked, protocolFeatures };
    try {
      if (load.protocol === 'blk') {
        const initiator = await BlkInitiator.connect(path, { ...options, queues });
        const protocol = new BlkProtocol(blockBytes);
        const sizeBytes = capacityBytes(initiator.config);
        return new LoadClient(initiator, load, { sizeBytes, protocol, unitBytes: SECTOR_BYTES });
      }
      const initiator = await ScsiInitiator.connect(path, { ...options, requestQueues: queues });
      // Takes the unit attentions as well. READ CAPACITY(10): last block, block length.
      const answer = new DataView((await initiator.good(READ_CAPACITY)).slice().buffer);
      const unitBytes = answer.getUint32(4);
      const protocol = new ScsiProtocol(0, 0, blockBytes, unitBytes);
      return new LoadClient(initiator, load, { sizeBytes: (answer.getUint32(0) + 1) * unitBytes, protocol, unitBytes });
    } catch (error) {
      memory.close();
      throw error;
    }
  }

  /**
   * Writes stamps to blocks all over the disk and reads them back, through the queues, chains and buffers of the
   * measurement. Throws when a block does not read as it was written; returns how many were tried.
   */
  verify(): number {
    this.#seed++;
    const count = Math.min(VERIFY_BLOCKS, this.#blockCount);
    const written = this.#run(Mode.stamp, { count });
    const read = this.#run(Mode.check, { count });
    if (written.requests === count && read.requests === count && read.mismatches === 0) return count;
    throw new TargetError('EIO', `${read.mismatches} of ${count} blocks did not read as they were written`);
  }

  /** Writes every block, so that no page of the disk is touched first under measurement. */
  fill(): void {
    this.#run(Mode.stamp, { count: this.#blockCount });
  }

  /** Keeps the load up for a while. Throws when a request fails. */
  measure(durationMs: number, warmUpMs: number): LoadResult {
    this.#seed++;
    const result = this.#run(Mode.measure, { durationNs: durationMs * NS_PER_MS, warmUpNs: warmUpMs * NS_PER_MS });
    const { requests, elapsedNs, waitedNs, kicks, latency } = result;
    return { requests, iops: (requests / elapsedNs) * 1e9, clientBusy: 1 - waitedNs / elapsedNs, kicks, latency };
  }

  async close(): Promise<void> {
    await this.#initiator.stop();
    this.#initiator.close();
    this.#initiator.memory.close();
  }

  get #blockCount(): number {
    return Math.floor(this.#disk.sizeBytes / this.#load.blockBytes);
  }

  #prepare(queue: DriverQueue): Float64Array {
    const { depth, blockBytes } = this.#load;
    const { memory } = this.#initiator;
    const { ring } = queue;
    queue.pause();
    const control = memory.allocate(depth * SLOT_BYTES, { alignment: PAGE_BYTES });
    const data = memory.allocate(depth * blockBytes, { alignment: PAGE_BYTES });
    const bytes = memory.bytes(control, depth * SLOT_BYTES);
    for (let slot = 0; slot < depth; slot++) this.#disk.protocol.prepare(bytes, slot * SLOT_BYTES);
    return pack(QUEUE, {
      descriptors: memory.userAddressOf(ring.descriptorAddress),
      available: memory.userAddressOf(ring.availableAddress),
      used: memory.userAddressOf(ring.usedAddress),
      size: ring.size,
      nextAvail: ring.nextAvail,
      nextUsed: ring.nextUsed,
      kickFd: queue.kickFd,
      control: memory.userAddressOf(control),
      data: memory.userAddressOf(data),
    });
  }

  #run(mode: number, limit: { count?: number; durationNs?: number; warmUpNs?: number }) {
    const { session, memory } = this.#initiator;
    const { protocol, format, isPacked = false, depth, blockBytes, pattern, writePercent, napNs = 0 } = this.#load;
    const region = memory.regions[0];
    assert(region !== undefined && memory.regions.length === 1, 'the client has one region of memory');
    const config = pack(CONFIG, {
      mode,
      protocol: Protocol[protocol],
      format: Format[`${isPacked ? 'packed' : 'split'}${format === 'direct' ? 'Direct' : 'Indirect'}`],
      hasEventIdx: session.hasFeature(VirtioFeature.EVENT_IDX) ? 1 : 0,
      guestMinusHost: region.guestAddress - region.userAddress,
      depth,
      blockBytes,
      blockCount: this.#blockCount,
      unitsPerBlock: blockBytes / this.#disk.unitBytes,
      isSequential: pattern === 'sequential' ? 1 : 0,
      writePercent,
      warmUpNs: limit.warmUpNs ?? 0,
      durationNs: limit.durationNs ?? 0,
      count: limit.count ?? 0,
      seed: this.#seed,
      stallNs: STALL_NS,
      napNs,
    });
    const latency = new LatencyHistogram();
    const statuses = new Float64Array(STATUSES);
    const out = new Float64Array(RESULT.length);
    const outcome = benchNative.clientRun(
      config,
      this.#queueFields,
      this.#queues.length,
      latency.counts,
      statuses,
      out,
    );
    this.#queues.forEach((queue, i) => {
      const fields = unpack(QUEUE, this.#queueFields.subarray(i * QUEUE.length));
      queue.ring.resume(fields.nextAvail, fields.nextUsed);
    });
    if (outcome < 0) throw new TargetError('EIO', `the target broke off: ${OUTCOMES[outcome] ?? outcome}`);
    const result = unpack(RESULT, out);
    if (result.errors > 0) throw new TargetError('EIO', `${result.errors} requests failed (${describe(statuses)})`);
    latency.count = latency.counts.reduce((sum, count) => sum + count, 0);
    latency.sumNs = result.sumNs;
    latency.minNs = result.minNs;
    latency.maxNs = result.maxNs;
    return { ...result, latency };
  }
}

const READ_CAPACITY = { target: 0, cdb: [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], inBytes: 8 };
/** What the native loop returns, negative errnos. */
const OUTCOMES: Readonly<Record<number, string>> = {
  [-12]: 'no memory',
  [-71]: 'it completed a request that was not in flight',
  [-110]: 'it completed nothing for 5 s',
};

/** `status 1: 3 times, …` */
function describe(statuses: Float64Array): string {
  return Array.from(statuses, (count, status) => ({ count, status }))
    .filter(({ count }) => count > 0)
    .map(({ count, status }) => `status ${status}: ${count} times`)
    .join(', ');
}
