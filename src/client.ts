/**
 * `import { connect } from 'ringhost/client'`: the RPC methods of a running daemon, with the types of the method table.
 *
 *     const daemon = await connect();
 *     await daemon.call('bdev_malloc_create', { name: 'Malloc0', block_size: 512, num_blocks: 65536 });
 */
import { clientSocketPath, RpcClient, type RpcClientOptions } from './rpc/client.ts';

export { TargetError } from './base/errors.ts';
export { RpcCallError, type RpcClient, type RpcClientOptions } from './rpc/client.ts';
export type { CallParams, MethodName, Result } from './rpc/methods.ts';

/**
 * Connects to a daemon: to the socket at `where`, or to what `RINGHOST_RPC_SOCKET` names, or to
 * `/var/tmp/ringhost.sock`. A daemon on another machine is `https://HOST:PORT` (`--rpc-https`), with `token` and `ca`
 * in the options. `close` ends the connection, and so does `using`.
 *
 * @throws TargetError with a message that says what to look at: `ENOENT`, `ECONNREFUSED`, `EACCES`, …
 */
export function connect(where?: string, options: RpcClientOptions = {}): Promise<RpcClient> {
  return RpcClient.connect(where ?? clientSocketPath(), options);
}
