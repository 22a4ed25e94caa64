/**
 * The event queue of a vhost-user-scsi controller in its reactor: the driver leaves buffers in it, and one is taken for
 * each event. Buffers stay in the ring until there is an event, so that stopping the queue loses none.
 */
import type { Chain } from '../virtio/chain.ts';
import { SCSI_EVENT_BYTES } from '../virtio/scsi.ts';
import { type QueueOptions, RequestQueue } from './request-queue.ts';
import type { ScsiEvents } from './scsi-events.ts';

const EVENT = new Uint8Array(SCSI_EVENT_BYTES);

export interface ScsiEventQueueOptions extends QueueOptions {
  readonly events: ScsiEvents;
}

export class ScsiEventQueue extends RequestQueue {
  readonly #events: ScsiEvents;

  constructor(options: ScsiEventQueueOptions) {
    super(options);
    this.#events = options.events;
  }

  protected override wantsMore(): boolean {
    return this.#events.count > 0;
  }

  /** Buffers that wait for events are no work: only an event that waits for a buffer is. */
  override arm(): boolean {
    const hasBuffers = super.arm();
    return hasBuffers && this.#events.count > 0;
  }

  protected override accept(chain: Chain): boolean {
    if (chain.writableBytes < SCSI_EVENT_BYTES) return this.refuse(chain, 'is too short for an event');
    this.#events.take(EVENT);
    const isWritten = this.data.scatter(chain, 0, EVENT, 0, SCSI_EVENT_BYTES);
    this.complete(chain.head, isWritten ? SCSI_EVENT_BYTES : 0);
    return true;
  }
}
