/**
 * A vhost-user-blk controller: one bdev behind one socket, on the main thread. The front-end's session is handled here;
 * its queues run in the reactor the controller was placed on.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { Errno, TargetError } from '../base/errors.ts';
import { LimitedLog, type Logger, withFields } from '../base/log.ts';
import type { BdevEntry, BdevUser } from '../bdev/registry.ts';
import type { ReactorThread } from '../reactor/reactor-thread.ts';
import { closeFd, type FdSet } from '../sys/events.ts';
import { peerCredentials } from '../sys/socket.ts';
import { clockNs } from '../sys/thread.ts';
import type { SessionDevice, VringStart } from '../vhost-user/device.ts';
import { hasBit } from '../vhost-user/messages.ts';
import { Session } from '../vhost-user/session.ts';
import { BLK_CONFIG_WRITEBACK_OFFSET, BLK_ID_BYTES, BlkFeature } from '../virtio/blk.ts';
import { QUEUES_MAX } from '../virtio/features.ts';
import { type BlkDeviceParams, blkConfig, blkFeatures } from './blk-device.ts';
import { ControllerListener } from './controller-listener.ts';
import { QUEUE_COUNTERS } from './queue-counters.ts';
import {
  type SetCallCall,
  type SetWriteThroughCall,
  type StartCall,
  type VringCall,
  VringService,
} from './vring-service.ts';

export interface BlkControllerOptions {
  readonly name: string;
  readonly socketPath: string;
  readonly bdev: BdevEntry;
  readonly isReadonly: boolean;
  readonly serial: string | undefined;
  /** The cores its queues may run on. */
  readonly cores: readonly number[];
  readonly reactor: ReactorThread;
  readonly fdSet: FdSet;
  readonly log: Logger;
}

/** How long a second front-end waits for the first one's connection to end before it is refused. */
const SECOND_FRONT_END_WAIT_MS = 100;
/** Lines about what front-ends get wrong, of each kind. */
const FAULT_LINES_MAX = 20;

let nextSessionId = 1;

export class BlkController implements BdevUser {
  readonly name: string;
  /** CLOCK_MONOTONIC. */
  readonly createdNs = clockNs();
  readonly cores: readonly number[];
  readonly reactor: ReactorThread;
  readonly isReadonly: boolean;
  /** As configured; without one the bdev's name is shown. */
  readonly configuredSerial: string | undefined;
  readonly bdev: BdevEntry;
  /** The bdev was deleted: requests fail, the capacity is 0. */
  isBdevRemoved = false;
  readonly #log: Logger;
  readonly #faults: LimitedLog;
  readonly #fdSet: FdSet;
  readonly #listener: ControllerListener;
  #session: BlkSession | null = null;
  #sessionEnd: Promise<void> = Promise.resolve();
  #isListening = true;
  /** Set once the controller was retired with a session. */
  #onGone: (() => void) | null = null;

  constructor(options: BlkControllerOptions) {
    this.name = options.name;
    this.cores = options.cores;
    this.reactor = options.reactor;
    this.isReadonly = options.isReadonly;
    this.configuredSerial = options.serial;
    this.bdev = options.bdev;
    this.#log = withFields(options.log, { ctrlr: options.name });
    this.#faults = new LimitedLog(this.#log, FAULT_LINES_MAX);
    this.#fdSet = options.fdSet;
    this.#listener = new ControllerListener(options.socketPath, options.fdSet, (fd) => {
      this.#connected(fd).catch((error: Error) => {
        this.#log.error(`a front-end could not be served: ${error.message}`);
        closeFd(fd);
      });
    });
    this.bdev.users.add(this);
    this.reactor.controllerCount++;
  }

  get socketPath(): string {
    return this.#listener.path;
  }

  get serial(): string {
    return (this.configuredSerial ?? this.bdev.name).slice(0, BLK_ID_BYTES);
  }

  get session(): BlkSession | null {
    return this.#session;
  }

  /** Ends the session and removes the socket. */
  async close(): Promise<void> {
    this.stopListening();
    await this.#session?.session.close();
    this.bdev.users.delete(this);
  }

  /**
   * Removes the socket. A connected guest keeps its session, in which every request fails, until it disconnects:
   * closing the connection would leave its driver waiting for ever. Resolves with a promise of the session's end.
   */
  async retire(): Promise<{ readonly gone: Promise<void> }> {
    this.stopListening();
    this.reactor.controllerCount--;
    const session = this.#session;
    if (session === null) {
      this.bdev.users.delete(this);
      return { gone: Promise.resolve() };
    }
    this.isBdevRemoved = true;
    const gone = new Promise<void>((resolve) => (this.#onGone = resolve));
    await this.reactor.call(VringService.detach, session.id);
    session.session.notifyConfigChange();
    return { gone };
  }

  stopListening(): void {
    if (this.#isListening) this.#listener.close();
    this.#isListening = false;
  }

  /** A front-end cut off memory that it shares: its session cannot go on. */
  checkMemory(): void {
    if (this.#session?.session.memory.wasTruncated !== true) return;
    void this.#session.session.close(
      new TargetError('VHOST_MEM_TRUNCATED', 'the front-end truncated the memory that it shares', {
        errno: Errno.EFAULT,
      }),
    );
  }

  async bdevChanged(): Promise<void> {
    await this.reactor.call(VringService.bdevChanged, this.bdev.describe());
    this.#session?.session.notifyConfigChange();
  }

  async bdevRemoved(): Promise<void> {
    this.isBdevRemoved = true;
    await this.reactor.call(VringService.bdevRemoved, this.bdev.id);
    this.#session?.session.notifyConfigChange();
    this.#log.info(`bdev ${this.bdev.name} is gone: requests of the guest fail from now on`);
  }

  /** What the queues and the configuration space are made of. */
  deviceParams(isWriteThrough: boolean): BlkDeviceParams {
    return {
      isReadonly: this.isReadonly,
      hasRanges: !this.isReadonly,
      isWriteThrough,
      serial: this.serial,
    };
  }

  async #connected(fd: number): Promise<void> {
    const { pid, uid } = peerCredentials(fd);
    // A front-end that reconnects may be accepted before the end of its old connection was seen.
    if (this.#session !== null) await Promise.race([this.#sessionEnd, delay(SECOND_FRONT_END_WAIT_MS)]);
    if (this.#session !== null || !this.#isListening) {
      // Two guests that write to one disk without knowing of each other destroy it.
      this.#faults.warn('second-front-end', 'refused a second front-end: one is connected already', { pid });
      closeFd(fd);
      return;
    }
    this.#log.info('front-end connected', { pid, uid });
    this.#openSession(fd, pid);
  }

  #openSession(fd: number, peerPid: number): void {
    const device = new BlkSession(this);
    const { promise, resolve } = Promise.withResolvers<void>();
    device.session = new Session(fd, this.#fdSet, {
      device,
      log: this.#log,
      faults: this.#faults,
      peerPid,
      onEnd: () => {
        this.#session = null;
        if (this.#onGone !== null) this.bdev.users.delete(this);
        this.#onGone?.();
        this.#log.info('front-end disconnected');
        resolve();
      },
    });
    this.#session = device;
    this.#sessionEnd = promise;
  }
}

/** The controller as one front-end sees it. */
export class BlkSession implements SessionDevice {
  readonly id = nextSessionId++;
  readonly queueCount = QUEUES_MAX;
  readonly features: bigint;
  readonly config = { read: () => this.#readConfig(), write: this.#writeConfig.bind(this) };
  session!: Session;
  readonly #controller: BlkController;
  /** One block a queue, made when it first starts. */
  readonly counters = new Map<number, SharedArrayBuffer>();
  #acked = 0n;
  /** What the driver wrote to the configuration space; null before that. */
  #chosenWriteBack: boolean | null = null;

  constructor(controller: BlkController) {
    this.#controller = controller;
    this.features = blkFeatures(controller.isReadonly);
  }

  get isWriteThrough(): boolean {
    const hasFlush = hasBit(this.#acked, BlkFeature.FLUSH);
    const hasWce = hasBit(this.#acked, BlkFeature.CONFIG_WCE);
    return hasWce ? !this.#isWriteBack : !hasFlush;
  }

  /** The writeback field: on at first, but off for a driver that cannot flush (virtio 1.3 §5.2.5.2). */
  get #isWriteBack(): boolean {
    const canSwitch = hasBit(this.#acked, BlkFeature.CONFIG_WCE);
    return this.#chosenWriteBack ?? !(canSwitch && !hasBit(this.#acked, BlkFeature.FLUSH));
  }

  setFeatures(features: bigint): void {
    this.#acked = features;
  }

  async startVring(vring: VringStart): Promise<void> {
    const controller = this.#controller;
    let counters = this.counters.get(vring.index);
    if (counters === undefined) {
      counters = new SharedArrayBuffer(QUEUE_COUNTERS * 8);
      this.counters.set(vring.index, counters);
    }
    const call: StartCall = {
      sessionId: this.id,
      controller: controller.name,
      vring,
      bdev: { ...controller.bdev.describe(), isRemoved: controller.isBdevRemoved },
      device: controller.deviceParams(this.isWriteThrough),
      counters,
    };
    await controller.reactor.call(VringService.start, call);
  }

  async stopVring(index: number): Promise<number> {
    const call: VringCall = { sessionId: this.id, index };
    return (await this.#controller.reactor.call(VringService.stop, call)) as number;
  }

  async setVringCall(index: number, callFd: number): Promise<void> {
    const call: SetCallCall = { sessionId: this.id, index, callFd };
    await this.#controller.reactor.call(VringService.setCall, call);
  }

  reset(): void {
    this.#acked = 0n;
    this.#chosenWriteBack = null;
  }

  ended(): void {}

  #readConfig(): Uint8Array {
    const { bdev, isBdevRemoved } = this.#controller;
    return blkConfig(bdev.bdev, isBdevRemoved, QUEUES_MAX, this.#isWriteBack);
  }

  async #writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    const value = bytes[0];
    if (offset !== BLK_CONFIG_WRITEBACK_OFFSET || bytes.length !== 1 || (value !== 0 && value !== 1)) {
      throw new TargetError(
        'VHOST_CONFIG',
        `only the writeback field may be written, not ${bytes.length} bytes at ${offset}`,
      );
    }
    this.#chosenWriteBack = value === 1;
    const call: SetWriteThroughCall = { sessionId: this.id, isWriteThrough: this.isWriteThrough };
    await this.#controller.reactor.call(VringService.setWriteThrough, call);
  }
}
