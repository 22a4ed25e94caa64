/** XTS-AES against the examples of the standard, and against OpenSSL's. */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TWEAK_MODES, type TweakMode, unitBytesOf, XtsCipher } from './xts.ts';

const hex = (text: string): Buffer => Buffer.from(text, 'hex');

function encrypt(cipher: XtsCipher, data: Uint8Array, firstUnit: number): Buffer {
  const words = new Int32Array(Uint8Array.from(data).buffer);
  cipher.encrypt(words, firstUnit);
  const encrypted = Buffer.from(Uint8Array.from(Buffer.from(words.buffer)));
  cipher.decrypt(words, firstUnit);
  expect(Buffer.compare(Buffer.from(words.buffer), data)).toBe(0);
  return encrypted;
}

const E_AND_PI = hex('2718281828459045235360287471352631415926535897932384626433832795');
const COUNTING = Buffer.from(Array.from({ length: 512 }, (_, i) => i & 0xff));

describe('XTS-AES-128', () => {
  it.each([
    ['1', '00'.repeat(32), 0, '00', '917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e'],
    [
      ...(['2', '11'.repeat(16) + '22'.repeat(16), 0x33_3333_3333, '44'] as const),
      'c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0',
    ],
    [
      ...(['3', `fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0${'22'.repeat(16)}`, 0x33_3333_3333, '44'] as const),
      'af85336b597afc1a900b2eb21ec949d292df4c047e0b21532186a5971a227a89',
    ],
  ] as const)('is as in example %s of IEEE 1619', (_, key, unit, byte, wanted) => {
    const cipher = new XtsCipher(hex(key), 32, 'SIMPLE_LBA');
    expect(encrypt(cipher, hex(byte.repeat(32)), unit).toString('hex')).toBe(wanted);
  });

  it('is as in examples 4 to 6 of IEEE 1619: each encrypts what the one before made', () => {
    const cipher = new XtsCipher(E_AND_PI, 512, 'SIMPLE_LBA');
    const fourth = encrypt(cipher, COUNTING, 0);
    expect(createHash('sha256').update(fourth).digest('hex')).toBe(FOURTH_SHA256);
    const fifth = encrypt(cipher, fourth, 1);
    expect(endsOf(fifth)).toEqual(['264d3ca8512194fec312c8c9891f279f', 'fd2a89ccb45e001a03a867b187f225dd']);
    const sixth = encrypt(cipher, fifth, 2);
    expect(endsOf(sixth)).toEqual(['fa762a3680b76007928ed4a4f49a9456', '4bcf518138dc3a25c5e236171a2d01d6']);
  });
});

const FOURTH_SHA256 = 'ebee4d64dd2395bb2d6a2d37a0a48ecb2bf4913cfc99d27c2214f2f4144715ea';
/** The first block and the last. */
const endsOf = (unit: Buffer): string[] => [unit.toString('hex', 0, 16), unit.toString('hex', 496)];

/** What OpenSSL makes of each unit; the tweaks are ours here, in words of the text of each mode. */
function byOpenSsl(key: Buffer, mode: TweakMode, unitBytes: number, data: Buffer, firstUnit: number): Buffer {
  const units = Array.from({ length: data.length / unitBytes }, (_, i) => {
    const unit = BigInt(firstUnit + i);
    const tweak = Buffer.alloc(16);
    tweak.writeBigUInt64LE(unit, mode === 'INCR_512_UPPER_LBA' ? 8 : 0);
    if (mode === 'JOIN_NEG_LBA_WITH_LBA') tweak.writeBigUInt64LE(BigInt.asUintN(63, ~unit), 8);
    const cipher = createCipheriv(`aes-${key.length * 4}-xts`, key, tweak);
    return Buffer.concat([cipher.update(data.subarray(i * unitBytes, (i + 1) * unitBytes)), cipher.final()]);
  });
  return Buffer.concat(units);
}

describe('XTS-AES', () => {
  it('is as OpenSSL has it, with every key length, tweak, block size, and number of units', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(32, 64),
        fc.constantFrom(...TWEAK_MODES),
        fc.constantFrom(512, 1024, 2048, 4096),
        fc.integer({ min: 1, max: 40 }),
        // Around where the number no longer fits into 32 bits, and anywhere.
        fc.oneof(fc.integer({ min: 2 ** 32 - 50, max: 2 ** 32 + 50 }), fc.integer({ min: 0, max: 2 ** 53 - 1000 })),
        (keyBytes, mode, blockBytes, blocks, firstUnit) => {
          const key = randomBytes(keyBytes);
          const unitBytes = unitBytesOf(mode, blockBytes);
          const data = randomBytes(blocks * blockBytes);
          const found = encrypt(new XtsCipher(key, unitBytes, mode), data, firstUnit);
          expect(Buffer.compare(found, byOpenSsl(key, mode, unitBytes, data, firstUnit))).toBe(0);
        },
      ),
      { numRuns: 100 },
    );
  });

  it('goes on for as long as a disk lives: the last of many calls is as the first', () => {
    const key = randomBytes(64);
    const cipher = new XtsCipher(key, 512, 'SIMPLE_LBA');
    const words = new Int32Array(128);
    for (let i = 0; i < 20_000; i++) cipher.encrypt(words, i);
    for (let i = 20_000; i-- > 0; ) cipher.decrypt(words, i);
    expect(words.every((word) => word === 0)).toBe(true);
    const tweak = Buffer.alloc(16, 0);
    const other = createDecipheriv('aes-256-xts', key, tweak);
    expect(other.update(encrypt(cipher, COUNTING, 0))).toEqual(COUNTING);
  });
});
