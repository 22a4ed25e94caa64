/**
 * How the memory that we share with a vhost-user target is laid out: one part a queue, each a split ring, a request and
 * a response for each slot, zeroes, and a buffer for each slot's data. A request has three descriptors of its own, so
 * nothing is allocated: request `slot` is the chain that begins at descriptor `3 * slot`.
 */
import { BLK_HEADER_BYTES, BLK_RANGE_BYTES } from '../../../virtio/blk.ts';
import { SCSI_REQUEST_BYTES, SCSI_RESPONSE_BYTES, ScsiResponseOffset } from '../../../virtio/scsi.ts';
import type { PlainParams } from '../../bdev.ts';

export const DESCRIPTORS_PER_REQUEST = 3;
/** Data of one request; longer ones go in pieces. Memory that is never used is never there. */
export const BUFFER_BYTES = 128 * 1024;
/** Zeroes to write from: a block at most. */
const ZERO_BYTES = 4096;

const PAGE_BYTES = 4096;
const DESCRIPTOR_BYTES = 16;
/** Parameter data of UNMAP with one descriptor (SBC-3 §5.28): a header and a range. */
export const UNMAP_LIST_BYTES = 24;

const alignUp = (bytes: number, alignment: number): number => Math.ceil(bytes / alignment) * alignment;

/** What a request of a kind of device is made of, besides its data. */
export interface RequestForm {
  readonly headerBytes: number;
  /** What the device reads after the header in place of data: ranges. */
  readonly parameterBytes: number;
  readonly responseBytes: number;
  /** Byte of the response that no answer leaves at 255. */
  readonly statusOffset: number;
  /** The response comes before the data that the device writes. */
  readonly isResponseFirst: boolean;
}

export const BLK_FORM: RequestForm = {
  headerBytes: BLK_HEADER_BYTES,
  parameterBytes: BLK_RANGE_BYTES,
  responseBytes: 1,
  statusOffset: 0,
  isResponseFirst: false,
};

export const SCSI_FORM: RequestForm = {
  headerBytes: SCSI_REQUEST_BYTES,
  parameterBytes: UNMAP_LIST_BYTES,
  responseBytes: SCSI_RESPONSE_BYTES,
  statusOffset: ScsiResponseOffset.response,
  isResponseFirst: true,
};

/** Offsets in a queue's part. */
export interface QueueLayout {
  readonly slots: number;
  readonly available: number;
  readonly used: number;
  /** A header and parameters each, `requestBytes` apart. */
  readonly requests: number;
  readonly requestBytes: number;
  /** From the start of a request to its parameters. */
  readonly parameters: number;
  /** `responseBytes` apart. */
  readonly responses: number;
  readonly responseBytes: number;
  readonly zeroes: number;
  readonly buffers: number;
  readonly totalBytes: number;
}

export function layoutOf(size: number, form: RequestForm): QueueLayout {
  const slots = Math.floor(size / DESCRIPTORS_PER_REQUEST);
  const available = DESCRIPTOR_BYTES * size;
  const used = alignUp(available + 6 + 2 * size, PAGE_BYTES);
  const requests = alignUp(used + 6 + 8 * size, PAGE_BYTES);
  const parameters = alignUp(form.headerBytes, 8);
  const requestBytes = alignUp(parameters + form.parameterBytes, 16);
  const responses = requests + requestBytes * slots;
  const responseBytes = alignUp(form.responseBytes, 4);
  const zeroes = alignUp(responses + responseBytes * slots, PAGE_BYTES);
  const buffers = zeroes + ZERO_BYTES;
  const totalBytes = buffers + slots * BUFFER_BYTES;
  return {
    ...{ slots, available, used, requests, requestBytes, parameters, responses, responseBytes },
    ...{ zeroes, buffers, totalBytes },
  };
}

/**
 * The table that the threads share. First what the reactors tell the main thread: an eventfd that wakes it, how often a
 * queue was found broken, and how often the target said that its units changed.
 */
export const TableWord = { newsFd: 0, broken: 1, changed: 2, firstQueue: 3 } as const;
/** Words of each queue after those: who has it, and its eventfds. */
export const QueueWord = { claim: 0, kickFd: 1, callFd: 2, count: 3 } as const;
/** `spoiled`: nobody has it, and the target still works on requests of it. Until the rings begin anew. */
export const Claim = { free: 0, taken: 1, spoiled: 2 } as const;

/** Where a word of a queue is in the table. */
export function queueWord(queue: number, word: number): number {
  return TableWord.firstQueue + queue * QueueWord.count + word;
}

/** What a reactor needs to know of the controller that a disk is on. */
export interface ControllerParams extends PlainParams {
  /** Host address of the shared memory, and what the target calls it. */
  readonly address: number;
  readonly guestAddress: number;
  readonly queueSize: number;
  readonly queueCount: number;
  readonly table: SharedArrayBuffer;
  /** False: the target is away, and nothing touches the rings. */
  readonly isConnected: boolean;
}

/** What a reactor needs to know of a virtio-blk disk. */
export interface BlkChannelParams extends ControllerParams {
  readonly dataBytesMax: number;
  readonly discardSectorsMax: number;
  readonly zeroSectorsMax: number;
  /** Zeroing may give space back. */
  readonly zeroMayUnmap: boolean;
}

/** What a reactor needs to know of a virtio-scsi disk. */
export interface ScsiChannelParams extends ControllerParams {
  readonly target: number;
  readonly lun: number;
  /** False: the target is there, and this disk is not yet. */
  readonly isPresent: boolean;
  readonly dataBytesMax: number;
  readonly unmapBlocksMax: number;
  readonly zeroBlocksMax: number;
  /** Zeroing may give space back. */
  readonly zeroMayUnmap: boolean;
}
