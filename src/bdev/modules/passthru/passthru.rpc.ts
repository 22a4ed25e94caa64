/** The RPC methods of pass-through disks. */
import type { Handlers } from '../../../rpc/methods.ts';
import type { BdevRegistry } from '../../registry.ts';
import { bdevOf } from '../../stacked.ts';
import { PassthruBdev } from './passthru.ts';

type PassthruHandlers = Pick<Handlers, 'bdev_passthru_create' | 'bdev_passthru_delete'>;

export function passthruRpc(registry: BdevRegistry): PassthruHandlers {
  return {
    bdev_passthru_create({ name, base_bdev_name: baseName, uuid }) {
      const base = registry.get(baseName);
      registry.create(name, uuid, () => new PassthruBdev({ name, base, uuid }), { bases: [base] });
      return name;
    },

    async bdev_passthru_delete({ name }) {
      const entry = registry.get(name);
      bdevOf(entry, PassthruBdev, 'a pass-through disk');
      await registry.delete(entry);
      return true;
    },
  };
}
