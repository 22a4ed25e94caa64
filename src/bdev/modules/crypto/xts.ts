/**
 * XTS-AES (IEEE Std 1619-2018, section 5) over many data units at a time. OpenSSL's own XTS takes one unit a cipher
 * object, which costs more than the encryption of the unit; here two cipher objects of AES in ECB mode last as long as
 * the disk, one call encrypts the tweaks of all units, one their data, and the arithmetic between them is ours.
 *
 * Units are whole blocks of 16 bytes: there is no ciphertext stealing.
 */
import { type Cipheriv, createCipheriv, createDecipheriv } from 'node:crypto';
import { assert } from '../../../base/assert.ts';

const AES_BLOCK_BYTES = 16;
const BLOCK_WORDS = AES_BLOCK_BYTES / 4;
/** How much goes through the ciphers in one call: it stays in the cache on the way. */
const CHUNK_BYTES = 32 * 1024;
const TWO_32 = 2 ** 32;
/** x^128 = x^7 + x^2 + x + 1. */
const POLYNOMIAL = 0x87;

/**
 * What the number of a unit is in its tweak of 128 bits, by SPDK's names. With `INCR_512` units are of 512 bytes
 * whatever the block size is.
 */
export const TWEAK_MODES = ['SIMPLE_LBA', 'JOIN_NEG_LBA_WITH_LBA', 'INCR_512_FULL_LBA', 'INCR_512_UPPER_LBA'] as const;
export type TweakMode = (typeof TWEAK_MODES)[number];

/** Bytes of key 1 and key 2 together, for AES-128 and AES-256. */
export const XTS_KEY_BYTES: readonly number[] = [32, 64];

/** Bytes of a data unit. */
export function unitBytesOf(mode: TweakMode, blockSizeBytes: number): number {
  return mode.startsWith('INCR_512') ? 512 : blockSizeBytes;
}

export class XtsCipher {
  readonly unitBytes: number;
  readonly #mode: TweakMode;
  readonly #encryptor: Cipheriv;
  readonly #decryptor: Cipheriv;
  readonly #tweakEncryptor: Cipheriv;
  /** What the tweaks are made of, one for each unit of a chunk. */
  readonly #seeds: Buffer;
  readonly #seedWords: Int32Array;
  readonly #tweaks = new Int32Array(CHUNK_BYTES / 4);
  readonly #whitened = Buffer.from(new ArrayBuffer(CHUNK_BYTES));
  readonly #whitenedWords = new Int32Array(this.#whitened.buffer);

  /** `key`: key 1 and key 2. `unitBytes`: a multiple of 16, at most 32 KiB. */
  constructor(key: Uint8Array, unitBytes: number, mode: TweakMode) {
    assert(XTS_KEY_BYTES.includes(key.length), 'the length of a key was checked');
    assert(unitBytes % AES_BLOCK_BYTES === 0 && unitBytes <= CHUNK_BYTES, 'a unit is of whole blocks of the cipher');
    this.unitBytes = unitBytes;
    this.#mode = mode;
    const half = key.length / 2;
    const algorithm = `aes-${half * 8}-ecb`;
    this.#encryptor = createCipheriv(algorithm, key.subarray(0, half), null).setAutoPadding(false);
    this.#decryptor = createDecipheriv(algorithm, key.subarray(0, half), null).setAutoPadding(false);
    this.#tweakEncryptor = createCipheriv(algorithm, key.subarray(half), null).setAutoPadding(false);
    this.#seeds = Buffer.from(new ArrayBuffer((CHUNK_BYTES / unitBytes) * AES_BLOCK_BYTES));
    this.#seedWords = new Int32Array(this.#seeds.buffer);
  }

  /** Encrypts whole units in place, of which the first is number `firstUnit`. */
  encrypt(data: Int32Array, firstUnit: number): void {
    this.#run(this.#encryptor, data, firstUnit);
  }

  decrypt(data: Int32Array, firstUnit: number): void {
    this.#run(this.#decryptor, data, firstUnit);
  }

  #run(cipher: Cipheriv, data: Int32Array, firstUnit: number): void {
    const unitWords = this.unitBytes / 4;
    const chunkWords = CHUNK_BYTES / 4 - ((CHUNK_BYTES / 4) % unitWords);
    for (let at = 0; at < data.length; at += chunkWords) {
      this.#runChunk(cipher, data, at, Math.min(chunkWords, data.length - at), firstUnit + at / unitWords);
    }
  }

  #runChunk(cipher: Cipheriv, data: Int32Array, at: number, words: number, firstUnit: number): void {
    this.#makeTweaks(firstUnit, (words * 4) / this.unitBytes);
    const tweaks = this.#tweaks;
    const whitened = this.#whitenedWords;
    for (let i = 0; i < words; i++) whitened[i] = (data[at + i] as number) ^ (tweaks[i] as number);
    const out = cipher.update(this.#whitened.subarray(0, words * 4));
    const crossed = new Int32Array(out.buffer, out.byteOffset, words);
    for (let i = 0; i < words; i++) data[at + i] = (crossed[i] as number) ^ (tweaks[i] as number);
  }

  /** The tweak of a unit's first block is the encrypted number of the unit; of each next one it is that times x. */
  #makeTweaks(firstUnit: number, units: number): void {
    for (let i = 0; i < units; i++) this.#setSeed(i * BLOCK_WORDS, firstUnit + i);
    const first = this.#tweakEncryptor.update(this.#seeds.subarray(0, units * AES_BLOCK_BYTES));
    const firstWords = new Int32Array(first.buffer, first.byteOffset, units * BLOCK_WORDS);
    const tweaks = this.#tweaks;
    const unitWords = this.unitBytes / 4;
    for (let unit = 0; unit < units; unit++) {
      let a = firstWords[unit * BLOCK_WORDS] as number;
      let b = firstWords[unit * BLOCK_WORDS + 1] as number;
      let c = firstWords[unit * BLOCK_WORDS + 2] as number;
      let d = firstWords[unit * BLOCK_WORDS + 3] as number;
      for (let at = unit * unitWords; at < (unit + 1) * unitWords; at += BLOCK_WORDS) {
        tweaks[at] = a;
        tweaks[at + 1] = b;
        tweaks[at + 2] = c;
        tweaks[at + 3] = d;
        // No branch: what is carried out of the top says nothing by how long it takes.
        const carry = (d >> 31) & POLYNOMIAL;
        d = (d << 1) | (c >>> 31);
        c = (c << 1) | (b >>> 31);
        b = (b << 1) | (a >>> 31);
        a = (a << 1) ^ carry;
      }
    }
  }

  #setSeed(at: number, unit: number): void {
    const seeds = this.#seedWords;
    const low = (unit % TWO_32) | 0;
    const high = Math.floor(unit / TWO_32);
    if (this.#mode === 'INCR_512_UPPER_LBA') {
      seeds[at + 2] = low;
      seeds[at + 3] = high;
      return;
    }
    seeds[at] = low;
    seeds[at + 1] = high;
    if (this.#mode !== 'JOIN_NEG_LBA_WITH_LBA') return;
    seeds[at + 2] = ~low;
    seeds[at + 3] = ~high & 0x7fff_ffff;
  }
}
