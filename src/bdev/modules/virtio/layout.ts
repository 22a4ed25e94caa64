/**
 * How the memory that we share with a vhost-user target is laid out: one part a queue, each a split ring, a header,
 * a range and a status for each request, and a buffer for its data. A request has three descriptors of its own, so
 * nothing is allocated: request `slot` is the chain that begins at descriptor `3 * slot`.
 */
import { BLK_HEADER_BYTES, BLK_RANGE_BYTES } from '../../../virtio/blk.ts';
import type { PlainParams } from '../../bdev.ts';

export const DESCRIPTORS_PER_REQUEST = 3;
/** Data of one request; longer ones go in pieces. Memory that is never used is never there. */
export const BUFFER_BYTES = 128 * 1024;

const PAGE_BYTES = 4096;
const DESCRIPTOR_BYTES = 16;

const alignUp = (bytes: number, alignment: number): number => Math.ceil(bytes / alignment) * alignment;

/** Offsets in a queue's part. */
export interface QueueLayout {
  readonly slots: number;
  readonly available: number;
  readonly used: number;
  /** A header and a range each. */
  readonly requests: number;
  readonly status: number;
  readonly buffers: number;
  readonly totalBytes: number;
}

export const REQUEST_BYTES = BLK_HEADER_BYTES + BLK_RANGE_BYTES;

export function layoutOf(size: number): QueueLayout {
  const slots = Math.floor(size / DESCRIPTORS_PER_REQUEST);
  const available = DESCRIPTOR_BYTES * size;
  const used = alignUp(available + 6 + 2 * size, PAGE_BYTES);
  const requests = alignUp(used + 6 + 8 * size, PAGE_BYTES);
  const status = requests + REQUEST_BYTES * slots;
  const buffers = alignUp(status + slots, PAGE_BYTES);
  return { slots, available, used, requests, status, buffers, totalBytes: buffers + slots * BUFFER_BYTES };
}

/** Words of each queue in the table that the threads share: 1 while a channel has it, and its eventfds. */
export const QueueWord = { claim: 0, kickFd: 1, callFd: 2, count: 3 } as const;

/** What a reactor needs to know of a virtio-blk disk. */
export interface VirtioChannelParams extends PlainParams {
  /** Host address of the shared memory, and what the target calls it. */
  readonly address: number;
  readonly guestAddress: number;
  readonly queueSize: number;
  readonly queueCount: number;
  readonly queues: SharedArrayBuffer;
  /** False: the target is away, and nothing touches the rings. */
  readonly isConnected: boolean;
  readonly discardSectorsMax: number;
  readonly zeroSectorsMax: number;
  /** Zeroing may give space back. */
  readonly zeroMayUnmap: boolean;
}
