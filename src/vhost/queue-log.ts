/**
 * Dirty logging of one queue while its guest migrates: every page that a request wrote is marked when the request ends,
 * and the pages of the used ring when it is published. Nothing of it exists while there is no migration.
 */
import { DirtyLog } from '../memory/dirty-log.ts';
import { signalEventFd } from '../sys/events.ts';
import { NO_FD, type VringLog } from '../vhost-user/device.ts';
import { Chain } from '../virtio/chain.ts';
import type { Ring } from '../virtio/ring.ts';

/** Descriptors that a kept chain has room for at least. */
const DESCRIPTORS_MIN = 16;

export class QueueLog {
  readonly #log: DirtyLog;
  readonly #setup: VringLog;
  /** By head: the chain as it was taken. */
  readonly #chains: (Chain | undefined)[] = [];
  #isDirty = false;

  constructor(setup: VringLog) {
    this.#setup = setup;
    this.#log = new DirtyLog(setup);
  }

  /** A chain was taken. */
  keep(chain: Chain): void {
    let own = this.#chains[chain.head];
    if (own === undefined || own.lengths.length < chain.count) own = new Chain(Math.max(chain.count, DESCRIPTORS_MIN));
    own.copyFrom(chain);
    this.#chains[chain.head] = own;
  }

  /** The first `lengthBytes` of a chain's device-writable part may have been written. */
  completed(head: number, lengthBytes: number): void {
    const chain = this.#chains[head] as Chain;
    let left = lengthBytes;
    for (let i = chain.readableCount; i < chain.count && left > 0; i++) {
      const length = Math.min(left, chain.lengths[i] as number);
      this.#log.mark(chain.addresses[i] as number, length);
      left -= length;
    }
    this.#isDirty = true;
  }

  /** What had ended became visible in the used ring. */
  published(ring: Ring): void {
    const { ring: addresses, fd } = this.#setup;
    if (addresses !== null) ring.markUsed(this.#log, addresses.used);
    if (this.#isDirty && fd !== NO_FD) signalEventFd(fd);
    this.#isDirty = false;
  }

  /** The ring was armed or disarmed. */
  armed(ring: Ring): void {
    const { ring: addresses } = this.#setup;
    if (addresses !== null) ring.markNotification(this.#log, addresses.notification);
  }

  close(): void {
    this.#log.close();
  }
}
