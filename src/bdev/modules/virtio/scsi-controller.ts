/**
 * A controller over another vhost-user-scsi target: the main thread is its front-end, finds its units by a scan, and
 * makes a disk of each: `NAMEt0` is LUN 0 of target 0, `NAMEt0l1` LUN 1. What the target tells of units that come, go
 * or change is followed.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import type { RegionDescription } from '../../../initiator/owned-memory.ts';
import type { ScsiEvent } from '../../../initiator/scsi-request.ts';
import type { VhostUserFrontend } from '../../../initiator/vhost-user-frontend.ts';
import { maskOf } from '../../../vhost-user/messages.ts';
import { SCSI_TARGETS_MAX, ScsiEventType, ScsiFeature, ScsiQueueIndex, ScsiResetReason } from '../../../virtio/scsi.ts';
import type { BdevConfig } from '../../bdev.ts';
import type { BdevEntry, BdevRegistry } from '../../registry.ts';
import { SCSI_FORM } from './layout.ts';
import { Link, type LinkDevice, type Negotiated, type VirtioParams } from './link.ts';
import { isSameUnit, VirtioScsiBdev } from './scsi-disk.ts';
import { ScsiManagement } from './scsi-management.ts';
import { scanTarget, type UnitAddress, type UnitIdentity } from './scsi-scan.ts';

const TIMEOUT_MS = 10_000;
/** While a disk is missing, its target is looked at so often. */
const MISSING_MS = 1000;
const ALL_TARGETS = Array.from({ length: SCSI_TARGETS_MAX }, (_, target) => target);

interface Found {
  /** Keys of all units, whether or not they are disks. */
  readonly keys: Set<string>;
  readonly disks: UnitIdentity[];
}

export class VirtioScsiController implements LinkDevice {
  readonly name: string;
  readonly form = SCSI_FORM;
  readonly features = maskOf(ScsiFeature.HOTPLUG, ScsiFeature.CHANGE);
  readonly queuesWithoutMq = ScsiQueueIndex.requestFirst + 1;
  /** By `keyOf`. */
  readonly disks = new Map<string, BdevEntry>();
  readonly #params: VirtioParams;
  readonly #registry: BdevRegistry;
  readonly #log: Logger;
  readonly #link: Link;
  /** Of the connection, or of the last attempt at one. */
  #management: ScsiManagement | null = null;
  /** The target has a request queue more than the reactors use. */
  #hasOwnQueue = false;
  /** By the scan of a new connection. */
  #found: Found | null = null;
  /** Targets that are to be looked at. */
  readonly #stale = new Set<number>();
  /** One change after another. */
  #work: Promise<void> = Promise.resolve();
  #isWatchingMissing = false;
  /** Units that cannot be disks, as they were logged. */
  readonly #refused = new Set<string>();
  isDetaching = false;

  constructor(params: VirtioParams, registry: BdevRegistry, log: Logger) {
    this.name = params.name;
    this.#params = params;
    this.#registry = registry;
    this.#log = log;
    this.#link = new Link(params, this);
  }

  get path(): string {
    return this.#params.path;
  }

  get regions(): readonly RegionDescription[] {
    return this.#management?.regions ?? [];
  }

  get queues(): { readonly queueCount: number; readonly queueSize: number; readonly isConnected: boolean } {
    return this.#link;
  }

  toConfig(): BdevConfig {
    const { queueCount, queueSize } = this.#link;
    const queues = { vq_count: queueCount, vq_size: queueSize };
    return {
      method: 'bdev_virtio_attach_controller',
      params: { name: this.name, trtype: 'user', traddr: this.path, dev_type: 'scsi', ...queues },
    };
  }

  /** Connects, scans and makes the disks. Nothing is left when it throws. Resolves with the names of the disks. */
  async attach(): Promise<string[]> {
    try {
      await this.#link.connect();
      await this.#enqueue(() => this.#matchDisks(this.#takeFound(), ALL_TARGETS, false));
    } catch (error) {
      await this.close();
      throw error;
    }
    return [...this.disks.values()].map(({ name }) => name);
  }

  /** Every disk is gone. */
  async close(): Promise<void> {
    this.isDetaching = true;
    this.#management?.close();
    await this.#link.close();
  }

  // What the link asks and tells.

  async check({ frontend, queuesMax }: Negotiated): Promise<number> {
    const { queueCount } = this.#link;
    const requestQueues = queuesMax - ScsiQueueIndex.requestFirst;
    if (queueCount > requestQueues) {
      throw new TargetError(
        'EINVAL',
        `${this.path} has ${Math.max(0, requestQueues)} request queues, not the ${queueCount} of vq_count`,
      );
    }
    // One more for the main thread, where there is one.
    this.#hasOwnQueue = queueCount < requestQueues;
    const management = new ScsiManagement(this.#params.timeoutMs ?? TIMEOUT_MS, (event) => this.#onEvent(event));
    this.#management = management;
    void frontend.closed.then(() => management.close());
    return ScsiQueueIndex.requestFirst + (this.#hasOwnQueue ? 1 : 0);
  }

  async begin(frontend: VhostUserFrontend): Promise<void> {
    const management = this.#management as ScsiManagement;
    await management.start(frontend);
    this.#found = await this.#scan(management, ALL_TARGETS);
    if (!this.#hasOwnQueue) await management.giveQueue(frontend);
  }

  configChanged(): void {
    this.#look(ALL_TARGETS);
  }

  unitsChanged(): void {
    this.#look(ALL_TARGETS);
  }

  refused(reason: string): void {
    this.#log.error(`virtio controller ${this.name}: ${reason}`);
  }

  ended(reason: string): void {
    if (this.isDetaching) return;
    this.#log.warn(`virtio controller ${this.name}: its target at ${this.path} is away (${reason}): requests wait`);
    this.#later(() => this.#reconnect());
  }

  async #reconnect(): Promise<void> {
    await this.#tellDisks();
    this.#stale.clear();
    await this.#link.reconnect();
    if (this.isDetaching) return;
    this.#log.info(`virtio controller ${this.name}: its target at ${this.path} is back`);
    await this.#matchDisks(this.#takeFound(), ALL_TARGETS, true);
    await this.#tellDisks();
  }

  #onEvent({ type, hasMissed, target, lun, reason }: ScsiEvent): void {
    if (hasMissed || target < 0) this.#look(ALL_TARGETS);
    else if (type === ScsiEventType.TRANSPORT_RESET && reason === ScsiResetReason.REMOVED) {
      this.#later(() => this.#removed({ target, lun }));
    } else if (type !== ScsiEventType.NO_EVENT) this.#look([target]);
  }

  async #removed(address: UnitAddress): Promise<void> {
    const disk = this.disks.get(keyOf(address));
    if (disk !== undefined) await this.#delete(disk, 'the target took it away');
  }

  /** Has targets scanned, however often it is asked for meanwhile. */
  #look(targets: readonly number[]): void {
    if (this.isDetaching || !this.#link.isConnected) return;
    const isNew = this.#stale.size === 0;
    for (const target of targets) this.#stale.add(target);
    if (isNew) this.#later(() => this.#rescan());
  }

  async #rescan(): Promise<void> {
    const targets = [...this.#stale];
    this.#stale.clear();
    const management = this.#management;
    if (this.isDetaching || !this.#link.isConnected || management === null) return;
    if (!management.canAsk) {
      this.#log.warn(
        `virtio controller ${this.name}: units of its target changed. All its request queues are in use, so it ` +
          'cannot be scanned: attach it with a smaller vq_count, or detach and attach it',
      );
      return;
    }
    const found = await this.#scan(management, targets);
    await this.#matchDisks(found, targets, false);
  }

  async #scan(management: ScsiManagement, targets: readonly number[]): Promise<Found> {
    const found: Found = { keys: new Set(), disks: [] };
    for (const target of targets) {
      const { luns, disks, refused } = await scanTarget((...what) => management.ask(...what), target);
      for (const lun of luns) found.keys.add(keyOf({ target, lun }));
      found.disks.push(...disks);
      for (const text of refused) {
        if (!this.#refused.has(text)) this.#log.warn(`virtio controller ${this.name}: ${text}: it is not served`);
        this.#refused.add(text);
      }
    }
    return found;
  }

  #takeFound(): Found {
    const found = this.#found ?? { keys: new Set<string>(), disks: [] };
    this.#found = null;
    return found;
  }

  /**
   * Makes the disks what the targets have. `isEarly`: the target has only just come back, and may not have all of its
   * units yet: the others wait for theirs.
   */
  async #matchDisks(found: Found, targets: readonly number[], isEarly: boolean): Promise<void> {
    for (const [key, disk] of this.disks) {
      const bdev = disk.bdev as VirtioScsiBdev;
      if (!targets.includes(bdev.unit.target) || disk.isRemoving) continue;
      if (!found.keys.has(key)) {
        if (isEarly || !bdev.isPresent) this.#miss(bdev);
        else await this.#delete(disk, 'its unit is gone');
      }
    }
    for (const unit of found.disks) {
      if (this.isDetaching) return;
      const disk = this.disks.get(keyOf(unit));
      if (disk === undefined) this.#add(unit);
      else if (!disk.isRemoving) await this.#compare(disk, unit);
    }
  }

  #miss(bdev: VirtioScsiBdev): void {
    if (bdev.isPresent) this.#log.warn(`bdev ${bdev.name}: its target is back without it: its requests wait`);
    bdev.isPresent = false;
    if (!this.#isWatchingMissing) void this.#watchMissing();
  }

  async #watchMissing(): Promise<void> {
    this.#isWatchingMissing = true;
    const isMissing = (disk: BdevEntry): boolean => !(disk.bdev as VirtioScsiBdev).isPresent;
    while (!this.isDetaching && this.#hasOwnQueue && [...this.disks.values()].some(isMissing)) {
      await sleep(MISSING_MS, undefined, { ref: false });
      this.#look([...this.disks.values()].filter(isMissing).map((disk) => (disk.bdev as VirtioScsiBdev).unit.target));
      await this.#work;
    }
    this.#isWatchingMissing = false;
  }

  async #compare(disk: BdevEntry, unit: UnitIdentity): Promise<void> {
    const bdev = disk.bdev as VirtioScsiBdev;
    if (!isSameUnit(bdev.unit, unit)) {
      await this.#delete(disk, 'another unit is in its place');
      this.#add(unit);
      return;
    }
    const isNews = !bdev.isPresent || unit.blockCount > bdev.blockCount;
    bdev.isPresent = true;
    // A unit that is smaller now refuses what is beyond its end by itself.
    bdev.blockCount = Math.max(bdev.blockCount, unit.blockCount);
    if (isNews) await this.#registry.changed(disk);
  }

  #add(unit: UnitIdentity): void {
    const name = `${this.name}${keyOf(unit)}`;
    try {
      const bdev = new VirtioScsiBdev(name, this.path, unit, () => this.#link.params());
      this.disks.set(
        keyOf(unit),
        this.#registry.create(name, bdev.uuid, () => bdev),
      );
    } catch (error) {
      this.#log.error(`${name} is not served: ${(error as Error).message}`);
    }
  }

  async #delete(disk: BdevEntry, reason: string): Promise<void> {
    if (disk.isRemoving) return;
    this.#log.warn(`bdev ${disk.name}: ${reason}, so the bdev goes too`);
    this.#registry.announceGone([disk], []);
    await this.#registry.delete(disk);
  }

  /** Of the connection: every channel knows when this resolves. */
  async #tellDisks(): Promise<void> {
    await Promise.all([...this.disks.values()].map((disk) => this.#registry.changed(disk)));
  }

  #enqueue(work: () => Promise<void>): Promise<void> {
    const done = this.#work.then(work);
    this.#work = done.catch(() => undefined);
    return done;
  }

  #later(work: () => Promise<void>): void {
    this.#enqueue(work).catch((error: Error) => {
      if (!this.isDetaching) this.#log.error(`virtio controller ${this.name}: ${error.message}`);
    });
  }
}

/** As in the name of its disk. */
function keyOf({ target, lun }: UnitAddress): string {
  return lun === 0 ? `t${target}` : `t${target}l${lun}`;
}
