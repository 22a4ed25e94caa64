/**
 * The vhost-user messages as a table (QEMU docs/interop/vhost-user.rst). The dispatcher, its checks of size,
 * descriptors and features, the initiator and the tests all walk it.
 *
 * Not here: crypto, GPU, net and postcopy messages, which a storage back-end never offers; they are answered as
 * unknown.
 */
import { TargetError } from '../base/errors.ts';
import { addr64, type Fields, type Struct, type StructValue, struct, u16, u32, u64 } from '../base/struct.ts';

/** Message header: 12 bytes, host byte order. */
export const Header = struct('vhost_user_header', 12, { request: u32, flags: u32, size: u32 });

export const HeaderFlag = { versionMask: 0x3, version: 0x1, reply: 0x4, needReply: 0x8 } as const;

/** Largest payload accepted. The largest legal one is a memory table of 32 regions, or a config of 12 + 256 bytes. */
export const PAYLOAD_BYTES_MAX = 4096;

export const U64 = struct('u64', 8, { value: u64 });
export const VringState = struct('vhost_vring_state', 8, { index: u32, num: u32 });
/** Note the order: descriptor, used, available. `log` is the guest physical address of the used ring. */
export const VringAddr = struct('vhost_vring_addr', 40, {
  index: u32,
  flags: u32,
  descriptor: addr64,
  used: addr64,
  available: addr64,
  log: addr64,
});
export const MemoryTableHead = struct('vhost_memory', 8, { regionCount: u32, padding: u32 });
export const MemoryRegion = struct('vhost_memory_region', 32, {
  guestAddress: addr64,
  sizeBytes: addr64,
  userAddress: addr64,
  mmapOffset: addr64,
});
export const SingleMemoryRegion = struct('vhost_user_mem_reg', 40, {
  padding: u64,
  guestAddress: addr64,
  sizeBytes: addr64,
  userAddress: addr64,
  mmapOffset: addr64,
});
export const LogDescription = struct('vhost_user_log', 16, { sizeBytes: addr64, offset: addr64 });
/** Followed by `size` bytes of configuration space. */
export const ConfigHead = struct('vhost_user_config', 12, { offset: u32, size: u32, flags: u32 });
/** Front-ends send it with 4 bytes of padding, as C has it, or without; they expect it with them. */
export const InflightDescription = struct('vhost_user_inflight', 20, {
  mmapSize: addr64,
  mmapOffset: addr64,
  queueCount: u16,
  queueSize: u16,
});
export type InflightDescription = StructValue<typeof InflightDescription extends Struct<infer F> ? F : never>;
export const INFLIGHT_BYTES = 24;

/** Offered and acked with GET/SET_PROTOCOL_FEATURES. */
export const ProtocolFeature = {
  MQ: 0,
  LOG_SHMFD: 1,
  REPLY_ACK: 3,
  BACKEND_REQ: 5,
  CONFIG: 9,
  INFLIGHT_SHMFD: 12,
  RESET_DEVICE: 13,
  INBAND_NOTIFICATIONS: 14,
  CONFIGURE_MEM_SLOTS: 15,
  STATUS: 16,
  GET_VRING_BASE_INFLIGHT: 20,
} as const;
export type ProtocolFeature = keyof typeof ProtocolFeature;

/** What every session offers; CONFIG comes with them where the device has a configuration space. */
export const PROTOCOL_FEATURES_OFFERED = [
  'MQ',
  'LOG_SHMFD',
  'REPLY_ACK',
  'BACKEND_REQ',
  'INFLIGHT_SHMFD',
  'RESET_DEVICE',
  'INBAND_NOTIFICATIONS',
  'CONFIGURE_MEM_SLOTS',
  'STATUS',
  'GET_VRING_BASE_INFLIGHT',
] as const satisfies readonly ProtocolFeature[];

/** Of SET_VRING_ADDR: writes to the used ring are logged. */
export const VRING_LOG_USED = 1;

/** The bits of the virtio feature space that belong to vhost-user. */
export const VHOST_F_LOG_ALL = 26;
export const VHOST_USER_F_PROTOCOL_FEATURES = 30;

/** In the u64 of SET_VRING_KICK, CALL and ERR: bits 0-7 the ring, bit 8 "no descriptor comes with it". */
export const VRING_INDEX_MASK = 0xff;
export const VRING_NO_FD = 0x100;

export interface RequestSpec {
  readonly code: number;
  /** Fixed part of the payload; null for none. */
  readonly payload: Struct<Fields> | null;
  /** Longest payload: more than the fixed part where data follows it. Default: exactly the fixed part. */
  readonly payloadMax?: number;
  /** True when the request has a reply of its own, whatever REPLY_ACK says. */
  readonly hasReply: boolean;
  readonly fds: readonly [min: number, max: number];
  /** Protocol feature that must have been acked. */
  readonly needs?: ProtocolFeature;
}

const none = [0, 0] as const;
const maybeOne = [0, 1] as const;
const one = [1, 1] as const;
/**
 * Regions in one SET_MEM_TABLE. Front-ends send at most 8 unless CONFIGURE_MEM_SLOTS was acked; room for more is free.
 */
export const MEMORY_TABLE_REGIONS_MAX = 32;
const MEMORY_TABLE_BYTES_MAX = 8 + 32 * MEMORY_TABLE_REGIONS_MAX;
export const CONFIG_BYTES_MAX = 256;

/** Front-end requests, in the specification's order. */
export const REQUESTS = {
  GET_FEATURES: { code: 1, payload: null, hasReply: true, fds: none },
  SET_FEATURES: { code: 2, payload: U64, hasReply: false, fds: none },
  SET_OWNER: { code: 3, payload: null, hasReply: false, fds: none },
  RESET_OWNER: { code: 4, payload: null, hasReply: false, fds: none },
  SET_MEM_TABLE: {
    code: 5,
    payload: MemoryTableHead,
    payloadMax: MEMORY_TABLE_BYTES_MAX,
    hasReply: false,
    fds: [0, MEMORY_TABLE_REGIONS_MAX],
  },
  SET_LOG_BASE: { code: 6, payload: LogDescription, hasReply: true, fds: one, needs: 'LOG_SHMFD' },
  SET_LOG_FD: { code: 7, payload: null, hasReply: false, fds: one },
  SET_VRING_NUM: { code: 8, payload: VringState, hasReply: false, fds: none },
  SET_VRING_ADDR: { code: 9, payload: VringAddr, hasReply: false, fds: none },
  SET_VRING_BASE: { code: 10, payload: VringState, hasReply: false, fds: none },
  GET_VRING_BASE: { code: 11, payload: VringState, hasReply: true, fds: none },
  SET_VRING_KICK: { code: 12, payload: U64, hasReply: false, fds: maybeOne },
  SET_VRING_CALL: { code: 13, payload: U64, hasReply: false, fds: maybeOne },
  SET_VRING_ERR: { code: 14, payload: U64, hasReply: false, fds: maybeOne },
  GET_PROTOCOL_FEATURES: { code: 15, payload: null, hasReply: true, fds: none },
  SET_PROTOCOL_FEATURES: { code: 16, payload: U64, hasReply: false, fds: none },
  GET_QUEUE_NUM: { code: 17, payload: null, hasReply: true, fds: none, needs: 'MQ' },
  SET_VRING_ENABLE: { code: 18, payload: VringState, hasReply: false, fds: none },
  SET_BACKEND_REQ_FD: { code: 21, payload: null, hasReply: false, fds: one, needs: 'BACKEND_REQ' },
  GET_CONFIG: {
    code: 24,
    payload: ConfigHead,
    payloadMax: 12 + CONFIG_BYTES_MAX,
    hasReply: true,
    fds: none,
    needs: 'CONFIG',
  },
  SET_CONFIG: {
    code: 25,
    payload: ConfigHead,
    payloadMax: 12 + CONFIG_BYTES_MAX,
    hasReply: false,
    fds: none,
    needs: 'CONFIG',
  },
  GET_INFLIGHT_FD: {
    code: 31,
    payload: InflightDescription,
    payloadMax: INFLIGHT_BYTES,
    hasReply: true,
    fds: none,
    needs: 'INFLIGHT_SHMFD',
  },
  SET_INFLIGHT_FD: {
    code: 32,
    payload: InflightDescription,
    payloadMax: INFLIGHT_BYTES,
    hasReply: false,
    fds: one,
    needs: 'INFLIGHT_SHMFD',
  },
  RESET_DEVICE: { code: 34, payload: null, hasReply: false, fds: none, needs: 'RESET_DEVICE' },
  VRING_KICK: { code: 35, payload: VringState, hasReply: false, fds: none, needs: 'INBAND_NOTIFICATIONS' },
  GET_MAX_MEM_SLOTS: { code: 36, payload: null, hasReply: true, fds: none, needs: 'CONFIGURE_MEM_SLOTS' },
  ADD_MEM_REG: { code: 37, payload: SingleMemoryRegion, hasReply: false, fds: one, needs: 'CONFIGURE_MEM_SLOTS' },
  REM_MEM_REG: { code: 38, payload: SingleMemoryRegion, hasReply: false, fds: maybeOne, needs: 'CONFIGURE_MEM_SLOTS' },
  SET_STATUS: { code: 39, payload: U64, hasReply: false, fds: none, needs: 'STATUS' },
  GET_STATUS: { code: 40, payload: null, hasReply: true, fds: none, needs: 'STATUS' },
} as const satisfies Record<string, RequestSpec>;

export type RequestName = keyof typeof REQUESTS;

/** Back-end requests, on the socket that SET_BACKEND_REQ_FD brings. */
export const BACKEND_REQUESTS = {
  CONFIG_CHANGE_MSG: { code: 2 },
  VRING_CALL: { code: 4 },
  VRING_ERR: { code: 5 },
} as const;

export type PayloadOf<N extends RequestName> =
  (typeof REQUESTS)[N]['payload'] extends Struct<infer F> ? StructValue<F> : undefined;

/** Name of a request code, or undefined. */
export function requestName(code: number): RequestName | undefined {
  return NAME_BY_CODE.get(code);
}

const NAME_BY_CODE = new Map<number, RequestName>(
  Object.entries(REQUESTS).map(([name, spec]) => [spec.code, name as RequestName]),
);

/** Builds one message. `payload` is copied. */
export function encodeMessage(code: number, flags: number, payload: Uint8Array): Uint8Array {
  const message = new Uint8Array(Header.size + payload.length);
  Header.encode({ request: code, flags: flags | HeaderFlag.version, size: payload.length }, message);
  message.set(payload, Header.size);
  return message;
}

export function encodeU64(value: bigint | number): Uint8Array {
  return U64.encode({ value: BigInt(value) });
}

export function hasBit(mask: bigint, bit: number): boolean {
  return ((mask >> BigInt(bit)) & 1n) === 1n;
}

export function maskOf(...bits: readonly number[]): bigint {
  return bits.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);
}

/** The answer to GET_CONFIG, zeroes beyond the configuration's end. Throws when too much is asked for. */
export function encodeConfig(config: Uint8Array, asked: PayloadOf<'GET_CONFIG'>): Uint8Array {
  const { offset, size } = asked;
  if (size > CONFIG_BYTES_MAX) throw new TargetError('VHOST_CONFIG', `${size} bytes of configuration asked for`);
  const reply = new Uint8Array(ConfigHead.size + size);
  ConfigHead.encode(asked, reply);
  // Cloud Hypervisor up to version 46 counted from the start of the transport's own configuration.
  const start = offset >= 0x100 && offset + size > config.length ? offset - 0x100 : offset;
  reply.set(config.subarray(start, start + size), ConfigHead.size);
  return reply;
}
