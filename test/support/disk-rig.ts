/** A disk with channels, and memory of a guest for its requests. */
import type { Bdev } from '../../src/bdev/bdev.ts';
import { BdevIo, type IoOwner, type IoStatus, type IoType, NO_SEGMENTS } from '../../src/bdev/bdev-io.ts';
import { BdevChannel } from '../../src/bdev/channel.ts';
import { CHANNEL_FACTORIES } from '../../src/bdev/modules/channels.ts';
import { MirrorBdev } from '../../src/bdev/modules/raid/mirror.ts';
import { type BdevEntry, BdevRegistry } from '../../src/bdev/registry.ts';
import type { Drive } from '../../src/reactor/reactor.ts';
import { IOV_SHORT_ENTRIES, IovArena } from '../../src/sys/iov-arena.ts';
import { Mapping, type MappingInfo, MappingViews } from '../../src/sys/mapping.ts';
import { ChannelTable } from '../../src/vhost/channel-table.ts';

const MIB = 1 << 20;
export const GUEST_BYTES = 6 * MIB;
const LIMIT_MS = 30_000;

export interface Segment {
  /** In the guest's memory. */
  readonly offset: number;
  readonly length: number;
}

export class DiskRig implements IoOwner {
  readonly registry: BdevRegistry;
  readonly entry: BdevEntry;
  readonly arena = new IovArena(2048, 8);
  /** The guest's. */
  readonly memory: MappingInfo & { close(): void };
  readonly guest: Uint8Array;
  readonly channels: BdevChannel[] = [];
  /** Channels to what the disk stands on: the reactor's. */
  readonly below = new Set<BdevChannel>();
  readonly #views = new MappingViews();
  readonly #ended = new Map<BdevIo, (status: IoStatus) => void>();
  readonly #table: ChannelTable;
  readonly #tell: (bdevId: number, what: unknown) => void;

  /** Stands by default on whatever is in the registry already. */
  constructor(
    bdev: Bdev,
    memory: MappingInfo & { close(): void } = Mapping.anonymous(GUEST_BYTES),
    registry = new BdevRegistry(1),
    bases: readonly BdevEntry[] = registry.list(),
  ) {
    this.registry = registry;
    const tell = (id: number, what: unknown): void =>
      registry
        .list()
        .find((one) => one.id === id)
        ?.bdev.hear?.(what);
    this.#tell = tell;
    this.#table = this.#newTable();
    this.memory = memory;
    this.guest = new Uint8Array(this.#views.view(this.memory, 0, GUEST_BYTES));
    const mirror = bdev instanceof MirrorBdev ? { user: bdev.user.bind(bdev), canLose: bdev.canLose.bind(bdev) } : {};
    this.entry = registry.create(bdev.name, bdev.uuid, () => bdev, { bases, ...mirror });
    this.entry.users.add({
      bdevChanged: async (entry) => {
        for (const channel of this.channels) channel.update(entry.describe());
      },
      bdevRemoved: async () => {},
    });
    this.openChannel();
  }

  get blockSize(): number {
    return this.channel.blockSizeBytes;
  }

  get blocks(): number {
    return this.channel.blockCount;
  }

  supports(type: IoType): boolean {
    return this.entry.bdev.ioTypes.includes(type);
  }

  /** Bytes of some segments, in their order. */
  gather(segments: readonly Segment[]): Buffer {
    return Buffer.concat(segments.map(({ offset, length }) => this.guest.subarray(offset, offset + length)));
  }

  scatter(segments: readonly Segment[], data: Uint8Array, memory = this.guest): void {
    let at = 0;
    for (const { offset, length } of segments) {
      memory.set(data.subarray(at, at + length), offset);
      at += length;
    }
  }

  get channel(): BdevChannel {
    return this.channels[0] as BdevChannel;
  }

  #newTable(): ChannelTable {
    const host = {
      addDrive: (drive: Drive) => this.below.add(drive as BdevChannel),
      removeDrive: (drive: Drive) => this.below.delete(drive as BdevChannel),
    };
    return new ChannelTable(host, 0, { arena: this.arena, tell: this.#tell });
  }

  /** A channel as another reactor has it: over channels of its own. */
  openInAnotherReactor(): BdevChannel {
    return this.openChannel(this.#newTable());
  }

  openChannel(table = this.#table): BdevChannel {
    const factory = CHANNEL_FACTORIES[this.entry.bdev.kind];
    if (factory === undefined) throw new Error(`there is no factory for ${this.entry.bdev.kind}`);
    const channel = new BdevChannel(
      this.entry.describe(),
      factory,
      { arena: this.arena, bases: table, tell: this.#tell },
      0,
    );
    this.channels.push(channel);
    return channel;
  }

  /** Submits a request; resolves with its status once it is polled to its end. */
  submit(
    type: IoType,
    block: number,
    count: number,
    segments: readonly Segment[] = [],
    channel = this.channel,
  ): Promise<IoStatus> {
    const io = new BdevIo(this);
    io.type = type;
    io.offsetBlocks = block;
    io.countBlocks = count;
    io.lengthBytes = count * channel.blockSizeBytes;
    io.iovCount = segments.length;
    io.iovFirst = NO_SEGMENTS;
    if (segments.length > 0) {
      io.iovFirst = segments.length <= IOV_SHORT_ENTRIES ? this.arena.takeShort() : this.arena.takeLong();
      let entry = io.iovFirst;
      for (const { offset, length } of segments) this.arena.set(entry++, this.memory.address + offset, length);
    }
    return new Promise((resolve) => {
      this.#ended.set(io, resolve);
      channel.submit(io);
    });
  }

  /** The same, polled to its end. */
  async run(type: IoType, block: number, count: number, segments: readonly Segment[] = []): Promise<IoStatus> {
    return await this.polled(this.submit(type, block, count, segments));
  }

  /** Polls every channel until `promise` resolves. */
  async polled<T>(promise: Promise<T>): Promise<T> {
    let isOver = false;
    const over = promise.finally(() => {
      isOver = true;
    });
    // A rejection is heard of below, when it was polled for the last time.
    over.catch(() => undefined);
    const deadline = Date.now() + LIMIT_MS;
    for (;;) {
      this.poll();
      await new Promise((resolve) => setImmediate(resolve));
      if (isOver) return await over;
      if (Date.now() > deadline) throw new Error('a request did not end');
    }
  }

  poll(): void {
    for (const channel of this.channels) channel.poll();
    for (const channel of this.below) channel.poll();
  }

  /** Requests that have not ended. */
  get inFlight(): number {
    return this.#ended.size;
  }

  ioDone(io: BdevIo): void {
    const resolve = this.#ended.get(io);
    if (resolve === undefined) throw new Error('a request ended twice');
    this.#ended.delete(io);
    if (io.iovFirst !== NO_SEGMENTS) this.arena.release(io.iovFirst);
    resolve(io.status);
  }

  async close(): Promise<void> {
    for (const channel of this.channels) channel.close();
    this.channels.length = 0;
    for (const entry of this.registry.list().toReversed()) await this.registry.delete(entry);
    this.#views.close();
    this.memory.close();
    this.arena.close();
  }
}
