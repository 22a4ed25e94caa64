/**
 * The keys of crypto disks, by name. They are in the daemon's memory and nowhere else: no answer, no log and no saved
 * configuration has them; of a key that was read from a file, the path is saved.
 */
import { timingSafeEqual } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { TargetError } from '../../../base/errors.ts';
import type { BdevConfig } from '../../bdev.ts';
import { type TweakMode, XTS_KEY_BYTES } from './xts.ts';

const KEY_BYTES_MAX = Math.max(...XTS_KEY_BYTES);

export interface KeyParams {
  readonly name: string;
  readonly tweakMode: TweakMode;
  /** Key 1 and key 2 in hex. */
  readonly hex?: readonly [key: string, key2: string] | undefined;
  /** Instead: a file with the bytes of key 1 and key 2. */
  readonly keyFile?: string | undefined;
}

export class CryptoKey {
  readonly name: string;
  readonly tweakMode: TweakMode;
  readonly keyFile: string | undefined;
  /** Both keys, for the reactors. */
  readonly memory: SharedArrayBuffer;
  /** Disks that it encrypts. */
  users = 0;

  /** Throws `EINVAL` when it is no key, and what the system says of a file. No error repeats it. */
  constructor({ name, tweakMode, hex, keyFile }: KeyParams) {
    this.name = name;
    this.tweakMode = tweakMode;
    this.keyFile = keyFile;
    const bytes = keyFile === undefined ? bytesOfHex(hex) : bytesOfFile(keyFile);
    const half = bytes.length / 2;
    if (timingSafeEqual(bytes.subarray(0, half), bytes.subarray(half))) {
      throw new TargetError('EINVAL', 'key and key2 are the same, which XTS is not safe with: make two by chance');
    }
    this.memory = new SharedArrayBuffer(bytes.length);
    new Uint8Array(this.memory).set(bytes);
    bytes.fill(0);
  }

  forget(): void {
    new Uint8Array(this.memory).fill(0);
  }
}

export class CryptoKeys {
  readonly #keys = new Map<string, CryptoKey>();

  list(): CryptoKey[] {
    return [...this.#keys.values()];
  }

  /** Throws `ENOENT`. */
  get(name: string): CryptoKey {
    const key = this.#keys.get(name);
    if (key !== undefined) return key;
    const advice = 'accel_crypto_keys_get lists those there are, accel_crypto_key_create makes one';
    throw new TargetError('ENOENT', `there is no key "${name}": ${advice}`);
  }

  /** Throws `EEXIST`, and what the constructor of a key does. */
  create(params: KeyParams): void {
    if (this.#keys.has(params.name)) {
      throw new TargetError('EEXIST', `a key "${params.name}" exists already: choose another name or destroy it first`);
    }
    this.#keys.set(params.name, new CryptoKey(params));
  }

  /** Throws `ENOENT`, and `EBUSY` while a disk uses it. */
  destroy(name: string): void {
    const key = this.get(name);
    if (key.users > 0) {
      throw new TargetError('EBUSY', `key "${name}" is in use by ${key.users} disks: delete them first`);
    }
    this.#keys.delete(name);
    key.forget();
  }

  toConfig(): BdevConfig[] {
    return this.list().flatMap(({ name, tweakMode, keyFile }) =>
      keyFile === undefined
        ? []
        : [
            {
              method: 'accel_crypto_key_create',
              params: { cipher: 'AES_XTS', key_file: keyFile, tweak_mode: tweakMode, name },
            },
          ],
    );
  }
}

function bytesOfHex(hex: KeyParams['hex']): Buffer {
  const [key, key2] = hex ?? ['', ''];
  for (const [field, text] of Object.entries({ key, key2 })) {
    if (!/^(?:[0-9a-f]{32}|[0-9a-f]{64})$/i.test(text)) {
      const lengths = '32 hex digits for AES-128, 64 for AES-256';
      throw new TargetError('EINVAL', `${field} is not a key: it must have ${lengths}`);
    }
  }
  if (key.length !== key2.length) throw new TargetError('EINVAL', 'key and key2 must be of the same length');
  return Buffer.from(key + key2, 'hex');
}

function bytesOfFile(path: string): Buffer {
  const bytes = Buffer.alloc(KEY_BYTES_MAX + 1);
  let length = 0;
  try {
    const fd = openSync(path, 'r');
    try {
      for (let read = -1; read !== 0 && length < bytes.length; length += read) {
        read = readSync(fd, bytes, length, bytes.length - length, null);
      }
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const known = code === 'ENOENT' || code === 'EACCES' ? code : 'EIO';
    throw new TargetError(known, `cannot read key_file ${path}: ${(error as Error).message}`, { cause: error });
  }
  if (!XTS_KEY_BYTES.includes(length)) {
    const wanted = 'it must hold 32 bytes for AES-128, 64 for AES-256, and nothing else (no line end, no hex)';
    throw new TargetError('EINVAL', `${path} is not a key: ${wanted}`);
  }
  return bytes.subarray(0, length);
}
