import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ScsiRig, zeros } from '../../../test/support/scsi-rig.ts';

const ascii = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

describe('INQUIRY', () => {
  let rig: ScsiRig;
  beforeEach(() => {
    rig = new ScsiRig();
  });
  afterEach(() => rig.close());

  it('tells what the unit is', () => {
    const { data, status, residual } = rig.run('12 00 00 00 ff 00', { in: 255 });
    expect(status).toBe(0);
    expect([...data.subarray(0, 8)]).toEqual([0x00, 0x00, 0x06, 0x12, 91, 0, 0, 0x02]);
    expect(ascii(data.subarray(8, 36))).toBe('RinghostMalloc disk     0001');
    expect([...data.subarray(36, 58)]).toEqual(zeros(22));
    expect([...data.subarray(58, 64)]).toEqual([0x00, 0xa0, 0x04, 0x60, 0x04, 0xc0]);
    expect(data).toHaveLength(96);
    expect(residual).toBe(255 - 96);
  });

  it('shows the vendor, product and revision that it was given, cut and padded', () => {
    rig.target.addLun(
      1,
      rig.unitOptions({ vendor: 'INTEL', productName: 'A product with a long name', revision: '3' }),
    );
    const { data } = rig.run('12 00 00 00 60 00', { in: 96, lun: 1 });
    expect(ascii(data.subarray(8, 36))).toBe('INTEL   A product with a3   ');
  });

  it('is cut to the allocation length, and to nothing', () => {
    expect(rig.run('12 00 00 00 05 00', { in: 255 }).data).toHaveLength(5);
    expect(rig.run('12 00 00 00 00 00', { in: 255 })).toMatchObject({ status: 0, transferred: 0, residual: 255 });
    expect(rig.run('12 00 00 02 00 00', { in: 512 }).data).toHaveLength(96);
  });

  it('does not fit buffers that are shorter than what was asked for', () => {
    expect(rig.run('12 00 00 00 ff 00', { in: 36 })).toMatchObject({ response: 1, transferred: 0, residual: 36 });
  });

  it('refuses a page code without EVPD, and a page that it does not have', () => {
    const noEvpd = rig.run('12 00 01 00 ff 00', { in: 255 });
    expect(noEvpd.sense).toBe('5/24/00');
    expect([...noEvpd.senseBytes.subarray(15, 18)]).toEqual([0xcf, 0, 2]);
    expect(rig.run('12 01 b3 00 ff 00', { in: 255 }).sense).toBe('5/24/00');
  });

  it('has every page that it lists, in ascending order', () => {
    const { data } = rig.run('12 01 00 00 ff 00', { in: 255 });
    const pages = [...data.subarray(4)];
    expect([...data]).toEqual([0, 0, 0, pages.length, 0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    for (const page of pages) {
      const answer = rig.run([0x12, 1, page, 0, 255, 0], { in: 255 });
      expect(answer.status).toBe(0);
      expect(answer.data[1]).toBe(page);
      expect(((answer.data[2] as number) << 8) + (answer.data[3] as number)).toBe(answer.data.length - 4);
    }
  });

  it('has the serial number, by default the UUID', () => {
    const { data } = rig.run('12 01 80 00 ff 00', { in: 255 });
    expect(ascii(data.subarray(4))).toBe('12345678-9abc-4def-8123-456789abcdef');
    rig.target.addLun(1, rig.unitOptions({ serial: 'S1' }));
    expect([...rig.run('12 01 80 00 ff 00', { in: 255, lun: 1 }).data]).toEqual([0, 0x80, 0, 2, 0x53, 0x31]);
  });

  it('names the unit by NAA, UUID, T10 vendor and port, with any allocation length', () => {
    const { data } = rig.run('12 01 83 00 ff 00', { in: 255 });
    const uuid = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0x4d, 0xef, 0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
    const folded = [0x33, 0x17, 0x13, 0x1f, 0x13, 0x17, 0x80, 0x00];
    expect([...data.subarray(0, 4)]).toEqual([0, 0x83, 0, 12 + 22 + 64 + 8]);
    expect([...data.subarray(4, 16)]).toEqual([0x01, 0x03, 0, 8, ...folded]);
    expect([...data.subarray(16, 38)]).toEqual([0x01, 0x0a, 0, 18, 0x10, 0, ...uuid]);
    expect([...data.subarray(38, 42)]).toEqual([0x02, 0x01, 0, 60]);
    expect(ascii(data.subarray(42, 102))).toBe('RinghostMalloc disk     12345678-9abc-4def-8123-456789abcdef');
    expect([...data.subarray(102)]).toEqual([0x01, 0x14, 0, 4, 0, 0, 0, 1]);
    for (const allocation of [1, 4, 7, 20]) {
      expect(rig.run([0x12, 1, 0x83, 0, allocation, 0], { in: 255 }).data).toEqual(data.subarray(0, allocation));
    }
  });

  it('tells of its queueing, its cache and its attentions', () => {
    const cached = new ScsiRig({ hasWriteCache: true });
    expect([...rig.run('12 01 86 00 ff 00', { in: 255 }).data.subarray(0, 8)]).toEqual([0, 0x86, 0, 60, 0, 7, 0, 1]);
    expect(cached.run('12 01 86 00 ff 00', { in: 255 }).data[6]).toBe(1);
    cached.close();
  });

  it('has its limits in blocks', () => {
    const { data } = rig.run('12 01 b0 00 ff 00', { in: 255 });
    expect(data).toHaveLength(64);
    expect([...data.subarray(4, 8)]).toEqual([1, 255, 0, 1]);
    expect([...data.subarray(8, 12)]).toEqual([0, 1, 0, 0]);
    expect([...data.subarray(20, 36)]).toEqual([0, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0x80, 0, 0, 0]);
    expect([...data.subarray(36, 44)]).toEqual([0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    rig.target.addLun(1, rig.unitOptions({ physicalBlockSizeBytes: 4096, ioTypes: [0, 1] }));
    const plain = rig.run('12 01 b0 00 ff 00', { in: 255, lun: 1 }).data;
    expect([...plain.subarray(6, 8)]).toEqual([0, 8]);
    expect([...plain.subarray(20, 36)]).toEqual(zeros(16));
  });

  it('does not rotate, unless it does', () => {
    expect([...rig.run('12 01 b1 00 ff 00', { in: 255 }).data.subarray(4, 9)]).toEqual([0, 1, 0, 0, 1]);
    rig.target.addLun(1, rig.unitOptions({ isRotational: true }));
    expect([...rig.run('12 01 b1 00 ff 00', { in: 255, lun: 1 }).data.subarray(4, 6)]).toEqual([0, 0]);
  });

  it('is thinly provisioned when the bdev unmaps', () => {
    expect([...rig.run('12 01 b2 00 ff 00', { in: 255 }).data]).toEqual([0, 0xb2, 0, 4, 0, 0xe4, 0x02, 0]);
    rig.target.addLun(1, rig.unitOptions({ unmapReadsZeroes: false }));
    expect(rig.run('12 01 b2 00 ff 00', { in: 255, lun: 1 }).data[5]).toBe(0xe0);
    rig.target.addLun(2, rig.unitOptions({ ioTypes: [0, 1] }));
    expect([...rig.run('12 01 b2 00 ff 00', { in: 255, lun: 2 }).data.subarray(4)]).toEqual([0, 0, 0, 0]);
  });
});
