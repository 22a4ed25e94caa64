import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ScsiRig, zeros } from '../../../test/support/scsi-rig.ts';
import { IoType } from '../../bdev/bdev-io.ts';

let rig: ScsiRig;
beforeEach(() => {
  rig = new ScsiRig({ hasWriteCache: true, nexusCount: 2, unit: { isRemovable: true } });
});
afterEach(() => rig.close());

const READY = '00 00 00 00 00 00';

describe('REQUEST SENSE', () => {
  it('has nothing to say, in either format', () => {
    const fixed = rig.run('03 00 00 00 fc 00', { in: 252 });
    expect([...fixed.data]).toEqual([0x70, 0, 0, 0, 0, 0, 0, 10, ...zeros(10)]);
    expect([...rig.run('03 01 00 00 fc 00', { in: 252 }).data]).toEqual([0x72, 0, 0, 0, 0, 0, 0, 0]);
  });

  it('tells a unit attention, once', () => {
    rig.target.resetNexus(0);
    expect([...rig.run('03 01 00 00 fc 00', { in: 252 }).data.subarray(0, 4)]).toEqual([0x72, 6, 0x29, 0]);
    expect(rig.run(READY).status).toBe(0);
  });
});

describe('START STOP UNIT', () => {
  it('ejects and loads the medium', () => {
    expect(rig.run('1b 00 00 00 02 00').status).toBe(0);
    expect(rig.disk.log.map(({ type }) => type)).toEqual([IoType.flush]);
    for (const cdb of [READY, '28 00 00 00 00 00 00 00 01 00', '25 00 00 00 00 00 00 00 00 00']) {
      expect(rig.run(cdb, { in: 512 }).sense).toBe('2/3A/00');
    }
    expect(rig.run('12 00 00 00 ff 00', { in: 255 }).data[1]).toBe(0x80);
    expect([...rig.run('03 01 00 00 fc 00', { in: 252 }).data.subarray(0, 4)]).toEqual([0x72, 2, 0x3a, 0]);
    expect(rig.run('1b 01 00 00 03 00').status).toBe(0);
    expect(rig.run(READY).status).toBe(0);
    expect(rig.run(READY, { nexus: 1 }).sense).toBe('6/28/00');
  });

  it('neither ejects nor loads while a nexus prevents it', () => {
    expect(rig.run('1e 00 00 00 01 00', { nexus: 1 }).status).toBe(0);
    expect(rig.run('1b 00 00 00 02 00').sense).toBe('5/53/02');
    rig.target.resetNexus(1);
    expect(rig.run('1b 00 00 00 02 00').status).toBe(0);
    expect(rig.run('1e 00 00 00 01 00').status).toBe(0);
    expect(rig.run('1b 00 00 00 03 00').sense).toBe('5/53/02');
    expect(rig.run('1e 00 00 00 00 00').status).toBe(0);
    expect(rig.run('1b 00 00 00 03 00').status).toBe(0);
    expect(rig.run('1b 00 00 00 02 00').status).toBe(0);
  });

  it('stops only in that it flushes, and has no power conditions', () => {
    for (const flags of [0x00, 0x01, 0x04, 0x05, 0x12, 0x32]) expect(rig.run([0x1b, 0, 0, 0, flags, 0]).status).toBe(0);
    expect(rig.run(READY).status).toBe(0);
    expect(rig.disk.log).toHaveLength(1);
    rig.disk.failing.add(IoType.flush);
    expect(rig.run('1b 00 00 00 00 00').sense).toBe('3/0C/00');
  });

  it('ejects nothing from a fixed disk', () => {
    rig.target.addLun(1, rig.unitOptions());
    rig.clearAttention(2);
    expect(rig.run('1b 00 00 00 02 00', { lun: 1 }).sense).toBe('5/24/00');
  });
});

describe('RESERVE and RELEASE', () => {
  const READ = '28 00 00 00 00 00 00 00 01 00';

  it.each([
    ['16 00 00 00 00 00', '17 00 00 00 00 00'],
    ['56 00 00 00 00 00 00 00 00 00', '57 00 00 00 00 00 00 00 00 00'],
  ])('keep the unit for one nexus', (reserve, release) => {
    expect(rig.run(reserve).status).toBe(0);
    expect(rig.run(reserve).status).toBe(0);
    expect(rig.run(reserve, { nexus: 1 }).status).toBe(0x18);
    expect(rig.run(READ, { in: 512 }).status).toBe(0);
    expect(rig.run(READ, { in: 512, nexus: 1 })).toMatchObject({
      status: 0x18,
      sense: '',
      transferred: 0,
      residual: 512,
    });
    expect(rig.run(READY, { nexus: 1 }).status).toBe(0x18);
    expect(rig.run('12 00 00 00 ff 00', { in: 255, nexus: 1 }).status).toBe(0);
    expect(rig.run('a0 00 00 00 00 00 00 00 00 10 00 00', { in: 16, nexus: 1 }).status).toBe(0);
    expect(rig.run(release, { nexus: 1 }).status).toBe(0);
    expect(rig.run(READ, { in: 512, nexus: 1 }).status).toBe(0x18);
    expect(rig.run(release).status).toBe(0);
    expect(rig.run(READ, { in: 512, nexus: 1 }).status).toBe(0);
  });

  it('end with the nexus, and with a reset of the unit', () => {
    rig.run('16 00 00 00 00 00');
    rig.target.resetNexus(0);
    expect(rig.run(READY, { nexus: 1 }).status).toBe(0);
    rig.run(READY);
    rig.run('16 00 00 00 00 00');
    rig.target.manage({ function: 5, lun: 0, nexus: 1, tagLow: 0, tagHigh: 0 }, () => {});
    expect(rig.run(READY, { nexus: 1 }).sense).toBe('6/29/03');
    expect(rig.run(READY, { nexus: 1 }).status).toBe(0);
  });

  it('refuse third parties and extents', () => {
    for (const flags of [0x01, 0x10, 0x02]) {
      expect(rig.run([0x16, flags, 0, 0, 0, 0]).sense).toBe('5/24/00');
      expect(rig.run([0x57, flags, 0, 0, 0, 0, 0, 0, 0, 0]).sense).toBe('5/24/00');
    }
  });

  it('do not mix with persistent reservations', () => {
    rig.run('16 00 00 00 00 00');
    expect(rig.run('5e 00 00 00 00 00 00 00 ff 00', { in: 255 }).status).toBe(0x18);
    expect(rig.run('5e 00 00 00 00 00 00 00 ff 00', { in: 255, nexus: 1 }).status).toBe(0x18);
    rig.run('17 00 00 00 00 00');
    expect(rig.run('5e 00 00 00 00 00 00 00 ff 00', { in: 255 }).status).toBe(0);
  });
});

describe('LOG SENSE', () => {
  it('lists its pages', () => {
    expect([...rig.run('4d 00 00 00 00 00 00 00 ff 00', { in: 255 }).data]).toEqual([0, 0, 0, 2, 0x00, 0x2f]);
    expect([...rig.run('4d 00 00 ff 00 00 00 00 ff 00', { in: 255 }).data]).toEqual([
      ...[0x40, 0xff, 0, 6, 0x00, 0x00, 0x00, 0xff, 0x2f, 0x00],
    ]);
  });

  it('has no exception and no temperature', () => {
    expect([...rig.run('4d 00 6f 00 00 00 00 00 ff 00', { in: 255 }).data]).toEqual([
      ...[0x2f, 0, 0, 8, 0, 0, 3, 4, 0, 0, 0xff, 0],
    ]);
  });

  it('refuses other pages, and saving', () => {
    expect(rig.run('4d 00 0d 00 00 00 00 00 ff 00', { in: 255 }).sense).toBe('5/24/00');
    expect(rig.run('4d 00 2f 01 00 00 00 00 ff 00', { in: 255 }).sense).toBe('5/24/00');
    expect(rig.run('4d 01 2f 00 00 00 00 00 ff 00', { in: 255 }).sense).toBe('5/24/00');
  });
});
