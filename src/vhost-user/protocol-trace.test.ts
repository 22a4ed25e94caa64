/** Messages as people read them. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeMessage, encodeU64, HeaderFlag, REQUESTS, type RequestName, VringState } from './messages.ts';
import { ProtocolTrace } from './protocol-trace.ts';

const lines: string[] = [];
const trace = new ProtocolTrace((line) => lines.push(line), { FLUSH: 9, MQ: 12 });

function received(name: RequestName, payload: Uint8Array, fds = 0, flags = 1): string {
  trace.received(REQUESTS[name].code, flags, payload, fds);
  return lines.pop() ?? '';
}

function replied(name: RequestName, payload: Uint8Array, fds = 0): string {
  trace.sent(encodeMessage(REQUESTS[name].code, HeaderFlag.reply, payload), fds);
  return lines.pop() ?? '';
}

const words = (...values: number[]): Uint8Array => new Uint8Array(new Uint32Array(values).buffer);

describe('a request', () => {
  it('has its feature bits by name, and those without one by number', () => {
    const mask = (1n << 32n) | (1n << 30n) | (1n << 29n) | (1n << 9n) | (1n << 3n);
    expect(received('SET_FEATURES', encodeU64(mask))).toBe(
      '-> SET_FEATURES 0x160000208 = 3 FLUSH EVENT_IDX PROTOCOL_FEATURES VERSION_1',
    );
    expect(received('SET_PROTOCOL_FEATURES', encodeU64(0x209))).toBe(
      '-> SET_PROTOCOL_FEATURES 0x209 = MQ REPLY_ACK CONFIG',
    );
    expect(received('SET_STATUS', encodeU64(15))).toBe('-> SET_STATUS 0xf = ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK');
  });

  it('has the fields of its payload, what comes with it, and what it wants', () => {
    expect(received('SET_VRING_NUM', words(2, 256), 0, 9)).toBe('-> SET_VRING_NUM index 2, num 256, wants a reply');
    expect(received('SET_VRING_KICK', encodeU64(1), 1)).toBe('-> SET_VRING_KICK index 1, 1 descriptor');
    expect(received('SET_VRING_CALL', encodeU64(0x103))).toBe('-> SET_VRING_CALL index 3, no descriptor');
    expect(received('GET_FEATURES', new Uint8Array(0))).toBe('-> GET_FEATURES');
    expect(received('SET_VRING_ADDR', words(1, 0, 0x1000, 0, 0x2000, 0, 0x3000, 1, 0, 0))).toBe(
      '-> SET_VRING_ADDR index 1, flags 0, descriptor 0x1000, used 0x2000, available 0x100003000, log 0x0',
    );
    expect(received('SET_MEM_TABLE', words(1, 0, 0, 1, 0x4000, 0, 0x9000, 0, 0, 0), 1)).toBe(
      '-> SET_MEM_TABLE regions 1; guestAddress 0x100000000, sizeBytes 0x4000, userAddress 0x9000, mmapOffset 0x0, ' +
        '1 descriptor',
    );
    trace.received(99, 1, words(5), 0);
    expect(lines.pop()).toBe('-> request 99 05000000');
  });

  it('is shown whatever a front-end sends', () => {
    const codes = fc.integer({ min: 0, max: 45 });
    fc.assert(
      fc.property(codes, fc.uint8Array({ maxLength: 400 }), fc.nat(5), fc.nat(), (code, payload, fds, flags) => {
        trace.received(code, flags, payload, fds);
        trace.sent(encodeMessage(code, HeaderFlag.reply, payload), fds);
        expect(lines.splice(0).every((line) => line.length < 2500)).toBe(true);
      }),
    );
  });
});

describe('a reply', () => {
  it('has what was asked for, or whether it went well', () => {
    expect(replied('GET_FEATURES', encodeU64(1 << 12))).toBe('<- GET_FEATURES reply 0x1000 = MQ');
    expect(replied('GET_VRING_BASE', VringState.encode({ index: 1, num: 77 }))).toBe(
      '<- GET_VRING_BASE reply index 1, num 77',
    );
    expect(replied('GET_QUEUE_NUM', encodeU64(256))).toBe('<- GET_QUEUE_NUM reply 256');
    expect(replied('SET_MEM_TABLE', encodeU64(0))).toBe('<- SET_MEM_TABLE reply ok');
    expect(replied('SET_MEM_TABLE', encodeU64(1))).toBe('<- SET_MEM_TABLE reply refused');
  });

  it("may be a request of the back-end's own", () => {
    trace.sentRequest(2, new Uint8Array(0));
    expect(lines.pop()).toBe('<- CONFIG_CHANGE_MSG');
  });
});
