/**
 * A virtio-blk driver over vhost-user: what a virtual machine and its guest do together, as a client for tests and
 * tools.
 *
 *   const disk = await BlkInitiator.connect('/var/tmp/vhost.0', { queues: 2 });
 *   await disk.write(0, data);
 *   const bytes = await disk.read(0, 4096);
 *   disk.close();
 */
import { EventEmitter } from 'node:events';
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import { BACKEND_REQUESTS, maskOf } from '../vhost-user/messages.ts';
import {
  BLK_CONFIG_WRITEBACK_OFFSET,
  BLK_ID_BYTES,
  BLK_RANGE_BYTES,
  BlkConfig,
  BlkFeature,
  BlkRequestType,
  BlkStatus,
  SECTOR_BYTES,
} from '../virtio/blk.ts';
import { type BlkRequest, type BlkResult, createBlkBuffers, STATUS_UNTOUCHED } from './blk-request.ts';
import type { DriverQueue } from './driver-queue.ts';
import { FrontendSession, type SessionOptions } from './frontend-session.ts';
import type { OwnedMemory } from './owned-memory.ts';
import type { VhostUserFrontend } from './vhost-user-frontend.ts';

export type BlkConfiguration = ReturnType<typeof BlkConfig.decode>;

export interface BlkInitiatorOptions extends SessionOptions {}

export interface BlkRange {
  readonly sector: number | bigint;
  readonly sectors: number;
  readonly flags?: number;
}

/** Framing and placement of a convenience call; what it carries is the call's own. */
export type BlkRequestShape = Pick<BlkRequest, 'readable' | 'writable' | 'isIndirect' | 'queue' | 'place'>;

const BLK_FEATURES = maskOf(...Object.values(BlkFeature));

export class BlkInitiator {
  readonly session: FrontendSession;
  /** The configuration space as read last. */
  config: BlkConfiguration;
  /** `configChange`: the back-end announced a change (a resize), and `config` was read again. */
  readonly events = new EventEmitter<{ configChange: [BlkConfiguration] }>();

  private constructor(session: FrontendSession, config: BlkConfiguration) {
    this.session = session;
    this.config = config;
    session.onBackendRequest = (message) => {
      if (message.request === BACKEND_REQUESTS.CONFIG_CHANGE_MSG.code) void this.#onConfigChange();
    };
  }

  /** Connects and sets everything up. Throws when the back-end refuses any of it. */
  static async connect(path: string, options: BlkInitiatorOptions = {}): Promise<BlkInitiator> {
    const session = new FrontendSession(path, options);
    try {
      await session.connect();
      const initiator = new BlkInitiator(session, await readConfig(session.frontend));
      await session.start(BLK_FEATURES);
      return initiator;
    } catch (error) {
      session.close();
      throw error;
    }
  }

  get frontend(): VhostUserFrontend {
    return this.session.frontend;
  }

  get memory(): OwnedMemory {
    return this.session.memory;
  }

  get queues(): readonly DriverQueue[] {
    return this.session.queues;
  }

  /** Virtio feature bits acked. */
  get features(): bigint {
    return this.session.features;
  }

  hasFeature(bit: number): boolean {
    return this.session.hasFeature(bit);
  }

  /** Sends a request of any shape and waits until the device gives it back, whatever its status. */
  async request(request: BlkRequest): Promise<BlkResult> {
    const buffers = createBlkBuffers(this.memory, request);
    const answer = await buffers.exchange(this.queue(request.queue ?? 0), this.session.timeoutMs);
    const status = answer.writable.at(-1) ?? STATUS_UNTOUCHED;
    return { ...answer, status, data: answer.writable.subarray(0, request.inBytes ?? 0) };
  }

  async read(sector: number, bytes: number, shape: BlkRequestShape = {}): Promise<Uint8Array> {
    const result = await this.request({ ...shape, type: BlkRequestType.IN, sector, inBytes: bytes });
    checkStatus(result, `read of ${bytes} bytes at sector ${sector}`);
    return result.data;
  }

  async write(sector: number, data: Uint8Array, shape: BlkRequestShape = {}): Promise<void> {
    const result = await this.request({ ...shape, type: BlkRequestType.OUT, sector, out: data });
    checkStatus(result, `write of ${data.length} bytes at sector ${sector}`);
  }

  async flush(shape: BlkRequestShape = {}): Promise<void> {
    checkStatus(await this.request({ ...shape, type: BlkRequestType.FLUSH }), 'flush');
  }

  /** The serial, without its padding. */
  async getId(shape: BlkRequestShape = {}): Promise<string> {
    const result = await this.request({ ...shape, type: BlkRequestType.GET_ID, inBytes: BLK_ID_BYTES });
    checkStatus(result, 'get id');
    const end = result.data.indexOf(0);
    return Buffer.from(result.data.subarray(0, end === -1 ? BLK_ID_BYTES : end)).toString('latin1');
  }

  async discard(ranges: readonly BlkRange[], shape: BlkRequestShape = {}): Promise<void> {
    const out = encodeRanges(ranges);
    checkStatus(await this.request({ ...shape, type: BlkRequestType.DISCARD, out }), 'discard');
  }

  async writeZeroes(ranges: readonly BlkRange[], shape: BlkRequestShape = {}): Promise<void> {
    const out = encodeRanges(ranges);
    checkStatus(await this.request({ ...shape, type: BlkRequestType.WRITE_ZEROES, out }), 'write zeroes');
  }

  /** Sets the write cache mode by SET_CONFIG, as a driver does that acked CONFIG_WCE. */
  async setWriteback(isWriteback: boolean): Promise<void> {
    await this.frontend.setConfig(BLK_CONFIG_WRITEBACK_OFFSET, Uint8Array.of(isWriteback ? 1 : 0));
    await this.readConfig();
  }

  async readConfig(): Promise<BlkConfiguration> {
    this.config = await readConfig(this.frontend);
    return this.config;
  }

  /** Resolves with the next configuration that the back-end announces. */
  nextConfigChange(): Promise<BlkConfiguration> {
    return new Promise((resolve, reject) => {
      const { timeoutMs } = this.session;
      const onChange = (config: BlkConfiguration): void => {
        clearTimeout(timer);
        resolve(config);
      };
      const timer = setTimeout(() => {
        this.events.off('configChange', onChange);
        reject(new TargetError('ETIMEDOUT', `the back-end announced no change within ${timeoutMs} ms`));
      }, timeoutMs);
      this.events.once('configChange', onChange);
    });
  }

  /** Stops every ring; returns their bases. `start` goes on from there. */
  stop(): Promise<number[]> {
    return this.session.stop();
  }

  async start(): Promise<void> {
    await this.session.start(BLK_FEATURES);
  }

  /** Begins anew with other queues and features; see `FrontendSession.restart`. */
  async restart(options: BlkInitiatorOptions): Promise<void> {
    await this.session.restart(BLK_FEATURES, options);
  }

  /** Ends the connection at once, as a virtual machine that is killed. */
  disconnect(): void {
    this.session.disconnect();
  }

  /** Connects again with the same memory and rings, waiting for the back-end to be there. */
  async reconnect(): Promise<void> {
    await this.session.reconnect();
    await this.readConfig();
    await this.start();
  }

  /** Frees everything; memory only if it was not the caller's. */
  close(): void {
    this.session.close();
  }

  queue(index: number): DriverQueue {
    const queue = this.queues[index];
    assert(queue !== undefined, `queue ${index} exists`);
    return queue;
  }

  async #onConfigChange(): Promise<void> {
    try {
      await this.readConfig();
    } catch {
      // The connection ended meanwhile; whoever uses it learns it from `closed`.
      return;
    }
    this.events.emit('configChange', this.config);
  }
}

/** Ranges of DISCARD and WRITE_ZEROES as they are on the wire. */
export function encodeRanges(ranges: readonly BlkRange[]): Uint8Array {
  const bytes = new Uint8Array(BLK_RANGE_BYTES * ranges.length);
  const view = new DataView(bytes.buffer);
  ranges.forEach(({ sector, sectors, flags = 0 }, i) => {
    view.setBigUint64(BLK_RANGE_BYTES * i, BigInt(sector), true);
    view.setUint32(BLK_RANGE_BYTES * i + 8, sectors, true);
    view.setUint32(BLK_RANGE_BYTES * i + 12, flags, true);
  });
  return bytes;
}

/** Capacity in bytes. */
export function capacityBytes(config: BlkConfiguration): number {
  return config.capacitySectors * SECTOR_BYTES;
}

async function readConfig(frontend: VhostUserFrontend): Promise<BlkConfiguration> {
  return BlkConfig.decode(await frontend.getConfig(0, BlkConfig.size));
}

function checkStatus(result: BlkResult, what: string): void {
  if (result.status === BlkStatus.OK) return;
  const name = Object.entries(BlkStatus).find(([, value]) => value === result.status)?.[0] ?? String(result.status);
  throw new TargetError('BLK_STATUS', `${what}: the device answered ${name}`, { fields: { status: result.status } });
}
