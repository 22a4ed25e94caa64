import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ScsiRig, zeros } from '../../../test/support/scsi-rig.ts';

const ERROR_RECOVERY = [0x01, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CACHING = [0x08, 0x12, 0x04, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
const CONTROL = [0x0a, 0x0a, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
const EXCEPTIONS = [0x1c, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const DESCRIPTOR = [0, 0, 8, 0, 0, 0, 2, 0];

describe('MODE SENSE', () => {
  let rig: ScsiRig;
  beforeEach(() => {
    rig = new ScsiRig({ hasWriteCache: true });
  });
  afterEach(() => rig.close());

  it('returns all pages, with a block descriptor', () => {
    const pages = [...ERROR_RECOVERY, ...CACHING, ...CONTROL, ...EXCEPTIONS];
    const expected = [11 + pages.length, 0, 0x10, 8, ...DESCRIPTOR, ...pages];
    expect([...rig.run('1a 00 3f 00 ff 00', { in: 255 }).data]).toEqual(expected);
    expect([...rig.run('1a 00 3f ff ff 00', { in: 255 }).data]).toEqual(expected);
    const ten = [0, 14 + pages.length, 0, 0x10, 0, 0, 0, 8, ...DESCRIPTOR, ...pages];
    expect([...rig.run('5a 00 3f 00 00 00 00 01 00 00', { in: 256 }).data]).toEqual(ten);
  });

  it('leaves the descriptor out, or makes it long', () => {
    expect([...rig.run('1a 08 0a 00 ff 00', { in: 255 }).data]).toEqual([15, 0, 0x10, 0, ...CONTROL]);
    const long = [0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    expect([...rig.run('5a 10 08 00 00 00 00 01 00 00', { in: 256 }).data]).toEqual([
      ...[0, 42, 0, 0x10, 1, 0, 0, 16],
      ...long,
      ...CACHING,
    ]);
    expect([...rig.run('5a 18 08 00 00 00 00 01 00 00', { in: 256 }).data.subarray(0, 8)]).toEqual([
      ...[0, 26, 0, 0x10, 0, 0, 0, 0],
    ]);
  });

  it('tells current, changeable and default values, and has no saved ones', () => {
    const changed = [...CACHING];
    changed[2] = 0;
    expect(rig.run('15 10 00 00 18 00', { out: Uint8Array.from([0, 0, 0, 0, ...changed]) }).status).toBe(0);
    const page = (control: number) => [
      ...rig.run([0x1a, 8, (control << 6) | 8, 0, 255, 0], { in: 255 }).data.subarray(4),
    ];
    expect(page(0)).toEqual(changed);
    expect(page(1)).toEqual([0x08, 0x12, 0x04, ...zeros(17)]);
    expect(page(2)).toEqual(CACHING);
    expect(rig.run('1a 08 c8 00 ff 00', { in: 255 }).sense).toBe('5/39/00');
  });

  it('says what may change in the control page', () => {
    const { data } = rig.run('1a 08 4a 00 ff 00', { in: 255 });
    expect([...data.subarray(4)]).toEqual([0x0a, 0x0a, 0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]);
  });

  it('has no write cache to switch when the bdev has none', () => {
    const plain = new ScsiRig();
    expect(plain.run('1a 08 08 00 ff 00', { in: 255 }).data[6]).toBe(0);
    expect(plain.run('1a 08 48 00 ff 00', { in: 255 }).data[6]).toBe(0);
    plain.close();
  });

  it('is cut to the allocation length', () => {
    expect(rig.run('1a 00 3f 00 04 00', { in: 4 })).toMatchObject({ status: 0, transferred: 4, residual: 0 });
    expect(rig.run('5a 00 3f 00 00 00 00 00 00 00')).toMatchObject({ status: 0, transferred: 0 });
  });

  it('refuses pages and subpages that it does not have', () => {
    const page = rig.run('1a 00 02 00 ff 00', { in: 255 });
    expect([page.sense, ...page.senseBytes.subarray(15, 18)]).toEqual(['5/24/00', 0xcd, 0, 2]);
    const subpage = rig.run('1a 00 0a 01 ff 00', { in: 255 });
    expect([subpage.sense, ...subpage.senseBytes.subarray(15, 18)]).toEqual(['5/24/00', 0xcf, 0, 3]);
  });
});

describe('MODE SELECT', () => {
  let rig: ScsiRig;
  beforeEach(() => {
    rig = new ScsiRig({ hasWriteCache: true, nexusCount: 2 });
  });
  afterEach(() => rig.close());

  const six = (...list: number[]) => rig.run([0x15, 0x10, 0, 0, list.length, 0], { out: Uint8Array.from(list) });
  const ten = (...list: number[]) =>
    rig.run([0x55, 0x10, 0, 0, 0, 0, 0, 0, list.length, 0], { out: Uint8Array.from(list) });
  const changedControl = (byte: number, value: number): number[] => {
    const page = [...CONTROL];
    page[byte] = value;
    return page;
  };

  it('switches the write cache off and on, and tells the other nexuses', () => {
    const off = [...CACHING];
    off[2] = 0;
    expect(six(0, 0, 0, 0, ...off)).toMatchObject({ status: 0, transferred: 24, residual: 0 });
    expect(rig.run('1a 08 08 00 ff 00', { in: 255 }).data[6]).toBe(0);
    expect(rig.run('00 00 00 00 00 00', { nexus: 1 }).sense).toBe('6/2A/01');
    expect(rig.run('00 00 00 00 00 00', { nexus: 0 }).status).toBe(0);
    expect(ten(0, 0, 0, 0, 0, 0, 0, 0, ...CACHING).status).toBe(0);
    expect(rig.run('1a 08 08 00 ff 00', { in: 255 }).data[6]).toBe(4);
  });

  it('tells nobody when nothing changes', () => {
    expect(six(0, 0, 0, 0, ...CACHING, ...CONTROL).status).toBe(0);
    expect(rig.run('00 00 00 00 00 00', { nexus: 1 }).status).toBe(0);
  });

  it('switches to descriptor sense', () => {
    expect(six(0, 0, 0, 0, ...changedControl(2, 0x04)).status).toBe(0);
    const answer = rig.run('28 00 ff ff ff ff 00 00 01 00', { in: 512 });
    expect([...answer.senseBytes]).toEqual([0x72, 5, 0x21, 0, 0, 0, 0, 0]);
  });

  it('protects the unit from writes', () => {
    expect(six(0, 0, 0, 0, ...changedControl(4, 0x08)).status).toBe(0);
    expect(rig.run('2a 00 00 00 00 00 00 00 01 00', { out: new Uint8Array(512) }).sense).toBe('7/27/02');
    expect(rig.run('28 00 00 00 00 00 00 00 01 00', { in: 512 }).status).toBe(0);
    expect(rig.run('1a 00 3f 00 ff 00', { in: 255 }).data[2]).toBe(0x90);
    expect(six(0, 0, 0, 0, ...CONTROL).status).toBe(0);
  });

  it('takes back a block descriptor that says what is so', () => {
    expect(six(0, 0, 0, 8, ...DESCRIPTOR, ...CONTROL).status).toBe(0);
    expect(six(0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0).status).toBe(0);
    expect(ten(0, 0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0).status).toBe(0);
    expect(six(0, 0, 0, 8, 0, 0, 4, 0, 0, 0, 2, 0).sense).toBe('5/26/00');
    expect(six(0, 0, 0, 8, 0, 0, 8, 0, 0, 0, 4, 0).sense).toBe('5/26/00');
    expect(six(0, 0, 0, 7, ...DESCRIPTOR).sense).toBe('5/26/00');
    expect(six(0, 0, 0, 8, 0, 0).sense).toBe('5/1A/00');
  });

  it('refuses to change what cannot change, pointing at it, and then changes nothing', () => {
    const on = [...CACHING];
    on[2] = 0;
    const answer = six(0, 0, 0, 0, ...on, ...changedControl(3, 0x30));
    expect(answer.sense).toBe('5/26/00');
    expect([...answer.senseBytes.subarray(15, 18)]).toEqual([0x8d, 0, 4 + 20 + 3]);
    expect(rig.run('1a 08 08 00 ff 00', { in: 255 }).data[6]).toBe(4);
    expect(six(0, 0, 0, 0, ...ERROR_RECOVERY).status).toBe(0);
  });

  it('refuses unknown pages, subpages and pages of another length', () => {
    expect(six(0, 0, 0, 0, 0x02, 0x0a, ...zeros(10)).sense).toBe('5/26/00');
    expect(six(0, 0, 0, 0, 0x3f, 0x00).sense).toBe('5/26/00');
    expect(six(0, 0, 0, 0, 0x4a, 0x01, 0, 8, ...zeros(8)).sense).toBe('5/26/00');
    expect(six(0, 0, 0, 0, 0x0a, 0x09, ...CONTROL.slice(2)).sense).toBe('5/26/00');
  });

  it('refuses lists that end too early', () => {
    expect(six(0, 0, 0).sense).toBe('5/1A/00');
    expect(six(0, 0, 0, 0, 0x0a).sense).toBe('5/1A/00');
    expect(six(0, 0, 0, 0, ...CONTROL.slice(0, -1)).sense).toBe('5/1A/00');
    expect(ten(0, 0, 0, 0, 0, 0, 0).sense).toBe('5/1A/00');
    expect(rig.run('15 10 00 00 18 00', { out: new Uint8Array(10) })).toMatchObject({ response: 1 });
  });

  it('takes an empty list, and wants PF and no SP', () => {
    expect(rig.run('15 10 00 00 00 00').status).toBe(0);
    expect(rig.run('55 10 00 00 00 00 00 00 00 00').status).toBe(0);
    expect(rig.run('15 00 00 00 04 00', { out: new Uint8Array(4) }).sense).toBe('5/24/00');
    expect(rig.run('15 11 00 00 04 00', { out: new Uint8Array(4) }).sense).toBe('5/24/00');
  });
});
