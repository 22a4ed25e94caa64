/**
 * A virtio-scsi driver over vhost-user: what a virtual machine and its guest do together, as a client for tests and
 * tools.
 *
 *   const host = await ScsiInitiator.connect('/var/tmp/vhost.0', { requestQueues: 2 });
 *   const inquiry = await host.command({ target: 0, cdb: [0x12, 0, 0, 0, 96, 0], inBytes: 96 });
 *   const answer = await host.manage(ScsiTmf.LOGICAL_UNIT_RESET, { target: 0 });
 *   const event = await host.nextEvent();
 *   host.close();
 */
import { assert } from '../base/assert.ts';
import { TargetError } from '../base/errors.ts';
import { maskOf } from '../vhost-user/messages.ts';
import {
  SCSI_AN_BYTES,
  SCSI_AN_RESPONSE_BYTES,
  SCSI_EVENT_BYTES,
  SCSI_TMF_RESPONSE_BYTES,
  ScsiAnOffset,
  ScsiFeature,
  ScsiQueueIndex,
} from '../virtio/scsi.ts';
import type { DriverQueue } from './driver-queue.ts';
import { FrontendSession, type SessionOptions } from './frontend-session.ts';
import type { OwnedMemory } from './owned-memory.ts';
import { RequestBuffers } from './request-buffers.ts';
import {
  createScsiBuffers,
  decodeEvent,
  decodeResult,
  encodeTmf,
  lunField,
  type ScsiAddress,
  type ScsiCommand,
  type ScsiEvent,
  type ScsiResult,
  senseText,
} from './scsi-request.ts';
import type { VhostUserFrontend } from './vhost-user-frontend.ts';

export interface ScsiInitiatorOptions extends Omit<SessionOptions, 'queues'> {
  /** Default 1. */
  readonly requestQueues?: number;
  /** Buffers kept in the event queue. Default 8; 0 leaves it empty, `offerEventBuffer` adds one. */
  readonly eventBuffers?: number;
}

const SCSI_FEATURES = maskOf(ScsiFeature.HOTPLUG, ScsiFeature.CHANGE);
const DEFAULT_EVENT_BUFFERS = 8;
/** An event may come at any time: a buffer waits as long as timers can. */
const EVENT_TIMEOUT_MS = 2 ** 31 - 1;
const GOOD = 0;
const UNIT_ATTENTION = 6;

export class ScsiInitiator {
  readonly session: FrontendSession;
  /** Events that nobody waited for. */
  readonly events: ScsiEvent[] = [];
  #waiting: ((event: ScsiEvent) => void)[] = [];
  #nextTag = 1n;

  private constructor(session: FrontendSession) {
    this.session = session;
  }

  /** Connects and sets everything up. Throws when the back-end refuses any of it. */
  static async connect(path: string, options: ScsiInitiatorOptions = {}): Promise<ScsiInitiator> {
    const { requestQueues = 1, eventBuffers = DEFAULT_EVENT_BUFFERS } = options;
    const session = new FrontendSession(path, { ...options, queues: ScsiQueueIndex.requestFirst + requestQueues });
    try {
      await session.connect();
      const initiator = new ScsiInitiator(session);
      await initiator.start();
      for (let i = 0; i < eventBuffers; i++) initiator.offerEventBuffer(true);
      return initiator;
    } catch (error) {
      session.close();
      throw error;
    }
  }

  get frontend(): VhostUserFrontend {
    return this.session.frontend;
  }

  get memory(): OwnedMemory {
    return this.session.memory;
  }

  get queues(): readonly DriverQueue[] {
    return this.session.queues;
  }

  /** A request queue, from 0. */
  queue(index: number): DriverQueue {
    const queue = this.queues[ScsiQueueIndex.requestFirst + index];
    assert(queue !== undefined, `request queue ${index} exists`);
    return queue;
  }

  /** Sends a command of any shape and waits until the device gives it back, however it ended. */
  async command(command: ScsiCommand): Promise<ScsiResult> {
    const buffers = createScsiBuffers(this.memory, command, command.tag ?? this.#nextTag++);
    const answer = await buffers.exchange(this.queue(command.queue ?? 0), this.session.timeoutMs);
    return decodeResult(answer, answer.writable);
  }

  /** The data of a command that must succeed. A unit attention is taken note of, and the command sent again. */
  async good(command: ScsiCommand): Promise<Uint8Array> {
    for (;;) {
      const { response, status, sense, data } = await this.command(command);
      if (response === 0 && status === GOOD) return data;
      const text = senseText(sense);
      if (response === 0 && text.startsWith(`${UNIT_ATTENTION}/`)) continue;
      const opcode = (command.cdb[0] ?? 0).toString(16).padStart(2, '0');
      throw new TargetError('SCSI_STATUS', `command ${opcode}: response ${response}, status ${status}, sense ${text}`);
    }
  }

  /** A task management function; returns the response. */
  async manage(subtype: number, address: ScsiAddress, tag = 0n): Promise<number> {
    const answer = await this.control(encodeTmf(subtype, address, tag), SCSI_TMF_RESPONSE_BYTES);
    return answer[0] as number;
  }

  /** An asynchronous notification query or subscription. */
  async notification(
    type: number,
    address: ScsiAddress,
    events: number,
  ): Promise<{ actual: number; response: number }> {
    const bytes = new Uint8Array(SCSI_AN_BYTES);
    const view = new DataView(bytes.buffer);
    view.setUint32(ScsiAnOffset.type, type, true);
    bytes.set(lunField(address), ScsiAnOffset.lun);
    view.setUint32(ScsiAnOffset.event, events, true);
    const answer = await this.control(bytes, SCSI_AN_RESPONSE_BYTES);
    const answerView = new DataView(answer.buffer, answer.byteOffset);
    return { actual: answerView.getUint32(0, true), response: answerView.getUint8(SCSI_AN_RESPONSE_BYTES - 1) };
  }

  /** Sends any request on the control queue; returns the writable part. */
  async control(request: Uint8Array, responseBytes: number): Promise<Uint8Array> {
    const buffers = new RequestBuffers(this.memory, request, responseBytes, {}, [[request.length], [responseBytes]]);
    const queue = this.queues[ScsiQueueIndex.control] as DriverQueue;
    return (await buffers.exchange(queue, this.session.timeoutMs)).writable;
  }

  /** Gives the device a buffer for one event; `isKept`: and another one after each. */
  offerEventBuffer(isKept = false, sizeBytes = SCSI_EVENT_BYTES): void {
    const buffers = new RequestBuffers(this.memory, new Uint8Array(0), sizeBytes, {}, [[], [sizeBytes]]);
    const queue = this.queues[ScsiQueueIndex.event] as DriverQueue;
    buffers.exchange(queue, EVENT_TIMEOUT_MS).then(
      ({ usedLen, writable }) => {
        if (usedLen >= SCSI_EVENT_BYTES) this.#received(decodeEvent(writable));
        if (isKept && !this.frontend.isClosed) this.offerEventBuffer(true, sizeBytes);
      },
      () => undefined, // the connection is over: nobody waits for more events
    );
  }

  /** The oldest event that was not taken yet. */
  nextEvent(): Promise<ScsiEvent> {
    const event = this.events.shift();
    if (event !== undefined) return Promise.resolve(event);
    return new Promise((resolve, reject) => {
      const { timeoutMs } = this.session;
      const onEvent = (arrived: ScsiEvent): void => {
        clearTimeout(timer);
        resolve(arrived);
      };
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((other) => other !== onEvent);
        reject(new TargetError('ETIMEDOUT', `no event came within ${timeoutMs} ms`));
      }, timeoutMs);
      this.#waiting.push(onEvent);
    });
  }

  /** Stops every ring; returns their bases. `start` goes on from there. */
  stop(): Promise<number[]> {
    return this.session.stop();
  }

  async start(): Promise<void> {
    await this.session.start(SCSI_FEATURES);
  }

  /** Connects again with the same memory and rings, waiting for the back-end to be there. */
  async reconnect(): Promise<void> {
    await this.session.reconnect();
    await this.start();
  }

  /** Frees everything; memory only if it was not the caller's. */
  close(): void {
    this.session.close();
  }

  #received(event: ScsiEvent): void {
    const waiter = this.#waiting.shift();
    if (waiter === undefined) this.events.push(event);
    else waiter(event);
  }
}
