/**
 * The queues of a virtio-scsi controller that the main thread drives over one connection: the control queue, which is
 * there because it must be, the event queue, and a request queue for the commands of the scan.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { TargetError } from '../../../base/errors.ts';
import { DriverQueue } from '../../../initiator/driver-queue.ts';
import { OwnedMemory, type RegionDescription } from '../../../initiator/owned-memory.ts';
import { RequestBuffers } from '../../../initiator/request-buffers.ts';
import {
  createScsiBuffers,
  decodeEvent,
  decodeResult,
  type ScsiEvent,
  senseOf,
} from '../../../initiator/scsi-request.ts';
import type { VhostUserFrontend } from '../../../initiator/vhost-user-frontend.ts';
import { FdSet } from '../../../sys/events.ts';
import { SCSI_EVENT_BYTES, ScsiQueueIndex, ScsiResponse } from '../../../virtio/scsi.ts';
import { ScsiStatus, SenseCode, SenseKey } from './scsi-commands.ts';
import type { UnitAddress } from './scsi-scan.ts';

const MEMORY_BYTES = 2 << 20;
/** Far from the queues of the reactors. */
const GUEST_ADDRESS = 2 ** 40;
const RING_SIZE = 16;
const EVENT_BUFFERS = 8;
/** An event may come at any time: a buffer waits as long as timers can. */
const EVENT_TIMEOUT_MS = 2 ** 31 - 1;
/** Times that a unit may ask for a command again, and the pause when it is busy. */
const RETRIES_MAX = 30;
const BUSY_MS = 20;

export class ScsiManagement {
  /** Sealed: the target has a descriptor of it, and must not cut it. */
  readonly #memory = new OwnedMemory([{ guestAddress: GUEST_ADDRESS, sizeBytes: MEMORY_BYTES, isSealed: true }]);
  readonly #fds = new FdSet();
  readonly #queues: readonly DriverQueue[];
  readonly #timeoutMs: number;
  readonly #onEvent: (event: ScsiEvent) => void;
  #isOpen = true;
  #nextTag = 1n;
  /** Whether there is a queue for commands. */
  canAsk = true;

  constructor(timeoutMs: number, onEvent: (event: ScsiEvent) => void) {
    this.#timeoutMs = timeoutMs;
    this.#onEvent = onEvent;
    const { control, event, requestFirst } = ScsiQueueIndex;
    const ring = { size: RING_SIZE, isPacked: false, isPolled: false, fds: this.#fds };
    this.#queues = [control, event, requestFirst].map((index) => new DriverQueue(this.#memory, { ...ring, index }));
  }

  get regions(): readonly RegionDescription[] {
    return this.#memory.regions;
  }

  /** The target knows the memory: the queues run from here on. */
  async start(frontend: VhostUserFrontend): Promise<void> {
    for (const { index, ring, callFd, kickFd } of this.#queues) {
      await frontend.setVringNum(index, ring.size);
      await frontend.setVringBase(index, 0);
      await frontend.setVringAddr(index, {
        descriptor: this.#memory.userAddressOf(ring.descriptorAddress),
        used: this.#memory.userAddressOf(ring.usedAddress),
        available: this.#memory.userAddressOf(ring.availableAddress),
      });
      await frontend.setVringCall(index, callFd);
      await frontend.setVringKick(index, kickFd);
      await frontend.setVringEnable(index, true);
    }
    for (let i = 0; i < EVENT_BUFFERS; i++) this.#offerEventBuffer();
  }

  /** Gives the queue for commands back, for a reactor. */
  async giveQueue(frontend: VhostUserFrontend): Promise<void> {
    this.canAsk = false;
    await frontend.setVringEnable(ScsiQueueIndex.requestFirst, false);
    await frontend.getVringBase(ScsiQueueIndex.requestFirst);
  }

  /**
   * Sends a command until it is answered: with data, or `null` for a unit that is not there, or that does not know the
   * command or one of its fields. Throws `EIO` for all else, `ETIMEDOUT` without an answer.
   */
  async ask(address: UnitAddress, cdb: readonly number[], inBytes: number): Promise<Uint8Array | null> {
    for (let tries = 0; tries < RETRIES_MAX; tries++) {
      const { response, status, residual, sense, data } = await this.#command(address, cdb, inBytes);
      if (response === ScsiResponse.BAD_TARGET || response === ScsiResponse.INCORRECT_LUN) return null;
      const isBusy = response === ScsiResponse.BUSY || status === ScsiStatus.busy || status === ScsiStatus.taskSetFull;
      if (response === ScsiResponse.OK && status === ScsiStatus.good) {
        return data.subarray(0, Math.max(0, inBytes - residual));
      }
      const { key, code } = senseOf(sense);
      const isSense = response === ScsiResponse.OK && status === ScsiStatus.checkCondition;
      if (isSense && key === SenseKey.illegalRequest) return null;
      const isTransient = key === SenseKey.unitAttention || key === SenseKey.abortedCommand;
      const isWorthIt = isBusy || (isSense && (isTransient || code === SenseCode.becomingReady));
      if (!isWorthIt && !(isSense && key === SenseKey.notReady)) {
        const opcode = (cdb[0] ?? 0).toString(16);
        throw new TargetError('EIO', `command ${opcode}h: response ${response}, status ${status}, sense key ${key}`);
      }
      if (isSense && key === SenseKey.notReady && code !== SenseCode.becomingReady) return null;
      if (isBusy || code === SenseCode.becomingReady) await sleep(BUSY_MS);
    }
    throw new TargetError('EIO', `target ${address.target} LUN ${address.lun} is busy for too long`);
  }

  /** Nobody waits for anything any more. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    for (const queue of this.#queues) queue.close();
    this.#fds.close();
    this.#memory.close();
  }

  async #command(
    address: UnitAddress,
    cdb: readonly number[],
    inBytes: number,
  ): Promise<ReturnType<typeof decodeResult>> {
    const buffers = createScsiBuffers(this.#memory, { ...address, cdb, inBytes }, this.#nextTag++);
    const answer = await buffers.exchange(this.#queues[ScsiQueueIndex.requestFirst] as DriverQueue, this.#timeoutMs);
    return decodeResult(answer, answer.writable);
  }

  #offerEventBuffer(): void {
    const buffers = new RequestBuffers(this.#memory, new Uint8Array(0), SCSI_EVENT_BYTES, {}, [[], [SCSI_EVENT_BYTES]]);
    buffers.exchange(this.#queues[ScsiQueueIndex.event] as DriverQueue, EVENT_TIMEOUT_MS).then(
      ({ usedLen, writable }) => {
        if (!this.#isOpen) return;
        if (usedLen >= SCSI_EVENT_BYTES) this.#onEvent(decodeEvent(writable));
        this.#offerEventBuffer();
      },
      () => undefined, // closed, or the target wrote where it must not: this buffer is not offered again
    );
  }
}
