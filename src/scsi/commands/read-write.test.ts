import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ScsiRig, zeros } from '../../../test/support/scsi-rig.ts';
import { IoType } from '../../bdev/bdev-io.ts';

/** READ or WRITE of 6, 10, 12 and 16 bytes, with its flags. */
function cdb(opcode: number, lba: number, blocks: number, flags = 0): number[] {
  const group = opcode >>> 5;
  const bytes = zeros(32);
  bytes[0] = opcode;
  const put = (at: number, size: number, value: number): void => {
    for (let i = 0; i < size; i++) bytes[at + i] = Math.floor(value / 2 ** (8 * (size - 1 - i))) % 256;
  };
  if (group !== 0) bytes[1] = flags;
  if (group === 0) {
    put(1, 3, lba);
    bytes[4] = blocks % 256;
  } else {
    put(2, group === 4 ? 8 : 4, lba);
    put(group === 4 ? 10 : group === 5 ? 6 : 7, group === 4 || group === 5 ? 4 : 2, blocks);
  }
  return bytes;
}

const READS = [0x08, 0x28, 0xa8, 0x88];
const WRITES = [0x0a, 0x2a, 0xaa, 0x8a];

describe('READ and WRITE', () => {
  let rig: ScsiRig;
  beforeEach(() => {
    rig = new ScsiRig({ hasWriteCache: true });
    rig.disk.bytes.forEach((_, i) => {
      rig.disk.bytes[i] = (i * 7 + (i >>> 9)) & 0xff;
    });
  });
  afterEach(() => rig.close());

  it.each(READS)('%i reads blocks', (opcode) => {
    const answer = rig.run(cdb(opcode, 5, 3), { in: 1536 });
    expect(answer).toMatchObject({ status: 0, response: 0, transferred: 1536, residual: 0 });
    expect(answer.data).toEqual(rig.disk.bytes.slice(5 * 512, 8 * 512));
  });

  it.each(WRITES)('%i writes blocks', (opcode) => {
    const out = new Uint8Array(1024).map((_, i) => 255 - (i & 0xff));
    const answer = rig.run(cdb(opcode, 2046, 2), { out });
    expect(answer).toMatchObject({ status: 0, response: 0, transferred: 1024, residual: 0 });
    expect(rig.disk.bytes.slice(2046 * 512)).toEqual(out);
  });

  it('reads 256 blocks for a length of 0 in 6 bytes, and none in more', () => {
    expect(rig.run(cdb(0x08, 0, 0), { in: 256 * 512 }).transferred).toBe(256 * 512);
    expect(rig.run(cdb(0x28, 0, 0))).toMatchObject({ status: 0, transferred: 0 });
    expect(rig.run(cdb(0x28, 2048, 0)).status).toBe(0);
    expect(rig.run(cdb(0x28, 2049, 0)).sense).toBe('5/21/00');
  });

  it.each([...READS.slice(1), ...WRITES.slice(1)])('%i refuses blocks beyond the end', (opcode) => {
    const data = WRITES.includes(opcode) ? { out: new Uint8Array(1024) } : { in: 1024 };
    expect(rig.run(cdb(opcode, 2047, 2), data).sense).toBe('5/21/00');
    expect(rig.run(cdb(opcode, 2 ** 31, 1), data).sense).toBe('5/21/00');
    expect(rig.run(cdb(opcode, 2 ** 32 - 1, 1), data).sense).toBe('5/21/00');
    expect(rig.disk.log).toEqual([]);
  });

  it('refuses addresses of 64 bits that no disk has', () => {
    expect(rig.run('88 00 80 00 00 00 00 00 00 00 00 00 00 01 00 00', { in: 512 }).sense).toBe('5/21/00');
    expect(rig.run('8a 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00', { out: new Uint8Array(512) }).sense).toBe(
      '5/21/00',
    );
  });

  it('refuses protection information, pointing at it', () => {
    for (const opcode of [...READS.slice(1), ...WRITES.slice(1)]) {
      const data = WRITES.includes(opcode) ? { out: new Uint8Array(512) } : { in: 512 };
      for (const protect of [1, 3, 7]) {
        const answer = rig.run(cdb(opcode, 0, 1, protect << 5), data);
        expect(answer.sense).toBe('5/24/00');
        expect([...answer.senseBytes.subarray(15, 18)]).toEqual([0xcf, 0, 1]);
      }
    }
  });

  it('takes DPO, FUA and FUA_NV', () => {
    for (const flags of [0x10, 0x08, 0x18, 0x02, 0x1a]) {
      expect(rig.run(cdb(0x28, 0, 1, flags), { in: 512 }).status).toBe(0);
      expect(rig.run(cdb(0x2a, 0, 1, flags), { out: new Uint8Array(512) }).status).toBe(0);
    }
  });

  it('flushes after a write with FUA, and only then', () => {
    rig.run(cdb(0x2a, 0, 1), { out: new Uint8Array(512) });
    expect(rig.disk.log.map(({ type }) => type)).toEqual([IoType.write]);
    rig.run(cdb(0x8a, 0, 1, 0x08), { out: new Uint8Array(512) });
    expect(rig.disk.log.map(({ type }) => type)).toEqual([IoType.write, IoType.write, IoType.flush]);
  });

  it('flushes after every write when the write cache is switched off', () => {
    const page = [0x08, 0x12, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    expect(rig.run('15 10 00 00 18 00', { out: Uint8Array.from([0, 0, 0, 0, ...page]) }).status).toBe(0);
    rig.run(cdb(0x0a, 0, 1), { out: new Uint8Array(512) });
    expect(rig.disk.log.map(({ type }) => type)).toEqual([IoType.write, IoType.flush]);
  });

  it('moves nothing when the buffers are too short, and says what is left when they are long', () => {
    expect(rig.run(cdb(0x28, 0, 2), { in: 1023 })).toMatchObject({ response: 1, transferred: 0, residual: 1023 });
    expect(rig.run(cdb(0x2a, 0, 2), { out: new Uint8Array(512) })).toMatchObject({ response: 1, transferred: 0 });
    expect(rig.run(cdb(0x28, 0, 1), { out: new Uint8Array(512) }).response).toBe(1);
    expect(rig.disk.log).toEqual([]);
    expect(rig.run(cdb(0x28, 0, 1), { in: 10_000 })).toMatchObject({ transferred: 512, residual: 9488 });
    expect(rig.run(cdb(0x2a, 0, 1), { out: new Uint8Array(10_000) })).toMatchObject({
      transferred: 512,
      residual: 9488,
    });
  });

  it('refuses more than the unit moves at once', () => {
    const big = new ScsiRig({ blockCount: 70_000 });
    const answer = big.run(cdb(0x88, 0, 65_537), { in: 512 });
    expect(answer.sense).toBe('5/24/00');
    expect([...answer.senseBytes.subarray(15, 18)]).toEqual([0xcf, 0, 10]);
    big.close();
  });

  it('fails with a medium error when the bdev does', () => {
    rig.disk.failing.add(IoType.read).add(IoType.write);
    expect(rig.run(cdb(0x28, 0, 1), { in: 512 })).toMatchObject({ sense: '3/11/00', transferred: 0, residual: 512 });
    expect(rig.run(cdb(0x2a, 0, 1), { out: new Uint8Array(512) }).sense).toBe('3/0C/00');
    rig.disk.failing.clear();
    rig.disk.failing.add(IoType.flush);
    expect(rig.run(cdb(0x2a, 0, 1, 0x08), { out: new Uint8Array(512) }).sense).toBe('3/0C/00');
  });

  it('writes nothing to a unit that is read-only', () => {
    rig.target.addLun(1, rig.unitOptions({ isReadonly: true }));
    rig.clearAttention();
    for (const opcode of WRITES) {
      expect(rig.run(cdb(opcode, 0, 1), { out: new Uint8Array(512), lun: 1 }).sense).toBe('7/27/00');
    }
    expect(rig.run(cdb(0x28, 0, 1), { in: 512, lun: 1 }).status).toBe(0);
    expect(rig.run('1a 00 3f 00 ff 00', { in: 255, lun: 1 }).data[2]).toBe(0x90);
  });

  it('comes again when no segment list was free', () => {
    rig.isStarved = true;
    const running = rig.start(cdb(0x28, 5, 1), { in: 512 });
    rig.settle();
    expect(running.answer).toBeNull();
    expect(rig.starved).toEqual([running]);
    rig.isStarved = false;
    rig.target.execute(running.task);
    rig.settle();
    expect(running.answer).toMatchObject({ status: 0, transferred: 512 });
  });

  it('works on blocks of 4096 bytes', () => {
    const large = new ScsiRig({ blockSizeBytes: 4096, blockCount: 64 });
    large.disk.bytes.fill(0x42, 4096, 8192);
    expect(large.run(cdb(0x28, 1, 1), { in: 4096 }).data).toEqual(new Uint8Array(4096).fill(0x42));
    expect([...large.run('25 00 00 00 00 00 00 00 00 00', { in: 8 }).data]).toEqual([0, 0, 0, 63, 0, 0, 0x10, 0]);
    large.close();
  });
});

describe('SYNCHRONIZE CACHE and PRE-FETCH', () => {
  it('flush the cache for any range of the disk', () => {
    const rig = new ScsiRig({ hasWriteCache: true });
    expect(rig.run('35 00 00 00 00 00 00 00 00 00').status).toBe(0);
    expect(rig.run('91 02 00 00 00 00 00 00 07 ff 00 00 00 01 00 00').status).toBe(0);
    expect(rig.disk.log.map(({ type }) => type)).toEqual([IoType.flush, IoType.flush]);
    expect(rig.run('35 00 00 00 07 ff 00 00 02 00').sense).toBe('5/21/00');
    expect(rig.run('91 00 80 00 00 00 00 00 00 00 00 00 00 00 00 00').sense).toBe('5/21/00');
    rig.disk.failing.add(IoType.flush);
    expect(rig.run('35 00 00 00 00 00 00 00 00 00').sense).toBe('3/0C/00');
    rig.close();
  });

  it('need no flush on a bdev without a cache', () => {
    const rig = new ScsiRig();
    expect(rig.run('35 00 00 00 00 00 00 00 00 00').status).toBe(0);
    expect(rig.disk.log).toEqual([]);
    rig.close();
  });

  it('check the range of what is to be fetched', () => {
    const rig = new ScsiRig();
    expect(rig.run('34 02 00 00 00 00 03 00 01 00').status).toBe(0);
    expect(rig.run('90 00 00 00 00 00 00 00 07 00 00 00 01 00 00 00').status).toBe(0);
    expect(rig.run('34 00 00 00 08 01 00 00 00 00').sense).toBe('5/21/00');
    expect(rig.run('90 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00').sense).toBe('5/21/00');
    rig.close();
  });
});
