/** One virtio-scsi command in guest memory (virtio 1.3 §5.6.6.1), cut into descriptors in any way. */
import {
  decodeLun,
  decodeTarget,
  encodeLun,
  SCSI_EVENTS_MISSED,
  SCSI_REQUEST_BYTES,
  SCSI_RESPONSE_BYTES,
  SCSI_TMF_BYTES,
  ScsiControlType,
  ScsiEventOffset,
  ScsiRequestOffset,
  ScsiResponseOffset,
  ScsiTmfOffset,
} from '../virtio/scsi.ts';
import type { Completion } from './driver-queue.ts';
import type { OwnedMemory } from './owned-memory.ts';
import { concatenate, RequestBuffers, type RequestShape } from './request-buffers.ts';

/** A LUN of a target. */
export interface ScsiAddress {
  /** Default 0. */
  readonly target?: number;
  /** Default 0. */
  readonly lun?: number;
  /** Replaces the 8 bytes of the LUN field. */
  readonly lunField?: Uint8Array;
}

/** By default the request and data-out are a descriptor each, then the response and data-in. */
export interface ScsiCommand extends ScsiAddress, RequestShape {
  /** Up to 32 bytes; zeroes follow. */
  readonly cdb: Uint8Array | readonly number[];
  /** Data for the device. */
  readonly out?: Uint8Array;
  /** Room for data from the device, in bytes. */
  readonly inBytes?: number;
  /** Default: the next one. */
  readonly tag?: bigint;
  /** Task attribute. Default SIMPLE. */
  readonly attribute?: number;
  /** Replaces the 51-byte request. */
  readonly header?: Uint8Array;
  /** Bytes of the writable part before data-in. Default: the response, 108. */
  readonly responseBytes?: number;
  /** Request queue that carries the command, from 0. Default 0. */
  readonly queue?: number;
}

export interface ScsiResult extends Completion {
  /** virtio-scsi's code: how the command was delivered. */
  readonly response: number;
  /** SCSI's own. */
  readonly status: number;
  readonly residual: number;
  /** As many bytes as there are. */
  readonly sense: Uint8Array;
  /** The data-in part: as much of it as the device says it filled. */
  readonly data: Uint8Array;
  /** The whole writable part. */
  readonly writable: Uint8Array;
}

export interface ScsiEvent {
  /** Without the bit that says that others were lost. */
  readonly type: number;
  readonly hasMissed: boolean;
  readonly target: number;
  readonly lun: number;
  readonly reason: number;
}

export function createScsiBuffers(memory: OwnedMemory, command: ScsiCommand, tag: bigint): RequestBuffers {
  const { out = new Uint8Array(0), inBytes = 0, responseBytes = SCSI_RESPONSE_BYTES } = command;
  const header = command.header ?? encodeHeader(command, tag);
  const cuts = [
    [header.length, out.length],
    [responseBytes, inBytes],
  ] as const;
  return new RequestBuffers(memory, concatenate(header, out), responseBytes + inBytes, command, cuts);
}

export function decodeResult(completion: Completion, writable: Uint8Array): ScsiResult {
  const response = new Uint8Array(SCSI_RESPONSE_BYTES);
  response.set(writable.subarray(0, SCSI_RESPONSE_BYTES));
  const view = new DataView(response.buffer);
  const senseLength = view.getUint32(ScsiResponseOffset.senseLength, true);
  return {
    usedLen: completion.usedLen,
    order: completion.order,
    response: view.getUint8(ScsiResponseOffset.response),
    status: view.getUint8(ScsiResponseOffset.status),
    residual: view.getUint32(ScsiResponseOffset.residual, true),
    sense: response.subarray(ScsiResponseOffset.sense, ScsiResponseOffset.sense + senseLength),
    data: writable.subarray(SCSI_RESPONSE_BYTES, Math.max(SCSI_RESPONSE_BYTES, completion.usedLen)),
    writable,
  };
}

/** The 8 bytes of the LUN field. */
export function lunField({ target = 0, lun = 0, lunField: field }: ScsiAddress): Uint8Array {
  if (field !== undefined) return field;
  const bytes = new Uint8Array(8);
  encodeLun(bytes, 0, target, lun);
  return bytes;
}

export function encodeTmf(subtype: number, address: ScsiAddress, tag: bigint): Uint8Array {
  const bytes = new Uint8Array(SCSI_TMF_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(ScsiTmfOffset.type, ScsiControlType.TMF, true);
  view.setUint32(ScsiTmfOffset.subtype, subtype, true);
  bytes.set(lunField(address), ScsiTmfOffset.lun);
  view.setBigUint64(ScsiTmfOffset.tag, tag, true);
  return bytes;
}

export function decodeEvent(bytes: Uint8Array): ScsiEvent {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const event = view.getUint32(ScsiEventOffset.event, true);
  return {
    type: event & ~SCSI_EVENTS_MISSED,
    hasMissed: event >= SCSI_EVENTS_MISSED,
    target: decodeTarget(bytes, ScsiEventOffset.lun),
    lun: decodeLun(bytes, ScsiEventOffset.lun),
    reason: view.getUint32(ScsiEventOffset.reason, true),
  };
}

/** Sense key, and ASC and ASCQ as one number, of fixed or descriptor sense (SPC-4 §4.5); zeroes without sense. */
export function senseOf(sense: Uint8Array): { readonly key: number; readonly code: number } {
  const isDescriptor = ((sense[0] ?? 0) & 0x7f) >= 0x72;
  const [key = 0, asc = 0, ascq = 0] = isDescriptor ? sense.subarray(1, 4) : [sense[2], sense[12], sense[13]];
  return { key: key & 0x0f, code: (asc << 8) | ascq };
}

/** The same as text: `5/25/00`; empty without sense. */
export function senseText(sense: Uint8Array): string {
  if (sense.length === 0) return '';
  const { key, code } = senseOf(sense);
  const hex = code.toString(16).padStart(4, '0');
  return `${key.toString(16)}/${hex.slice(0, 2)}/${hex.slice(2)}`;
}

function encodeHeader(command: ScsiCommand, tag: bigint): Uint8Array {
  const header = new Uint8Array(SCSI_REQUEST_BYTES);
  header.set(lunField(command), ScsiRequestOffset.lun);
  new DataView(header.buffer).setBigUint64(ScsiRequestOffset.tag, tag, true);
  header[ScsiRequestOffset.attribute] = command.attribute ?? 0;
  header.set(command.cdb, ScsiRequestOffset.cdb);
  return header;
}
