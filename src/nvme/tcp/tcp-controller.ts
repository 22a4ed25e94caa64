/**
 * A subsystem over TCP as one controller: up to eight paths to the same namespaces, of which the channels use the best.
 * Main thread.
 */
import { TargetError } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { AdminPort } from '../admin.ts';
import type { ControllerEvents, ControllerState, NvmeController, TransportId } from '../controller.ts';
import type { ControllerIdentity, NamespaceIdentity } from '../identify.ts';
import type { FabricHost, TcpAddress } from './admin-queue.ts';
import { NAMESPACES_MAX, PATHS_MAX, PathTable } from './path-table.ts';
import { type ReconnectOptions, TcpPath } from './tcp-path.ts';

export interface TcpControllerOptions {
  readonly host: FabricHost;
  readonly reconnect: ReconnectOptions;
  readonly log: Logger;
}

export class TcpController implements NvmeController {
  readonly transportId: TransportId;
  readonly channelKind = 'nvme-tcp';
  readonly paths: TcpPath[] = [];
  namespaces: readonly NamespaceIdentity[] = [];
  /** Where each path leads; the first is `transportId`. */
  readonly pathIds: TransportId[] = [];
  readonly #options: TcpControllerOptions;
  readonly #events: ControllerEvents;
  readonly #table = new PathTable();
  /** Places of namespaces in the table, for good. */
  readonly #places = new Map<number, number>();
  #isClosed = false;

  private constructor(id: TransportId, options: TcpControllerOptions, events: ControllerEvents) {
    this.transportId = id;
    this.#options = options;
    this.#events = events;
  }

  /** Connects the first path. Throws why that cannot be. */
  static async connect(
    id: TransportId,
    target: TcpAddress,
    options: TcpControllerOptions,
    events: ControllerEvents,
  ): Promise<TcpController> {
    const controller = new TcpController(id, options, events);
    await controller.addPath(id, target);
    void controller.#hearFaults();
    return controller;
  }

  /** Another way to the same subsystem. */
  async addPath(id: TransportId, target: TcpAddress): Promise<void> {
    const index = Array.from({ length: PATHS_MAX }, (_, i) => i).find(
      (i) => !this.paths.some((path) => path.index === i),
    );
    if (index === undefined) throw new TargetError('ENOSPC', `a controller has at most ${PATHS_MAX} paths`);
    if (this.paths.some(({ target: { address, port } }) => address === target.address && port === target.port)) {
      throw new TargetError('EEXIST', `the path by ${target.address} port ${target.port} is there already`);
    }
    const { host, reconnect, log } = this.#options;
    const events = {
      onChange: () => this.#changed(),
      onGone: (path: TcpPath, reason: string) => this.#pathGone(path, reason),
    };
    const path = new TcpPath(index, target, { table: this.#table, host, reconnect, events, log });
    this.paths.push(path);
    this.pathIds.push(id);
    try {
      await path.connect();
      if (this.paths.length > 1) checkSame(path, this.namespaces);
    } catch (error) {
      this.#drop(path);
      await path.close();
      throw error;
    }
    this.#changed();
  }

  /** Takes a path away; its requests go on by another. Throws `ENODEV` when there is no such path. */
  async removePath(address: string, port: number | undefined): Promise<void> {
    const path = this.paths.find(
      ({ target }) => target.address === address && (port === undefined || target.port === port),
    );
    if (path === undefined) throw new TargetError('ENODEV', `there is no path by ${address}`);
    this.#drop(path);
    await path.close();
  }

  get state(): ControllerState {
    if (this.#isClosed) return 'deleting';
    if (this.paths.some((path) => path.isUp)) return 'enabled';
    return this.paths.every((path) => path.isGone) ? 'failed' : 'resetting';
  }

  get identity(): ControllerIdentity {
    const known = this.paths.find((path) => path.isUp) ?? this.paths[0];
    if (known === undefined || known.identity === null) throw new TargetError('ENODEV', 'the controller has no path');
    return known.identity;
  }

  readonly admin: AdminPort = {
    execute: (command, readBytes) => {
      const up = this.paths.find((path) => path.isUp);
      if (up === undefined || up.admin === null) {
        return Promise.reject(new TargetError('EIO', 'the target is not connected: it is tried again and again'));
      }
      return up.admin.execute(command, readBytes);
    },
  };

  channelParams(nsid: number) {
    const { host } = this.#options;
    const { hostNqn, hostId, subsystemNqn, headerDigest, dataDigest } = host;
    const place = this.#place(nsid);
    return { nsid, place, table: this.#table.memory, hostNqn, hostId, subsystemNqn, headerDigest, dataDigest };
  }

  async reset(): Promise<void> {
    const associations = this.paths.map(({ index }) => this.#table.association(index));
    for (const path of this.paths) path.reset('reset by the operator');
    for (const [i, { index }] of this.paths.entries()) {
      while (this.#table.association(index) === associations[i] && this.paths[i]?.isGone === false) {
        const { changes } = this.#table;
        if (this.#table.association(index) === associations[i]) await this.#table.changed(changes);
      }
    }
    if (this.state !== 'enabled') throw new TargetError('EIO', 'the controller does not come back');
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#table.announceFault();
    await Promise.all(this.paths.map((path) => path.close()));
  }

  #place(nsid: number): number {
    const known = this.#places.get(nsid);
    if (known !== undefined) return known;
    const place = this.#places.size;
    // Beyond the table's places an access state is not known: every path will do.
    if (place < NAMESPACES_MAX) this.#places.set(nsid, place);
    return place;
  }

  async #hearFaults(): Promise<void> {
    while (!this.#isClosed) {
      const { faults } = this.#table;
      // What one path does not lead to any more, another may lead to now.
      const isDoubted = this.paths.map((path) => path.faulted()).includes(true);
      if (isDoubted) for (const path of this.paths) path.doubtAccess();
      await this.#table.faulted(faults);
    }
  }

  /** A path is there, or what it leads to changed. */
  #changed(): void {
    const table = this.#table;
    for (const path of this.paths) {
      for (const { nsid } of path.namespaces) table.setAccess(path.index, this.#place(nsid), path.access(nsid));
    }
    table.announce();
    const before = this.namespaces;
    const up = this.paths.find((path) => path.isUp);
    if (up === undefined) return;
    // A namespace that is another one now under the old number is not the disk that it was.
    this.namespaces = up.namespaces.filter((now) => {
      const old = before.find(({ nsid }) => nsid === now.nsid);
      if (old === undefined || isSame(old, now)) return true;
      this.#options.log.error(`namespace ${now.nsid} of ${this.#options.host.subsystemNqn} is another one now`);
      return false;
    });
    this.#events.onNamespaces();
  }

  #drop(path: TcpPath): void {
    const at = this.paths.indexOf(path);
    if (at < 0) return;
    this.paths.splice(at, 1);
    this.pathIds.splice(at, 1);
  }

  #pathGone(path: TcpPath, reason: string): void {
    this.#options.log.error(`the path by ${path.target.address} port ${path.target.port} is given up: ${reason}`);
    if (this.paths.every(({ isGone }) => isGone)) this.#events.onGone(reason);
    else {
      // It can be added again.
      this.#drop(path);
      void path.close();
    }
  }
}

function isSame(one: NamespaceIdentity, other: NamespaceIdentity): boolean {
  return one.uuid === other.uuid && one.nguid === other.nguid && one.eui64 === other.eui64;
}

/** Throws unless a path leads to what the others lead to. */
function checkSame(path: TcpPath, namespaces: readonly NamespaceIdentity[]): void {
  for (const known of namespaces) {
    const found = path.namespaces.find(({ nsid }) => nsid === known.nsid);
    if (found !== undefined && !isSame(found, known)) {
      throw new TargetError('EINVAL', `namespace ${known.nsid} is another one by ${path.target.address}`);
    }
  }
}
