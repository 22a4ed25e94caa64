import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeBdev } from '../../../test/support/bdev-rig.ts';
import { ScsiRig, zeros } from '../../../test/support/scsi-rig.ts';

describe('capacity', () => {
  let rig: ScsiRig;
  beforeEach(() => {
    rig = new ScsiRig();
  });
  afterEach(() => rig.close());

  const huge = (blockCount: number) =>
    rig.unitOptions({ channel: rig.openChannel(describeBdev({ blockCount })), physicalBlockSizeBytes: 4096 });

  it('READ CAPACITY(10) has the last block and the block size', () => {
    expect([...rig.run('25 00 00 00 00 00 00 00 00 00', { in: 8 }).data]).toEqual([0, 0, 7, 0xff, 0, 0, 2, 0]);
    expect(rig.run('25 00 00 00 00 01 00 00 00 00', { in: 8 }).sense).toBe('5/24/00');
    rig.target.addLun(1, huge(2 ** 32));
    rig.clearAttention();
    expect([...rig.run('25 00 00 00 00 00 00 00 00 00', { in: 8, lun: 1 }).data.subarray(0, 4)]).toEqual([
      0xff, 0xff, 0xff, 0xff,
    ]);
    rig.target.addLun(2, huge(2 ** 33));
    rig.clearAttention();
    expect([...rig.run('25 00 00 00 00 00 00 00 00 00', { in: 8, lun: 2 }).data.subarray(0, 4)]).toEqual([
      0xff, 0xff, 0xff, 0xff,
    ]);
  });

  it('READ CAPACITY(16) has 64 bits, the physical block and the provisioning', () => {
    const { data } = rig.run('9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00', { in: 32 });
    expect([...data]).toEqual([0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 2, 0, 0, 0, 0xc0, 0, ...zeros(16)]);
    rig.target.addLun(1, huge(2 ** 40 + 3));
    rig.clearAttention();
    const far = rig.run('9e 10 00 00 00 00 00 00 00 00 00 00 00 0e 00 00', { in: 255, lun: 1 }).data;
    expect([...far]).toEqual([0, 0, 1, 0, 0, 0, 0, 2, 0, 0, 2, 0, 0, 3]);
    expect(rig.run('9e 10 00 00 00 00 00 00 00 00 00 00 00 00 00 00').status).toBe(0);
  });

  it('follows the bdev when it grows, and says so once', () => {
    rig.channel.blockCount = 4096;
    rig.target.capacityChanged(0);
    expect(rig.run('25 00 00 00 00 00 00 00 00 00', { in: 8 }).sense).toBe('6/2A/09');
    expect([...rig.run('25 00 00 00 00 00 00 00 00 00', { in: 8 }).data.subarray(0, 4)]).toEqual([0, 0, 0x0f, 0xff]);
  });

  it('GET LBA STATUS takes every block for mapped', () => {
    const { data } = rig.run('9e 12 00 00 00 00 00 00 00 10 00 00 00 18 00 00', { in: 24 });
    expect([...data]).toEqual([0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 7, 0xf0, 0, 0, 0, 0]);
    expect(rig.run('9e 12 00 00 00 00 00 00 08 00 00 00 00 18 00 00', { in: 24 }).sense).toBe('5/21/00');
    expect(rig.run('9e 12 ff ff ff ff ff ff ff ff 00 00 00 18 00 00', { in: 24 }).sense).toBe('5/21/00');
  });

  it('READ DEFECT DATA has an empty list of the kind that was asked for', () => {
    expect([...rig.run('37 00 1d 00 00 00 00 00 20 00', { in: 32 }).data]).toEqual([0, 0x1d, 0, 0]);
    expect([...rig.run('b7 0d 00 00 00 00 00 00 00 20 00 00', { in: 32 }).data]).toEqual([0, 0x0d, 0, 0, 0, 0, 0, 0]);
  });
});
