/** The discovery log (NVMe base 2.0 §5.16.1.23): the subsystems that a host may connect to, and where they are. */
import { TargetError } from '../base/errors.ts';
import type { AdminPort } from './admin.ts';
import { getLogPage } from './command.ts';
import { LogPageId } from './spec.ts';
import { checkStatus } from './status.ts';

/** Of the header, and of each entry. */
const DISCOVERY_RECORD_BYTES = 1024;
/** Entries of a log that are read. */
const ENTRIES_MAX = 1024;
/** Entries that one command asks for: what an admin queue of any transport takes. */
const ENTRIES_A_COMMAND = 4;
/** A log that changes while it is read is read again so often. */
const ATTEMPTS_MAX = 16;

export const DiscoverySubtype = { referral: 1, subsystem: 2, current: 3 } as const;
export const DiscoveryTransport = { rdma: 1, fibreChannel: 2, tcp: 3 } as const;
const AddressFamily: Readonly<Record<number, 'IPv4' | 'IPv6'>> = { 1: 'IPv4', 2: 'IPv6' };
const SECURE_CHANNEL_REQUIRED = 1;

export interface DiscoveryEntry {
  /** One of `DiscoverySubtype`. */
  readonly subtype: number;
  /** One of `DiscoveryTransport`. */
  readonly transport: number;
  readonly adrfam: 'IPv4' | 'IPv6' | undefined;
  readonly traddr: string;
  readonly trsvcid: string;
  readonly subnqn: string;
  /** It is served over TLS only. */
  readonly needsTls: boolean;
}

export interface DiscoveryLog {
  readonly generation: bigint;
  readonly entries: readonly DiscoveryEntry[];
  /** Entries that were not read, because there are too many. */
  readonly unread: number;
}

/** Reads all of it. Throws `EIO` when the controller refuses, or when the log does not stand still. */
export async function readDiscoveryLog(port: AdminPort): Promise<DiscoveryLog> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const { generation, count } = parseHeader(await read(port, 0, 1));
    const known = Math.min(count, ENTRIES_MAX);
    const entries: DiscoveryEntry[] = [];
    // Never beyond the log's end: not every controller checks that.
    for (let at = 0; at < known; at += ENTRIES_A_COMMAND) {
      const records = Math.min(known - at, ENTRIES_A_COMMAND);
      const bytes = await read(port, at + 1, records);
      for (let i = 0; i < records; i++) entries.push(parseEntry(bytes.subarray(i * DISCOVERY_RECORD_BYTES)));
    }
    // What was read in parts is one log only when it has not changed meanwhile.
    if (known === 0 || parseHeader(await read(port, 0, 1)).generation === generation) {
      return { generation, entries, unread: count - known };
    }
  }
  throw new TargetError('EIO', 'the discovery log changes faster than it can be read');
}

async function read(port: AdminPort, record: number, records: number): Promise<Buffer> {
  const bytes = records * DISCOVERY_RECORD_BYTES;
  const command = getLogPage(LogPageId.discovery, bytes, 0, record * DISCOVERY_RECORD_BYTES);
  const { status, data } = await port.execute(command, bytes);
  checkStatus(status, 'the controller does not give its discovery log');
  return data;
}

function parseHeader(bytes: Buffer): { generation: bigint; count: number } {
  return { generation: bytes.readBigUInt64LE(0), count: Number(bytes.readBigUInt64LE(8)) };
}

function parseEntry(bytes: Buffer): DiscoveryEntry {
  return {
    transport: bytes.readUInt8(0),
    adrfam: AddressFamily[bytes.readUInt8(1)],
    subtype: bytes.readUInt8(2),
    needsTls: (bytes.readUInt8(3) & 3) === SECURE_CHANNEL_REQUIRED,
    trsvcid: text(bytes, 32, 64),
    subnqn: text(bytes, 256, 512),
    traddr: text(bytes, 512, 768),
  };
}

/** Ends with a NUL or with spaces, depending on the target. */
function text(bytes: Buffer, from: number, to: number): string {
  return bytes.toString('latin1', from, to).replace(/[\0 ].*$/s, '');
}
