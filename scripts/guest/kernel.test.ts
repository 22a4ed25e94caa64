import { gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { decompressLz4Legacy, extractVmlinux } from './kernel.ts';

const KERNEL = Buffer.concat([Buffer.from([0x7f, 0x45, 0x4c, 0x46]), Buffer.from('a kernel '.repeat(100))]);

/** A bzImage with two setup sectors and the payload 64 bytes into the protected-mode part. */
function bzImageOf(payload: Buffer): Buffer {
  const setup = Buffer.alloc(3 * 512);
  setup[0x1f1] = 2;
  setup.write('HdrS', 0x202, 'latin1');
  setup.writeUInt32LE(64, 0x248);
  setup.writeUInt32LE(payload.length, 0x24c);
  return Buffer.concat([setup, Buffer.alloc(64), payload, Buffer.from('what follows')]);
}

function withSize(payload: Buffer): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(KERNEL.length);
  return Buffer.concat([payload, size]);
}

const refuse = (): Buffer => {
  throw new Error('not xz');
};

describe('the kernel is taken out of a bzImage', () => {
  test('packed by gzip', () => {
    expect(extractVmlinux(bzImageOf(gzipSync(KERNEL)), refuse)).toEqual(KERNEL);
  });

  test('packed by zstd', () => {
    expect(extractVmlinux(bzImageOf(withSize(zstdCompressSync(KERNEL))), refuse)).toEqual(KERNEL);
  });

  test('packed by xz, without the size that the build appends', () => {
    const packed = Buffer.concat([Buffer.from('fd377a585a00', 'hex'), Buffer.from('stands for a stream')]);
    const unxz = (data: Buffer): Buffer => {
      expect(data).toEqual(packed);
      return KERNEL;
    };
    expect(extractVmlinux(bzImageOf(withSize(packed)), unxz)).toEqual(KERNEL);
  });

  test('packed by lz4', () => {
    // One block of literals: the length 15 in the token goes on in bytes of 255 until a smaller one.
    const rest = KERNEL.length - 15;
    const lengths = Buffer.from([0xf0, ...Array.from({ length: Math.floor(rest / 255) }, () => 255), rest % 255]);
    const header = Buffer.from('02214c1800000000', 'hex');
    header.writeUInt32LE(lengths.length + KERNEL.length, 4);
    expect(extractVmlinux(bzImageOf(withSize(Buffer.concat([header, lengths, KERNEL]))), refuse)).toEqual(KERNEL);
  });

  test('and refused when it is none, or packed otherwise', () => {
    expect(() => extractVmlinux(Buffer.alloc(4096), refuse)).toThrow('no bzImage');
    expect(() => extractVmlinux(bzImageOf(Buffer.from('BZh91AY&SY')), refuse)).toThrow('unknown format');
    expect(() => extractVmlinux(bzImageOf(gzipSync(Buffer.from('text'))), refuse)).toThrow('no ELF file');
  });
});

describe('an lz4 block', () => {
  const decompress = (block: readonly number[], bytes: number): string => {
    const header = Buffer.from('02214c1800000000', 'hex');
    header.writeUInt32LE(block.length, 4);
    return decompressLz4Legacy(Buffer.concat([header, Buffer.from(block)]), bytes).toString('latin1');
  };

  test('repeats itself where a match overlaps what it writes', () => {
    // 2 literals "ab", a match of 4+3 bytes 2 back, then the literal "z"
    expect(decompress([0x23, 0x61, 0x62, 2, 0, 0x10, 0x7a], 10)).toBe('ababababaz');
  });

  test('takes long matches', () => {
    // 1 literal "a", a match of 4+15+255+1 bytes 1 back, then the literal "z"
    expect(decompress([0x1f, 0x61, 1, 0, 255, 1, 0x10, 0x7a], 277)).toBe(`${'a'.repeat(276)}z`);
  });

  test('must not reach before the output, nor come out too short', () => {
    expect(() => decompress([0x10, 0x61, 2, 0, 0], 10)).toThrow('before the output');
    expect(() => decompress([0x10, 0x61], 2)).toThrow('1 bytes came out instead of 2');
  });
});
