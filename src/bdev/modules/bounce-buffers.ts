/**
 * Aligned memory for transfers that cannot use the guest's buffers as they are: buffers that O_DIRECT or a drive does
 * not take, the rest of a transfer that was cut short, lists longer than a system call may have.
 */
import { CopyEngine } from '../../sys/copy-engine.ts';
import { IOV_LONG_ENTRIES, IovArena } from '../../sys/iov-arena.ts';
import { Mapping, type MappingInfo } from '../../sys/mapping.ts';

/** One buffer: what larger transfers are cut into. A multiple of every block size. */
export const BOUNCE_BYTES = 256 * 1024;
const BUFFERS = 8;

export const NO_BOUNCE = -1;

export class BounceBuffers {
  readonly #memory: MappingInfo;
  /** When the memory is not somebody else's. */
  readonly #own: Mapping | null;
  readonly #list = new IovArena(0, 1);
  readonly #engine = new CopyEngine(this.#list, 1);
  readonly #free: number[];

  /** `memory`: a multiple of `BOUNCE_BYTES`. Default: its own, with zeroes behind the last buffer. */
  constructor(memory?: MappingInfo) {
    // Untouched memory costs nothing, and reads as zeroes.
    this.#own = memory === undefined ? Mapping.anonymous((BUFFERS + 1) * BOUNCE_BYTES) : null;
    this.#memory = memory ?? (this.#own as Mapping);
    const count = memory === undefined ? BUFFERS : memory.lengthBytes / BOUNCE_BYTES;
    this.#free = Array.from({ length: count }, (_, index) => index);
    this.#engine.setDisk(this.#memory.address, 1, this.#memory.lengthBytes);
  }

  /** `NO_BOUNCE` when all are taken. */
  take(): number {
    return this.#free.pop() ?? NO_BOUNCE;
  }

  release(index: number): void {
    this.#free.push(index);
  }

  addressOf(index: number): number {
    return this.#memory.address + index * BOUNCE_BYTES;
  }

  /** `BOUNCE_BYTES` of zeroes, never written, in memory of its own. */
  get zeroesAddress(): number {
    return this.addressOf(BUFFERS);
  }

  /** Copies a buffer's first bytes into the segments of a list, `skipBytes` from its start. */
  scatter(index: number, arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    const entries = this.#part(arena, first, count, skipBytes, lengthBytes);
    this.#engine.read(index * BOUNCE_BYTES, lengthBytes, 0, entries);
    this.#engine.run();
  }

  /** Fills a buffer's first bytes from the segments of a list, `skipBytes` from its start. */
  gather(index: number, arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): void {
    const entries = this.#part(arena, first, count, skipBytes, lengthBytes);
    this.#engine.write(index * BOUNCE_BYTES, lengthBytes, 0, entries);
    this.#engine.run();
  }

  close(): void {
    this.#engine.close();
    this.#list.close();
    this.#own?.close();
  }

  /** Makes our own list of a part of another one. Returns its entries. */
  #part(arena: IovArena, first: number, count: number, skipBytes: number, lengthBytes: number): number {
    return this.#list.setPart(0, IOV_LONG_ENTRIES, arena, first, count, skipBytes, lengthBytes);
  }
}
