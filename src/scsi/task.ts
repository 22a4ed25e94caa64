/**
 * One SCSI command on its way through the target: what the transport gives (CDB, LUN, buffers), what the target answers
 * (status, sense, residual). The transport owns and pools it; the target never sees a virtqueue.
 */
import type { BdevIo, LatencyCounter } from '../bdev/bdev-io.ts';
import type { Sharer } from '../bdev/fair-shares.ts';

/** SAM-5 §5.3.1. */
export const ScsiStatus = {
  good: 0x00,
  checkCondition: 0x02,
  conditionMet: 0x04,
  busy: 0x08,
  reservationConflict: 0x18,
  taskSetFull: 0x28,
  acaActive: 0x30,
  taskAborted: 0x40,
} as const;
export type ScsiStatus = (typeof ScsiStatus)[keyof typeof ScsiStatus];

/**
 * How the service delivery ended; the transport maps it to its own codes (virtio-scsi: OK, OVERRUN, ABORTED, RESET
 * …).
 */
export const ServiceResponse = {
  complete: 0,
  /** The command wants more bytes than the buffers hold. */
  overrun: 1,
  aborted: 2,
  badTarget: 3,
  reset: 4,
  busy: 5,
  targetFailure: 7,
} as const;
export type ServiceResponse = (typeof ServiceResponse)[keyof typeof ServiceResponse];

export const TaskAttribute = { simple: 0, ordered: 1, headOfQueue: 2, aca: 3 } as const;

/** Values of virtio 1.3 §5.6.6.2, so that the transport passes them on. */
export const TaskManagementFunction = {
  abortTask: 0,
  abortTaskSet: 1,
  clearAca: 2,
  clearTaskSet: 3,
  nexusReset: 4,
  logicalUnitReset: 5,
  queryTask: 6,
  queryTaskSet: 7,
} as const;

/** How task management ended, again as virtio has it. */
export const ManagementResult = { complete: 0, succeeded: 10, rejected: 11, incorrectLun: 12 } as const;
export type ManagementResult = (typeof ManagementResult)[keyof typeof ManagementResult];

/** `ScsiTask.lun` of the REPORT LUNS well-known logical unit: its LUN field starts with C1h 01h (SAM-5 §4.7.7.5.1). */
export const REPORT_LUNS_UNIT = 0xc101;

/** The longest CDB of the command table. A longer one, of which there is none, is known by its first byte. */
const CDB_BYTES = 16;
/** Room for fixed and descriptor sense; virtio-scsi carries 96. */
const SENSE_BYTES_MAX = 96;

/** What a transport does for the task: bytes in and out of the initiator's buffers, segment lists, and the end. */
export interface TaskTransport {
  /** Where the latencies of its I/O are counted. */
  readonly latencies?: LatencyCounter | null;
  /** Whose it is where a limit is shared. */
  readonly sharer?: Sharer | null;
  /** Writes parameter data at `offset` of data-in, as far as it fits. Returns the bytes written. */
  writeDataIn(task: ScsiTask, source: Uint8Array, offset: number, lengthBytes: number): number;
  /** Reads parameter data at `offset` of data-out. Returns the bytes read, fewer when the buffers end. */
  readDataOut(task: ScsiTask, target: Uint8Array, offset: number, lengthBytes: number): number;
  /**
   * Makes the segment list of `[offset, offset + length)` of data-in (`isRead`) or data-out in
   * `io.iovFirst/iovCount`. The list is given back by the transport when the task ends. 0; -1: the buffers are not in
   * the guest's memory; -2: no list is free now, the transport retries the whole task later.
   */
  mapData(task: ScsiTask, io: BdevIo, isRead: boolean, offset: number, lengthBytes: number): number;
  /** The target's last word on a task. */
  taskDone(task: ScsiTask): void;
  /** In place of it: the I/O of the task was withdrawn, on the transport's behalf. */
  taskWithdrawn(task: ScsiTask): void;
}

/** Pooled; all fields always there. */
export class ScsiTask {
  readonly transport: TaskTransport;
  /** The transport's own. */
  slot = 0;
  /** Tag that task management names. A 64-bit value as two signed words: larger numbers would be boxed. */
  tagLow = 0;
  tagHigh = 0;
  lun = 0;
  /** Who sent it: the number of an I_T nexus of the target, 0 … `nexusCount - 1`. */
  nexus = 0;
  attribute = 0;
  /**
   * The CDB as four signed words, little-endian: reading it byte by byte would cost as much as the rest of a READ.
   */
  cdb0 = 0;
  cdb1 = 0;
  cdb2 = 0;
  cdb3 = 0;
  /** The same in bytes, once `unpackCdb` was called. */
  readonly cdb = new Uint8Array(CDB_BYTES);
  /** False: the transport need not keep where the buffers are, because the task will not ask for them again. */
  needsBuffers = true;
  dataInBytes = 0;
  dataOutBytes = 0;

  response: ServiceResponse = ServiceResponse.complete;
  status: ScsiStatus = ScsiStatus.good;
  readonly sense = new Uint8Array(SENSE_BYTES_MAX);
  senseLength = 0;
  /** Bytes of the buffers that were filled or taken. */
  transferredBytes = 0;
  /** Bytes asked for but not moved (or moved too few of), as virtio-scsi's `residual` wants it. */
  residualBytes = 0;

  constructor(transport: TaskTransport) {
    this.transport = transport;
  }

  unpackCdb(): void {
    unpack(this.cdb, 0, this.cdb0);
    unpack(this.cdb, 4, this.cdb1);
    unpack(this.cdb, 8, this.cdb2);
    unpack(this.cdb, 12, this.cdb3);
  }
}

function unpack(bytes: Uint8Array, at: number, word: number): void {
  bytes[at] = word;
  bytes[at + 1] = word >>> 8;
  bytes[at + 2] = word >>> 16;
  bytes[at + 3] = word >>> 24;
}
