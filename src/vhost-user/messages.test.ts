/** The message table against the numbers of the specification. */
import { describe, expect, it } from 'vitest';
import {
  CONFIG_BYTES_MAX,
  ConfigHead,
  encodeMessage,
  encodeU64,
  Header,
  hasBit,
  InflightDescription,
  LogDescription,
  MEMORY_TABLE_REGIONS_MAX,
  MemoryRegion,
  MemoryTableHead,
  maskOf,
  PAYLOAD_BYTES_MAX,
  ProtocolFeature,
  REQUESTS,
  type RequestName,
  type RequestSpec,
  requestName,
  SingleMemoryRegion,
  U64,
  VringAddr,
  VringState,
} from './messages.ts';

const rows = Object.entries(REQUESTS) as [RequestName, RequestSpec][];

/** By name: request code, bytes of the payload (fewest and most), whether it has a reply of its own. */
const SPECIFICATION: Readonly<Record<string, readonly [number, number, number, boolean]>> = {
  GET_FEATURES: [1, 0, 0, true],
  SET_FEATURES: [2, 8, 8, false],
  SET_OWNER: [3, 0, 0, false],
  RESET_OWNER: [4, 0, 0, false],
  SET_MEM_TABLE: [5, 8, 8 + 32 * 32, false],
  SET_VRING_NUM: [8, 8, 8, false],
  SET_VRING_ADDR: [9, 40, 40, false],
  SET_VRING_BASE: [10, 8, 8, false],
  GET_VRING_BASE: [11, 8, 8, true],
  SET_VRING_KICK: [12, 8, 8, false],
  SET_VRING_CALL: [13, 8, 8, false],
  SET_VRING_ERR: [14, 8, 8, false],
  GET_PROTOCOL_FEATURES: [15, 0, 0, true],
  SET_PROTOCOL_FEATURES: [16, 8, 8, false],
  GET_QUEUE_NUM: [17, 0, 0, true],
  SET_VRING_ENABLE: [18, 8, 8, false],
  SET_BACKEND_REQ_FD: [21, 0, 0, false],
  GET_CONFIG: [24, 12, 12 + 256, true],
  SET_CONFIG: [25, 12, 12 + 256, false],
  RESET_DEVICE: [34, 0, 0, false],
  VRING_KICK: [35, 8, 8, false],
  GET_MAX_MEM_SLOTS: [36, 0, 0, true],
  ADD_MEM_REG: [37, 40, 40, false],
  REM_MEM_REG: [38, 40, 40, false],
  SET_STATUS: [39, 8, 8, false],
  GET_STATUS: [40, 0, 0, true],
};

describe('requests', () => {
  it('have the codes, sizes and replies of the specification', () => {
    const known = rows.filter(([name]) => name in SPECIFICATION);
    const table = known.map(([name, { code, payload, payloadMax, hasReply }]) => {
      const size = payload?.size ?? 0;
      return [name, [code, size, payloadMax ?? size, hasReply]];
    });
    expect(Object.fromEntries(table)).toEqual(SPECIFICATION);
  });

  it('have codes of their own', () => {
    expect(new Set(rows.map(([, { code }]) => code)).size).toBe(rows.length);
    for (const [name, { code }] of rows) expect(requestName(code)).toBe(name);
    expect([requestName(0), requestName(6000), requestName(2 ** 32 - 1)]).toEqual([undefined, undefined, undefined]);
  });

  it.each(rows)('%s has limits that fit together', (_, { payload, payloadMax, fds: [fewest, most], needs }) => {
    const size = payload?.size ?? 0;
    expect(payloadMax ?? size).toBeGreaterThanOrEqual(size);
    expect(payloadMax ?? size).toBeLessThanOrEqual(PAYLOAD_BYTES_MAX);
    expect(most).toBeGreaterThanOrEqual(fewest);
    expect(needs === undefined || needs in ProtocolFeature).toBe(true);
  });
});

describe('layouts', () => {
  it('have the sizes of the specification', () => {
    const structs = [Header, U64, VringState, VringAddr, MemoryTableHead, MemoryRegion, SingleMemoryRegion];
    const others = [LogDescription, ConfigHead, InflightDescription];
    expect(structs.map(({ size }) => size)).toEqual([12, 8, 8, 40, 8, 32, 40]);
    expect(others.map(({ size }) => size)).toEqual([16, 12, 20]);
    expect([MEMORY_TABLE_REGIONS_MAX, CONFIG_BYTES_MAX]).toEqual([32, 256]);
  });

  it('put the used ring before the available ring in an address message', () => {
    const bytes = VringAddr.encode({ index: 1, flags: 2, descriptor: 3, used: 4, available: 5, log: 6 });
    expect([0, 4, 8, 16, 24, 32].map((at) => bytes[at])).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it('put a region as address, size, front-end address, offset', () => {
    const region = { guestAddress: 1, sizeBytes: 2, userAddress: 3, mmapOffset: 4 };
    expect([0, 8, 16, 24].map((at) => MemoryRegion.encode(region)[at])).toEqual([1, 2, 3, 4]);
    expect([8, 16, 24, 32].map((at) => SingleMemoryRegion.encode({ padding: 0n, ...region })[at])).toEqual([
      1, 2, 3, 4,
    ]);
  });
});

describe('protocol features', () => {
  it('have the bits of the specification', () => {
    const { MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD } = ProtocolFeature;
    const { RESET_DEVICE, INBAND_NOTIFICATIONS, CONFIGURE_MEM_SLOTS, STATUS } = ProtocolFeature;
    expect([MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD]).toEqual([0, 1, 3, 5, 9, 12]);
    expect([RESET_DEVICE, INBAND_NOTIFICATIONS, CONFIGURE_MEM_SLOTS, STATUS]).toEqual([13, 14, 15, 16]);
  });
});

describe('encoding', () => {
  it('writes header, version and payload', () => {
    const payload = encodeU64(0x0123_4567_89ab_cdefn);
    const message = encodeMessage(24, 0x4, payload);
    expect([...message.subarray(0, 12)]).toEqual([24, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0]);
    expect(message.subarray(12)).toEqual(payload);
    payload.fill(0);
    expect(message[12]).toBe(0xef);
  });

  it('counts bits up to 63', () => {
    expect(maskOf()).toBe(0n);
    expect(maskOf(0, 63, 30)).toBe(0x8000_0000_4000_0001n);
    expect([0, 1, 30, 63].map((bit) => hasBit(0x8000_0000_4000_0001n, bit))).toEqual([true, false, true, true]);
    expect(encodeU64(7)).toEqual(encodeU64(7n));
  });
});
