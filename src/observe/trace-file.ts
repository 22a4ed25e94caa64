/** Single requests for the dashboard: those of a few seconds, as a file for Perfetto. */
import { z } from 'zod';
import { TargetError } from '../base/errors.ts';
import { RpcCallError } from '../rpc/client.ts';
import type { Call } from '../rpc/methods.ts';
import { streamRequests } from './request-stream.ts';
import { TraceEvents } from './trace-events.ts';

/** What a page can show, and a browser keep in memory; about 8 MB. */
const REQUESTS_MAX = 50_000;
const SECONDS_MAX = 60;

export const traceRequest = z.strictObject({
  controllers: z.array(z.string()).min(1).optional(),
  queue: z.int().min(0).optional(),
  slower_than_us: z.int().min(0).default(0),
  seconds: z.number().positive().max(SECONDS_MAX),
});

/** @throws TargetError `EINVAL` when a trace runs already, or there is no such controller */
export async function traceFor(
  call: Call,
  { seconds, controllers, queue, ...filter }: z.output<typeof traceRequest>,
  signal: AbortSignal,
): Promise<string> {
  const events = new TraceEvents();
  const enough = new AbortController();
  const parts = [events.begin()];
  let count = 0;
  const streaming = streamRequests(call, {
    filter: {
      ...filter,
      ...(controllers === undefined ? {} : { controllers }),
      ...(queue === undefined ? {} : { queue }),
      entries: REQUESTS_MAX,
    },
    ...{ seconds, signal: AbortSignal.any([signal, enough.signal]) },
    onRequests: (requests) => {
      const wanted = requests.slice(0, REQUESTS_MAX - count);
      count += wanted.length;
      parts.push(...wanted.map((request) => events.add(request)));
      if (count === REQUESTS_MAX) enough.abort();
    },
  });
  const { dropped } = await streaming.catch((error: Error) => {
    throw error instanceof RpcCallError ? new TargetError('EINVAL', error.message) : error;
  });
  parts.push(events.end({ requests: count, dropped, isCut: count === REQUESTS_MAX ? 1 : 0 }));
  return parts.join('');
}
