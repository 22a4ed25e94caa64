/**
 * The reactor's side of the vhost room: starts and stops queues, whatever their device, as the main thread asks through
 * the mailbox, and carries bdev changes to the open channels.
 *
 * Guest memory is one map per session and set of regions, shared by the session's queues here; a channel is one per
 * bdev, shared by everything here that uses it. Both are counted and closed with their last user.
 */

import { TargetError } from '../base/errors.ts';
import { LimitedLog, type Logger, withFields } from '../base/log.ts';
import type { BdevDescription } from '../bdev/bdev.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { MailboxHandler } from '../reactor/mailbox.ts';
import type { Reactor, ReactorMode } from '../reactor/reactor.ts';
import { IovArena } from '../sys/iov-arena.ts';
import { NO_FD, type VringStart } from '../vhost-user/device.ts';
import { createRing } from '../virtio/create-ring.ts';
import type { Ring } from '../virtio/ring.ts';
import type { BlkDeviceParams } from './blk-device.ts';
import { BlkQueue } from './blk-queue.ts';
import { BlockService } from './block-service.ts';
import type { CoalescingSettings } from './call-coalescing.ts';
import { ChannelTable } from './channel-table.ts';
import { countersOf, latenciesOf } from './queue-counters.ts';
import type { OpenQueue, QueueOptions } from './request-queue.ts';
import { type ScsiQueueParams, ScsiService } from './scsi-service.ts';
import { type TraceableQueue, TraceService } from './trace-service.ts';

/** The device behind a queue, as plain data. */
export type QueueDevice =
  | {
      readonly kind: 'blk';
      readonly bdev: BdevDescription;
      /** Every request fails, whatever others may do with the bdev. */
      readonly isDetached: boolean;
      readonly params: BlkDeviceParams;
    }
  | ({ readonly kind: 'scsi' } & ScsiQueueParams);

/** Payloads of the calls below; all plain data. */
export interface StartCall {
  /** Unique for the life of the daemon. */
  readonly sessionId: number;
  /** For the log. */
  readonly controller: string;
  readonly vring: VringStart;
  readonly device: QueueDevice;
  readonly counters: SharedArrayBuffer;
  readonly settings: QueueSettings;
  /** Of the controller, where it shares limits. */
  readonly sharerNumber: number;
  /** The ring is another daemon's until `release`: nothing is taken from it, and nothing written. */
  readonly isHeld: boolean;
}
interface VringCall {
  readonly sessionId: number;
  readonly index: number;
}
export interface StopCall extends VringCall {
  /** Undefined: no limit. */
  readonly withinMs: number | undefined;
  /** As of `RequestQueue.stop`. */
  readonly leaves: boolean;
}
export interface SetCallCall extends VringCall {
  readonly callFd: number;
}
/** How a queue runs; may change while it does. */
export interface QueueSettings {
  readonly mode: ReactorMode;
  readonly coalescing: CoalescingSettings;
  /** Of the controller, where it shares limits. */
  readonly weight: number;
}
export interface TuneCall {
  readonly sessionId: number;
  readonly settings: QueueSettings;
}
export interface SetWriteThroughCall {
  readonly sessionId: number;
  readonly isWriteThrough: boolean;
}

interface Running extends OpenQueue, TraceableQueue {
  readonly queue: OpenQueue['queue'];
  readonly memory: SharedMemory;
  readonly kickFd: number;
  /** How it will run once it is released; null: it runs. */
  heldMode: ReactorMode | null;
}

class SharedMemory {
  readonly key: string;
  readonly map: GuestMemory;
  users = 0;

  constructor(key: string, map: GuestMemory) {
    this.key = key;
    this.map = map;
  }
}

/** Names of the calls, for both sides. */
export const VringService = {
  start: 'vring.start',
  stop: 'vring.stop',
  release: 'vring.release',
  openEarly: 'bdev.openEarly',
  flushEarly: 'bdev.flushEarly',
  hold: 'bdev.hold',
  letGo: 'bdev.letGo',
  setCall: 'vring.setCall',
  tune: 'vring.tune',
  setWriteThrough: 'vring.setWriteThrough',
  detach: 'vring.detach',
  bdevChanged: 'bdev.changed',
  bdevRemoved: 'bdev.removed',
} as const;

/** What a reactor finds out by itself. */
export interface VringNotices {
  /** The device behind a bdev is gone. */
  readonly onBdevGone?: (bdevId: number) => void;
  /** What a channel of a bdev tells it. */
  readonly onTold?: (bdevId: number, what: unknown) => void;
  /** A driver broke a queue. */
  readonly onQueueBroken?: (queue: VringCall) => void;
}

export function createVringService(
  reactor: Reactor,
  reactorIndex: number,
  log: Logger,
  notices: VringNotices = {},
): Readonly<Record<string, MailboxHandler>> {
  const service = new Service(reactor, reactorIndex, log, notices);
  return {
    [VringService.start]: (call: StartCall) => service.start(call),
    [VringService.stop]: (call: StopCall) => service.stop(call),
    [VringService.release]: () => service.release(),
    [VringService.openEarly]: (bdev: BdevDescription) => service.openEarly(bdev),
    [VringService.flushEarly]: () => service.flushEarly(),
    [VringService.hold]: () => service.hold(),
    [VringService.letGo]: () => service.letGo(),
    [VringService.setCall]: (call: SetCallCall) => service.setCall(call),
    [VringService.tune]: (call: TuneCall) => service.tune(call),
    [VringService.setWriteThrough]: (call: SetWriteThroughCall) => service.setWriteThrough(call),
    [VringService.detach]: (sessionId: number) => service.detach(sessionId),
    [VringService.bdevChanged]: (bdev: BdevDescription) => service.bdevChanged(bdev),
    [VringService.bdevRemoved]: (bdevId: number) => service.bdevRemoved(bdevId),
    ...service.blocks.handlers(),
    ...service.scsi.handlers(),
    ...service.trace.handlers(),
  };
}

class Service {
  readonly scsi: ScsiService;
  readonly blocks: BlockService;
  readonly trace: TraceService;
  readonly #reactor: Reactor;
  readonly #log: Logger;
  readonly #arena = new IovArena();
  readonly #running = new Map<string, Running>();
  readonly #memories = new Map<string, SharedMemory>();
  readonly #channels: ChannelTable;
  readonly #onQueueBroken: (queue: VringCall) => void;

  constructor(reactor: Reactor, reactorIndex: number, log: Logger, notices: VringNotices) {
    const { onBdevGone: onGone, onTold: tell, onQueueBroken = () => {} } = notices;
    this.#reactor = reactor;
    this.#log = log;
    this.#onQueueBroken = onQueueBroken;
    const context = {
      arena: this.#arena,
      ...(onGone === undefined ? {} : { onGone }),
      ...(tell === undefined ? {} : { tell }),
    };
    this.#channels = new ChannelTable(reactor, reactorIndex, context);
    this.blocks = new BlockService(this.#channels, this.#arena);
    this.trace = new TraceService(this.#arena, () => this.#running.values());
    this.scsi = new ScsiService({ reactor, channels: this.#channels, arena: this.#arena });
  }

  start(call: StartCall): void {
    const { vring } = call;
    const key = keyOf(call.sessionId, vring.index);
    if (this.#running.has(key)) throw new TargetError('EBUSY', `queue ${key} is already running`);
    const memory = this.#takeMemory(call);
    const ring = createRing(vring, memory.map);
    let open: OpenQueue | null = null;
    try {
      open = this.#open(call.device, {
        index: vring.index,
        ring,
        memory: memory.map,
        arena: this.#arena,
        callFd: vring.callFd,
        errFd: vring.errFd,
        canSleep: vring.kickFd !== NO_FD,
        counters: countersOf(call.counters),
        latencies: latenciesOf(call.counters),
        sharer: { number: call.sharerNumber, weight: call.settings.weight },
        log: vring.log,
        faults: new LimitedLog(withFields(this.#log, { ctrlr: call.controller })),
        onBroken: () => this.#onQueueBroken({ sessionId: call.sessionId, index: vring.index }),
      });
      this.#watchKick(vring.kickFd, open.queue);
    } catch (error) {
      // The kick may be something else than an eventfd. The memory will be unmapped: nothing may look at it then.
      ring.close();
      this.#releaseMemory(memory);
      open?.close();
      throw error;
    }
    const { controller, device } = call;
    const { mode, coalescing } = call.settings;
    const running: Running = {
      ...{ ...open, memory, kickFd: vring.kickFd, controller, kind: device.kind, size: vring.size },
      heldMode: call.isHeld ? mode : null,
    };
    this.#running.set(key, running);
    this.trace.started(running);
    this.#reportRecovery(call, ring);
    open.queue.setCoalescing(coalescing);
    if (!call.isHeld) this.#reactor.add(open.queue, mode);
  }

  async openEarly(bdev: BdevDescription): Promise<void> {
    await this.#channels.openEarly(bdev);
  }

  async flushEarly(): Promise<void> {
    await this.#channels.flushEarly();
  }

  hold(): void {
    this.#channels.hold();
  }

  async letGo(): Promise<void> {
    await this.#channels.letGo();
  }

  /** The rings that were held are ours now, or again. */
  release(): void {
    this.#channels.unhold();
    for (const running of this.#running.values()) {
      if (running.heldMode === null) continue;
      this.#reactor.add(running.queue, running.heldMode);
      running.heldMode = null;
    }
  }

  #reportRecovery({ controller: ctrlr, vring }: StartCall, { recovery }: Ring): void {
    const { heads, staleReason } = recovery;
    if (heads.length > 0) {
      this.#log.info(`queue ${vring.index}: takes up ${heads.length} requests of the back-end before`, { ctrlr });
    }
    if (staleReason === null) return;
    this.#log.warn(`queue ${vring.index}: the in-flight region is not of this ring, and begun anew: ${staleReason}`, {
      ctrlr,
    });
  }

  #watchKick(kickFd: number, queue: OpenQueue['queue']): void {
    if (kickFd === NO_FD) return;
    // Edge-triggered: every kick is one event, and the descriptor, which is the peer's too, is never read.
    this.#reactor.fdSet.add(
      kickFd,
      () => {
        queue.kicked();
        this.#reactor.wake(queue);
      },
      { edge: true },
    );
  }

  async stop(call: StopCall): Promise<number> {
    const key = keyOf(call.sessionId, call.index);
    const running = this.#running.get(key);
    if (running === undefined) throw new TargetError('ENODEV', `queue ${key} is not running`);
    let base: number;
    try {
      base = await running.queue.stop(call.withinMs, call.leaves);
    } catch (error) {
      // Chains may have come that it did not look at.
      this.#reactor.wake(running.queue);
      throw error;
    }
    if (running.kickFd !== NO_FD) this.#reactor.fdSet.remove(running.kickFd);
    this.#reactor.remove(running.queue);
    this.#running.delete(key);
    this.#releaseMemory(running.memory);
    running.close();
    return base;
  }

  setCall(call: SetCallCall): void {
    const running = this.#running.get(keyOf(call.sessionId, call.index));
    if (running !== undefined) running.queue.callFd = call.callFd;
  }

  tune({ sessionId, settings }: TuneCall): void {
    for (const { queue } of this.#ofSession(sessionId)) {
      queue.setCoalescing(settings.coalescing);
      if (queue.sharer !== null) queue.sharer.weight = settings.weight;
      this.#reactor.setMode(queue, settings.mode);
    }
  }

  setWriteThrough(call: SetWriteThroughCall): void {
    for (const running of this.#ofSession(call.sessionId)) running.setWriteThrough?.(call.isWriteThrough);
  }

  /** The session's requests fail from now on. */
  detach(sessionId: number): void {
    for (const { queue } of this.#ofSession(sessionId)) queue.isDetached = true;
  }

  bdevChanged(bdev: BdevDescription): void {
    this.#channels.find(bdev.id)?.update(bdev);
  }

  async bdevRemoved(bdevId: number): Promise<void> {
    await this.#channels.find(bdevId)?.remove();
  }

  #open(device: QueueDevice, options: QueueOptions): OpenQueue {
    return device.kind === 'blk' ? this.#openBlk(device, options) : this.scsi.openQueue(device, options);
  }

  #openBlk({ bdev, isDetached, params }: QueueDevice & { kind: 'blk' }, options: QueueOptions): OpenQueue {
    const channel = this.#channels.take(bdev);
    const device: { -readonly [K in keyof BlkDeviceParams]: BlkDeviceParams[K] } = { ...params };
    const queue = new BlkQueue({ ...options, channel, device });
    queue.isDetached = isDetached;
    return {
      queue,
      setWriteThrough: (isWriteThrough) => {
        device.isWriteThrough = isWriteThrough;
      },
      close: () => this.#channels.release(channel),
    };
  }

  #ofSession(sessionId: number): Running[] {
    return [...this.#running].filter(([key]) => key.startsWith(`${sessionId}/`)).map(([, running]) => running);
  }

  /** Queues of a session share a map as long as they are started with the same regions. */
  #takeMemory(call: StartCall): SharedMemory {
    const { regions } = call.vring;
    const key = `${call.sessionId}/${regions.map((region) => `${region.hostAddress}:${region.sizeBytes}`).join()}`;
    let memory = this.#memories.get(key);
    if (memory === undefined) {
      memory = new SharedMemory(key, new GuestMemory(regions));
      this.#memories.set(key, memory);
    }
    memory.users++;
    return memory;
  }

  #releaseMemory(memory: SharedMemory): void {
    if (--memory.users > 0) return;
    this.#memories.delete(memory.key);
    memory.map.close();
  }
}

function keyOf(sessionId: number, index: number): string {
  return `${sessionId}/${index}`;
}
