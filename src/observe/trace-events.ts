/**
 * Traced requests as a file that Perfetto (ui.perfetto.dev) and Chrome (chrome://tracing) open: JSON of the Trace Event
 * Format. A controller is a process, a queue as many threads as it had requests at a time: what overlaps would not be
 * shown on one. Times are in microseconds, as the format wants them.
 */

export interface Request {
  readonly controller: string;
  readonly queue: number;
  readonly type: string;
  /** CLOCK_MONOTONIC. */
  readonly startNs: number;
  readonly durationNs: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** 0: it succeeded. */
  readonly status: number;
  /** CRC-32 of what a read brought, where that was asked for. */
  readonly hash: number | null;
}

const NS_PER_US = 1000;
/** Threads of one queue. */
const LANES_MAX = 65_536;

interface Queue {
  readonly pid: number;
  readonly firstTid: number;
  readonly name: string;
  /** By lane: when its last request ended. */
  readonly endNs: number[];
}

export class TraceEvents {
  readonly #pids = new Map<string, number>();
  readonly #queues = new Map<string, Queue>();
  #isFirst = true;

  begin(): string {
    return '{"displayTimeUnit":"ns","traceEvents":[';
  }

  /** Of each queue in the order in which they ended. */
  add(request: Request): string {
    const { controller, type, startNs, durationNs, offsetBytes, lengthBytes, status } = request;
    let text = '';
    let pid = this.#pids.get(controller);
    if (pid === undefined) {
      pid = this.#pids.size + 1;
      this.#pids.set(controller, pid);
      text += this.#event({ ph: 'M', name: 'process_name', pid, tid: 0, args: { name: controller } });
    }
    const queue = this.#queueOf(pid, request);
    // Ended requests come in order: a lane that ended before this one began is free for all of its time.
    let lane = queue.endNs.findIndex((endNs) => endNs <= startNs);
    if (lane < 0) {
      lane = queue.endNs.length;
      const name = lane === 0 ? queue.name : `${queue.name} +${lane}`;
      text += this.#event({ ph: 'M', name: 'thread_name', pid, tid: queue.firstTid + lane, args: { name } });
    }
    queue.endNs[lane] = startNs + durationNs;
    const place = { pid, tid: queue.firstTid + lane, ts: startNs / NS_PER_US, dur: durationNs / NS_PER_US };
    const args = { offset: offsetBytes, bytes: lengthBytes, status };
    return text + this.#event({ ph: 'X', cat: 'request', name: type, ...place, args });
  }

  end(otherData: Readonly<Record<string, string | number>>): string {
    return `],"otherData":${JSON.stringify(otherData)}}\n`;
  }

  #queueOf(pid: number, { controller, queue: index }: Request): Queue {
    const key = `${index} ${controller}`;
    let queue = this.#queues.get(key);
    if (queue === undefined) {
      queue = { pid, firstTid: 1 + this.#queues.size * LANES_MAX, name: `queue ${index}`, endNs: [] };
      this.#queues.set(key, queue);
    }
    return queue;
  }

  #event(event: object): string {
    const text = `${this.#isFirst ? '' : ','}\n${JSON.stringify(event)}`;
    this.#isFirst = false;
    return text;
  }
}
