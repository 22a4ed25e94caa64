/** How a load generator's requests look on the wire: for blk, and for a LUN behind scsi. */
import { BLK_HEADER_BYTES, BlkRequestType, BlkStatus, SECTOR_BYTES } from '../virtio/blk.ts';
import {
  encodeLun,
  SCSI_REQUEST_BYTES,
  SCSI_RESPONSE_BYTES,
  ScsiRequestOffset,
  ScsiResponse,
  ScsiResponseOffset,
} from '../virtio/scsi.ts';

/** Each request is a header, data in one piece, and an answer. Called on the hot path: nothing here allocates. */
export interface LoadProtocol {
  readonly headerBytes: number;
  readonly answerBytes: number;
  /** Whether the answer stands before the data of a read. */
  readonly isAnswerFirst: boolean;
  /** Fills in what is the same for every request of a slot. */
  prepare(bytes: Uint8Array, at: number): void;
  /** Fills in the rest of the header. */
  encode(bytes: Uint8Array, at: number, block: number, isWrite: boolean): void;
  /** Makes the answer say that nothing came. */
  spoil(bytes: Uint8Array, at: number): void;
  isGood(bytes: Uint8Array, at: number): boolean;
}

const SPOILED = 0xff;
const TWO_24 = 2 ** 24;
const TWO_32 = 2 ** 32;

export class BlkProtocol implements LoadProtocol {
  readonly headerBytes = BLK_HEADER_BYTES;
  readonly answerBytes = 1;
  readonly isAnswerFirst = false;
  readonly #sectorsPerBlock: number;

  constructor(blockBytes: number) {
    this.#sectorsPerBlock = blockBytes / SECTOR_BYTES;
  }

  prepare(bytes: Uint8Array, at: number): void {
    bytes.fill(0, at, at + BLK_HEADER_BYTES);
  }

  encode(bytes: Uint8Array, at: number, block: number, isWrite: boolean): void {
    const sector = block * this.#sectorsPerBlock;
    bytes[at] = isWrite ? BlkRequestType.OUT : BlkRequestType.IN;
    const low = sector >>> 0;
    const high = sector / TWO_32;
    bytes[at + 8] = low;
    bytes[at + 9] = low >>> 8;
    bytes[at + 10] = low >>> 16;
    bytes[at + 11] = low >>> 24;
    bytes[at + 12] = high;
    bytes[at + 13] = high >>> 8;
  }

  spoil(bytes: Uint8Array, at: number): void {
    bytes[at] = SPOILED;
  }

  isGood(bytes: Uint8Array, at: number): boolean {
    return bytes[at] === BlkStatus.OK;
  }
}

/** READ(10) and WRITE(10). */
export class ScsiProtocol implements LoadProtocol {
  readonly headerBytes = SCSI_REQUEST_BYTES;
  readonly answerBytes = SCSI_RESPONSE_BYTES;
  readonly isAnswerFirst = true;
  readonly #target: number;
  readonly #lun: number;
  /** Logical blocks of the disk in a block of the load. */
  readonly #count: number;

  constructor(target: number, lun: number, blockBytes: number, logicalBlockBytes: number) {
    this.#target = target;
    this.#lun = lun;
    this.#count = blockBytes / logicalBlockBytes;
  }

  prepare(bytes: Uint8Array, at: number): void {
    bytes.fill(0, at, at + SCSI_REQUEST_BYTES);
    encodeLun(bytes, at + ScsiRequestOffset.lun, this.#target, this.#lun);
    // The tag tells the slots apart.
    bytes[at + ScsiRequestOffset.tag] = at;
    bytes[at + ScsiRequestOffset.tag + 1] = at >>> 8;
    bytes[at + ScsiRequestOffset.tag + 2] = at >>> 16;
    bytes[at + ScsiRequestOffset.cdb + 7] = this.#count >>> 8;
    bytes[at + ScsiRequestOffset.cdb + 8] = this.#count;
  }

  encode(bytes: Uint8Array, at: number, block: number, isWrite: boolean): void {
    const cdb = at + ScsiRequestOffset.cdb;
    const lba = block * this.#count;
    bytes[cdb] = isWrite ? 0x2a : 0x28;
    bytes[cdb + 2] = lba / TWO_24;
    bytes[cdb + 3] = lba >>> 16;
    bytes[cdb + 4] = lba >>> 8;
    bytes[cdb + 5] = lba;
  }

  spoil(bytes: Uint8Array, at: number): void {
    bytes[at + ScsiResponseOffset.response] = SPOILED;
  }

  isGood(bytes: Uint8Array, at: number): boolean {
    return bytes[at + ScsiResponseOffset.response] === ScsiResponse.OK && bytes[at + ScsiResponseOffset.status] === 0;
  }
}
