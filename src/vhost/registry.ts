/** All vhost controllers by name, and the making of new ones. */
import { join } from 'node:path';
import { parseCpuset } from '../base/cpuset.ts';
import { TargetError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { BdevRegistry } from '../bdev/registry.ts';
import { placeController } from '../reactor/placement.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { FdSet } from '../sys/events.ts';
import { truncationEventFd } from '../sys/mapping.ts';
import { BlkController } from './blk-controller.ts';

/** Longest path of a Unix socket (sun_path of sockaddr_un, with its NUL). */
const SOCKET_PATH_BYTES_MAX = 107;

export interface VhostRegistryOptions {
  readonly socketDirectory: string;
  readonly reactors: readonly ReactorThread[];
  readonly bdevs: BdevRegistry;
  readonly log: Logger;
}

export interface CreateBlkParams {
  readonly name: string;
  readonly bdevName: string;
  readonly cpumask: string | undefined;
  readonly isReadonly: boolean;
  readonly serial: string | undefined;
}

export class VhostRegistry {
  readonly #options: VhostRegistryOptions;
  readonly #controllers = new Map<string, BlkController>();
  /** Deleted with a front-end that is still connected. */
  readonly #retired = new Set<BlkController>();
  readonly #fdSet = new FdSet();

  constructor(options: VhostRegistryOptions) {
    this.#options = options;
    this.#fdSet.add(
      truncationEventFd(),
      () => {
        for (const controller of [...this.#controllers.values(), ...this.#retired]) controller.checkMemory();
      },
      { edge: true },
    );
  }

  createBlk(params: CreateBlkParams): BlkController {
    const { socketDirectory, reactors, bdevs, log } = this.#options;
    const { name } = params;
    if (this.#controllers.has(name)) {
      throw new TargetError('EEXIST', `a controller "${name}" exists already: choose another name or delete it first`);
    }
    if (name.includes('/') || name.includes('\0') || name === '.' || name === '..') {
      throw new TargetError('EINVAL', `"${name}" cannot name a socket: leave out slashes and NULs`);
    }
    const socketPath = join(socketDirectory, name);
    if (Buffer.byteLength(socketPath) > SOCKET_PATH_BYTES_MAX) {
      throw new TargetError('EINVAL', `${socketPath} is longer than a socket path may be: use a shorter -S or name`);
    }
    const bdev = bdevs.get(params.bdevName);
    const all = reactors.map((reactor) => reactor.core);
    const cores = params.cpumask === undefined ? all : parseCpuset(params.cpumask);
    const reactor = placeController(reactors, cores);
    const controller = new BlkController({
      name,
      socketPath,
      bdev,
      isReadonly: params.isReadonly,
      serial: params.serial,
      cores,
      reactor,
      fdSet: this.#fdSet,
      log,
    });
    this.#controllers.set(name, controller);
    log.info(`Controller ${name}: new controller added`, { ctrlr: name, bdev: bdev.name, core: reactor.core });
    return controller;
  }

  /** Throws `ENODEV` when there is none. */
  get(name: string): BlkController {
    const controller = this.#controllers.get(name);
    if (controller === undefined) {
      throw new TargetError('ENODEV', `there is no controller "${name}": vhost_get_controllers lists those there are`);
    }
    return controller;
  }

  /** In the order of creation. */
  list(): BlkController[] {
    return [...this.#controllers.values()];
  }

  /**
   * Removes a controller and its socket. With a front-end connected it refuses (`EBUSY`), because the guest would lose
   * its disk; `force` lets that guest see errors instead: its session goes on, without a disk, until it disconnects.
   */
  async delete(name: string, force: boolean): Promise<void> {
    const controller = this.get(name);
    if (controller.session !== null && !force) {
      throw new TargetError(
        'EBUSY',
        `a front-end is connected to "${name}": detach the disk from the guest first, or pass force`,
      );
    }
    this.#controllers.delete(name);
    const { gone } = await controller.retire();
    this.#retired.add(controller);
    void gone.then(() => this.#retired.delete(controller));
    this.#options.log.info(`Controller ${name}: removed`, { ctrlr: name });
  }

  /** Ends every session and removes every socket. */
  async close(): Promise<void> {
    await Promise.all([...this.#controllers.values(), ...this.#retired].map((controller) => controller.close()));
    this.#controllers.clear();
    this.#fdSet.close();
  }
}
