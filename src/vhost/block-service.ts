/**
 * Reads and writes bdevs for the main thread, which has no channels of its own: a reactor does it as it does a guest's
 * requests. Short ones move their bytes between the threads; a transfer stays in the reactor.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../base/errors.ts';
import { BdevIo, IoStatus, IoType, NO_SEGMENTS } from '../bdev/bdev-io.ts';
import {
  ACCESS_BYTES_MAX,
  type AccessCall,
  type BlockAccess,
  type BlockRange,
  type Transfer,
  type TransferCall,
} from '../bdev/block-access.ts';
import type { BdevChannel } from '../bdev/channel.ts';
import { JobControl } from '../bdev/job-control.ts';
import type { BdevEntry, BdevUser } from '../bdev/registry.ts';
import type { MailboxHandler } from '../reactor/mailbox.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { type IovArena, NO_LIST } from '../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../sys/mapping.ts';
import type { ChannelTable } from './channel-table.ts';

/** Pieces of a transfer, and how many are on their way at a time. */
const PIECE_BYTES = 512 * 1024;
const LANES = 4;
/** Without data a piece costs a disk little. */
const EMPTY_PIECE_BYTES = 16 * 2 ** 20;
/** Until there is a segment list, or the limit lets the next piece through. */
const LOOK_AGAIN_MS = 10;
/** A transfer that was held up catches up with so much of what its limit allowed meanwhile. */
const BURST_MS = 100;

const { read: READ, write: WRITE, flush: FLUSH, resync: RESYNC } = IoType;
const TYPE_NAMES: Readonly<Record<IoType, string>> = Object.fromEntries(
  Object.entries(IoType).map(([name, type]) => [type, name]),
) as Record<IoType, string>;

const BlockCall = { access: 'blocks.access', transfer: 'blocks.transfer' } as const;

/** The reactor's side. */
export class BlockService {
  readonly #channels: ChannelTable;
  readonly #arena: IovArena;

  constructor(channels: ChannelTable, arena: IovArena) {
    this.#channels = channels;
    this.#arena = arena;
  }

  handlers(): Readonly<Record<string, MailboxHandler>> {
    return {
      [BlockCall.access]: (call: AccessCall) => this.#access(call),
      [BlockCall.transfer]: (call: TransferCall) => this.#transfer(call),
    };
  }

  /** Throws `EIO` when the bdev fails it. */
  async #access({ bdev, type, firstBlock, blockCount, bytes }: AccessCall): Promise<Uint8Array | null> {
    const lengthBytes = blockCount * bdev.blockSizeBytes;
    if (lengthBytes > ACCESS_BYTES_MAX)
      throw new TargetError('EINVAL', `${lengthBytes} bytes are too many to move here`);
    const channel = this.#channels.take(bdev);
    try {
      if (lengthBytes === 0) {
        await request(channel, type, firstBlock, 0, NO_LIST);
        return null;
      }
      const piece = await PieceBuffer.take(this.#arena, lengthBytes);
      try {
        if (bytes !== null) piece.bytes.set(bytes);
        piece.setLength(lengthBytes);
        await request(channel, type, firstBlock, blockCount, piece.list);
        return type === READ ? Uint8Array.from(piece.bytes) : null;
      } finally {
        piece.close();
      }
    } finally {
      this.#channels.release(channel);
    }
  }

  /** Throws what the first piece that fails does. */
  async #transfer(call: TransferCall): Promise<void> {
    const target = this.#channels.take(call.target);
    const source = call.source === null ? null : this.#channels.take(call.source);
    try {
      const run = new TransferRun(call, target, source, this.#arena);
      const lanes = await Promise.allSettled(Array.from({ length: LANES }, () => run.lane()));
      const failed = lanes.find((lane) => lane.status === 'rejected');
      if (failed !== undefined) throw failed.reason;
      await request(target, FLUSH, 0, 0, NO_LIST);
    } finally {
      if (source !== null) this.#channels.release(source);
      this.#channels.release(target);
    }
  }
}

class TransferRun {
  readonly #type: IoType;
  readonly #target: BdevChannel;
  readonly #source: BdevChannel | null;
  readonly #arena: IovArena;
  readonly #control: JobControl;
  readonly #pieces: Iterator<BlockRange>;
  /** A resync needs buffers. */
  readonly #hasData: boolean;
  #isOver = false;
  /** Monotonic milliseconds at which the limit lets the next piece through. */
  #nextMs = 0;

  constructor(call: TransferCall, target: BdevChannel, source: BdevChannel | null, arena: IovArena) {
    this.#type = call.type;
    this.#target = target;
    this.#source = source;
    this.#arena = arena;
    this.#control = new JobControl(call.control);
    this.#hasData = source !== null || call.type === RESYNC;
    const pieceBytes = this.#hasData ? PIECE_BYTES : EMPTY_PIECE_BYTES;
    this.#pieces = piecesOf(call.ranges, pieceBytes / target.blockSizeBytes);
  }

  async lane(): Promise<void> {
    const piece = this.#hasData ? await PieceBuffer.take(this.#arena, PIECE_BYTES) : null;
    try {
      for (;;) {
        await this.#letThrough();
        if (this.#isOver || this.#control.isCancelled) return;
        const { done, value } = this.#pieces.next();
        if (done === true) return;
        await this.#move(value, piece);
        this.#control.doneBytes += value[1] * this.#target.blockSizeBytes;
      }
    } catch (error) {
      this.#isOver = true;
      throw error;
    } finally {
      piece?.close();
    }
  }

  async #move([first, count]: BlockRange, piece: PieceBuffer | null): Promise<void> {
    this.#nextMs += this.#msOf(count * this.#target.blockSizeBytes);
    piece?.setLength(count * this.#target.blockSizeBytes);
    if (piece !== null && this.#source !== null) await request(this.#source, READ, first, count, piece.list);
    await request(this.#target, this.#type, first, count, piece?.list ?? NO_LIST);
  }

  /** What the limit allowed and was not used is gone, but for a moment's worth. */
  async #letThrough(): Promise<void> {
    while (this.#control.bytesPerSec > 0 && performance.now() < this.#nextMs) {
      if (this.#isOver || this.#control.isCancelled) return;
      await sleep(Math.min(LOOK_AGAIN_MS, Math.ceil(this.#nextMs - performance.now())));
    }
    this.#nextMs = Math.max(this.#nextMs, performance.now() - BURST_MS);
  }

  #msOf(bytes: number): number {
    const { bytesPerSec } = this.#control;
    return bytesPerSec === 0 ? 0 : (bytes / bytesPerSec) * 1000;
  }
}

function* piecesOf(ranges: readonly BlockRange[], blocksMax: number): Generator<BlockRange, undefined> {
  for (const [first, count] of ranges) {
    for (let at = 0; at < count; at += blocksMax) yield [first + at, Math.min(blocksMax, count - at)];
  }
}

/** Memory of one request, and the list that names it. */
class PieceBuffer {
  readonly list: number;
  readonly bytes: Uint8Array;
  readonly #arena: IovArena;
  readonly #memory: Mapping;
  readonly #views = new MappingViews();

  private constructor(arena: IovArena, list: number, lengthBytes: number) {
    this.#arena = arena;
    this.list = list;
    this.#memory = Mapping.anonymous(lengthBytes);
    this.bytes = new Uint8Array(this.#views.view(this.#memory, 0, lengthBytes));
  }

  /** Guests may have all lists for a while. */
  static async take(arena: IovArena, lengthBytes: number): Promise<PieceBuffer> {
    for (;;) {
      const list = arena.takeShort();
      if (list !== NO_LIST) return new PieceBuffer(arena, list, lengthBytes);
      await sleep(LOOK_AGAIN_MS);
    }
  }

  setLength(lengthBytes: number): void {
    this.#arena.set(this.list, this.#memory.address, lengthBytes);
  }

  close(): void {
    this.#views.close();
    this.#memory.close();
    this.#arena.release(this.list);
  }
}

/** Resolves when it has succeeded. Throws `EIO`, and `ENOSPC` when a thin disk has no room. */
async function request(
  channel: BdevChannel,
  type: IoType,
  firstBlock: number,
  blockCount: number,
  list: number,
): Promise<void> {
  const status = await new Promise<IoStatus>((resolve) => {
    const io = new BdevIo({ ioDone: (done) => resolve(done.status) });
    io.type = type;
    io.offsetBlocks = firstBlock;
    io.countBlocks = blockCount;
    io.lengthBytes = blockCount * channel.blockSizeBytes;
    io.iovFirst = list === NO_LIST ? NO_SEGMENTS : list;
    io.iovCount = list === NO_LIST ? 0 : 1;
    channel.submit(io);
  });
  if (status === IoStatus.success) return;
  if (status === IoStatus.noSpace) throw new TargetError('ENOSPC', `bdev "${channel.name}" has no room`);
  const place = type === FLUSH ? '' : ` of ${blockCount} blocks from block ${firstBlock} on`;
  throw new TargetError('EIO', `bdev "${channel.name}" failed a request (${TYPE_NAMES[type]}${place})`);
}

/** The main thread's side: everything is done by one reactor. */
export class ReactorBlocks implements BlockAccess {
  readonly #reactor: Pick<ReactorThread, 'call'>;

  constructor(reactor: Pick<ReactorThread, 'call'>) {
    this.#reactor = reactor;
  }

  async read(entry: BdevEntry, firstBlock: number, blockCount: number): Promise<Buffer> {
    const bytes = await this.#access(entry, { type: READ, firstBlock, blockCount, bytes: null });
    return Buffer.from(bytes as Uint8Array);
  }

  async write(entry: BdevEntry, firstBlock: number, bytes: Uint8Array): Promise<void> {
    const blockCount = bytes.length / entry.bdev.blockSizeBytes;
    await this.#access(entry, { type: WRITE, firstBlock, blockCount, bytes });
  }

  async flush(entry: BdevEntry): Promise<void> {
    await this.#access(entry, { type: FLUSH, firstBlock: 0, blockCount: 0, bytes: null });
  }

  async transfer({ type, target, source, ranges }: Transfer, control: JobControl): Promise<void> {
    const entries = source === undefined ? [target] : [source, target];
    await this.#using(
      entries,
      () => control.cancel(),
      () => {
        const call: TransferCall = {
          ...{ type, ranges, target: target.describe(), source: source?.describe() ?? null },
          control: control.memory,
        };
        return this.#reactor.call(BlockCall.transfer, call);
      },
    );
  }

  async #access(entry: BdevEntry, call: Omit<AccessCall, 'bdev'>): Promise<unknown> {
    const start = (): Promise<unknown> =>
      this.#reactor.call(BlockCall.access, { bdev: entry.describe(), ...call } satisfies AccessCall);
    return await this.#using([entry], () => {}, start);
  }

  async #using(entries: readonly BdevEntry[], onRemoved: () => void, start: () => Promise<unknown>): Promise<unknown> {
    const working = start();
    const user: BdevUser = {
      bdevChanged: async (entry) => {
        await this.#reactor.call('bdev.changed', entry.describe());
      },
      bdevRemoved: async ({ id }) => {
        onRemoved();
        await Promise.allSettled([this.#reactor.call('bdev.removed', id), working]);
      },
    };
    for (const entry of entries) entry.users.add(user);
    try {
      return await working;
    } finally {
      for (const entry of entries) entry.users.delete(user);
    }
  }
}
