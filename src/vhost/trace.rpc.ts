/** The RPC methods that trace requests. */
import { TargetError } from '../base/errors.ts';
import type { Handlers, Params } from '../rpc/methods.ts';
import { type RequestFilter, TRACED_TYPES } from './queue-trace.ts';
import type { VhostRegistry } from './registry.ts';
import type { RequestTracer } from './request-tracer.ts';

type TraceHandlers = Pick<Handlers, 'trace_start_requests' | 'trace_read_requests' | 'trace_stop_requests'>;

const NS_PER_US = 1000;

export function traceRpc(tracer: RequestTracer, registry: VhostRegistry): TraceHandlers {
  return {
    async trace_start_requests({ controllers, queue, entries, ...params }) {
      for (const name of controllers ?? []) registry.get(name);
      await tracer.start({
        controllers: controllers ?? null,
        queue: queue ?? null,
        filter: filterOf(params),
        entries,
      });
      return true;
    },

    async trace_read_requests({ max }) {
      const { requests, queues, dropped } = await tracer.read(max);
      return {
        types: [...TRACED_TYPES],
        queues: queues.map(([controller, queue]): [string, number] => [controller, queue]),
        requests: requests.map(({ queue, type, startNs, endNs, offsetBytes, lengthBytes, status, hash }) => {
          return [queue, type, startNs, endNs - startNs, offsetBytes, lengthBytes, status, hash];
        }),
        dropped,
      };
    },

    async trace_stop_requests() {
      await tracer.stop();
      return true;
    },
  };
}

function filterOf(
  params: Pick<Params<'trace_start_requests'>, 'types' | 'from_bytes' | 'to_bytes' | 'slower_than_us' | 'hash_reads'>,
): RequestFilter {
  const { types = [...TRACED_TYPES], from_bytes: fromBytes, to_bytes: toBytes = Number.POSITIVE_INFINITY } = params;
  if (fromBytes >= toBytes)
    throw new TargetError('EINVAL', `from_bytes ${fromBytes} must be below to_bytes ${toBytes}`);
  return {
    types: TRACED_TYPES.reduce((bits, type, bit) => (types.includes(type) ? bits | (1 << bit) : bits), 0),
    fromBytes,
    toBytes,
    slowestNs: params.slower_than_us * NS_PER_US,
    hashesReads: params.hash_reads,
  };
}
