/** A target with one disk in TypeScript: for `ringhost serve FILE`, and for programs of others. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TargetError } from '../base/errors.ts';
import { nameOfFile } from '../bdev/modules/module/module.ts';
import type { ConfigFile } from './config-file.ts';
import { Daemon } from './daemon.ts';
import { DaemonLog } from './logger.ts';
import { checkOptions } from './options.ts';

export interface ServeOptions {
  /** The `key=value` that the disk is made with. */
  readonly options?: Readonly<Record<string, string>>;
  /** Of the controller, its socket and its bdev. Default: that of the file, without its end. */
  readonly name?: string;
  /** Where the sockets are made. Default: a new directory, which goes with the target. */
  readonly socketDirectory?: string;
  /** Cores to poll on: a hex mask (`0x3`) or a list (`0-3`). Default: the first. */
  readonly cores?: string;
  /** How reactors wait. Default: `adaptive`. */
  readonly mode?: 'poll' | 'adaptive' | 'interrupt';
  /** What the log on standard error looks like. Default: errors alone, as text. */
  readonly log?: 'text' | 'json';
  /** The target cannot go on. Default: an exception that nobody catches. */
  readonly onDeath?: (error: Error) => void;
}

/** A disk that virtual machines can be connected to. */
export interface ServedDisk {
  /** What QEMU's `-chardev socket,path=` is given. */
  readonly socketPath: string;
  /** For `ringhost rpc -s`. */
  readonly rpcSocket: string;
  /** Ends the session of a connected machine, closes the disk, and removes the sockets. */
  close(): Promise<void>;
}

/**
 * Serves a file whose default export is a disk (`defineDisk`) as a vhost-user-blk device. Resolves when it can be
 * connected to. Throws a `TargetError`, which says what to do, when there is no such file, the disk does not start, or
 * a socket cannot be made.
 */
export async function serveDisk(file: string | URL, options: ServeOptions = {}): Promise<ServedDisk> {
  const path = typeof file === 'string' ? resolve(file) : fileURLToPath(file);
  const sockets = new SocketDirectory(options.socketDirectory);
  const name = options.name ?? nameOfFile(path);
  try {
    const daemon = await Daemon.start(
      {
        ...checkOptions({
          socketDirectory: sockets.path,
          rpcSocket: sockets.rpcSocket,
          coreMask: options.cores,
          mode: options.mode ?? 'adaptive',
        }),
        ownConfig: diskConfig(path, name, options.options ?? {}),
      },
      logOf(options.log),
      options.onDeath ?? throwLater,
    );
    return {
      socketPath: join(sockets.path, name),
      rpcSocket: sockets.rpcSocket,
      close: async () => {
        await daemon.stop();
        sockets.remove();
      },
    };
  } catch (error) {
    sockets.remove();
    throw error;
  }
}

/** Where the sockets of a target are: a directory of the user's, or a new one. */
export class SocketDirectory {
  readonly path: string;
  readonly #isOwn: boolean;

  constructor(path: string | undefined) {
    this.#isOwn = path === undefined;
    this.path = path ?? mkdtempSync(join(tmpdir(), 'ringhost-'));
  }

  get rpcSocket(): string {
    return join(this.path, 'rpc.sock');
  }

  remove(): void {
    if (this.#isOwn) rmSync(this.path, { recursive: true, force: true });
  }
}

/** The calls that serve a disk. */
export function diskConfig(
  path: string,
  name: string | undefined,
  options: Readonly<Record<string, string>>,
): ConfigFile {
  if (!existsSync(path)) throw new TargetError('ENOENT', `there is no file ${path}`);
  const own = name ?? nameOfFile(path);
  const create = { method: 'bdev_module_create', params: { path, name: own, options } };
  const controller = { method: 'vhost_create_blk_controller', params: { ctrlr: own, dev_name: own } };
  return { subsystems: [{ subsystem: 'disk', config: [create, controller] }] };
}

function logOf(format: ServeOptions['log']): DaemonLog {
  const log = new DaemonLog(format ?? 'text');
  if (format === undefined) log.level = 'ERROR';
  return log;
}

function throwLater(error: Error): void {
  process.nextTick(() => {
    throw error;
  });
}
