/**
 * How a controller is attached to a virtual machine: what QEMU, libvirt and Cloud Hypervisor want to be told, and a
 * unit of systemd that starts such a machine. Everywhere guest memory is shared: without that a back-end cannot see
 * it.
 */
import { TargetError } from '../base/errors.ts';

export interface Attachment {
  readonly name: string;
  readonly kind: 'blk' | 'scsi';
  readonly socketPath: string;
}

export const ATTACH_FORMATS = ['qemu', 'libvirt', 'cloud-hypervisor', 'systemd'] as const;
export type AttachFormat = (typeof ATTACH_FORMATS)[number];

/** Of an example: the user has his own. */
const GUEST = { image: 'YOUR-GUEST.qcow2', queues: 2, queueSize: 256 } as const;
/** QEMU spells the number of queues in two ways. */
const QEMU_DEVICES = {
  blk: `vhost-user-blk-pci,num-queues=${GUEST.queues}`,
  scsi: `vhost-user-scsi-pci,num_queues=${GUEST.queues}`,
} as const;
/** The end of a line that goes on. */
const CONTINUED = ' \\\n  ';
/** Nothing in it means something to a shell, or to systemd. */
const PLAIN_WORD = /^[\w@%+=:,./-]+$/;
/** QEMU before 8.2 does not start with a vhost-user-scsi device whose chardev reconnects. */
const QEMU_RECONNECT = { blk: ',reconnect=1', scsi: '' } as const;

/** @throws TargetError `ENOTSUP` when that program has no such device */
export function attachText(format: AttachFormat, controller: Attachment): string {
  if (format === 'qemu') return `${qemuCommand(controller).join(CONTINUED)}\n`;
  if (format === 'systemd') return systemdUnit(controller);
  if (format === 'cloud-hypervisor') return cloudHypervisorCommand(controller);
  return controller.kind === 'blk' ? libvirtDisk(controller) : libvirtPassthrough(controller);
}

/** The command line that boots a guest with the disk, for a shell, one option a line. */
export function qemuCommand({ kind, socketPath }: Attachment, quote = shellWord): readonly string[] {
  const chardev = `socket,id=ringhost0,path=${qemuValue(socketPath)}${QEMU_RECONNECT[kind]}`;
  return [
    'qemu-system-x86_64 -machine q35,accel=kvm:tcg,memory-backend=mem -smp 2 -m 1G',
    '-object memory-backend-memfd,id=mem,size=1G,share=on',
    `-chardev ${quote(chardev)}`,
    `-device ${QEMU_DEVICES[kind]},chardev=ringhost0`,
    `-drive file=${GUEST.image},if=virtio`,
  ];
}

/** One word of a shell's command line. */
function shellWord(text: string): string {
  return PLAIN_WORD.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** One word of `ExecStart=` (systemd.service(5), "Command lines"). */
function systemdWord(text: string): string {
  const word = text.replaceAll('%', '%%').replaceAll('$', '$$$$');
  return PLAIN_WORD.test(text) ? word : `"${word.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
}

/** A comma ends a value, unless it is doubled. */
function qemuValue(text: string): string {
  return text.replaceAll(',', ',,');
}

function cloudHypervisorCommand({ name, kind, socketPath }: Attachment): string {
  if (kind === 'scsi') {
    throw new TargetError(
      'ENOTSUP',
      `${name} is a scsi controller, and Cloud Hypervisor has no such device: make a blk controller for each disk`,
    );
  }
  const queues = `num_queues=${GUEST.queues},queue_size=${GUEST.queueSize}`;
  return `${[
    'cloud-hypervisor --cpus boot=2 --memory size=1G,shared=on --kernel hypervisor-fw',
    `--disk path=${GUEST.image} ${shellWord(`vhost_user=on,socket=${socketPath},${queues}`)}`,
  ].join(CONTINUED)}\n`;
}

const LIBVIRT_MEMORY = `  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>`;

/** @see https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms, `vhostuser` (libvirt 7.1) */
function libvirtDisk({ socketPath }: Attachment): string {
  return `<!-- virsh edit DOMAIN: these elements belong into <domain>, the disk among the devices -->
<domain>
${LIBVIRT_MEMORY}
  <devices>
    <disk type='vhostuser' device='disk'>
      <driver name='qemu' type='raw' queues='${GUEST.queues}'/>
      <source type='unix' path='${xml(socketPath)}'>
        <reconnect enabled='yes' timeout='1'/>
      </source>
      <target dev='vdb' bus='virtio'/>
    </disk>
  </devices>
</domain>
`;
}

/** libvirt has no element for vhost-user-scsi: what it does not know it hands to QEMU as it is. */
function libvirtPassthrough({ socketPath }: Attachment): string {
  const path = xml(qemuValue(socketPath));
  return `<!-- virsh edit DOMAIN: these elements belong into <domain>, which needs the namespace too -->
<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
${LIBVIRT_MEMORY}
  <qemu:commandline>
    <qemu:arg value='-chardev'/>
    <qemu:arg value='socket,id=ringhost0,path=${path}${QEMU_RECONNECT.scsi}'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='${QEMU_DEVICES.scsi},chardev=ringhost0'/>
  </qemu:commandline>
</domain>
`;
}

const UNIT_NOTE = '# The guest waits for the daemon to come back (reconnect=1): it needs not be stopped with it.\n';

function systemdUnit(controller: Attachment): string {
  const [program, ...options] = qemuCommand(controller, systemdWord);
  const command = [`/usr/bin/${program}`, ...options, '-nographic'].join(CONTINUED);
  const waits = QEMU_RECONNECT[controller.kind] === '' ? '' : UNIT_NOTE;
  return `# systemctl edit --force --full ringhost-guest-${controller.name}.service
${waits}[Unit]
Description=Virtual machine on ${controller.name}
Wants=ringhost.service
After=ringhost.service

[Service]
ExecStart=${command}
Restart=on-failure

[Install]
WantedBy=multi-user.target
`;
}

function xml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll("'", '&apos;');
}
