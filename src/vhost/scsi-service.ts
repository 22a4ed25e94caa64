/**
 * The SCSI devices of one reactor: makes them, gives them LUNs and takes those away, as the main thread asks through
 * the mailbox, and opens their queues.
 */
import { TargetError } from '../base/errors.ts';
import type { BdevDescription } from '../bdev/bdev.ts';
import type { MailboxHandler } from '../reactor/mailbox.ts';
import type { Reactor } from '../reactor/reactor.ts';
import { BouncePool } from '../scsi/bounce-pool.ts';
import type { IovArena } from '../sys/iov-arena.ts';
import { ScsiQueueIndex } from '../virtio/scsi.ts';
import type { ChannelTable } from './channel-table.ts';
import type { OpenQueue, QueueOptions } from './request-queue.ts';
import { ScsiControlQueue } from './scsi-control-queue.ts';
import { type LunIdentity, ScsiDevice, type ScsiDeviceRecord } from './scsi-device.ts';
import { ScsiEventQueue } from './scsi-event-queue.ts';
import { ScsiQueue } from './scsi-queue.ts';

/** What a queue of a scsi controller is started with. */
export interface ScsiQueueParams {
  readonly controllerId: number;
  /** The driver understands targets that come and go, and changed capacities. */
  readonly hasHotplug: boolean;
  readonly hasChange: boolean;
}

/** Payloads of the calls below; all plain data. */
export interface LunCall {
  readonly controllerId: number;
  readonly target: number;
  readonly lun: number;
}
export interface LoadDeviceCall {
  readonly controllerId: number;
  readonly record: ScsiDeviceRecord;
}
export interface AddLunCall extends LunCall {
  readonly bdev: BdevDescription;
  readonly identity: LunIdentity;
}

/** Names of the calls, for both sides. */
export const ScsiCall = {
  open: 'scsi.open',
  close: 'scsi.close',
  newSession: 'scsi.newSession',
  addLun: 'scsi.addLun',
  removeLun: 'scsi.removeLun',
  lunChanged: 'scsi.lunChanged',
  save: 'scsi.save',
  load: 'scsi.load',
} as const;

export interface ScsiServiceOptions {
  readonly reactor: Reactor;
  readonly channels: ChannelTable;
  readonly arena: IovArena;
}

export class ScsiService {
  readonly #options: ScsiServiceOptions;
  readonly #devices = new Map<number, ScsiDevice>();
  /** Made for the first device. */
  #bounce: BouncePool | null = null;

  constructor(options: ScsiServiceOptions) {
    this.#options = options;
  }

  handlers(): Readonly<Record<string, MailboxHandler>> {
    return {
      [ScsiCall.open]: (controllerId: number) => this.#open(controllerId),
      [ScsiCall.close]: (controllerId: number) => this.#close(controllerId),
      [ScsiCall.newSession]: (controllerId: number) => this.#device(controllerId).newSession(),
      [ScsiCall.addLun]: ({ controllerId, target, lun, bdev, identity }: AddLunCall) =>
        this.#device(controllerId).addLun(target, lun, bdev, identity),
      [ScsiCall.removeLun]: ({ controllerId, target, lun }: LunCall) =>
        this.#device(controllerId).removeLun(target, lun),
      [ScsiCall.lunChanged]: ({ controllerId, target, lun }: LunCall) =>
        this.#device(controllerId).lunChanged(target, lun),
      [ScsiCall.save]: (controllerId: number) => this.#device(controllerId).save(),
      [ScsiCall.load]: ({ controllerId, record }: LoadDeviceCall) => this.#device(controllerId).load(record),
    };
  }

  openQueue(params: ScsiQueueParams, options: QueueOptions): OpenQueue {
    const device = this.#device(params.controllerId);
    device.hasHotplug = params.hasHotplug;
    device.hasChange = params.hasChange;
    if (options.index >= ScsiQueueIndex.requestFirst) {
      const queue = new ScsiQueue({ ...options, device });
      device.queues.add(queue);
      return { queue, close: () => device.queues.delete(queue) };
    }
    if (options.index === ScsiQueueIndex.control) {
      return { queue: new ScsiControlQueue({ ...options, device }), close: () => {} };
    }
    const { events } = device;
    const queue = new ScsiEventQueue({ ...options, events });
    events.onPending = () => this.#options.reactor.wake(queue);
    return {
      queue,
      close: () => {
        events.onPending = () => {};
      },
    };
  }

  #open(controllerId: number): void {
    const { channels, arena } = this.#options;
    this.#bounce ??= new BouncePool(arena);
    this.#devices.set(controllerId, new ScsiDevice({ channels, bounce: this.#bounce }));
  }

  /** Its LUNs were removed, and its queues are stopped. */
  #close(controllerId: number): void {
    this.#device(controllerId);
    this.#devices.delete(controllerId);
  }

  #device(controllerId: number): ScsiDevice {
    const device = this.#devices.get(controllerId);
    if (device === undefined) throw new TargetError('ENODEV', `there is no scsi controller ${controllerId} here`);
    return device;
  }
}
