/** Requests of a virtio-blk disk (virtio 1.3 §5.2.6). */
import { BLK_RANGE_UNMAP, BlkRequestType, BlkStatus, SECTOR_BYTES } from '../../../virtio/blk.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, IoType } from '../../bdev-io.ts';
import { BLK_FORM, type BlkChannelParams } from './layout.ts';
import { Data, Verdict } from './target-queue.ts';
import { VirtioChannel } from './virtio-channel.ts';

const TWO_32 = 2 ** 32;
/** A target that names no limit takes any; so much at most is asked for at once. */
const RANGE_BYTES_MAX = 2 ** 30;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE, flush: FLUSH, unmap: UNMAP } = IoType;
const OK = BlkStatus.OK;

export class BlkChannel extends VirtioChannel {
  readonly #sectorsPerBlock: number;
  readonly #dataBytesMax: number;
  readonly #discardBytesMax: number;
  readonly #zeroBytesMax: number;
  readonly #zeroFlags: number;

  constructor(description: BdevDescription, context: ChannelContext) {
    super(description, context, BLK_FORM);
    const params = description.params as BlkChannelParams;
    const { blockSizeBytes } = description;
    this.#sectorsPerBlock = blockSizeBytes / SECTOR_BYTES;
    this.#dataBytesMax = params.dataBytesMax;
    this.#discardBytesMax = wholeBlocks(params.discardSectorsMax * SECTOR_BYTES, blockSizeBytes);
    this.#zeroBytesMax = wholeBlocks(params.zeroSectorsMax * SECTOR_BYTES, blockSizeBytes);
    this.#zeroFlags = params.zeroMayUnmap ? BLK_RANGE_UNMAP : 0;
    this.update(description);
  }

  pieceMax({ type }: BdevIo): number {
    if (type === READ || type === WRITE) return this.#dataBytesMax;
    return type === UNMAP ? this.#discardBytesMax : this.#zeroBytesMax;
  }

  encode(slot: number, io: BdevIo, doneBytes: number, lengthBytes: number): number {
    const { layout, words } = this.queue;
    const { type } = io;
    const hasData = type === READ || type === WRITE;
    const sector = type === FLUSH ? 0 : io.offsetBlocks * this.#sectorsPerBlock + doneBytes / SECTOR_BYTES;
    const at = (layout.requests + slot * layout.requestBytes) / 4;
    words[at] = requestType(type);
    words[at + 1] = 0;
    words[at + 2] = hasData ? sector >>> 0 : 0;
    words[at + 3] = hasData ? sector / TWO_32 : 0;
    if (hasData) return type === WRITE ? Data.out : Data.in;
    if (type === FLUSH) return Data.none;
    const range = at + layout.parameters / 4;
    words[range] = sector >>> 0;
    words[range + 1] = sector / TWO_32;
    words[range + 2] = lengthBytes / SECTOR_BYTES;
    words[range + 3] = type === UNMAP ? 0 : this.#zeroFlags;
    return Data.parameters;
  }

  judge(slot: number): number {
    const { layout, bytes } = this.queue;
    return bytes[layout.responses + slot * layout.responseBytes] === OK ? Verdict.success : Verdict.failed;
  }

  protected override isReady(): boolean {
    return true;
  }
}

/** So many bytes at most in one request, in whole blocks; a target that says nothing takes any. */
function wholeBlocks(bytes: number, blockSizeBytes: number): number {
  const most = bytes === 0 ? RANGE_BYTES_MAX : Math.min(bytes, RANGE_BYTES_MAX);
  return Math.max(blockSizeBytes, most - (most % blockSizeBytes));
}

function requestType(type: IoType): number {
  if (type === READ) return BlkRequestType.IN;
  if (type === WRITE) return BlkRequestType.OUT;
  if (type === FLUSH) return BlkRequestType.FLUSH;
  return type === UNMAP ? BlkRequestType.DISCARD : BlkRequestType.WRITE_ZEROES;
}
