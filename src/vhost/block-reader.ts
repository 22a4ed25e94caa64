/**
 * Reads a few blocks of a bdev for the main thread, which has no channels of its own: what is read is done by a reactor
 * as a guest's request would be.
 */
import { TargetError } from '../base/errors.ts';
import type { BdevDescription } from '../bdev/bdev.ts';
import { BdevIo, type IoOwner, IoStatus, IoType } from '../bdev/bdev-io.ts';
import type { BdevEntry, BdevUser } from '../bdev/registry.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { type IovArena, NO_LIST } from '../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../sys/mapping.ts';
import type { ChannelTable } from './channel-table.ts';

/** A partition table and its entries fit. */
const READ_BYTES_MAX = 2 ** 20;

export interface ReadCall {
  readonly bdev: BdevDescription;
  readonly firstBlock: number;
  readonly blockCount: number;
}

/** The reactor's side. */
export class BlockReader {
  readonly #channels: ChannelTable;
  readonly #arena: IovArena;

  constructor(channels: ChannelTable, arena: IovArena) {
    this.#channels = channels;
    this.#arena = arena;
  }

  /** Throws `EIO` when the bdev cannot read it, `EAGAIN` when there is no list for it now. */
  async read({ bdev, firstBlock, blockCount }: ReadCall): Promise<Uint8Array> {
    const lengthBytes = blockCount * bdev.blockSizeBytes;
    if (lengthBytes > READ_BYTES_MAX) throw new TargetError('EINVAL', `${lengthBytes} bytes are too many to read here`);
    const list = this.#arena.takeShort();
    if (list === NO_LIST) throw new TargetError('EAGAIN', 'all segment lists are in use: try again');
    const channel = this.#channels.take(bdev);
    const memory = Mapping.anonymous(lengthBytes);
    const views = new MappingViews();
    try {
      this.#arena.set(list, memory.address, lengthBytes);
      const status = await new Promise<IoStatus>((resolve) => {
        const owner: IoOwner = { ioDone: (done) => resolve(done.status) };
        const io = new BdevIo(owner);
        io.type = IoType.read;
        io.offsetBlocks = firstBlock;
        io.countBlocks = blockCount;
        io.lengthBytes = lengthBytes;
        io.iovFirst = list;
        io.iovCount = 1;
        channel.submit(io);
      });
      if (status !== IoStatus.success)
        throw new TargetError('EIO', `cannot read block ${firstBlock} of "${bdev.name}"`);
      return Uint8Array.from(new Uint8Array(views.view(memory, 0, lengthBytes)));
    } finally {
      views.close();
      memory.close();
      this.#channels.release(channel);
      this.#arena.release(list);
    }
  }
}

export const READ_BLOCKS = 'bdev.read';

/** The main thread's side. Rejects with what the reactor throws; a bdev that is deleted waits for the end of it. */
export async function readBlocks(
  reactor: Pick<ReactorThread, 'call'>,
  entry: BdevEntry,
  firstBlock: number,
  blockCount: number,
): Promise<Buffer> {
  const call: ReadCall = { bdev: entry.describe(), firstBlock, blockCount };
  const reading = reactor.call(READ_BLOCKS, call) as Promise<Uint8Array>;
  const user: BdevUser = {
    bdevChanged: async () => {},
    bdevRemoved: async () => {
      await Promise.allSettled([reactor.call('bdev.removed', entry.id), reading]);
    },
  };
  entry.users.add(user);
  try {
    return Buffer.from(await reading);
  } finally {
    entry.users.delete(user);
  }
}
