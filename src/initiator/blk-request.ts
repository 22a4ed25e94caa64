/** One virtio-blk request in guest memory (virtio 1.3 §5.2.6), cut into descriptors in any way. */
import { BLK_HEADER_BYTES } from '../virtio/blk.ts';
import type { Completion } from './driver-queue.ts';
import type { OwnedMemory } from './owned-memory.ts';
import { concatenate, RequestBuffers, type RequestShape } from './request-buffers.ts';

/** By default the header and the data are a descriptor each, then the data for the driver and the status. */
export interface BlkRequest extends RequestShape {
  readonly type: number;
  /** Second word of the header: reserved, formerly a priority. Default 0. */
  readonly ioprio?: number;
  /** In 512-byte units. Default 0. */
  readonly sector?: number | bigint;
  /** Data for the device. */
  readonly out?: Uint8Array;
  /** Room for data from the device, in bytes. */
  readonly inBytes?: number;
  /** Bytes at the end of the writable part; the last is the status. Default 1. */
  readonly statusBytes?: number;
  /** Replaces the 16-byte header. */
  readonly header?: Uint8Array;
  /** Queue that carries the request. Default 0. */
  readonly queue?: number;
}

export interface BlkResult extends Completion {
  /** Last byte of the writable part; `STATUS_UNTOUCHED` when the device did not write it. */
  readonly status: number;
  /** The data-in part. */
  readonly data: Uint8Array;
  /** The whole writable part. */
  readonly writable: Uint8Array;
}

/** What the status byte holds before the device writes it. */
export const STATUS_UNTOUCHED = 0xff;

export function createBlkBuffers(memory: OwnedMemory, request: BlkRequest): RequestBuffers {
  const { header = encodeHeader(request), out = new Uint8Array(0), inBytes = 0, statusBytes = 1 } = request;
  const cuts = [
    [header.length, out.length],
    [inBytes, statusBytes],
  ] as const;
  const buffers = new RequestBuffers(memory, concatenate(header, out), inBytes + statusBytes, request, cuts);
  buffers.pokeLastWritable(STATUS_UNTOUCHED);
  return buffers;
}

function encodeHeader({ type, ioprio = 0, sector = 0 }: BlkRequest): Uint8Array {
  const header = new Uint8Array(BLK_HEADER_BYTES);
  const view = new DataView(header.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, ioprio, true);
  view.setBigUint64(8, BigInt(sector), true);
  return header;
}
