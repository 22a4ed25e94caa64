/** All vhost controllers by name, and the making of new ones. */
import { join } from 'node:path';
import { parseCpuset } from '../base/cpuset.ts';
import { withinDeadline } from '../base/deadline.ts';
import { TargetError } from '../base/errors.ts';
import type { FdList } from '../base/fd-list.ts';
import { REMOVAL_MS_MAX } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import { OWNER_ONLY, type SocketAccess } from '../base/socket-access.ts';
import { DAEMON_SHARER, SHARERS_MAX } from '../bdev/fair-shares.ts';
import type { BdevRegistry } from '../bdev/registry.ts';
import { type QueuePlacement, reactorsOf } from '../reactor/placement.ts';
import type { ReactorMode } from '../reactor/reactor.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { FdSet } from '../sys/events.ts';
import { truncationEventFd } from '../sys/mapping.ts';
import { BlkController } from './blk-controller.ts';
import type { ControllerOptions, ControllerRecord } from './controller.ts';
import { rehearse } from './rehearsal.ts';
import { ScsiController } from './scsi-controller.ts';
import { VringService } from './vring-service.ts';

/** Longest path of a Unix socket (sun_path of sockaddr_un, with its NUL). */
const SOCKET_PATH_BYTES_MAX = 107;

/**
 * A guest that has many queues has them to use many cores; one that shares its reactor with others loses nothing by it
 * (docs/decisions/0006-queues-are-spread.md).
 */
export const BLK_PLACEMENT: QueuePlacement = 'spread';
/** For what disks do before guests wait for an upgrade: what they have not done by then, guests wait for. */
const EARLY_MS_MAX = 2_000;
/** A reactor that turns at all answers sooner. */
const PING_MS_MAX = 1_000;
/** Task management, reservations and unit attentions are one state of a target, which lives in one reactor. */
const SCSI_SPREAD =
  'the queues of a scsi controller share the state of its targets and run on one reactor: leave queue_placement out, ' +
  'or use a blk controller';
const SCSI_MOVE =
  'a scsi controller stays on its reactor, where its targets live: delete it and create it with another cpumask';

export interface VhostRegistryOptions {
  readonly socketDirectory: string;
  /** Who may connect to controllers. Default: this process's user alone. */
  readonly access?: SocketAccess;
  readonly reactors: readonly ReactorThread[];
  readonly bdevs: BdevRegistry;
  /** Of controllers that have none of their own. */
  readonly mode: ReactorMode;
  /** Whose messages go to the log: `all`, or names of controllers. Default: nobody's. */
  readonly tracedProtocols?: readonly string[];
  readonly log: Logger;
}

/** How the queues of a controller run. */
export interface QueueParams {
  readonly cpumask: string | undefined;
  readonly mode: ReactorMode | undefined;
  readonly placement: QueuePlacement | undefined;
}

export interface CreateBlkParams extends QueueParams {
  readonly name: string;
  readonly bdevName: string;
  readonly isReadonly: boolean;
  readonly serial: string | undefined;
}

export interface CreateScsiParams extends QueueParams {
  readonly name: string;
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
  /** By controller: sockets that the daemon before listens on. */
  readonly #inherited = new Map<string, number>();

  constructor(options: VhostRegistryOptions) {
    this.#options = options;
    this.#fdSet.add(
      truncationEventFd(),
      () => {
        for (const controller of this.#all) controller.checkMemory();
      },
      { edge: true },
    );
    for (const reactor of options.reactors) {
      reactor.onQueueBroken = ({ sessionId, index }) => {
        const session = this.#all.map((controller) => controller.session).find((each) => each?.id === sessionId);
        session?.session.queueBroke(index);
      };
    }
  }

  get #all(): AnyController[] {
    return [...this.#controllers.values(), ...this.#retired];
  }

  /** Of controllers that have none of their own. */
  get mode(): ReactorMode {
    return this.#options.mode;
  }

  /** Of the daemon. */
  get coreCount(): number {
    return this.#options.reactors.length;
  }

  createBlk(params: CreateBlkParams): BlkController {
    const { name, isReadonly, serial } = params;
    const options = this.#controllerOptions(name, params, params.placement ?? BLK_PLACEMENT);
    const bdev = this.#options.bdevs.get(params.bdevName);
    const controller = new BlkController({ ...options, bdev, isReadonly, serial });
    this.#controllers.set(name, controller);
    this.#logCreated(controller, controller.bdev.name);
    return controller;
  }

  async createScsi({ name, isDelayed, ...params }: CreateScsiParams): Promise<ScsiController> {
    if (params.placement === 'spread') throw new TargetError('ENOTSUP', SCSI_SPREAD);
    const controller = new ScsiController(this.#controllerOptions(name, params, 'pinned'));
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

  /**
   * Moves the queues of a controller, under load too: each stops with nothing in flight and goes on where it stopped.
   * What is undefined stays as it is. Throws `ENOTSUP` for a scsi controller.
   */
  async setPlacement(name: string, params: Omit<QueueParams, 'mode'>): Promise<void> {
    const controller = this.get(name);
    if (controller.kind === 'scsi') {
      throw new TargetError('ENOTSUP', params.placement === 'spread' ? SCSI_SPREAD : SCSI_MOVE);
    }
    const { places } = controller;
    const reactors = params.cpumask === undefined ? places.reactors : this.#reactorsOf(params.cpumask);
    await controller.setPlacement(reactors, params.placement ?? places.policy);
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
    const late = new TargetError(
      'ETIMEDOUT',
      `a bdev still works on requests of "${name}" after ${REMOVAL_MS_MAX / 1000} s: new ones are refused`,
    );
    await withinDeadline(retiring, REMOVAL_MS_MAX, () => late).catch(async (error: TargetError) => {
      const cores = error === late ? await this.#silentCores() : [];
      if (cores.length === 0) throw error;
      throw new TargetError(
        'ETIMEDOUT',
        `the reactor on core ${cores} does not answer after ${REMOVAL_MS_MAX / 1000} s: something has stopped it, ` +
          'such as a debugger or a host that takes its core. ' +
          `"${name}" is gone; what its guest waits for ends when the reactor goes on`,
      );
    });
    this.#options.log.info(`Controller ${name}: removed`, { ctrlr: name });
  }

  /** Of reactors that stand still. */
  async #silentCores(): Promise<number[]> {
    const asked = this.#options.reactors.map(async (reactor) => {
      const late = new TargetError('ETIMEDOUT', 'it does not answer');
      const answer = withinDeadline(reactor.call('reactor.ping', null), PING_MS_MAX, () => late);
      return await answer.then(
        () => [],
        () => [reactor.core],
      );
    });
    return (await Promise.all(asked)).flat();
  }

  // ---- upgrade (docs/upgrade.md) -----------------------------------------------------------------------------------

  /** Throws when a controller cannot be handed over. */
  checkHandOver(): void {
    const [gone] = this.#retired;
    const bereft = this.list().find((one) => one.kind === 'blk' && one.isBdevRemoved);
    const leaving = this.list().find((one) => one.kind === 'scsi' && one.luns().some((lun) => lun.removal !== null));
    const what = gone ?? bereft ?? leaving;
    if (what === undefined) return;
    const why = what === leaving ? 'a disk of it is being removed' : 'what a guest still uses of it was deleted';
    throw new TargetError('EBUSY', `controller "${what.name}": ${why}: detach it from the guest first`);
  }

  /** The sockets for whoever serves them next. */
  listeningFds(): { readonly name: string; readonly fd: number }[] {
    return this.list().map(({ name, listeningFd: fd }) => ({ name, fd }));
  }

  /** Controllers of these names, when they are made, have a socket already. */
  inherit(name: string, fd: number): void {
    if (fd >= 0) this.#inherited.set(name, fd);
  }

  /** Before guests wait, for what comes when they do. */
  async prepare(): Promise<void> {
    await this.openEarly();
    await this.rehearse();
  }

  /**
   * Before guests wait: opens what their queues will need, in every reactor where one may come to run. What cannot be
   * opened, or not in time, is opened when they do.
   */
  async openEarly(withinMs = EARLY_MS_MAX): Promise<void> {
    const opening = this.list().flatMap((controller) => {
      const bdevs = controller.bdevs.filter((bdev) => !bdev.isExclusive);
      return controller.likelyReactors.flatMap((reactor) =>
        bdevs.map((bdev) => reactor.call(VringService.openEarly, bdev.describe())),
      );
    });
    await early(Promise.allSettled(opening), withinMs);
  }

  /** Before guests wait, what will be run while they do. */
  async rehearse(): Promise<void> {
    const { reactors, mode } = this.#options;
    await rehearse(reactors, mode, this.#fdSet);
  }

  /** Guests will wait soon. What is not flushed in time, or cannot be, is for `letGo` to say. */
  async flushEarly(withinMs = EARLY_MS_MAX): Promise<void> {
    await early(this.#tellAll(VringService.flushEarly), withinMs);
  }

  /** Guests wait, with nothing in flight, until `thaw`. Throws `ETIMEDOUT` when requests are not done in time. */
  async freeze(withinMs: number): Promise<void> {
    await this.#tellAll(VringService.hold);
    const outcomes = await Promise.allSettled(this.list().map((controller) => controller.freeze(withinMs)));
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /**
   * While all are frozen: another process may have the disks. Throws `ETIMEDOUT` when one is not flushed in time, `EIO`
   * when it cannot be.
   */
  async letGo(withinMs: number): Promise<void> {
    const late = () => new TargetError('ETIMEDOUT', 'a disk is not flushed in time');
    await withinDeadline(this.#tellAll(VringService.letGo), Math.max(0, withinMs), late);
  }

  /** Guests go on, after `freeze` or `load`. */
  async thaw(): Promise<void> {
    await this.#tellAll(VringService.release);
    await Promise.all(this.list().map((controller) => controller.thaw()));
  }

  async #tellAll(call: string): Promise<void> {
    await Promise.all(this.#options.reactors.map((reactor) => reactor.call(call, null)));
  }

  /** While all are frozen. */
  async save(fds: FdList): Promise<ControllerRecord[]> {
    return await Promise.all(this.list().map((controller) => controller.save(fds)));
  }

  /** Takes sessions over. No ring is touched before `thaw`. */
  async load(records: readonly ControllerRecord[], fds: FdList): Promise<void> {
    await Promise.all(records.map((record) => this.get(record.name).load(record, fds)));
  }

  /** Ends every session and removes every socket. */
  async close(): Promise<void> {
    await Promise.all([...this.#controllers.values(), ...this.#retired].map((controller) => controller.close()));
    this.#controllers.clear();
    this.#fdSet.close();
  }

  /** Checks the name and finds the reactors. */
  #controllerOptions(name: string, params: QueueParams, placement: QueuePlacement): ControllerOptions {
    const { socketDirectory, reactors, tracedProtocols = [], log } = this.#options;
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
    return {
      name,
      socketPath,
      allReactors: reactors,
      reactors: this.#reactorsOf(params.cpumask),
      mode: params.mode ?? this.#options.mode,
      placement,
      sharerNumber: this.#freeSharer(),
      fdSet: this.#fdSet,
      access: this.#options.access ?? OWNER_ONLY,
      isProtocolTraced: tracedProtocols.includes('all') || tracedProtocols.includes(name),
      inheritedFd: this.#takeInherited(name),
      log,
    };
  }

  /** Controllers beyond what there is room for share as one, with the daemon. */
  #freeSharer(): number {
    const taken = new Set(this.#all.map(({ sharerNumber }) => sharerNumber));
    for (let number = DAEMON_SHARER.number + 1; number < SHARERS_MAX; number++) if (!taken.has(number)) return number;
    return DAEMON_SHARER.number;
  }

  #takeInherited(name: string): number | undefined {
    const fd = this.#inherited.get(name);
    this.#inherited.delete(name);
    return fd;
  }

  #reactorsOf(cpumask: string | undefined): readonly ReactorThread[] {
    const { reactors } = this.#options;
    return cpumask === undefined ? reactors : reactorsOf(reactors, parseCpuset(cpumask));
  }

  #logCreated({ name, cores }: AnyController, bdevName?: string): void {
    const bdev = bdevName === undefined ? {} : { bdev: bdevName };
    this.#options.log.info(`Controller ${name}: new controller added`, { ctrlr: name, ...bdev, cores: String(cores) });
  }
}

/** Waits for what may fail, or come too late: that shows when it is needed. */
async function early(work: Promise<unknown>, withinMs: number): Promise<void> {
  await withinDeadline(work, withinMs, () => new TargetError('ETIMEDOUT', 'too late')).catch(() => undefined);
}
