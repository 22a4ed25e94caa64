/** All vhost controllers by name, and the making of new ones. */
import { join } from 'node:path';
import { parseCpuset } from '../base/cpuset.ts';
import { withinDeadline } from '../base/deadline.ts';
import { TargetError } from '../base/errors.ts';
import { REMOVAL_MS_MAX } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { BdevRegistry } from '../bdev/registry.ts';
import { placeController } from '../reactor/placement.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { FdSet } from '../sys/events.ts';
import { truncationEventFd } from '../sys/mapping.ts';
import { BlkController } from './blk-controller.ts';
import type { ControllerOptions } from './controller.ts';
import { ScsiController } from './scsi-controller.ts';

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

export interface CreateScsiParams {
  readonly name: string;
  readonly cpumask: string | undefined;
  /** Make no socket until `start`. */
  readonly isDelayed: boolean;
}

export type AnyController = BlkController | ScsiController;

export class VhostRegistry {
  readonly #options: VhostRegistryOptions;
  readonly #controllers = new Map<string, AnyController>();
  /** Deleted with a front-end that is still connected. */
  readonly #retired = new Set<AnyController>();
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
    const { name, isReadonly, serial } = params;
    const place = this.#place(name, params.cpumask);
    const bdev = this.#options.bdevs.get(params.bdevName);
    const controller = new BlkController({ ...place, bdev, isReadonly, serial });
    this.#controllers.set(name, controller);
    this.#logCreated(controller, controller.bdev.name);
    return controller;
  }

  async createScsi({ name, cpumask, isDelayed }: CreateScsiParams): Promise<ScsiController> {
    const controller = new ScsiController(this.#place(name, cpumask));
    this.#controllers.set(name, controller);
    try {
      await controller.open();
      if (!isDelayed) controller.listen();
    } catch (error) {
      this.#controllers.delete(name);
      await controller.retire();
      throw error;
    }
    this.#logCreated(controller);
    return controller;
  }

  /** Throws `ENODEV` when there is none. */
  get(name: string): AnyController {
    const controller = this.#controllers.get(name);
    if (controller === undefined) {
      throw new TargetError('ENODEV', `there is no controller "${name}": vhost_get_controllers lists those there are`);
    }
    return controller;
  }

  /** Throws `ENODEV` when there is none, `EINVAL` when it is one of another kind. */
  getScsi(name: string): ScsiController {
    const controller = this.get(name);
    if (controller.kind === 'scsi') return controller;
    throw new TargetError('EINVAL', `"${name}" is a ${controller.kind} controller, which has no SCSI targets`);
  }

  /** In the order of creation. */
  list(): AnyController[] {
    return [...this.#controllers.values()];
  }

  /**
   * Removes a controller and its socket. With a front-end connected it refuses (`EBUSY`), because the guest would lose
   * its disk; `force` lets that guest see errors instead: its session goes on, without a disk, until it disconnects.
   * Throws `ETIMEDOUT` when a bdev does not end what is in flight; the controller is gone all the same.
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
    this.#retired.add(controller);
    const retiring = controller.retire();
    void retiring
      .then(({ gone }) => gone)
      .finally(() => this.#retired.delete(controller))
      .catch(() => undefined);
    await withinDeadline(
      retiring,
      REMOVAL_MS_MAX,
      () =>
        new TargetError(
          'ETIMEDOUT',
          `a bdev still works on requests of "${name}" after ${REMOVAL_MS_MAX / 1000} s: new ones are refused`,
        ),
    );
    this.#options.log.info(`Controller ${name}: removed`, { ctrlr: name });
  }

  /** Ends every session and removes every socket. */
  async close(): Promise<void> {
    await Promise.all([...this.#controllers.values(), ...this.#retired].map((controller) => controller.close()));
    this.#controllers.clear();
    this.#fdSet.close();
  }

  /** Checks the name and chooses a reactor. */
  #place(name: string, cpumask: string | undefined): ControllerOptions {
    const { socketDirectory, reactors, log } = this.#options;
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
    const cores = cpumask === undefined ? reactors.map((reactor) => reactor.core) : parseCpuset(cpumask);
    return { name, socketPath, cores, reactor: placeController(reactors, cores), fdSet: this.#fdSet, log };
  }

  #logCreated({ name, reactor }: AnyController, bdevName?: string): void {
    const bdev = bdevName === undefined ? {} : { bdev: bdevName };
    this.#options.log.info(`Controller ${name}: new controller added`, { ctrlr: name, ...bdev, core: reactor.core });
  }
}
