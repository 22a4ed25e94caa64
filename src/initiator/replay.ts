/**
 * Carries out a list of requests on a disk behind a vhost-user socket: at the times at which they were made once, or as
 * fast as it can. What is written is a pattern: a recording holds no data.
 */
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import { clockNs } from '../sys/thread.ts';
import { BLK_HEADER_BYTES, BLK_RANGE_BYTES, BlkRequestType, BlkStatus, SECTOR_BYTES } from '../virtio/blk.ts';
import { type BlkInitiator, encodeRanges } from './blk-initiator.ts';
import { NO_HEAD, type Segment } from './driver-ring.ts';
import { LatencyHistogram } from './latency-histogram.ts';

export interface ReplayRequest {
  readonly type: 'read' | 'write' | 'flush' | 'unmap' | 'write_zeroes';
  readonly queue: number;
  /** Since the first. */
  readonly startNs: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Of a read: CRC-32 of what it should bring. Null: whatever it brings is right. */
  readonly expectedHash: number | null;
}

export interface ReplayOptions {
  /** False: at the times of the recording. */
  readonly isAtFullSpeed: boolean;
  /** Requests in flight at most. */
  readonly depth: number;
  readonly signal?: AbortSignal;
}

export interface ReplayReport {
  /** That ended, well or not. */
  readonly requests: number;
  readonly failed: number;
  readonly seconds: number;
  readonly bytes: number;
  /** Of those that ended well. */
  readonly latencies: ReadonlyMap<ReplayRequest['type'], LatencyHistogram>;
  /** How much later than recorded requests were made: as many as allowed were in flight. */
  readonly lateness: LatencyHistogram;
  /** Reads that brought what they should, and those that did not. */
  readonly equalReads: number;
  readonly differentReads: readonly ReplayRequest[];
}

const TYPE_CODE = {
  read: BlkRequestType.IN,
  write: BlkRequestType.OUT,
  flush: BlkRequestType.FLUSH,
  unmap: BlkRequestType.DISCARD,
  write_zeroes: BlkRequestType.WRITE_ZEROES,
} as const;
const DESCRIPTOR_BYTES = 16;
const SEGMENTS_MAX = 3;
const WRITTEN = 0x52;
const NS_PER_MS = 1e6;
/** A sleep may be so much too long: before that it is waited in turns of the event loop. */
const SLEEP_ERROR_MS = 2;
/** Descriptor lengths have 32 bits, and the device takes what fits a chain. */
const LENGTH_BYTES_MAX = 2 ** 28;

/** Guest memory that a replay takes of each request in flight. */
export function replaySlotBytes(requests: readonly ReplayRequest[]): number {
  return longest(requests) + 4096;
}

function longest(requests: readonly ReplayRequest[]): number {
  return requests.reduce((most, { type, lengthBytes }) => (hasData(type) ? Math.max(most, lengthBytes) : most), 512);
}

function hasData(type: ReplayRequest['type']): boolean {
  return type === 'read' || type === 'write';
}

/** Buffers of one request in flight. */
interface Slot {
  readonly table: number;
  readonly header: number;
  readonly range: number;
  readonly data: number;
  readonly status: number;
}

/** @throws TargetError `ERANGE` when a request lies beyond the end of the disk, and what ends the connection */
export async function replay(
  disk: BlkInitiator,
  requests: readonly ReplayRequest[],
  options: ReplayOptions,
): Promise<ReplayReport> {
  return await new Replay(disk, requests, options).run();
}

class Replay {
  readonly #disk: BlkInitiator;
  readonly #requests: readonly ReplayRequest[];
  readonly #options: ReplayOptions;
  readonly #free: Slot[];
  /** What all writes write. */
  readonly #written: number;
  readonly #latencies = new Map<ReplayRequest['type'], LatencyHistogram>();
  readonly #lateness = new LatencyHistogram();
  #ended = 0;
  #failed = 0;
  #bytes = 0;
  #equalReads = 0;
  readonly #differentReads: ReplayRequest[] = [];
  #error: Error | null = null;
  #wake: () => void = () => {};

  constructor(disk: BlkInitiator, requests: readonly ReplayRequest[], options: ReplayOptions) {
    this.#disk = disk;
    this.#requests = requests;
    this.#options = options;
    const bytes = longest(requests);
    const diskBytes = disk.config.capacitySectors * SECTOR_BYTES;
    const beyond = requests.find(({ offsetBytes, lengthBytes }) => offsetBytes + lengthBytes > diskBytes);
    if (beyond !== undefined) {
      const end = beyond.offsetBytes + beyond.lengthBytes;
      throw new TargetError(
        'ERANGE',
        `the disk has ${diskBytes} bytes, and a request goes up to ${end}: take a larger one`,
      );
    }
    if (bytes > LENGTH_BYTES_MAX) throw new TargetError('ERANGE', `a request of ${bytes} bytes is too long`);
    const { memory } = disk;
    this.#written = memory.allocate(bytes);
    memory.bytes(this.#written, bytes).fill(WRITTEN);
    this.#free = Array.from({ length: options.depth }, () => ({
      table: memory.allocate(DESCRIPTOR_BYTES * SEGMENTS_MAX),
      header: memory.allocate(BLK_HEADER_BYTES),
      range: memory.allocate(BLK_RANGE_BYTES),
      data: memory.allocate(bytes),
      status: memory.allocate(1),
    }));
  }

  async run(): Promise<ReplayReport> {
    const startNs = clockNs();
    for (const request of this.#requests) {
      if (!this.#options.isAtFullSpeed) await this.#waitUntil(startNs + request.startNs);
      while (this.#free.length === 0) await new Promise<void>((resolve) => (this.#wake = resolve));
      if (this.#error !== null) throw this.#error;
      if (this.#options.signal?.aborted === true) break;
      if (!this.#options.isAtFullSpeed) this.#lateness.record(Math.max(0, clockNs() - startNs - request.startNs));
      void this.#carryOut(request, this.#free.pop() as Slot);
    }
    while (this.#free.length < this.#options.depth) await new Promise<void>((resolve) => (this.#wake = resolve));
    if (this.#error !== null) throw this.#error;
    return {
      requests: this.#ended,
      failed: this.#failed,
      seconds: (clockNs() - startNs) / 1e9,
      bytes: this.#bytes,
      latencies: this.#latencies,
      lateness: this.#lateness,
      equalReads: this.#equalReads,
      differentReads: this.#differentReads,
    };
  }

  async #waitUntil(dueNs: number): Promise<void> {
    const { signal } = this.#options;
    for (;;) {
      const restMs = (dueNs - clockNs()) / NS_PER_MS;
      if (restMs <= 0 || signal?.aborted === true || this.#error !== null) return;
      if (restMs > SLEEP_ERROR_MS) {
        await sleep(restMs - SLEEP_ERROR_MS, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
      } else await nextTurn();
    }
  }

  async #carryOut(request: ReplayRequest, slot: Slot): Promise<void> {
    const { memory, session } = this.#disk;
    const queue = this.#disk.queue(request.queue % this.#disk.queues.length);
    const head = queue.ring.addIndirect(this.#segments(request, slot), slot.table);
    assert(head !== NO_HEAD, 'a ring has an entry for each slot');
    const sinceNs = clockNs();
    try {
      await queue.submit(head, session.timeoutMs);
      const latencyNs = clockNs() - sinceNs;
      const isGood = memory.bytes(slot.status, 1)[0] === BlkStatus.OK;
      this.#count(request, latencyNs, isGood);
      if (isGood) this.#compare(request, slot);
    } catch (error) {
      this.#error ??= error as Error;
    }
    this.#free.push(slot);
    this.#wake();
  }

  #count(request: ReplayRequest, latencyNs: number, isGood: boolean): void {
    this.#ended++;
    if (!isGood) {
      this.#failed++;
      return;
    }
    this.#bytes += hasData(request.type) ? request.lengthBytes : 0;
    let histogram = this.#latencies.get(request.type);
    if (histogram === undefined) {
      histogram = new LatencyHistogram();
      this.#latencies.set(request.type, histogram);
    }
    histogram.record(latencyNs);
  }

  #compare(request: ReplayRequest, slot: Slot): void {
    const { expectedHash, lengthBytes } = request;
    if (expectedHash === null) return;
    if (crc32(this.#disk.memory.bytes(slot.data, lengthBytes)) === expectedHash) this.#equalReads++;
    else this.#differentReads.push(request);
  }

  #segments({ type, offsetBytes, lengthBytes }: ReplayRequest, slot: Slot): Segment[] {
    const { memory } = this.#disk;
    const header = new DataView(new ArrayBuffer(BLK_HEADER_BYTES));
    header.setUint32(0, TYPE_CODE[type], true);
    const sector = offsetBytes / SECTOR_BYTES;
    if (hasData(type)) header.setBigUint64(8, BigInt(sector), true);
    memory.write(slot.header, new Uint8Array(header.buffer));
    memory.write(slot.status, Uint8Array.of(0xff));
    const segments: Segment[] = [{ gpa: slot.header, lengthBytes: BLK_HEADER_BYTES, isWritable: false }];
    if (type === 'read') segments.push({ gpa: slot.data, lengthBytes, isWritable: true });
    else if (type === 'write') segments.push({ gpa: this.#written, lengthBytes, isWritable: false });
    else if (type !== 'flush') {
      memory.write(slot.range, encodeRanges([{ sector, sectors: lengthBytes / SECTOR_BYTES }]));
      segments.push({ gpa: slot.range, lengthBytes: BLK_RANGE_BYTES, isWritable: false });
    }
    return [...segments, { gpa: slot.status, lengthBytes: 1, isWritable: true }];
  }
}
