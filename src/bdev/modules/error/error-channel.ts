/**
 * An error disk's channel: asks the table of faults about each request. A corrupted write sends one byte of its own
 * between the guest's, whose memory stays as it is; a corrupted read changes one byte of what was read.
 */
import { IOV_LONG_ENTRIES, type IovArena, NO_LIST } from '../../../sys/iov-arena.ts';
import { Mapping, MappingViews } from '../../../sys/mapping.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BaseChannel, type BdevIo, IoStatus, IoType } from '../../bdev-io.ts';
import { StackedChannel } from '../../stacked-channel.ts';
import { BOUNCE_BYTES, BounceBuffers, NO_BOUNCE } from '../bounce-buffers.ts';
import { Fault, FaultTable } from './rules.ts';

const BUFFERS = 64;
const { read: READ, write: WRITE } = IoType;
const { success: SUCCESS, failed: FAILED, aborted: ABORTED } = IoStatus;

/** A request whose data is corrupted. */
interface Corruption {
  readonly offset: number;
  readonly value: number;
  /** Of a write: its own segment list, and the buffer with the changed byte. */
  readonly list: number;
  readonly buffer: number;
}

export class ErrorChannel extends StackedChannel {
  readonly #arena: IovArena;
  readonly #faults: FaultTable;
  readonly #corruptions = new Map<BdevIo, Corruption>();
  #pending: BdevIo[] = [];
  #resumes: number;
  #inFlight = 0;
  #bytes: CorruptBytes | null = null;

  constructor(description: BdevDescription, context: ChannelContext) {
    super(description, context);
    this.#arena = context.arena;
    this.#faults = new FaultTable(description.params.faults as SharedArrayBuffer);
    this.#resumes = this.#faults.resumes;
  }

  override submit(io: BdevIo): void {
    this.#inFlight++;
    const fault = this.#faults.strike(io.type, io.offsetBlocks, io.countBlocks, this.#inFlight - 1);
    if (fault === Fault.failure) this.#end(io, FAILED);
    else if (fault === Fault.pending) this.#pending.push(io);
    else if (fault === Fault.corruptData) this.#corrupt(io);
    else this.forward(io, 0);
  }

  protected override baseDone(io: BdevIo, status: IoStatus): void {
    const corruption = this.#corruptions.get(io);
    if (corruption !== undefined) this.#corrupted(io, corruption, status);
    this.#end(io, status);
  }

  /** The rules changed, perhaps by the call that lets go on what is pending. */
  override update(description: BdevDescription): void {
    super.update(description);
    const { resumes } = this.#faults;
    if (resumes === this.#resumes) return;
    this.#resumes = resumes;
    const waiting = this.#pending;
    this.#pending = [];
    for (const io of waiting) this.forward(io, 0);
  }

  override abandon(): void {
    const waiting = this.#pending;
    this.#pending = [];
    for (const io of waiting) this.#end(io, ABORTED);
    super.abandon();
  }

  override close(): void {
    this.#bytes?.close();
    super.close();
  }

  #end(io: BdevIo, status: IoStatus): void {
    this.#inFlight--;
    io.complete(status);
  }

  #corrupt(io: BdevIo): void {
    const { corruptOffset: offset, corruptValue: value } = this.#faults;
    this.#bytes ??= new CorruptBytes(this.#arena);
    if ((io.type !== READ && io.type !== WRITE) || offset >= io.lengthBytes) {
      this.forward(io, 0);
      return;
    }
    if (io.type === READ) {
      this.#corruptions.set(io, { offset, value, list: NO_LIST, buffer: NO_BOUNCE });
      this.forward(io, 0);
      return;
    }
    const { list, entries, buffer } = this.#bytes.makeWrite(io, offset, value);
    if (list === NO_LIST) {
      this.#end(io, FAILED);
      return;
    }
    this.#corruptions.set(io, { offset, value, list, buffer });
    const below = this.below(io);
    below.iovFirst = list;
    below.iovCount = entries;
    (this.bases[0] as BaseChannel).submit(below);
  }

  #corrupted(io: BdevIo, { offset, value, list, buffer }: Corruption, status: IoStatus): void {
    this.#corruptions.delete(io);
    if (io.type === WRITE) this.#bytes?.giveBack(list, buffer);
    else if (status === SUCCESS) this.#bytes?.changeRead(io, offset, value);
  }
}

const NOTHING = { list: NO_LIST, entries: 0, buffer: NO_BOUNCE } as const;

/** Bytes that differ from the guest's by what corrupts them. */
class CorruptBytes {
  readonly #arena: IovArena;
  readonly #memory = Mapping.anonymous(BUFFERS * BOUNCE_BYTES);
  readonly #views = new MappingViews();
  readonly #view = new Uint8Array(this.#views.view(this.#memory, 0, this.#memory.lengthBytes));
  readonly #buffers = new BounceBuffers(this.#memory);

  constructor(arena: IovArena) {
    this.#arena = arena;
  }

  /** A list with the changed byte in the place of the guest's. `NO_LIST` when there is no room for one. */
  makeWrite(io: BdevIo, offset: number, value: number): { list: number; entries: number; buffer: number } {
    const arena = this.#arena;
    const { iovFirst: first, iovCount: count } = io;
    const list = count + 2 > IOV_LONG_ENTRIES ? NO_LIST : arena.takeLong();
    if (list === NO_LIST) return NOTHING;
    const buffer = this.#changed(io, offset, value);
    if (buffer === NO_BOUNCE) {
      arena.release(list);
      return NOTHING;
    }
    let entries = arena.setPart(list, IOV_LONG_ENTRIES, arena, first, count, 0, offset);
    arena.set(list + entries++, this.#buffers.addressOf(buffer), 1);
    const room = IOV_LONG_ENTRIES - entries;
    entries += arena.setPart(list + entries, room, arena, first, count, offset + 1, io.lengthBytes - offset - 1);
    return { list, entries, buffer };
  }

  giveBack(list: number, buffer: number): void {
    this.#arena.release(list);
    this.#buffers.release(buffer);
  }

  /** What was read is in the guest's memory. */
  changeRead(io: BdevIo, offset: number, value: number): void {
    const buffer = this.#changed(io, offset, value);
    if (buffer === NO_BOUNCE) return;
    this.#buffers.scatter(buffer, this.#arena, io.iovFirst, io.iovCount, offset, 1);
    this.#buffers.release(buffer);
  }

  close(): void {
    this.#buffers.close();
    this.#views.close();
    this.#memory.close();
  }

  /** A buffer that starts with the changed byte. */
  #changed(io: BdevIo, offset: number, value: number): number {
    const buffer = this.#buffers.take();
    if (buffer === NO_BOUNCE) return buffer;
    this.#buffers.gather(buffer, this.#arena, io.iovFirst, io.iovCount, offset, 1);
    const at = buffer * BOUNCE_BYTES;
    this.#view[at] = (this.#view[at] as number) ^ value;
    return buffer;
  }
}
