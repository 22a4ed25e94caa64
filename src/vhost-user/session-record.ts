/** A session as it is handed over to the daemon that comes after: plain data, descriptors by their places in a list. */
import type { ConnectionRecord } from './connection.ts';
import type { InflightRecord } from './inflight.ts';
import type { RegionRecord } from './memory-table.ts';
import type { LogRecord } from './shared-log.ts';
import type { VringRecord } from './vring.ts';

export interface SessionRecord {
  readonly connection: ConnectionRecord;
  readonly peerPid: number;
  /** Masks, as decimal numbers. */
  readonly features: string;
  readonly protocolFeatures: string;
  readonly status: string;
  readonly memory: readonly RegionRecord[];
  readonly inflight: InflightRecord | null;
  readonly dirtyLog: LogRecord;
  /** The socket for requests of the back-end. */
  readonly requestsFd: number;
  readonly vrings: readonly VringRecord[];
  /** Indexes of the rings that ran. */
  readonly running: readonly number[];
}
