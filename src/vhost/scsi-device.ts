/**
 * A vhost-user-scsi controller in its reactor: up to 256 SCSI targets, shared by the controller's queues, and what its
 * driver has to be told. It lives as long as the controller; sessions come and go.
 */
import { REMOVAL_DRAIN_MS_MAX } from '../base/limits.ts';
import type { BdevDescription } from '../bdev/bdev.ts';
import { IoType } from '../bdev/bdev-io.ts';
import type { BdevChannel } from '../bdev/channel.ts';
import type { Sharer } from '../bdev/fair-shares.ts';
import type { BouncePool } from '../scsi/bounce-pool.ts';
import { type ManagementRequest, ScsiTarget } from '../scsi/target.ts';
import type { UnitRecord } from '../scsi/unit-state.ts';
import {
  NO_LUN,
  SCSI_CAPACITY_CHANGED,
  SCSI_TARGETS_MAX,
  ScsiEventType,
  ScsiResetReason,
  ScsiResponse,
  ScsiTmf,
} from '../virtio/scsi.ts';
import type { ChannelTable } from './channel-table.ts';
import { ScsiEvents, type ScsiEventsRecord } from './scsi-events.ts';
import type { ScsiQueue } from './scsi-queue.ts';

/** A virtio-scsi device has one initiator: its driver. */
const NEXUS = 0;

/** What initiators see of a LUN, as plain data. */
export interface LunIdentity {
  readonly vendor: string;
  readonly productName: string;
  readonly serial: string;
  readonly uuid: string;
  readonly physicalBlockSizeBytes: number;
  readonly isReadonly: boolean;
  readonly isRemovable: boolean;
}

export interface ScsiDeviceOptions {
  readonly channels: Pick<ChannelTable, 'take' | 'release'>;
  readonly bounce: BouncePool;
}

/** A device as it is handed over. */
export interface ScsiDeviceRecord {
  readonly events: ScsiEventsRecord;
  readonly units: readonly { readonly target: number; readonly lun: number; readonly unit: UnitRecord }[];
}

export class ScsiDevice {
  readonly events = new ScsiEvents();
  /** Request queues that run. */
  readonly queues = new Set<ScsiQueue>();
  /** What the driver understands. */
  hasHotplug = false;
  hasChange = false;
  readonly #channels: Pick<ChannelTable, 'take' | 'release'>;
  readonly #bounce: BouncePool;
  readonly #targets: (ScsiTarget | null)[] = Array.from({ length: SCSI_TARGETS_MAX }, () => null);
  /** By target: the ends of LUNs that go and have commands in flight. */
  readonly #leaving = new Map<number, Set<Promise<void>>>();
  /** By target and LUN. */
  readonly #lunChannels = new Map<string, BdevChannel>();

  constructor(options: ScsiDeviceOptions) {
    this.#channels = options.channels;
    this.#bounce = options.bounce;
  }

  /** Null when there is no such target. `NO_LUN` is none. */
  target(number: number): ScsiTarget | null {
    return number === NO_LUN ? null : (this.#targets[number] as ScsiTarget | null);
  }

  /** A front-end connected: what an older one was to be told is void, and its task set and reservations are lost. */
  newSession(): void {
    this.events.clear();
    this.hasHotplug = false;
    this.hasChange = false;
    for (const target of this.#targets) target?.resetNexus(NEXUS);
  }

  addLun(number: number, lun: number, bdev: BdevDescription, identity: LunIdentity): void {
    const channel = this.#channels.take(bdev);
    const target = this.#targets[number] ?? new ScsiTarget();
    const { ioTypes, unmapReadsZeroes } = bdev;
    const isReadonly = identity.isReadonly || !ioTypes.includes(IoType.write);
    target.addLun(lun, { ...identity, channel, bounce: this.#bounce, ioTypes, isReadonly, unmapReadsZeroes });
    this.#targets[number] = target;
    this.#lunChannels.set(keyOf(number, lun), channel);
    this.#tellTransport(number, lun, ScsiResetReason.RESCAN);
  }

  /**
   * Refuses new commands at once, and tells the driver; resolves when none is in flight and the channel is given back.
   * Commands that take too long are aborted: each ends when its bdev is done with the current I/O, not before, because
   * until then the bdev may use the buffers of the guest.
   */
  async removeLun(number: number, lun: number): Promise<void> {
    const target = this.#targets[number];
    const channel = this.#lunChannels.get(keyOf(number, lun));
    if (target === null || target === undefined || channel === undefined) return;
    this.#lunChannels.delete(keyOf(number, lun));
    const { promise: gone, resolve } = Promise.withResolvers<void>();
    const abort = target.removeLun(lun, resolve);
    const timer = setTimeout(abort, REMOVAL_DRAIN_MS_MAX);
    const leaving = this.#leaving.get(number) ?? new Set();
    this.#leaving.set(number, leaving.add(gone));
    if (target.lunNumbers.length === 0) this.#targets[number] = null;
    this.#tellTransport(number, lun, ScsiResetReason.REMOVED);
    await gone;
    clearTimeout(timer);
    leaving.delete(gone);
    this.#channels.release(channel);
  }

  lunChanged(number: number, lun: number): void {
    this.#targets[number]?.capacityChanged(lun);
    if (!this.hasChange) return;
    this.events.add({ type: ScsiEventType.PARAM_CHANGE, target: number, lun, reason: SCSI_CAPACITY_CHANGED });
  }

  /** As of `TargetDirectory`. */
  withdraw(sharer: Sharer): void {
    for (const channel of this.#lunChannels.values()) channel.withdraw(sharer);
  }

  /** For whoever has the targets next. No queue runs. */
  save(): ScsiDeviceRecord {
    const units = this.#targets.flatMap((target, number) =>
      (target?.lunNumbers ?? []).flatMap((lun) => {
        const unit = target?.lun(lun)?.save();
        return unit === undefined ? [] : [{ target: number, lun, unit }];
      }),
    );
    return { events: this.events.save(), units };
  }

  /** A new device with the same units becomes what another one was. */
  load({ events, units }: ScsiDeviceRecord): void {
    this.events.load(events);
    for (const { target, lun, unit } of units) this.#targets[target]?.lun(lun)?.load(unit);
  }

  /** Task management; `done` gets the response when the affected commands have ended, those of LUNs that go too. */
  manage(number: number, request: Omit<ManagementRequest, 'nexus'>, done: (response: number) => void): void {
    const isQuery = request.function === ScsiTmf.QUERY_TASK || request.function === ScsiTmf.QUERY_TASK_SET;
    const leaving = this.#leaving.get(number);
    if (isQuery || leaving === undefined || leaving.size === 0) this.#manage(number, request, isQuery, done);
    else void Promise.all(leaving).then(() => this.#manage(number, request, isQuery, done));
  }

  #manage(
    number: number,
    request: Omit<ManagementRequest, 'nexus'>,
    isQuery: boolean,
    done: (response: number) => void,
  ): void {
    const target = this.target(number);
    if (target === null) {
      done(ScsiResponse.BAD_TARGET);
      return;
    }
    if (!isQuery) {
      for (const queue of this.queues) queue.dropRetries(number);
    }
    target.manage({ ...request, nexus: NEXUS }, done);
  }

  #tellTransport(target: number, lun: number, reason: number): void {
    if (this.hasHotplug) this.events.add({ type: ScsiEventType.TRANSPORT_RESET, target, lun, reason });
  }
}

function keyOf(target: number, lun: number): string {
  return `${target}/${lun}`;
}
