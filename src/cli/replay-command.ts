/** `ringhost replay`: a recording carried out on a disk, with a report. */
import { readFileSync } from 'node:fs';
import { type ReplayReport, replayOn } from '../app/replay.ts';
import { TargetError } from '../base/errors.ts';
import { formatBytes, formatCount, formatSeconds } from '../observe/format.ts';
import { type RecordedRequest, type Recording, readRecording } from '../observe/recording.ts';
import { parseCount } from './quantities.ts';

/** As typed. */
export interface ReplayOptions {
  readonly speed: string;
  readonly depth: string;
  readonly write?: boolean;
  readonly readsOnly?: boolean;
  readonly json?: boolean;
}

const NANO = 1e9;
const PERCENTS = [50, 99, 99.9] as const;
const DEPTH_MAX = 4096;

/** Resolves with the exit code: 1 also when requests failed. */
export async function runReplayCommand(file: string, socketPath: string, options: ReplayOptions): Promise<number> {
  try {
    const recording = readFrom(file);
    const { requests, isAtFullSpeed, depth } = check(recording, options);
    const leaving = new AbortController();
    process.once('SIGINT', () => leaving.abort());
    const report = await replayOn(requests, { socketPath, isAtFullSpeed, depth, signal: leaving.signal });
    const left = recording.requests.length - requests.length;
    process.stdout.write(options.json === true ? `${JSON.stringify(asJson(report), null, 2)}\n` : textOf(report, left));
    return report.failed > 0 ? 1 : 0;
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
    const { code = 'EIO', message } = error as NodeJS.ErrnoException;
    throw new TargetError(code, `${file}: ${message}`);
  }
}

function check({ requests }: Recording, { speed, depth: depthText, write, readsOnly }: ReplayOptions) {
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
  const chosen = readsOnly === true ? requests.filter((request) => !isChange(request)) : requests;
  return { requests: chosen, isAtFullSpeed: speed === 'max', depth };
}

function isChange({ type }: RecordedRequest): boolean {
  return type !== 'read' && type !== 'flush';
}

function asJson({ requests, failed, seconds, bytes, latencies, lateness }: ReplayReport) {
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
  };
}

function textOf({ requests, failed, seconds, bytes, latencies, lateness }: ReplayReport, left: number): string {
  const times = (histogram: ReplayReport['lateness']): string => {
    const cells = PERCENTS.map((percent) => `p${percent} ${formatSeconds(histogram.percentile(percent) / NANO)}`);
    return [...cells, `max ${formatSeconds(histogram.maxNs / NANO)}`].join('  ');
  };
  const rates = `${formatCount(requests / seconds)} IOPS, ${formatBytes(bytes / seconds)}/s`;
  return [
    `${requests} requests in ${seconds.toFixed(2)} s: ${rates}, ${failed} failed`,
    ...(left > 0 ? [`${left} requests that write were left out`] : []),
    ...[...latencies].map(([type, histogram]) => `${type.padEnd(12)} ${histogram.count} requests  ${times(histogram)}`),
    ...(lateness.count > 0 ? [`later than recorded      ${times(lateness)}`] : []),
    '',
  ].join('\n');
}
