import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  decodeLun,
  decodeTarget,
  encodeLun,
  NO_LUN,
  REPORT_LUNS_WELL_KNOWN,
  SCSI_LUN_BYTES,
  SCSI_LUNS_MAX,
  SCSI_TARGETS_MAX,
  ScsiConfig,
} from './scsi.ts';

/** Bytes of a LUN field, the rest zero. */
function field(...bytes: number[]): Uint8Array {
  const whole = new Uint8Array(SCSI_LUN_BYTES);
  whole.set(bytes);
  return whole;
}

describe('the LUN field', () => {
  test('names every target and LUN, and is read as it was written', () => {
    const target = fc.integer({ min: 0, max: SCSI_TARGETS_MAX - 1 });
    const lun = fc.integer({ min: 0, max: SCSI_LUNS_MAX - 1 });
    fc.assert(
      fc.property(target, lun, fc.integer({ min: 0, max: 9 }), (t, l, at) => {
        const bytes = new Uint8Array(20).fill(0xee);
        encodeLun(bytes, at, t, l);
        expect([decodeTarget(bytes, at), decodeLun(bytes, at)]).toEqual([t, l]);
      }),
    );
  });

  test('is the same with and without flat space addressing', () => {
    expect(decodeLun(field(1, 2, 0x00, 0x07), 0)).toBe(7);
    expect(decodeLun(field(1, 2, 0x40, 0x07), 0)).toBe(7);
    expect(decodeLun(field(1, 2, 0x41, 0x02), 0)).toBe(258);
    expect(decodeLun(field(1, 2, 0x01, 0x02), 0)).toBe(258);
  });

  test('is written by flat space addressing from LUN 256 up only, as Linux expects it in events', () => {
    const bytes = new Uint8Array(SCSI_LUN_BYTES);
    encodeLun(bytes, 0, 3, 255);
    expect(bytes).toEqual(field(1, 3, 0, 255));
    encodeLun(bytes, 0, 3, 256);
    expect(bytes).toEqual(field(1, 3, 0x41, 0));
  });

  test('names no target when it does not begin with 1', () => {
    for (const first of [0, 2, 0xc1, 0xff]) expect(decodeTarget(field(first, 1), 0)).toBe(NO_LUN);
  });

  test('names no LUN with an unknown addressing method or a second level', () => {
    expect(decodeLun(field(1, 0, 0x80, 0), 0)).toBe(NO_LUN);
    expect(decodeLun(field(1, 0, 0xc1, 2), 0)).toBe(NO_LUN);
    for (let at = 4; at < SCSI_LUN_BYTES; at++) {
      const bytes = field(1, 0, 0, 0);
      bytes[at] = 1;
      expect(decodeLun(bytes, 0)).toBe(NO_LUN);
    }
  });

  test('names the REPORT LUNS well-known logical unit', () => {
    expect(decodeLun(field(1, 0, 0xc1, 0x01), 0)).toBe(REPORT_LUNS_WELL_KNOWN);
  });
});

test('the configuration space is laid out as in the specification', () => {
  const bytes = ScsiConfig.encode({
    requestQueueCount: 1,
    segMax: 2,
    maxSectors: 3,
    commandsPerLun: 4,
    eventInfoBytes: 16,
    senseBytes: 96,
    cdbBytes: 32,
    maxChannel: 0,
    maxTarget: 255,
    maxLun: 16_383,
  });
  const view = new DataView(bytes.buffer);
  expect(bytes.length).toBe(36);
  expect([view.getUint32(16, true), view.getUint32(20, true), view.getUint32(24, true)]).toEqual([16, 96, 32]);
  expect([view.getUint16(30, true), view.getUint32(32, true)]).toEqual([255, 16_383]);
});
