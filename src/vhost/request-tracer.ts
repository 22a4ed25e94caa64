/**
 * The trace of requests on the main thread: one at a time, over all reactors, each of which writes into a ring that is
 * read here. A trace that nobody reads ends by itself, so that a client that dies leaves nothing behind.
 */
import { TargetError } from '../base/errors.ts';
import type { RequestFilter } from './queue-trace.ts';
import { createTraceRing, type TracedRequest, TraceReader } from './trace-ring.ts';
import { type TraceCall, type TraceQueues, TraceServiceCall } from './trace-service.ts';

/** What it needs of a reactor. */
interface TracedReactor {
  call(name: string, payload: unknown): Promise<unknown>;
}

export interface TraceOptions {
  /** Null: all. */
  readonly controllers: readonly string[] | null;
  readonly queue: number | null;
  readonly filter: RequestFilter;
  /** Requests that each reactor keeps until they are read. */
  readonly entries: number;
}

export interface TraceBatch {
  /** `queue` is a number in `queues`. */
  readonly requests: readonly TracedRequest[];
  readonly queues: TraceQueues;
  /** Since the trace began. */
  readonly dropped: number;
}

/** After so long without a reader a trace ends. */
const UNREAD_MS_MAX = 30_000;

interface ReactorRing {
  readonly reactor: TracedReactor;
  readonly reader: TraceReader;
  /** By the reactor's number of a queue: the number here. */
  readonly numbers: number[];
}

export class RequestTracer {
  readonly #reactors: readonly TracedReactor[];
  readonly #unreadMsMax: number;
  #rings: readonly ReactorRing[] | null = null;
  #queues: (readonly [string, number])[] = [];
  #isRunning = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(reactors: readonly TracedReactor[], unreadMsMax = UNREAD_MS_MAX) {
    this.#reactors = reactors;
    this.#unreadMsMax = unreadMsMax;
  }

  /** Throws `EBUSY` while there is one. */
  async start({ controllers, queue, filter, entries }: TraceOptions): Promise<void> {
    if (this.#isRunning) {
      throw new TargetError('EBUSY', 'requests are being traced already: trace_stop_requests ends that');
    }
    this.#isRunning = true;
    this.#queues = [];
    const capacity = 2 ** Math.ceil(Math.log2(entries));
    this.#rings = await Promise.all(
      this.#reactors.map(async (reactor): Promise<ReactorRing> => {
        const ring = createTraceRing(capacity);
        const call: TraceCall = { controllers, queue, filter, ring };
        await reactor.call(TraceServiceCall.start, call);
        return { reactor, reader: new TraceReader(ring), numbers: [] };
      }),
    );
    this.#wait();
  }

  /** What was traced since the last call, at most `max` requests of each reactor. Throws `ENOENT` without a trace. */
  async read(max: number): Promise<TraceBatch> {
    if (this.#rings === null) throw new TargetError('ENOENT', 'nothing is traced: trace_start_requests begins');
    if (this.#isRunning) this.#wait();
    const batches = await Promise.all(this.#rings.map((ring) => this.#readRing(ring, max)));
    return {
      requests: batches.flat(),
      queues: this.#queues,
      dropped: this.#rings.reduce((sum, { reader }) => sum + reader.dropped, 0),
    };
  }

  /** What was traced up to now can still be read. */
  async stop(): Promise<void> {
    clearTimeout(this.#timer);
    if (!this.#isRunning) return;
    // The names of the queues go with it.
    if (this.#rings !== null) await Promise.all(this.#rings.map((ring) => this.#learnQueues(ring)));
    await Promise.all(this.#reactors.map((reactor) => reactor.call(TraceServiceCall.stop, null)));
    this.#isRunning = false;
  }

  #wait(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      // A reactor that has ended by itself has ended the daemon, too.
      this.stop().then(
        () => (this.#rings = null),
        () => undefined,
      );
    }, this.#unreadMsMax);
    this.#timer.unref();
  }

  async #readRing(ring: ReactorRing, max: number): Promise<TracedRequest[]> {
    const requests = ring.reader.read(max);
    if (requests.some(({ queue }) => ring.numbers[queue] === undefined)) await this.#learnQueues(ring);
    return requests.map((request) => ({ ...request, queue: ring.numbers[request.queue] ?? 0 }));
  }

  /** The queues of a reactor, of which there may be new ones. */
  async #learnQueues({ reactor, numbers }: ReactorRing): Promise<void> {
    const queues = (await reactor.call(TraceServiceCall.queues, null)) as TraceQueues;
    for (const [controller, queue] of queues.slice(numbers.length)) {
      const known = this.#queues.findIndex((other) => other[0] === controller && other[1] === queue);
      numbers.push(known >= 0 ? known : this.#queues.push([controller, queue]) - 1);
    }
  }
}
