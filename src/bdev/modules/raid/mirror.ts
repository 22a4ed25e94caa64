/**
 * A mirror (raid1) on the main thread: its legs and their life. Reactors do the I/O (mirror-channel.ts) and say when a
 * leg failed; what they share is in mirror-state.ts, what the legs remember in superblock.ts. Changes are made one
 * after another.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../../../base/errors.ts';
import type { Logger } from '../../../base/log.ts';
import { type Bdev, type BdevConfig, type Handover, NOTHING_TO_HAND_OVER, type PlainParams } from '../../bdev.ts';
import { GUEST_IO_TYPES, IoStatus, IoType } from '../../bdev-io.ts';
import type { BlockAccess, BlockRange } from '../../block-access.ts';
import { JobControl } from '../../job-control.ts';
import type { Job, Jobs } from '../../jobs.ts';
import type { BdevEntry, BdevRegistry, BdevUser } from '../../registry.ts';
import { type Assembly, isMarked, readLeg, type Slot, usableBlocks } from './mirror-assembly.ts';
import { MirrorRecord } from './mirror-record.ts';
import { MirrorState, REGIONS_MAX } from './mirror-state.ts';
import { DATA_OFFSET_BYTES } from './superblock.ts';

/** Until every reactor has let go of a leg, or the record of the regions is free. */
const LOOK_AGAIN_MS = 2;

export interface MirrorServices {
  readonly registry: BdevRegistry;
  readonly blocks: BlockAccess;
  readonly jobs: Jobs;
  readonly log: Logger;
  /** Of `bdev_raid_set_options`. */
  readonly options: { mibPerSec: number };
  /** How often it is looked for regions that nobody writes to any more: twice that long they stay marked. */
  readonly sweepMs: number;
}

interface MirrorParams {
  readonly name: string;
  readonly hasSuperblock: boolean;
  /** The daemon before still works with it. */
  readonly isInherited: boolean;
}

export class MirrorBdev implements Bdev {
  readonly kind = 'mirror';
  readonly productName = 'Raid Volume';
  readonly level = 'raid1' as const;
  /** Legs come and go. */
  readonly hasWriteCache = true;
  readonly name: string;
  readonly uuid: string;
  readonly blockSizeBytes: number;
  readonly hasSuperblock: boolean;
  readonly state = new MirrorState();
  readonly slots: Slot[];
  readonly ioTypes: readonly IoType[];
  blockCount: number;
  readonly #services: MirrorServices;
  readonly #record: MirrorRecord | null;
  readonly #regionBlocks: number;
  readonly #dataOffset: number;
  #entry: BdevEntry | null = null;
  #rebuild: Job | null = null;
  /** Bits of the slots that it brings into line from its beginning on. */
  #rebuilding = 0;
  #timer: NodeJS.Timeout | null = null;
  #changes: Promise<unknown> = Promise.resolve();
  /** Of an upgrade. */
  #isFrozen: boolean;
  #offered = '';
  #isClosed = false;

  constructor({ name, hasSuperblock, isInherited }: MirrorParams, assembly: Assembly, services: MirrorServices) {
    this.name = name;
    this.uuid = assembly.uuid;
    this.blockSizeBytes = assembly.blockSizeBytes;
    this.blockCount = assembly.blockCount;
    this.hasSuperblock = hasSuperblock;
    this.slots = assembly.slots;
    this.#services = services;
    this.#isFrozen = isInherited;
    this.#regionBlocks = assembly.regionBytes / this.blockSizeBytes;
    this.#dataOffset = hasSuperblock ? DATA_OFFSET_BYTES / this.blockSizeBytes : 0;
    this.#record = hasSuperblock ? new MirrorRecord(this, assembly, services.blocks) : null;
    // Discarded blocks of legs that promise nothing would not be the same.
    const bdevs = this.legs.map(({ bdev }) => bdev);
    const canUnmap = bdevs.every((bdev) => bdev.unmapReadsZeroes === true);
    const types = GUEST_IO_TYPES.filter((type) => bdevs.every(({ ioTypes }) => ioTypes.includes(type)));
    const offered = types.filter((type) => type !== IoType.unmap || canUnmap);
    this.ioTypes = [...new Set<IoType>([...offered, IoType.flush, IoType.resync])];
    if (isInherited) this.#beginInherited();
    else this.#begin(assembly);
  }

  /** Those that there are. */
  get legs(): BdevEntry[] {
    return this.slots.flatMap(({ base }) => base ?? []);
  }

  get physicalBlockSizeBytes(): number {
    return Math.max(...this.legs.map(({ bdev }) => bdev.physicalBlockSizeBytes));
  }

  get unmapReadsZeroes(): boolean {
    return this.ioTypes.includes(IoType.unmap);
  }

  get regionCount(): number {
    return Math.ceil(this.blockCount / this.#regionBlocks);
  }

  params(): PlainParams {
    const slots = (this.#entry?.bases ?? this.legs).map((base) => this.slots.findIndex((slot) => slot.base === base));
    return {
      ...{ state: this.state.memory, regionBytes: this.#regionBlocks * this.blockSizeBytes },
      ...{ dataOffset: this.#dataOffset, hasLog: this.hasSuperblock, slots: slots.join() },
    };
  }

  /** Its legs are told apart from bases that take it with them. */
  user(entry: BdevEntry, standard: BdevUser): BdevUser {
    this.#entry = entry;
    return {
      bdevChanged: async () => {
        await standard.bdevChanged(entry);
        await this.#change(() => this.#grow());
      },
      bdevRemoved: (base) => (this.canLose(base) ? this.#loseLeg(base) : standard.bdevRemoved(base)),
    };
  }

  canLose(base: BdevEntry): boolean {
    const slot = this.slots.findIndex((one) => one.base === base);
    return this.#isClosed || (this.state.inSync & ~(1 << slot)) !== 0;
  }

  /** Once it is registered. Throws when the legs cannot be written: then it is to be deleted. */
  async start(): Promise<void> {
    if (this.#isFrozen) return;
    await this.#change(async () => {
      await this.#record?.writeAll();
      await this.#writeRecord();
    });
    this.#goOn();
  }

  driverSpecific(): Readonly<Record<string, unknown>> {
    return { raid: this.info() };
  }

  info() {
    const { hasSuperblock, slots, state } = this;
    const process = this.#rebuild?.state === 'running' ? this.#processInfo(this.#rebuild) : undefined;
    return {
      ...{ uuid: this.uuid, strip_size_kb: 0, state: 'online' as const, raid_level: this.level },
      ...{ superblock: hasSuperblock, num_base_bdevs: slots.length, num_base_bdevs_discovered: this.legs.length },
      num_base_bdevs_operational: slots.filter((_, i) => (state.inSync & (1 << i)) !== 0).length,
      ...(process === undefined ? {} : { process }),
      base_bdevs_list: slots.map(({ base, uuid, state: legState, reason }, i) => ({
        ...{ name: base?.name ?? null, uuid: uuid ?? '00000000-0000-0000-0000-000000000000' },
        ...{ is_configured: base !== null, data_offset: this.#dataOffset, data_size: this.blockCount },
        ...{ state: legState, failures: state.failuresOf(i), ...(reason === null ? {} : { reason }) },
      })),
    };
  }

  #processInfo({ control, spec }: Job) {
    const target = this.slots.find(({ state }) => state === 'rebuilding')?.base?.name ?? '';
    const percent = spec.totalBytes === 0 ? 100 : Math.floor((control.doneBytes / spec.totalBytes) * 100);
    return { type: 'rebuild', target, progress: { blocks: control.doneBytes / this.blockSizeBytes, percent } };
  }

  /** Without superblocks the first leg is right, next time. */
  toConfig(): BdevConfig {
    const { name, uuid, hasSuperblock, slots } = this;
    const isGood = ({ state }: Slot): number => (state === 'in_sync' ? 0 : 1);
    const present = slots.filter(({ base }) => base !== null);
    const ordered = hasSuperblock ? present : present.toSorted((a, b) => isGood(a) - isGood(b));
    const params = {
      ...{ name, uuid, raid_level: this.level, superblock: hasSuperblock },
      base_bdevs: ordered.map(({ base }) => base?.name),
      ...(present.length < slots.length && !hasSuperblock ? { num_base_bdevs: slots.length } : {}),
    };
    return { method: 'bdev_raid_create', params };
  }

  /** Throws `EBUSY` while a leg is being rebuilt. */
  handOver(): Handover {
    if (this.state.targets !== 0) {
      throw new TargetError('EBUSY', `bdev "${this.name}" is being rebuilt: wait for the end of it (bdev_get_jobs)`);
    }
    this.#offered = this.#membership();
    return NOTHING_TO_HAND_OVER;
  }

  async freeze(): Promise<void> {
    this.#isFrozen = true;
    await this.#changes;
    if (this.#membership() === this.#offered) return;
    throw new TargetError('EBUSY', `the legs of bdev "${this.name}" have changed meanwhile: try again`);
  }

  async thaw(): Promise<void> {
    if (!this.#isFrozen) return;
    const { log, blocks } = this.#services;
    const [leg] = this.legs;
    try {
      // What the daemon before has marked since is marked here, too.
      const found = this.#record === null || leg === undefined ? null : await readLeg(leg, blocks);
      if (found !== null) this.#setMarked(found.map);
    } catch (error) {
      log.error(`bdev ${this.name}: ${(error as Error).message}`);
    }
    this.#isFrozen = false;
    this.#goOn();
  }

  /** The main thread's own I/O with a leg failed, and it was taken out. */
  legLost(number: number, reason: string): void {
    this.#change(() => this.#legOut(number, 'failed', reason)).catch(this.#logError);
  }

  hear(what: unknown): void {
    const { failedSlot, status } = what as { readonly failedSlot: number; readonly status: number };
    const reason = status === IoStatus.gone ? 'its device is gone' : 'it failed a request';
    this.#change(() => this.#legOut(failedSlot, 'failed', reason)).catch(this.#logError);
  }

  /** Throws `EBUSY` when it is the only one with all of the data. */
  async removeLeg(base: BdevEntry): Promise<void> {
    if (!this.canLose(base)) {
      throw new TargetError(
        'EBUSY',
        `"${base.name}" is the last leg of "${this.name}" that is in sync: add another first`,
      );
    }
    await this.#loseLeg(base);
  }

  /** Throws `EINVAL` when it does not fit, `EPERM` when it is in use. Resolves when it is being rebuilt. */
  async addLeg(base: BdevEntry): Promise<void> {
    const { registry, blocks } = this.#services;
    await this.#change(async () => {
      if (this.#isFrozen) throw new TargetError('EBUSY', `bdev "${this.name}" is being handed over`);
      const number = this.#slotFor(base);
      this.#checkLeg(base);
      const found = await readLeg(base, blocks);
      const isKnown = this.#record?.knows(found, number) ?? false;
      if (found !== null && found.superblock.uuid !== this.uuid) {
        const text = `bdev "${base.name}" is of RAID disk "${found.superblock.name}" (${found.superblock.uuid})`;
        throw new TargetError('EINVAL', `${text}: erase it first (ringhost erase)`);
      }
      registry.addBase(this.#entry as BdevEntry, base);
      const slot = this.slots[number] as Slot;
      Object.assign(slot, { base, uuid: base.bdev.uuid, state: 'rebuilding', reason: null });
      // All of it, unless the record says which parts it can lack.
      if (!isKnown) for (let region = 0; region < this.regionCount; region++) this.state.setDirty(region);
      await registry.changed(this.#entry as BdevEntry);
      this.state.addTarget(number);
      await this.#record?.writeAll();
      await this.#writeRecord();
    });
    this.#startRebuild();
  }

  async destruct(): Promise<void> {
    this.#isClosed = true;
    if (this.#timer !== null) clearInterval(this.#timer);
    await this.#changes;
    await this.#rebuild?.ended;
    // One that is handed over is another daemon's.
    if (!this.#isFrozen) await this.#record?.close().catch(this.#logError);
  }

  /** Of the next `destruct`: nothing of the mirror stays on its legs. */
  clearSuperblocks(): void {
    this.#record?.clearAtClose();
  }

  readonly #logError = (error: Error): void => this.#services.log.error(`bdev ${this.name}: ${error.message}`);

  #begin({ map, remarks }: Assembly): void {
    const { log } = this.#services;
    for (const remark of remarks) log.warn(`bdev ${this.name}: ${remark}`);
    if (map === null) for (let region = 0; region < this.regionCount; region++) this.state.setDirty(region);
    else this.#setMarked(map);
    const isDirty = this.#dirtyRanges().length > 0;
    let isFirst = true;
    for (const [i, slot] of this.slots.entries()) {
      if (slot.base === null) continue;
      // After a crash the first one is right where they differ.
      if (slot.state === 'in_sync' && !isFirst && isDirty) slot.state = 'rebuilding';
      if (slot.state === 'in_sync') this.state.addInSync(i);
      else this.state.addTarget(i);
      if (slot.state === 'in_sync') isFirst = false;
    }
  }

  /** The daemon before hands over only what is in sync. */
  #beginInherited(): void {
    for (const [i, slot] of this.slots.entries()) {
      if (slot.base === null) continue;
      slot.state = 'in_sync';
      this.state.addInSync(i);
    }
    this.state.recorded = this.state.inSync;
  }

  #setMarked(map: Uint8Array): void {
    for (let region = 0; region < this.regionCount; region++) if (isMarked(map, region)) this.state.setDirty(region);
  }

  #goOn(): void {
    if (this.#record !== null && this.#timer === null) {
      this.#timer = setInterval(() => void this.sweep().catch(this.#logError), this.#services.sweepMs);
      this.#timer.unref();
    }
    this.#startRebuild();
  }

  #membership(): string {
    return JSON.stringify([
      this.slots.map(({ base, state }) => [base?.name, state]),
      this.state.inSync,
      this.blockCount,
    ]);
  }

  /** One change after the other. */
  #change<T>(work: () => Promise<T>): Promise<T> {
    const change = this.#changes.then(work);
    this.#changes = change.catch(() => undefined);
    return change;
  }

  /** A daemon that starts again finds it so. */
  async #keep(): Promise<void> {
    await this.#services.registry.keepChange().catch(this.#logError);
  }

  #slotFor(base: BdevEntry): number {
    const isFree = ({ base: leg, leaving }: Slot): boolean => leg === null && leaving === null;
    const own = this.slots.findIndex((slot) => isFree(slot) && slot.uuid === base.bdev.uuid);
    const free = own >= 0 ? own : this.slots.findIndex(isFree);
    if (free < 0)
      throw new TargetError('EINVAL', `bdev "${this.name}" has all of its ${this.slots.length} legs: remove one`);
    return free;
  }

  #checkLeg(base: BdevEntry): void {
    const { bdev, name } = base;
    const blocks = usableBlocks(base, this.hasSuperblock);
    if (bdev.blockSizeBytes !== this.blockSizeBytes) {
      const own = `"${this.name}" of ${this.blockSizeBytes}`;
      throw new TargetError('EINVAL', `bdev "${name}" has blocks of ${bdev.blockSizeBytes} bytes, ${own}`);
    }
    if (blocks < this.blockCount) {
      throw new TargetError(
        'EINVAL',
        `bdev "${name}" has room for ${blocks} blocks, and "${this.name}" has ${this.blockCount}`,
      );
    }
    const lacking = this.ioTypes.find(
      (type) => type < IoType.resync && type !== IoType.flush && !bdev.ioTypes.includes(type),
    );
    if (lacking === undefined && (!this.unmapReadsZeroes || bdev.unmapReadsZeroes === true)) return;
    throw new TargetError('EINVAL', `bdev "${name}" cannot do all that "${this.name}" offers: see supported_io_types`);
  }

  /** Because its bdev goes, or somebody wants it back. */
  async #loseLeg(base: BdevEntry): Promise<void> {
    const number = this.slots.findIndex((slot) => slot.base === base);
    if (number < 0) return;
    this.state.drop(number);
    await this.#change(() => this.#legOut(number, 'missing', null));
    await this.#untilLeft(number, base);
  }

  /**
   * A leg is in use no more: that is recorded, so that what it misses from now on can be answered, and then it is let
   * go.
   */
  async #legOut(number: number, state: SlotState, reason: string | null): Promise<void> {
    const slot = this.slots[number] as Slot;
    const { base } = slot;
    if (this.#isClosed || base === null || slot.state === 'failed' || slot.state === 'missing') return;
    const fate = reason === null ? 'is taken out' : `is taken out: ${reason}`;
    const left = this.slots.filter((_, i) => (this.state.inSync & (1 << i)) !== 0).length;
    this.#services.log.error(`bdev ${this.name}: leg ${number} (${base.name}) ${fate}; ${left} in sync`);
    Object.assign(slot, { state, reason });
    this.#rebuilding &= ~(1 << number);
    if (this.state.targets === 0) this.#rebuild?.control.cancel();
    await this.#writeRecord();
    void this.#untilLeft(number, base).catch(this.#logError);
  }

  /** Who waits for it meanwhile waits on. */
  async #writeRecord(): Promise<void> {
    const { state } = this;
    const { inSync } = state;
    // What drops out from here on is not recorded yet.
    const recorded = this.#record === null ? inSync : await this.#record.writeSuperblocks();
    await this.#keep();
    if (recorded !== null) state.recorded = recorded;
    else this.#services.log.error(`bdev ${this.name}: its legs cannot be written: what others miss ends with errors`);
  }

  /** Until no reactor has it open: then it is anybody's. */
  async #untilLeft(number: number, base: BdevEntry): Promise<void> {
    const slot = this.slots[number] as Slot;
    if (slot.base !== base) return;
    slot.leaving ??= this.#letGo(number, slot, base);
    await slot.leaving;
  }

  async #letGo(number: number, slot: Slot, base: BdevEntry): Promise<void> {
    const { registry } = this.#services;
    const entry = this.#entry as BdevEntry;
    slot.base = null;
    await registry.changed(entry);
    while (this.state.opened(number, 0) > 0) await sleep(LOOK_AGAIN_MS);
    registry.dropBase(entry, base);
    slot.leaving = null;
    await this.#keep();
  }

  #startRebuild(): void {
    const { jobs, options, blocks } = this.#services;
    if (this.#isClosed || this.#isFrozen || this.state.targets === 0 || this.#rebuild?.state === 'running') return;
    this.#rebuilding = this.state.targets;
    const ranges = this.#dirtyRanges();
    const totalBytes = ranges.reduce((sum, [, count]) => sum + count * this.blockSizeBytes, 0);
    const spec = { type: 'rebuild', bdev: this.name, totalBytes, mibPerSec: options.mibPerSec };
    this.#rebuild = jobs.start(spec, async (control) => {
      await blocks.transfer({ type: IoType.resync, target: this.#entry as BdevEntry, ranges }, control);
      if (!control.isCancelled) await this.#change(() => this.#promote());
    });
    void this.#rebuild.ended.then(() => this.#rebuildEnded()).catch(this.#logError);
  }

  /** What could not be rebuilt is taken out; the daemon that stops goes on with it when it starts again. */
  async #rebuildEnded(): Promise<void> {
    const { jobs, log } = this.#services;
    const job = this.#rebuild as Job;
    if (this.#isClosed || jobs.isClosing || this.#entry?.isRemoving === true) return;
    if (job.state === 'done') log.info(`bdev ${this.name}: rebuilt in ${Math.round(job.elapsedNs / 1e6)} ms`);
    else {
      const reason = `rebuilding it ${job.error === null ? 'was cancelled' : `failed: ${job.error}`}`;
      for (const [i] of this.slots.entries()) {
        if ((this.state.targets & this.#rebuilding & (1 << i)) === 0) continue;
        this.state.drop(i);
        await this.#change(() => this.#legOut(i, 'failed', reason));
      }
    }
    this.#startRebuild();
  }

  /** They have everything that the others have. */
  async #promote(): Promise<void> {
    for (const [i, slot] of this.slots.entries()) {
      if ((this.state.targets & this.#rebuilding & (1 << i)) === 0 || slot.base === null) continue;
      await this.#services.blocks.flush(slot.base);
      // A daemon that starts again may take it for being in sync from the moment in which that is written.
      this.state.recorded |= 1 << i;
      if (!this.state.promote(i)) continue;
      slot.state = 'in_sync';
    }
    if (this.isWhole) this.#record?.allInSync();
    await this.#record?.writeAll();
    await this.#writeRecord();
    // What nobody has written to need not be rebuilt again.
    await this.#sweep();
  }

  get isWhole(): boolean {
    return this.state.inSync === 2 ** this.slots.length - 1 && this.state.targets === 0;
  }

  #dirtyRanges(): BlockRange[] {
    const ranges: [number, number][] = [];
    for (let region = 0; region < this.regionCount; region++) {
      if (!this.state.isDirty(region)) continue;
      const first = region * this.#regionBlocks;
      const count = Math.min(this.#regionBlocks, this.blockCount - first);
      const last = ranges.at(-1);
      if (last !== undefined && last[0] + last[1] === first) last[1] += count;
      else ranges.push([first, count]);
    }
    return ranges;
  }

  /** Regions that were not written for a while, and are stable on all legs, are the same on all. */
  sweep(): Promise<void> {
    return this.#change(() => this.#sweep());
  }

  async #sweep(): Promise<void> {
    if (this.#isFrozen || this.#isClosed || !this.isWhole) return;
    const idle: number[] = [];
    for (let region = 0; region < this.regionCount; region++) if (this.state.isIdle(region)) idle.push(region);
    if (idle.length > 0) await this.#record?.clean(idle);
  }

  /** As large as the smallest leg; what is new is the same on all legs, because it is zeroed. */
  async #grow(): Promise<void> {
    const { blocks, log, registry } = this.#services;
    const blockCount = Math.min(...this.legs.map((base) => usableBlocks(base, this.hasSuperblock)));
    if (blockCount <= this.blockCount || !this.isWhole || this.#isFrozen) return;
    if (Math.ceil(blockCount / this.#regionBlocks) > REGIONS_MAX || !this.ioTypes.includes(IoType.writeZeroes)) {
      log.warn(`bdev ${this.name}: its legs have grown, and it cannot: they cannot write zeroes, or it is too large`);
      return;
    }
    const added: BlockRange = [this.#dataOffset + this.blockCount, blockCount - this.blockCount];
    for (const target of this.legs) {
      await blocks.transfer({ type: IoType.writeZeroes, target, ranges: [added] }, new JobControl());
    }
    this.blockCount = blockCount;
    await this.#writeRecord();
    await registry.changed(this.#entry as BdevEntry);
  }
}

type SlotState = Slot['state'];
