/**
 * The protocol data units of NVMe/TCP (NVMe/TCP transport 1.0, §3.6), as tables. The data path reads and writes their
 * fields at the offsets given here.
 */
import { addr64, struct, u8, u16, u32 } from '../../base/struct.ts';

export const PduType = {
  icReq: 0,
  icResp: 1,
  h2cTermReq: 2,
  c2hTermReq: 3,
  capsuleCmd: 4,
  capsuleResp: 5,
  h2cData: 6,
  c2hData: 7,
  r2t: 9,
} as const;

export const PduFlag = { headerDigest: 1, dataDigest: 2, last: 4, success: 8 } as const;

const commonHeader = { type: u8, flags: u8, hlen: u8, pdo: u8, plen: u32 };
const words = (count: number) => ({
  size: count * 4,
  read: () => null,
  write: () => undefined,
});

export const IC_BYTES = 128;
export const IcReq = struct('nvme_tcp_ic_req', IC_BYTES, {
  ...commonHeader,
  formatVersion: u16,
  /** Host's alignment of data, in dwords, 0-based. */
  hpda: u8,
  /** Bits: 0 header digest, 1 data digest. */
  digests: u8,
  /** R2Ts a command that the host takes at once, 0-based. */
  maxR2t: u32,
  reserved: words(28),
});
export const IcResp = struct('nvme_tcp_ic_resp', IC_BYTES, {
  ...commonHeader,
  formatVersion: u16,
  /** Controller's alignment of data, in dwords, 0-based. */
  cpda: u8,
  digests: u8,
  /** Most bytes of data in an H2CData PDU. */
  maxH2cData: u32,
  reserved: words(28),
});
export const IC_DIGEST = { header: 1, data: 2 } as const;

/** Bytes of the headers that the data path knows. */
export const CAPSULE_CMD_BYTES = 72;
export const SHORT_HEADER_BYTES = 24;
export const DIGEST_BYTES = 4;
/** MAXH2CDATA is at least this. */
export const H2C_DATA_BYTES_MIN = 4096;
export const CPDA_MAX = 31;

/** CapsuleResp, after the common header: the completion queue entry. */
export const CompletionPdu = struct('nvme_tcp_rsp', SHORT_HEADER_BYTES, {
  ...commonHeader,
  dword0: u32,
  dword1: u32,
  sqHead: u16,
  sqId: u16,
  commandId: u16,
  /** Bit 0 is reserved on fabrics. */
  status: u16,
});
export const DataPdu = struct('nvme_tcp_data', SHORT_HEADER_BYTES, {
  ...commonHeader,
  commandId: u16,
  transferTag: u16,
  dataOffset: u32,
  dataLength: u32,
  reserved: u32,
});
export const R2tPdu = struct('nvme_tcp_r2t', SHORT_HEADER_BYTES, {
  ...commonHeader,
  commandId: u16,
  transferTag: u16,
  dataOffset: u32,
  dataLength: u32,
  reserved: u32,
});
export const TermPdu = struct('nvme_tcp_term', SHORT_HEADER_BYTES, {
  ...commonHeader,
  fatalErrorStatus: u16,
  /** Unaligned, and so in two halves. */
  infoLow: u16,
  infoHigh: u16,
  reserved: u16,
  reserved2: addr64,
});

/** Offsets of the fields above. */
export const At = {
  type: 0,
  flags: 1,
  hlen: 2,
  pdo: 3,
  plen: 4,
  dword0: 8,
  completionCommandId: 20,
  completionStatus: 22,
  commandId: 8,
  transferTag: 10,
  dataOffset: 12,
  dataLength: 16,
  fatalErrorStatus: 8,
} as const;

/** Why a connection is ended (FES). */
export const FatalError = {
  invalidHeaderField: 1,
  sequence: 2,
  headerDigest: 3,
  dataOutOfRange: 4,
  limitExceeded: 5,
  unsupportedParameter: 6,
} as const;

const FATAL_ERROR_TEXTS: Readonly<Record<number, string>> = {
  1: 'invalid PDU header field',
  2: 'PDU sequence error',
  3: 'header digest error',
  4: 'data transfer out of range',
  5: 'R2T limit or data transfer limit exceeded',
  6: 'unsupported parameter',
};

export function fatalErrorText(status: number): string {
  return FATAL_ERROR_TEXTS[status] ?? `fatal error status ${status}`;
}

/** SGL descriptor types, in the top byte of the fourth word (NVMe base 2.0 §4.1.2; fabrics 1.1 §4). */
export const SGL_IN_CAPSULE = 0x01 << 24;
export const SGL_TRANSPORT = 0x5a << 24;
/** `PSDT`: data pointers are SGLs. */
export const FLAG_SGL = 0x40 << 8;
