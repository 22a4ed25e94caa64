/** What the daemon prints when it is ready: what it serves, and how to attach it to a virtual machine. */
import type { AnyController } from '../vhost/registry.ts';
import { qemuCommand } from './attach.ts';
import type { Daemon } from './daemon.ts';
import { VERSION } from './version.ts';

const MIB = 2 ** 20;

export function readyBanner(daemon: Daemon): string {
  const lines = [`Ringhost ${VERSION} is ready.`, '', `  RPC      ${daemon.options.rpcSocket}`];
  if (daemon.rpcUrl !== null) lines.push(`           ${daemon.rpcUrl}`);
  if (daemon.dashboardUrl !== null) lines.push(`  HTTP     ${daemon.dashboardUrl}`);
  const controllers = daemon.vhost.list();
  for (const controller of controllers) {
    lines.push(`  ${controller.name.padEnd(8)} ${controller.socketPath}  (${describe(controller)})`);
  }
  const missing = daemon.state?.missing.length ?? 0;
  if (missing > 0) lines.push('', `${missing} kept calls failed: ringhost rpc state_get_missing shows them.`);
  if (controllers.length === 0) {
    lines.push('', 'Nothing is served yet. For a RAM disk:', ...createCommands(daemon.options.rpcSocket));
  }
  for (const controller of controllers) {
    lines.push('', `Attach ${controller.name} to a virtual machine:`, '', ...indented(qemuCommand(controller)));
  }
  return `${lines.join('\n')}\n`;
}

function indented(lines: readonly string[]): string[] {
  return lines.map((line, at) => `${at === 0 ? '  ' : '    '}${line}${at < lines.length - 1 ? ' \\' : ''}`);
}

function describe(controller: AnyController): string {
  if (controller.kind === 'scsi') {
    const disks = controller.luns().map(({ target, bdev }) => `target ${target} ${bdev.name}`);
    return `vhost-user-scsi: ${disks.length === 0 ? 'no targets' : disks.join(', ')}`;
  }
  const size = Math.floor(controller.bdev.sizeBytes / MIB);
  return `vhost-user-blk: ${controller.bdev.name}, ${size} MiB${controller.isReadonly ? ', read-only' : ''}`;
}

function createCommands(rpcSocket: string): string[] {
  const socket = rpcSocket === '/var/tmp/ringhost.sock' ? '' : `-s ${rpcSocket} `;
  return [
    '',
    `  ringhost rpc ${socket}bdev_malloc_create 256 512 -b Malloc0`,
    `  ringhost rpc ${socket}vhost_create_blk_controller vhost.0 Malloc0`,
  ];
}
