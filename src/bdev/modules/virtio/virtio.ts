/**
 * A disk over another vhost-user target (virtio-blk): SPDK's, qemu-storage-daemon's, another Ringhost's. The main
 * thread is its front-end: it connects, negotiates, shares memory and sets the queues up, and does so again when the
 * target comes back. Reactors drive the queues.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../../../base/errors.ts';
import { OwnedMemory } from '../../../initiator/owned-memory.ts';
import { VhostUserFrontend } from '../../../initiator/vhost-user-frontend.ts';
import { closeFd, createEventFd } from '../../../sys/events.ts';
import {
  BACKEND_REQUESTS,
  hasBit,
  maskOf,
  ProtocolFeature,
  VHOST_USER_F_PROTOCOL_FEATURES,
} from '../../../vhost-user/messages.ts';
import { BlkConfig, BlkFeature, SECTOR_BYTES } from '../../../virtio/blk.ts';
import { VirtioFeature } from '../../../virtio/features.ts';
import type { Bdev, BdevConfig } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { uuidOfText } from '../../text-uuid.ts';
import { layoutOf, QueueWord, type VirtioChannelParams } from './layout.ts';

export interface VirtioParams {
  readonly name: string;
  /** The target's socket. */
  readonly path: string;
  /** Default 1. */
  readonly queueCount?: number | undefined;
  /** A power of two. Default 256. */
  readonly queueSize?: number | undefined;
}

type Configuration = ReturnType<typeof BlkConfig.decode>;

const QUEUE_SIZE = 256;
const RETRY_MS = 100;
const BLOCK_BYTES_MAX = 4096;
const FEATURES =
  maskOf(VirtioFeature.VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES) |
  maskOf(BlkFeature.RO, BlkFeature.BLK_SIZE, BlkFeature.FLUSH, BlkFeature.TOPOLOGY, BlkFeature.MQ) |
  maskOf(BlkFeature.DISCARD, BlkFeature.WRITE_ZEROES);
const PROTOCOL_FEATURES = maskOf(
  ProtocolFeature.MQ,
  ProtocolFeature.REPLY_ACK,
  ProtocolFeature.BACKEND_REQ,
  ProtocolFeature.CONFIG,
);

export class VirtioBdev implements Bdev {
  readonly kind = 'virtio';
  readonly productName = 'VirtioBlk Disk';
  readonly name: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly physicalBlockSizeBytes: number;
  readonly hasWriteCache: boolean;
  readonly ioTypes: readonly IoType[];
  blockCount: number;
  /** Called when the target went, came back, or has a new size; resolves when every channel knows. */
  onChange: () => Promise<void> = async () => {};
  readonly #params: VirtioParams;
  readonly #link: Link;
  readonly #config: Configuration;
  #isConnected = true;
  #isOver = false;

  private constructor(params: VirtioParams, link: Link) {
    const { features, config } = link;
    this.#params = params;
    this.#link = link;
    this.#config = config;
    this.name = params.name;
    this.uuid = uuidOfText(params.path);
    const has = (bit: number): boolean => hasBit(features, bit);
    this.blockSizeBytes = has(BlkFeature.BLK_SIZE) ? config.blockSizeBytes : SECTOR_BYTES;
    const exponent = has(BlkFeature.TOPOLOGY) ? config.physicalBlockExponent : 0;
    this.physicalBlockSizeBytes = this.blockSizeBytes * 2 ** Math.min(exponent, 16);
    this.blockCount = blocksOf(config, this.blockSizeBytes);
    const isReadonly = has(BlkFeature.RO);
    this.hasWriteCache = has(BlkFeature.FLUSH);
    this.ioTypes = [
      IoType.read,
      IoType.flush,
      ...(isReadonly ? [] : [IoType.write]),
      ...(!isReadonly && has(BlkFeature.DISCARD) ? [IoType.unmap] : []),
      ...(!isReadonly && has(BlkFeature.WRITE_ZEROES) ? [IoType.writeZeroes] : []),
    ];
    link.onEnd = () => void this.#reconnect();
    link.onConfig = (changed) => void this.#resized(changed);
  }

  /** Connects and sets everything up. Throws what the target refuses. */
  static async open(params: VirtioParams): Promise<VirtioBdev> {
    const link = new Link(params);
    try {
      await link.connect();
      const size = hasBit(link.features, BlkFeature.BLK_SIZE) ? link.config.blockSizeBytes : SECTOR_BYTES;
      const isPowerOfTwo = size >= SECTOR_BYTES && size <= BLOCK_BYTES_MAX && (size & (size - 1)) === 0;
      if (!isPowerOfTwo) throw new TargetError('EINVAL', `${params.path} has blocks of ${size} bytes`);
      return new VirtioBdev(params, link);
    } catch (error) {
      link.close();
      throw error;
    }
  }

  params(): VirtioChannelParams {
    const { maxDiscardSectors, maxWriteZeroesSectors, writeZeroesMayUnmap } = this.#config;
    return {
      ...this.#link.params(),
      isConnected: this.#isConnected,
      discardSectorsMax: maxDiscardSectors,
      zeroSectorsMax: maxWriteZeroesSectors,
      zeroMayUnmap: writeZeroesMayUnmap === 1,
    };
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    const { path } = this.#params;
    const { queueCount, queueSize } = this.#link.params();
    return {
      virtio: { type: 'user', socket: path, vq_count: queueCount, vq_size: queueSize, connected: this.#isConnected },
    };
  }

  toConfig(): BdevConfig {
    const { name, path } = this.#params;
    const { queueCount, queueSize } = this.#link.params();
    const queues = { vq_count: queueCount, vq_size: queueSize };
    return {
      method: 'bdev_virtio_attach_controller',
      params: { name, trtype: 'user', traddr: path, dev_type: 'blk', ...queues },
    };
  }

  async destruct(): Promise<void> {
    this.#isOver = true;
    this.#link.close();
    // What watched the sockets goes with the next turn of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** Tells the channels, and tries until the target is back. */
  async #reconnect(): Promise<void> {
    if (this.#isOver) return;
    this.#isConnected = false;
    await this.onChange();
    while (!this.#isOver) {
      try {
        await this.#link.connect();
        break;
      } catch {
        await sleep(RETRY_MS, undefined, { ref: false });
      }
    }
    if (this.#isOver) return;
    this.#isConnected = true;
    await this.#resized(this.#link.config);
  }

  async #resized(config: Configuration): Promise<void> {
    if (this.#isOver) return;
    // A target that comes back smaller refuses what is beyond its end by itself.
    this.blockCount = Math.max(this.blockCount, blocksOf(config, this.blockSizeBytes));
    await this.onChange();
  }
}

/** The connection, and what outlives it: memory and eventfds. */
class Link {
  features = 0n;
  config: Configuration = BlkConfig.decode(new Uint8Array(BlkConfig.size));
  onEnd: () => void = () => {};
  onConfig: (config: Configuration) => void = () => {};
  readonly #path: string;
  readonly #queueSize: number;
  readonly #queueCount: number;
  readonly #memory: OwnedMemory;
  readonly #table: Int32Array;
  readonly #shared: SharedArrayBuffer;
  #frontend: VhostUserFrontend | null = null;

  constructor({ path, queueCount = 1, queueSize = QUEUE_SIZE }: VirtioParams) {
    this.#path = path;
    this.#queueSize = queueSize;
    this.#queueCount = queueCount;
    this.#memory = OwnedMemory.single(layoutOf(queueSize).totalBytes * queueCount);
    this.#shared = new SharedArrayBuffer(4 * QueueWord.count * queueCount);
    this.#table = new Int32Array(this.#shared);
    for (let queue = 0; queue < queueCount; queue++) {
      this.#table[queue * QueueWord.count + QueueWord.kickFd] = createEventFd();
      this.#table[queue * QueueWord.count + QueueWord.callFd] = createEventFd();
    }
  }

  params(): Pick<VirtioChannelParams, 'address' | 'guestAddress' | 'queueSize' | 'queueCount' | 'queues'> {
    const [region] = this.#memory.regions;
    return {
      address: region?.userAddress ?? 0,
      guestAddress: region?.guestAddress ?? 0,
      queueSize: this.#queueSize,
      queueCount: this.#queueCount,
      queues: this.#shared,
    };
  }

  /** No channel touches the rings: they begin anew. */
  async connect(): Promise<void> {
    const frontend = await VhostUserFrontend.connect(this.#path);
    try {
      await this.#setUp(frontend);
    } catch (error) {
      frontend.close();
      throw error;
    }
    this.#frontend = frontend;
    void frontend.closed.then(({ isByPeer }) => {
      if (isByPeer) this.onEnd();
    });
  }

  close(): void {
    this.#frontend?.close();
    for (let queue = 0; queue < this.#queueCount; queue++) {
      for (const word of [QueueWord.kickFd, QueueWord.callFd])
        closeFd(this.#table[queue * QueueWord.count + word] as number);
    }
    this.#memory.close();
  }

  async #setUp(frontend: VhostUserFrontend): Promise<void> {
    const offered = await frontend.getFeatures();
    if (!hasBit(offered, VHOST_USER_F_PROTOCOL_FEATURES)) {
      throw new TargetError('ENOTSUP', `${this.#path} has no protocol features, and so no configuration to read`);
    }
    const protocol = await frontend.getProtocolFeatures();
    if (!hasBit(protocol, ProtocolFeature.CONFIG)) {
      throw new TargetError('ENOTSUP', `${this.#path} has no configuration to read: is it a virtio-blk target?`);
    }
    await frontend.setProtocolFeatures(protocol & PROTOCOL_FEATURES);
    await this.#checkQueues(frontend, protocol);
    await frontend.setOwner();
    this.features = offered & FEATURES;
    if (!hasBit(this.features, VirtioFeature.VERSION_1))
      throw new TargetError('ENOTSUP', `${this.#path} is no virtio 1 device`);
    this.config = BlkConfig.decode(await frontend.getConfig(0, BlkConfig.size));
    await frontend.setFeatures(this.features);
    await frontend.setMemTable(this.#memory.regions);
    for (let queue = 0; queue < this.#queueCount; queue++) await this.#setUpQueue(frontend, queue);
    if (hasBit(protocol, ProtocolFeature.BACKEND_REQ)) {
      await frontend.setBackendReqFd(({ request }) => {
        if (request === BACKEND_REQUESTS.CONFIG_CHANGE_MSG.code) void this.#readConfig(frontend);
        return 0;
      });
    }
    await frontend.sync();
  }

  async #checkQueues(frontend: VhostUserFrontend, protocol: bigint): Promise<void> {
    const most = hasBit(protocol, ProtocolFeature.MQ) ? await frontend.getQueueNum() : 1;
    if (this.#queueCount > most) {
      throw new TargetError('EINVAL', `${this.#path} has ${most} queues, not the ${this.#queueCount} of vq_count`);
    }
  }

  async #setUpQueue(frontend: VhostUserFrontend, queue: number): Promise<void> {
    const layout = layoutOf(this.#queueSize);
    const [region] = this.#memory.regions;
    if (region === undefined) return;
    const base = queue * layout.totalBytes;
    // Everything but the descriptors, which are the channel's and stay.
    region.bytes.fill(0, base + layout.available, base + layout.requests);
    const address = region.userAddress + base;
    await frontend.setVringNum(queue, this.#queueSize);
    await frontend.setVringBase(queue, 0);
    await frontend.setVringAddr(queue, {
      descriptor: address,
      used: address + layout.used,
      available: address + layout.available,
    });
    const word = (which: number): number => this.#table[queue * QueueWord.count + which] as number;
    await frontend.setVringCall(queue, word(QueueWord.callFd));
    await frontend.setVringKick(queue, word(QueueWord.kickFd));
    await frontend.setVringEnable(queue, true);
  }

  async #readConfig(frontend: VhostUserFrontend): Promise<void> {
    try {
      this.config = BlkConfig.decode(await frontend.getConfig(0, BlkConfig.size));
    } catch {
      // The connection ended meanwhile.
      return;
    }
    this.onConfig(this.config);
  }
}

function blocksOf(config: Configuration, blockSizeBytes: number): number {
  return Math.floor((config.capacitySectors * SECTOR_BYTES) / blockSizeBytes);
}
