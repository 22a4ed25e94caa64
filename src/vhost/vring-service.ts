/**
 * The reactor's side of the vhost room: starts and stops queues, opens and closes bdev channels, as the main thread
 * asks through the mailbox.
 *
 * Guest memory is one map per session and set of regions, shared by the session's queues here; a channel is one per
 * bdev, shared by all queues here that use it. Both are counted and closed with their last user.
 */

import { TargetError } from '../base/errors.ts';
import { LimitedLog, type Logger, withFields } from '../base/log.ts';
import type { BdevDescription } from '../bdev/bdev.ts';
import { BdevChannel } from '../bdev/channel.ts';
import { CHANNEL_FACTORIES } from '../bdev/modules/channels.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { MailboxHandler } from '../reactor/mailbox.ts';
import type { Reactor } from '../reactor/reactor.ts';
import { FdSet } from '../sys/events.ts';
import { IovArena } from '../sys/iov-arena.ts';
import { NO_FD, type VringStart } from '../vhost-user/device.ts';
import { SplitRing } from '../virtio/split-ring.ts';
import type { BlkDeviceParams } from './blk-device.ts';
import { BlkQueue } from './blk-queue.ts';

/** Payloads of the calls below; all plain data. */
export interface StartCall {
  /** Unique for the life of the daemon. */
  readonly sessionId: number;
  /** For the log. */
  readonly controller: string;
  readonly vring: VringStart;
  readonly bdev: BdevDescription;
  readonly device: BlkDeviceParams;
  readonly counters: SharedArrayBuffer;
}
export interface VringCall {
  readonly sessionId: number;
  readonly index: number;
}
export interface SetCallCall extends VringCall {
  readonly callFd: number;
}
export interface SetWriteThroughCall {
  readonly sessionId: number;
  readonly isWriteThrough: boolean;
}

interface Channel {
  readonly channel: BdevChannel;
  users: number;
}

interface Running {
  readonly queue: BlkQueue;
  readonly memory: SharedMemory;
  readonly channel: Channel;
  readonly kickFd: number;
  readonly device: { -readonly [K in keyof BlkDeviceParams]: BlkDeviceParams[K] };
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
  setCall: 'vring.setCall',
  setWriteThrough: 'vring.setWriteThrough',
  detach: 'vring.detach',
  bdevChanged: 'bdev.changed',
  bdevRemoved: 'bdev.removed',
} as const;

export function createVringService(
  reactor: Reactor,
  reactorIndex: number,
  log: Logger,
): Readonly<Record<string, MailboxHandler>> {
  const service = new Service(reactor, reactorIndex, log);
  return {
    [VringService.start]: (call: StartCall) => service.start(call),
    [VringService.stop]: (call: VringCall) => service.stop(call),
    [VringService.setCall]: (call: SetCallCall) => service.setCall(call),
    [VringService.setWriteThrough]: (call: SetWriteThroughCall) => service.setWriteThrough(call),
    [VringService.detach]: (sessionId: number) => service.detach(sessionId),
    [VringService.bdevChanged]: (bdev: BdevDescription) => service.bdevChanged(bdev),
    [VringService.bdevRemoved]: (bdevId: number) => service.bdevRemoved(bdevId),
  };
}

class Service {
  readonly #reactor: Reactor;
  readonly #reactorIndex: number;
  readonly #log: Logger;
  readonly #arena = new IovArena();
  readonly #kicks = new FdSet();
  readonly #running = new Map<string, Running>();
  readonly #memories = new Map<string, SharedMemory>();
  readonly #channels = new Map<number, Channel>();

  constructor(reactor: Reactor, reactorIndex: number, log: Logger) {
    this.#reactor = reactor;
    this.#reactorIndex = reactorIndex;
    this.#log = log;
  }

  start(call: StartCall): void {
    const { vring } = call;
    const key = keyOf(call.sessionId, vring.index);
    if (this.#running.has(key)) throw new TargetError('EBUSY', `queue ${key} is already running`);
    const channel = this.#takeChannel(call.bdev);
    const memory = this.#takeMemory(call);
    const device = { ...call.device };
    const ring = new SplitRing(vring, memory.map);
    const queue = new BlkQueue({
      index: vring.index,
      ring,
      memory: memory.map,
      arena: this.#arena,
      channel: channel.channel,
      device,
      callFd: vring.callFd,
      errFd: vring.errFd,
      canSleep: vring.kickFd !== NO_FD,
      counters: new Float64Array(call.counters),
      faults: new LimitedLog(withFields(this.#log, { ctrlr: call.controller })),
    });
    try {
      this.#watchKick(vring.kickFd, queue);
    } catch (error) {
      // The front-end sent something else than an eventfd. Its memory will be unmapped: nothing may look at it then.
      ring.close();
      this.#releaseMemory(memory);
      this.#releaseChannel(channel);
      throw error;
    }
    this.#running.set(key, { queue, memory, channel, kickFd: vring.kickFd, device });
    this.#reactor.add(queue);
  }

  #watchKick(kickFd: number, queue: BlkQueue): void {
    if (kickFd === NO_FD) return;
    // Edge-triggered: every kick is one event, and the descriptor, which is the peer's too, is never read.
    this.#kicks.add(
      kickFd,
      () => {
        queue.kicked();
        this.#reactor.wake(queue);
      },
      { edge: true },
    );
  }

  async stop(call: VringCall): Promise<number> {
    const key = keyOf(call.sessionId, call.index);
    const running = this.#running.get(key);
    if (running === undefined) throw new TargetError('ENODEV', `queue ${key} is not running`);
    if (running.kickFd !== NO_FD) this.#kicks.remove(running.kickFd);
    const nextAvail = await running.queue.stop();
    this.#reactor.remove(running.queue);
    this.#running.delete(key);
    this.#releaseMemory(running.memory);
    this.#releaseChannel(running.channel);
    return nextAvail;
  }

  setCall(call: SetCallCall): void {
    const running = this.#running.get(keyOf(call.sessionId, call.index));
    if (running !== undefined) running.queue.callFd = call.callFd;
  }

  setWriteThrough(call: SetWriteThroughCall): void {
    for (const { device } of this.#ofSession(call.sessionId)) device.isWriteThrough = call.isWriteThrough;
  }

  /** The session's requests fail from now on. */
  detach(sessionId: number): void {
    for (const { queue } of this.#ofSession(sessionId)) queue.isDetached = true;
  }

  bdevChanged(bdev: BdevDescription): void {
    this.#channels.get(bdev.id)?.channel.update(bdev);
  }

  async bdevRemoved(bdevId: number): Promise<void> {
    await this.#channels.get(bdevId)?.channel.remove();
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

  #takeChannel(bdev: BdevDescription): Channel {
    let channel = this.#channels.get(bdev.id);
    if (channel === undefined) {
      const factory = CHANNEL_FACTORIES[bdev.kind];
      if (factory === undefined) throw new TargetError('ENOSYS', `a reactor cannot open a bdev of kind "${bdev.kind}"`);
      channel = { channel: new BdevChannel(bdev, factory, { arena: this.#arena }, this.#reactorIndex), users: 0 };
      this.#channels.set(bdev.id, channel);
      this.#reactor.addDrive(channel.channel);
    }
    channel.users++;
    return channel;
  }

  #releaseMemory(memory: SharedMemory): void {
    if (--memory.users > 0) return;
    this.#memories.delete(memory.key);
    memory.map.close();
  }

  #releaseChannel(channel: Channel): void {
    if (--channel.users > 0) return;
    this.#reactor.removeDrive(channel.channel);
    this.#channels.delete(channel.channel.id);
    channel.channel.close();
  }
}

function keyOf(sessionId: number, index: number): string {
  return `${sessionId}/${index}`;
}
