import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ScsiRig } from '../../../test/support/scsi-rig.ts';
import { IoType } from '../../bdev/bdev-io.ts';

const BLOCK = 512;
const filled = (blocks: number, byte: number): Uint8Array => new Uint8Array(blocks * BLOCK).fill(byte);
const typesOf = (rig: ScsiRig): IoType[] => rig.disk.log.map(({ type }) => type);

describe('UNMAP', () => {
  let rig: ScsiRig;
  beforeEach(() => {
    rig = new ScsiRig({ blockCount: 300_000 });
  });
  afterEach(() => rig.close());

  /** A parameter list of ranges. */
  function list(...ranges: readonly (readonly [lba: number, blocks: number])[]): Uint8Array {
    const bytes = new Uint8Array(8 + 16 * ranges.length);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, bytes.length - 2);
    view.setUint16(2, bytes.length - 8);
    ranges.forEach(([lba, blocks], i) => {
      view.setUint32(8 + 16 * i, Math.floor(lba / 2 ** 32));
      view.setUint32(12 + 16 * i, lba % 2 ** 32);
      view.setUint32(16 + 16 * i, blocks);
    });
    return bytes;
  }
  const unmap = (out: Uint8Array, length = out.length, flags = 0) =>
    rig.run([0x42, flags, 0, 0, 0, 0, 0, length >>> 8, length & 0xff, 0], { out });

  it('clears every range of its list', () => {
    rig.disk.bytes.fill(0x11, 0, 100 * BLOCK);
    const out = list([2, 3], [10, 0], [20, 1]);
    expect(unmap(out)).toMatchObject({ status: 0, transferred: out.length });
    expect(rig.disk.log).toEqual([
      { type: IoType.unmap, offset: 2, count: 3 },
      { type: IoType.unmap, offset: 20, count: 1 },
    ]);
    expect(rig.disk.bytes.subarray(2 * BLOCK, 5 * BLOCK)).toEqual(filled(3, 0));
    expect(rig.disk.bytes[5 * BLOCK]).toBe(0x11);
  });

  it('does nothing for an empty list, and for ranges of no blocks, even at the end', () => {
    expect(rig.run('42 00 00 00 00 00 00 00 00 00').status).toBe(0);
    expect(unmap(list()).status).toBe(0);
    expect(unmap(list([300_000, 0])).status).toBe(0);
    expect(rig.disk.log).toEqual([]);
  });

  it('cuts a long range into pieces', () => {
    expect(unmap(list([0, 200_000])).status).toBe(0);
    expect(rig.disk.log.map(({ count }) => count)).toEqual([65_536, 65_536, 65_536, 3392]);
  });

  it('takes 256 ranges, completed at once or later', () => {
    for (const isImmediate of [true, false]) {
      rig.disk.isImmediate = isImmediate;
      rig.disk.log.length = 0;
      expect(unmap(list(...Array.from({ length: 256 }, (_, i) => [i, 1] as const))).status).toBe(0);
      expect(rig.disk.log).toHaveLength(256);
    }
  });

  it('checks the whole list before it begins', () => {
    expect(unmap(list([0, 1], [299_999, 2])).sense).toBe('5/21/00');
    expect(unmap(list([0, 1], [2 ** 52, 1])).sense).toBe('5/21/00');
    expect(unmap(list([0, 200_000], [0, 62_145])).sense).toBe('5/26/00');
    expect(unmap(list(...Array.from({ length: 257 }, () => [0, 1] as const))).sense).toBe('5/26/00');
    expect(rig.disk.log).toEqual([]);
  });

  it('refuses lists whose lengths do not agree, and ANCHOR', () => {
    expect(unmap(list([0, 1]), 7).sense).toBe('5/1A/00');
    expect(unmap(list([0, 1]), 20).sense).toBe('5/1A/00');
    const odd = list([0, 1]);
    odd[3] = 15;
    expect(unmap(odd).sense).toBe('5/1A/00');
    expect(unmap(list([0, 1]), 24, 1).sense).toBe('5/24/00');
  });

  it('does nothing when the buffer is shorter than the list is said to be', () => {
    const longest = list(...Array.from({ length: 256 }, () => [0, 1] as const));
    for (const [bytes, length] of [
      [list([0, 1]), 30],
      [longest, longest.length + 1],
      [longest, 0xffff],
    ] as const) {
      expect(unmap(bytes, length)).toMatchObject({ response: 1, transferred: 0, residual: bytes.length });
    }
    expect(rig.disk.log).toEqual([]);
  });

  it('is not there when the bdev does not unmap, nor on a read-only unit', () => {
    rig.target.addLun(1, rig.unitOptions({ ioTypes: [IoType.read, IoType.write] }));
    rig.target.addLun(2, rig.unitOptions({ isReadonly: true }));
    rig.clearAttention();
    const out = list([0, 1]);
    expect(rig.run([0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], { out, lun: 1 }).sense).toBe('5/20/00');
    expect(rig.run([0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], { out, lun: 2 }).sense).toBe('7/27/00');
  });

  it('stops at the first range that fails', () => {
    rig.disk.failing.add(IoType.unmap);
    expect(unmap(list([0, 1], [5, 1])).sense).toBe('3/0C/00');
    expect(rig.disk.log).toHaveLength(1);
  });
});

describe('WRITE SAME', () => {
  let rig: ScsiRig;
  beforeEach(() => {
    rig = new ScsiRig({ blockCount: 70_000, bufferBytes: 8 * BLOCK });
    rig.disk.bytes.fill(0x77, 0, 64 * BLOCK);
  });
  afterEach(() => rig.close());

  it('repeats a block, in pieces of the bounce buffer', () => {
    const out = filled(1, 0).map((_, i) => (i * 3 + 1) & 0xff);
    expect(rig.run('93 00 00 00 00 00 00 00 00 03 00 00 00 14 00 00', { out })).toMatchObject({
      status: 0,
      transferred: BLOCK,
      residual: 0,
    });
    for (let block = 3; block < 23; block++) {
      expect(rig.disk.bytes.subarray(block * BLOCK, (block + 1) * BLOCK)).toEqual(out);
    }
    expect(rig.disk.bytes[3 * BLOCK - 1]).toBe(0x77);
    expect(rig.disk.bytes[23 * BLOCK]).toBe(0x77);
    expect(rig.disk.log.map(({ count }) => count)).toEqual([8, 8, 4]);
  });

  it('clears for a block of zeroes, and unmaps when it may', () => {
    expect(rig.run('41 00 00 00 00 01 00 00 02 00', { out: filled(1, 0) }).status).toBe(0);
    expect(rig.run('41 08 00 00 00 05 00 00 02 00', { out: filled(1, 0) }).status).toBe(0);
    expect(rig.run('93 09 00 00 00 00 00 00 00 09 00 00 00 02 00 00').status).toBe(0);
    expect(rig.disk.log).toEqual([
      { type: IoType.writeZeroes, offset: 1, count: 2 },
      { type: IoType.unmap, offset: 5, count: 2 },
      { type: IoType.unmap, offset: 9, count: 2 },
    ]);
    expect(rig.disk.bytes.subarray(BLOCK, 3 * BLOCK)).toEqual(filled(2, 0));
  });

  it('writes data with UNMAP when unmapped blocks would read as something else', () => {
    expect(rig.run('41 08 00 00 00 01 00 00 02 00', { out: filled(1, 9) }).status).toBe(0);
    expect(rig.disk.bytes.subarray(BLOCK, 3 * BLOCK)).toEqual(filled(2, 9));
    rig.target.addLun(1, rig.unitOptions({ unmapReadsZeroes: false }));
    rig.clearAttention();
    rig.disk.log.length = 0;
    expect(rig.run('41 08 00 00 00 01 00 00 02 00', { out: filled(1, 0), lun: 1 }).status).toBe(0);
    expect(typesOf(rig)).toEqual([IoType.writeZeroes]);
  });

  it('writes zeroes by itself when the bdev cannot', () => {
    rig.target.addLun(1, rig.unitOptions({ ioTypes: [IoType.read, IoType.write] }));
    rig.clearAttention();
    expect(rig.run('93 01 00 00 00 00 00 00 00 00 00 00 00 03 00 00', { lun: 1 }).status).toBe(0);
    expect(typesOf(rig)).toEqual([IoType.write]);
    expect(rig.disk.bytes.subarray(0, 3 * BLOCK)).toEqual(filled(3, 0));
    expect(rig.run('93 08 00 00 00 00 00 00 00 00 00 00 00 03 00 00', { out: filled(1, 0), lun: 1 }).sense).toBe(
      '5/24/00',
    );
  });

  it('refuses a length of 0, as WSNZ of the block limits says', () => {
    expect(rig.run('93 00 00 00 00 00 00 01 11 6e 00 00 00 00 00 00', { out: filled(1, 0) }).sense).toBe('5/24/00');
    expect(rig.run('93 01 00 00 00 00 00 01 11 6e 00 00 00 00 00 00').sense).toBe('5/24/00');
    expect(rig.run('41 00 00 00 00 00 00 00 00 00', { out: filled(1, 0) }).sense).toBe('5/24/00');
    expect(rig.run('93 00 00 00 00 00 00 01 11 71 00 00 00 00 00 00', { out: filled(1, 0) }).sense).toBe('5/21/00');
    expect(rig.disk.log).toEqual([]);
  });

  it('refuses too many blocks, blocks beyond the end, and 64-bit addresses', () => {
    const out = filled(1, 0);
    expect(rig.run('93 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00', { out }).sense).toBe('5/24/00');
    expect(rig.run('93 00 00 00 00 00 00 01 11 6f 00 00 00 02 00 00', { out }).sense).toBe('5/21/00');
    expect(rig.run('93 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00', { out }).sense).toBe('5/21/00');
    expect(rig.run('93 00 ff ff ff ff ff ff ff ff ff ff ff ff 00 00', { out }).sense).toBe('5/21/00');
    expect(rig.disk.log).toEqual([]);
  });

  it('refuses data that is not one block, protection, and ANCHOR', () => {
    expect(rig.run('41 00 00 00 00 00 00 00 01 00', { out: filled(2, 0) }).sense).toBe('5/24/00');
    expect(rig.run('41 00 00 00 00 00 00 00 01 00', { out: new Uint8Array(256) }).sense).toBe('5/24/00');
    expect(rig.run('41 20 00 00 00 00 00 00 01 00', { out: filled(1, 0) }).sense).toBe('5/24/00');
    expect(rig.run('41 10 00 00 00 00 00 00 01 00', { out: filled(1, 0) }).sense).toBe('5/24/00');
    expect(rig.run('41 18 00 00 00 00 00 00 01 00', { out: filled(1, 0) }).sense).toBe('5/24/00');
  });
});

describe('VERIFY', () => {
  let rig: ScsiRig;
  beforeEach(() => {
    rig = new ScsiRig({ bufferBytes: 4 * BLOCK });
    rig.disk.bytes.forEach((_, i) => {
      rig.disk.bytes[i] = (i * 5 + (i >>> 9)) & 0xff;
    });
  });
  afterEach(() => rig.close());
  const verifyOf = {
    10: (flags: number, lba: number, blocks: number) => [0x2f, flags, 0, 0, 0, lba, 0, 0, blocks, 0],
    12: (flags: number, lba: number, blocks: number) => [0xaf, flags, 0, 0, 0, lba, 0, 0, 0, blocks, 0, 0],
    16: (flags: number, lba: number, blocks: number) => [0x8f, flags, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, blocks, 0, 0],
  };

  it.each([10, 12, 16] as const)('of %i bytes compares data with the medium', (length) => {
    const out = rig.disk.bytes.slice(3 * BLOCK, 13 * BLOCK);
    expect(rig.run(verifyOf[length](0x02, 3, 10), { out })).toMatchObject({ status: 0, transferred: 10 * BLOCK });
    expect(rig.disk.log.map(({ count }) => count)).toEqual([4, 4, 2]);
    out[9 * BLOCK + 17] = (out[9 * BLOCK + 17] as number) ^ 1;
    const answer = rig.run(verifyOf[length](0x02, 3, 10), { out });
    expect(answer.sense).toBe('e/1D/00');
    const offset = 9 * BLOCK + 17;
    expect([...answer.senseBytes.subarray(0, 7)]).toEqual([0xf0, 0, 0x0e, 0, 0, offset >>> 8, offset & 0xff]);
  });

  it('reads the medium when it compares nothing, whatever the buffers', () => {
    expect(rig.run(verifyOf[10](0, 0, 2))).toMatchObject({ status: 0, transferred: 0 });
    expect(rig.run(verifyOf[16](0, 0, 2), { out: filled(2, 0) })).toMatchObject({ status: 0, residual: 2 * BLOCK });
    rig.disk.failing.add(IoType.read);
    expect(rig.run(verifyOf[10](0, 0, 2)).sense).toBe('3/11/00');
  });

  it('compares one block with all', () => {
    rig.disk.bytes.fill(0x33, 0, 10 * BLOCK);
    expect(rig.run(verifyOf[16](0x06, 0, 10), { out: filled(1, 0x33) })).toMatchObject({
      status: 0,
      transferred: BLOCK,
    });
    rig.disk.bytes[7 * BLOCK + 2] = 0;
    const answer = rig.run(verifyOf[16](0x06, 0, 10), { out: filled(1, 0x33) });
    expect(answer.sense).toBe('e/1D/00');
  });

  it('refuses what it must', () => {
    const out = filled(1, 0);
    expect(rig.run(verifyOf[10](0x04, 0, 1), { out }).sense).toBe('5/24/00');
    expect(rig.run(verifyOf[10](0x22, 0, 1), { out }).sense).toBe('5/24/00');
    expect(rig.run(verifyOf[10](0x02, 0, 2), { out })).toMatchObject({ response: 1, transferred: 0 });
    expect(rig.run('2f 02 00 00 08 00 00 00 01 00', { out }).sense).toBe('5/21/00');
    expect(rig.run('8f 02 ff ff ff ff ff ff ff ff 00 00 00 00 00 00', { out }).sense).toBe('5/21/00');
    expect(rig.run(verifyOf[10](0x02, 0, 0)).status).toBe(0);
  });
});

describe('WRITE AND VERIFY', () => {
  it.each([
    [10, [0x2e, 0x02, 0, 0, 0, 3, 0, 0, 9, 0]],
    [12, [0xae, 0x00, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0]],
    [16, [0x8e, 0x12, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0]],
  ])('of %i bytes writes, makes stable, and reads back', (_, cdb) => {
    const rig = new ScsiRig({ bufferBytes: 8 * BLOCK, hasWriteCache: true });
    const out = filled(9, 0).map((_byte, i) => (i * 11) & 0xff);
    expect(rig.run(cdb, { out })).toMatchObject({ status: 0, transferred: out.length, residual: 0 });
    expect(rig.disk.bytes.slice(3 * BLOCK, 12 * BLOCK)).toEqual(out);
    expect(typesOf(rig)).toEqual([IoType.write, IoType.flush, IoType.read, IoType.read]);
    cdb[1] = 0x04;
    expect(rig.run(cdb, { out }).sense).toBe('5/24/00');
    cdb[1] = 0x80;
    expect(rig.run(cdb, { out }).sense).toBe('5/24/00');
    rig.close();
  });
});

describe('COMPARE AND WRITE', () => {
  let rig: ScsiRig;
  beforeEach(() => {
    rig = new ScsiRig();
    rig.disk.bytes.fill(0x41);
  });
  afterEach(() => rig.close());
  const cdb = (lba: number, blocks: number, flags = 0) => [
    0x89,
    flags,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    lba,
    0,
    0,
    0,
    blocks,
    0,
    0,
  ];
  const both = (compare: Uint8Array, write: Uint8Array) => Uint8Array.from([...compare, ...write]);

  it('writes when the medium is as expected', () => {
    for (const blocks of [1, 255]) {
      rig.disk.bytes.fill(0x41);
      const out = both(filled(blocks, 0x41), filled(blocks, 0x42));
      expect(rig.run(cdb(1, blocks), { out })).toMatchObject({ status: 0, transferred: out.length });
      expect(rig.disk.bytes.slice(BLOCK, (1 + blocks) * BLOCK)).toEqual(filled(blocks, 0x42));
      expect(rig.disk.bytes[(1 + blocks) * BLOCK]).toBe(0x41);
    }
  });

  it('writes nothing and says where it differs when it is not', () => {
    for (const offset of [0, 1, 700, 1023]) {
      const compare = filled(2, 0x41);
      compare[offset] = 0;
      const answer = rig.run(cdb(0, 2), { out: both(compare, filled(2, 0x42)) });
      expect(answer).toMatchObject({ sense: 'e/1D/00', transferred: 0 });
      expect([...answer.senseBytes.subarray(0, 7)]).toEqual([0xf0, 0, 0x0e, 0, 0, offset >>> 8, offset & 0xff]);
      expect(rig.disk.bytes[0]).toBe(0x41);
    }
  });

  it('refuses more blocks than it compares at once, and a range beyond the end', () => {
    const large = new ScsiRig({ blockSizeBytes: 4096, blockCount: 256, bufferBytes: 128 * 1024 });
    expect(large.run('12 01 b0 00 ff 00', { in: 255 }).data[5]).toBe(32);
    const answer = large.run(cdb(0, 33), { out: new Uint8Array(66 * 2048) });
    expect(answer.sense).toBe('5/24/00');
    expect([...answer.senseBytes.subarray(15, 18)]).toEqual([0xcf, 0, 13]);
    large.close();
    expect(rig.run('89 00 00 00 00 00 00 00 07 ff 00 00 00 02 00 00', { out: filled(4, 0) }).sense).toBe('5/21/00');
    expect(rig.run('89 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00', { out: filled(2, 0) }).sense).toBe('5/21/00');
  });

  it('moves nothing when one of its halves is missing, and nothing for no blocks', () => {
    expect(rig.run(cdb(0, 1), { out: filled(1, 0x41) })).toMatchObject({ response: 1 });
    expect(rig.run(cdb(0, 0)).status).toBe(0);
    expect(rig.run(cdb(0, 1, 0x20), { out: filled(2, 0x41) }).sense).toBe('5/24/00');
  });

  it('is not interrupted by any other command of the unit', () => {
    rig.disk.isHolding = true;
    const first = rig.start(cdb(0, 1), { out: both(filled(1, 0x41), filled(1, 0x42)) });
    const second = rig.start('28 00 00 00 00 00 00 00 00 00');
    expect(second.answer).toBeNull();
    expect(rig.disk.log).toHaveLength(1);
    rig.disk.isHolding = false;
    rig.settle();
    expect([first.endedAs, second.endedAs]).toEqual([first.endedAs, first.endedAs + 1]);
  });

  it('waits for older commands', () => {
    rig.disk.isHolding = true;
    const older = rig.start('2a 00 00 00 00 00 00 00 01 00', { out: filled(1, 0x55) });
    const log = rig.disk.log.length;
    const compare = rig.start(cdb(0, 0));
    expect(rig.disk.log).toHaveLength(log);
    rig.disk.isHolding = false;
    rig.settle();
    expect(compare.endedAs).toBe(older.endedAs + 1);
  });
});

describe('ORWRITE', () => {
  it('sets the bits of its data, in pieces', () => {
    const rig = new ScsiRig({ bufferBytes: 2 * BLOCK });
    rig.disk.bytes.fill(0xa0, 0, 8 * BLOCK);
    const cdb = '8b 00 00 00 00 00 00 00 00 01 00 00 00 05 00 00';
    expect(rig.run(cdb, { out: filled(5, 0x05) })).toMatchObject({ status: 0, transferred: 5 * BLOCK });
    expect(rig.disk.bytes.slice(BLOCK, 6 * BLOCK)).toEqual(filled(5, 0xa5));
    expect(rig.disk.bytes[6 * BLOCK]).toBe(0xa0);
    expect(rig.run(cdb, { out: filled(4, 0x05) }).response).toBe(1);
    expect(rig.run('8b 20 00 00 00 00 00 00 00 01 00 00 00 05 00 00', { out: filled(5, 0) }).sense).toBe('5/24/00');
    rig.close();
  });
});

describe('bounce buffers', () => {
  it('are waited for in the order of the commands, and given up by an aborted one', () => {
    const rig = new ScsiRig({ buffers: 1 });
    rig.disk.isHolding = true;
    const verify = '2f 00 00 00 00 00 00 00 01 00';
    const [first, second, third] = [1, 2, 3].map((tag) => rig.start(verify, { tag }));
    expect(rig.disk.log).toHaveLength(1);
    let result = -1;
    rig.target.manage({ function: 0, lun: 0, nexus: 0, tagLow: 2, tagHigh: 0 }, (how) => {
      result = how;
    });
    expect(result).toBe(0);
    expect(second?.answer).toMatchObject({ response: 2 });
    rig.disk.isHolding = false;
    rig.settle();
    expect(first?.answer?.status).toBe(0);
    expect(third?.answer?.status).toBe(0);
    rig.close();
  });
});
