/** What the daemon prints when it is ready: what it serves, and how to attach it to a virtual machine. */
import type { BlkController } from '../vhost/blk-controller.ts';
import type { Daemon } from './daemon.ts';
import { VERSION } from './version.ts';

const MIB = 2 ** 20;

export function readyBanner(daemon: Daemon): string {
  const lines = [`Ringhost ${VERSION} is ready.`, '', `  RPC      ${daemon.options.rpcSocket}`];
  const controllers = daemon.vhost.list();
  for (const controller of controllers) {
    const size = Math.floor(controller.bdev.sizeBytes / MIB);
    const access = controller.isReadonly ? ', read-only' : '';
    const what = `vhost-user-blk: ${controller.bdev.name}, ${size} MiB${access}`;
    lines.push(`  ${controller.name.padEnd(8)} ${controller.socketPath}  (${what})`);
  }
  if (controllers.length === 0) {
    lines.push('', 'Nothing is served yet. For a RAM disk:', ...createCommands(daemon.options.rpcSocket));
  }
  for (const controller of controllers) {
    lines.push('', `Attach ${controller.name} to a virtual machine:`, '', ...qemuCommand(controller));
  }
  return `${lines.join('\n')}\n`;
}

/** The QEMU command line that attaches a controller, one option a line. */
export function qemuCommand(controller: BlkController): string[] {
  return [
    '  qemu-system-x86_64 -machine q35,accel=kvm:tcg,memory-backend=mem -smp 2 -m 1G \\',
    '    -object memory-backend-memfd,id=mem,size=1G,share=on \\',
    `    -chardev socket,id=ringhost0,path=${controller.socketPath},reconnect=1 \\`,
    '    -device vhost-user-blk-pci,chardev=ringhost0,num-queues=2 \\',
    '    -drive file=YOUR-GUEST.qcow2,if=virtio',
  ];
}

function createCommands(rpcSocket: string): string[] {
  const socket = rpcSocket === '/var/tmp/ringhost.sock' ? '' : `-s ${rpcSocket} `;
  return [
    '',
    `  ringhost rpc ${socket}bdev_malloc_create 256 512 -b Malloc0`,
    `  ringhost rpc ${socket}vhost_create_blk_controller vhost.0 Malloc0`,
  ];
}
