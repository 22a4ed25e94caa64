/** `ringhost qemu|libvirt|cloud-hypervisor|systemd CONTROLLER`: how to attach a controller of a running daemon. */
import { type AttachFormat, type Attachment, attachText } from '../app/attach.ts';
import { TargetError } from '../base/errors.ts';
import type { RpcClient } from '../rpc/client.ts';
import { connectTo, type DaemonAccess } from './daemon-access.ts';
import { reporting } from './reporting.ts';

/** Prints it. Resolves with the exit code. */
export function runAttachCommand(format: AttachFormat, controller: string, daemon: DaemonAccess): Promise<number> {
  return reporting(format, async () => {
    using client = await connectTo(daemon);
    process.stdout.write(attachText(format, await findController(client, controller)));
    return 0;
  });
}

async function findController(client: RpcClient, name: string): Promise<Attachment> {
  const controllers = await client.call('vhost_get_controllers');
  const found = controllers.find(({ ctrlr }) => ctrlr === name);
  if (found === undefined) {
    const names = controllers.map(({ ctrlr }) => ctrlr).join(', ');
    const hint =
      names === '' ? 'there are none: ringhost rpc vhost_create_blk_controller makes one' : `there are ${names}`;
    throw new TargetError('ENODEV', `there is no controller ${name}: ${hint}`);
  }
  return { name, kind: 'block' in found.backend_specific ? 'blk' : 'scsi', socketPath: found.socket };
}
