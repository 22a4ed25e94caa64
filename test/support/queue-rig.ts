/** Queues of a scsi controller over rings in this process: a driver's view of them, without threads or sockets. */
import { LimitedLog, SILENT } from '../../src/base/log.ts';
import type { Segment } from '../../src/initiator/driver-ring.ts';
import { concatenate } from '../../src/initiator/request-buffers.ts';
import { IovArena } from '../../src/sys/iov-arena.ts';
import { QUEUE_COUNTERS } from '../../src/vhost/queue-counters.ts';
import type { QueueOptions, RequestQueue } from '../../src/vhost/request-queue.ts';
import { RIG_GUEST_ADDRESS, type RingRigOptions } from './ring-rig.ts';
import { RingRig } from './split-ring-rig.ts';

/** Where buffers lie: past the ring. */
const BUFFERS = RIG_GUEST_ADDRESS + (1 << 20);
const BUFFER_STRIDE = 64 << 10;
export const UNTOUCHED = 0xa5;

export interface Answer {
  readonly usedLen: number;
  readonly writable: Uint8Array;
}

interface Sent {
  readonly segments: readonly Segment[];
}

/** One queue with its driver. `parts` are lengths of the descriptors. */
export class QueueRig<Q extends RequestQueue> {
  readonly ring: RingRig;
  readonly arena: IovArena;
  readonly queue: Q;
  readonly counters = new Float64Array(QUEUE_COUNTERS);
  readonly warnings: string[] = [];
  readonly #sent = new Map<number, Sent>();
  #nextBuffer = BUFFERS;

  constructor(make: (options: QueueOptions) => Q, options: RingRigOptions & { arena?: IovArena } = {}) {
    this.ring = new RingRig({ size: 16, ...options });
    this.arena = options.arena ?? new IovArena(64, 2);
    const log = { ...SILENT, warn: (message: string) => this.warnings.push(message) };
    this.queue = make({
      index: 2,
      ring: this.ring.device,
      memory: this.ring.guest,
      arena: this.arena,
      callFd: -1,
      errFd: -1,
      log: null,
      canSleep: true,
      counters: this.counters,
      faults: new LimitedLog(log),
    });
  }

  /** Shows a chain to the device; returns its head. Zero lengths are descriptors too. */
  send(readable: Uint8Array, readableCuts: readonly number[], writableCuts: readonly number[]): number {
    const segments: Segment[] = [];
    let at = 0;
    for (const lengthBytes of readableCuts) {
      const gpa = this.#place();
      this.ring.memory.write(gpa, readable.subarray(at, at + lengthBytes));
      segments.push({ gpa, lengthBytes, isWritable: false });
      at += lengthBytes;
    }
    for (const lengthBytes of writableCuts) {
      const gpa = this.#place();
      this.ring.memory.write(gpa, new Uint8Array(lengthBytes).fill(UNTOUCHED));
      segments.push({ gpa, lengthBytes, isWritable: true });
    }
    return this.sendSegments(segments);
  }

  sendSegments(segments: readonly Segment[]): number {
    const head = this.ring.submit(segments);
    this.#sent.set(head, { segments });
    return head;
  }

  /** One round of the reactor. */
  poll(): void {
    this.queue.take();
    this.queue.publish();
  }

  /** The next chain that came back, or null. */
  receive(): (Answer & { head: number }) | null {
    const head = this.ring.driver.popUsed();
    if (head < 0) return null;
    const { segments } = this.#sent.get(head) as Sent;
    this.#sent.delete(head);
    this.ring.driver.freeChain(head);
    const parts = segments.filter(({ isWritable }) => isWritable);
    const writable = concatenate(...parts.map(({ gpa, lengthBytes }) => this.ring.memory.read(gpa, lengthBytes)));
    return { head, usedLen: this.ring.driver.usedLen, writable };
  }

  close(): void {
    this.ring.close();
    this.arena.close();
  }

  #place(): number {
    const gpa = this.#nextBuffer;
    this.#nextBuffer += BUFFER_STRIDE;
    if (this.#nextBuffer >= RIG_GUEST_ADDRESS + (3 << 20)) this.#nextBuffer = BUFFERS;
    return gpa;
  }
}

/** Cuts `total` at the given places, in any order. */
export function cutAt(total: number, places: readonly number[]): number[] {
  const sorted = [0, ...places.map((place) => place % (total + 1)).toSorted((a, b) => a - b), total];
  return sorted.slice(1).map((place, i) => place - (sorted[i] as number));
}
