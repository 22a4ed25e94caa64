/**
 * What a vhost-user-scsi controller has to tell its driver (virtio 1.3 §5.6.6.3), kept until the driver has a buffer
 * for it. The list outlives the event queue, which is stopped and started again when the guest's memory changes. When
 * it is full, further events are lost, and the next one delivered says so: the driver then scans everything.
 */
import { encodeLun, SCSI_EVENT_BYTES, SCSI_EVENTS_MISSED, SCSI_LUN_BYTES, ScsiEventOffset } from '../virtio/scsi.ts';

/** As many as Linux has buffers for twice over. A driver that takes none meanwhile has to scan anyway. */
export const EVENTS_PENDING_MAX = 16;

export interface ScsiEvent {
  readonly type: number;
  readonly target: number;
  readonly lun: number;
  readonly reason: number;
}

/** As they are handed over. */
export interface ScsiEventsRecord {
  readonly pending: readonly ScsiEvent[];
  readonly hasMissed: boolean;
}

export class ScsiEvents {
  readonly #pending: ScsiEvent[] = [];
  #hasMissed = false;
  /** Called when there is something to deliver. */
  onPending: () => void = () => {};

  get count(): number {
    return this.#pending.length;
  }

  add(event: ScsiEvent): void {
    if (this.#pending.length === EVENTS_PENDING_MAX) {
      this.#hasMissed = true;
      return;
    }
    this.#pending.push(event);
    this.onPending();
  }

  /** Writes the oldest event to `bytes` and forgets it. There is one. */
  take(bytes: Uint8Array): void {
    const { type, target, lun, reason } = this.#pending.shift() as ScsiEvent;
    const view = new DataView(bytes.buffer, bytes.byteOffset, SCSI_EVENT_BYTES);
    view.setUint32(ScsiEventOffset.event, (this.#hasMissed ? type | SCSI_EVENTS_MISSED : type) >>> 0, true);
    encodeLun(bytes.subarray(ScsiEventOffset.lun, ScsiEventOffset.lun + SCSI_LUN_BYTES), 0, target, lun);
    view.setUint32(ScsiEventOffset.reason, reason, true);
    this.#hasMissed = false;
  }

  save(): ScsiEventsRecord {
    return { pending: [...this.#pending], hasMissed: this.#hasMissed };
  }

  load({ pending, hasMissed }: ScsiEventsRecord): void {
    this.#pending.splice(0, this.#pending.length, ...pending);
    this.#hasMissed = hasMissed;
  }

  /** A new driver: it scans. */
  clear(): void {
    this.#pending.length = 0;
    this.#hasMissed = false;
  }
}
