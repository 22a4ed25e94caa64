/** The crypto disk: what is written to the disk under it is encrypted, block by block (xts.ts). */
import type { BdevConfig, PlainParams } from '../../bdev.ts';
import { IoType } from '../../bdev-io.ts';
import { StackedBdev, type StackedParams } from '../../stacked.ts';
import type { CryptoKey } from './keys.ts';

export interface CryptoParams extends StackedParams {
  readonly key: CryptoKey;
}

export class CryptoBdev extends StackedBdev {
  readonly kind = 'crypto';
  readonly productName = 'crypto';
  readonly #key: CryptoKey;

  constructor(params: CryptoParams) {
    super(params);
    this.#key = params.key;
    this.#key.users++;
  }

  /** Zeroes are written as what they are encrypted to. */
  override get ioTypes(): readonly IoType[] {
    const { ioTypes } = this.base.bdev;
    const canWrite = ioTypes.includes(IoType.write);
    return [...ioTypes.filter((type) => type !== IoType.writeZeroes), ...(canWrite ? [IoType.writeZeroes] : [])];
  }

  /** Whatever the disk under it has there, decrypted. */
  override get unmapReadsZeroes(): boolean {
    return false;
  }

  override params(): PlainParams {
    return { key: this.#key.memory, tweakMode: this.#key.tweakMode };
  }

  override driverSpecific(): Readonly<Record<string, unknown>> {
    return { crypto: { base_bdev_name: this.base.name, name: this.name, key_name: this.#key.name } };
  }

  override toConfig(): BdevConfig {
    const params = { base_bdev_name: this.base.name, name: this.name, key_name: this.#key.name };
    return { method: 'bdev_crypto_create', params };
  }

  override async destruct(): Promise<void> {
    this.#key.users--;
  }
}
