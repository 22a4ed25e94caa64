/** The requests of a daemon as they end, for a while. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Call, CallParams } from '../rpc/methods.ts';
import type { Request } from './trace-events.ts';

export interface StreamOptions {
  readonly filter: CallParams<'trace_start_requests'>;
  /** Undefined: until `signal` says so. */
  readonly seconds: number | undefined;
  readonly signal: AbortSignal;
  /** The daemon traces: it refused nothing. What this throws ends it. */
  readonly onStarted?: () => void;
  readonly onRequests: (requests: readonly Request[]) => void;
}

/** As many as a call brings at most, of each reactor. */
const BATCH_MAX = 16_384;
/** A ring of 65536 requests is full after this time at 650 000 a second. */
const PAUSE_MS = 100;

/** Resolves, when the time is over, with how many were dropped. */
export async function streamRequests(call: Call, options: StreamOptions): Promise<{ dropped: number }> {
  const { filter, seconds = Number.POSITIVE_INFINITY, signal, onStarted, onRequests } = options;
  await call('trace_start_requests', filter);
  let dropped = 0;
  /** True when there may be more. */
  const take = async (): Promise<boolean> => {
    const batch = await call('trace_read_requests', { max: BATCH_MAX });
    dropped = batch.dropped;
    onRequests(
      batch.requests.map(
        ([
          queue = 0,
          type = 0,
          startNs = 0,
          durationNs = 0,
          offsetBytes = 0,
          lengthBytes = 0,
          status = 0,
          hash = -1,
        ]) => {
          const [controller, index] = batch.queues[queue] ?? ['', 0];
          return {
            controller,
            queue: index,
            type: batch.types[type] ?? '',
            startNs,
            durationNs,
            offsetBytes,
            lengthBytes,
            status,
            hash: hash < 0 ? null : hash,
          };
        },
      ),
    );
    return batch.requests.length >= BATCH_MAX;
  };
  try {
    onStarted?.();
    const endMs = performance.now() + seconds * 1000;
    while (!signal.aborted && performance.now() < endMs) {
      const isMore = await take();
      const restMs = endMs - performance.now();
      if (!isMore && restMs > 0) await sleep(Math.min(PAUSE_MS, restMs), undefined, { signal }).catch(() => undefined);
    }
  } finally {
    await call('trace_stop_requests', {});
  }
  while (await take());
  return { dropped };
}
