/**
 * All bdevs by name. Whoever serves a bdev opens it here and is told when it changes size or goes away; a bdev is
 * destructed only after every user has let go.
 */

import { EventEmitter } from 'node:events';
import { withinDeadline } from '../base/deadline.ts';
import { TargetError } from '../base/errors.ts';
import { REMOVAL_MS_MAX } from '../base/limits.ts';
import type { Bdev, BdevConfig, BdevDescription, Handover, Inheritance } from './bdev.ts';
import { createStats, statsRows } from './bdev-stats.ts';
import { createLimits } from './fair-shares.ts';
import { NO_LIMITS, type RateLimits, RateStores } from './rate-limits.ts';

/** A controller or a stacked bdev. */
export interface BdevUser {
  /** The bdev has a new size or place. Resolve when every reactor uses the new description. */
  bdevChanged(entry: BdevEntry): Promise<void>;
  /** The bdev is going away. Resolve when nothing is in flight on it and every channel is closed. */
  bdevRemoved(entry: BdevEntry): Promise<void>;
}

/** What a stacked bdev stands on. */
export interface Foundation {
  readonly bases: readonly BdevEntry[];
  /** Who claims them. Default: the new bdev; its parts do so together when a base is cut into several. */
  readonly holder?: string;
  /** Who hears of their changes. Default, which it is given: the new bdev changes with them, and goes with any. */
  readonly user?: (entry: BdevEntry, standard: BdevUser) => BdevUser;
  /** Whether the bdev goes on without a base. Default: no. */
  readonly canLose?: (base: BdevEntry) => boolean;
}

/** A registered bdev. */
export class BdevEntry {
  readonly id: number;
  readonly bdev: Bdev;
  readonly stats: SharedArrayBuffer;
  /** Of a stacked bdev: what it claims. */
  bases: readonly BdevEntry[];
  /** Of a stacked bdev: who hears of the bases. */
  baseUser: BdevUser | null = null;
  canLose: (base: BdevEntry) => boolean = () => false;
  readonly users = new Set<BdevUser>();
  /** Who has the bdev for itself: a stacked bdev, or the parts of one. */
  holder: string | null = null;
  isRemoving = false;
  /** Set while it is taken from its users. */
  removal: Promise<void> | null = null;
  /** Lets go of the bases. */
  release: () => void = () => {};
  #limits = NO_LIMITS;
  #limitMemory: SharedArrayBuffer | null = null;

  constructor(id: number, bdev: Bdev, stats: SharedArrayBuffer, bases: readonly BdevEntry[] = []) {
    this.id = id;
    this.bdev = bdev;
    this.stats = stats;
    this.bases = bases;
  }

  /** Of it, or of what it stands on, only one channel can be open. */
  get isExclusive(): boolean {
    return this.bdev.isExclusive === true || this.bases.some((base) => base.isExclusive);
  }

  get limits(): RateLimits {
    return this.#limits;
  }

  /** Reactors see them once they are told of a change. */
  setLimits(limits: RateLimits): void {
    this.#limits = limits;
    this.#limitMemory ??= createLimits(statsRows(this.stats));
    new RateStores(this.#limitMemory).set(limits);
  }

  /** Throws `EPERM` when a stacked bdev claims it: what writes past that one would destroy it. */
  checkUnclaimed(): void {
    if (this.holder === null) return;
    throw new TargetError('EPERM', `bdev "${this.name}" is claimed by "${this.holder}": use that one, or delete it`);
  }

  /** Throws `EPERM` when others use it. */
  checkClaim(holder: string): void {
    if (this.holder === holder) return;
    this.checkUnclaimed();
    if (this.users.size === 0) return;
    throw new TargetError(
      'EPERM',
      `bdev "${this.name}" is in use: delete its controllers before "${holder}" claims it`,
    );
  }

  /** After `checkClaim`. */
  claim(holder: string, user: BdevUser): void {
    this.holder = holder;
    this.users.add(user);
  }

  unclaim(user: BdevUser): void {
    this.users.delete(user);
    if (this.users.size === 0) this.holder = null;
  }

  get name(): string {
    return this.bdev.name;
  }

  get sizeBytes(): number {
    return this.bdev.blockCount * this.bdev.blockSizeBytes;
  }

  describe(): BdevDescription {
    const { id, bdev, stats } = this;
    return {
      id,
      name: bdev.name,
      kind: bdev.kind,
      blockSizeBytes: bdev.blockSizeBytes,
      blockCount: bdev.blockCount,
      hasWriteCache: bdev.hasWriteCache,
      ioTypes: [...bdev.ioTypes],
      unmapReadsZeroes: bdev.unmapReadsZeroes ?? false,
      params: bdev.params(),
      limits: this.#limitMemory,
      bases: this.bases.map((base) => base.describe()),
      isRemoved: this.isRemoving,
      stats,
    };
  }
}

/** A bdev on its way to the next daemon. */
export interface BdevHandover {
  readonly name: string;
  readonly handover: Handover;
}

/** See `Handover.settle`. Throws `ETIMEDOUT` when that takes longer. */
export async function settleAll(handovers: readonly BdevHandover[], limitMs: number): Promise<void> {
  const settling = handovers.map(async ({ name, handover }) => {
    const late = () => new TargetError('ETIMEDOUT', `bdev "${name}" is not ready to be handed over in time`);
    await withinDeadline(Promise.resolve(handover.settle?.()), limitMs, late);
  });
  await Promise.all(settling);
}

const ALONE: Foundation = { bases: [] };

interface RegistryEvents {
  created: [BdevEntry];
  deleted: [BdevEntry];
  /** Before bdevs are deleted that nobody asked to delete: their device is gone. The calls would make them again. */
  gone: [entries: readonly BdevEntry[], calls: readonly BdevConfig[]];
}

export class BdevRegistry extends EventEmitter<RegistryEvents> {
  readonly #entries = new Map<string, BdevEntry>();
  readonly #reactorCount: number;
  /** Awaited by what changed by itself, and must be found so by a daemon that starts again. */
  keepChange: () => Promise<void> = async () => {};
  /** By bdev: what the daemon before had. */
  readonly #inherited = new Map<string, Inheritance>();
  readonly #heirs = new Set<string>();
  #nextId = 1;

  constructor(reactorCount: number) {
    super();
    this.#reactorCount = reactorCount;
  }

  /**
   * A stacked bdev claims its bases: it hears of their changes, and goes with them. Throws, before `make` is called,
   * `EEXIST` when the name or UUID is taken, `EPERM` when a base is.
   */
  create(
    name: string,
    uuid: string | undefined,
    make: () => Bdev,
    { bases, holder = name, user, canLose }: Foundation = ALONE,
  ): BdevEntry {
    this.checkFree(name, uuid);
    for (const base of bases) base.checkClaim(holder);
    const entry = new BdevEntry(this.#nextId++, make(), createStats(this.#reactorCount), bases);
    this.#entries.set(name, entry);
    const standard: BdevUser = {
      bdevChanged: () => this.changed(entry),
      bdevRemoved: () => this.#takeAway(entry),
    };
    const baseUser = user?.(entry, standard) ?? standard;
    entry.baseUser = baseUser;
    if (canLose !== undefined) entry.canLose = canLose;
    for (const base of bases) base.claim(holder, baseUser);
    entry.release = () => {
      for (const base of entry.bases) base.unclaim(baseUser);
    };
    this.emit('created', entry);
    return entry;
  }

  /** A stacked bdev stands on one more. Throws `EPERM` when that one is claimed, or in use. */
  addBase(entry: BdevEntry, base: BdevEntry): void {
    base.checkClaim(entry.name);
    base.claim(entry.name, entry.baseUser as BdevUser);
    entry.bases = [...entry.bases, base];
    this.#moveToEnd(entry);
  }

  /** Nothing of the stacked bdev is in flight on it. */
  dropBase(entry: BdevEntry, base: BdevEntry): void {
    base.unclaim(entry.baseUser as BdevUser);
    entry.bases = entry.bases.filter((one) => one !== base);
  }

  /** With what stands on it, so that in the list bases come before what stands on them. */
  #moveToEnd(entry: BdevEntry): void {
    this.#entries.delete(entry.name);
    this.#entries.set(entry.name, entry);
    for (const other of this.list()) if (other.bases.includes(entry)) this.#moveToEnd(other);
  }

  /** Throws `EEXIST` when the name or UUID is taken. */
  checkFree(name: string, uuid: string | undefined): void {
    for (const taken of uuid === undefined ? [name] : [name, uuid.toLowerCase()]) {
      if (this.find(taken) !== undefined) {
        throw new TargetError('EEXIST', `a bdev "${taken}" exists already: choose another name or delete it first`);
      }
    }
  }

  /** By name, UUID or alias. */
  find(name: string): BdevEntry | undefined {
    const byName = this.#entries.get(name);
    if (byName !== undefined) return byName;
    const lower = name.toLowerCase();
    return this.list().find(({ bdev }) => bdev.uuid === lower || bdev.alias === name);
  }

  /** Throws `ENODEV` when there is none, or it is being deleted. */
  get(name: string): BdevEntry {
    const entry = this.find(name);
    if (entry === undefined || entry.isRemoving) {
      throw new TargetError('ENODEV', `there is no bdev "${name}": bdev_get_bdevs lists those there are`);
    }
    return entry;
  }

  /** In the order of creation. */
  list(): BdevEntry[] {
    return [...this.#entries.values()];
  }

  /** Tells every user of a new size or place. */
  async changed(entry: BdevEntry): Promise<void> {
    await Promise.all([...entry.users].map((user) => user.bdevChanged(entry)));
  }

  /**
   * Takes the bdev away from its users, then destructs it: the one way out, whether an operator deletes it or its
   * module finds that its device is gone. Throws `ETIMEDOUT` when its module does not end what is in flight: then it
   * goes as soon as that is over.
   */
  async delete(entry: BdevEntry): Promise<void> {
    if (entry.isRemoving) throw new TargetError('ENODEV', `bdev "${entry.name}" is already being deleted`);
    await withinDeadline(
      this.#takeAway(entry),
      REMOVAL_MS_MAX,
      () =>
        new TargetError(
          'ETIMEDOUT',
          `bdev "${entry.name}" still works on requests after ${REMOVAL_MS_MAX / 1000} s: new ones are refused, ` +
            'and it goes when they are over',
        ),
    );
  }

  /** For operators: nothing of it is left. */
  async deleteForGood(entry: BdevEntry): Promise<void> {
    await this.delete(entry);
    entry.bdev.forget?.();
  }

  /** A stacked bdev goes when it is deleted itself, and when one of its bases is. */
  #takeAway(entry: BdevEntry): Promise<void> {
    entry.isRemoving = true;
    entry.removal ??= this.#remove(entry);
    return entry.removal;
  }

  async #remove(entry: BdevEntry): Promise<void> {
    await Promise.all([...entry.users].map((user) => user.bdevRemoved(entry)));
    entry.users.clear();
    this.#entries.delete(entry.name);
    await entry.bdev.destruct();
    entry.release();
    this.emit('deleted', entry);
  }

  /** To be called before bdevs are deleted that nobody asked to delete. `calls` would make them again. */
  announceGone(entries: readonly BdevEntry[], calls: readonly BdevConfig[]): void {
    const all = new Set(entries);
    // What stands on them goes with them, and comes after them in the list.
    for (const entry of this.list())
      if (entry.bases.some((base) => all.has(base) && !entry.canLose(base))) all.add(entry);
    const stacked = [...all].filter((entry) => !entries.includes(entry));
    this.emit('gone', [...all], [...calls, ...stacked.flatMap(({ bdev }) => bdev.toConfig())]);
  }

  /**
   * With what the next daemon has the same disks. `tell` resolves when every reactor has the new description of one.
   * Throws when one cannot be handed over; those that could are kept then.
   */
  async handOver(tell: (entry: BdevEntry) => Promise<void>): Promise<BdevHandover[]> {
    const handovers: BdevHandover[] = [];
    try {
      for (const entry of this.list()) {
        const { name, bdev, isRemoving } = entry;
        if (isRemoving) throw new TargetError('EBUSY', `bdev "${name}" is being deleted`);
        if (bdev.handOver === undefined) {
          const advice = 'restart the daemon instead, or delete the disk first';
          throw new TargetError('ENOTSUP', `bdev "${name}": two daemons cannot have a ${bdev.productName}: ${advice}`);
        }
        handovers.push({ name, handover: await bdev.handOver(() => tell(entry)) });
      }
    } catch (error) {
      for (const { handover } of handovers) handover.keep?.();
      throw error;
    }
    return handovers;
  }

  /** See `Bdev.freeze`. */
  async freeze(): Promise<void> {
    for (const { bdev } of this.list()) await bdev.freeze?.();
  }

  async thaw(): Promise<void> {
    this.#heirs.clear();
    for (const { bdev } of this.list()) await bdev.thaw?.();
  }

  /** A bdev of this name, when it is made, has this of the daemon before. */
  inherit(name: string, inheritance: Inheritance): void {
    this.#heirs.add(name);
    this.#inherited.set(name, inheritance);
  }

  /** Once: whether the daemon before has a bdev of this name, and still works with it. */
  isInherited(name: string): boolean {
    return this.#heirs.delete(name);
  }

  /** Once, for whoever makes it. */
  takeInherited(name: string): Inheritance | undefined {
    const inheritance = this.#inherited.get(name);
    this.#inherited.delete(name);
    return inheritance;
  }

  /** A default name: the prefix and the lowest number not yet given. */
  nextName(prefix: string): string {
    for (let number = 0; ; number++) {
      if (this.find(`${prefix}${number}`) === undefined) return `${prefix}${number}`;
    }
  }
}

/** A bdev in use may only grow: throws `EBUSY` otherwise, as SPDK does. */
export function checkResize(entry: BdevEntry, blockCount: number): void {
  if (blockCount < entry.bdev.blockCount && entry.users.size > 0) {
    throw new TargetError(
      'EBUSY',
      `bdev "${entry.name}" is in use and can only grow: delete its controllers to shrink it`,
    );
  }
}
