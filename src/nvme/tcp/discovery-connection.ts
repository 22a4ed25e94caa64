/** A connection to a discovery controller: its log, and word when that changes. Main thread. */
import { type DiscoveryLog, readDiscoveryLog } from '../discovery-log.ts';
import { AsyncEventNotice, AsyncEventType } from '../spec.ts';
import { AdminQueue, type FabricHost, type TcpAddress } from './admin-queue.ts';

/** Feature 0Bh: notices of changes of the discovery log. */
const DISCOVERY_EVENTS = 2 ** 31;

export class DiscoveryConnection {
  /** Resolves with why, once it is lost or closed. */
  readonly lost: Promise<string>;
  readonly #admin: AdminQueue;

  private constructor(admin: AdminQueue) {
    this.#admin = admin;
    this.lost = admin.lost;
  }

  /** `host` with the NQN of the discovery subsystem. Throws as `AdminQueue.open` does. */
  static async open(address: TcpAddress, host: FabricHost, onChange: () => void): Promise<DiscoveryConnection> {
    const admin = await AdminQueue.open(address, host);
    admin.hearEvents(DISCOVERY_EVENTS, async (type, info) => {
      // Reading the log, which follows, is what makes the controller tell the next change.
      if (type === AsyncEventType.notice && info === AsyncEventNotice.discoveryLog) onChange();
    });
    return new DiscoveryConnection(admin);
  }

  readLog(): Promise<DiscoveryLog> {
    return readDiscoveryLog(this.#admin);
  }

  close(): void {
    this.#admin.close();
  }
}
