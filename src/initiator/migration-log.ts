/**
 * The dirty log as a front-end keeps it during a migration: a memfd with one bit for each 4 KiB page of guest physical
 * memory, given to the back-end by SET_LOG_BASE, switched on by VHOST_F_LOG_ALL and the log flag of each ring.
 */
import { closeFd } from '../sys/events.ts';
import { createMemoryFile, Mapping, MappingViews, truncateFile } from '../sys/mapping.ts';
import { maskOf, VHOST_F_LOG_ALL, VRING_LOG_USED } from '../vhost-user/messages.ts';
import type { FrontendSession } from './frontend-session.ts';

export const LOG_PAGE_BYTES = 4096;

export class MigrationLog {
  readonly fd: number;
  readonly sizeBytes: number;
  readonly offset: number;
  /** What is behind it in its file. */
  readonly tail: Uint8Array;
  readonly #session: FrontendSession;
  readonly #mapping: Mapping;
  readonly #views = new MappingViews();
  readonly #bits: Uint8Array;

  /**
   * `pages`: how many the log covers. Default: all of the session's memory. `offset`: where it starts in its file.
   * `tailBytes`: what the file has behind it.
   */
  constructor(session: FrontendSession, options: { pages?: number; offset?: number; tailBytes?: number } = {}) {
    const ends = session.memory.regions.map(({ guestAddress, sizeBytes }) => guestAddress + sizeBytes);
    const { pages = Math.max(...ends) / LOG_PAGE_BYTES, offset = 0, tailBytes = 0 } = options;
    this.#session = session;
    this.sizeBytes = Math.ceil(pages / 64) * 8;
    this.offset = offset;
    const end = offset + this.sizeBytes;
    this.fd = createMemoryFile('ringhost-dirty-log', end + tailBytes);
    this.#mapping = Mapping.file(this.fd, 0, end + tailBytes, { guarded: true });
    this.#bits = new Uint8Array(this.#views.view(this.#mapping, offset, this.sizeBytes));
    this.tail = new Uint8Array(this.#views.view(this.#mapping, end, tailBytes));
  }

  /** Starts logging, or goes on with this log. The rings may run. */
  async start(): Promise<void> {
    await this.#session.frontend.setLogBase(this.sizeBytes, this.offset, this.fd);
    await this.#switch(true);
  }

  async stop(): Promise<void> {
    await this.#switch(false);
  }

  /** Numbers of the pages marked since the last time, ascending; their marks are cleared. */
  take(): number[] {
    const pages: number[] = [];
    for (let i = 0; i < this.#bits.length; i++) {
      const byte = Atomics.exchange(this.#bits, i, 0);
      for (let bit = 0; bit < 8; bit++) if ((byte & (1 << bit)) !== 0) pages.push(8 * i + bit);
    }
    return pages;
  }

  /** Cuts the log's file, as a hostile front-end may. */
  truncate(sizeBytes: number): void {
    truncateFile(this.fd, sizeBytes);
  }

  close(): void {
    this.#views.close();
    this.#mapping.close();
    closeFd(this.fd);
  }

  async #switch(isOn: boolean): Promise<void> {
    const { frontend, features, queues } = this.#session;
    await frontend.setFeatures(isOn ? features | maskOf(VHOST_F_LOG_ALL) : features);
    const flags = isOn ? VRING_LOG_USED : 0;
    for (const queue of queues) {
      const addresses = this.#session.addressesOf(queue);
      await frontend.setVringAddr(queue.index, { ...addresses, flags, log: queue.ring.usedAddress });
    }
  }
}
