/** Tracing in one reactor: which of its queues are traced, those that start meanwhile included. */
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { MailboxHandler } from '../reactor/mailbox.ts';
import type { IovArena } from '../sys/iov-arena.ts';
import { ScsiQueueIndex } from '../virtio/scsi.ts';
import { ChainData } from './chain-data.ts';
import { QueueTrace, type RequestFilter } from './queue-trace.ts';
import type { RequestQueue } from './request-queue.ts';
import { TraceWriter } from './trace-ring.ts';

/** Payload of `trace.start`; plain data. */
export interface TraceCall {
  /** Null: all. */
  readonly controllers: readonly string[] | null;
  readonly queue: number | null;
  readonly filter: RequestFilter;
  readonly ring: SharedArrayBuffer;
}

/** Names of the calls, for both sides. */
export const TraceServiceCall = { start: 'trace.start', stop: 'trace.stop', queues: 'trace.queues' } as const;

/** A queue that runs here. */
export interface TraceableQueue {
  readonly queue: RequestQueue;
  readonly controller: string;
  readonly kind: 'blk' | 'scsi';
  /** Entries of its ring. */
  readonly size: number;
  readonly memory: { readonly map: GuestMemory };
}

/** What the numbers of queues in the ring stand for, by number. */
export type TraceQueues = readonly (readonly [controller: string, queue: number])[];

export class TraceService {
  readonly #arena: IovArena;
  readonly #running: () => Iterable<TraceableQueue>;
  #call: TraceCall | null = null;
  #writer: TraceWriter | null = null;
  #queues: (readonly [string, number])[] = [];

  constructor(arena: IovArena, running: () => Iterable<TraceableQueue>) {
    this.#arena = arena;
    this.#running = running;
  }

  handlers(): Readonly<Record<string, MailboxHandler>> {
    return {
      [TraceServiceCall.start]: (call: TraceCall) => this.#start(call),
      [TraceServiceCall.stop]: () => this.#stop(),
      [TraceServiceCall.queues]: (): TraceQueues => this.#queues,
    };
  }

  /** A queue starts. */
  started(running: TraceableQueue): void {
    const { queue, controller, kind, size, memory } = running;
    if (this.#call === null || this.#writer === null) return;
    const { controllers, queue: wanted, filter } = this.#call;
    if (controllers !== null && !controllers.includes(controller)) return;
    if (wanted !== null && wanted !== queue.index) return;
    if (kind === 'scsi' && queue.index < ScsiQueueIndex.requestFirst) return;
    const number = this.#queues.push([controller, queue.index]) - 1;
    const data = new ChainData(memory.map, this.#arena);
    queue.trace = new QueueTrace({
      ...{ kind, queue: number, size, memory: memory.map, data, filter },
      writer: this.#writer,
    });
  }

  #start(call: TraceCall): void {
    this.#stop();
    this.#call = call;
    this.#writer = new TraceWriter(call.ring);
    for (const running of this.#running()) this.started(running);
  }

  #stop(): void {
    for (const { queue } of this.#running()) queue.trace = null;
    this.#call = null;
    this.#writer = null;
    this.#queues = [];
  }
}
