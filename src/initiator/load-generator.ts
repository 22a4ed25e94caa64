/**
 * Load on a disk: a closed loop that keeps `depth` requests in flight on every queue and polls for their completion in
 * the calling thread. After construction it allocates nothing per request: chains and buffers are made once, and only
 * the header's sector, the data's direction and the status byte change.
 *
 * One clock reading a polling round stamps what completed and what was submitted in it.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import { clockNs } from '../sys/thread.ts';
import { SECTOR_BYTES } from '../virtio/blk.ts';
import { VirtioFeature } from '../virtio/features.ts';
import { ScsiQueueIndex } from '../virtio/scsi.ts';
import { type BlkInitiator, capacityBytes } from './blk-initiator.ts';
import type { BlockStamps } from './block-stamps.ts';
import type { DriverQueue } from './driver-queue.ts';
import type { FrontendSession } from './frontend-session.ts';
import { LatencyHistogram } from './latency-histogram.ts';
import { BlkProtocol, type LoadProtocol, ScsiProtocol } from './load-protocol.ts';
import { LoadQueue, type LoadState } from './load-queue.ts';
import type { ScsiInitiator } from './scsi-initiator.ts';

export interface LoadOptions {
  /** Requests in flight on each queue. */
  readonly depth: number;
  /** Default 4096. */
  readonly blockBytes?: number;
  /** Default `random`. */
  readonly pattern?: 'random' | 'sequential';
  /** Share of writes in percent. Default 0. */
  readonly writePercent?: number;
  /** Bytes of the disk to use, from its start. Default: all. */
  readonly spanBytes?: number;
  /** Queues to use. Default: all of the initiator's. */
  readonly queues?: readonly number[];
  /** Default: where the back-end can. */
  readonly isIndirect?: boolean;
  /** Default 1. */
  readonly seed?: number;
  /** Stamp what is written and check what is read against these. Requests to one block never overlap then. */
  readonly stamps?: BlockStamps;
  /** Record latencies. Default true. */
  readonly measuresLatency?: boolean;
  /** Fail when nothing completes for so long. Default 10000. */
  readonly stallMs?: number;
}

/** When a run ends; whichever comes first. */
interface LoadLimit {
  readonly durationMs?: number;
  /** Requests in all. */
  readonly count?: number;
}

interface LoadResult {
  readonly ios: number;
  readonly reads: number;
  readonly writes: number;
  readonly bytes: number;
  readonly elapsedNs: number;
  readonly iops: number;
  /** Requests with another status than OK. */
  readonly errors: number;
  /** Blocks that did not read as they were written. */
  readonly mismatches: number;
  /** The first of them in words, or null. */
  readonly firstMismatch: string | null;
  readonly kicks: number;
  readonly latency: LatencyHistogram;
}

const DEFAULT_STALL_MS = 10_000;
const DEFAULT_BLOCK_BYTES = 4096;
const NS_PER_MS = 1e6;
/** Empty polling rounds between two looks at the clock. */
const SPINS_PER_LOOK = 4096;
/** Length of a burst of `runAsync` between two turns of the event loop. */
const BURST_NS = 1e6;

/** A LUN under load. */
export interface ScsiLoadTarget {
  readonly target: number;
  readonly lun: number;
  readonly sizeBytes: number;
  /** Size of a logical block. */
  readonly logicalBlockBytes: number;
}

/** What load runs on: a session, the queues that may carry it, and the disk's size. */
interface LoadHost {
  readonly session: FrontendSession;
  readonly queues: readonly DriverQueue[];
  readonly sizeBytes: number;
  readonly protocol: LoadProtocol;
}

abstract class LoadGenerator {
  readonly #session: FrontendSession;
  readonly #queues: LoadQueue[];
  readonly #state: LoadState;
  readonly #histogram = new LatencyHistogram();
  readonly #blockBytes: number;
  readonly #stallNs: number;
  #deadlineNs = Number.POSITIVE_INFINITY;
  #lastDoneNs = 0;
  /** Something was completed since the last look for a stall. */
  #hasProgress = false;
  #startNs = 0;
  #isStopping = false;

  constructor(host: LoadHost, options: LoadOptions) {
    const { blockBytes = DEFAULT_BLOCK_BYTES, stamps, seed = 1 } = options;
    const { session } = host;
    const spanBytes = options.spanBytes ?? host.sizeBytes;
    const blockCount = stamps?.blockCount ?? Math.floor(spanBytes / blockBytes);
    assert(blockBytes % SECTOR_BYTES === 0 && blockCount > 0, 'a block is whole sectors and the disk holds one');
    assert(stamps === undefined || stamps.blockWords * 4 === blockBytes, 'stamps are for blocks of the same size');
    this.#session = session;
    this.#blockBytes = blockBytes;
    this.#stallNs = (options.stallMs ?? DEFAULT_STALL_MS) * NS_PER_MS;
    this.#state = {
      remaining: 0,
      ios: 0,
      writes: 0,
      errors: 0,
      mismatches: 0,
      firstMismatch: null,
      kicks: 0,
      nowNs: 0,
      cursor: 0,
      random: seed | 0 || 1,
    };
    const indexes = options.queues ?? host.queues.map((_, index) => index);
    this.#queues = indexes.map((index) => {
      const queue = host.queues[index];
      assert(queue !== undefined, `queue ${index} exists`);
      return new LoadQueue(session.memory, queue, this.#state, {
        protocol: host.protocol,
        depth: options.depth,
        blockBytes,
        blockCount,
        isSequential: options.pattern === 'sequential',
        writePercent: options.writePercent ?? 0,
        isIndirect: options.isIndirect ?? session.hasFeature(VirtioFeature.INDIRECT_DESC),
        stamps: stamps ?? null,
        histogram: options.measuresLatency === false ? null : this.#histogram,
      });
    });
  }

  /** Runs in this thread until the limit, and until everything in flight is done. May be called again. */
  run(limit: LoadLimit): LoadResult {
    this.#begin(limit);
    while (this.#step(Number.POSITIVE_INFINITY)) {
      // Each step polls until nothing is in flight.
    }
    return this.#end();
  }

  /** The same, with a turn of the event loop every millisecond. */
  async runAsync(limit: LoadLimit): Promise<LoadResult> {
    this.#begin(limit);
    while (this.#step(BURST_NS)) await nextTurn();
    return this.#end();
  }

  /** Ends an asynchronous run early: what is in flight is still completed. */
  stop(): void {
    this.#isStopping = true;
  }

  /** Gives back memory and descriptors. Nothing may be in flight. */
  close(): void {
    for (const queue of this.#queues) queue.close();
  }

  #begin(limit: LoadLimit): void {
    assert(limit.durationMs !== undefined || limit.count !== undefined, 'a run has a limit');
    const state = this.#state;
    this.#histogram.clear();
    state.remaining = limit.count ?? Number.MAX_SAFE_INTEGER;
    state.ios = 0;
    state.writes = 0;
    state.errors = 0;
    state.mismatches = 0;
    state.firstMismatch = null;
    state.kicks = 0;
    this.#isStopping = false;
    this.#startNs = clockNs();
    state.nowNs = this.#startNs;
    this.#lastDoneNs = this.#startNs;
    this.#deadlineNs =
      limit.durationMs === undefined ? Number.POSITIVE_INFINITY : this.#startNs + limit.durationMs * NS_PER_MS;
    for (const queue of this.#queues) queue.begin();
  }

  /** Polls for at most `burstNs`. False when nothing is in flight any more. */
  #step(burstNs: number): boolean {
    const state = this.#state;
    const queues = this.#queues;
    const untilNs = clockNs() + burstNs;
    let spins = 0;
    for (;;) {
      let done = 0;
      let inFlight = 0;
      for (let i = 0; i < queues.length; i++) {
        const queue = queues[i] as LoadQueue;
        done += queue.poll();
        inFlight += queue.inFlight;
      }
      if (inFlight === 0) return false;
      if (done > 0) {
        this.#hasProgress = true;
      } else {
        if (++spins % SPINS_PER_LOOK !== 0) continue;
        state.nowNs = clockNs();
        this.#checkStall();
      }
      if (state.nowNs >= this.#deadlineNs || this.#isStopping) state.remaining = 0;
      if (state.nowNs >= untilNs) return true;
    }
  }

  #checkStall(): void {
    if (this.#session.frontend.isClosed) {
      throw new TargetError('VHOST_CLOSED', 'the back-end closed the connection under load');
    }
    if (this.#hasProgress) this.#lastDoneNs = this.#state.nowNs;
    this.#hasProgress = false;
    if (this.#state.nowNs - this.#lastDoneNs < this.#stallNs) return;
    const where = this.#queues.map((queue) => queue.describe()).join('; ');
    throw new TargetError('ETIMEDOUT', `no request was completed for ${this.#stallNs / NS_PER_MS} ms (${where})`);
  }

  #end(): LoadResult {
    const state = this.#state;
    const elapsedNs = clockNs() - this.#startNs;
    for (const queue of this.#queues) queue.end();
    const latency = new LatencyHistogram();
    latency.merge(this.#histogram);
    return {
      ios: state.ios,
      reads: state.ios - state.writes,
      writes: state.writes,
      bytes: state.ios * this.#blockBytes,
      elapsedNs,
      iops: (state.ios * 1e9) / elapsedNs,
      errors: state.errors,
      mismatches: state.mismatches,
      firstMismatch: state.firstMismatch,
      kicks: state.kicks,
      latency,
    };
  }
}

/** Load on a blk disk. */
export class BlkLoadGenerator extends LoadGenerator {
  constructor(initiator: BlkInitiator, options: LoadOptions) {
    const { session, queues, config } = initiator;
    const protocol = new BlkProtocol(options.blockBytes ?? DEFAULT_BLOCK_BYTES);
    super({ session, queues, sizeBytes: capacityBytes(config), protocol }, options);
  }
}

/** Load on a LUN; `queues` of the options are request queues, from 0. Take its unit attentions first. */
export class ScsiLoadGenerator extends LoadGenerator {
  constructor(initiator: ScsiInitiator, disk: ScsiLoadTarget, options: LoadOptions) {
    const { target, lun, sizeBytes, logicalBlockBytes } = disk;
    const blockBytes = options.blockBytes ?? DEFAULT_BLOCK_BYTES;
    const protocol = new ScsiProtocol(target, lun, blockBytes, logicalBlockBytes);
    const queues = initiator.queues.slice(ScsiQueueIndex.requestFirst);
    super({ session: initiator.session, queues, sizeBytes, protocol }, options);
  }
}
