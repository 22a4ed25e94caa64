/** The identity of this machine towards targets: made of its machine ID, so that it stays the same. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

/** Namespace of the host's UUID (RFC 9562 §5.5, version 5). */
const HOST_NAMESPACE = Buffer.from('a3b1e6f2c07d4d5f9c2e4b8a61d70f35', 'hex');
const NQN_UUID = 'nqn.2014-08.org.nvmexpress:uuid:';

export interface HostIdentity {
  readonly hostNqn: string;
  /** 32 hexadecimal digits. */
  readonly hostId: string;
}

/** `hostNqn`: default: made of this machine's ID. Host NQN and ID always belong together, as targets want it. */
export function hostIdentity(hostNqn?: string): HostIdentity {
  const hash = createHash('sha1')
    .update(HOST_NAMESPACE)
    .update(hostNqn ?? machineId())
    .digest();
  hash.writeUInt8((hash.readUInt8(6) & 0x0f) | 0x50, 6);
  hash.writeUInt8((hash.readUInt8(8) & 0x3f) | 0x80, 8);
  const hostId = hash.toString('hex', 0, 16);
  const uuid = hostId.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  return { hostNqn: hostNqn ?? `${NQN_UUID}${uuid}`, hostId };
}

function machineId(): string {
  for (const path of ['/etc/machine-id', '/var/lib/dbus/machine-id', '/proc/sys/kernel/hostname']) {
    try {
      const text = readFileSync(path, 'utf8').trim();
      if (text !== '') return text;
    } catch {
      // The next one.
    }
  }
  return 'ringhost';
}
