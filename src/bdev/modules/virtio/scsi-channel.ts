/** Requests of a virtio-scsi disk (virtio 1.3 §5.6.6.1): the commands of SBC-3 that a disk is used with. */
import {
  encodeLun,
  SCSI_REQUEST_BYTES,
  ScsiRequestOffset,
  ScsiResponse,
  ScsiResponseOffset,
} from '../../../virtio/scsi.ts';
import type { BdevDescription, ChannelContext } from '../../bdev.ts';
import { type BdevIo, IoType } from '../../bdev-io.ts';
import { SCSI_FORM, type ScsiChannelParams, TableWord, UNMAP_LIST_BYTES } from './layout.ts';
import { Opcode, ScsiStatus, SenseCode, SenseKey } from './scsi-commands.ts';
import { Data, Verdict } from './target-queue.ts';
import { VirtioChannel } from './virtio-channel.ts';

const TWO_32 = 2 ** 32;
const LUN = ScsiRequestOffset.lun;
const TAG = ScsiRequestOffset.tag;
const CDB = ScsiRequestOffset.cdb;
const RESIDUAL = ScsiResponseOffset.residual;
const UNMAP_BIT = 0x08;
/** Of an UNMAP parameter list: the lengths of what follows the fields themselves. */
const UNMAP_DATA_BYTES = UNMAP_LIST_BYTES - 2;
const UNMAP_RANGES_BYTES = UNMAP_LIST_BYTES - 8;

// Constants of this module are part of the compiled code; an imported one is loaded and checked at every use.
const { read: READ, write: WRITE, flush: FLUSH, unmap: UNMAP } = IoType;

export class ScsiChannel extends VirtioChannel {
  readonly #target: number;
  readonly #lun: number;
  readonly #dataBytesMax: number;
  readonly #unmapBytesMax: number;
  readonly #zeroBytesMax: number;
  readonly #zeroFlags: number;

  constructor(description: BdevDescription, context: ChannelContext) {
    super(description, context, SCSI_FORM);
    const params = description.params as ScsiChannelParams;
    this.#target = params.target;
    this.#lun = params.lun;
    this.#dataBytesMax = params.dataBytesMax;
    this.#unmapBytesMax = params.unmapBlocksMax * description.blockSizeBytes;
    this.#zeroBytesMax = params.zeroBlocksMax * description.blockSizeBytes;
    this.#zeroFlags = params.zeroMayUnmap ? UNMAP_BIT : 0;
    this.update(description);
  }

  pieceMax({ type }: BdevIo): number {
    if (type === READ || type === WRITE) return this.#dataBytesMax;
    return type === UNMAP ? this.#unmapBytesMax : this.#zeroBytesMax;
  }

  encode(slot: number, io: BdevIo, doneBytes: number, lengthBytes: number): number {
    const { layout, bytes, number } = this.queue;
    const { type } = io;
    const at = layout.requests + slot * layout.requestBytes;
    bytes.fill(0, at, at + SCSI_REQUEST_BYTES);
    encodeLun(bytes, at + LUN, this.#target, this.#lun);
    // One at a time for each slot of each queue.
    bytes[at + TAG] = slot;
    bytes[at + TAG + 1] = slot >>> 8;
    bytes[at + TAG + 2] = number;
    const cdb = at + CDB;
    if (type === FLUSH) {
      bytes[cdb] = Opcode.synchronizeCache10;
      return Data.none;
    }
    const block = io.offsetBlocks + doneBytes / this.blockSizeBytes;
    const blocks = lengthBytes / this.blockSizeBytes;
    if (type === UNMAP) {
      bytes[cdb] = Opcode.unmap;
      bytes[cdb + 8] = UNMAP_LIST_BYTES;
      this.#encodeUnmap(at + layout.parameters, block, blocks);
      return Data.parameters;
    }
    if (type !== READ && type !== WRITE) {
      bytes[cdb] = Opcode.writeSame16;
      bytes[cdb + 1] = this.#zeroFlags;
      writeU64(bytes, cdb + 2, block);
      writeU32(bytes, cdb + 10, blocks);
      return Data.zeroes;
    }
    // The short form where it will do: not every target has the other.
    if (block + blocks <= TWO_32 && blocks <= 0xffff) {
      bytes[cdb] = type === READ ? Opcode.read10 : Opcode.write10;
      writeU32(bytes, cdb + 2, block);
      bytes[cdb + 7] = blocks >>> 8;
      bytes[cdb + 8] = blocks;
    } else {
      bytes[cdb] = type === READ ? Opcode.read16 : Opcode.write16;
      writeU64(bytes, cdb + 2, block);
      writeU32(bytes, cdb + 10, blocks);
    }
    return type === READ ? Data.in : Data.out;
  }

  judge(slot: number, io: BdevIo): number {
    const { layout, bytes } = this.queue;
    const at = layout.responses + slot * layout.responseBytes;
    const response = bytes[at + ScsiResponseOffset.response] as number;
    if (response !== ScsiResponse.OK) return this.#undelivered(response);
    const status = bytes[at + ScsiResponseOffset.status] as number;
    if (status === ScsiStatus.good) {
      // Data that are not all there are none.
      const hasData = io.type === READ || io.type === WRITE;
      return hasData && this.queue.words[(at + RESIDUAL) / 4] !== 0 ? Verdict.failed : Verdict.success;
    }
    if (status === ScsiStatus.busy || status === ScsiStatus.taskSetFull) return Verdict.later;
    if (status === ScsiStatus.taskAborted) return Verdict.again;
    return status === ScsiStatus.checkCondition ? this.#sensed(at, io) : Verdict.failed;
  }

  protected override isReady(description: BdevDescription): boolean {
    return (description.params as ScsiChannelParams).isPresent;
  }

  #encodeUnmap(at: number, block: number, blocks: number): void {
    const { bytes } = this.queue;
    bytes.fill(0, at, at + UNMAP_LIST_BYTES);
    bytes[at + 1] = UNMAP_DATA_BYTES;
    bytes[at + 3] = UNMAP_RANGES_BYTES;
    writeU64(bytes, at + 8, block);
    writeU32(bytes, at + 16, blocks);
  }

  /** The command did not come to its unit. */
  #undelivered(response: number): number {
    if (response === ScsiResponse.BUSY) return Verdict.later;
    if (response === ScsiResponse.RESET || response === ScsiResponse.ABORTED) return Verdict.again;
    // Its target is not there any more: the main thread looks what is.
    if (response === ScsiResponse.BAD_TARGET) this.queue.tell(TableWord.changed);
    return Verdict.failed;
  }

  /** Of fixed or descriptor sense (SPC-4 §4.5). */
  #sensed(response: number, io: BdevIo): number {
    const { bytes } = this.queue;
    const at = response + ScsiResponseOffset.sense;
    const isDescriptor = ((bytes[at] as number) & 0x7f) >= 0x72;
    const key = (bytes[at + (isDescriptor ? 1 : 2)] as number) & 0xf;
    const asc = bytes[at + (isDescriptor ? 2 : 12)] as number;
    const ascq = bytes[at + (isDescriptor ? 3 : 13)] as number;
    const code = (asc << 8) | ascq;
    if (key === SenseKey.recoveredError) return Verdict.success;
    if (key === SenseKey.abortedCommand) return Verdict.again;
    if (key === SenseKey.unitAttention) {
      const isNews = code === SenseCode.capacityChanged || code === SenseCode.lunsChanged;
      if (isNews) this.queue.tell(TableWord.changed);
      return Verdict.again;
    }
    if (code === SenseCode.becomingReady && key === SenseKey.notReady) return Verdict.later;
    if (key !== SenseKey.illegalRequest) return Verdict.failed;
    // A unit without a cache need not know how to empty it.
    if (io.type === FLUSH && code === SenseCode.invalidOpcode) return Verdict.success;
    if (code === SenseCode.lunNotSupported) this.queue.tell(TableWord.changed);
    return Verdict.failed;
  }
}

function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

function writeU64(bytes: Uint8Array, at: number, value: number): void {
  writeU32(bytes, at, value / TWO_32);
  writeU32(bytes, at + 4, value % TWO_32);
}
