/**
 * Tracing of one queue: what each request is, when it was taken from the ring and when it was given back. Nothing of it
 * exists while there is no trace. What a request is is read from the guest's memory a second time: a guest that changes
 * it meanwhile deceives whoever looks at the trace, and nobody else.
 */
import { crc32 } from 'node:zlib';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { clockNs } from '../sys/thread.ts';
import { BLK_HEADER_BYTES, BLK_RANGE_BYTES, BlkRequestType, SECTOR_BYTES } from '../virtio/blk.ts';
import { Chain } from '../virtio/chain.ts';
import { SCSI_REQUEST_BYTES, SCSI_RESPONSE_BYTES, ScsiRequestOffset, ScsiResponseOffset } from '../virtio/scsi.ts';
import type { ChainData } from './chain-data.ts';
import { NO_HASH, type TraceWriter } from './trace-ring.ts';

/** In the order of bdev I/O types. */
export const TRACED_TYPES = ['read', 'write', 'flush', 'unmap', 'write_zeroes', 'other'] as const;
const TracedType = { read: 0, write: 1, flush: 2, unmap: 3, writeZeroes: 4, other: 5 } as const;

/** Which requests of a queue are traced. */
export interface RequestFilter {
  /** A bit for each type. */
  readonly types: number;
  /** Requests that touch these bytes of the disk; the end is not one of them. */
  readonly fromBytes: number;
  readonly toBytes: number;
  /** Requests that took at least so long. */
  readonly slowestNs: number;
  /** What a read brought is added up, too. */
  readonly hashesReads: boolean;
}

const SCRATCH = new Uint8Array(4096);
const VIEW = new DataView(SCRATCH.buffer);
const TWO_32 = 2 ** 32;
/** Of a slot whose request is not traced, or was taken before the trace began. */
const NOT_TRACED = 0;
const DEFAULT_BLOCK_BYTES = 512;
/** Of a discard or write zeroes: what a device takes at most (blk), and what a UNMAP may have (scsi). */
const RANGES_MAX = 256;
const NO_RANGES: readonly number[] = [];
const UNMAP_HEADER_BYTES = 8;
const UNMAP_DESCRIPTOR_BYTES = 16;
/** Descriptors that a kept chain has room for at least. */
const DESCRIPTORS_MIN = 16;

const { read: READ, write: WRITE, flush: FLUSH, unmap: UNMAP, writeZeroes: WRITE_ZEROES, other: OTHER } = TracedType;
const TYPE_BY_OPCODE: Readonly<Record<number, number>> = {
  ...{ 8: READ, 40: READ, 136: READ, 168: READ },
  ...{ 10: WRITE, 42: WRITE, 138: WRITE, 170: WRITE, 46: WRITE, 142: WRITE },
  ...{ 53: FLUSH, 145: FLUSH, 66: UNMAP, 65: WRITE_ZEROES, 147: WRITE_ZEROES },
};

export interface QueueTraceOptions {
  readonly kind: 'blk' | 'scsi';
  /** What the queue is called in the ring. */
  readonly queue: number;
  /** Entries of its ring. */
  readonly size: number;
  readonly memory: GuestMemory;
  readonly data: ChainData;
  readonly filter: RequestFilter;
  readonly writer: TraceWriter;
}

export class QueueTrace {
  readonly #options: QueueTraceOptions;
  // By head.
  readonly #startNs: Float64Array;
  readonly #offsets: Float64Array;
  readonly #lengths: Float64Array;
  readonly #types: Uint8Array;
  /** Guest physical address of the status. */
  readonly #statusAt: Float64Array;
  /** By head: offsets and lengths of a request's further ranges, where it has several. */
  readonly #moreRanges: (readonly number[] | undefined)[] = [];
  /** By head: the chain of a read whose data is added up. */
  readonly #chains: (Chain | undefined)[] = [];
  /** Of the last request: its type, and offset and length of each of its ranges. */
  #type: number = OTHER;
  readonly #ranges: number[] = [];
  /** Of the disk that the last read or write was for: other requests do not say. */
  #blockBytes = DEFAULT_BLOCK_BYTES;

  constructor(options: QueueTraceOptions) {
    this.#options = options;
    this.#startNs = new Float64Array(options.size);
    this.#offsets = new Float64Array(options.size);
    this.#lengths = new Float64Array(options.size);
    this.#types = new Uint8Array(options.size);
    this.#statusAt = new Float64Array(options.size);
  }

  /** A request was taken from the ring. */
  taken(chain: Chain): void {
    const { head } = chain;
    const { kind, filter } = this.#options;
    this.#startNs[head] = NOT_TRACED;
    this.#type = OTHER;
    this.#ranges.length = 0;
    if (kind === 'blk') this.#readBlk(chain);
    else this.#readScsi(chain);
    if (this.#ranges.length === 0) this.#ranges.push(0, 0);
    if (((filter.types >>> this.#type) & 1) === 0) return;
    const [offset, length, ...more] = this.#ranges.length === 2 ? this.#ranges : this.#wantedRanges();
    if (offset === undefined || length === undefined || !this.#isWanted(offset, length)) return;
    this.#offsets[head] = offset;
    this.#lengths[head] = length;
    this.#types[head] = this.#type;
    this.#moreRanges[head] = more.length === 0 ? undefined : more;
    if (filter.hashesReads && this.#type === READ) this.#keep(chain);
    this.#startNs[head] = clockNs();
  }

  /** It was given back: with several ranges, as one request for each. */
  completed(head: number): void {
    const startNs = this.#startNs[head] as number;
    if (startNs === NOT_TRACED) return;
    this.#startNs[head] = NOT_TRACED;
    const { filter, writer, queue } = this.#options;
    const endNs = clockNs();
    if (endNs - startNs < filter.slowestNs) return;
    const [type, offset, length] = [this.#types[head], this.#offsets[head], this.#lengths[head]];
    const status = this.#statusOf(head);
    const hash = filter.hashesReads && type === READ && status === 0 ? this.#hashOf(head) : NO_HASH;
    writer.write(startNs, endNs, queue, type as number, offset as number, length as number, status, hash);
    const more = this.#moreRanges[head] ?? NO_RANGES;
    for (let i = 0; i < more.length; i += 2) {
      writer.write(startNs, endNs, queue, type as number, more[i] as number, more[i + 1] as number, status, NO_HASH);
    }
  }

  #isWanted(offset: number, length: number): boolean {
    const { fromBytes, toBytes } = this.#options.filter;
    if (fromBytes === 0 && toBytes === Number.POSITIVE_INFINITY) return true;
    return offset < toBytes && offset + length > fromBytes;
  }

  #wantedRanges(): number[] {
    const wanted: number[] = [];
    for (let i = 0; i < this.#ranges.length; i += 2) {
      const [offset, length] = [this.#ranges[i] as number, this.#ranges[i + 1] as number];
      if (this.#isWanted(offset, length)) wanted.push(offset, length);
    }
    return wanted;
  }

  #keep(chain: Chain): void {
    let own = this.#chains[chain.head];
    if (own === undefined || own.lengths.length < chain.count) own = new Chain(Math.max(chain.count, DESCRIPTORS_MIN));
    own.copyFrom(chain);
    this.#chains[chain.head] = own;
  }

  /** CRC-32 of what a read brought. The driver has not been told yet that it is there. */
  #hashOf(head: number): number {
    const { kind, memory } = this.#options;
    const chain = this.#chains[head];
    if (chain === undefined) return NO_HASH;
    let skip = kind === 'scsi' ? SCSI_RESPONSE_BYTES : 0;
    let left = this.#lengths[head] as number;
    let hash = 0;
    for (let i = chain.readableCount; i < chain.count && left > 0; i++) {
      const length = chain.lengths[i] as number;
      const end = Math.min(length, skip + left);
      while (skip < end) {
        const window = memory.locate(chain.addresses, i, skip, end - skip);
        const take = window === null ? Math.min(SCRATCH.length, end - skip) : end - skip;
        if (window !== null) hash = crc32(window.bytes.subarray(memory.offset, memory.offset + take), hash);
        else if (memory.read(chain.addresses, i, skip, SCRATCH, 0, take)) hash = crc32(SCRATCH.subarray(0, take), hash);
        else return NO_HASH;
        skip += take;
        left -= take;
      }
      skip -= Math.min(skip, length);
    }
    return left === 0 ? hash : NO_HASH;
  }

  #readBlk(chain: Chain): void {
    const { data } = this.#options;
    let last = chain.count - 1;
    while (last > 0 && (chain.lengths[last] as number) === 0) last--;
    this.#statusAt[chain.head] = (chain.addresses[last] as number) + (chain.lengths[last] as number) - 1;
    if (chain.readableBytes < BLK_HEADER_BYTES || !data.gather(chain, 0, SCRATCH, 0, BLK_HEADER_BYTES)) return;
    const type = VIEW.getUint32(0, true);
    const offset = readU64(8) * SECTOR_BYTES;
    if (type === BlkRequestType.IN) {
      this.#type = READ;
      this.#ranges.push(offset, Math.max(0, chain.writableBytes - 1));
    } else if (type === BlkRequestType.OUT) {
      this.#type = WRITE;
      this.#ranges.push(offset, chain.readableBytes - BLK_HEADER_BYTES);
    } else if (type === BlkRequestType.FLUSH) this.#type = FLUSH;
    else if (type === BlkRequestType.DISCARD) this.#readRanges(chain, UNMAP);
    else if (type === BlkRequestType.WRITE_ZEROES) this.#readRanges(chain, WRITE_ZEROES);
  }

  #readRanges(chain: Chain, type: number): void {
    this.#type = type;
    const count = Math.min(Math.floor((chain.readableBytes - BLK_HEADER_BYTES) / BLK_RANGE_BYTES), RANGES_MAX);
    for (let i = 0; i < count; i++) {
      const at = BLK_HEADER_BYTES + i * BLK_RANGE_BYTES;
      if (!this.#options.data.gather(chain, at, SCRATCH, 0, BLK_RANGE_BYTES)) return;
      this.#ranges.push(readU64(0) * SECTOR_BYTES, VIEW.getUint32(8, true) * SECTOR_BYTES);
    }
  }

  #readScsi(chain: Chain): void {
    this.#statusAt[chain.head] = placeInWritable(chain, ScsiResponseOffset.status);
    if (chain.readableBytes < SCSI_REQUEST_BYTES) return;
    if (!this.#options.data.gather(chain, 0, SCRATCH, 0, SCSI_REQUEST_BYTES)) return;
    const cdb = ScsiRequestOffset.cdb;
    const opcode = SCRATCH[cdb] as number;
    this.#type = TYPE_BY_OPCODE[opcode] ?? OTHER;
    if (this.#type === OTHER) return;
    const [lba, blocks] = rangeOf(cdb, opcode >>> 5);
    const out = chain.readableBytes - SCSI_REQUEST_BYTES;
    const moved = this.#type === READ ? chain.writableBytes - SCSI_RESPONSE_BYTES : out;
    if ((this.#type === READ || this.#type === WRITE) && blocks > 0 && moved % blocks === 0) {
      this.#blockBytes = moved / blocks;
    }
    if (this.#type === UNMAP) this.#readUnmap(chain, out);
    else this.#ranges.push(lba * this.#blockBytes, blocks * this.#blockBytes);
  }

  /** The parameter list of an UNMAP (SBC-3 §5.28.2). */
  #readUnmap(chain: Chain, lengthBytes: number): void {
    const count = Math.min(Math.floor((lengthBytes - UNMAP_HEADER_BYTES) / UNMAP_DESCRIPTOR_BYTES), RANGES_MAX);
    for (let i = 0; i < count; i++) {
      const at = SCSI_REQUEST_BYTES + UNMAP_HEADER_BYTES + i * UNMAP_DESCRIPTOR_BYTES;
      if (!this.#options.data.gather(chain, at, SCRATCH, 0, UNMAP_DESCRIPTOR_BYTES)) return;
      const lba = VIEW.getUint32(0) * TWO_32 + VIEW.getUint32(4);
      this.#ranges.push(lba * this.#blockBytes, VIEW.getUint32(8) * this.#blockBytes);
    }
  }

  /** 0 when all is well. For blk the status byte; for scsi the status, and the response 256 times. */
  #statusOf(head: number): number {
    const { kind, memory } = this.#options;
    const isScsi = kind === 'scsi';
    const window = memory.locate(this.#statusAt, head, 0, isScsi ? 2 : 1);
    if (window === null) return 0;
    const status = window.bytes[memory.offset] as number;
    return isScsi ? status + (window.bytes[memory.offset + 1] as number) * 256 : status;
  }
}

/** Little-endian. */
function readU64(at: number): number {
  return VIEW.getUint32(at + 4, true) * TWO_32 + VIEW.getUint32(at, true);
}

/** First block and number of blocks of a CDB, by the group of its opcode (SPC-4 §4.2.5.1). */
function rangeOf(cdb: number, group: number): readonly [lba: number, blocks: number] {
  if (group === 0) return [VIEW.getUint32(cdb) & 0x1f_ffff, VIEW.getUint8(cdb + 4) || 256];
  if (group === 4) {
    return [VIEW.getUint32(cdb + 2) * TWO_32 + VIEW.getUint32(cdb + 6), VIEW.getUint32(cdb + 10)];
  }
  return [VIEW.getUint32(cdb + 2), group === 5 ? VIEW.getUint32(cdb + 6) : VIEW.getUint16(cdb + 7)];
}

/** Address of a byte of the device-writable part; 0 when it has none. */
function placeInWritable(chain: Chain, offset: number): number {
  let skip = offset;
  for (let i = chain.readableCount; i < chain.count; i++) {
    const length = chain.lengths[i] as number;
    if (skip < length) return (chain.addresses[i] as number) + skip;
    skip -= length;
  }
  return 0;
}
