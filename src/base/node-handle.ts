/** The descriptors behind Node's own sockets and servers: Node has no other way to them. */
import type { Server, Socket } from 'node:net';

/** Stays Node's. -1: it has none, or none any more. */
export function descriptorOf(owner: Socket | Server): number {
  const handle: unknown = Reflect.get(owner, '_handle');
  const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
  return typeof fd === 'number' ? fd : -1;
}
