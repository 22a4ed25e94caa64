/**
 * The attached NVMe controllers by name, and the disks that their namespaces are: `Nvme0` has `Nvme0n1`, `Nvme0n2`, …
 * A transport connects a controller; everything about names and disks is here, the same for all transports.
 */
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { ControllerEvents, NvmeController, TransportId } from '../../../nvme/controller.ts';
import type { NamespaceIdentity } from '../../../nvme/identify.ts';
import type { BdevConfig } from '../../bdev.ts';
import { type BdevEntry, type BdevRegistry, checkResize } from '../../registry.ts';
import { NvmeBdev, whyNotServed } from './nvme.ts';

/** Connects to a controller; resolves when it has identified itself. */
export type ConnectController = (events: ControllerEvents) => Promise<NvmeController>;

/** A controller under its name. */
export class AttachedController {
  readonly name: string;
  /** The calls that attach it again, one for each path. What discovery attached has none. */
  readonly configs: BdevConfig[];
  controller: NvmeController;
  /** By namespace. */
  readonly disks = new Map<number, BdevEntry>();
  isDetaching = false;
  /** Changes of namespaces, one after another. */
  work: Promise<void> = Promise.resolve();

  constructor(name: string, config: BdevConfig | null, controller: NvmeController) {
    this.name = name;
    this.configs = config === null ? [] : [config];
    this.controller = controller;
  }

  /** An operator attached it by this address; any port, when none is given. */
  isConfigured(address: string, port: string | undefined): boolean {
    return this.#configOf(address, port) >= 0;
  }

  addConfig(config: BdevConfig): void {
    // A path that was given up may be there still.
    this.removeConfig(String(config.params['traddr']), config.params['trsvcid'] as string | undefined);
    this.configs.push(config);
  }

  removeConfig(address: string, port: string | undefined): void {
    const at = this.#configOf(address, port);
    if (at >= 0) this.configs.splice(at, 1);
  }

  #configOf(address: string, port: string | undefined): number {
    return this.configs.findIndex(
      ({ params }) => params['traddr'] === address && (port === undefined || params['trsvcid'] === port),
    );
  }
}

export class NvmeControllers {
  /** A controller is gone that nobody detached. */
  onGone: () => void = () => undefined;
  readonly #registry: BdevRegistry;
  readonly #log: Logger;
  readonly #attached = new Map<string, AttachedController>();
  /** Names whose controller is being connected. */
  readonly #connecting = new Set<string>();

  constructor(registry: BdevRegistry, log: Logger) {
    this.#registry = registry;
    this.#log = log;
    registry.on('deleted', (entry) => this.#diskDeleted(entry));
  }

  list(): AttachedController[] {
    return [...this.#attached.values()];
  }

  /** Throws `ENODEV` when there is none. */
  get(name: string): AttachedController {
    const attached = this.#attached.get(name);
    if (attached !== undefined && !attached.isDetaching) return attached;
    throw new TargetError('ENODEV', `there is no NVMe controller "${name}": bdev_nvme_get_controllers lists them`);
  }

  find(name: string): AttachedController | undefined {
    const attached = this.#attached.get(name);
    return attached?.isDetaching === true ? undefined : attached;
  }

  /** Adds a path to an attached controller. Resolves with the names of its disks. */
  async addPath(
    attached: AttachedController,
    id: TransportId,
    config: BdevConfig | null,
    add: () => Promise<void>,
  ): Promise<string[]> {
    const { transportId } = attached.controller;
    if (transportId.trtype !== id.trtype || transportId.subnqn !== id.subnqn) {
      throw new TargetError('EEXIST', `"${attached.name}" is another controller: choose another name`);
    }
    await add();
    if (config !== null) attached.addConfig(config);
    return [...attached.disks.values()].map((disk) => disk.name);
  }

  async removePath(attached: AttachedController, address: string, port: string | undefined): Promise<void> {
    await attached.controller.removePath?.(address, port === undefined ? undefined : Number(port));
    attached.removeConfig(address, port);
  }

  /** Connects a controller and makes a disk of each namespace. Resolves with the names of the disks. */
  async attach(
    name: string,
    id: TransportId,
    config: BdevConfig | null,
    connect: ConnectController,
  ): Promise<string[]> {
    if (this.#attached.has(name) || this.#connecting.has(name)) {
      throw new TargetError('EEXIST', `an NVMe controller "${name}" exists already: choose another name`);
    }
    const same = this.list().find(({ controller }) => isSame(controller.transportId, id));
    if (same !== undefined) {
      throw new TargetError('EEXIST', `${id.traddr} is attached already, as "${same.name}"`);
    }
    this.#connecting.add(name);
    try {
      let attached: AttachedController | null = null;
      const controller = await connect({
        onNamespaces: () => attached !== null && this.#namespacesChanged(attached),
        onGone: (reason) => attached !== null && this.#gone(attached, reason),
      });
      attached = new AttachedController(name, config, controller);
      this.#attached.set(name, attached);
      await this.#matchDisks(attached);
      return [...attached.disks.values()].map((disk) => disk.name);
    } finally {
      this.#connecting.delete(name);
    }
  }

  /** Takes its disks from their users, then gives the controller back. */
  async detach(attached: AttachedController): Promise<void> {
    if (attached.isDetaching) throw new TargetError('ENODEV', `"${attached.name}" is already being detached`);
    attached.isDetaching = true;
    await attached.work;
    const outcomes = await Promise.allSettled(
      [...attached.disks.values()].filter(({ isRemoving }) => !isRemoving).map((disk) => this.#registry.delete(disk)),
    );
    const failure = outcomes.find((outcome) => outcome.status === 'rejected');
    if (attached.disks.size === 0) await this.#close(attached);
    if (failure !== undefined) throw failure.reason;
  }

  /** For an upgrade. Throws `ENOTSUP` when two daemons cannot have a controller. */
  checkHandOver(): void {
    const local = this.list().find(({ controller }) => controller.transportId.trtype === 'PCIe');
    if (local === undefined) return;
    const where = local.controller.transportId.traddr;
    throw new TargetError(
      'ENOTSUP',
      `"${local.name}" drives the NVMe drive at ${where}, which has one driver at a time: detach it first`,
    );
  }

  /** Everything, when the daemon stops. */
  async close(): Promise<void> {
    for (const attached of this.list()) {
      if (!attached.isDetaching) await this.detach(attached).catch((error: Error) => this.#log.error(error.message));
    }
  }

  #namespacesChanged(attached: AttachedController): void {
    attached.work = attached.work
      .then(() => this.#matchDisks(attached))
      .catch((error: Error) => this.#log.error(`${attached.name}: ${error.message}`));
  }

  #gone(attached: AttachedController, reason: string): void {
    if (attached.isDetaching) return;
    this.#log.error(`NVMe controller ${attached.name} is gone: ${reason}`);
    this.#registry.announceGone([...attached.disks.values()], attached.configs);
    this.detach(attached)
      .catch((error: Error) => this.#log.error(error.message))
      .finally(() => this.onGone());
  }

  /** Makes and deletes disks until they are what the controller has. */
  async #matchDisks(attached: AttachedController): Promise<void> {
    const { namespaces } = attached.controller;
    for (const [nsid, disk] of attached.disks) {
      if (!namespaces.some((namespace) => namespace.nsid === nsid) && !disk.isRemoving) {
        this.#log.info(`${disk.name}: its namespace is gone, so the bdev goes too`);
        this.#registry.announceGone([disk], []);
        await this.#registry.delete(disk);
      }
    }
    for (const namespace of namespaces) {
      if (attached.isDetaching) return;
      const disk = attached.disks.get(namespace.nsid);
      if (disk === undefined) this.#addDisk(attached, namespace);
      else await this.#resize(disk, namespace);
    }
  }

  #addDisk(attached: AttachedController, namespace: NamespaceIdentity): void {
    const name = `${attached.name}n${namespace.nsid}`;
    const reason = whyNotServed(namespace);
    if (reason !== null) {
      this.#log.warn(`${name} is not served: ${reason}`);
      return;
    }
    const { controller } = attached;
    try {
      const bdev = new NvmeBdev({ name, controller, namespace });
      attached.disks.set(
        namespace.nsid,
        this.#registry.create(name, bdev.uuid, () => bdev),
      );
    } catch (error) {
      this.#log.error(`${name} is not served: ${(error as Error).message}`);
    }
  }

  async #resize(disk: BdevEntry, namespace: NamespaceIdentity): Promise<void> {
    const bdev = disk.bdev as NvmeBdev;
    if (bdev.blockCount === namespace.blockCount || disk.isRemoving) return;
    checkResize(disk, namespace.blockCount);
    bdev.blockCount = namespace.blockCount;
    await this.#registry.changed(disk);
  }

  #diskDeleted(entry: BdevEntry): void {
    for (const attached of this.#attached.values()) {
      for (const [nsid, disk] of attached.disks) if (disk === entry) attached.disks.delete(nsid);
      // What took too long for the call that asked for it ends here.
      if (attached.isDetaching && attached.disks.size === 0) {
        this.#close(attached).catch((error: Error) => this.#log.error(error.message));
      }
    }
  }

  async #close(attached: AttachedController): Promise<void> {
    if (!this.#attached.delete(attached.name)) return;
    await attached.controller.close();
  }
}

function isSame(one: TransportId, other: TransportId): boolean {
  return (
    one.trtype === other.trtype &&
    one.traddr === other.traddr &&
    one.trsvcid === other.trsvcid &&
    one.subnqn === other.subnqn
  );
}
