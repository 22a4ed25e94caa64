/** `ringhost trace`: requests of a running daemon, one by one, into a file for Perfetto. */
import { TargetError } from '../base/errors.ts';
import { streamRequests } from '../observe/request-stream.ts';
import { TraceEvents } from '../observe/trace-events.ts';
import { REQUEST_TYPES } from '../rpc/methods/trace.ts';
import type { CallParams } from '../rpc/methods.ts';
import { callOf, connectTo, type DaemonAccess } from './daemon-access.ts';
import { OutputFile } from './output-file.ts';
import { parseCount, parseSeconds, parseSize, parseTime } from './quantities.ts';
import { reporting } from './reporting.ts';

/** As typed. */
export interface TraceOptions extends DaemonAccess {
  readonly controller?: readonly string[];
  readonly queue?: string;
  readonly type?: string;
  readonly from?: string;
  readonly to?: string;
  readonly slowerThan?: string;
  readonly seconds: string;
  readonly output: string;
}

/** Resolves with the exit code. */
export function runTraceCommand(options: TraceOptions): Promise<number> {
  return reporting('trace', async () => {
    await trace(options);
    return 0;
  });
}

async function trace(options: TraceOptions): Promise<void> {
  const filter = filterOf(options);
  const seconds = parseSeconds('--seconds', options.seconds);
  const leaving = new AbortController();
  const leave = (): void => leaving.abort();
  using client = await connectTo(options);
  const file = new OutputFile(options.output);
  const events = new TraceEvents();
  let count = 0;
  process.on('SIGINT', leave);
  try {
    const { dropped } = await streamRequests(callOf(client), {
      ...{ filter, seconds, signal: leaving.signal },
      onStarted: () => {
        file.begin();
        file.write(events.begin());
      },
      onRequests: (requests) => {
        count += requests.length;
        file.write(requests.map((request) => events.add(request)).join(''));
      },
    });
    file.write(events.end({ requests: count, dropped }));
    process.stderr.write(`${count} requests in ${options.output}, ${dropped} dropped for want of room\n`);
    if (dropped > 0) process.stderr.write('with a filter (ringhost trace --help) there are fewer\n');
  } finally {
    process.off('SIGINT', leave);
    file.close();
  }
}

function filterOf(options: TraceOptions): CallParams<'trace_start_requests'> {
  const { controller, queue, type, from, to, slowerThan } = options;
  return {
    ...(controller === undefined ? {} : { controllers: [...controller] }),
    ...(queue === undefined ? {} : { queue: parseCount('--queue', queue) }),
    ...(type === undefined ? {} : { types: type.split(',').map(parseType) }),
    ...(from === undefined ? {} : { from_bytes: parseSize('--from', from) }),
    ...(to === undefined ? {} : { to_bytes: parseSize('--to', to) }),
    ...(slowerThan === undefined ? {} : { slower_than_us: parseTime('--slower-than', slowerThan) }),
  };
}

function parseType(text: string): (typeof REQUEST_TYPES)[number] {
  const type = REQUEST_TYPES.find((name) => name === text);
  if (type !== undefined) return type;
  throw new TargetError('EINVAL', `--type ${text}: choose of ${REQUEST_TYPES.join(', ')}`);
}
