/**
 * virtio-scsi as it is on the wire (virtio 1.3 §5.6): feature bits, queues, configuration space, the requests of the
 * three kinds of queue and their responses. Shared by the device (vhost/) and the driver side (initiator/).
 */
import { struct, u16, u32 } from '../base/struct.ts';

export const ScsiFeature = {
  /** A request may have both data-out and data-in. */
  INOUT: 0,
  /** The device tells of targets that come and go. */
  HOTPLUG: 1,
  /** The device tells of changed parameters, such as a capacity. */
  CHANGE: 2,
  /** Protection information; not offered. */
  T10_PI: 3,
} as const;

/** Which queue is which; every further one is a request queue. */
export const ScsiQueueIndex = { control: 0, event: 1, requestFirst: 2 } as const;

/** §5.6.4. A QEMU front-end fills it from its own properties and never asks the back-end. */
export const ScsiConfig = struct('virtio_scsi_config', 36, {
  requestQueueCount: u32,
  segMax: u32,
  maxSectors: u32,
  commandsPerLun: u32,
  eventInfoBytes: u32,
  senseBytes: u32,
  cdbBytes: u32,
  maxChannel: u16,
  maxTarget: u16,
  maxLun: u32,
});

/** Size of the sense field: the default of the configuration space, which no known front-end changes. */
export const SCSI_SENSE_BYTES = 96;

/** Command request: lun[8], tag u64, attribute u8, priority u8, crn u8, cdb[32]. Then data-out. */
export const SCSI_REQUEST_BYTES = 51;
export const ScsiRequestOffset = { lun: 0, tag: 8, attribute: 16, cdb: 19 } as const;

/**
 * Command response: sense length u32, residual u32, status qualifier u16, status u8, response u8, sense[96]. Then
 * data-in.
 */
export const SCSI_RESPONSE_BYTES = 108;
export const ScsiResponseOffset = {
  senseLength: 0,
  residual: 4,
  statusQualifier: 8,
  status: 10,
  response: 11,
  sense: 12,
} as const;

/** §5.6.6.1: values of `response`, here and on the control queue. */
export const ScsiResponse = {
  OK: 0,
  OVERRUN: 1,
  ABORTED: 2,
  BAD_TARGET: 3,
  RESET: 4,
  BUSY: 5,
  TRANSPORT_FAILURE: 6,
  TARGET_FAILURE: 7,
  NEXUS_FAILURE: 8,
  FAILURE: 9,
  FUNCTION_SUCCEEDED: 10,
  FUNCTION_REJECTED: 11,
  INCORRECT_LUN: 12,
} as const;

/** First word of a control request. */
export const ScsiControlType = { TMF: 0, AN_QUERY: 1, AN_SUBSCRIBE: 2 } as const;

/** Second word of a task management request. */
export const ScsiTmf = {
  ABORT_TASK: 0,
  ABORT_TASK_SET: 1,
  CLEAR_ACA: 2,
  CLEAR_TASK_SET: 3,
  I_T_NEXUS_RESET: 4,
  LOGICAL_UNIT_RESET: 5,
  QUERY_TASK: 6,
  QUERY_TASK_SET: 7,
} as const;
export type ScsiTmf = (typeof ScsiTmf)[keyof typeof ScsiTmf];

/** Task management request: type u32, subtype u32, lun[8], tag u64; the response is one byte. */
export const SCSI_TMF_BYTES = 24;
export const ScsiTmfOffset = { type: 0, subtype: 4, lun: 8, tag: 16 } as const;
export const SCSI_TMF_RESPONSE_BYTES = 1;

/** Asynchronous notification request: type u32, lun[8], event u32; the response is actual u32, response u8. */
export const SCSI_AN_BYTES = 16;
export const ScsiAnOffset = { type: 0, lun: 4, event: 12 } as const;
export const SCSI_AN_RESPONSE_BYTES = 5;

/** One entry of the event queue: event u32, lun[8], reason u32. */
export const SCSI_EVENT_BYTES = 16;
export const ScsiEventOffset = { event: 0, lun: 4, reason: 12 } as const;

export const ScsiEventType = { NO_EVENT: 0, TRANSPORT_RESET: 1, ASYNC_NOTIFY: 2, PARAM_CHANGE: 3 } as const;
/** Set in the type of an event when others before it were lost. */
export const SCSI_EVENTS_MISSED = 0x8000_0000;
/** Reasons of TRANSPORT_RESET. */
export const ScsiResetReason = { HARD: 0, RESCAN: 1, REMOVED: 2 } as const;
/** Reason of PARAM_CHANGE: ASC 2Ah in the low byte, ASCQ 09h above it, "capacity data has changed". */
export const SCSI_CAPACITY_CHANGED = 0x092a;

/** Bytes of a LUN field, which also names the target. */
export const SCSI_LUN_BYTES = 8;
/** Targets of one controller: the target has one byte. */
export const SCSI_TARGETS_MAX = 256;
/** LUNs of one target: 14 bits of single-level addressing. */
export const SCSI_LUNS_MAX = 16_384;

/** No target or LUN: the field names none that a device of this kind can have. */
export const NO_LUN = -1;
const LUN_FORMAT = 1;
/** Flat space addressing. In commands Linux sets it always, others only above 255 or never. */
const FLAT_SPACE = 0x40;
const FLAT_SPACE_FIRST = 256;
const METHOD_MASK = 0xc0;
/** First two bytes of the LUN of the REPORT LUNS well-known logical unit (SAM-5 §4.7.7.5.1), the only one there is. */
export const REPORT_LUNS_WELL_KNOWN = 0xc101;

/** Target of the LUN field at `at`, or `NO_LUN`. */
export function decodeTarget(bytes: Uint8Array, at: number): number {
  return bytes[at] === LUN_FORMAT ? (bytes[at + 1] as number) : NO_LUN;
}

/**
 * LUN of the field at `at` in its target, `REPORT_LUNS_WELL_KNOWN`, or `NO_LUN`. With and without the bit of flat space
 * addressing.
 */
export function decodeLun(bytes: Uint8Array, at: number): number {
  const field = ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number);
  const method = (field >>> 8) & METHOD_MASK;
  const rest =
    (bytes[at + 4] as number) | (bytes[at + 5] as number) | (bytes[at + 6] as number) | (bytes[at + 7] as number);
  if (rest !== 0) return NO_LUN;
  if (method === 0 || method === FLAT_SPACE) return field & (SCSI_LUNS_MAX - 1);
  return field === REPORT_LUNS_WELL_KNOWN ? field : NO_LUN;
}

/**
 * Writes the LUN field. Flat space addressing only from 256 up, as in REPORT LUNS: Linux takes the two bytes of an
 * event as they are for the number of the LUN.
 */
export function encodeLun(bytes: Uint8Array, at: number, target: number, lun: number): void {
  bytes.fill(0, at, at + SCSI_LUN_BYTES);
  bytes[at] = LUN_FORMAT;
  bytes[at + 1] = target;
  bytes[at + 2] = lun < FLAT_SPACE_FIRST ? 0 : FLAT_SPACE | (lun >>> 8);
  bytes[at + 3] = lun & 0xff;
}
