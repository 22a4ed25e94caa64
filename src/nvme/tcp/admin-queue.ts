/** The admin queue of a controller over TCP, on the main thread: commands with an answer as a promise. */
import { TargetError } from '../../base/errors.ts';
import { FdSet } from '../../sys/events.ts';
import type { AdminPort } from '../admin.ts';
import { type AdminCommand, encodeCommand } from '../command.ts';
import { AdminOpcode, FeatureId } from '../spec.ts';
import { checkStatus, Status, statusCode } from '../status.ts';
import { Direction, NO_SLOT } from './command-slots.ts';
import {
  CONFIGURATION_ENABLED,
  CONFIGURATION_SHUTDOWN,
  DYNAMIC_CONTROLLER,
  FABRICS_CAPSULE_BYTES,
  Property,
  propertyGet,
  propertySet,
  STATUS_FATAL,
  STATUS_READY,
} from './fabrics.ts';
import { TcpQueue, type TcpQueueOwner } from './tcp-queue.ts';

/** How a host connects to a subsystem, over whatever path. */
export interface FabricHost {
  readonly hostNqn: string;
  /** 32 hexadecimal digits. */
  readonly hostId: string;
  readonly subsystemNqn: string;
  readonly headerDigest: boolean;
  readonly dataDigest: boolean;
  /** 0: no keep-alive. */
  readonly keepAliveMs: number;
}

export interface TcpAddress {
  readonly address: string;
  readonly port: number;
}

/** Commands in flight: of the 32 entries that every controller has. */
const DEPTH = 31;
const ENTRIES = 32;
/** Data of a command at most. */
export const ADMIN_DATA_BYTES = 16_384;
/** An unanswered command, and a connection that is not made, are given up after so long. */
const ANSWER_MS_MAX = 10_000;
/** While CSTS.RDY is awaited. */
const READY_POLL_MS = 10;

type AdminResult = Awaited<ReturnType<AdminPort['execute']>>;

interface Waiter {
  readonly resolve: (result: AdminResult) => void;
  readonly reject: (error: Error) => void;
  readonly readBytes: number;
  readonly timer: NodeJS.Timeout | null;
}

export class AdminQueue implements AdminPort, TcpQueueOwner {
  controllerId = 0;
  /** Entries of a queue that the controller takes. */
  entriesMax = 0;
  /** Resolves with why, once the connection is lost or closed. */
  readonly lost: Promise<string>;
  readonly #address: TcpAddress;
  readonly #queue: TcpQueue;
  readonly #set = new FdSet();
  readonly #waiters = new Map<number, Waiter>();
  readonly #held: (() => void)[] = [];
  #setLost: (reason: string) => void = () => undefined;
  #onReady: () => void = () => undefined;
  #isOpen = true;
  #isPumping = false;
  #keepAlive: NodeJS.Timeout | null = null;

  private constructor(address: TcpAddress, host: FabricHost) {
    this.#address = address;
    this.lost = new Promise((resolve) => {
      this.#setLost = resolve;
    });
    this.#queue = new TcpQueue(
      {
        ...address,
        headerDigest: host.headerDigest,
        dataDigest: host.dataDigest,
        connect: { ...host, queueId: 0, controllerId: DYNAMIC_CONTROLLER, entries: ENTRIES },
        depth: DEPTH,
        capsuleDataBytes: FABRICS_CAPSULE_BYTES,
        arena: null,
        dataBytes: DEPTH * ADMIN_DATA_BYTES,
      },
      this,
    );
    this.#set.add(this.#queue.fd, () => this.#pump(), { writable: true });
  }

  /** Connects, and enables the controller. Throws `ECONNREFUSED`, `ETIMEDOUT` or what the target says. */
  static async open(address: TcpAddress, host: FabricHost): Promise<AdminQueue> {
    const admin = new AdminQueue(address, host);
    try {
      await admin.#connected();
      await admin.#enable();
      if (host.keepAliveMs > 0) admin.#keepAlives(host.keepAliveMs);
    } catch (error) {
      admin.close();
      throw error;
    }
    return admin;
  }

  /** `hasTimeout`: an answer that takes too long ends the connection. */
  execute(command: AdminCommand, readBytes = 0, hasTimeout = true): Promise<AdminResult> {
    return new Promise((resolve, reject) => {
      const start = (): void => {
        if (!this.#isOpen) reject(this.#error('the connection is closed'));
        else this.#start(command, readBytes, hasTimeout, resolve, reject);
      };
      if (this.#queue.slots.free === 0) this.#held.push(start);
      else start();
    });
  }

  /**
   * Asks for asynchronous events (feature 0Bh's bits), one after another for as long as the connection lives. A
   * controller that has none is left alone.
   */
  hearEvents(wanted: number, onEvent: (type: number, info: number, page: number) => Promise<void>): void {
    const hear = async (): Promise<void> => {
      const configure = { opcode: AdminOpcode.setFeatures, cdw10: FeatureId.asyncEventConfiguration, cdw11: wanted };
      let { status } = await this.execute(configure);
      while (statusCode(status) === Status.success) {
        const event = await this.execute({ opcode: AdminOpcode.asyncEventRequest }, 0, false);
        ({ status } = event);
        const { dword0 } = event;
        if (statusCode(status) === Status.success) {
          await onEvent(dword0 & 7, (dword0 >>> 8) & 0xff, (dword0 >>> 16) & 0xff);
        }
      }
    };
    hear().catch(() => undefined);
  }

  /** Tells the controller that we go, as far as it listens, and closes. */
  async shutDown(): Promise<void> {
    if (!this.#isOpen) return;
    const said = this.execute(propertySet(Property.configuration, CONFIGURATION_SHUTDOWN)).catch(() => null);
    await Promise.race([said, new Promise((resolve) => setTimeout(resolve, 500))]);
    this.close();
  }

  close(reason = 'closed'): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    if (this.#keepAlive !== null) clearInterval(this.#keepAlive);
    this.#set.remove(this.#queue.fd);
    this.#set.close();
    this.#queue.close();
    for (const { reject, timer } of this.#waiters.values()) {
      if (timer !== null) clearTimeout(timer);
      reject(this.#error(reason));
    }
    this.#waiters.clear();
    for (const start of this.#held.splice(0)) start();
    this.#setLost(reason);
  }

  queueReady(dword0: number): void {
    this.controllerId = dword0 & 0xffff;
    this.#onReady();
  }

  commandDone(slot: number, status: number, dword0: number): void {
    const waiter = this.#waiters.get(slot);
    if (waiter === undefined) return;
    this.#waiters.delete(slot);
    if (waiter.timer !== null) clearTimeout(waiter.timer);
    const at = slot * ADMIN_DATA_BYTES;
    waiter.resolve({ status, dword0, data: Buffer.from(this.#queue.data.slice(at, at + waiter.readBytes)) });
    this.#held.shift()?.();
  }

  async #connected(): Promise<void> {
    const ready = new Promise<void>((resolve) => {
      this.#onReady = resolve;
    });
    const { address, port } = this.#address;
    const timer = setTimeout(() => this.close(`no answer within ${ANSWER_MS_MAX / 1000} s`), ANSWER_MS_MAX);
    this.#pump();
    const reason = await Promise.race([ready, this.lost]);
    clearTimeout(timer);
    if (typeof reason !== 'string') return;
    const code = /refused/i.test(reason) ? 'ECONNREFUSED' : /no answer|timed out/i.test(reason) ? 'ETIMEDOUT' : 'EIO';
    throw new TargetError(code, `cannot connect to ${address} port ${port}: ${reason}`);
  }

  async #enable(): Promise<void> {
    const capabilities = await this.execute(propertyGet(Property.capabilities));
    checkStatus(capabilities.status, 'the controller does not say what it can do');
    this.entriesMax = (capabilities.dword0 & 0xffff) + 1;
    const enabled = await this.execute(propertySet(Property.configuration, CONFIGURATION_ENABLED));
    checkStatus(enabled.status, 'the controller cannot be enabled');
    const deadline = Date.now() + Math.max((capabilities.dword0 >>> 24) * 500, ANSWER_MS_MAX);
    for (;;) {
      const { status, dword0 } = await this.execute(propertyGet(Property.status));
      checkStatus(status, 'the controller does not say whether it is ready');
      if ((dword0 & STATUS_FATAL) !== 0) throw this.#error('the controller reports a fatal error');
      if ((dword0 & STATUS_READY) !== 0) return;
      if (Date.now() > deadline) throw this.#error('the controller does not get ready');
      await new Promise((resolve) => setTimeout(resolve, READY_POLL_MS));
    }
  }

  /** Twice within the timeout: one that is lost does not end the association. An unanswered one ends it. */
  #keepAlives(keepAliveMs: number): void {
    let isWaiting = false;
    this.#keepAlive = setInterval(() => {
      if (isWaiting) return;
      isWaiting = true;
      const overdue = setTimeout(
        () => this.close(`no answer to a keep-alive within ${keepAliveMs / 1000} s`),
        keepAliveMs,
      );
      this.execute({ opcode: AdminOpcode.keepAlive }, 0, false)
        .then(({ status }) => {
          if (statusCode(status) !== Status.success) this.close('the controller refuses a keep-alive');
        })
        .catch(() => undefined)
        .finally(() => {
          clearTimeout(overdue);
          isWaiting = false;
        });
    }, keepAliveMs / 2);
  }

  #start(
    command: AdminCommand,
    readBytes: number,
    hasTimeout: boolean,
    resolve: Waiter['resolve'],
    reject: Waiter['reject'],
  ): void {
    const queue = this.#queue;
    const slot = queue.take();
    if (slot === NO_SLOT) {
      this.#held.push(() => this.#start(command, readBytes, hasTimeout, resolve, reject));
      return;
    }
    const overdue = (): void => this.close(`no answer within ${ANSWER_MS_MAX / 1000} s`);
    const timer = hasTimeout ? setTimeout(overdue, ANSWER_MS_MAX) : null;
    this.#waiters.set(slot, { resolve, reject, readBytes, timer });
    encodeCommand(command, queue.words, queue.commandWord(slot));
    const direction = readBytes > 0 ? Direction.read : Direction.none;
    queue.submit(slot, direction, 0, 0, queue.dataAt + slot * ADMIN_DATA_BYTES, readBytes);
    this.#pump();
  }

  #pump(): void {
    // What ends during a poll may start what waited: that leaves with the end of the poll.
    if (!this.#isOpen || this.#isPumping) return;
    const queue = this.#queue;
    this.#isPumping = true;
    queue.poll();
    this.#isPumping = false;
    if (queue.state === 'lost') this.close(queue.reason);
    else this.#set.change(queue.fd, { writable: queue.isBlocked || queue.hasUnsent });
  }

  #error(reason: string): TargetError {
    const { address, port } = this.#address;
    return new TargetError('EIO', `${address} port ${port}: ${reason}`);
  }
}
