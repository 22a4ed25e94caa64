/**
 * A vhost-user-scsi controller in its reactor: up to 256 SCSI targets, shared by the controller's queues, and what its
 * driver has to be told. It lives as long as the controller; sessions come and go.
 */
import { TargetError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { BdevDescription } from '../bdev/bdev.ts';
import type { BdevChannel } from '../bdev/channel.ts';
import type { BouncePool } from '../scsi/bounce-pool.ts';
import type { ScsiTarget } from '../scsi/target.ts';
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
import { ScsiEvents } from './scsi-events.ts';
import type { ScsiQueue } from './scsi-queue.ts';

/**
 * How long the commands in flight on a LUN that goes have to end. Guests give a command 30 s before they abort it; an
 * operator waits for less.
 */
export const REMOVAL_MS_MAX = 10_000;
/** A virtio-scsi device has one initiator: its driver. */
const NEXUS = 0;

/** What initiators see of a LUN, as plain data. */
export interface LunIdentity {
  readonly vendor: string;
  readonly model: string;
  readonly serial: string;
  readonly uuid: string;
  readonly physicalBlockSizeBytes: number;
}

export interface ScsiDeviceOptions {
  readonly channels: ChannelTable;
  readonly bounce: BouncePool;
  readonly log: Logger;
}

export class ScsiDevice {
  readonly events = new ScsiEvents();
  /** Request queues that run. */
  readonly queues = new Set<ScsiQueue>();
  /** What the driver understands. */
  hasHotplug = false;
  hasChange = false;
  readonly #channels: ChannelTable;
  readonly #bounce: BouncePool;
  readonly #log: Logger;
  readonly #targets = new Array<ScsiTarget | null>(SCSI_TARGETS_MAX).fill(null);
  /** By target and LUN. */
  readonly #lunChannels = new Map<string, BdevChannel>();

  constructor(options: ScsiDeviceOptions) {
    this.#channels = options.channels;
    this.#bounce = options.bounce;
    this.#log = options.log;
  }

  /** Null when there is no such target. `NO_LUN` is none. */
  target(number: number): ScsiTarget | null {
    return number === NO_LUN ? null : (this.#targets[number] as ScsiTarget | null);
  }
}
