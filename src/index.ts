/** What other programs import from `ringhost`: disks of their own, and a target that serves them. */
import type { ServedDisk, ServeOptions } from './app/serve-disk.ts';

export type { ServedDisk, ServeOptions } from './app/serve-disk.ts';
export {
  type Disk,
  type DiskContext,
  type DiskDefinition,
  type DiskSetup,
  defineDisk,
} from './bdev/modules/module/define-disk.ts';

/**
 * Serves a file whose default export is a disk as a vhost-user-blk device. Resolves when virtual machines can connect.
 * Throws a `TargetError`, which says what to do, when there is no such file, the disk does not start, or a socket
 * cannot be made.
 */
export async function serve(file: string | URL, options?: ServeOptions): Promise<ServedDisk> {
  // A file with a disk imports this one too, and needs no target.
  const { serveDisk } = await import('./app/serve-disk.ts');
  return await serveDisk(file, options);
}
