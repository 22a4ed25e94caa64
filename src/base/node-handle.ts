/** The descriptors behind Node's own sockets and servers: Node has no other way to them. */
import { once } from 'node:events';
import type { Server, Socket } from 'node:net';
import type { NetworkAddress } from './network-address.ts';

/** Stays Node's. -1: it has none, or none any more. */
export function descriptorOf(owner: Socket | Server): number {
  const handle: unknown = Reflect.get(owner, '_handle');
  const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
  return typeof fd === 'number' ? fd : -1;
}

/** Listens on an address, or on a socket that listens already. Throws what the system says. */
export async function startListening(server: Server, address: NetworkAddress, inheritedFd?: number): Promise<void> {
  if (inheritedFd === undefined) server.listen(address.port, address.host);
  else server.listen({ fd: inheritedFd });
  await once(server, 'listening');
}
