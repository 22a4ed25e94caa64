/** `ringhost replay`: a recording carried out on a disk, with a report. */
import { readFileSync } from 'node:fs';
import { type ReplayReport, type ReplayRequest, replayOn } from '../app/replay.ts';
import { TargetError } from '../base/errors.ts';
import { fileProblem } from '../base/file-problem.ts';
import { comparableReads } from '../observe/comparable-reads.ts';
import { formatBytes, formatCount, formatSeconds } from '../observe/format.ts';
import { type RecordedRequest, type Recording, readRecording } from '../observe/recording.ts';
import { parseCount } from './quantities.ts';

/** As typed. */
export interface ReplayOptions {
  readonly speed: string;
  readonly depth: string;
  readonly write?: boolean;
  readonly readsOnly?: boolean;
  readonly verify?: boolean;
  readonly json?: boolean;
}

const NANO = 1e9;
const PERCENTS = [50, 99, 99.9] as const;
const DEPTH_MAX = 4096;
const DIFFERENT_SHOWN_MAX = 10;

/** Resolves with the exit code: 1 also when requests failed, or brought something else. */
export async function runReplayCommand(file: string, socketPath: string, options: ReplayOptions): Promise<number> {
  try {
    const recording = readFrom(file);
    const { requests, isAtFullSpeed, depth } = check(recording, options);
    const leaving = new AbortController();
    process.once('SIGINT', () => leaving.abort());
    const report = await replayOn(requests, { socketPath, isAtFullSpeed, depth, signal: leaving.signal });
    const text =
      options.json === true ? `${JSON.stringify(asJson(report), null, 2)}\n` : textOf(report, recording, options);
    process.stdout.write(text);
    return report.failed > 0 || report.differentReads.length > 0 ? 1 : 0;
  } catch (error) {
    if (!(error instanceof TargetError)) throw error;
    process.stderr.write(`ringhost replay: ${error.message}\n`);
    return 1;
  }
}

function readFrom(file: string): Recording {
  try {
    return readRecording(readFileSync(file));
  } catch (error) {
    if (error instanceof TargetError) throw new TargetError(error.code, `${file}: ${error.message}`);
    const { code = 'EIO' } = error as NodeJS.ErrnoException;
    throw new TargetError(code, `${fileProblem(file, error)}: ringhost record makes recordings`);
  }
}

function check(
  { head, requests }: Recording,
  { speed, depth: depthText, write, readsOnly, verify }: ReplayOptions,
): {
  requests: ReplayRequest[];
  isAtFullSpeed: boolean;
  depth: number;
} {
  if (speed !== 'original' && speed !== 'max')
    throw new TargetError('EINVAL', `--speed ${speed}: choose original or max`);
  const depth = parseCount('--depth', depthText);
  if (depth < 1 || depth > DEPTH_MAX) throw new TargetError('EINVAL', `--depth ${depth}: give 1 to ${DEPTH_MAX}`);
  const changes = requests.filter(isChange).length;
  if (changes > 0 && write !== true && readsOnly !== true) {
    throw new TargetError(
      'EINVAL',
      `${changes} requests of the recording write: --write carries them out and destroys what is on the disk, ` +
        '--reads-only leaves them out',
    );
  }
  if (verify === true && !head.hasHashes) {
    throw new TargetError(
      'EINVAL',
      '--verify: the recording does not know what reads brought: ringhost record --hash does',
    );
  }
  if (verify === true && readsOnly !== true) {
    throw new TargetError(
      'EINVAL',
      '--verify: give --reads-only, too: what a replay writes is not what the guest wrote',
    );
  }
  const chosen = readsOnly === true ? requests.filter((request) => !isChange(request)) : requests;
  const comparable = verify === true ? comparableReads(requests) : null;
  return {
    requests: chosen.map((one) => ({ ...one, expectedHash: comparable?.has(one) === true ? one.hash : null })),
    isAtFullSpeed: speed === 'max',
    depth,
  };
}

function isChange({ type }: RecordedRequest): boolean {
  return type !== 'read' && type !== 'flush';
}

function asJson({ requests, failed, seconds, bytes, latencies, lateness, equalReads, differentReads }: ReplayReport) {
  const summary = (histogram: ReplayReport['lateness']) => ({
    count: histogram.count,
    mean_ns: Math.round(histogram.meanNs),
    ...Object.fromEntries(
      PERCENTS.map((percent) => [`p${percent}_ns`.replace('.', ''), histogram.percentile(percent)]),
    ),
    max_ns: histogram.maxNs,
  });
  return {
    ...{ requests, failed, seconds, bytes, iops: requests / seconds },
    latencies: Object.fromEntries([...latencies].map(([type, histogram]) => [type, summary(histogram)])),
    lateness: lateness.count > 0 ? summary(lateness) : null,
    equal_reads: equalReads,
    different_reads: differentReads.map(({ offsetBytes, lengthBytes }) => ({
      offset: offsetBytes,
      bytes: lengthBytes,
    })),
  };
}

function textOf(report: ReplayReport, recording: Recording, { verify }: ReplayOptions): string {
  const { requests, failed, seconds, bytes, latencies, lateness } = report;
  const left = recording.requests.length - requests;
  const times = (histogram: ReplayReport['lateness']): string => {
    const cells = PERCENTS.map((percent) => `p${percent} ${formatSeconds(histogram.percentile(percent) / NANO)}`);
    return [...cells, `max ${formatSeconds(histogram.maxNs / NANO)}`].join('  ');
  };
  const rates = `${formatCount(requests / seconds)} IOPS, ${formatBytes(bytes / seconds)}/s`;
  return [
    `${requests} requests in ${seconds.toFixed(2)} s: ${rates}, ${failed} failed`,
    ...(left > 0 ? [`${left} requests that write were left out`] : []),
    ...(verify === true ? verdict(report, recording) : []),
    ...[...latencies].map(([type, histogram]) => `${type.padEnd(12)} ${histogram.count} requests  ${times(histogram)}`),
    ...(lateness.count > 0 ? [`later than recorded      ${times(lateness)}`] : []),
    '',
  ].join('\n');
}

/** What was read is what the guest read, or is not. */
function verdict({ latencies, equalReads, differentReads }: ReplayReport, { dropped }: Recording): string[] {
  const compared = equalReads + differentReads.length;
  const others = (latencies.get('read')?.count ?? 0) - compared;
  const shown = differentReads.slice(0, DIFFERENT_SHOWN_MAX).map(({ offsetBytes, lengthBytes }) => {
    return `  different: ${lengthBytes} bytes from ${offsetBytes} on`;
  });
  return [
    `${compared} reads compared: ${equalReads} equal, ${differentReads.length} different`,
    ...shown,
    ...(others > 0 ? [`${others} reads not compared: of places that the guest changed meanwhile`] : []),
    ...(dropped > 0 ? [`${dropped} requests were not recorded: what they wrote may be what differs`] : []),
  ];
}
