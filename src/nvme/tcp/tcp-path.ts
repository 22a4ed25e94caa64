/**
 * One path to a subsystem: an admin queue that is kept connected, on the main thread. When it is lost, or a channel
 * finds
 * that one of its queues broke, the whole association ends, and a new one is made, at first at once, then with growing
 * pauses. What the reactors need to know stands in the `PathTable`.
 *
 * Ending the whole association is what makes it safe to drive requests again: the controller of the old one is gone,
 * with
 * what was in its queues.
 */
import type { Logger } from '../../base/log.ts';
import { identifyController, identifyNamespaces, requestQueues } from '../admin.ts';
import { COMMAND_BYTES, getLogPage } from '../command.ts';
import type { ControllerIdentity, NamespaceIdentity } from '../identify.ts';
import { AsyncEventNotice, AsyncEventType, LogPageId } from '../spec.ts';
import { Status, statusCode } from '../status.ts';
import { ADMIN_DATA_BYTES, AdminQueue, type FabricHost, type TcpAddress } from './admin-queue.ts';
import { type Access, PathState, type PathTable, QUEUES_MAX } from './path-table.ts';

export interface ReconnectOptions {
  /** Between attempts, when they go on failing. */
  readonly delaySec: number;
  /** -1: for ever. 0: never. */
  readonly lossTimeoutSec: number;
  /** 0: requests are held for as long as the path may come back. */
  readonly fastFailSec: number;
}

/** What a path tells its controller. */
export interface PathEvents {
  /** It is connected (again), or its namespaces or their access changed. */
  onChange(path: TcpPath): void;
  /** It was not to be had again in time. */
  onGone(path: TcpPath, reason: string): void;
}

/** The first pause; it doubles up to `delaySec`. */
const PAUSE_MS_MIN = 50;
/** Between two looks at an access state that channels doubt. */
const DOUBT_MS = 100;
/** Feature 0Bh: notices of namespaces and their access. */
const NAMESPACE_EVENTS = 1 << 8;
const ACCESS_EVENTS = 1 << 11;

export class TcpPath {
  readonly index: number;
  readonly target: TcpAddress;
  identity: ControllerIdentity | null = null;
  namespaces: readonly NamespaceIdentity[] = [];
  admin: AdminQueue | null = null;
  isGone = false;
  readonly #table: PathTable;
  readonly #host: FabricHost;
  readonly #reconnect: ReconnectOptions;
  readonly #events: PathEvents;
  readonly #log: Logger;
  /** By namespace. */
  #access = new Map<number, number>();
  #doubts = 0;
  /** The last association whose queues were too few. */
  #short = 0;
  #doubt: NodeJS.Timeout | null = null;
  #isClosed = false;
  #fastFail: NodeJS.Timeout | null = null;
  #endPause: () => void = () => undefined;
  #run: Promise<void> = Promise.resolve();

  constructor(
    index: number,
    target: TcpAddress,
    parts: { table: PathTable; host: FabricHost; reconnect: ReconnectOptions; events: PathEvents; log: Logger },
  ) {
    this.index = index;
    this.target = target;
    this.#table = parts.table;
    this.#host = parts.host;
    this.#reconnect = parts.reconnect;
    this.#events = parts.events;
    this.#log = parts.log;
    this.#table.setAddress(index, target.address, target.port);
  }

  get isUp(): boolean {
    return this.admin !== null;
  }

  access(nsid: number): number {
    return this.#access.get(nsid) ?? 1;
  }

  /** The first connection. Throws why not. */
  async connect(): Promise<void> {
    await this.#setUp();
    this.#run = this.#keepUp();
  }

  /** Ends the association and makes a new one. */
  reset(reason: string): void {
    this.admin?.close(reason);
    this.#endPause();
  }

  /** Channels found something out: see the table. True when they doubt the access states. */
  faulted(): boolean {
    const table = this.#table;
    if (this.admin !== null && table.broken(this.index) === table.association(this.index)) {
      this.reset('a queue of it broke');
    }
    const short = table.short(this.index);
    if (short !== this.#short) {
      this.#short = short;
      const granted = table.queues(this.index);
      const queues = `${granted} I/O queue${granted === 1 ? '' : 's'}`;
      const until = 'until another disk, or a reactor that serves it, gives one back';
      this.#log.warn(`${this.#name} grants ${queues}, and all are in use: a disk waits for one ${until}`);
    }
    const doubts = table.accessDoubts(this.index);
    if (doubts === this.#doubts) return false;
    this.#doubts = doubts;
    return true;
  }

  /** Asks for the access states once more, soon. */
  doubtAccess(): void {
    this.#doubt ??= setTimeout(() => {
      this.#doubt = null;
      this.#readAccess().catch(() => undefined);
    }, DOUBT_MS);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#table.setState(this.index, PathState.gone);
    this.#endPause();
    if (this.#fastFail !== null) clearTimeout(this.#fastFail);
    if (this.#doubt !== null) clearTimeout(this.#doubt);
    await this.admin?.shutDown();
    await this.#run;
  }

  get #name(): string {
    return `${this.target.address} port ${this.target.port}`;
  }

  async #setUp(): Promise<void> {
    const admin = await AdminQueue.open(this.target, this.#host);
    try {
      const identity = await identifyController(admin);
      const queues = await requestQueues(admin, QUEUES_MAX);
      const namespaces = await identifyNamespaces(admin, identity);
      this.identity = { ...identity, controllerId: admin.controllerId };
      this.namespaces = namespaces;
      if (this.#isClosed) throw new Error('closed');
      this.admin = admin;
      await this.#readAccess();
      const wanted = identity.reportsAccess ? NAMESPACE_EVENTS | ACCESS_EVENTS : NAMESPACE_EVENTS;
      admin.hearEvents(wanted, (type, notice, page) => this.#event(admin, type, notice, page));
      const { commandCapsuleBytes, inCapsuleDataOffsetBytes, mdts } = identity;
      const hasCapsuleData = inCapsuleDataOffsetBytes === 0 && commandCapsuleBytes > COMMAND_BYTES;
      this.#table.setUp(this.index, {
        controllerId: admin.controllerId,
        queues,
        entries: admin.entriesMax,
        capsuleDataBytes: hasCapsuleData ? commandCapsuleBytes - COMMAND_BYTES : 0,
        transferBytesMax: mdts === 0 || mdts > 15 ? 0 : 4096 * 2 ** mdts,
      });
    } catch (error) {
      this.admin = null;
      admin.close();
      throw error;
    }
  }

  /** Until it is closed or gone. */
  async #keepUp(): Promise<void> {
    while (!this.#isClosed) {
      const reason = (await this.admin?.lost) ?? 'lost';
      this.admin = null;
      if (this.#isClosed) return;
      this.#log.warn(`the connection to ${this.#name} is lost: ${reason}`);
      const why = await this.#connectAgain();
      if (this.#isClosed) return;
      if (why !== null) {
        this.isGone = true;
        this.#table.setState(this.index, PathState.failing);
        this.#events.onGone(this, why);
        return;
      }
      this.#log.info(`connected to ${this.#name} again`);
      this.#events.onChange(this);
    }
  }

  /** Null when it is connected, else why it was given up. */
  async #connectAgain(): Promise<string | null> {
    const { delaySec, lossTimeoutSec, fastFailSec } = this.#reconnect;
    this.#table.setState(this.index, PathState.down);
    if (fastFailSec > 0) {
      this.#fastFail = setTimeout(() => this.#table.setState(this.index, PathState.failing), fastFailSec * 1000);
    }
    const deadline = lossTimeoutSec < 0 ? Number.POSITIVE_INFINITY : Date.now() + lossTimeoutSec * 1000;
    let why = 'it is not to be connected again';
    for (let pauseMs = PAUSE_MS_MIN; !this.#isClosed; pauseMs *= 2) {
      if (lossTimeoutSec === 0) break;
      try {
        await this.#setUp();
        if (this.#fastFail !== null) clearTimeout(this.#fastFail);
        return null;
      } catch (error) {
        const { message } = error as Error;
        if (message !== why) this.#log.warn(`${this.#name} is not back yet: ${message}`);
        why = message;
      }
      const untilDeadline = deadline - Date.now();
      if (untilDeadline <= 0) break;
      await this.#pause(Math.min(pauseMs, delaySec * 1000, untilDeadline));
    }
    if (this.#fastFail !== null) clearTimeout(this.#fastFail);
    return why;
  }

  #pause(pauseMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, pauseMs);
      this.#endPause = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Asymmetric namespace access: which namespaces this path leads to, and how well. */
  async #readAccess(): Promise<void> {
    const { admin, identity } = this;
    if (admin === null || identity === null || !identity.reportsAccess) return;
    const page = getLogPage(LogPageId.asymmetricNamespaceAccess, ADMIN_DATA_BYTES, 0);
    const { status, data } = await admin.execute(page, ADMIN_DATA_BYTES);
    if (statusCode(status) !== Status.success) return;
    this.#access = parseAccess(data);
    this.#events.onChange(this);
  }

  async #event(admin: AdminQueue, type: number, notice: number, page: number): Promise<void> {
    if (type !== AsyncEventType.notice) {
      // Reading its page is what makes the controller tell the next one.
      await admin.execute(getLogPage(page, 512, 0xffff_ffff), 512);
    } else if (notice === AsyncEventNotice.asymmetricNamespaceAccess) {
      await this.#readAccess();
    } else if (notice === AsyncEventNotice.namespaceAttributes && this.identity !== null) {
      await admin.execute(getLogPage(LogPageId.changedNamespaces, 4096, 0xffff_ffff), 4096);
      this.namespaces = await identifyNamespaces(admin, this.identity);
      this.#events.onChange(this);
    }
  }
}

/** The access state of each namespace in the log page (NVMe base 2.0 §5.16.1.13): one of `Access`. */
function parseAccess(log: Buffer): Map<number, (typeof Access)[keyof typeof Access]> {
  const found = new Map<number, (typeof Access)[keyof typeof Access]>();
  let at = 16;
  for (let group = log.readUInt16LE(8); group > 0 && at + 32 <= log.length; group--) {
    const count = log.readUInt32LE(at + 4);
    const state = (log.readUInt8(at + 16) & 0xf) as (typeof Access)[keyof typeof Access];
    at += 32;
    for (let i = 0; i < count && at + 4 <= log.length; i++, at += 4) found.set(log.readUInt32LE(at), state);
  }
  return found;
}
