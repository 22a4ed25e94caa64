/**
 * QEMU's storage daemon as the back-end: the control. What fails with it too is the harness's fault, not Ringhost's.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TestChild } from './child.ts';
import { QmpClient } from './qmp.ts';
import { withLimit } from './wait.ts';

const START_MAX_MS = 30_000;

export interface StorageDaemonDisk {
  readonly id: string;
  readonly sizeBytes: number;
  readonly isReadonly?: boolean;
  readonly blockSizeBytes?: number;
  readonly queues?: number;
  /** A 512-byte sector that cannot be read. */
  readonly badSector?: number;
  /** Forgets what is written, and reads as zeroes. */
  readonly isForgetful?: boolean;
}

export class StorageDaemon {
  readonly #directory: string;
  readonly #qmp: QmpClient;
  readonly #child: TestChild;

  private constructor(directory: string, qmp: QmpClient, child: TestChild) {
    this.#directory = directory;
    this.#qmp = qmp;
    this.#child = child;
  }

  /** Starts the daemon with one vhost-user-blk export a disk, each over a sparse file of its own. */
  static async start(disks: readonly StorageDaemonDisk[]): Promise<StorageDaemon> {
    const directory = mkdtempSync(join(tmpdir(), 'ringhost-qsd-'));
    const qmp = await QmpClient.listen(join(directory, 'qmp'));
    const args = [
      ...['--chardev', `socket,id=qmp,path=${join(directory, 'qmp')}`],
      ...disks.flatMap((disk) => diskArgs(directory, disk)),
      ...['--monitor', 'chardev=qmp'], // last: once it answers, the exports are there
    ];
    const child = new TestChild('qemu-storage-daemon', 'qemu-storage-daemon', args);
    const daemon = new StorageDaemon(directory, qmp, child);
    const ended = child.exited.then(() => Promise.reject(new Error(`qemu-storage-daemon ended:\n${child.tail()}`)));
    try {
      await withLimit(Promise.race([qmp.ready(), ended]), START_MAX_MS, 'ready qemu-storage-daemon');
    } catch (error) {
      await daemon.close();
      throw error;
    }
    ended.catch(() => {}); // it ends when it is closed
    return daemon;
  }

  socketPath(id: string): string {
    return join(this.#directory, `${id}.sock`);
  }

  /** The file behind a disk. */
  filePath(id: string): string {
    return join(this.#directory, `${id}.raw`);
  }

  /** Makes a sparse file that goes away with the daemon. @returns its path */
  createFile(id: string, sizeBytes: number): string {
    return createSparseFile(this.filePath(id), sizeBytes);
  }

  async close(): Promise<void> {
    await this.#child.stop('SIGKILL');
    this.#qmp.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

function createSparseFile(path: string, sizeBytes: number): string {
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  return path;
}

function diskArgs(directory: string, disk: StorageDaemonDisk): string[] {
  const { id, isReadonly = false, blockSizeBytes = 512, queues = 1 } = disk;
  const access = `read-only=${isReadonly ? 'on' : 'off'}`;
  const exportOptions = [
    ...['type=vhost-user-blk', `id=${id}-export`, `node-name=${id}`, `writable=${isReadonly ? 'off' : 'on'}`],
    ...['addr.type=unix', `addr.path=${join(directory, `${id}.sock`)}`],
    ...[`num-queues=${queues}`, `logical-block-size=${blockSizeBytes}`],
  ];
  return [
    ...nodesBelow(directory, disk).flatMap((node) => ['--blockdev', `${node},discard=unmap,${access}`]),
    ...['--export', exportOptions.join(',')],
  ];
}

/** The chain of block nodes: format over an optional injector of errors over the file. */
function nodesBelow(directory: string, { id, sizeBytes, badSector, isForgetful = false }: StorageDaemonDisk): string[] {
  if (isForgetful) return [`driver=null-co,node-name=${id},size=${sizeBytes},read-zeroes=on`];
  const path = createSparseFile(join(directory, `${id}.raw`), sizeBytes);
  const file = `driver=file,node-name=${id}-file,filename=${path}`;
  if (badSector === undefined) return [file, `driver=raw,node-name=${id},file=${id}-file`];
  return [file, blkdebugOptions(id, badSector), `driver=raw,node-name=${id},file=${id}-debug`];
}

function blkdebugOptions(id: string, sector: number): string {
  const rule = { event: 'none', iotype: 'read', sector, errno: 5, once: 'off', immediately: 'off' };
  const options = Object.entries(rule).map(([name, value]) => `inject-error.0.${name}=${value}`);
  return [`driver=blkdebug,node-name=${id}-debug,image=${id}-file`, ...options].join(',');
}
