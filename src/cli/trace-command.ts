/** `ringhost trace`: requests of a running daemon, one by one, into a file for Perfetto. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { TargetError } from '../base/errors.ts';
import { fileProblem } from '../base/file-problem.ts';
import { streamRequests } from '../observe/request-stream.ts';
import { TraceEvents } from '../observe/trace-events.ts';
import { REQUEST_TYPES } from '../rpc/methods/trace.ts';
import type { CallParams } from '../rpc/methods.ts';
import { callOf, connectTo, type DaemonAccess } from './daemon-access.ts';
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
  const file = openOutput(options.output);
  const events = new TraceEvents();
  let count = 0;
  process.on('SIGINT', leave);
  try {
    writeSync(file, events.begin());
    const { dropped } = await streamRequests(callOf(client), {
      ...{ filter, seconds, signal: leaving.signal },
      onRequests: (requests) => {
        count += requests.length;
        writeSync(file, requests.map((request) => events.add(request)).join(''));
      },
    });
    writeSync(file, events.end({ requests: count, dropped }));
    process.stderr.write(`${count} requests in ${options.output}, ${dropped} dropped for want of room\n`);
    if (dropped > 0) process.stderr.write('with a filter (ringhost trace --help) there are fewer\n');
  } finally {
    process.off('SIGINT', leave);
    closeSync(file);
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

/** @throws TargetError when it cannot be written */
export function openOutput(path: string): number {
  try {
    return openSync(path, 'w');
  } catch (error) {
    const { code = 'EIO' } = error as NodeJS.ErrnoException;
    throw new TargetError(code, `-o: ${fileProblem(path, error)}`);
  }
}
