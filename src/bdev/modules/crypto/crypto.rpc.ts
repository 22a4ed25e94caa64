/** The RPC methods of crypto disks and their keys. */
import { TargetError } from '../../../base/errors.ts';
import type { Handlers, Params } from '../../../rpc/methods.ts';
import type { BdevRegistry } from '../../registry.ts';
import { bdevOf } from '../../stacked.ts';
import { CryptoBdev } from './crypto.ts';
import type { CryptoKeys, KeyParams } from './keys.ts';

type CryptoHandlers = Pick<
  Handlers,
  | 'accel_crypto_key_create'
  | 'accel_crypto_keys_get'
  | 'accel_crypto_key_destroy'
  | 'bdev_crypto_create'
  | 'bdev_crypto_delete'
>;

export function cryptoRpc(registry: BdevRegistry, keys: CryptoKeys): CryptoHandlers {
  return {
    accel_crypto_key_create(params) {
      keys.create({ name: params.name, tweakMode: params.tweak_mode, ...sourceOf(params) });
      return true;
    },

    accel_crypto_keys_get({ key_name: name }) {
      const found = name === undefined ? keys.list() : [keys.get(name)];
      return found.map((key) => ({
        ...{ name: key.name, cipher: 'AES_XTS' as const, tweak_mode: key.tweakMode, users: key.users },
        ...(key.keyFile === undefined ? {} : { key_file: key.keyFile }),
      }));
    },

    accel_crypto_key_destroy({ key_name: name }) {
      keys.destroy(name);
      return true;
    },

    bdev_crypto_create({ name, base_bdev_name: baseName, key_name: keyName }) {
      const base = registry.get(baseName);
      const key = keys.get(keyName);
      registry.create(name, undefined, () => new CryptoBdev({ name, base, key }), { bases: [base] });
      return name;
    },

    async bdev_crypto_delete({ name }) {
      const entry = registry.get(name);
      bdevOf(entry, CryptoBdev, 'a crypto disk');
      await registry.delete(entry);
      return true;
    },
  };
}

function sourceOf({ key, key2, key_file: keyFile }: Params<'accel_crypto_key_create'>): Partial<KeyParams> {
  const isFile = keyFile !== undefined;
  if (isFile ? key !== undefined || key2 !== undefined : key === undefined || key2 === undefined) {
    throw new TargetError('EINVAL', 'AES_XTS has two keys: give key and key2, or a key_file that holds both');
  }
  return isFile ? { keyFile } : { hex: [key as string, key2 as string] };
}
