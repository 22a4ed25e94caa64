import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ScsiRig, zeros } from '../../../test/support/scsi-rig.ts';
import { COMMANDS } from '../command-table.ts';
import { REPORT_LUNS_UNIT } from '../task.ts';

let rig: ScsiRig;
beforeEach(() => {
  rig = new ScsiRig();
});
afterEach(() => rig.close());

describe('REPORT LUNS', () => {
  it('lists the LUNs, ascending, with flat space addressing from 256 on', () => {
    rig.target.addLun(300, rig.unitOptions());
    rig.target.addLun(7, rig.unitOptions());
    expect([...rig.run('a0 00 00 00 00 00 00 00 01 00 00 00', { in: 256 }).data]).toEqual([
      ...[0, 0, 0, 24, 0, 0, 0, 0],
      ...[0, 0, 0, 0, 0, 0, 0, 0],
      ...[0, 7, 0, 0, 0, 0, 0, 0],
      ...[0x41, 0x2c, 0, 0, 0, 0, 0, 0],
    ]);
  });

  it('lists well-known units when asked for them', () => {
    const wellKnown = [0xc1, 0x01, 0, 0, 0, 0, 0, 0];
    const only = rig.run('a0 00 01 00 00 00 00 00 01 00 00 00', { in: 256 }).data;
    expect([...only]).toEqual([0, 0, 0, 8, 0, 0, 0, 0, ...wellKnown]);
    const all = rig.run('a0 00 02 00 00 00 00 00 01 00 00 00', { in: 256 }).data;
    expect([...all]).toEqual([0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...wellKnown]);
    expect(rig.run('a0 00 03 00 00 00 00 00 01 00 00 00', { in: 256 }).sense).toBe('5/24/00');
  });

  it('is answered by any LUN, there or not, and by the well-known unit', () => {
    const first = rig.run('a0 00 00 00 00 00 00 00 01 00 00 00', { in: 256 });
    for (const lun of [0, 5, -1, REPORT_LUNS_UNIT]) {
      const answer = rig.run('a0 00 00 00 00 00 00 00 01 00 00 00', { in: 256, lun });
      expect(answer).toEqual(first);
      expect(rig.run('a0 00 00 00 00 00 00 00 00 0f 00 00', { in: 256, lun }).sense).toBe('5/24/00');
    }
  });

  it('is cut to the allocation length, its own length not', () => {
    rig.target.addLun(1, rig.unitOptions());
    const { data } = rig.run('a0 00 00 00 00 00 00 00 00 13 00 00', { in: 64 });
    expect([...data]).toEqual([0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    expect(rig.run('a0 00 00 00 00 00 00 00 01 00 00 00', { in: 16 })).toMatchObject({ response: 1, transferred: 0 });
  });

  it('lists thousands of LUNs', () => {
    for (let number = 1; number < 3000; number++) rig.target.addLun(number, rig.unitOptions());
    const { data } = rig.run('a0 00 00 00 00 00 00 00 ff ff 00 00', { in: 65_535 });
    expect(data).toHaveLength(8 + 3000 * 8);
    expect([...data.subarray(-8)]).toEqual([0x4b, 0xb7, 0, 0, 0, 0, 0, 0]);
  });
});

describe('REPORT SUPPORTED OPERATION CODES', () => {
  const list = (flags: number) => rig.run([0xa3, 0x0c, flags, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0], { in: 65_535 }).data;

  it('lists every row of the table', () => {
    const data = list(0);
    expect([...data.subarray(0, 4)]).toEqual([0, 0, COMMANDS.length >>> 5, (COMMANDS.length * 8) & 0xff]);
    COMMANDS.forEach(({ opcode, serviceAction, usage }, i) => {
      expect([...data.subarray(4 + 8 * i, 12 + 8 * i)]).toEqual([
        ...[opcode, 0, 0, Math.max(0, serviceAction), 0, serviceAction >= 0 ? 1 : 0, 0, usage.length],
      ]);
    });
  });

  it('adds timeouts descriptors when asked', () => {
    const data = list(0x80);
    expect(data).toHaveLength(4 + COMMANDS.length * 20);
    expect([...data.subarray(4, 24)]).toEqual([0, 0, 0, 0, 0, 2, 0, 6, 0, 10, ...zeros(10)]);
  });

  it('describes one command', () => {
    const read = rig.run('a3 0c 01 28 00 00 00 00 00 ff 00 00', { in: 255 }).data;
    expect([...read]).toEqual([0, 3, 0, 10, 0x28, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
    const capacity = rig.run('a3 0c 82 9e 00 10 00 00 00 ff 00 00', { in: 255 }).data;
    expect([...capacity]).toEqual([
      ...[0, 0x83, 0, 16, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
      ...[0, 10, ...zeros(10)],
    ]);
    expect([...rig.run('a3 0c 03 28 00 00 00 00 00 ff 00 00', { in: 255 }).data.subarray(0, 2)]).toEqual([0, 3]);
    expect([...rig.run('a3 0c 03 9e 00 10 00 00 00 ff 00 00', { in: 255 }).data.subarray(0, 2)]).toEqual([0, 3]);
  });

  it('says that a command is not supported', () => {
    for (const cdb of ['a3 0c 01 ff 00 00 00 00 00 ff 00 00', 'a3 0c 02 9e 00 1f 00 00 00 ff 00 00']) {
      expect([...rig.run(cdb, { in: 255 }).data]).toEqual([0, 1, 0, 0]);
    }
    rig.target.addLun(1, rig.unitOptions({ ioTypes: [0, 1] }));
    rig.clearAttention();
    expect([...rig.run('a3 0c 01 42 00 00 00 00 00 ff 00 00', { in: 255, lun: 1 }).data]).toEqual([0, 1, 0, 0]);
    const all = rig.run('a3 0c 00 00 00 00 00 00 ff ff 00 00', { in: 65_535, lun: 1 }).data;
    expect(all).toHaveLength(4 + 8 * (COMMANDS.length - 1));
  });

  it('wants a service action for the opcodes that have them, and only for those', () => {
    for (const { opcode, serviceAction } of COMMANDS) {
      const reporting = serviceAction >= 0 ? 1 : 2;
      const answer = rig.run([0xa3, 0x0c, reporting, opcode, 0, 0, 0, 0, 0, 255, 0, 0], { in: 255 });
      // Not byte 1, which would say that the command itself is not there.
      expect([answer.sense, answer.senseBytes[17]]).toEqual(['5/24/00', 2]);
    }
    expect(rig.run('a3 0c 04 28 00 00 00 00 00 ff 00 00', { in: 255 }).sense).toBe('5/24/00');
  });
});

describe('REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS', () => {
  it('lists all but those of auto contingent allegiance', () => {
    expect([...rig.run('a3 0d 00 00 00 00 00 00 00 10 00 00', { in: 16 }).data]).toEqual([0xdc, 3, 0, 0]);
    const extended = rig.run('a3 0d 80 00 00 00 00 00 00 10 00 00', { in: 16 }).data;
    expect([...extended]).toEqual([0xdc, 3, 0, 12, ...zeros(12)]);
    expect(rig.run('a3 0d 00 00 00 00 00 00 00 03 00 00', { in: 16 }).sense).toBe('5/24/00');
  });
});

describe('unknown commands', () => {
  it('are invalid opcodes, and unknown service actions invalid fields', () => {
    expect(rig.run('ff 00 00 00 00 00').sense).toBe('5/20/00');
    const action = rig.run('9e 1f 00 00 00 00 00 00 00 00 00 00 00 00 00 00');
    expect([action.sense, ...action.senseBytes.subarray(15, 18)]).toEqual(['5/24/00', 0xcc, 0, 1]);
    const naca = rig.run('00 00 00 00 00 04');
    expect([naca.sense, ...naca.senseBytes.subarray(15, 18)]).toEqual(['5/24/00', 0xca, 0, 5]);
  });
});
