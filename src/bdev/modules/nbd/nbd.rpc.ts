/** The RPC methods of NBD disks. */
import { TargetError } from '../../../base/errors.ts';
import type { Handlers } from '../../../rpc/methods.ts';
import { type BdevEntry, type BdevRegistry, checkResize } from '../../registry.ts';
import type { ExportInfo } from './handshake.ts';
import { NbdBdev } from './nbd.ts';

type NbdHandlers = Pick<Handlers, 'bdev_nbd_create' | 'bdev_nbd_delete' | 'bdev_nbd_resize'>;

export function nbdRpc(registry: BdevRegistry): NbdHandlers {
  return {
    async bdev_nbd_create(params) {
      const known = registry.takeInherited(params.name)?.about as ExportInfo | undefined;
      const request = {
        name: params.name,
        uri: params.uri,
        uuid: params.uuid,
        blockSizeBytes: params.block_size,
        isReadonly: params.readonly,
        ioTimeoutS: params.io_timeout_sec,
        reconnectTimeoutS: params.reconnect_timeout_sec,
        tlsHostname: params.tls_hostname,
        tlsCaFile: params.tls_ca,
        tlsCertFile: params.tls_cert,
        tlsKeyFile: params.tls_key,
      };
      const bdev = await NbdBdev.open(request, known);
      registry.create(params.name, bdev.uuid, () => bdev);
      return params.name;
    },

    async bdev_nbd_delete({ name }) {
      const entry = registry.get(name);
      nbdOf(entry);
      await registry.delete(entry);
      return true;
    },

    async bdev_nbd_resize({ name }) {
      const entry = registry.get(name);
      const bdev = nbdOf(entry);
      const blockCount = await bdev.measure();
      if (blockCount === bdev.blockCount) return true;
      checkResize(entry, blockCount);
      bdev.blockCount = blockCount;
      await registry.changed(entry);
      return true;
    },
  };
}

function nbdOf(entry: BdevEntry): NbdBdev {
  if (entry.bdev instanceof NbdBdev) return entry.bdev;
  throw new TargetError('EINVAL', `bdev "${entry.name}" is a ${entry.bdev.productName}, not an NBD disk`);
}
