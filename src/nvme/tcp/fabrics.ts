/**
 * Commands that a fabric has in place of registers and of the creation of queues (NVMe base 2.0 §6; fabrics 1.1):
 * Connect, Property Get and Set.
 */
import type { AdminCommand } from '../command.ts';

export const FABRICS_OPCODE = 0x7f;
const FabricsType = { propertySet: 0x00, connect: 0x01, propertyGet: 0x04 } as const;

export const DISCOVERY_NQN = 'nqn.2014-08.org.nvmexpress.discovery';
/** Longest name of a subsystem or host (NVMe base 2.0 §4.5). */
export const NQN_BYTES_MAX = 223;
/** Any controller of the subsystem: it makes a new one. */
export const DYNAMIC_CONTROLLER = 0xffff;
export const CONNECT_DATA_BYTES = 1024;
/** Data that a fabrics or admin command may carry (NVMe/TCP transport 1.0 §3.3.2). */
export const FABRICS_CAPSULE_BYTES = 8192;

export interface ConnectParams {
  readonly queueId: number;
  readonly controllerId: number;
  /** Entries of the submission queue. */
  readonly entries: number;
  /** Keep-alive timeout, of the admin queue; 0 for none. */
  readonly keepAliveMs: number;
  readonly hostNqn: string;
  /** 16 bytes as 32 hexadecimal digits. */
  readonly hostId: string;
  readonly subsystemNqn: string;
}

export function connectCommand({ queueId, entries, keepAliveMs }: ConnectParams): AdminCommand {
  return {
    opcode: FABRICS_OPCODE,
    nsid: FabricsType.connect,
    cdw10: (queueId << 16) >>> 0,
    cdw11: entries - 1,
    cdw12: keepAliveMs,
  };
}

export function writeConnectData(params: ConnectParams, bytes: Uint8Array, offset: number): void {
  const data = Buffer.from(bytes.buffer, bytes.byteOffset + offset, CONNECT_DATA_BYTES).fill(0);
  data.write(params.hostId, 0, 'hex');
  data.writeUInt16LE(params.controllerId, 16);
  data.write(params.subsystemNqn, 256);
  data.write(params.hostNqn, 512);
}

/** Controller properties: where the registers are on PCIe (NVMe base 2.0 §3.1.3). */
export const Property = {
  capabilities: { offset: 0x00, bytes: 8 },
  version: { offset: 0x08, bytes: 4 },
  configuration: { offset: 0x14, bytes: 4 },
  status: { offset: 0x1c, bytes: 4 },
} as const;
type PropertyField = (typeof Property)[keyof typeof Property];

export function propertyGet({ offset, bytes }: PropertyField): AdminCommand {
  return { opcode: FABRICS_OPCODE, nsid: FabricsType.propertyGet, cdw10: bytes === 8 ? 1 : 0, cdw11: offset };
}

export function propertySet({ offset, bytes }: PropertyField, value: number): AdminCommand {
  return {
    opcode: FABRICS_OPCODE,
    nsid: FabricsType.propertySet,
    cdw10: bytes === 8 ? 1 : 0,
    cdw11: offset,
    cdw12: value,
  };
}

/** `CC`: enable, 64-byte entries of submission queues and 16-byte ones of completion queues; a normal shutdown. */
export const CONFIGURATION_ENABLED = (6 << 16) | (4 << 20) | 1;
export const CONFIGURATION_SHUTDOWN = CONFIGURATION_ENABLED | (1 << 14);
/** `CSTS`. */
export const STATUS_READY = 1;
export const STATUS_FATAL = 2;
